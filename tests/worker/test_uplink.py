"""The way to the manager: greeting, heartbeats, silence, backoff."""

from __future__ import annotations

from starcore.errors import Code
from starcore.events import Close, Dial, Finished, Log, Lost, Send
from starcore.messages import PROTOCOL_VERSION, Goodbye, Heartbeat, Hello, Role, Welcome
from starcore.worker.uplink import GREETING_SECONDS_MAX, LinkState, Uplink

HELLO = Hello(PROTOCOL_VERSION, Role.WORKER, bytes(16))


def up(**options: bool) -> Uplink:
    link = Uplink(**options)
    assert link.start() == [Dial(0.0)]
    assert link.opened(1, HELLO, 10.0) == [Send(1, HELLO)]
    link.welcomed(Welcome(PROTOCOL_VERSION, 1, False))
    return link


def test_nobody_is_welcome_before_welcome() -> None:
    link = Uplink()
    link.start()
    link.opened(1, HELLO, 10.0)
    assert not link.up
    assert link.deadline() == 10.0 + GREETING_SECONDS_MAX
    (close,) = link.tick(10.0 + GREETING_SECONDS_MAX)
    assert isinstance(close, Close)
    assert close.code == Code.SILENT


def test_a_heartbeat_fills_a_silence_of_ours() -> None:
    link = up()
    assert link.tick(11.9) == []
    assert link.tick(12.0) == [Send(1, Heartbeat())]
    link.spoke(13.5)
    link.heard(14.0)
    assert link.tick(14.5) == []
    assert link.deadline() == 15.5


def test_a_silence_of_the_managers_closes() -> None:
    link = up()
    (close,) = link.tick(18.0)
    assert isinstance(close, Close)
    assert link.state is LinkState.CLOSING
    assert link.close(Code.SILENT, "again") == []


def test_a_lost_link_is_dialled_again_with_patience() -> None:
    link = up()
    log, dial = link.lost(Lost(1, "cut"))
    assert isinstance(log, Log)
    assert (log.level, dial) == ("warning", Dial(0.1))
    log, dial = link.lost(Lost(0, "refused"))
    assert (log.level, dial) == ("debug", Dial(0.2))
    link.opened(2, HELLO, 20.0)
    link.welcomed(Welcome(PROTOCOL_VERSION, 1, True))
    assert link.lost(Lost(2, "cut"))[1] == Dial(0.1)


def test_a_session_goes_on_only_with_the_manager_that_began_it() -> None:
    """Another one may say so too, when its first WELCOME was lost on the way: it knows none of our jobs."""
    link = up()
    for epoch, goes_on in ((1, True), (2, False), (2, True)):
        link.lost(Lost(1, "cut"))
        link.opened(1, HELLO, 20.0)
        assert link.welcomed(Welcome(PROTOCOL_VERSION, epoch, True)) is goes_on


def test_a_goodbye_gives_the_reason() -> None:
    link = up()
    link.goodbye(Goodbye(Code.DRAINING, "the manager was stopped"))
    assert "the manager was stopped" in link.lost(Lost(1, "closed"))[0].text


def test_a_hopeless_refusal_finishes() -> None:
    link = up()
    link.goodbye(Goodbye(Code.VERSION, "version 9 is spoken here"))
    (finished,) = link.lost(Lost(1, "closed"))
    assert finished == Finished(5, "the manager refuses this worker: version 9 is spoken here")


def test_an_alert_before_the_first_welcome_is_a_refused_certificate() -> None:
    link = Uplink()
    link.start()
    link.opened(1, HELLO, 10.0)
    (finished,) = link.lost(Lost(1, "SSLError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"))
    assert finished.exit_code == 3


def test_without_reconnection_the_first_loss_is_the_last() -> None:
    (finished,) = up(reconnect=False).lost(Lost(1, "cut"))
    assert finished.exit_code == 5
