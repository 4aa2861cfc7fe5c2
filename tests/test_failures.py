"""Failures: the exception of the remote function, raised as itself where that is safe."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import types
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore.errors import (
    FAILURES,
    FrameError,
    RemoteTraceback,
    StarCoreError,
    Status,
    TaskError,
    TaskFailure,
    TaskTimeoutError,
)
from starcore.failures import FAILURE_BYTES_MAX, decode_failure, encode_failure, text_failure
from starcore.plain import encode
from starcore.postmortem import Facts, with_facts


@pytest.mark.parametrize("status", [Status.CRASHED, Status.TIMEOUT, Status.MEMORY])
def test_facts_of_an_end_are_attributes_and_survive_pickling(status: Status) -> None:
    text = "it ended\nlast stack, most recent call first:\n  File f\n  File g"
    error = text_failure(status, with_facts(text, Facts("SIGSEGV", 300 << 20, "node7", 3)))
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(each) is FAILURES[status]
        assert str(each) == text
        assert (each.signal, each.peak_memory_bytes) == ("SIGSEGV", 300 << 20)  # type: ignore[attr-defined]
        assert each.stack == "  File f\n  File g"  # type: ignore[attr-defined]
        assert (each.worker, each.attempts) == ("node7", 3)  # type: ignore[attr-defined]


def test_end_of_which_nothing_is_known_has_the_attributes_all_the_same() -> None:
    error = text_failure(Status.CRASHED, "it ended")
    assert isinstance(error, TaskFailure)
    assert [error.signal, error.peak_memory_bytes, error.stack, error.worker, error.attempts] == [None] * 5
    assert TaskError("m", "n", "t").signal is None


class Outer:
    class InnerError(Exception):
        pass


class PickyError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class StatefulError(Exception):
    hint: Any = None


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return decode_failure(encode_failure(caught))


def json_error() -> Exception:
    try:
        json.loads("[1,")
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("wrong"), ValueError(), KeyError("key"), KeyError(np.int64(3)), IndexError(1, "two", (3.0, None))),
        *(
            ZeroDivisionError("x"),
            np.linalg.LinAlgError("Singular matrix"),
            Outer.InnerError("nested"),
            StopIteration(4),
        ),
        *(OSError(2, "No such file"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), json_error()),
        *(TaskError("m", "n", "text"), AssertionError(), StarCoreError("ours"), RecursionError("deep"), MemoryError()),
    ],
    ids=repr,
)
def test_a_class_that_is_loaded_is_raised_as_itself(error: Exception) -> None:
    found = raised(error)
    assert type(found) is type(error)
    assert found.args == error.args
    assert str(found) == str(error)
    assert isinstance(found.__cause__, RemoteTraceback)
    assert type(error).__name__ in found.__cause__.text


def test_an_os_error_keeps_number_and_file() -> None:
    found = raised(FileNotFoundError(2, "No such file", "data.npy", None, "other"))
    assert isinstance(found, FileNotFoundError)
    assert (found.errno, found.filename, found.filename2) == (2, "data.npy", "other")


def test_plain_attributes_come_along_and_others_stay() -> None:
    error = StatefulError("x")
    error.hint, error.lock = [1, "two"], object()  # type: ignore[attr-defined]
    found = raised(error)
    assert isinstance(found, StatefulError)
    assert found.hint == [1, "two"]
    assert not hasattr(found, "lock")


def test_notes_come_along() -> None:
    error = ValueError("x")
    vars(error)["__notes__"] = ["while reading row 7"]
    found = raised(error)
    assert found.__notes__ == ["while reading row 7"]  # type: ignore[attr-defined]


def local_class() -> type[Exception]:
    class LocalError(Exception):
        pass

    return LocalError


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (PickyError("one", "two"), "PickyError"),
        (local_class()("x"), "local_class.<locals>.LocalError"),
        (ValueError(object()), "ValueError"),
        (KeyboardInterrupt("stop"), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (UnspeakableError("x"), "UnspeakableError"),
        (type("Gone", (Exception,), {"__module__": "no.such.module"})("x"), "Gone"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_cannot_be_rebuilt_is_a_task_error(error: BaseException, name: str) -> None:
    found = raised(error)
    assert type(found) is TaskError
    assert found.name == name
    assert found.module == type(error).__module__
    assert isinstance(found.__cause__, RemoteTraceback)


def test_a_class_of_the_users_main_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type("Mine", (Exception,), {"__module__": "__main__"})
    remote = type("Mine", (Exception,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", cls, raising=False)
    assert type(raised(remote("x"))) is cls


def test_no_module_is_imported_for_a_failure() -> None:
    source = (
        "import sys, starcore.failures as f, starcore.plain as p\n"
        "e = f.decode_failure(p.encode(('wave', 'Error', ('x',), None, 'x', [], 'text'), []))\n"
        "assert type(e).__name__ == 'TaskError' and 'wave' not in sys.modules, e\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, timeout=60)


def test_a_lazy_module_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lazy")
    asked: list[str] = []
    module.__getattr__ = asked.append  # type: ignore[method-assign,assignment]
    monkeypatch.setitem(sys.modules, "lazy", module)
    fields = ("lazy", "late.Error", ("x",), None, "x", [], "text")
    assert type(decode_failure(encode(fields, []))) is TaskError
    assert asked == []


@pytest.mark.parametrize("name", ["os.system", "system", "__class__", "path.join", "", ".", "error.__init__"])
def test_nothing_but_an_exception_class_is_ever_called(name: str) -> None:
    found = decode_failure(encode(("os", name, ("touch /nowhere",), None, "", [], "text"), []))
    assert type(found) is TaskError or (name == "error" and isinstance(found, OSError))


def deep() -> None:
    1 / 0  # noqa: B018


def chained() -> None:
    try:
        deep()
    except ZeroDivisionError as error:
        raise ValueError("second") from error


def test_the_traceback_shows_the_users_frames_and_the_causes() -> None:
    try:
        chained()
    except ValueError as error:
        found = decode_failure(encode_failure(error))
    text = str(found.__cause__)
    assert "in chained" in text
    assert "in deep" in text
    assert "ZeroDivisionError" in text
    assert "direct cause" in text


@pytest.mark.parametrize(
    "error",
    [ValueError("x" * 1_000_000), ValueError(["x" * 100_000]), KeyError(np.zeros(100_000)), OSError(1, "\ud800")],
)
def test_a_failure_always_fits_its_head(error: Exception) -> None:
    assert len(encode_failure(error)) <= FAILURE_BYTES_MAX
    assert isinstance(raised(error), Exception)


def test_a_long_text_is_cropped_and_keeps_its_class() -> None:
    found = raised(ValueError("begin" + "x" * 1_000_000 + "end"))
    assert type(found) is ValueError
    assert str(found).startswith("begin")
    assert str(found).endswith("end")
    assert "characters left out" in str(found)


def test_a_failure_with_wide_characters_everywhere_fits_too() -> None:
    error = ValueError("\U0001f40d" * 100_000)
    vars(error)["__notes__"] = ["\U0001f40d" * 10_000] * 100
    assert len(encode_failure(error)) <= FAILURE_BYTES_MAX


@pytest.mark.parametrize(
    "fields",
    [
        *((), None, 7, ("a", "b"), (1, 2, 3, 4, 5, 6, 7), ("m", "n", (), None, "t", "notes", "r")),
        ("m", "n", (), None, "t", [], None),
    ],
    ids=repr,
)
def test_a_failure_of_other_fields_is_a_frame_error(fields: Any) -> None:
    assert isinstance(decode_failure(encode(fields, [])), FrameError)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_some_exception(octets: bytes) -> None:
    assert isinstance(decode_failure(octets), Exception)


@pytest.mark.parametrize("status", sorted(FAILURES))
def test_a_text_status_is_its_own_class(status: Status) -> None:
    found = text_failure(status, "worker w1, signal SIGSEGV")
    if status != Status.RAISED:
        assert type(found) is FAILURES[status]
    assert str(found) == "worker w1, signal SIGSEGV"


def test_a_timeout_is_a_timeout_error_and_a_cancelled_task_is_cancelled() -> None:
    assert isinstance(text_failure(Status.TIMEOUT, "5 s"), TimeoutError)
    assert isinstance(text_failure(Status.TIMEOUT, "5 s"), TaskTimeoutError)
    assert isinstance(text_failure(Status.CANCELLED, ""), CancelledError)
