"""What a caller of the chaos run holds its futures to."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from starcore import Client
from starcore.client.futures import TaskFuture

from . import caller


class Submits:
    """A client as far as `Ends` knows it."""

    def __init__(self) -> None:
        self.future = TaskFuture(cast("Any", None), None)

    def submit(self) -> TaskFuture:
        """Return the one future."""
        return self.future


def watched() -> tuple[caller.Ends, TaskFuture]:
    client, ends = Submits(), caller.Ends()
    ends.watch(cast("Client", client))
    return ends, client.submit()


def test_a_callback_may_come_a_moment_after_the_result() -> None:
    ends, future = watched()
    assert future._settle("FINISHED", 7, None)
    assert future.result() == 7
    late = threading.Timer(0.2, future._invoke_callbacks)  # type: ignore[attr-defined]
    late.start()
    begun = time.monotonic()
    ends.settle()
    assert time.monotonic() - begun > 0.1
    late.join()


def test_a_future_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "CALLBACK_SECONDS_MAX", 0.05)
    ends, _ = watched()
    with pytest.raises(AssertionError, match="the end of every future"):
        ends.settle()


def test_a_future_that_ends_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskFuture, "task", "a task")
    ends, future = watched()
    assert future.succeed(1)
    future._invoke_callbacks()  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match=r"more than once.*: 2"):
        ends.settle()
