"""What a function raised, as text and plain values; raised again as its own class where that is safe.

No class is imported and nothing is unpickled for a failure. A class that this process has already loaded, found
in its module by name alone, is rebuilt from plain arguments; any other becomes a `TaskError`. Either way the
remote traceback is the `__cause__`.
"""

from __future__ import annotations

import os
import sys
import traceback
from concurrent.futures import CancelledError
from dataclasses import asdict
from types import TracebackType
from typing import Any

from starcore.errors import FAILURES, FrameError, RemoteTraceback, Status, TaskError, TaskFailure
from starcore.layouts import NotPlainError
from starcore.messages import Buffer
from starcore.plain import decode, encode
from starcore.postmortem import split_facts, stack_in

FAILURE_BYTES_MAX = 60 << 10
TEXT_MAX = 16 << 10
NOTES_MAX = 16
_HOME = os.path.dirname(os.path.abspath(__file__)) + os.sep


def encode_failure(error: BaseException) -> bytes:
    """Return module, name, arguments, state, message, notes and traceback as plain text; never raises."""
    kind = type(error)
    name = (_crop(kind.__module__), _crop(kind.__qualname__))
    texts = (_message(error), _notes(error), _traceback(error))
    args, state = _arguments(error)
    for attempt in ((args, state), (args, None), (_short(args), None), (None, None)):
        try:
            text = encode((*name, *attempt, *texts), [])
        except NotPlainError:
            continue
        if len(text) <= FAILURE_BYTES_MAX:
            return text
    return encode((*name, None, None, texts[0][:1024], [], texts[2][:8192]), [])


def decode_failure(text: Buffer) -> BaseException:
    """Return the exception; a `FrameError` where the bytes are no failure. Never raises."""
    try:
        fields = decode(text, [])
        module, name, args, state, message, notes, remote = fields
        if not all(isinstance(field, str) for field in (module, name, message, remote)) or type(notes) is not list:
            raise FrameError("a failure with fields of other types")
    except FrameError as error:
        return error
    except (TypeError, ValueError):
        return FrameError("a failure with other fields")
    raised: Exception = _rebuild(module, name, args, state, message) or TaskError(module, name, message)
    raised.__cause__ = RemoteTraceback(remote)
    if notes:
        # Not `add_note`, which Python 3.10 does not have.
        vars(raised)["__notes__"] = [note for note in notes if isinstance(note, str)]
    return raised


def text_failure(status: Status, text: str) -> BaseException:
    """Return the exception of a status whose head is a text."""
    if status == Status.CANCELLED:
        return CancelledError(text) if text else CancelledError()
    text, facts = split_facts(text)
    error = FAILURES.get(status, TaskFailure)(text)
    vars(error).update({name: value for name, value in asdict(facts).items() if value is not None})
    if (stack := stack_in(text)) is not None:
        error.stack = stack
    return error


def _rebuild(module: str, name: str, args: Any, state: Any, message: str) -> Exception | None:
    cls = _loaded_class(module, name)
    if cls is None or type(args) is not tuple:
        return None
    try:
        error = cls(*args)
        if type(error) is not cls or str(error) != message:
            return None
        if type(state) is dict:
            vars(error).update(state)
    except Exception:
        return None
    return error


def _loaded_class(module: str, name: str) -> type[Exception] | None:
    """Find a class without importing anything: neither by `import` nor by a module's `__getattr__`."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part) if found is not None else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _arguments(error: BaseException) -> tuple[Any, Any]:
    """Return what rebuilds the exception; `__reduce__` knows what `args` leaves out (an OSError's file name)."""
    args: Any = error.args
    try:
        reduced = error.__reduce__()
        if type(reduced) is tuple and len(reduced) >= 2 and reduced[0] is type(error) and type(reduced[1]) is tuple:
            args = reduced[1]
    except Exception:
        pass
    state = {}
    for key, value in vars(error).items():
        if key != "__notes__" and _is_plain(value):
            state[key] = value
    return (args if _is_plain(args) else None), state or None


def _short(args: Any) -> Any:
    """Crop a lone text as the message is cropped: a long text should not cost an exception its class."""
    return (_crop(args[0]),) if type(args) is tuple and len(args) == 1 and type(args[0]) is str else None


def _is_plain(value: Any) -> bool:
    segments: list[Any] = []
    try:
        encode(value, segments)
    except NotPlainError:
        return False
    return not segments


def _message(error: BaseException) -> str:
    try:
        return _crop(str(error))
    except Exception as second:
        return f"<its message raised {type(second).__name__}>"


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):
        return []
    return [note[:1024] for note in notes[:NOTES_MAX] if isinstance(note, str)]


def _traceback(error: BaseException) -> str:
    try:
        own = traceback.TracebackException(type(error), error, _theirs(error.__traceback__))
        return _crop("".join(own.format()).rstrip())
    except Exception as second:
        return f"{type(error).__name__} (its traceback cannot be formatted: {type(second).__name__})"


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """Skip the frames that led from this package to the user's function."""
    while trace is not None and os.path.abspath(trace.tb_frame.f_code.co_filename).startswith(_HOME):
        trace = trace.tb_next
    return trace


def _crop(text: str) -> str:
    """Keep both ends: a traceback's last line says most, its first lines say where."""
    text = str(text)
    if len(text) <= TEXT_MAX:
        return text
    half = TEXT_MAX // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
