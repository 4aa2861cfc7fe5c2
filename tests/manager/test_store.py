"""Jobs that outlive their client: brought, accepted, run, told to another session, and let go of."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest

from manager.star import ClientSide, Star, WorkerSide, settle
from starcore.errors import Code, Status
from starcore.events import Send, SendChunk, Spill, Spooled
from starcore.manager.outbox import Drain, SpoolFailed
from starcore.manager.state import SUSPECT_LOSSES
from starcore.manager.stored import StoreLimits
from starcore.messages import (
    Ack,
    Assign,
    Attach,
    Blob,
    Confirm,
    Deed,
    Detach,
    Forget,
    FunctionKind,
    Grant,
    Inquire,
    Inventory,
    Notice,
    Outcome,
    Retract,
    Share,
    Stored,
    Submit,
    Want,
)

BODY = 100_000
SIZE = 1 << 20


class Detaching:
    """A job of a client's that is to be stored."""

    def __init__(
        self,
        client: ClientSide,
        tasks: int = 1,
        name: str = "scan-7",
        *,
        size: int = SIZE,
        note: bytes = b"note",
        keep_seconds: float = 0.0,
        **options: Any,
    ) -> None:
        self.client, self.tasks = client, tasks
        self.job = client.job(**options)
        self.detach = Detach(self.job.number, name, tasks, size, keep_seconds, note)
        client.say(self.detach)

    def begun(self) -> Detaching:
        """Take the word that there is room."""
        self.client.star.expect(Stored(self.job.number, 0, "", False, self.tasks), self.client)
        return self

    def stored(self, *indices: int) -> None:
        """Take and acknowledge the word that these tasks are stored."""
        self.client.outcome(self.job, indices, head=b"")

    def accepted(self) -> Detaching:
        """Take the word that all is stored."""
        self.client.star.expect(Stored(self.job.number, 0, "", True, self.tasks), self.client)
        return self

    def refused(self, code: Code = Code.UNEXPECTED) -> str:
        """Take the refusal; returns its reason."""
        stored = self.client.star.take(Stored, self.client)
        assert (stored.job, stored.code) == (self.job.number, code), stored
        return stored.reason


def detached(client: ClientSide, tasks: int = 1, name: str = "scan-7", **options: Any) -> Detaching:
    """Detach a job of small tasks; it is accepted."""
    job = Detaching(client, tasks, name, **options).begun()
    job.job.submit(tasks)
    job.stored(*range(tasks))
    return job.accepted()


def owner(star: Star, **options: Any) -> ClientSide:
    """Connect another session of the one who owns the stored jobs."""
    return star.client(identity="mine", **options)


def attach(client: ClientSide, tasks: int = 1, name: str = "scan-7", *, take: bool = False) -> int:
    """Attach to a stored job; returns the job's number."""
    number = next(client._jobs)
    client.say(Attach(number, name, take))
    client.star.expect(Stored(number, 0, "", True, tasks, b"note"), client)
    return number


def told(client: ClientSide, number: int, indices: list[int], head: bytes = b"answer", *, ack: bool = True) -> Outcome:
    """Take an outcome of a stored job."""
    outcome = client.star.take(Outcome, client)
    assert (outcome.job, list(outcome.indices)) == (number, indices)
    assert bytes(outcome.heads) == head * len(indices)
    if ack:
        client.ack(outcome)
    return outcome


def rows(client: ClientSide, deed: Deed = Deed.LIST, name: str = "") -> list[dict[str, Any]]:
    """Ask how the stored jobs stand."""
    client.say(Inquire(3, deed, name))
    inventory = client.star.take(Inventory, client)
    assert inventory.question == 3
    return json.loads(inventory.text)


def push_all(side: ClientSide | WorkerSide, stream: int, size: int = BODY, attempt: int = 1) -> None:
    """Take the GRANT of a whole body, and send it."""
    grant = side.star.take(Grant, side)
    assert (grant.stream, grant.offset, grant.count) == (stream, 0, size)
    side.push(stream, 0, size, attempt, token=f"{side.role.name} {stream}")


# -- from one session to another ---------------------------------------------------------------------------------


def test_job_outlives_its_client_and_another_session_fetches_it_once():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    client.goodbye()
    first = worker.leased(count=1)
    worker.finish(first)
    second = worker.leased(count=1)
    worker.finish(second, head=b"other")
    settle(star)
    star.quiet()
    reader = owner(star)
    number = attach(reader, 2)
    told(reader, number, [0])
    told(reader, number, [1], b"other")
    assert rows(reader)[0]["done"] == 2
    assert rows(reader, Deed.FORGET, "scan-7") == []
    assert reader.star.take(Stored, reader).code == Code.GONE
    star.actions.clear()
    assert star.status()["held_bytes"] == 0
    assert star.core._store.bytes == 0
    star.quiet()


def test_job_runs_only_when_all_of_it_is_here():
    star = Star()
    worker, client = star.worker(slots=4), owner(star)
    settle(star)
    job = Detaching(client, 3).begun()
    job.job.submit(2)
    job.stored(0, 1)
    star.quiet()
    job.job.submit(1)
    job.stored(2)
    job.accepted()
    assert sum(len(assign.head_sizes) for assign in [worker.leased()]) >= 1


def test_argument_is_pulled_whole_and_lent_to_every_attempt():
    star = Star()
    client = owner(star)
    job = Detaching(client).begun()
    job.job.submit(1, bodies=[BODY])
    push_all(client, job.job.stream(0))
    job.stored(0)
    job.accepted()
    client.goodbye()
    worker = star.worker(slots=1, first_window_bytes=0)
    for attempt in (1, 2):
        assign = worker.leased(count=1, attempt=attempt)
        worker.say(Grant(assign.lease, attempt, 0, BODY))
        chunk = star.chunk(worker)
        assert (chunk.length, chunk.token) == (BODY, f"CLIENT {job.job.stream(0)}")
        if attempt == 1:
            worker.goodbye()
            worker = star.worker(slots=1, first_window_bytes=0)
    assert star.dropped == []
    worker.finish(assign)
    assert star.dropped == [f"CLIENT {job.job.stream(0)}"]
    settle(star)
    star.quiet()


def test_answer_with_a_body_is_pulled_here_and_only_then_its_worker_may_free_it():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    client.goodbye()
    assign = worker.leased(count=1)
    worker.result([assign.lease], bodies=[BODY])
    assert star.all(Confirm, worker) == []
    push_all(worker, assign.lease)
    star.expect(Confirm(array("Q", [assign.lease])), worker)
    worker.goodbye()
    reader = owner(star)
    number = attach(reader)
    outcome = told(reader, number, [0], ack=False)
    assert list(outcome.body_sizes) == [BODY]
    reader.say(Grant(number << 32, 1, 0, BODY))
    assert star.chunk(reader).token == f"WORKER {assign.lease}"
    reader.ack(outcome)
    assert star.dropped == []
    rows(reader, Deed.FORGET, "scan-7")
    assert star.dropped == [f"WORKER {assign.lease}"]


def test_answer_cut_off_with_its_worker_is_computed_again():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    worker.result([assign.lease], bodies=[BODY])
    star.take(Grant, worker)
    worker.push(assign.lease, 0, 1000)
    worker.goodbye()
    other = star.worker(slots=1)
    again = other.leased(count=1, attempt=2)
    other.finish(again)
    reader = owner(star)
    told(reader, attach(reader), [0])
    settle(star)
    star.quiet()


def test_pulling_an_answer_goes_on_when_its_worker_returns():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    worker.result([assign.lease], bodies=[BODY])
    star.take(Grant, worker)
    worker.push(assign.lease, 0, 1000)
    worker.lose()
    worker.connect(leases=array("Q", [assign.lease]))
    worker.result([assign.lease], bodies=[BODY])
    star.expect(Grant(assign.lease, 1, 1000, BODY - 1000), worker)
    worker.push(assign.lease, 1000, BODY - 1000)
    star.expect(Confirm(array("Q", [assign.lease])), worker)
    assert rows(client)[0]["done"] == 1


def test_reader_that_comes_early_is_told_each_outcome_as_it_comes():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    number = attach(client, 2)
    assert star.all(Outcome, client) == []
    worker.finish(worker.leased(count=1))
    told(client, number, [0])
    worker.finish(worker.leased(count=1), Status.RAISED, head=b"oops")
    outcome = told(client, number, [1], b"oops")
    assert bytes(outcome.statuses) == bytes([Status.RAISED])
    row = rows(client)[0]
    assert (row["done"], row["failed"], row["queued"], row["running"]) == (1, 1, 0, 0)
    settle(star)
    star.quiet()


def test_two_readers_are_told_the_same_and_acknowledge_for_themselves():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    worker.finish(worker.leased(count=1))
    one, other = owner(star), owner(star)
    told(one, attach(one), [0])
    told(other, attach(other), [0])
    settle(star)
    star.quiet()


def test_reader_that_does_not_read_is_told_no_more_than_its_credit():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 3)
    for _ in range(3):
        worker.finish(worker.leased(count=1), head=bytes(200))
    reader = owner(star, result_bytes=200)
    number = attach(reader, 3)
    first = told(reader, number, [0], bytes(200), ack=False)
    assert star.all(Outcome, reader) == []
    reader.ack(first)
    told(reader, number, [1], bytes(200))
    told(reader, number, [2], bytes(200))


def test_reader_that_reconnects_is_told_again_what_it_has_not_acknowledged():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    worker.result([assign.lease], bodies=[BODY])
    push_all(worker, assign.lease)
    reader = owner(star)
    number = attach(reader)
    first = told(reader, number, [0], ack=False)
    reader.say(Grant(number << 32, 1, 0, BODY))
    star.chunk(reader)
    reader.lose()
    reader.connect()
    reader.say(Attach(number, "scan-7", False))
    star.expect(Stored(number, 0, "", True, 1, b"note"), reader)
    assert told(reader, number, [0], ack=False) == first
    reader.say(Grant(number << 32, 1, 1000, BODY - 1000))
    chunk = star.chunk(reader)
    assert (chunk.offset, chunk.length, chunk.start) == (1000, BODY - 1000, 1000)
    reader.ack(first)
    star.all(Confirm, worker)
    settle(star)
    star.quiet()


# -- the way here ------------------------------------------------------------------------------------------------


def test_function_has_to_be_here_too():
    star = Star()
    client = owner(star)
    job = Detaching(client, blob=False)
    star.take(Want, client)
    job.begun()
    job.job.submit(1)
    job.stored(0)
    star.quiet()
    client.say(Blob(job.job.digest, 1 << 63 | 9, 0, b"a function"))
    job.accepted()
    star.quiet()


def test_function_too_large_refuses_the_job():
    star = Star(blob_bytes=BODY)
    client = owner(star)
    job = Detaching(client, blob=False)
    star.take(Want, client)
    job.begun()
    client.say(Blob(job.job.digest, 1 << 63 | 9, BODY + 1))
    assert "has room for" in job.refused(Code.GONE)
    assert rows(client) == []


def test_client_that_dies_on_the_way_leaves_nothing():
    star = Star()
    client = owner(star)
    job = Detaching(client, 2).begun()
    job.job.submit(1, bodies=[BODY])
    star.take(Grant, client)
    client.push(job.job.stream(0), 0, 1000, token="piece")
    client.goodbye()
    assert star.dropped == ["piece"]
    assert rows(owner(star)) == []
    assert star.core._store.bytes == 0
    star.quiet()


def test_client_that_gives_a_job_up_leaves_nothing():
    star = Star()
    client = owner(star)
    job = Detaching(client, 2).begun()
    job.job.submit(1)
    job.stored(0)
    rows(client, Deed.FORGET, "scan-7")
    assert "forgotten" in job.refused(Code.GONE)
    job.job.submit(1)
    assert rows(client) == []
    client.say(Forget(job.job.number))
    star.quiet()


def test_client_that_reconnects_goes_on_where_it_stopped():
    star = Star()
    client = owner(star)
    job = Detaching(client, 2).begun()
    job.job.submit(1)
    first = client.outcome(job.job, [0], head=b"", ack=False)
    job.job.submit(1, bodies=[BODY])
    star.take(Grant, client)
    client.push(job.job.stream(1), 0, 1000)
    client.lose()
    client.connect()
    client.say(job.job.message)
    client.say(job.detach)
    job.begun()
    assert star.take(Outcome, client) == first
    job.job.submit(2, first=0, again=True, bodies=[0, BODY])
    star.expect(Grant(job.job.stream(1), 1, 1000, BODY - 1000), client)
    client.push(job.job.stream(1), 1000, BODY - 1000)
    client.ack(first)
    job.stored(1)
    job.accepted()
    star.quiet()


def test_client_that_lost_the_last_word_hears_it_again():
    star = Star()
    client = owner(star)
    job = detached(client)
    client.lose()
    client.connect()
    client.say(job.job.message)
    client.say(job.detach)
    job.accepted()
    star.quiet()


def test_task_that_fits_no_worker_fails_and_is_told():
    star = Star()
    star.worker(slots=1, arena_bytes=BODY - 1)
    client = owner(star)
    job = Detaching(client).begun()
    job.job.submit(1, bodies=[BODY])
    push_all(client, job.job.stream(0))
    job.stored(0)
    job.accepted()
    number = attach(client)
    outcome = star.take(Outcome, client)
    assert (outcome.job, bytes(outcome.statuses)) == (number, bytes([Status.UNRUNNABLE]))
    assert b"fits no worker" in bytes(outcome.heads)


# -- who may what ------------------------------------------------------------------------------------------------


def test_another_certificate_sees_nothing_of_it():
    star = Star()
    detached(owner(star))
    stranger = star.client(identity="another")
    assert rows(stranger) == []
    assert rows(stranger, Deed.FORGET, "scan-7") == []
    stranger.say(Attach(1, "scan-7", False))
    stored = star.take(Stored, stranger)
    assert (stored.code, stored.reason) == (Code.GONE, "there is no stored job 'scan-7'")
    assert len(rows(owner(star))) == 1
    detached(stranger)
    assert len(rows(stranger)) == 1
    star.quiet()


def test_renewed_certificate_of_the_same_identity_finds_it_and_another_one_does_not():
    star = Star()
    first = owner(star, fingerprint="of last year")
    detached(first)
    first.goodbye()
    later = owner(star, fingerprint="of this year")
    assert [row["name"] for row in rows(later)] == ["scan-7"]
    assert "already" in Detaching(later).refused()
    thief = star.client(name=first.name, identity="another", session=b"t" * 16)
    assert rows(thief) == rows(thief, Deed.CANCEL, "scan-7") == []
    worker = star.worker()
    worker.finish(worker.leased(count=1))
    told(later, attach(later), [0])
    star.quiet()


def test_second_job_of_a_name_is_refused_before_it_is_sent():
    star = Star()
    client = owner(star)
    detached(client)
    assert "already" in Detaching(client).refused()
    star.quiet()


@pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines"])
def test_name_that_nobody_could_read_is_refused(name):
    star = Star()
    assert "printable" in Detaching(owner(star), name=name).refused()
    star.quiet()


def test_jobs_of_a_certificate_are_bounded():
    star = Star(store=StoreLimits(identity_jobs_max=1))
    client = owner(star)
    detached(client)
    assert "1 stored jobs" in Detaching(client, name="scan-8").refused()
    detached(star.client(identity="another"), name="scan-8")
    star.quiet()


def test_job_that_needs_put_values_is_refused():
    star = Star()
    client = owner(star)
    client.say(Share(b"v" * 32, 1 << 63 | 7, 0, b"value"))
    job = Detaching(client, shares=b"v" * 32)
    star.all(Want, client)
    assert "put values" in job.refused()
    star.quiet()


@pytest.mark.parametrize("tasks", [1, 3])
def test_tasks_beyond_those_announced_are_a_fault(tasks):
    star = Star()
    client = owner(star)
    job = Detaching(client, 2).begun()
    job.job.submit(tasks, first=3 - tasks)
    assert "to be stored" in star.closed(client, Code.UNEXPECTED)


def test_bytes_beyond_those_announced_are_a_fault():
    star = Star()
    client = owner(star)
    job = Detaching(client, size=80).begun()
    job.job.submit(1, bodies=[BODY])
    assert "announced with 80" in star.closed(client, Code.OVERRUN)


def test_tasks_before_there_is_room_are_a_fault():
    star = Star(store=StoreLimits(memory_bytes=SIZE))
    client = owner(star)
    detached(client, keep_seconds=5.0)
    Detaching(client, name="scan-8", size=SIZE).job.submit(1)
    star.closed(client, Code.UNEXPECTED)


def test_job_with_tasks_already_cannot_be_stored():
    star = Star()
    client = owner(star)
    job = client.job()
    job.submit(1)
    client.say(Detach(job.number, "late", 1, SIZE, 0.0))
    assert "tasks already" in star.closed(client, Code.UNEXPECTED)


def test_job_that_is_not_known_cannot_be_stored():
    star = Star()
    client = owner(star)
    client.say(Detach(77, "none", 1, SIZE, 0.0))
    star.closed(client, Code.UNEXPECTED)


def test_job_with_tasks_of_its_own_attaches_to_nothing():
    star = Star()
    client = owner(star)
    detached(client)
    other = client.job()
    client.say(Attach(other.number, "scan-7", False))
    star.closed(client, Code.UNEXPECTED)


@pytest.mark.parametrize("say", ["submit", "detach"])
def test_job_that_reads_a_stored_one_has_no_tasks_of_its_own(say):
    star = Star()
    star.worker()
    client = owner(star)
    detached(client)
    number = attach(client)
    if say == "submit":
        client.say(Submit(number, 0, False, array("I", [1]), array("Q"), b"a"))
    else:
        client.say(Detach(number, "other", 1, SIZE, 0.0))
    star.closed(client, Code.UNEXPECTED)


# -- bytes -------------------------------------------------------------------------------------------------------


def test_job_larger_than_the_store_is_refused():
    star = Star(store=StoreLimits(memory_bytes=1000, spool_bytes=500))
    assert "stores 1500" in Detaching(owner(star), size=1501).refused()
    star.quiet()


def test_job_waits_for_room_and_the_one_with_least_here_comes_first():
    star = Star(store=StoreLimits(memory_bytes=2500))
    client, stranger = owner(star), star.client(identity="another")
    Detaching(client, name="first", size=1000).begun()
    Detaching(client, name="second", size=1000).begun()
    mine = Detaching(client, name="third", size=1000)
    theirs = Detaching(stranger, name="first", size=1000)
    star.quiet()
    rows(client, Deed.FORGET, "first")
    star.all(Stored, client)
    theirs.begun()
    rows(client, Deed.FORGET, "second")
    star.take(Stored, client)
    mine.begun()
    star.quiet()


def test_job_behind_one_that_was_given_up_before_there_was_room_for_it_is_let_in():
    star = Star(store=StoreLimits(memory_bytes=1000))
    one, other = star.client(identity="one"), star.client(identity="other")
    Detaching(one, name="here", size=500).begun()
    large, small = Detaching(other, name="large", size=800), Detaching(one, name="small", size=100)
    star.quiet()
    other.say(Forget(large.job.number))
    small.begun()


def test_job_that_outgrows_a_full_store_waits_until_its_answers_are_taken():
    star = Star(store=StoreLimits(memory_bytes=1000))
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 4, size=400)
    first, second = worker.leased(count=1), worker.leased(count=1)
    worker.finish(first, head=bytes(900))
    worker.finish(second)
    settle(star)
    star.quiet()  # two tasks wait, and the worker is idle
    reader = owner(star)
    number = attach(reader, 4, take=True)
    told(reader, number, [0], bytes(900))
    worker.leased(count=2)
    told(reader, number, [1])
    assert rows(reader)[0]["fetched"] == 2
    star.quiet()


def test_job_that_waits_for_room_is_said_to_in_the_log_the_list_and_to_who_reads_on():
    star = Star(store=StoreLimits(memory_bytes=1000))
    worker, client = star.worker(slots=1), owner(star)
    early = owner(star)
    detached(client, 4, size=400)
    number = attach(early, 4)
    first, second = worker.leased(count=1), worker.leased(count=1)
    assert not rows(client)[0]["waits_for_room"]
    worker.finish(first, head=bytes(900))
    worker.finish(second)
    settle(star)
    said = "the manager keeps 1000 bytes of detached jobs (--stored-memory, --spool), and these are full"
    assert [said in line for line in star.logs if "scan-7" in line] == [True]
    notice = star.take(Notice, early)
    assert (notice.job, said in notice.text) == (number, True)
    told(early, number, [0], bytes(900))
    told(early, number, [1])
    assert rows(client)[0]["waits_for_room"]
    late = owner(star)
    attach(late, 4)
    star.take(Notice, late)
    star.all(Outcome, late)
    star.quiet()


def test_outcome_that_was_let_go_is_told_as_gone():
    star = Star(store=StoreLimits(memory_bytes=1000))
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2, size=300)
    first, second = worker.leased(count=1), worker.leased(count=1)
    worker.finish(first, head=bytes(900))
    settle(star)
    reader, slow = owner(star), owner(star)
    slow_number = attach(slow, 2)
    copy = told(slow, slow_number, [0], bytes(900), ack=False)
    number = attach(reader, 2, take=True)
    told(reader, number, [0], bytes(900))
    gone = star.take(Outcome, slow)
    assert bytes(gone.statuses) == bytes([Status.UNRUNNABLE])
    assert list(gone.indices) == [0]
    slow.ack(copy, gone)
    late = owner(star)
    number = next(late._jobs)
    late.say(Attach(number, "scan-7"))
    told_first = [type(action.message) for action in star.actions if isinstance(action, Send)]
    assert told_first == [Stored, Outcome]  # the other way round its client would know nothing of the task
    star.take(Stored, late)
    assert b"fetched before" in bytes(star.take(Outcome, late).heads)
    worker.finish(second)
    star.all(Outcome, late)
    star.all(Outcome, slow)
    told(reader, number, [1])
    star.quiet()


def test_what_is_beyond_memory_lies_in_the_spool():
    star = Star(store=StoreLimits(memory_bytes=1000, spool_bytes=1 << 20))
    worker, client = star.worker(slots=1, first_window_bytes=0), owner(star)
    settle(star)
    job = Detaching(client).begun()
    job.job.submit(1, bodies=[BODY])
    stream = job.job.stream(0)
    star.take(Grant, client)
    client.push(stream, 0, 600, token="first")
    client.push(stream, 600, BODY - 600, token="second")
    spill = next(action for action in star.actions if isinstance(action, Spill))
    star.actions.remove(spill)
    assert (spill.token, spill.spooled) == ("second", Spooled(1, 600, BODY - 600))
    job.stored(0)
    job.accepted()
    assign = worker.leased(count=1)
    worker.say(Grant(assign.lease, 1, 0, BODY))
    assert star.chunk(worker).token == "first"
    worker.writable()
    chunk = star.chunk(worker)
    assert isinstance(chunk, SendChunk)
    assert chunk.token is spill.spooled
    worker.finish(assign)
    assert star.dropped == ["first", spill.spooled]
    assert star.core._relay.spooled_bytes == 0
    star.quiet()


def test_spool_that_fails_leaves_room_in_memory_only():
    star = Star(store=StoreLimits(memory_bytes=1000, spool_bytes=1000))
    client = owner(star)
    star.feed(SpoolFailed("no space left on device"))
    star.feed(SpoolFailed("no space left on device"))
    assert "stores 1000" in Detaching(client, size=1001).refused()
    assert len([line for line in star.logs if "no space left" in line]) == 1
    star.quiet()


# -- ends --------------------------------------------------------------------------------------------------------


def test_cancel_ends_what_has_no_outcome():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 3)
    worker.finish(worker.leased(count=1))
    second, third = worker.leased(count=1), worker.leased(count=1)
    row = rows(client, Deed.CANCEL, "scan-7")[0]
    assert (row["done"], row["cancelled"], row["queued"], row["running"]) == (1, 2, 0, 0)
    assert list(star.take(Retract, worker).leases) == [second.lease, third.lease]
    number = attach(client, 3)
    told(client, number, [0])
    outcome = star.take(Outcome, client)
    assert (list(outcome.indices), bytes(outcome.statuses)) == ([1, 2], bytes([Status.CANCELLED] * 2))
    settle(star)
    star.quiet()


def test_cancel_of_a_job_on_its_way_is_the_end_of_it():
    star = Star()
    client = owner(star)
    job = Detaching(client, 2).begun()
    assert rows(client, Deed.CANCEL, "scan-7") == []
    assert "cancelled" in job.refused(Code.GONE)
    star.quiet()


def test_forgotten_job_ends_what_runs_and_breaks_off_what_is_read():
    star = Star()
    worker, client = star.worker(slots=2), owner(star)
    detached(client, 2)
    first = worker.leased()
    lease = first.lease
    worker.result([lease], bodies=[BODY])
    star.take(Grant, worker)
    worker.push(lease, 0, BODY, token="answer")
    reader = owner(star)
    number = attach(reader, 2)
    told(reader, number, [0], ack=False)
    rows(client, Deed.FORGET, "scan-7")
    assert star.take(Stored, reader).code == Code.GONE
    assert "answer" in star.dropped
    assert rows(reader) == []
    assert star.core._relay.held_bytes == 0


def test_job_goes_when_it_was_kept_for_long_enough():
    star = Star(store=StoreLimits(keep_seconds=100.0))
    worker, client = star.worker(slots=1), owner(star)
    detached(client, keep_seconds=1000.0)
    star.core._sessions._limits.silence_seconds = 1e9
    star.wait(60.0)
    worker.finish(worker.leased(count=1))
    star.wait(60.0)
    assert len(rows(client)) == 1  # the clock began anew when its task ended
    star.wait(100.0)
    assert rows(client) == []
    assert any("kept for 100 s" in line for line in star.logs)


def test_manager_that_leaves_says_what_it_takes_along():
    star = Star()
    star.feed(Drain())
    assert not [line for line in star.logs if "stored jobs" in line]
    star = Star()
    detached(owner(star))
    star.feed(Drain())
    assert "stored jobs that end with this manager: 1 (scan-7)" in star.logs


def test_jobs_that_come_and_go_leave_no_timers():
    star = Star()
    client = owner(star)
    for _ in range(50):
        detached(client)
        rows(client, Deed.FORGET, "scan-7")
        star.all(Stored, client)
    assert len(star.core._timers) < 10


def test_registered_function_is_stored_as_well():
    star = Star()
    worker = star.worker(slots=1, functions=["m:f"])
    client = owner(star)
    detached(client, kind=FunctionKind.REGISTERED, function="m:f")
    worker.finish(worker.leased(count=1))
    told(client, attach(client), [0])
    settle(star)
    star.quiet()


def test_acknowledging_twice_or_what_is_unknown_changes_nothing():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    worker.finish(worker.leased(count=1))
    number = attach(client)
    outcome = told(client, number, [0])
    client.ack(outcome)
    client.say(Ack(array("Q", [1 << 50])))
    assert rows(client)[0]["done"] == 1
    settle(star)
    star.quiet()


def test_job_with_a_task_that_runs_for_longer_than_it_is_kept_stays_until_after_its_end():
    star = Star(store=StoreLimits(keep_seconds=100.0))
    worker, client = star.worker(slots=1), owner(star)
    detached(client)
    assign = worker.leased(count=1)
    star.core._sessions._limits.silence_seconds = 1e9
    star.wait(250.0)
    assert [row["running"] for row in rows(client)] == [1]
    worker.finish(assign)
    settle(star)
    star.wait(60.0)
    assert [row["done"] for row in rows(client)] == [1]
    star.wait(60.0)
    assert rows(client) == []


def test_suspect_with_an_argument_keeps_the_worker_that_is_reserved_for_it():
    star = Star()
    other, client = star.client(), owner(star)
    steady = other.job(kind=FunctionKind.REGISTERED, function="g", python="")
    steady.submit(9)
    busy = star.worker(functions=("g",))
    running = star.all(Assign, busy)
    job = Detaching(client).begun()
    job.job.submit(1, bodies=[BODY])
    push_all(client, job.job.stream(0))
    job.stored(0)
    job.accepted()
    for _ in range(SUSPECT_LOSSES):
        worker = star.worker()
        star.take(Assign, worker)
        worker.lose()
        star.wait(1.0)
    for assign in running:
        assert not star.all(Assign, busy)
        busy.finish(assign)
    assert star.take(Assign, busy).attempt == SUSPECT_LOSSES + 1
