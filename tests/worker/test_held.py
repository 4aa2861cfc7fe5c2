"""Small answers wait for each other, and for nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from starcore.errors import Status
from starcore.worker import held
from starcore.worker.channel import Done, Inlet, Ready
from starcore.worker.held import Held

SECONDS = 20.0


class Pair:
    """A slot's end of a channel, and the supervisor's."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.ends = ours, theirs
        theirs.settimeout(SECONDS)
        self.held, self._inlet = Held(ours), Inlet(theirs)

    def keep(self, index: int, seconds: float = 0.0) -> None:
        self.held.keep(1, index, Status.OK, b"%d" % index, time.monotonic() - seconds)

    def next(self) -> list[bytes]:
        """The answers of the next message."""
        while True:
            for record in self._inlet:
                assert isinstance(record, Done)
                heads, at = [], 0
                for size in record.head_sizes:
                    heads.append(bytes(record.heads[at : at + size]))
                    at += size
                assert record.first == int(heads[0])
                assert len(record.statuses) == len(record.seconds) == len(heads)
                return heads
            assert self._inlet.pull()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(held, "FLUSH_SECONDS", SECONDS)
    pair = Pair()
    yield pair
    for end in pair.ends:
        end.close()


def test_answers_of_short_tasks_go_together(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", SECONDS)
    for index in range(3):
        pair.keep(index)
    pair.held.flush()
    assert pair.next() == [b"0", b"1", b"2"]
    pair.held.flush()  # nothing is left to say
    pair.keep(3)
    pair.held.flush()
    assert pair.next() == [b"3"]


def test_answer_of_a_task_that_took_its_time_goes_at_once_and_takes_others_along(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", SECONDS)
    pair.keep(0, seconds=2 * held.SHORT_TASK_SECONDS)
    assert pair.next() == [b"0"]
    assert pair.held._thread is None, "there was nothing to look after"
    pair.keep(1)
    pair.keep(2, seconds=2 * held.SHORT_TASK_SECONDS)
    assert pair.next() == [b"1", b"2"]


def test_answers_wait_for_each_other_for_a_moment_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", SECONDS)
    monkeypatch.setattr(held, "FLUSH_SECONDS", 0.01)
    pair.keep(0)
    time.sleep(0.02)
    pair.keep(1)
    assert pair.next() == [b"0", b"1"]


def test_many_bytes_wait_for_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", SECONDS)
    monkeypatch.setattr(held, "BATCH_BYTES_MAX", 2)
    for index in range(3):
        pair.keep(index)
    assert pair.next() == [b"0", b"1", b"2"]


def test_answer_does_not_wait_for_the_task_behind_it(pair: Pair) -> None:
    pair.keep(0)
    begun = time.monotonic()
    assert pair.next() == [b"0"]
    assert time.monotonic() - begun < SECONDS / 2


def test_answer_does_not_wait_where_no_thread_can_be_started(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for index in range(2):
            pair.keep(index)
            assert pair.next() == [b"%d" % index]
    pair.keep(2)
    assert pair.next() == [b"2"]
    assert pair.held._thread is not None, "one can be started again"


def test_watch_rests_and_is_woken_by_the_next_answer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", 0.001)
    monkeypatch.setattr(held, "ROUNDS_MAX", 1)
    for index in range(30):
        pair.keep(index)
        assert pair.next() == [b"%d" % index]
        deadline = time.monotonic() + SECONDS
        while index % 3 == 0 and not pair.held._asleep:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_what_is_said_meanwhile_stands_between_answers_whole(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LATE_SECONDS", 0.0)
    inlet = Inlet(pair.ends[1])
    for index in range(60):
        pair.keep(index)
        pair.held.send(Ready(index))
    pair.held.flush()
    answers, others = 0, 0
    while answers < 60 or others < 60:
        assert inlet.pull()
        for record in inlet:
            if isinstance(record, Done):
                assert record.first == answers
                answers += len(record.head_sizes)
            else:
                assert isinstance(record, Ready)
                assert record.pid == others
                others += 1


def test_watch_ends_with_the_channel(pair: Pair) -> None:
    pair.keep(0)
    assert pair.next() == [b"0"]
    for end in pair.ends:
        end.close()
    thread = pair.held._thread
    assert thread is not None
    pair.keep(1)
    thread.join(SECONDS)
    assert not thread.is_alive()
