"""What a session asks its manager beside calls: how the star is, and what happened to a task. Any thread may ask."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from starcore.client.orders import Ask, AskStory


def answer_of(answer: Future[str], seconds: float | None) -> str:
    """Wait for the answer to a question.

    Raises
    ------
    TimeoutError
        There was none in time.
    """
    try:
        return answer.result(seconds)
    except NotInTime:  # before Python 3.11 another class, and without a word
        told = f"the manager did not answer within {seconds:g} s: is it running, and is there a way to it?"
        raise TimeoutError(f"{told} It is looked for as long as this client lives") from None


class Questions:
    """The questions that are not answered yet.

    Parameters
    ----------
    tell : callable
        Feeds an event to the session's core.
    """

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._status: list[Future[str]] = []
        self._stories: dict[int, Future[str]] = {}

    def status(self) -> Future[str]:
        """Ask how the star is; the answer is a JSON object, as for `story`."""
        answer: Future[str] = Future()
        with self._lock:
            self._status.append(answer)
        self._tell(Ask())
        return answer

    def story(self, task: str) -> Future[str]:
        """Ask what happened to a task."""
        answer: Future[str] = Future()
        with self._lock:
            number = next(self._numbers) & 0xFFFFFFFF
            self._stories[number] = answer
        self._tell(AskStory(number, task))
        return answer

    def status_told(self, text: str) -> None:
        """Everybody who asked for it hears of the status."""
        with self._lock:
            answers, self._status = self._status, []
        for answer in answers:
            answer.set_result(text)

    def story_told(self, number: int, text: str) -> None:
        """A story came."""
        with self._lock:
            answer = self._stories.pop(number, None)
        if answer is not None:
            answer.set_result(text)

    def fail(self, error: BaseException) -> None:
        """No answer comes any more."""
        with self._lock:
            answers = [*self._status, *self._stories.values()]
            self._status, self._stories = [], {}
        for answer in answers:
            answer.set_exception(error)
