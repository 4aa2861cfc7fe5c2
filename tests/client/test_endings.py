"""Ctrl-C and the interpreter's end, with sessions that only remember; real signals come in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest

from starcore.client import endings
from starcore.client.futures import TaskFuture


class Future(TaskFuture):
    """Is cancelled once; `then` happens meanwhile."""

    def __init__(self, session: Session, then: Any = None) -> None:
        super().__init__(session, session)
        if then is not None:
            self.add_done_callback(lambda future: then())


class Session:
    """Has futures, and notes what it was asked for."""

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.said: list[Any] = []
        self.forsaken = False
        self.interrupted = ""
        endings.remember(self)

    def _say(self, what: str, *more: Any) -> None:
        self.said.append((what, *more))
        if what == self.interrupted:
            raise KeyboardInterrupt

    def pending(self) -> list[Future]:
        return list(self.futures)

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        raise AssertionError("many are cancelled together")

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        self.futures = [future for future in self.futures if not future.cancelled()]

    def interrupt(self) -> None:
        endings.interrupt(self)

    def task(self, record: Any, index: int) -> str:
        return f"aa/1/{index}"

    def end(self, *, abandon: bool) -> None:
        self._say("end", abandon)

    def join(self, seconds: float | None = None) -> None:
        self._say("join", seconds)

    def flush(self, seconds: float) -> None:
        self._say("flush", seconds)

    def after_fork(self) -> None:
        self._say("fork")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session of another test's ends here."""
    monkeypatch.setattr(endings, "_sessions", type(endings._sessions)())


def test_interrupt_cancels_everything_and_waits_until_that_is_said() -> None:
    session = Session()
    session.futures = [Future(session) for _ in range(3)]
    endings.interrupt(session)
    assert session.futures == []
    assert session.said == [("flush", endings.CANCEL_SECONDS_MAX)]
    assert not session.forsaken


def test_interrupt_finds_what_was_sent_meanwhile() -> None:
    session = Session()
    session.futures = [Future(session, then=lambda: session.futures.append(Future(session)))]
    endings.interrupt(session)
    assert session.futures == []


def test_second_interrupt_forsakes_the_session() -> None:
    session = Session()
    session.interrupted = "flush"
    with pytest.raises(KeyboardInterrupt):
        endings.interrupt(session)
    assert session.forsaken


def test_interrupted_wait_for_the_end_cancels_what_is_left_once_and_then_forsakes() -> None:
    session = Session()
    session.futures = [Future(session)]
    session.interrupted = "join"
    with pytest.raises(KeyboardInterrupt):
        endings.wait_for_end(session)
    assert (session.futures, session.forsaken) == ([], False)
    with pytest.raises(KeyboardInterrupt):
        endings.wait_for_end(session)
    assert session.forsaken


def test_interpreters_end_waits_for_every_goodbye_but_of_those_forsaken() -> None:
    first, second = Session(), Session()
    second.forsaken = True
    endings._end_at_exit()
    assert first.said == [("end", True), ("join", endings.JOIN_SECONDS)]
    assert second.said == [("end", True)]


def test_ctrl_c_at_the_interpreters_end_ends_the_waiting_quietly() -> None:
    session = Session()
    session.interrupted = "join"
    endings._end_at_exit()
    assert session.said[-1][0] == "join"


def test_fork_is_told_once() -> None:
    session = Session()
    endings._after_fork()
    endings._after_fork()
    assert session.said == [("fork",)]
