"""What the core asks for in a turn, and when it last spoke on each link."""

from __future__ import annotations

from starcore.events import Close, Drop, Finished, Log, Send, SendChunk
from starcore.manager.outbox import Outbox
from starcore.messages import Heartbeat


def test_actions_are_handed_over_once_in_their_order():
    outbox = Outbox()
    outbox.send(1, Heartbeat())
    outbox.chunk(2, 3, 1, 0, 10, b"0123456789")
    outbox.drop(b"0123456789")
    outbox.close(1, 0, "bye")
    outbox.log("info", "left")
    outbox.finish()
    assert outbox.take() == [
        Send(1, Heartbeat()),
        SendChunk(2, 3, 1, 0, 10, b"0123456789"),
        Drop(b"0123456789"),
        Close(1, 0, "bye"),
        Log("info", "left"),
        Finished(),
    ]
    assert outbox.take() == []


def test_what_is_sent_counts_as_a_sign_of_life():
    outbox = Outbox()
    outbox.now = 3.0
    outbox.send(1, Heartbeat())
    outbox.now = 4.0
    outbox.chunk(2, 3, 1, 0, 10, None)
    assert outbox.spoken_at == {1: 3.0, 2: 4.0}


def test_bytes_that_are_not_there_are_not_given_back():
    outbox = Outbox()
    outbox.drop(None)
    assert outbox.take() == []
