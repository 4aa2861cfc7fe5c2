"""What callers ask about their calls and the star, and how they cancel a call that runs: a part of `Client`."""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor, Future
from typing import Any, Protocol, cast

from starcore.client.futures import BlockFuture, StarFuture, TaskFuture
from starcore.client.questions import answer_of
from starcore.client.session import Session
from starcore.client.story import Story, read_story
from starcore.errors import ArgumentValueError
from starcore.texts import NAME_CHARS_MAX, plain
from starcore.tls import Target

ANSWER_SECONDS = 10.0
"""How long the manager may take to answer a question."""


class Live(Protocol):
    """A client, as far as it is known here."""

    _target: Target

    def _live(self) -> Session:
        """The session."""


class Inquiries(Executor):
    """Questions, to a client or a view of it."""

    _client: Live

    def cancel(self, future: Future[Any]) -> bool:
        """Cancel a call, also one that runs: it is raised a KeyboardInterrupt, and may clean up for 0.3 s.

        Returns
        -------
        bool
            False where the call is done, or its answer is already arriving.
        """
        return future.kill() if isinstance(future, (TaskFuture, BlockFuture)) else future.cancel()

    def status(self) -> dict[str, Any]:
        """Return what is going on in the star: workers, slots, queues.

        Raises
        ------
        TimeoutError
            There was no answer for 10 s.
        """
        return cast("dict[str, Any]", json.loads(answer_of(self._client._live().ask(), ANSWER_SECONDS)))

    def story(self, task: Future[Any] | str) -> Story:
        """Return what happened to a call: every attempt, with its worker, time and cause.

        Parameters
        ----------
        task : Future or str
            The call's future, or the task's name, which stands in its error and in logs. Of an array that was sent
            in blocks, the block that failed is told of, else the first one that is not done.

        Raises
        ------
        ArgumentValueError
            There is no such task, or nothing is remembered of it any more.
        TimeoutError
            There was no answer for 10 s.
        """
        name = _name(task)
        return _told(self._client._live(), name)

    @property
    def slots(self) -> int:
        """How many slots the star has now."""
        return self._client._live().slots

    @property
    def _max_workers(self) -> int:
        # What dask, joblib and scipy ask an executor for; a star may be empty for a while, and 0 divides badly.
        return max(1, self.slots)

    @property
    def address(self) -> str:
        """The manager's address."""
        return self._client._target.address


def session_of(task: object) -> Session | None:
    """Return the session of a future of ours: the one that its call was made in, whichever client's it is."""
    return cast("Session | None", task._session) if isinstance(task, StarFuture) else None


def own_story(task: Future[Any], session: Session) -> Story:
    """Return what happened to a call, as the manager of its own session tells it; see `Inquiries.story`.

    Raises
    ------
    SessionLostError
        The session is over: another client has to ask.
    """
    return _told(session, _name(task))


def _told(session: Session, name: str) -> Story:
    return read_story(answer_of(session.story(name), ANSWER_SECONDS), time.time())


def _name(task: Future[Any] | str) -> str:
    name = task if isinstance(task, str) else getattr(task, "task", "")
    if not name:
        raise ArgumentValueError("this future stands for no task, or for one whose blocks are all done")
    if len(name) > NAME_CHARS_MAX or not name.isascii():  # it would fit no message, on any link
        shown = plain(name, NAME_CHARS_MAX)
        raise ArgumentValueError(f"{shown!r} is no task's name: SESSION/JOB/INDEX is one: 3fa9c1d2/1/0, or m17/0")
    return name
