"""Stored jobs with a journal: what waits for the disk, what comes back after a death, and what a full disk costs."""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import pytest

from manager.test_store import BODY, Detaching, attach, detached, owner, push_all, rows, told
from starcore.errors import Code, Status
from starcore.events import Drop, Finished, Received, Spooled
from starcore.manager.journaled import Record, Renew
from starcore.manager.outbox import Drain, SpoolFailed, SpoolWorks, Synced
from starcore.manager.stored import StoreLimits
from starcore.messages import (
    Assign,
    Attach,
    Blob,
    Confirm,
    Deed,
    Forget,
    Grant,
    Inquire,
    Inventory,
    Outcome,
    Result,
    Retract,
    Stored,
)
from tests.manager.journals import JournaledStar
from tests.manager.star import settle
from tests.manager.test_journaled import reconnect, said


def bodied(star: JournaledStar, tasks: int = 1, **options: Any) -> Detaching:
    """Detach a job of tasks with bodies; it is accepted."""
    client = owner(star)
    job = Detaching(client, tasks, size=1 << 22, **options).begun()
    job.job.submit(tasks, bodies=[BODY] * tasks)
    for index in range(tasks):
        push_all(client, job.job.stream(index))
        job.stored(index)
    return job.accepted()


# -- what waits --------------------------------------------------------------------------------------------------


def test_argument_is_told_of_when_its_file_and_the_record_that_names_it_are_synced() -> None:
    star = JournaledStar(syncing=False)
    star.writing = False
    client = owner(star)
    job = Detaching(client)
    star.sync()
    job.begun()
    job.job.submit(1, bodies=[BODY])
    push_all(client, job.job.stream(0))
    star.sync()
    assert said(star, Outcome) == said(star, Stored) == 0
    star.feed(Synced([1]))
    assert said(star, Outcome) == said(star, Stored) == 0
    star.sync()
    job.stored(0)
    job.accepted()


def test_nothing_of_a_job_is_given_out_before_the_disk_has_it() -> None:
    star = JournaledStar(syncing=False)
    star.worker(slots=4)
    client = owner(star)
    job = Detaching(client, 2)
    star.sync()
    job.begun()
    job.job.submit(2)
    assert said(star, Assign) == said(star, Outcome) == said(star, Stored) == 0
    star.sync()
    assert said(star, Assign) == 1
    job.stored(0, 1)
    job.accepted()


def test_worker_keeps_an_answer_until_its_file_and_its_record_are_synced() -> None:
    star = JournaledStar()
    worker, client = star.worker(), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.writing = star.syncing = False
    worker.result([assign.lease], bodies=[BODY])
    push_all(worker, assign.lease)
    star.sync()
    assert said(star, Confirm) == 0
    assert rows_of(star, client)["done"] == 0
    star.feed(Synced([1]))
    assert said(star, Confirm) == 0
    star.sync()
    star.expect(Confirm(array("Q", [assign.lease])), worker)
    assert rows_of(star, client)["done"] == 1


def rows_of(star: JournaledStar, client: Any) -> dict[str, Any]:
    star.all(Inventory, client)
    return rows(client)[0]


def test_large_function_is_written_before_the_job_is_accepted_and_goes_with_the_last_job_that_needs_it() -> None:
    code = b"x" * 300_000
    star = JournaledStar()
    star.writing = False
    client = owner(star)
    for name in ("one", "two"):
        job = Detaching(client, name=name, blob=False, code=code)
        if name == "one":
            client.say(Blob(job.job.digest, 1 << 63 | 1, len(code)))
            star.take(Grant, client)
            client.push(1 << 63 | 1, 0, len(code), token=code)
        job.begun()
        job.job.submit(1)
        job.stored(0)
        if name == "one":
            assert said(star, Stored) == 0
            star.feed(Synced([1]))
        job.accepted()
    assert star.files == {1: len(code)}
    star.feed(Renew())
    assert star.recovered().files() == {1: len(code)}
    later = star.killed()
    assert later.files == {1: len(code)}
    assert later.core._relay.spooled_bytes == len(code)
    rows(client, Deed.FORGET, "one")
    assert star.files
    rows(client, Deed.FORGET, "two")
    assert not star.files


def test_what_is_asked_after_a_deed_is_answered_when_the_disk_knows_of_it() -> None:
    star = JournaledStar()
    client = owner(star)
    detached(client)
    star.syncing = False
    client.say(Inquire(9, Deed.FORGET, "scan-7"))
    assert said(star, Inventory) == 0
    star.sync()
    assert star.take(Inventory, client).text == "[]"


# -- what comes back ---------------------------------------------------------------------------------------------


def test_accepted_job_runs_under_the_next_manager_with_its_client_gone() -> None:
    star = JournaledStar()
    bodied(star, 2).client.goodbye()
    later = star.killed()
    worker = later.worker(slots=2, first_window_bytes=0)
    for index in range(2):
        assign = worker.leased(first=index, count=1)
        assert list(assign.body_sizes) == [BODY]
        worker.say(Grant(assign.lease, 1, 0, BODY))
        chunk = later.chunk(worker)
        assert chunk.token == Spooled(index + 1, 0, BODY)
        worker.writable()
        worker.finish(assign)
        assert index + 1 not in later.files
    reader = owner(later)
    number = attach(reader, 2)
    told(reader, number, [0])
    told(reader, number, [1])
    settle(later)
    later.quiet()


def test_worker_that_runs_its_tasks_keeps_them_and_what_finished_does_not_run_again() -> None:
    star = JournaledStar()
    worker = star.worker(slots=2)
    detached(owner(star), 3, retries=1)
    lease = worker.leased(first=0).lease
    worker.result([lease], bodies=[BODY])
    push_all(worker, lease)
    held = [lease + 1] if not star.all(Assign, worker) else [lease + 1, lease + 2]
    later = star.killed()
    reconnect(later, worker, leases=tuple(held))
    assert said(later, Retract) == 0
    reader = owner(later)
    row = rows(reader)[0]
    assert (row["tasks"], row["done"], row["accepted"]) == (3, 1, True)
    number = attach(reader, 3)
    outcome = told(reader, number, [0], ack=False)
    reader.say(Grant(number << 32, 1, 0, BODY))
    assert later.chunk(reader).token == Spooled(1, 0, BODY)
    reader.ack(outcome)
    worker.result([lease + 1])
    told(reader, number, [1])
    indices = [list(assign.heads) for assign in later.all(Assign, worker)]
    assert len(indices) <= 1


def test_finished_job_is_fetched_from_the_next_manager_again_and_again_until_it_is_forgotten() -> None:
    star = JournaledStar()
    worker = star.worker(slots=1)
    detached(owner(star), 2)
    worker.finish(worker.leased(count=1))
    last = worker.leased(count=1)
    worker.result([last.lease], bodies=[BODY])
    push_all(worker, last.lease)
    for _ in range(2):
        star = star.killed()
        reader = owner(star)
        row = rows(reader)[0]
        assert (row["done"], row["queued"], row["running"]) == (2, 0, 0)
        number = attach(reader, 2)
        told(reader, number, [0])
        star.take(Outcome, reader)
        assert star.files == {1: BODY}
    rows(reader, Deed.FORGET, "scan-7")
    assert star.files == {}
    assert rows(owner(star.killed())) == []


def test_cancelled_and_forgotten_stay_so_and_counts_are_right() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 3)
    worker.finish(worker.leased(count=1), Status.RAISED)
    rows(client, Deed.CANCEL, "scan-7")
    later = star.killed()
    row = rows(owner(later))[0]
    assert (row["done"], row["failed"], row["cancelled"], row["queued"]) == (0, 1, 2, 0)
    later.worker(name="another")
    assert said(later, Assign) == 0


def test_what_was_fetched_and_let_go_stays_gone_and_counts() -> None:
    limits = StoreLimits(memory_bytes=1000)
    star = JournaledStar(store=limits)
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2, size=300)
    worker.finish(worker.leased(count=1), head=bytes(900))
    number = attach(client, 2, take=True)
    told(client, number, [0], bytes(900))
    for renewed in (False, True):
        if renewed:
            star.feed(Renew())
        later = star.killed()
        reader = owner(later)
        row = rows(reader)[0]
        assert (row["done"], row["fetched"], row["bytes"]) == (1, 1, rows_of(star, client)["bytes"])
        attach(reader, 2)
        assert b"fetched before" in bytes(later.take(Outcome, reader).heads)


def test_what_was_fetched_and_is_kept_is_known_to_be_fetched() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    worker.finish(worker.leased(count=1))
    told(client, attach(client, 2, take=True), [0])
    later = star.killed()
    assert rows(owner(later))[0]["fetched"] == 1


def test_budget_is_the_same_after_a_restart_and_a_job_waits_for_room() -> None:
    limits = StoreLimits(memory_bytes=3 * BODY)
    star = JournaledStar(store=limits)
    client = owner(star)
    job = Detaching(client, 2, size=2 * BODY + 200).begun()
    job.job.submit(2, bodies=[BODY, BODY])
    for index in range(2):
        push_all(client, job.job.stream(index))
        job.stored(index)
    job.accepted()
    later = star.killed()
    assert later.core._store.bytes == star.core._store.bytes == 2 * (BODY + 64 + 2)
    other = owner(later)
    second = Detaching(other, name="second", size=BODY + 200)
    assert said(later, Stored) == 0
    rows(other, Deed.FORGET, "scan-7")
    second.begun()


def test_time_goes_on_while_no_manager_runs() -> None:
    star = JournaledStar(now=50.0, wall_seconds=1000.0, store=StoreLimits(keep_seconds=100.0))
    detached(owner(star))
    recovery = star.recovered()
    later = JournaledStar(recovery, now=5.0, wall_seconds=1105.0, store=StoreLimits(keep_seconds=100.0))
    row = rows(owner(later))[0]
    assert (row["age_seconds"], row["expires_in_seconds"]) == (60.0, 40.0)
    later.wait(41.0 + 10.0)
    assert rows(owner(later)) == []
    assert later.core.everything()[-1].__class__.__name__ != "StoredKnown"


def test_clock_that_was_set_back_makes_nothing_younger_than_now() -> None:
    star = JournaledStar(now=50.0, wall_seconds=1000.0)
    detached(owner(star))
    later = JournaledStar(star.recovered(), now=5.0, wall_seconds=0.0)
    assert rows(owner(later))[0]["age_seconds"] == 0.0


def test_change_is_recorded_once_a_second_however_much_happens() -> None:
    star = JournaledStar(silence_seconds=1e9)
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 3)
    began = len(star.frames)
    star.wait(10.0)
    for _ in range(3):
        worker.finish(worker.leased(count=1))
    kinds = [frame[2] for frame in star.frames[began:]]
    assert kinds.count(19) == 1


# -- who was on the way ------------------------------------------------------------------------------------------


def test_client_that_lost_the_last_word_hears_from_the_next_manager_that_its_job_is_accepted() -> None:
    star = JournaledStar()
    job = bodied(star)
    later = star.killed()
    reconnect(later, job.client)
    job.client.say(job.job.message)
    job.client.say(job.detach)
    job.job.submit(1, first=0, again=True, bodies=[BODY])
    job.accepted()
    job.client.say(Forget(job.job.number))
    assert len(rows(job.client)) == 1
    settle(later)
    later.quiet()


def test_client_that_was_bringing_a_job_hears_from_the_next_manager_that_it_is_lost() -> None:
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client, 2).begun()
    job.job.submit(1)
    job.stored(0)
    later = star.killed()
    reconnect(later, client)
    assert rows(client) == []
    client.say(job.detach)
    assert "began anew" in job.refused(Code.GONE)
    client.say(Forget(job.job.number))
    detached(client)


def test_reader_that_comes_back_reads_on() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    worker.finish(worker.leased(count=1))
    number = attach(client, 2)
    first = told(client, number, [0])
    later = star.killed()
    reconnect(later, client)
    client.say(Attach(number, "scan-7"))
    later.take(Stored, client)
    assert told(client, number, [0]).sequence > first.sequence
    assert [known for known in later.core._sessions.clients.values() if number in known.jobs]


def test_answer_whose_file_is_being_written_survives_the_loss_of_its_worker() -> None:
    star = JournaledStar()
    worker, client = star.worker(), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.writing = False
    worker.result([assign.lease], bodies=[BODY])
    push_all(worker, assign.lease)
    worker.goodbye()
    star.feed(Synced([1]))
    assert rows(client)[0]["done"] == 1
    told(client, attach(client), [0])
    settle(star)
    star.quiet()


def test_worker_that_returns_while_its_answer_is_written_sends_it_once() -> None:
    star = JournaledStar()
    worker, client = star.worker(), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.writing = False
    worker.result([assign.lease], bodies=[BODY])
    push_all(worker, assign.lease)
    worker.lose()
    worker.connect(leases=array("Q", [assign.lease]))
    worker.result([assign.lease], bodies=[BODY])
    assert star.all(Grant, worker) == []
    star.feed(Synced([1]))
    star.expect(Confirm(array("Q", [assign.lease])), worker)


@pytest.mark.parametrize("deed", [Deed.CANCEL, Deed.FORGET])
def test_answer_that_nobody_wants_any_more_goes_while_it_is_written(deed: Deed) -> None:
    star = JournaledStar()
    worker, client = star.worker(), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.writing = False
    worker.result([assign.lease], bodies=[BODY])
    push_all(worker, assign.lease)
    rows(client, deed, "scan-7")
    star.feed(Synced([1]))
    assert [type(token) for token in star.dropped] == [Spooled]
    assert sum(row["cancelled"] for row in rows(client)) == (deed == Deed.CANCEL)


def test_drain_waits_for_the_answers_that_are_on_their_way_to_the_disk() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.writing = False
    star.feed(Drain())
    worker.result([assign.lease], bodies=[BODY])
    assert Finished() not in star.actions
    push_all(worker, assign.lease)
    assert Finished() not in star.actions
    star.feed(Synced([1]))
    assert Finished() in star.actions
    later = star.killed()
    other = later.worker(slots=1)
    later.wait(20.0)
    assert later.all(Assign, other) == []


@pytest.mark.parametrize("function", [False, True])
def test_nothing_of_a_job_that_is_over_waits_for_files_that_are_not_written_any_more(function: bool) -> None:
    star = JournaledStar()
    star.writing = False
    client, code = owner(star), b"x" * 300_000
    job = Detaching(client, blob=False, code=code).begun()
    if function:
        client.say(Blob(hashlib.sha256(code).digest(), 1 << 63 | 1, len(code)))
        client.push(1 << 63 | 1, 0, len(code), token=code)
        job.job.submit(1)
        job.stored(0)
    else:
        job.job.submit(1, bodies=[BODY])
        push_all(client, job.job.stream(0))
    assert star.core._store._keeping._syncing
    star.feed(SpoolFailed("No space left on device"))
    job.refused(Code.GONE)
    assert not star.core._store._keeping._syncing


# -- lost files --------------------------------------------------------------------------------------------------


def test_task_whose_argument_is_lost_fails_and_the_others_run() -> None:
    star = JournaledStar()
    bodied(star, 3)
    del star.files[2]
    later = star.killed()
    assert later.ended == 1
    worker = later.worker(slots=3)
    assert [assign.first for assign in later.all(Assign, worker)] == [0, 2]
    reader = owner(later)
    row = rows(reader)[0]
    assert (row["failed"], row["running"]) == (1, 2)
    attach(reader, 3)
    outcome = later.take(Outcome, reader)
    assert (list(outcome.indices), bytes(outcome.statuses)) == ([1], bytes([Status.UNRUNNABLE]))
    assert bytes(outcome.heads) == b"its argument, which the manager kept, is lost: No such file"
    assert rows(owner(later.killed()))[0]["failed"] == 1


def test_task_whose_answer_is_lost_fails_and_is_told() -> None:
    star = JournaledStar()
    worker = star.worker(slots=1)
    detached(owner(star), 2)
    for _ in range(2):
        assign = worker.leased(count=1)
        worker.result([assign.lease], bodies=[BODY])
        push_all(worker, assign.lease)
    del star.files[1]
    later = star.killed()
    reader = owner(later)
    row = rows(reader)[0]
    assert (row["done"], row["failed"]) == (1, 1)
    attach(reader, 2)
    outcomes = later.all(Outcome, reader)
    heads = {outcome.indices[0]: bytes(outcome.heads) for outcome in outcomes}
    assert heads == {0: b"its answer, which the manager kept, is lost: No such file", 1: b"answer"}


def test_job_whose_function_is_lost_fails() -> None:
    code = b"x" * 300_000
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client, blob=False, code=code)
    client.say(Blob(hashlib.sha256(code).digest(), 1 << 63 | 1, len(code)))
    client.push(1 << 63 | 1, 0, len(code), token=code)
    job.begun()
    job.job.submit(1)
    job.stored(0)
    job.accepted()
    star.files.clear()
    later = star.killed()
    reader = owner(later)
    attach(reader)
    assert b"its function, which the manager kept, is lost" in bytes(later.take(Outcome, reader).heads)


def test_tasks_whose_own_records_are_lost_fail_and_those_that_had_ended_keep_their_answers() -> None:
    """Nobody says them again, as a client does with tasks of its own: the job would never end."""
    star = JournaledStar()
    worker, client = star.worker(), owner(star)
    job = Detaching(client, 5).begun()
    job.job.submit(2)
    job.stored(0, 1)
    job.job.submit(1)
    job.stored(2)
    job.job.submit(2)
    job.stored(3, 4)
    job.accepted()
    worker.finish(worker.leased(count=1))
    for kind in (10, 10):  # what was said of tasks 0 to 2
        place = [frame[2] for frame in star.frames].index(kind)
        del star.frames[place]
        star.durable -= 1
    later = star.killed()
    assert later.ended == 2
    reader = owner(later)
    row = rows(reader)[0]
    assert (row["done"], row["failed"], row["queued"] + row["running"]) == (1, 2, 2)
    attach(reader, 5)
    heads = {index: bytes(said.heads) for said in later.all(Outcome, reader) for index in said.indices}
    lost = b"the journal's record of this task is lost"
    assert heads == {0: b"answer", 1: lost, 2: lost}
    later = later.killed()
    row = rows(owner(later))[0]
    assert (later.ended, row["done"], row["failed"]) == (0, 1, 2)


def test_journal_whose_first_record_is_lost_keeps_detached_jobs_and_no_session() -> None:
    """Peers know a manager by its journal's number: to another one they come as if for the first time."""
    star = JournaledStar()
    worker, client = star.worker(slots=4), owner(star)
    detached(client, 2)
    own = client.job()
    own.submit(1)
    assert len(star.all(Assign, worker)) == 2
    assert star.frames[0][2] == 1
    del star.frames[0]
    star.durable -= 1
    later = star.killed()
    assert later.status()["workers"] == later.status()["clients"] == []
    worker.star = later
    assert not worker.connect().resumed
    assign = later.take(Assign, worker)
    assert (len(assign.head_sizes), assign.attempt) == (2, 2)
    worker.finish(assign)
    assert rows(owner(later))[0]["done"] == 2


def test_argument_that_the_journal_lost_fails_its_task_alone() -> None:
    star = JournaledStar()
    bodied(star, 2)
    kinds = [frame[2] for frame in star.frames]
    del star.frames[kinds.index(20)]
    star.durable -= 1
    later = star.killed()
    reader = owner(later)
    assert rows(reader)[0]["failed"] == 1
    assert len(later.all(Assign, later.worker(slots=2))) == 1


# -- a full disk -------------------------------------------------------------------------------------------------


def test_full_disk_refuses_new_jobs_and_those_on_their_way_and_keeps_the_accepted() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, name="kept")
    coming = Detaching(client, 2, name="coming").begun()
    coming.job.submit(1)
    coming.stored(0)
    star.fail()
    assert "cannot be written: No space left on device" in coming.refused(Code.GONE)
    assert "cannot be written" in Detaching(client, name="new").refused(Code.GONE)
    assert [row["name"] for row in rows(client)] == ["kept"]
    worker.finish(worker.leased(count=1))
    told(client, attach(client, name="kept"), [0])
    star.feed(Renew())
    detached(client, name="later")
    assert sorted(row["name"] for row in rows(owner(star.killed()))) == ["kept", "later"]


def test_job_whose_acceptance_is_not_on_the_failing_disk_is_not_said_to_be_accepted() -> None:
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client).begun()
    star.syncing = False
    job.job.submit(1)
    star.fail()
    assert "cannot be written" in job.refused(Code.GONE)
    assert star.all(Outcome, client) == star.all(Stored, client) == []
    assert rows(client) == []


def test_files_that_cannot_be_written_hold_stored_jobs_up_and_cost_nothing_that_was_accepted() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 4, name="kept")
    coming = Detaching(client, name="coming").begun()
    first, second = worker.leased(count=1), worker.leased(count=1)
    star.writing = False
    worker.result([first.lease], bodies=[BODY], seconds=1.0)
    push_all(worker, first.lease)
    star.feed(SpoolFailed("No space left on device"))
    star.feed(SpoolFailed("No space left on device"))
    assert "what detached jobs need cannot be written" in coming.refused(Code.GONE)
    assert "No space left" in Detaching(client, name="new").refused(Code.GONE)
    third = worker.leased(count=1)
    worker.finish(second)
    worker.finish(third, seconds=1.0)
    assert said(star, Assign) == 0  # the fourth one waits
    job = client.job()
    job.submit(1)  # others do not
    worker.leased(job, 0, 1)
    star.feed(SpoolWorks())
    star.feed(Synced([1]))
    worker.leased(count=1)
    star.expect(Confirm(array("Q", [first.lease])), worker)
    assert len([line for line in star.logs if "what detached jobs need cannot be written" in line]) == 1
    detached(client, name="later")


def test_file_goes_only_behind_the_record_that_says_it_is_not_needed() -> None:
    star = JournaledStar()
    bodied(star)
    worker = star.worker()
    assign = worker.leased(count=1)
    worker.star.now += 0.1
    result = Result(array("Q", [assign.lease]), b"\0", array("d", [0.1]), array("I", [0]))
    actions = star.core.handle(Received(worker.link, result), star.now)
    kinds = [type(action) for action in actions]
    assert kinds.index(Record) < kinds.index(Drop)


# -- every moment ------------------------------------------------------------------------------------------------


def test_manager_may_die_after_any_record() -> None:
    """Whatever is on disk makes a star whose books are in order, and what was accepted is fetched whole."""
    star = JournaledStar()
    worker, client = star.worker(slots=2), owner(star)
    files: dict[int, int] = {}
    detached(client, 3, name="small", retries=1)
    job = Detaching(client, 2, name="large").begun()
    job.job.submit(2, bodies=[BODY, BODY])
    for index in range(2):
        push_all(client, job.job.stream(index))
        job.stored(index)
    accepted = star.durable
    job.accepted()
    files |= star.files
    assigns = star.all(Assign, worker)
    worker.result([assigns[0].lease], bodies=[BODY])
    push_all(worker, assigns[0].lease)
    files |= star.files
    number = next(client._jobs)
    client.say(Attach(number, "small", True))
    for outcome in star.all(Outcome, client):
        client.ack(outcome)
    for records in range(len(star.frames) + 1):
        star.files = dict(files)
        later = star.killed(records)
        assert later.ended == 0
        later.wait(11.0)  # the worker does not come back
        other, reader = later.worker(slots=4), owner(later)
        kept = [row["name"] for row in rows(reader)]
        if records >= accepted:
            assert kept == ["small", "large"]
        for _ in range(4):
            for assign in later.all(Assign, other):
                other.result(range(assign.lease, assign.lease + len(assign.head_sizes)))
        for row in rows(reader):
            assert row["done"] == row["tasks"]


def test_segment_that_begins_while_a_job_comes_has_what_is_here_of_it() -> None:
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client, 3, size=1 << 22).begun()
    job.job.submit(2, bodies=[BODY, BODY])
    push_all(client, job.job.stream(0))
    job.stored(0)
    star.take(Grant, client)
    client.push(job.job.stream(1), 0, 1000)
    star.feed(Renew())
    client.push(job.job.stream(1), 1000, BODY - 1000)
    job.stored(1)
    job.job.submit(1)
    job.stored(2)
    job.accepted()
    later = star.killed()
    assert (later.ended, len(later.files), rows(owner(later))[0]["queued"]) == (0, 2, 3)


def test_jobs_come_and_go_over_many_managers_and_each_keeps_its_file() -> None:
    star = JournaledStar()
    for number in range(4):
        bodied(star, name=f"job {number}")
        if number % 2:
            rows(owner(star), Deed.FORGET, f"job {number}")
            star.feed(Renew())
        star = star.killed()
    assert (star.ended, len(star.files)) == (0, 2)
    assert [row["name"] for row in rows(owner(star))] == ["job 0", "job 2"]


# -- whose they are ----------------------------------------------------------------------------------------------

ALICE = "star/client/alice"


def test_renewed_certificate_finds_a_job_after_a_death() -> None:
    star = JournaledStar()
    detached(star.client(identity=ALICE, fingerprint="a" * 64))
    later = star.killed()
    assert rows(later.client(identity="star/client/bob", fingerprint="b" * 64)) == []
    assert len(rows(later.client(identity=ALICE, fingerprint="c" * 64))) == 1
    later.core.check()


def test_job_of_a_journal_that_knows_certificates_alone_becomes_its_clients() -> None:
    star = JournaledStar()
    detached(star.client(identity="a" * 64))  # as in a segment of version 2
    later = star.killed()
    assert rows(later.client(identity="star/client/bob", fingerprint="b" * 64)) == []
    assert rows(later.client(identity=ALICE, fingerprint="c" * 64)) == [], "it has not shown the old one yet"
    assert len(rows(later.client(identity=ALICE, fingerprint="a" * 64))) == 1
    last = later.killed()
    renewed = last.client(identity=ALICE, fingerprint="c" * 64)
    worker = last.worker()
    worker.finish(worker.leased(count=1))
    told(renewed, attach(renewed), [0])
    assert len(rows(renewed, Deed.FORGET, "scan-7")) == 0
    assert not last.killed().recovered().keepers
    last.core.check()


def test_job_known_by_a_certificate_waits_while_its_client_has_others() -> None:
    star = JournaledStar()
    detached(star.client(identity="a" * 64))
    later = star.killed()
    detached(later.client(identity=ALICE, fingerprint="c" * 64), name="newer")
    old = later.client(identity=ALICE, fingerprint="a" * 64)
    assert [row["name"] for row in rows(old)] == ["newer"]
    rows(old, Deed.FORGET, "newer")
    assert [row["name"] for row in rows(old)] == ["scan-7"]
    last = later.killed()
    assert [row["name"] for row in rows(last.client(identity=ALICE, fingerprint="d" * 64))] == ["scan-7"]
    last.core.check()
