"""Stored jobs as the calling threads see them: brought, read, asked for. A part of the session's shell.

A call here waits for the manager's word. What reads a stored job makes its futures in the session's thread, when the
manager has said how many tasks there are and before their outcomes come::

    any thread: attach ─▶ Read ─▶ ATTACH          session's thread: STORED ─▶ build(tasks, note) ─▶ futures
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeAlias

from starcore.client import orders
from starcore.client.futures import Abandons, TaskFuture
from starcore.client.questions import answer_of
from starcore.errors import ArgumentValueError, Code, StoredJobError
from starcore.messages import Attach, Buffer, Deed, Detach, FunctionKind, Job
from starcore.pickling import Packed

ANSWER_SECONDS = 10.0
"""How long the manager may take to say how stored jobs stand."""
TASK_OVERHEAD_BYTES = 64
"""What a task weighs at the manager beside its payload."""

Record: TypeAlias = Any
"""What the session knows of a job: its number, and its futures by their index."""
Build: TypeAlias = Callable[[Record, int, bytes], Sequence[TaskFuture]]
"""Makes the futures of so many tasks, by the note of who detached them."""


class Sends(Abandons, Protocol):
    """The session, as far as it is needed here."""

    def job(self, key: Any, job: Job, blob: bytes) -> Record:
        """Number a job."""

    def submit_many(self, record: Record, packs: Sequence[Packed], futures: Sequence[TaskFuture]) -> None:
        """Send the tasks of a job."""

    def standing(self) -> AbstractContextManager[None]:
        """Keep the session from ending meanwhile. Raises SessionLostError where it has."""


class _Sent(TaskFuture):
    """A task that is to be stored: its outcome says no more than that it is."""

    writes = True

    def unpack(self, head: Buffer, trust: bool) -> Any:
        """There is no answer."""


class _Word:
    """What the manager is to say of one job: that it begins, and that it is whole."""

    __slots__ = ("begun", "build", "record", "whole")

    def __init__(self, record: Record, build: Build | None = None) -> None:
        self.record = record
        self.build = build
        self.begun: Future[None] = Future()
        self.whole: Future[None] = Future()

    def fail(self, error: Exception) -> None:
        """Nothing comes of it."""
        for future in (self.begun, self.whole):
            if not future.done():
                future.set_exception(error)


class StoredJobs:
    """The stored jobs of one session."""

    def __init__(self, session: Sends, tell: Callable[[Any], None], soon: Callable[[Callable[[], None]], None]) -> None:
        self._session = session
        self._tell = tell
        self._soon = soon
        self._words: dict[int, _Word] = {}
        self._questions: dict[int, Future[str]] = {}
        self._numbers = itertools.count(1)

    # -- called by any thread --------------------------------------------------------------------------------

    def detach(
        self, job: Job, blob: bytes, packs: Sequence[Packed], name: str, keep_seconds: float, note: bytes
    ) -> None:
        """Have tasks stored under a name, and return when all of them are.

        Raises
        ------
        StoredJobError
            The manager will not, and why.
        """
        session = self._session
        record = session.job(object(), job, blob)
        record.begun = True
        size = sum(len(packed.head) + packed.body_bytes + TASK_OVERHEAD_BYTES for packed in packs)
        word = self._expect(_Word(record))
        self._tell(orders.Begin(job, blob, Detach(job.job, name, len(packs), size, keep_seconds, note)))
        try:
            word.begun.result()
            session.submit_many(record, packs, [_Sent(session, record) for _ in packs])
            word.whole.result()
        except BaseException:
            self.leave(record)
            raise
        finally:
            self._words.pop(record.number, None)

    def attach(self, name: str, build: Build, *, take: bool, timeout: float | None = None) -> Record:
        """Have the outcomes of a stored job told to futures that `build` makes; returns the record they stand under.

        Raises
        ------
        StoredJobError
            There is no such job.
        TimeoutError
            The manager did not say so in time.
        """
        record = self._session.job(object(), Job(0, FunctionKind.REGISTERED, bytes(32), name), b"")
        record.begun = True
        word = self._expect(_Word(record, build))
        self._tell(orders.Read(Attach(record.number, name, take)))
        try:
            word.begun.result(timeout)
        except BaseException:
            self.leave(record)
            raise
        return record

    def leave(self, record: Record) -> None:
        """Nobody brings, or reads, this job any more."""
        self._words.pop(record.number, None)
        self._tell(orders.GiveUp(record.number))
        _fail_all(record, StoredJobError("this job is not read any more"))

    def take_back(self) -> None:
        """Ctrl-C: what is being brought and is not accepted goes; what is accepted is no call of this process."""
        error = StoredJobError("the job was taken back by Ctrl-C before it was stored")
        for word in list(self._words.values()):
            if word.build is None and not word.whole.done():
                self._tell(orders.GiveUp(word.record.number))
                _fail_all(word.record, error)
                self._soon(partial(word.fail, error))

    def inquire(
        self, deed: Deed = Deed.LIST, name: str = "", seconds: float | None = ANSWER_SECONDS
    ) -> list[dict[str, Any]]:
        """Return how stored jobs stand, after that deed.

        Raises
        ------
        TimeoutError
            There was no answer in time, and the manager is not asked any more: by the time that it is back, another
            job may have the name.
        """
        number = next(self._numbers)
        answer: Future[str] = Future()
        with self._session.standing():
            self._questions[number] = answer
        self._tell(orders.Question(number, deed, name))
        try:
            rows: list[dict[str, Any]] = json.loads(answer_of(answer, seconds))
        except BaseException:
            self._tell(orders.Question(number, None, name))
            raise
        finally:
            self._questions.pop(number, None)
        return rows

    # -- called in the session's thread ----------------------------------------------------------------------

    def told(self, action: orders.StoredTold) -> None:
        """The manager said what became of a job."""
        word = self._words.get(action.job)
        if word is None:
            return
        if action.code:
            refused = ArgumentValueError if action.code == Code.UNEXPECTED else StoredJobError
            error = refused(action.reason)
            word.fail(error)
            _fail_all(word.record, error)
            return
        if not word.begun.done():
            self._begin(word, action)
        if action.whole and not word.whole.done():
            word.whole.set_result(None)

    def listed(self, action: orders.Listed) -> None:
        """The manager said how stored jobs stand."""
        answer = self._questions.get(action.question)
        if answer is not None:
            answer.set_result(action.text)

    def end_all(self, error: Exception) -> None:
        """The session is over."""
        for word in list(self._words.values()):
            word.fail(error)
        for answer in list(self._questions.values()):
            if not answer.done():
                answer.set_exception(error)

    # -- private ---------------------------------------------------------------------------------------------

    def _expect(self, word: _Word) -> _Word:
        with self._session.standing():
            self._words[word.record.number] = word
        return word

    @staticmethod
    def _begin(word: _Word, action: orders.StoredTold) -> None:
        try:
            futures = word.build(word.record, action.tasks, action.note) if word.build is not None else ()
        except Exception as error:
            word.fail(error)
            return
        for index, future in enumerate(futures):
            future.index = index
            word.record.futures[index] = future
        word.begun.set_result(None)


def _fail_all(record: Record, error: Exception) -> None:
    futures, record.futures = list(record.futures.values()), {}
    for future in futures:
        future.fail(error)
