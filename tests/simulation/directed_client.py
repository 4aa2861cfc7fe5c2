"""The client's scenarios: what a manager says of a task that has gone on meanwhile, or that was cancelled."""

from __future__ import annotations

from starcore.client import orders
from starcore.client.state import TASK_OVERHEAD_BYTES
from starcore.errors import Code, Status
from starcore.events import Close, Log
from starcore.messages import Abort, Cancel, Goodbye, Grant, Running, Submit, Welcome
from tests.client.test_core import stream

from .directed import WatchedClient, reaches

BODY = 1000
ONE_TASK_BYTES = TASK_OVERHEAD_BYTES + 4
"""The credit that a call's head needs."""


def calling(client: WatchedClient, count: int = 1, *, body: int = 0, submit_bytes: int = 1 << 20) -> None:
    """Join, and say so many tasks of job 1."""
    client.join(submit_bytes=submit_bytes)
    client.begin()
    client.call(0, count, body=body)
    client.sent()


def back(client: WatchedClient, *, resumed: bool = True, submit_bytes: int = 1 << 20) -> list[object]:
    """The link breaks, and the next one stands: what is said over it at first."""
    client.lose()
    client.join(resumed=resumed, submit_bytes=submit_bytes)
    return client.sent()


def answered(client: WatchedClient, index: int, *, sequence: int = 1, attempt: int = 1) -> None:
    """An answer with a body is announced, and asked for."""
    client.say(client.outcome(index, sequence=sequence, attempt=attempt, bodies=[BODY]))
    assert client.take(orders.Receive).index == index
    client.expect(Grant(stream(index), attempt, 0, BODY))


def landed(client: WatchedClient, index: int, *, attempt: int = 1) -> None:
    """All of an answer's body comes."""
    client.chunk(stream(index), 0, BODY, attempt)
    client.expect(orders.Landed(1, index, Status.OK))


# -- outcomes ------------------------------------------------------------------------------------------------------


@reaches("client", "WAITING: OUTCOME whole", "WAITING: OUTCOME with a body", "WAITING: RUNNING")
def outcomes_are_told_again_before_there_is_credit_to_say_their_tasks_again(client: WatchedClient) -> None:
    """They count, and those tasks are not said; the one that runs is said when its turn comes."""
    calling(client, 4)
    said = back(client, submit_bytes=ONE_TASK_BYTES)
    assert [(each.first, len(each.head_sizes)) for each in said if type(each) is Submit] == [(0, 1)]
    client.say(client.outcome(1, sequence=1))
    assert client.take(orders.Resolve).indices[0] == 1
    answered(client, 2, sequence=2)
    client.say(Running(1, client.outcome(3).indices))
    client.expect(orders.MarkRunning(1, client.outcome(3).indices))
    landed(client, 2)
    assert client.acks() == [1, 2]
    client.say(client.outcome(0, sequence=3))
    assert client.take(orders.Resolve).indices[0] == 0
    assert [(each.first, each.again) for each in client.sent() if type(each) is Submit] == [(3, True)]
    client.say(client.outcome(3, sequence=4))
    assert client.take(orders.Resolve).indices[0] == 3
    assert client.acks() == [4]
    client.quiet()


@reaches("client", "UNKNOWN: OUTCOME with a body")
def answer_is_told_again_when_its_acknowledgement_was_lost(client: WatchedClient) -> None:
    """It is acknowledged again, and nobody asks for its body."""
    calling(client)
    answered(client, 0)
    landed(client, 0)
    back(client)
    client.say(client.outcome(0, bodies=[BODY]))
    assert client.acks() == [1]
    client.quiet()


@reaches("client", "LANDING: ABORT")
def answer_is_taken_back_in_the_middle(client: WatchedClient) -> None:
    """Its landing is void; the next attempt's answer is the one."""
    calling(client)
    answered(client, 0)
    client.chunk(stream(0), 0, BODY // 2)
    client.say(Abort(stream(0), 1, Code.GONE, "its worker is gone"))
    client.expect(orders.Discard(1, 0))
    answered(client, 0, sequence=2, attempt=2)
    landed(client, 0, attempt=2)
    assert client.acks() == [2]
    client.quiet()


# -- cancels -------------------------------------------------------------------------------------------------------


def cancel_that_crosses_an_answer(client: WatchedClient, index: int) -> None:
    """A call is cancelled; what is on its way meanwhile is an answer, that it is taken back, and its next attempt."""
    client.feed(orders.CancelCall(1, [index]))
    client.expect(orders.Released(1, [index]))
    assert list(client.take(Cancel).indices) == [index]
    client.say(client.outcome(index, sequence=1 + index, bodies=[BODY]))
    client.chunk(stream(index), 0, BODY // 2)  # within the first window
    client.say(Abort(stream(index), 1, Code.GONE, "its worker is gone"))
    client.say(Grant(stream(index), 2, 0, BODY))
    client.say(Running(1, client.outcome(index).indices))
    client.expect(orders.MarkRunning(1, client.outcome(index).indices))
    assert client.acks() == [1 + index]
    client.quiet()


@reaches(
    "client",
    "DONE UNKNOWN: RUNNING",
    "DONE UNKNOWN: GRANT",
    "UNKNOWN: CHUNK of an answer",
    "UNKNOWN: ABORT",
    "UNKNOWN: OUTCOME CANCELLED",
)
def cancels_cross_answers_that_are_taken_back(client: WatchedClient) -> None:
    """No byte of an argument leaves any more, and what the manager says to the cancel is acknowledged."""
    calling(client, 2, body=BODY)
    cancel_that_crosses_an_answer(client, 0)
    cancel_that_crosses_an_answer(client, 1)
    client.say(client.outcome(0, 1, sequence=3, attempt=0, statuses=[Status.CANCELLED] * 2))
    assert client.acks() == [3]
    assert client.core.outstanding == 0
    client.quiet()


@reaches("client", "DONE UNKNOWN: CancelCall", "DONE UNKNOWN: CancelCall kill")
def cancel_comes_too_late(client: WatchedClient) -> None:
    """The outcome is here already: the manager is not told."""
    calling(client, 2)
    for index in range(2):
        client.say(client.outcome(index, sequence=1 + index))
        client.take(orders.Resolve)
        client.feed(orders.CancelCall(1, [index]))
        client.feed(orders.CancelCall(1, [index], kill=True))
    assert client.acks() == [1, 2]
    client.quiet()


# -- managers come and go ------------------------------------------------------------------------------------------


@reaches("client", "WAITING LANDING CANCELLING: GOODBYE", "LANDING: WELCOME")
def manager_leaves_with_work_outstanding(client: WatchedClient) -> None:
    """The next one is told all of it, but for what was cancelled; half an answer is worth nothing to it."""
    calling(client, 4, submit_bytes=3 * ONE_TASK_BYTES)
    answered(client, 0)
    client.chunk(stream(0), 0, BODY // 2)
    client.feed(orders.CancelCall(1, [1]))
    client.sent()
    client.say(Goodbye(Code.DRAINING, "stopped"))
    assert "said goodbye: " in (said := client.take(Log).text) and said.endswith("trying to reach it again")
    client.expect(Close(client.link, Code.NORMAL, "goodbye"))
    client.close()
    client.open()
    client.say(Welcome(1, 2, False, "", 0, 1 << 20, 2.0, 8.0, 300.0, 1, 2))
    client.expect(orders.Discard(1, 0), orders.Connected(False, 1, 2))
    said = [(each.first, len(each.head_sizes), each.again) for each in client.sent() if type(each) is Submit]
    assert said == [(0, 1, True), (2, 1, True), (3, 1, False)]
    client.say(client.outcome(0, 2, 3))
    assert list(client.take(orders.Resolve).indices) == [0, 2, 3]
    assert client.acks() == [1]
    client.quiet()
