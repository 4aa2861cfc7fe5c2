"""The client's orders: one turn's actions, in order."""

from __future__ import annotations

from starcore.client.orders import Outbox
from starcore.events import Dial, Send
from starcore.messages import Heartbeat


def test_a_turn_gathers_what_is_said_and_asked_in_order() -> None:
    outbox = Outbox()
    outbox.link = 7
    first = outbox.turn(5.0)
    outbox.send(Heartbeat())
    outbox.ask(Dial(1.0))
    assert first == [Send(7, Heartbeat()), Dial(1.0)]
    assert outbox.turn(6.0) == []
    assert len(first) == 2


def test_only_what_is_said_counts_as_a_sign_of_life() -> None:
    outbox = Outbox()
    outbox.turn(5.0)
    outbox.send(Heartbeat())
    outbox.turn(9.0)
    outbox.ask(Dial(1.0))
    assert outbox.sent_at == 5.0
