"""What the caller is told of a task that ended its slot: signal, memory, stack, worker, host and every attempt."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from starcore import Client
from starcore.errors import CrashError, TaskMemoryError, TaskTimeoutError

from .stars import TriedStar, tried_star

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="run on Linux: reads /proc")
SECONDS = 60.0
LIMIT = "400M"


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    options = ("--slot-memory", LIMIT, "--name", "node7")
    with tried_star(tmp_path_factory.mktemp("reports"), workers=1, slots=2, worker_options=options) as star:
        yield star


@pytest.fixture(scope="module")
def observer(star: TriedStar) -> Client:
    return star.client()


@pytest.fixture
def client(star: TriedStar, observer: Client) -> Iterator[Client]:
    with star.client() as client:
        yield client
    star.check_quiet(observer)


def innermost(how: str) -> None:
    if how == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))


def outermost(how: str) -> None:
    innermost(how)


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_fault_is_told_with_signal_memory_stack_worker_host_and_all_attempts(client: Client, how: str) -> None:
    with pytest.raises(CrashError) as caught:
        client.submit(outermost, how).result(SECONDS)
    lines = str(caught.value).split("\n")
    host = socket.gethostname()
    assert f"ended by {how}" in lines[0]
    assert "peak memory of its slot" in lines[0]
    assert f"worker node7 ({host}), attempt 3" in lines[0]
    deaths = [line for line in lines if line.startswith("  attempt ")]
    assert [line.split(",")[0].strip() for line in deaths] == ["attempt 1", "attempt 2", "attempt 3"]
    stack = lines[lines.index("last stack, most recent call first:") + 1 :]
    assert [line.rpartition(" in ")[2] for line in stack][-2:] == ["innermost", "outermost"]
    assert "test_crash_reports.py" in stack[-1]
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.signal, error.worker, error.attempts) == (how, "node7", 3)
    assert error.stack == "\n".join(stack)
    assert error.peak_memory_bytes is None or 1 << 20 < error.peak_memory_bytes < 4 << 30
    assert "facts" not in str(error)


def test_death_that_leaves_no_stack_is_told_all_the_same(client: Client) -> None:
    with pytest.raises(CrashError) as caught:
        client.submit(outermost, "SIGKILL").result(SECONDS)
    text = str(caught.value)
    assert "SIGKILL (from outside; p" in text
    assert "out of memory" in text
    assert "peak memory of its slot" in text
    assert "last stack" not in text
    assert (caught.value.signal, caught.value.stack) == ("SIGKILL", None)


def wait_in_c(directory: str) -> None:
    Path(directory, str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(60)


def test_timeout_shows_where_the_task_was_though_it_held_the_interpreters_lock(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TaskTimeoutError) as caught:
        client.options(timeout=1.0).submit(wait_in_c, str(tmp_path)).result(SECONDS)
    text = str(caught.value)
    assert "longer than its timeout of 1 s" in text
    assert f"worker node7 ({socket.gethostname()}), attempt 1" in text
    assert "peak memory of its slot" in text
    assert text.endswith(" in wait_in_c")
    assert caught.value.stack is not None and caught.value.stack.endswith(" in wait_in_c")
    assert (caught.value.signal, caught.value.worker, caught.value.attempts) == (None, "node7", 1)
    assert len(os.listdir(tmp_path)) == 1


def take(directory: str, mebibytes: int) -> int:
    """Take memory piece by piece, as a program does that has no end of it."""
    Path(directory, str(os.getpid())).touch()
    kept = []
    for _ in range(mebibytes // 8):
        kept.append(bytearray(os.urandom(1) * (8 << 20)))
    return len(kept)


def test_task_beyond_the_slots_memory_fails_once_with_limit_peak_and_advice(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TaskMemoryError) as caught:
        client.submit(take, str(tmp_path), 20_000).result(SECONDS)
    text = str(caught.value)
    assert isinstance(caught.value, MemoryError)
    assert "each may have 400 MiB (--slot-memory)" in text
    assert "smaller pieces" in text
    assert "node7" in text
    peak = text.partition("peak memory of its slot ")[2].partition(";")[0].removeprefix("below ")
    number, unit = peak.split()
    assert 400 <= float(number) * (1024 if unit == "GiB" else 1) <= 4096, peak
    assert " in take" in text
    known = "peak memory of its slot below " not in text  # as where this process, whose child's child it is, was larger
    peak_bytes = caught.value.peak_memory_bytes
    assert 400 << 20 <= (peak_bytes or 0) < 4 << 30 if known else peak_bytes is None
    assert caught.value.attempts == 1
    assert len(os.listdir(tmp_path)) == 1, "it ran more than once"
    assert client.submit(abs, -3).result(SECONDS) == 3


def test_memory_within_the_limit_and_that_of_the_arena_are_no_offence(client: Client, tmp_path: Path) -> None:
    assert client.submit(take, str(tmp_path), 200).result(SECONDS) == 25
    large = np.ones(600 << 20, np.uint8)
    assert client.submit(np.count_nonzero, large).result(SECONDS) == large.size


def test_what_a_task_reserves_and_does_not_touch_is_no_offence(client: Client) -> None:
    assert client.submit(reserve, 8 << 30).result(SECONDS) == 0


def reserve(size: int) -> int:
    return int(np.zeros(size, np.uint8)[::1 << 30].sum())
