"""What the manager and the worker say: one clear line an event on stderr, or one JSON object a line.

Cores never log; they ask their shell for a line (`Log`), and it comes here. Slots write their lines themselves.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from json import dumps
from typing import Any, TextIO

from starcore.texts import plain

TEXT_CHARS_MAX = 10_000
"""Of one event; a peer's name with line breaks in it makes no line of its own."""
LEVELS = ("debug", "info", "warning", "error")


class TextFormatter(logging.Formatter):
    """``2031-05-04 12:00:00 worker: connected``, and the level where it is not info."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{moment} {_room(record)}: {level}{plain(record.getMessage(), TEXT_CHARS_MAX)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: time (s since 1970), level, room, text and, if there is one, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "room": _room(record),
            "pid": record.process,
            "text": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return dumps(said)


def setup(level: str = "info", json: bool = False, stream: TextIO | None = None) -> None:
    """Send the package's log to stderr; a second call replaces the first.

    Parameters
    ----------
    level : str, default "info"
        One of `LEVELS`.
    json : bool, default False
        JSON objects instead of text.
    stream : text stream, optional
        Where the lines go.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    root = logging.getLogger("starcore")
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False


def watch(loop: asyncio.AbstractEventLoop, log: logging.Logger) -> None:
    """Tell what goes wrong in a loop outside of anybody's hands: one line for a connection that broke, else all."""

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, RuntimeError) and "handler is closed" in str(error):
            log.debug("uvloop wrote to a closed transport: %s", error)  # it had more to say as the link was closed
        elif isinstance(error, (OSError, asyncio.TimeoutError)):
            log.warning("a connection broke: %s", str(error) or type(error).__name__)
        else:
            log.error("%s", context.get("message", "an error in the loop"), exc_info=error)

    loop.set_exception_handler(tell)


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix("starcore.")
