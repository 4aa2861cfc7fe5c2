"""What tasks print: whole lines, with the task's name before each, in one write to the worker's log.

A slot replaces `sys.stdout` and `sys.stderr` by this. What a C library prints past Python goes to the log as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from typing import Any

from starcore.texts import task_name

JSON_VARIABLE = "STARCORE_JSON_LOGS"
"""Set in a slot's environment when its worker's log is JSON."""
LINE_CHARACTERS_MAX = 1 << 16
"""A longer line is written in parts: nothing piles up in the slot."""


class TaskStream(io.TextIOBase):
    """A text stream that names the task that speaks.

    Parameters
    ----------
    descriptor : int
        Where the lines go.
    as_json : bool, default False
        One object a line, as `--json-logs` has it, with the task's name as `task`.
    """

    def __init__(self, descriptor: int, *, as_json: bool = False) -> None:
        self.task: str | tuple[int, int, str] = "slot"
        """Who speaks; a task's job, number and function are made a text only when it does."""
        self._as_json = as_json
        self._descriptor = descriptor
        self._line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What cannot be encoded is escaped."""
        return "backslashreplace"

    def writable(self) -> bool:
        """Text may be written."""
        return True

    def fileno(self) -> int:
        """Return the log's own descriptor, for what insists on one."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Take text; write the lines that it completes."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, self._line = (self._line + text).split("\n")
        if len(self._line) > LINE_CHARACTERS_MAX:
            lines.append(self._line)
            self._line = ""
        if lines:
            self._put(lines)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Take many texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: a line that is not whole waits for its rest, or for the end of the task."""

    def end_task(self) -> None:
        """Write what the task left without a newline."""
        if self._line:
            line, self._line = self._line, ""
            self._put([line])

    def _name(self) -> str:
        if isinstance(self.task, str):
            return self.task
        job, index, function = self.task
        return f"{task_name(b'', job, index)} {function}"

    def _put(self, lines: list[str]) -> None:
        text = "".join(map(self._json if self._as_json else self._text, lines))
        with contextlib.suppress(OSError):  # the log is gone: the task goes on
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))

    def _text(self, line: str) -> str:
        return f"[{self._name()}] {line}\n"

    def _json(self, line: str) -> str:
        about = {"time": round(time.time(), 6), "level": "info", "room": "worker.slot", "pid": os.getpid()}
        return json.dumps({**about, "task": self._name(), "text": line}) + "\n"
