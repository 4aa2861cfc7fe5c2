"""Files that were there and cannot be read any more: what needs them fails, and nothing else does."""

from __future__ import annotations

import hashlib
from array import array

import pytest

from manager.test_store import BODY, Detaching, attach, detached, owner, push_all, rows
from starcore.errors import Code, Status
from starcore.events import Spooled, Unreadable
from starcore.manager.stored import StoreLimits
from starcore.messages import Abort, Ack, Assign, Blob, Deed, Grant, Outcome, Want
from tests.manager.journals import JournaledStar
from tests.manager.star import Star, settle
from tests.manager.test_journaled import reconnect
from tests.manager.test_keeping import bodied

REASON = "No such file or directory"


def failed(outcome: Outcome, what: str) -> bool:
    """Whether an outcome says that this is lost."""
    text = f"its {what}, which the manager kept, is lost: {REASON}"
    return (bytes(outcome.statuses), bytes(outcome.heads)) == (bytes([Status.UNRUNNABLE]), text.encode())


@pytest.mark.parametrize("journaled", [True, False])
def test_task_whose_argument_cannot_be_read_fails_and_the_worker_gets_the_others(journaled: bool) -> None:
    star = JournaledStar() if journaled else Star(store=StoreLimits(memory_bytes=0, spool_bytes=1 << 30))
    worker = star.worker(slots=2, first_window_bytes=0)
    bodied(star, 2)
    first, second = star.all(Assign, worker)
    worker.say(Grant(first.lease, 1, 0, BODY))
    assert star.chunk(worker).token.body == 1
    star.feed(Unreadable(1, REASON))
    assert f"a file of a detached job is lost: 0000000000000001: {REASON}" in star.logs
    assert worker.retracted(kill=True) == [first.lease]
    worker.give_back([first.lease])
    worker.say(Grant(second.lease, 1, 0, BODY))
    worker.writable()
    assert star.chunk(worker).token.body == 2
    worker.finish(second)
    reader = owner(star)
    attach(reader, 2)
    outcomes = {outcome.indices[0]: outcome for outcome in star.all(Outcome, reader)}
    assert failed(outcomes[0], "argument") and bytes(outcomes[1].heads) == b"answer"
    reader.say(Ack(array("Q", (outcome.sequence for outcome in outcomes.values()))))
    settle(star)
    row = rows(reader)[0]
    assert (row["done"], row["failed"], row["running"]) == (1, 1, 0)
    if isinstance(star, JournaledStar):
        assert star.files == {}


def test_answer_that_cannot_be_read_is_told_as_lost_to_readers_and_to_those_who_come_later() -> None:
    star = JournaledStar()
    worker = star.worker(slots=1)
    detached(owner(star), 2)
    for _ in range(2):
        assign = worker.leased(count=1)
        worker.result([assign.lease], bodies=[BODY])
        push_all(worker, assign.lease)
    reader, other = owner(star), owner(star)
    number, there = attach(reader, 2), attach(other, 2)
    had = star.all(Outcome, other)[0]
    assert had.indices[0] == 0
    other.say(Grant(there << 32, 1, 0, BODY))
    star.chunk(other)
    other.ack(had)  # it has that one whole
    outcome = star.all(Outcome, reader)[0]
    reader.say(Grant(number << 32, 1, 0, BODY))
    assert star.chunk(reader).token.body == 1
    star.feed(Unreadable(1, REASON))
    star.feed(Unreadable(1, REASON))
    assert sum("is lost" in line for line in star.logs) == 1
    abort = star.take(Abort, reader)
    assert (abort.stream, abort.attempt, abort.code) == (number << 32, 1, Code.GONE)
    again = star.take(Outcome, reader)
    assert failed(again, "answer") and again.sequence > outcome.sequence and not again.body_sizes
    reader.ack(again)
    assert star.all(Abort, other) == star.all(Outcome, other) == []
    row = rows(reader)[0]
    assert (row["done"], row["failed"]) == (1, 1)
    assert star.files == {2: BODY}
    late = owner(star)
    attach(late, 2)
    assert failed(star.take(Outcome, late), "answer")
    later = star.killed()
    row = rows(owner(later))[0]
    assert (row["done"], row["failed"]) == (1, 1)


def test_function_that_cannot_be_read_fails_what_needs_it_and_is_asked_of_who_calls_it_again() -> None:
    code = b"x" * 300_000
    digest = hashlib.sha256(code).digest()
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client, 2, blob=False, code=code)
    client.say(Blob(digest, 1 << 63 | 1, len(code)))
    client.push(1 << 63 | 1, 0, len(code), token=code)
    job.begun()
    job.job.submit(2)
    job.stored(0, 1)
    job.accepted()
    later = star.killed()
    reconnect(later, client)
    worker = later.worker(slots=1, first_window_bytes=0)
    stream = later.take(Blob, worker).stream
    worker.say(Grant(stream, 1, 0, len(code)))
    assert type(later.chunk(worker).token) is Spooled
    later.feed(Unreadable(1, REASON))
    assert worker.retracted(kill=True)
    reader = owner(later)
    attach(reader, 2)
    outcomes = later.all(Outcome, reader)
    assert sorted(index for outcome in outcomes for index in outcome.indices) == [0, 1]
    assert all(failed(outcome, "function") for outcome in outcomes)
    assert rows(reader)[0]["failed"] == 2
    later.expect(Want(digest), client)


def test_function_of_a_job_that_is_over_is_asked_of_who_calls_it_when_its_file_cannot_be_read() -> None:
    code = b"x" * 300_000
    digest = hashlib.sha256(code).digest()
    star = JournaledStar()
    client = owner(star)
    job = Detaching(client, blob=False, code=code)
    client.say(Blob(digest, 1 << 63 | 1, len(code)))
    client.push(1 << 63 | 1, 0, len(code), token=code)
    job.begun()
    job.job.submit(1)
    job.stored(0)
    job.accepted()
    later = star.killed()
    caller = owner(later)
    rows(caller, Deed.FORGET, "scan-7")  # the function stays for a while, in its file
    worker = later.worker(slots=1, first_window_bytes=0)
    call = caller.job(blob=False, code=code)
    call.submit(1)
    worker.say(Grant(later.take(Blob, worker).stream, 1, 0, len(code)))
    assert later.chunk(worker).token.body == 1
    later.feed(Unreadable(1, REASON))
    assert failed(later.take(Outcome, caller), "function")
    later.expect(Want(digest), caller)


def test_file_that_nobody_needs_any_more_is_no_loss() -> None:
    star = JournaledStar()
    bodied(star)
    star.feed(Unreadable(9, REASON))
    assert not any("lost" in line for line in star.logs)
    star.quiet()
