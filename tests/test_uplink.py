"""The way to the manager: greeting, heartbeats, silence, backoff."""

from __future__ import annotations

import pytest

from starcore.errors import Code, UnexpectedError
from starcore.events import Close, Dial, Lost, Send
from starcore.messages import PROTOCOL_VERSION, Goodbye, Heartbeat, Hello, Role, Welcome
from starcore.uplink import LinkState, Loss, Uplink

GREETING_SECONDS = 8.0
HOPELESS: dict[int, int] = {Code.VERSION: 5}
HELLO = Hello(PROTOCOL_VERSION, Role.WORKER, bytes(16))
FIRST = Welcome(PROTOCOL_VERSION, 1, False)
AGAIN = Welcome(PROTOCOL_VERSION, 1, True)


class Way(Uplink):
    """One that asserts its invariants whenever its clock is asked for."""

    def deadline(self) -> float | None:
        self.check()
        return super().deadline()


def away(session: bytes = bytes(16), spread: tuple[float, float] = (1.0, 1.0), longest: float = 5.0) -> Way:
    way = Way(
        session, greeting_seconds=GREETING_SECONDS, backoff_max=lambda: longest, spread=spread, hopeless=HOPELESS
    )
    assert way.deadline() is None
    assert way.dial(10.0) == Dial(0.0)
    return way


def up() -> Way:
    way = away()
    assert way.opened(1, HELLO, 10.0) == [Send(1, HELLO)]
    assert not way.welcomed(FIRST)
    return way


def test_nobody_is_welcome_before_welcome() -> None:
    way = away()
    way.opened(1, HELLO, 10.0)
    assert not way.up
    assert way.deadline() == 10.0 + GREETING_SECONDS
    (close,) = way.tick(10.0 + GREETING_SECONDS)
    assert isinstance(close, Close)
    assert close.code == Code.SILENT
    assert way.lost(Lost(1, close.reason)) == Loss(LinkState.CLOSING, False, close.reason)


@pytest.mark.parametrize(
    ("own", "beat", "silence", "borne"), [(5.0, 2.0, 8.0, 5.0), (5.0, 2.0, 3.0, 3.0), (5.0, 4.0, 16.0, 10.0)]
)
def test_own_patience_shortens_a_silence_into_which_heartbeats_fit(
    own: float, beat: float, silence: float, borne: float
) -> None:
    way = Way(
        bytes(16),
        greeting_seconds=GREETING_SECONDS,
        backoff_max=lambda: 1.0,
        spread=(1.0, 1.0),
        hopeless=HOPELESS,
        patience_seconds=own,
    )
    way.dial(10.0)
    way.opened(1, HELLO, 10.0)
    way.welcomed(Welcome(PROTOCOL_VERSION, 1, False, heartbeat_seconds=beat, silence_seconds=silence))
    assert not way.overdue(10.0 + borne - 0.01)
    assert way.overdue(10.0 + borne) == f"not a byte for {borne:g} s"


def test_the_managers_heartbeat_is_answered_where_ours_is_due_before_its_next_one() -> None:
    way = up()
    assert way.answer(10.9) == []
    assert way.answer(11.0) == [Send(1, Heartbeat())]
    assert way.answer(11.5) == []
    assert away().answer(20.0) == []


def test_a_heartbeat_fills_a_silence_of_ours() -> None:
    way = up()
    assert way.tick(11.9) == []
    assert way.tick(12.0) == [Send(1, Heartbeat())]
    way.spoke(13.5)
    assert way.heard(1, 14.0)
    assert way.tick(14.5) == []
    assert way.deadline() == 15.5


def test_a_silence_of_the_managers_closes() -> None:
    way = up()
    assert way.overdue(17.9) == ""
    (close,) = way.tick(18.0)
    assert isinstance(close, Close)
    assert way.state is LinkState.CLOSING
    assert way.close(Code.SILENT, "again") == []
    assert not way.heard(1, 18.0)
    assert way.deadline() is None
    assert way.lost(Lost(1, "closed")) == Loss(LinkState.CLOSING, True, "closed")


@pytest.mark.parametrize(("beat", "silence"), [(0.0, 8.0), (1e-9, 8.0), (2.0, 0.0), (2.0, 1.0)])
def test_heartbeats_that_would_keep_the_loop_busy_are_refused(beat: float, silence: float) -> None:
    way = away()
    way.opened(1, HELLO, 10.0)
    with pytest.raises(UnexpectedError):
        way.welcomed(Welcome(PROTOCOL_VERSION, 1, False, heartbeat_seconds=beat, silence_seconds=silence))
    assert not way.up


def test_a_lost_link_is_dialled_again_with_patience() -> None:
    way = up()
    assert way.lost(Lost(1, "cut")) == Loss(LinkState.UP, True, "cut")
    assert way.again(20.0, "cut") == Dial(0.1, "cut")
    delays = []
    for _ in range(20):
        assert way.lost(Lost(0, "refused")) == Loss(LinkState.DIALLING, False, "refused")
        delays.append(way.again(20.0).delay_seconds)
    assert delays[:3] == [0.2, 0.4, 0.8]
    assert delays[-1] == 5.0
    way.opened(2, HELLO, 20.0)
    way.welcomed(AGAIN)
    assert way.lost(Lost(2, "cut")) is not None
    assert way.again(20.0) == Dial(0.1)


def test_sessions_do_not_come_back_in_step() -> None:
    delays = []
    for byte in (0, 51, 255):
        way = away(bytes([byte]), spread=(0.5, 1.5))
        way.lost(Lost(0, "refused"))
        delays.append(way.again(10.0).delay_seconds)
    assert delays == pytest.approx([0.05, 0.07, 0.15])


def test_work_does_not_wait_for_a_dial_that_is_far_away() -> None:
    way = away()
    assert way.hasten(10.0, 1.0) == []
    for _ in range(9):
        way.lost(Lost(0, "refused"))
        way.again(10.0)
    assert way.hasten(14.5, 1.0) == []
    assert way.hasten(11.0, 1.0) == [Dial(0.0)]
    assert way.hasten(11.0, 1.0) == []


def test_ends_of_older_links_are_not_the_end_of_this_one() -> None:
    way = up()
    assert way.opened(2, HELLO, 11.0) == [Close(2, Code.NORMAL, "not needed any more")]
    assert way.lost(Lost(2, "closed")) is None
    assert way.lost(Lost(1, "cut")) is not None
    way.again(20.0)
    assert way.lost(Lost(1, "told twice")) is None
    assert way.lost(Lost(3, "a handshake that failed")) is not None


def test_a_session_goes_on_only_with_the_manager_that_began_it() -> None:
    """Another one may say so too, when its first WELCOME was lost on the way: it knows none of our jobs."""
    way = up()
    for link, epoch, goes_on in ((2, 1, True), (3, 2, False), (4, 2, True)):
        way.lost(Lost(link - 1, "cut"))
        way.again(20.0)
        way.opened(link, HELLO, 20.0)
        assert way.welcomed(Welcome(PROTOCOL_VERSION, epoch, True)) is goes_on


def test_a_goodbye_gives_the_reason_and_some_a_verdict() -> None:
    way = up()
    assert way.goodbye(Goodbye(Code.DRAINING, "the manager was stopped")) is None
    assert way.lost(Lost(1, "closed")) == Loss(LinkState.UP, True, "the manager was stopped")
    way = up()
    assert way.goodbye(Goodbye(Code.VERSION, "version 9 is spoken here")) == 5
    assert way.lost(Lost(1, "closed")) == Loss(LinkState.UP, True, "version 9 is spoken here", 5)


def test_who_has_left_wants_no_link_any_more() -> None:
    way = up()
    assert way.leave("done") == [Close(1, Code.NORMAL, "done")]
    assert way.lost(Lost(1, "closed")) is None
    assert way.opened(2, HELLO, 20.0) == [Close(2, Code.NORMAL, "not needed any more")]
    assert way.deadline() is None
    assert way.leave("done") == []
