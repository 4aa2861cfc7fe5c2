"""The session's dealings with stored jobs: who waits, who is told, and who is failed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

import pytest

from starcore.client import orders
from starcore.client.futures import TaskFuture
from starcore.client.stored import TASK_OVERHEAD_BYTES, StoredJobs
from starcore.errors import ArgumentValueError, Code, SessionLostError, StoredJobError
from starcore.messages import Attach, Deed, Detach, FunctionKind, Job
from starcore.pickling import pack_call

SECONDS = 5.0


class Record:
    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = False
        self.futures: dict[int, TaskFuture] = {}


class Desk:
    """A session that writes down what it is told; `answers` says in whose place of the session's thread it answers."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.submitted: list[tuple[Any, TaskFuture]] = []
        self.over: Exception | None = None
        self.answers: dict[type, Any] = {}
        self.jobs = StoredJobs(self, self.tell, lambda callback: callback())
        self._numbers = 0

    def tell(self, event: Any) -> None:
        self.told.append(event)
        answer = self.answers.get(type(event))
        if answer is not None:
            threading.Thread(target=answer, args=(event,)).start()

    def job(self, key: Any, job: Job, blob: bytes) -> Record:
        self._numbers += 1
        job.job = self._numbers
        return Record(self._numbers)

    def submit_many(self, record: Any, packs: Any, futures: Any) -> None:
        self.submitted += zip(packs, futures, strict=True)
        self.say(whole=True)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        if self.over is not None:
            raise self.over
        yield

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        raise AssertionError("nothing is cancelled here")

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        raise AssertionError("nothing is cancelled here")

    def interrupt(self) -> None:
        raise AssertionError("nobody is interrupted here")

    def task(self, record: Any, index: int) -> str:
        return f"aa/{record.number}/{index}"

    def say(self, job: int = 1, code: int = 0, reason: str = "", *, whole: bool = False, tasks: int = 2) -> None:
        self.jobs.told(orders.StoredTold(job, code, reason, whole, tasks, b"note"))

    def detach(self, name: str = "scan-7") -> None:
        packs = [pack_call((1,), {}), pack_call((2,), {})]
        self.jobs.detach(Job(0, FunctionKind.REGISTERED, bytes(32), "m:f"), b"", packs, name, 5.0, b"note")


def test_detach_sends_the_tasks_when_there_is_room_and_returns_when_all_are_stored() -> None:
    desk = Desk()
    desk.answers[orders.Begin] = lambda _: desk.say()
    desk.detach()
    (begin,) = desk.told
    size = sum(len(packed.head) + TASK_OVERHEAD_BYTES for packed, _ in desk.submitted)
    assert begin.detach == Detach(1, "scan-7", 2, size, 5.0, b"note")
    assert len(desk.submitted) == 2


@pytest.mark.parametrize(("code", "error"), [(Code.UNEXPECTED, ArgumentValueError), (Code.GONE, StoredJobError)])
def test_refused_detach_raises_and_nothing_is_sent(code: Code, error: type[Exception]) -> None:
    desk = Desk()
    desk.answers[orders.Begin] = lambda _: desk.say(code=code, reason="there is one already")
    with pytest.raises(error, match="there is one already"):
        desk.detach()
    assert desk.submitted == []
    assert desk.told[-1] == orders.GiveUp(1)


def test_reader_waits_no_longer_than_it_says_for_a_manager_that_is_away() -> None:
    desk = Desk()
    with pytest.raises(NotInTime):
        desk.jobs.attach("scan-7", lambda *_: [], take=True, timeout=0.01)
    assert desk.told == [orders.Read(Attach(1, "scan-7", True)), orders.GiveUp(1)]
    desk.say()  # too late


def test_end_of_the_session_ends_who_waits() -> None:
    desk = Desk()
    desk.answers[orders.Begin] = lambda _: desk.jobs.end_all(SessionLostError("it is over"))
    desk.answers[orders.Question] = desk.answers[orders.Begin]
    with pytest.raises(SessionLostError):
        desk.detach()
    with pytest.raises(SessionLostError):
        desk.jobs.inquire()


def test_session_that_is_over_is_asked_for_nothing() -> None:
    desk = Desk()
    desk.over = SessionLostError("the client was shut down")
    with pytest.raises(SessionLostError):
        desk.detach()
    with pytest.raises(SessionLostError):
        desk.jobs.inquire()
    with pytest.raises(SessionLostError):
        desk.jobs.attach("scan-7", lambda record, tasks, note: [], take=False)
    assert [event for event in desk.told if type(event) is not orders.GiveUp] == []


def test_reading_has_its_futures_before_the_first_outcome() -> None:
    desk = Desk()
    desk.answers[orders.Read] = lambda _: desk.say(tasks=3)

    def build(record: Any, tasks: int, note: bytes) -> list[TaskFuture]:
        assert note == b"note"
        return [TaskFuture(desk, record) for _ in range(tasks)]

    record = desk.jobs.attach("scan-7", build, take=True)
    assert desk.told == [orders.Read(Attach(1, "scan-7", True))]
    assert [future.index for future in record.futures.values()] == list(record.futures) == [0, 1, 2]
    futures = list(record.futures.values())
    desk.say(code=Code.GONE, reason="forgotten")
    for future in futures:
        with pytest.raises(StoredJobError, match="forgotten"):
            future.result(SECONDS)


def test_reading_that_was_left_fails_what_is_open_of_it() -> None:
    desk = Desk()
    desk.answers[orders.Read] = lambda _: desk.say(tasks=1)
    record = desk.jobs.attach("scan-7", lambda record, tasks, note: [TaskFuture(desk, record)], take=False)
    (future,) = record.futures.values()
    desk.jobs.leave(record)
    assert isinstance(future.exception(SECONDS), StoredJobError)
    assert desk.told[-1] == orders.GiveUp(1)


def test_note_that_cannot_be_read_is_raised_where_the_reading_begins() -> None:
    desk = Desk()
    desk.answers[orders.Read] = lambda _: desk.say()

    def build(record: Any, tasks: int, note: bytes) -> list[TaskFuture]:
        raise StoredJobError("another program's")

    with pytest.raises(StoredJobError, match="another program's"):
        desk.jobs.attach("scan-7", build, take=False)
    assert desk.told[-1] == orders.GiveUp(1)


def test_question_returns_the_rows() -> None:
    desk = Desk()
    desk.answers[orders.Question] = lambda event: desk.jobs.listed(orders.Listed(event.number, '[{"name": "a"}]'))
    assert desk.jobs.inquire(Deed.CANCEL, "a") == [{"name": "a"}]
    assert desk.told == [orders.Question(1, Deed.CANCEL, "a")]
    desk.jobs.listed(orders.Listed(1, "[]"))


def test_question_that_nobody_waits_for_any_more_is_withdrawn() -> None:
    desk = Desk()
    with pytest.raises(TimeoutError, match="did not answer"):
        desk.jobs.inquire(Deed.FORGET, "a", 0.01)
    assert desk.told == [orders.Question(1, Deed.FORGET, "a"), orders.Question(1, None, "a")]


def test_word_of_an_unknown_job_changes_nothing() -> None:
    Desk().say(7, Code.GONE, "over")


def test_ctrl_c_takes_back_what_is_being_brought() -> None:
    desk = Desk()
    desk.answers[orders.Begin] = lambda _: desk.jobs.take_back()
    with pytest.raises(StoredJobError, match="taken back by Ctrl-C"):
        desk.detach()
    assert orders.GiveUp(1) in desk.told
    assert not desk.submitted


def test_ctrl_c_leaves_alone_what_is_accepted_and_what_is_read() -> None:
    desk = Desk()
    desk.answers[orders.Begin] = lambda _: desk.say()
    desk.detach()
    desk.answers[orders.Read] = lambda _: (desk.jobs.take_back(), desk.say(2))
    desk.jobs.attach("scan-7", lambda record, tasks, note: [], take=False)
    assert not [event for event in desk.told if type(event) is orders.GiveUp]
