"""The worker's core: leases in, batches to slots, answers out, and everything that can go wrong between."""

from __future__ import annotations

import hashlib
from array import array

import pytest

from starcore.errors import Code, OverrunError, Status, UnexpectedError
from starcore.events import ChunkReceived, Close, Dial, Finished, Log, Lost, Opened, Received, Writable
from starcore.messages import (
    BLOB_STREAM,
    PROTOCOL_VERSION,
    Abort,
    Blob,
    Draining,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Result,
    Retracted,
    Started,
    Want,
    Welcome,
)
from starcore.pace import CHUNK_BYTES_AMONG
from starcore.postmortem import Facts, split_facts
from starcore.worker.orders import (
    Allocate,
    Allocated,
    Drain,
    Inspect,
    KillSlot,
    Recall,
    Refused,
    Release,
    ReleaseAnswer,
    RunBatch,
    Shaken,
    SlotDied,
    SlotReady,
    SlotStopped,
    StartSlot,
    Stop,
    Swollen,
    Teach,
    Unteach,
)

from .desk import MANAGER, Desk

MIB = 1 << 20


# -- the plain way -------------------------------------------------------------------------------------------


def test_a_task_goes_to_a_slot_and_its_answer_to_the_manager() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    batch = desk.batch()
    assert (batch.slot, list(batch.run.leases), bytes(batch.run.heads)) == (0, [10], b"abc")
    desk.done(batch, seconds=0.25)
    result = desk.result([10])
    assert (list(result.seconds), bytes(result.heads), len(result.body_sizes)) == ([0.25], b"ok", 0)
    desk.confirm(10)
    desk.quiet()


def test_answers_of_slots_that_work_travel_together_and_the_last_one_waits_for_nothing() -> None:
    desk = Desk(slots=2)
    job = desk.job()
    desk.assign(job, lease=10)
    desk.assign(job, lease=11)
    first, second = desk.batch(), desk.batch()
    desk.done(first)
    desk.quiet()
    desk.done(second)
    result = desk.said(Result)  # no turn has ended
    assert list(result.leases) == [10, 11]
    desk.quiet()
    assert desk.core.deadline() != desk.now


def test_an_answer_that_has_work_behind_it_waits_for_the_end_of_the_turn() -> None:
    desk = Desk(slots=1)
    job = desk.job()
    desk.assign(job, lease=10)
    desk.assign(job, lease=11)
    desk.done(desk.batch())
    batch = desk.batch(taught=False)
    desk.quiet()
    desk.done(batch)
    desk.result([10, 11])
    desk.quiet()


def test_a_slot_is_taught_a_job_once() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    desk.done(desk.batch())
    desk.result([10])
    desk.assign(job, lease=11)
    desk.done(desk.batch(taught=False))
    desk.result([11])
    desk.quiet()


def test_a_blob_is_given_to_a_slot_once_for_all_its_jobs() -> None:
    desk = Desk()
    first = desk.job()
    digest = hashlib.sha256(b"code 1").digest()
    desk.receive(Job(7, FunctionKind.SHIPPED, digest, "fn"))
    desk.assign(first, lease=10)
    assert desk.take(Teach).blob == b"code 1"
    desk.done(desk.take(RunBatch))
    desk.assign(7, lease=11)
    assert desk.take(Teach).blob is None


def test_tasks_of_unknown_length_are_given_one_at_a_time() -> None:
    desk = Desk(slots=2)
    desk.assign(desk.job(), lease=10, count=5)
    assert [len(desk.batch().run), len(desk.batch().run)] == [1, 1]
    desk.quiet()


def test_short_tasks_are_given_in_batches_and_one_batch_ahead() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    desk.done(desk.batch(), seconds=1e-6)
    desk.result([10])
    desk.assign(job, lease=100, count=1000)
    first, second = desk.batch(taught=False), desk.batch(taught=False)
    assert (len(first.run), len(second.run)) == (256, 256)
    desk.quiet()
    desk.done(first, seconds=1e-6)
    assert desk.batch(taught=False).run.lease == 100 + 512


def test_results_of_one_turn_leave_in_one_message() -> None:
    desk = Desk(slots=2)
    desk.assign(desk.job(), lease=10, count=2)
    first, second = desk.batch(), desk.batch()
    desk.done(second)
    desk.done(first)
    result = desk.result([11, 10])
    assert list(result.seconds) == [1.0, 1.0]
    desk.quiet()


# -- jobs and blobs ------------------------------------------------------------------------------------------


def test_a_job_without_its_blob_asks_for_it_and_its_tasks_wait() -> None:
    desk = Desk()
    job = desk.job(blob=False)
    digest = desk.said(Want).digest
    desk.assign(job, lease=10)
    desk.quiet()
    desk.receive(Blob(digest, 0, 0, b"code 1"))
    assert list(desk.batch().run.leases) == [10]


def test_a_job_that_is_told_again_asks_for_nothing() -> None:
    desk = Desk()
    desk.receive(Job(1, FunctionKind.SHIPPED, b"d" * 32, "fn"))
    desk.said(Want)
    desk.receive(Job(1, FunctionKind.SHIPPED, b"d" * 32, "fn"))
    desk.quiet()


def test_a_large_blob_is_pulled_into_the_arena() -> None:
    desk = Desk()
    stream = BLOB_STREAM | 1
    desk.receive(Blob(b"d" * 32, stream, MIB))
    desk.receive(Job(1, FunctionKind.SHIPPED, b"d" * 32, "fn"))
    desk.assign(1, lease=10)
    assert desk.take(Allocate) == Allocate(stream, 1, MIB)
    desk.feed(Allocated(stream))
    assert desk.said(Grant) == Grant(stream, 1, 0, MIB)
    desk.feed(ChunkReceived(desk.link, stream, 1, 0, MIB))
    assert desk.take(Teach).key == stream
    desk.take(RunBatch)
    desk.quiet()


def test_a_blob_that_was_cut_off_is_asked_for_again() -> None:
    desk = Desk()
    stream = BLOB_STREAM | 1
    desk.receive(Blob(b"d" * 32, stream, MIB))
    desk.receive(Job(1, FunctionKind.SHIPPED, b"d" * 32, "fn"))
    desk.feed(Allocated(desk.take(Allocate).key))
    desk.said(Grant)
    desk.lose()
    assert desk.take(Release).key == stream
    desk.take(Dial)
    desk.connect(resumed=True)
    assert desk.said(Want).digest == b"d" * 32
    desk.quiet()


def test_a_blob_that_the_manager_lets_go_of_leaves_no_memory_behind() -> None:
    desk = Desk()
    stream = BLOB_STREAM | 5
    desk.receive(Blob(hashlib.sha256(b"gone").digest(), stream, 1 << 20))
    assert desk.take(Allocate).key == stream
    desk.feed(Allocated(stream))
    desk.said(Grant)
    desk.receive(Abort(stream, 1, Code.GONE, "no job needs this blob any more"))
    assert desk.take(Release).key == stream
    desk.quiet()


def test_a_function_without_memory_fails_its_tasks_and_is_asked_for_again_by_later_ones() -> None:
    desk = Desk()
    digest = b"d" * 32
    desk.receive(Blob(digest, BLOB_STREAM | 1, MIB))
    desk.receive(Job(1, FunctionKind.SHIPPED, digest, "fn"))
    desk.assign(1, lease=10, count=2)
    desk.take(Allocate)
    desk.feed(Allocated(BLOB_STREAM | 1, "Cannot allocate memory"))
    assert bytes(desk.result([10, 11], Status.UNRUNNABLE).heads).count(b"no memory for its function") == 2
    abort = desk.said(Abort)  # or the manager takes it to be on its way for ever
    assert (abort.stream, abort.attempt, abort.code) == (BLOB_STREAM | 1, 1, Code.GONE)
    desk.assign(1, lease=12)
    assert desk.said(Want).digest == digest
    desk.quiet()


def test_a_function_without_memory_is_asked_for_again_by_a_task_whose_argument_was_on_its_way() -> None:
    desk = Desk()
    digest = b"d" * 32
    desk.receive(Blob(digest, BLOB_STREAM | 1, MIB))
    desk.receive(Job(1, FunctionKind.SHIPPED, digest, "fn"))
    desk.assign(1, lease=10, bodies=[MIB])
    assert desk.take(Allocate).key == BLOB_STREAM | 1
    desk.feed(Allocated(desk.take(Allocate).key))
    desk.said(Grant)
    desk.feed(Allocated(BLOB_STREAM | 1, "Cannot allocate memory"))
    assert desk.said(Abort).code == Code.GONE
    desk.quiet()
    desk.body(10, MIB)
    assert desk.said(Want).digest == digest
    desk.quiet()


def test_a_timeout_outlives_its_forgotten_job() -> None:
    """A cancelled task that may run on is the last of its job; nobody else would ever end it."""
    desk = Desk()
    job = desk.job(timeout=2.0)
    desk.assign(job, 10)
    batch = desk.batch()
    since = desk.now
    desk.receive(Forget(job))
    desk.take(Unteach)
    desk.wait(0.05)
    desk.take(Inspect)
    desk.inspected(batch, 1, since=since)
    desk.wait(2.0)
    desk.take(Inspect)
    desk.inspected(batch, 1, since=since)
    assert "timeout" in desk.take(KillSlot).reason


def test_a_blob_announced_anew_replaces_its_old_stream() -> None:
    desk = Desk()
    for number in (1, 2):
        desk.receive(Blob(b"d" * 32, BLOB_STREAM | number, MIB))
    assert [desk.take(Allocate).key, desk.take(Allocate).key] == [BLOB_STREAM | 1, BLOB_STREAM | 2]
    assert desk.take(Release).key == BLOB_STREAM | 1
    desk.quiet()


def test_tasks_of_a_forgotten_job_are_given_back() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10, count=3)
    desk.batch()
    desk.receive(Forget(job))
    assert sorted(desk.said(Retracted).leases) == [11, 12]


def test_leases_of_an_unknown_job_break_the_rules() -> None:
    desk = Desk()
    with pytest.raises(UnexpectedError):
        desk.assign(99, lease=10)


def test_a_message_that_is_not_for_workers_breaks_the_rules() -> None:
    desk = Desk()
    with pytest.raises(UnexpectedError):
        desk.receive(Draining())


# -- bodies --------------------------------------------------------------------------------------------------


def test_a_body_is_granted_once_its_memory_is_there() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    assert desk.take(Allocate) == Allocate(10, 1, MIB)
    desk.quiet()
    desk.feed(Allocated(10))
    assert desk.said(Grant) == Grant(10, 1, 0, MIB)
    desk.body(10, MIB)
    batch = desk.batch()
    assert batch.run.body_bytes == MIB
    desk.done(batch)
    assert desk.take(Release) == Release(10)
    desk.result([10])
    desk.quiet()


def test_a_body_that_does_not_fit_waits_and_a_small_one_passes() -> None:
    desk = Desk(slots=3, arena_bytes=4 * MIB)
    job = desk.job()
    desk.assign(job, lease=10, count=3, bodies=[3 * MIB, 2 * MIB, MIB])
    assert [desk.take(Allocate).key, desk.take(Allocate).key] == [10, 12]
    desk.quiet()
    desk.retract(10)
    desk.take(Release)
    assert desk.take(Allocate).key == 11


def test_a_body_larger_than_the_arena_is_refused() -> None:
    desk = Desk(arena_bytes=4 * MIB)
    desk.assign(desk.job(), lease=10, bodies=[5 * MIB])
    result = desk.result([10], Status.UNRUNNABLE)
    assert b"larger than this worker's arena" in bytes(result.heads)


def test_a_machine_without_memory_makes_bodies_wait_and_a_lone_one_fail() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, count=2, bodies=[MIB, MIB])
    desk.take(Allocate)
    desk.take(Allocate)
    desk.feed(Allocated(11, "No space left on device"))
    desk.quiet()
    desk.retract(10)
    desk.take(Release)
    desk.said(Retracted)
    assert desk.take(Allocate).key == 11
    desk.feed(Allocated(11, "No space left on device"))
    desk.result([11], Status.UNRUNNABLE)


def test_a_chunk_beyond_its_grant_breaks_the_rules() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    with pytest.raises(OverrunError):
        desk.body(10, MIB)


def test_an_aborted_argument_gives_its_lease_back() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    desk.take(Allocate)
    desk.receive(Abort(10, 1, Code.GONE))
    assert list(desk.said(Retracted).leases) == [10]
    desk.take(Release)
    desk.quiet()


def test_an_answer_with_a_body_is_sent_as_it_is_granted_and_freed_when_confirmed() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    desk.done(desk.batch(), body=300 << 10)
    assert list(desk.result([10]).body_sizes) == [300 << 10]
    desk.receive(Grant(10, 1, 0, 300 << 10))
    chunk = desk.chunk()
    assert (chunk.stream, chunk.attempt, chunk.offset, chunk.length) == (10, 1, 0, 256 << 10)
    desk.quiet()
    desk.feed(Writable(desk.link))
    assert desk.chunk().offset == 256 << 10
    desk.confirm(10)
    assert desk.take(ReleaseAnswer).lease == 10
    desk.quiet()


def test_small_answer_makes_the_chunks_of_a_large_one_small() -> None:
    desk = Desk(slots=2)
    job = desk.job()
    desk.assign(job, lease=10)
    desk.done(desk.batch(), body=64 * MIB)
    desk.result([10])
    desk.receive(Grant(10, 1, 0, 64 * MIB))

    def lengths() -> list[int]:
        found = []
        for _ in range(4):
            desk.feed(Writable(desk.link))
            found.append(desk.chunk().length)
        return found

    desk.chunk()
    assert max(lengths()) > CHUNK_BYTES_AMONG
    desk.assign(job, lease=11)
    desk.done(desk.batch(taught=False))
    desk.result([11])
    assert desk.chunk().length == CHUNK_BYTES_AMONG
    assert set(lengths()) == {CHUNK_BYTES_AMONG}
    desk.quiet()


def test_an_answer_in_its_argument_holds_the_argument_until_it_is_confirmed() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    desk.take(Allocate)
    desk.feed(Allocated(10))
    desk.said(Grant)
    desk.body(10, MIB)
    desk.done(desk.batch(), body=MIB, in_place=True)
    desk.result([10])
    desk.quiet()
    desk.confirm(10)
    assert desk.take(Release) == Release(10)
    desk.quiet()


def test_a_slot_that_keeps_too_much_is_ended_when_it_is_idle() -> None:
    desk = Desk(arena_bytes=4 * MIB)
    desk.assign(desk.job(), lease=10, bodies=[2 * MIB])
    desk.take(Allocate)
    desk.feed(Allocated(10))
    desk.said(Grant)
    desk.body(10, 2 * MIB)
    desk.done(desk.batch(), kept=True)
    assert desk.take(Release) == Release(10, kept=True)
    assert "2 MiB of old arguments" in desk.take(KillSlot).reason
    desk.feed(SlotDied(0, "SIGKILL"))
    desk.take(StartSlot)
    desk.result([10])
    desk.quiet()


# -- slots that die, hang and are recalled -------------------------------------------------------------------


def three_in_a_slot(desk: Desk, **options: float) -> RunBatch:
    job = desk.job(**options)  # type: ignore[arg-type]
    desk.assign(job, lease=1)
    desk.done(desk.batch(), seconds=1e-3)
    desk.result([1])
    desk.confirm(1)
    desk.assign(job, lease=10, count=3)
    return desk.batch(taught=False)


def test_only_the_task_that_ran_is_blamed_for_its_slot() -> None:
    desk = Desk()
    batch = three_in_a_slot(desk)
    desk.die(batch, started=2)
    result = desk.result([11], Status.CRASHED)
    assert split_facts(bytes(result.heads).decode())[0] == "the slot that ran it ended by SIGSEGV"
    desk.take(StartSlot)
    desk.feed(SlotReady(0, 2000))
    again = desk.batch()
    assert list(again.run.leases) == [10]  # it ended, and its answer is lost
    assert list(desk.batch(taught=False).run.leases) == [12]


def test_a_slot_that_dies_between_tasks_blames_nobody() -> None:
    desk = Desk()
    batch = three_in_a_slot(desk)
    desk.done(batch, count=1)
    desk.die(batch, started=1, running=False)
    desk.result([10])
    desk.take(StartSlot)
    desk.feed(SlotReady(0, 2000))
    assert list(desk.batch().run.leases) == [11]


def test_a_lost_answer_whose_argument_may_be_changed_is_given_back() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    desk.take(Allocate)
    desk.feed(Allocated(10))
    desk.said(Grant)
    desk.body(10, MIB)
    desk.die(desk.batch(), started=1, running=False)
    assert list(desk.said(Retracted).leases) == [10]
    desk.take(Release)


def test_a_long_task_is_said_to_have_started_and_what_waits_behind_it_runs_elsewhere() -> None:
    desk = Desk(slots=2)
    job = desk.job()
    desk.assign(job, lease=1)
    desk.done(desk.batch(), seconds=1e-3)
    desk.assign(job, lease=10, count=6)
    first = desk.take(RunBatch)
    desk.take(Teach)
    for batch in (desk.take(RunBatch), desk.take(RunBatch)):
        assert (first.slot, batch.slot) == (0, 1)
        desk.done(batch, seconds=1e-3)
    desk.asked.clear()
    desk.wait(0.06)
    desk.take(Inspect)
    desk.inspected(first, 1, since=desk.now - 0.055)
    assert list(desk.said(Started).leases) == [first.run.lease]
    recall = desk.take(Recall)
    desk.inspected(first, 1, since=desk.now - 0.06, recalled=recall.batch)
    moved = desk.take(RunBatch)
    assert moved.slot == 1
    assert moved.run.lease == first.run.lease + 1


def test_a_task_that_a_recalled_slot_withdrew_runs_again() -> None:
    desk = Desk()
    batch = three_in_a_slot(desk)
    desk.retract(12)
    recall = desk.take(Recall)
    desk.inspected(batch, 2, since=desk.now, recalled=recall.batch)
    assert list(desk.said(Retracted).leases) == [12]
    desk.feed(SlotStopped(0, batch.batch, 1))  # the board showed task 2 for a moment
    assert list(desk.take(RunBatch).run.leases) == [11]
    desk.done(batch, count=1)
    desk.result([10])


def test_a_task_that_is_asked_back_and_withdrawn_at_once_is_given_back() -> None:
    """The slot's word comes before the look at its board; run again here, the task would run though cancelled."""
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    batch = desk.batch()
    desk.retract(10, kill=True)
    recall = desk.take(Recall)
    desk.feed(SlotStopped(0, batch.batch, 0))
    assert list(desk.said(Retracted).leases) == [10]
    desk.inspected(batch, 0, since=0.0, recalled=recall.batch)
    desk.quiet()


def test_a_task_that_is_given_back_while_the_link_is_made_is_told_of_when_it_stands() -> None:
    """The HELLO has named it, so the manager waits for it: untold, it would wait for as long as the worker lives."""
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    desk.done(desk.batch(), seconds=0.001)
    desk.result([10])
    desk.confirm(10)
    desk.assign(job, lease=20, count=3)
    batch = desk.batch(taught=False)
    desk.retract(22)
    recall = desk.take(Recall)
    desk.lose()
    desk.take(Dial)
    desk.link += 1
    desk.feed(Opened(desk.link, MANAGER))
    assert list(desk.said(Hello).leases) == [20, 21, 22]
    desk.inspected(batch, 1, since=desk.now, recalled=recall.batch)
    assert list(desk.take(RunBatch).run.leases) == [21]
    desk.receive(Welcome(PROTOCOL_VERSION, 1, resumed=True))
    assert list(desk.said(Retracted).leases) == [22]
    desk.quiet()


def test_a_task_that_was_given_back_before_the_hello_is_not_told_of() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    batch = desk.batch()
    desk.retract(10)
    recall = desk.take(Recall)
    desk.lose()
    desk.take(Dial)
    desk.inspected(batch, 0, since=0.0, recalled=recall.batch)
    assert list(desk.connect(resumed=True).leases) == []
    desk.quiet()


def test_a_manager_that_does_not_know_the_session_is_not_told_of_what_was_given_back() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    batch = desk.batch()
    desk.retract(10)
    recall = desk.take(Recall)
    desk.lose()
    desk.take(Dial)
    desk.link += 1
    desk.feed(Opened(desk.link, MANAGER))
    assert list(desk.said(Hello).leases) == [10]
    desk.inspected(batch, 0, since=0.0, recalled=recall.batch)
    desk.receive(Welcome(PROTOCOL_VERSION, 2, resumed=False))
    desk.take(Unteach)
    desk.quiet()


def test_a_number_that_names_another_job_than_before_the_manager_died_runs_that_one() -> None:
    """A JOB is sent before it is on disk: the next manager may not know of it, and number another one so."""
    desk = Desk()
    desk.receive(Job(1, FunctionKind.REGISTERED, bytes(32), "fits:mean", "3.11"))
    desk.assign(1, lease=10)
    desk.done(desk.batch())
    desk.result([10])
    desk.confirm(10)
    desk.lose()
    desk.take(Dial)
    desk.connect(resumed=True, over=[1])
    other = Job(1, FunctionKind.REGISTERED, bytes(32), "fits:median", "3.11")
    desk.receive(other)
    desk.take(Unteach)
    desk.assign(1, lease=20)
    assert desk.take(Teach).job == other
    assert list(desk.take(RunBatch).run.leases) == [20]
    desk.quiet()


def test_a_task_beyond_its_timeout_is_killed_with_its_slot() -> None:
    desk = Desk()
    desk.assign(desk.job(timeout=2.0), lease=10)
    batch = desk.batch()
    begun = desk.now
    desk.wait(0.06)
    desk.take(Inspect)
    desk.inspected(batch, 1, since=begun)
    desk.said(Started)
    desk.wait(2.0)
    desk.take(Inspect)
    desk.inspected(batch, 1, since=begun)
    kill = desk.take(KillSlot)
    assert "timeout of 2 s" in kill.reason
    assert kill.stack
    desk.feed(SlotDied(0, "SIGKILL", batch.batch, 1, True, peak="2.0 GiB", stack="  File f", peak_bytes=2 << 30))
    assert split_facts(bytes(desk.result([10], Status.TIMEOUT).heads).decode()) == (
        "it ran longer than its timeout of 2 s; peak memory of its slot 2.0 GiB; worker node7-1 (node7), attempt 1\n"
        "last stack, most recent call first:\n  File f",
        Facts(None, 2 << 30, "node7-1", 1),
    )


def test_a_crash_is_reported_with_peak_and_stack_and_the_manager_says_where() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    batch = desk.batch()
    desk.feed(SlotDied(0, "SIGSEGV", batch.batch, 1, running=True, peak="below 70 MiB", stack="  File f"))
    assert split_facts(bytes(desk.result([10], Status.CRASHED).heads).decode()) == (
        "the slot that ran it ended by SIGSEGV; peak memory of its slot below 70 MiB\n"
        "last stack, most recent call first:\n  File f",
        Facts("SIGSEGV", None, "node7-1", 1),
    )
    assert desk.lines[-1].text.endswith("  File f")


def test_a_task_that_takes_too_much_memory_is_ended_and_told_limit_peak_and_advice() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    batch = desk.batch()
    desk.feed(Swollen(0, 5 << 30, 4 << 30))
    assert desk.take(KillSlot).stack
    desk.feed(Swollen(0, 6 << 30, 4 << 30))  # it is not dead yet
    desk.feed(SlotDied(0, "SIGKILL", batch.batch, 1, running=True, peak="6.1 GiB"))
    text = bytes(desk.result([10], Status.MEMORY).heads).decode()
    assert all(word in text for word in ("5.0 GiB", "4.0 GiB", "--slot-memory", "6.1 GiB", "node7", "smaller pieces"))
    desk.take(StartSlot)
    desk.quiet()


def test_a_task_that_ended_just_before_its_slot_was_killed_has_its_answer() -> None:
    desk = Desk()
    desk.assign(desk.job(timeout=1.0), lease=10)
    batch = desk.batch()
    desk.wait(1.1)
    desk.inspected(batch, 1, since=desk.now - 1.05)
    desk.take(KillSlot)
    desk.done(batch)
    desk.die(batch, 1, "SIGKILL", running=False)
    desk.result([10])
    desk.take(StartSlot)
    desk.take(Inspect)
    desk.quiet()


def test_a_slot_that_cannot_start_at_all_ends_the_worker() -> None:
    desk = Desk(up=False)
    for _ in range(3):
        desk.wait(10)
        desk.take(StartSlot)
        desk.feed(SlotDied(0, "the initializer lab:load: KeyError: 'x'"))
    finished = desk.take(Finished)
    assert finished.exit_code == 2
    assert "KeyError" in finished.reason


def test_with_code_of_its_own_a_worker_dials_when_a_slot_is_ready() -> None:
    desk = Desk(up=False, dial_when_ready=True)
    desk.take(StartSlot)
    desk.quiet()
    desk.feed(SlotReady(0, 1))
    desk.take(Dial)
    desk.quiet()


# -- retractions ---------------------------------------------------------------------------------------------


def test_unstarted_tasks_are_given_back_at_once_and_unknown_ones_declined() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, count=4)
    desk.batch()
    desk.retract(11, 13, 99)
    answer = desk.said(Retracted)
    assert (sorted(answer.leases), list(answer.declined)) == ([11, 13], [99])
    desk.quiet()


def test_a_running_task_is_declined_without_kill() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    batch = desk.batch()
    desk.retract(10)
    recall = desk.take(Recall)
    desk.inspected(batch, 1, since=desk.now, recalled=recall.batch)
    assert list(desk.said(Retracted).declined) == [10]


def test_a_running_task_is_killed_with_kill_and_given_back_when_its_slot_is_dead() -> None:
    desk = Desk()
    batch = three_in_a_slot(desk)
    desk.retract(10, kill=True)
    recall = desk.take(Recall)
    desk.inspected(batch, 1, since=desk.now, recalled=recall.batch)
    desk.take(KillSlot)
    desk.die(batch, 1, "SIGKILL")
    assert list(desk.said(Retracted).leases) == [10]
    desk.take(StartSlot)
    desk.feed(SlotReady(0, 2000))
    assert list(desk.batch().run.leases) == [11, 12]
    desk.quiet()


# -- the link ------------------------------------------------------------------------------------------------


def test_answers_wait_for_a_new_link_and_are_sent_again_until_confirmed() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10, count=2)
    desk.done(desk.batch(), seconds=1.0)
    desk.result([10])
    second = desk.batch(taught=False)
    desk.lose()
    desk.take(Dial)
    desk.done(second)
    hello = desk.connect(resumed=True)
    assert sorted(hello.leases) == [10, 11]
    assert list(desk.said(Result).leases) == [10]
    desk.result([11])
    desk.confirm(10, 11)
    desk.quiet()


def test_a_job_whose_forget_went_down_with_the_link_is_forgotten_once_the_manager_has_named_the_others() -> None:
    desk = Desk()
    kept, over = desk.job(), desk.job()
    desk.lose()
    desk.take(Dial)
    desk.connect(resumed=True, over=[over])
    assert set(desk.core._library.jobs) == {kept, over}
    desk.receive(Heartbeat())
    assert set(desk.core._library.jobs) == {kept}


def test_an_argument_goes_on_where_it_was_cut_off() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10, bodies=[MIB])
    desk.feed(Allocated(desk.take(Allocate).key))
    desk.said(Grant)
    desk.feed(ChunkReceived(desk.link, 10, 1, 0, 1000))
    desk.lose()
    desk.take(Dial)
    desk.connect(resumed=True)
    assert desk.said(Grant) == Grant(10, 1, 1000, MIB - 1000)


def test_a_new_session_drops_every_lease_and_kills_what_runs() -> None:
    desk = Desk(slots=2)
    job = desk.job()
    desk.assign(job, lease=10, count=4)
    first, second = desk.batch(), desk.batch()
    desk.done(second, body=MIB)
    desk.lose()
    desk.take(Dial)
    desk.asked.clear()
    desk.connect(resumed=False)
    assert desk.take(ReleaseAnswer).lease == second.run.lease
    desk.take(KillSlot)
    desk.die(first, 1, "SIGKILL")
    assert not any(type(getattr(action, "message", None)) is Result for action in desk.asked)
    with pytest.raises(UnexpectedError):
        desk.assign(job, lease=50)


def test_heartbeats_fill_a_silence_and_a_long_one_ends_the_link() -> None:
    desk = Desk()
    desk.wait(2.1)
    desk.said(Heartbeat)
    desk.wait(6.0)
    close = desk.take(Close)
    assert close.code == Code.SILENT


def test_a_heartbeat_that_is_due_soon_stands_beside_the_managers() -> None:
    desk = Desk()
    desk.wait(1.1)
    desk.receive(Heartbeat())
    desk.said(Heartbeat)


def test_an_absent_manager_is_looked_for_less_and_less_often_for_ever() -> None:
    desk = Desk(up=False)
    desk.asked.clear()
    delays = []
    for _ in range(9):
        desk.feed(Lost(0, "connection refused"))
        delays.append(desk.take(Dial).delay_seconds)
    assert delays[:3] == pytest.approx([0.075, 0.15, 0.3], rel=0.01)
    assert delays[-1] == pytest.approx(1.5, rel=0.01)
    assert len([line for line in desk.lines if line.level == "warning"]) == 1


def test_without_reconnection_an_absent_manager_is_the_end() -> None:
    desk = Desk(up=False, reconnect=False)
    desk.feed(Lost(0, "nobody listens"))
    assert desk.take(Finished) == Finished(5, "no manager: nobody listens")
    known = Desk(reconnect=False)
    known.lose("cut")
    assert known.take(Finished) == Finished(5, "no manager any more: cut")


def test_lost_managers_are_told_once_with_what_they_said() -> None:
    desk = Desk()
    desk.lines.clear()
    desk.receive(Goodbye(Code.DRAINING, "the manager was stopped"))
    desk.lose("closed")
    desk.feed(Lost(0, "nobody listens"))
    assert desk.lines == [
        Log("warning", "lost the manager: the manager was stopped; trying to reach it again"),
        Log("debug", "no manager yet: nobody listens; trying until there is one"),
    ]


def test_an_alert_before_the_first_welcome_is_a_refused_certificate() -> None:
    desk = Desk(up=False)
    desk.feed(Opened(1, MANAGER))
    desk.feed(Lost(1, "SSLError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"))
    assert desk.take(Finished).exit_code == 3


@pytest.mark.parametrize(("code", "exit_code"), [(Code.VERSION, 5), (Code.ROLE, 3)])
def test_a_refusal_that_time_does_not_heal_is_the_end(code: Code, exit_code: int) -> None:
    desk = Desk()
    desk.feed(Received(desk.link, Goodbye(code, "no")))
    desk.lose()
    assert desk.take(Finished) == Finished(exit_code, "the manager refuses this worker: no")


def test_a_refused_certificate_is_the_end_unless_it_was_welcome_before() -> None:
    desk = Desk(up=False)
    desk.feed(Refused("another star"))
    assert desk.take(Finished).exit_code == 3
    welcome = Desk()
    welcome.feed(Refused("expired"))
    welcome.quiet()


# -- leaving -------------------------------------------------------------------------------------------------


def test_a_drain_gives_back_what_waits_finishes_what_runs_and_leaves() -> None:
    desk = Desk()
    batch = three_in_a_slot(desk)
    desk.assign(1, lease=20, count=500)
    desk.asked.clear()
    desk.feed(Drain())
    desk.said(Draining)
    desk.said(Retracted)
    recall = desk.take(Recall)
    desk.inspected(batch, 1, since=desk.now, recalled=recall.batch)
    assert {11, 12} <= set(desk.said(Retracted).leases)
    desk.done(batch, count=1)
    desk.result([10])
    desk.confirm(10)
    desk.take(Close)
    assert desk.take(Finished).exit_code == 0
    desk.quiet()


def test_a_drain_with_nothing_to_do_is_over_at_once() -> None:
    desk = Desk()
    desk.feed(Drain())
    desk.take(Finished)


def test_a_stop_kills_what_runs_and_gives_it_back() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    batch = desk.batch()
    desk.feed(Stop())
    desk.take(KillSlot)
    desk.die(batch, 1, "SIGKILL")
    assert list(desk.said(Retracted).leases) == [10]
    desk.take(Finished)


def test_a_stop_waits_for_confirmations_only_for_a_moment() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    desk.done(desk.batch())
    desk.result([10])
    desk.feed(Stop())
    desk.wait(2.0)
    desk.take(Finished)


def test_a_second_stop_is_obeyed_at_once() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    desk.feed(Stop())
    desk.feed(Stop())
    desk.take(Finished)


def test_a_leaving_worker_takes_nothing_more() -> None:
    desk = Desk()
    job = desk.job()
    desk.assign(job, lease=10)
    desk.batch()
    desk.feed(Drain())
    desk.asked.clear()
    desk.assign(job, lease=11)
    assert desk.said(Retracted).leases == array("Q", [11])


def test_a_second_connection_is_closed_and_the_first_one_goes_on() -> None:
    desk = Desk(slots=1)
    desk.feed(Opened(7, MANAGER))
    assert desk.take(Close) == Close(7, Code.NORMAL, "not needed any more")
    desk.feed(Lost(7, "closed"))
    desk.quiet()
    job = desk.job()
    desk.assign(job, lease=10, count=1)
    desk.done(desk.batch())
    desk.result([10])
    desk.quiet()


def test_machine_that_slept_or_moved_dials_at_once_and_keeps_what_it_has() -> None:
    desk = Desk()
    desk.assign(desk.job(), lease=10)
    desk.batch()
    desk.feed(Shaken("this machine slept for 60 s"))
    assert desk.take(Close).code == Code.SILENT
    desk.feed(Lost(desk.link, "this machine slept for 60 s"))
    assert "this machine slept for 60 s" in desk.lines[-1].text
    assert desk.take(Dial).delay_seconds <= 0.1
    for _ in range(5):
        desk.feed(Lost(0, "unreachable"))
        assert desk.take(Dial).delay_seconds <= 2.0
    desk.feed(Shaken("this machine has another address now"))
    assert desk.take(Dial).delay_seconds == 0.0
    desk.feed(Shaken("this machine has another address now"))
    desk.quiet()
