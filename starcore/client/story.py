"""A task's story, as callers see it: what happened to it, when, where and why."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starcore.errors import ArgumentValueError, FrameError, TaskFailure
from starcore.texts import LINE_CHARS_MAX, NAME_CHARS_MAX, plain, plain_report


@dataclass(frozen=True, slots=True)
class StoryRecord:
    """One thing that happened to a task.

    Attributes
    ----------
    time : float
        When, in seconds since the epoch, by this machine's clock.
    what : str
        "queued", "leased", "running", "returned", "raised", "crashed", "timeout", "queued again", "cancelled",
        "failed", "delivered", "dropped", or another status's name.
    attempt : int
        The try that it belongs to; 0 for none.
    worker : str
        Where, if it happened on a worker.
    text : str
        Why, if there is a cause; of several lines, where it is a report.
    """

    time: float
    what: str
    attempt: int
    worker: str
    text: str

    def __str__(self) -> str:
        moment = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.time))}.{int(self.time % 1 * 1000):03}"
        where = f" {'to' if self.what == 'leased' else 'on'} {self.worker}" if self.worker else ""
        attempt = f", attempt {self.attempt}" if self.attempt else ""
        why = ": " + self.text.replace("\n", "\n    ") if self.text else ""
        return f"{moment}  {self.what}{where}{attempt}{why}"


class Story(list[StoryRecord]):
    """The records of one task, oldest first; `print` shows them.

    Attributes
    ----------
    task : str
        The task's name, as in ``starcore story 3fa9c1d2/1/0``.
    function : str
        What it calls.
    whole : bool
        Whether nothing of it is forgotten: the manager keeps the newest records of all tasks.
    """

    def __init__(self, task: str, function: str, whole: bool, records: list[StoryRecord]) -> None:
        super().__init__(records)
        self.task = task
        self.function = function
        self.whole = whole

    def __str__(self) -> str:
        lines = [f"task {self.task} ({self.function})" if self.function else f"task {self.task}"]
        if not self.whole:
            lines.append("  what was before is forgotten")
        return "\n".join([*lines, *("  " + str(record).replace("\n", "\n  ") for record in self)])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for `json.dumps`."""
        names = StoryRecord.__slots__
        records = [{name: getattr(record, name) for name in names} for record in self]
        return {"task": self.task, "function": self.function, "whole": self.whole, "records": records}


def read_story(text: str, now: float) -> Story:
    """Return the story that a manager told at the time `now`, in seconds since the epoch.

    Raises
    ------
    ArgumentValueError
        There is none by that name.
    FrameError
        This is no story.
    """
    try:
        told = json.loads(text)
        if "error" in told:
            raise ArgumentValueError(plain(str(told["error"])))
        records = [_record(each, now) for each in told["records"]]
        task, function = (plain(str(told[name]), NAME_CHARS_MAX) for name in ("task", "function"))
        return Story(task, function, bool(told["whole"]), records)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentValueError):
            raise
        raise FrameError("a story that is none") from error


def _record(told: Mapping[str, Any], now: float) -> StoryRecord:
    what, worker = plain(str(told["what"]), NAME_CHARS_MAX), plain(str(told["worker"]), NAME_CHARS_MAX)
    text = plain_report(str(told["text"]), LINE_CHARS_MAX)
    return StoryRecord(now - float(told["seconds_ago"]), what, int(told["attempt"]), worker, text)


def signed(error: BaseException, task: str) -> BaseException:
    """Add to a task's failure how to learn more; what the function itself raised stays as it is."""
    if isinstance(error, TaskFailure):
        # Not `add_note`, which Python 3.10 does not have.
        notes = vars(error).setdefault("__notes__", [])
        notes.append(f"task {task}: 'starcore story {task}' tells what happened to it")
    return error
