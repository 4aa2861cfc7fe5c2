"""Incoming outcomes: what is acknowledged, and when."""

from __future__ import annotations

from array import array

import pytest

from starcore.client.answers import ACKS_MAX, Answers
from starcore.client.orders import Discard, Landed, Outbox, Receive, Resolve
from starcore.client.state import SENT, JobEntry, Ledger
from starcore.errors import Code, Status
from starcore.events import ChunkReceived, Send
from starcore.messages import Abort, Ack, FunctionKind, Grant, Job, Outcome
from starcore.streams import Sending

from .uplinks import uplink


class Inbox:
    def __init__(self, tasks: int) -> None:
        self.ledger, self.outbox = Ledger(), Outbox(uplink())
        self.ledger.submit_bytes = 1 << 20
        self.ledger.begin(Job(1, FunctionKind.REGISTERED, bytes(32), "m:f"))
        self.ledger.call(1, 0, [b"head"] * tasks, array("Q"))
        self.ledger.cut()
        self.entry: JobEntry = self.ledger.jobs[1]
        self.answers = Answers(self.ledger, self.outbox)
        self.answers.open_link(Sending(), 0, resumed=False)
        self.actions = self.outbox.turn(0.0)

    def outcome(self, sequence: int, bodies: dict[int, int], attempt: int = 1) -> None:
        count = len(bodies)
        heads = array("I", [1] * count)
        sizes = array("Q", bodies.values())
        message = Outcome(sequence, 1, attempt, array("I", bodies), bytes(count), heads, sizes, b"abcdefgh"[:count])
        self.answers.outcome(self.entry, message)
        self.answers.check(live=True)

    def chunk(self, index: int, offset: int, length: int) -> None:
        self.answers.chunk(ChunkReceived(1, 1 << 32 | index, 1, offset, length))
        self.answers.check(live=True)

    def acks(self) -> list[int]:
        self.answers.flush()
        acks = [each.message for each in self.actions if isinstance(each, Send) and type(each.message) is Ack]
        self.actions = self.outbox.turn(0.0)
        return [sequence for ack in acks for sequence in ack.sequences]


def test_heads_of_mixed_answers_go_where_they_belong() -> None:
    inbox = Inbox(4)
    inbox.outcome(1, {0: 0, 1: 5, 2: 0, 3: 6})
    received = [each for each in inbox.actions if type(each) is Receive]
    assert [(each.index, each.head, each.body_bytes) for each in received] == [(1, b"b", 5), (3, b"d", 6)]
    (resolved,) = (each for each in inbox.actions if type(each) is Resolve)
    assert (list(resolved.indices), list(resolved.head_sizes), resolved.heads) == ([0, 2], [1, 1], b"ac")


def test_outcome_is_acknowledged_with_its_last_body() -> None:
    inbox = Inbox(3)
    inbox.outcome(1, {0: 5, 1: 6, 2: 0})
    inbox.chunk(0, 0, 5)
    assert inbox.acks() == []
    inbox.chunk(1, 0, 6)
    assert Landed(1, 1, Status.OK) in inbox.actions
    assert inbox.acks() == [1]


def test_outcome_that_was_only_aborted_is_not_acknowledged() -> None:
    inbox = Inbox(1)
    inbox.outcome(1, {0: 5})
    assert inbox.answers.abort(Abort(1 << 32, 1, Code.GONE))
    assert Discard(1, 0) in inbox.actions
    assert inbox.acks() == []
    assert inbox.entry.runs[0].states[0] == SENT


def test_outcome_of_which_a_part_was_aborted_is_acknowledged_for_the_rest() -> None:
    inbox = Inbox(2)
    inbox.outcome(1, {0: 5, 1: 6})
    inbox.answers.abort(Abort(1 << 32, 1, Code.GONE))
    inbox.chunk(1, 0, 6)
    assert inbox.acks() == [1]


def test_stale_abort_and_stale_chunks_change_nothing() -> None:
    inbox = Inbox(1)
    inbox.outcome(1, {0: 5}, attempt=2)
    inbox.answers.abort(Abort(1 << 32, 1, Code.GONE))
    inbox.chunk(0, 0, 3)
    assert inbox.entry.left == 1
    assert not inbox.answers.abort(Abort(1 << 32 | 9, 1, Code.GONE))


def test_same_answer_said_twice_lands_once() -> None:
    inbox = Inbox(1)
    inbox.outcome(1, {0: 5})
    inbox.outcome(1, {0: 5})
    assert [type(each) for each in inbox.actions if not isinstance(each, Send)] == [Receive, Discard, Receive]
    assert [each.message for each in inbox.actions if isinstance(each, Send)] == [Grant(1 << 32, 1, 0, 5)] * 2
    inbox.chunk(0, 0, 5)
    assert inbox.acks() == [1]


@pytest.mark.parametrize("count", [ACKS_MAX - 1, ACKS_MAX])
def test_acknowledgements_wait_for_company_up_to_a_bound(count: int) -> None:
    inbox = Inbox(1)
    for sequence in range(count):
        inbox.answers.acknowledge(sequence)
    assert (inbox.answers.ack_at is None) == (count == ACKS_MAX)
    assert len(inbox.acks()) == count


def test_outcomes_in_any_order_and_of_any_number_of_stretches_settle_their_own_tasks() -> None:
    inbox = Inbox(8)
    inbox.outcome(1, dict.fromkeys((6, 2, 3, 4, 0, 7), 0))
    (resolve,) = (action for action in inbox.actions if type(action) is Resolve)
    assert list(resolve.indices) == [6, 2, 3, 4, 0, 7]
    assert [inbox.ledger.jobs[1].runs[0].states[at] == SENT for at in range(8)] == [
        *(False, True, False, False, False, True, False, False)
    ]
    inbox.outcome(2, dict.fromkeys((0, 1, 2, 5), 0))
    fresh = [action for action in inbox.actions if type(action) is Resolve][-1]
    assert list(fresh.indices) == [1, 5]
    assert bytes(fresh.heads) == b"bd"
    assert inbox.acks() == [1, 2]
