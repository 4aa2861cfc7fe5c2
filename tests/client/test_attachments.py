"""Stored jobs in the client's core: brought, read, asked for, and said again on every link."""

from __future__ import annotations

from array import array

import pytest

from client.test_core import DIGEST, Client, stream
from starcore.client import orders
from starcore.errors import Code, Status
from starcore.messages import (
    BLOB_STREAM,
    Attach,
    Blob,
    Deed,
    Detach,
    Forget,
    FunctionKind,
    Grant,
    Inquire,
    Inventory,
    Job,
    Outcome,
    Stored,
    Submit,
)

JOB = Job(1, FunctionKind.SHIPPED, DIGEST, "f", "3.11")
DETACH = Detach(1, "scan-7", 2, 200, 0.0, b"note")
ATTACH = Attach(5, "scan-7")


def detaching() -> Client:
    """A client that has said DETACH."""
    client = Client().join()
    client.feed(orders.Begin(JOB, b"blob", DETACH))
    client.expect(Blob(DIGEST, BLOB_STREAM | 1, 0, b"blob"), JOB, DETACH)
    return client


def begun() -> Client:
    """The same, and the manager has room for it."""
    client = detaching()
    client.say(Stored(1, 0, "", False, 2))
    client.expect(orders.StoredTold(1, 0, "", False, 2, b""))
    return client


def reading(tasks: int = 2) -> Client:
    """A client that reads a stored job of so many tasks."""
    client = Client().join()
    client.feed(orders.Read(ATTACH))
    client.expect(ATTACH)
    client.say(Stored(5, 0, "", True, tasks, b"note"))
    client.expect(orders.StoredTold(5, 0, "", True, tasks, b"note"))
    return client


# -- brought -----------------------------------------------------------------------------------------------------


def test_job_is_detached_before_its_tasks_and_over_when_all_are_stored() -> None:
    client = begun()
    client.call(0, 2)
    assert client.take(Submit).first == 0
    client.say(Outcome(1, 1, 1, array("I", [0, 1]), bytes(2), array("I", [0, 0]), array("Q"), b""))
    assert client.take(orders.Resolve).indices == array("I", [0, 1])
    assert client.core.outstanding == 0
    client.say(Stored(1, 0, "", True, 2))
    client.expect(orders.StoredTold(1, 0, "", True, 2, b""), orders.Forgotten(1))
    assert [type(message) for message in client.sent()][-1] is Forget
    client.quiet()


def test_refused_job_is_forgotten_with_its_tasks_and_their_memory() -> None:
    client = begun()
    client.call(0, 2, body=100_000)
    client.sent()
    client.say(Stored(1, Code.GONE, "forgotten", False, 0))
    client.expect(
        orders.StoredTold(1, Code.GONE, "forgotten", False, 0, b""),
        orders.Released(1, [0, 1]),
        orders.Forgotten(1),
        Forget(1),
    )
    assert client.core.outstanding == 0
    client.quiet()


def test_job_on_its_way_is_said_again_on_a_new_link_before_its_tasks() -> None:
    client = begun()
    client.call(0, 2)
    client.sent()
    client.lose()
    client.join(resumed=True)
    client.expect(Blob(DIGEST, BLOB_STREAM | 2, 0, b"blob"), JOB, DETACH)
    submit = client.take(Submit)
    assert (submit.again, len(submit.head_sizes)) == (True, 2)
    client.quiet()


def test_job_whose_last_word_was_lost_is_said_again() -> None:
    client = begun()
    client.call(0, 2)
    client.sent()
    client.say(Outcome(1, 1, 1, array("I", [0, 1]), bytes(2), array("I", [0, 0]), array("Q"), b""))
    client.take(orders.Resolve)
    client.lose()
    client.join(resumed=True)
    assert client.sent()[-1] == DETACH
    client.say(Stored(1, 0, "", True, 2))
    client.take(orders.StoredTold)
    client.take(orders.Forgotten)


def test_job_is_given_up_where_the_manager_has_lost_the_session() -> None:
    client = begun()
    client.call(0, 2)
    client.sent()
    client.lose()
    client.join(resumed=False)
    told = client.take(orders.StoredTold)
    assert (told.job, told.code) == (1, Code.GONE)
    client.expect(orders.Forgotten(1), Forget(1))
    client.quiet()


def test_job_that_nobody_wants_to_bring_any_more_is_forgotten() -> None:
    client = begun()
    client.feed(orders.GiveUp(1))
    client.expect(orders.Forgotten(1), Forget(1))
    client.feed(orders.GiveUp(1))
    client.quiet()


# -- read --------------------------------------------------------------------------------------------------------


def test_outcomes_of_a_stored_job_resolve_like_those_of_ones_own() -> None:
    client = reading()
    client.say(client.outcome(1, job=5))
    client.expect(orders.Resolve(5, array("I", [1]), b"\0", array("I", [1]), b"b"))
    client.say(client.outcome(0, job=5, sequence=2, bodies=[5]))
    client.expect(orders.Receive(5, 0, 1, Status.OK, b"a", 5), Grant(stream(0, 5), 1, 0, 5))
    client.chunk(stream(0, 5), 0, 5)
    client.expect(orders.Landed(5, 0, Status.OK))
    assert client.acks() == [1, 2]
    client.feed(orders.GiveUp(5))
    client.expect(orders.Forgotten(5), Forget(5))
    client.quiet()


def test_reading_goes_on_after_a_lost_link_and_nothing_of_it_is_submitted() -> None:
    client = reading()
    client.say(client.outcome(0, job=5, bodies=[5]))
    client.take(orders.Receive)
    client.take(Grant)
    client.chunk(stream(0, 5), 0, 2)
    client.lose()
    client.join(resumed=True)
    client.expect(ATTACH)
    client.say(Stored(5, 0, "", True, 2, b"note"))
    client.take(orders.StoredTold)
    client.say(client.outcome(0, job=5, bodies=[5]))
    client.expect(Grant(stream(0, 5), 1, 2, 3))
    client.chunk(stream(0, 5), 2, 3)
    client.expect(orders.Landed(5, 0, Status.OK))
    assert client.core.outstanding == 1


def test_reading_begins_anew_where_the_manager_has_lost_the_session() -> None:
    client = reading()
    client.say(client.outcome(0, job=5))
    client.take(orders.Resolve)
    client.lose()
    client.join(resumed=False)
    client.expect(ATTACH)
    client.say(Stored(5, 0, "", True, 2, b"note"))
    client.take(orders.StoredTold)
    client.say(client.outcome(0, 1, job=5))
    assert client.take(orders.Resolve).indices == array("I", [1])


def test_what_was_read_whole_is_not_read_again_where_the_manager_has_lost_the_session() -> None:
    client = reading()
    client.say(client.outcome(0, 1, job=5))
    client.take(orders.Resolve)
    client.lose()
    client.join(resumed=False)
    client.expect(ATTACH)
    client.say(Stored(5, 0, "", True, 2, b"note"))
    client.take(orders.StoredTold)
    client.say(client.outcome(0, 1, job=5, sequence=7))
    assert client.core.outstanding == 0
    assert client.acks() == [7]
    client.quiet()


def test_job_that_goes_ends_its_reading_in_the_middle_of_an_answer() -> None:
    client = reading()
    client.say(client.outcome(0, job=5, bodies=[5]))
    client.take(orders.Receive)
    client.take(Grant)
    client.say(Stored(5, Code.GONE, "kept for a week", False, 0))
    told = client.take(orders.StoredTold)
    assert told.reason == "kept for a week"
    client.expect(orders.Discard(5, 0), orders.Forgotten(5), Forget(5))
    assert client.core.outstanding == 0
    client.quiet()


def test_client_that_is_shut_down_does_not_wait_for_what_it_reads() -> None:
    client = reading()
    client.feed(orders.Shutdown())
    client.take(orders.Forgotten)
    assert client.core.outstanding == 0


@pytest.mark.parametrize("tasks", [0, 5000])
def test_reading_awaits_as_many_tasks_as_there_are(tasks: int) -> None:
    client = reading(tasks)
    assert client.core.outstanding == tasks
    client.quiet()


# -- asked -------------------------------------------------------------------------------------------------------


def test_question_is_asked_again_until_it_is_answered() -> None:
    client = Client().join()
    client.feed(orders.Question(3, Deed.CANCEL, "scan-7"))
    client.expect(Inquire(3, Deed.CANCEL, "scan-7"))
    client.lose()
    client.join(resumed=True)
    client.expect(Inquire(3, Deed.CANCEL, "scan-7"))
    client.say(Inventory(3, "[]"))
    client.expect(orders.Listed(3, "[]"))
    client.say(Inventory(3, "[]"))
    client.lose()
    client.join(resumed=True)
    client.quiet()


def test_question_that_was_withdrawn_is_not_asked_on_the_next_link() -> None:
    client = Client().join()
    client.lose()
    client.feed(orders.Question(3, Deed.FORGET, "scan-7"))
    client.feed(orders.Question(3, None, "scan-7"))
    client.join(resumed=True)
    client.say(Inventory(3, "[]"))
    client.quiet()


def test_what_is_told_of_a_job_that_is_long_over_changes_nothing() -> None:
    client = Client().join()
    client.say(Stored(9, 0, "", True, 2))
    client.quiet()


def test_question_without_a_connection_waits_for_one() -> None:
    client = Client()
    client.feed(orders.Question(1, Deed.LIST, ""))
    client.feed(orders.Read(ATTACH))
    client.quiet()
    client.join()
    client.expect(ATTACH, Inquire(1, Deed.LIST, ""))
    client.quiet()
