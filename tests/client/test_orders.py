"""The client's orders: one turn's actions, in order."""

from __future__ import annotations

from starcore.client.orders import Outbox
from starcore.events import Dial, Send
from starcore.messages import Heartbeat

from .uplinks import LINK, uplink


def test_a_turn_gathers_what_is_said_and_asked_in_order() -> None:
    outbox = Outbox(uplink())
    first = outbox.turn(5.0)
    outbox.send(Heartbeat())
    outbox.ask(Dial(1.0))
    assert first == [Send(LINK, Heartbeat()), Dial(1.0)]
    assert outbox.turn(6.0) == []
    assert len(first) == 2


def test_only_what_is_said_counts_as_a_sign_of_life() -> None:
    link = uplink()
    outbox = Outbox(link)
    link.heard(LINK, 5.0)
    outbox.turn(5.0)
    outbox.send(Heartbeat())
    due = link.deadline()
    outbox.turn(6.0)
    outbox.ask(Dial(1.0))
    assert link.deadline() == due
    outbox.send(Heartbeat())
    assert link.deadline() == due + 1.0
