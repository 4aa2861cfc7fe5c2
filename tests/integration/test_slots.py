"""Slots that die, hang, are cancelled or time out, and what each task's caller is told: real processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import Client
from starcore.errors import CrashError, LoadError, ResultError, TaskError, TaskTimeoutError

from .stars import TriedStar, children, is_alive, tried_star, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
SECONDS = 20.0


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    options = ("--initializer", "starcore_test_initializer:begin")
    directory = tmp_path_factory.mktemp("slots")
    (directory / "starcore_test_initializer.py").write_text(
        "import os\ndef begin():\n    print('initialised', os.getpid(), flush=True)\n    os.environ['BEGUN'] = 'yes'\n"
    )
    saved = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(directory), saved)))
    try:
        with tried_star(directory, workers=1, slots=2, worker_options=options) as star:
            yield star
    finally:
        if saved is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = saved


@pytest.fixture(scope="module")
def observer(star: TriedStar) -> Client:
    return star.client()


@pytest.fixture
def client(star: TriedStar, observer: Client) -> Iterator[Client]:
    with star.client() as client:
        yield client
    star.check_quiet(observer)


def slots(star: TriedStar) -> list[int]:
    return children(star.worker_pids[0])


# -- deaths ------------------------------------------------------------------------------------------------------


def wait_for_second_attempt(directory: str) -> tuple[int, int]:
    """Hangs the first time; answers with this process's number and the attempts so far the second time."""
    attempts = len(os.listdir(directory))
    Path(directory, str(os.getpid())).touch()
    while not attempts:
        time.sleep(0.01)
    return os.getpid(), attempts + 1


def test_task_of_a_killed_slot_runs_again_in_another_process(star: TriedStar, client: Client, tmp_path: Path) -> None:
    future = client.submit(wait_for_second_attempt, str(tmp_path))
    (first,) = until(lambda: os.listdir(tmp_path), "the first attempt")
    os.kill(int(first), signal.SIGKILL)
    second, attempts = future.result(SECONDS)
    assert attempts == 2
    assert second != int(first)
    assert not is_alive(int(first))
    until(lambda: len(slots(star)) == 2, "two slots")
    assert "SIGKILL" in star.log()


def end_process(directory: str, how: str) -> str:
    attempts = len(os.listdir(directory))
    Path(directory, str(os.getpid())).touch()
    if not attempts:
        if how == "exit":
            os._exit(7)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "abort":
            os.abort()
        raise AssertionError(how)
    return how


@pytest.mark.parametrize("how", ["exit", "segfault", "abort"])
def test_task_that_ends_its_slot_once_costs_one_attempt(client: Client, tmp_path: Path, how: str) -> None:
    assert client.submit(end_process, str(tmp_path), how).result(SECONDS) == how
    assert len(os.listdir(tmp_path)) == 2


def segfault(directory: str) -> None:
    with open(f"{directory}/{time.monotonic_ns()}", "x"):
        ctypes.string_at(0)


def test_task_that_always_kills_its_slot_fails_and_is_named_with_its_signal(
    star: TriedStar, client: Client, tmp_path: Path
) -> None:
    with pytest.raises(CrashError) as caught:
        client.submit(segfault, str(tmp_path)).result(SECONDS)
    text = str(caught.value)
    name = client.status()["workers"][0]["name"]
    assert "SIGSEGV" in text
    assert name in text
    assert "attempt 3" in text
    assert len(os.listdir(tmp_path)) == 3
    until(lambda: len(slots(star)) == 2, "two slots")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_process_that_a_task_forks_hears_signals_as_any_other(client: Client, number: int) -> None:
    """A `multiprocessing.Pool` that ends waits for processes that it has sent SIGTERM."""

    def fork_and_end(number: int) -> int:
        ready, said = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(said, b".")
                time.sleep(20)
            except KeyboardInterrupt:
                os._exit(7)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    ended = 7 if number == signal.SIGINT else -number
    assert client.options(timeout=15).submit(fork_and_end, number).result(30) == ended


def test_exit_code_of_a_task_that_leaves_stands_in_its_error(client: Client) -> None:
    with pytest.raises(CrashError, match="exit code 7"):
        client.submit(os._exit, 7).result(SECONDS)


def test_tasks_behind_a_killer_are_not_blamed(star: TriedStar, client: Client, tmp_path: Path) -> None:
    client.map(abs, range(200), chunksize=1)  # so that the star knows how short these are
    before = [client.submit(pow, number, 2) for number in range(300)]
    killers = [client.submit(segfault, str(tmp_path)) for _ in range(2)]
    after = [client.submit(pow, number, 3) for number in range(300)]
    assert [future.result(SECONDS) for future in before] == [number**2 for number in range(300)]
    assert [future.result(SECONDS) for future in after] == [number**3 for number in range(300)]
    for killer in killers:
        with pytest.raises(CrashError):
            killer.result(SECONDS)
    assert len(os.listdir(tmp_path)) == 6


def kill_own_slot_or_square(number: int) -> int:
    if number == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_killer_among_small_tasks_of_its_own_job_is_found_out(client: Client) -> None:
    futures = [client.submit(kill_own_slot_or_square, number) for number in range(200)]
    for number, future in enumerate(futures):
        if number == 100:
            with pytest.raises(CrashError, match="SIGKILL"):
                future.result(SECONDS)
        else:
            assert future.result(SECONDS) == number * number


def test_argument_of_a_killed_slot_is_pulled_afresh(client: Client, tmp_path: Path) -> None:
    def spoil_and_die(array: np.ndarray, directory: str) -> float:
        attempts = len(os.listdir(directory))
        Path(directory, str(os.getpid())).touch()
        total = float(array.sum())
        array[:] = -1
        if not attempts:
            os.kill(os.getpid(), signal.SIGKILL)
        return total

    array = np.arange(1 << 20, dtype=float)
    assert client.submit_array(spoil_and_die, array, args=(str(tmp_path),)).result(SECONDS) == array.sum()


def test_task_whose_memory_runs_out_raises_and_the_slot_lives(star: TriedStar, client: Client) -> None:
    def greedy() -> None:
        bytearray(1 << 60)

    client.submit(pow, 2, 2).result(SECONDS)
    before = sorted(slots(star))
    with pytest.raises(MemoryError):
        client.submit(greedy).result(SECONDS)
    assert sorted(slots(star)) == before


# -- cancelling, timeouts, options -------------------------------------------------------------------------------


def hang(directory: str) -> None:
    Path(directory, str(os.getpid())).touch()
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def test_queued_task_is_cancelled_and_never_runs(client: Client, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    sleepers = [client.submit(time.sleep, 0.4) for _ in range(4)]
    queued = client.submit(marker.touch)
    assert queued.cancel()
    assert queued.cancelled()
    with pytest.raises(CancelledError):
        queued.result(SECONDS)
    for sleeper in sleepers:
        sleeper.result(SECONDS)
    assert client.submit(pow, 2, 2).result(SECONDS) == 4
    assert not marker.exists()


def test_running_task_does_not_cancel_but_is_killed_by_the_client(
    star: TriedStar, client: Client, tmp_path: Path
) -> None:
    future = client.submit(hang, str(tmp_path))
    until(future.running, "RUNNING to be known")
    (pid,) = os.listdir(tmp_path)
    assert not future.cancel()
    assert client.cancel(future)
    assert future.cancelled()
    until(lambda: not is_alive(int(pid)), "the slot's end", 3)
    until(lambda: len(slots(star)) == 2, "two slots")
    assert client.submit(pow, 3, 2).result(SECONDS) == 9
    assert os.listdir(tmp_path) == [pid]


def test_cancelled_whole_cancels_its_blocks(star: TriedStar, client: Client, tmp_path: Path) -> None:
    def slow(block: np.ndarray, directory: str) -> np.ndarray:
        Path(directory, str(time.monotonic_ns())).touch()
        time.sleep(30)
        return block

    whole = client.submit_array(slow, np.arange(8.0), chunks=1, args=(str(tmp_path),))
    until(whole.running, "a block that runs")
    assert not whole.cancel()
    assert client.cancel(whole)
    with pytest.raises(CancelledError):
        whole.result(SECONDS)
    assert client.submit(pow, 3, 2).result(SECONDS) == 9
    assert len(os.listdir(tmp_path)) <= 2


def test_timeout_ends_the_slot_and_says_so(star: TriedStar, client: Client, tmp_path: Path) -> None:
    begun = time.monotonic()
    future = client.options(timeout=0.3).submit(hang, str(tmp_path))
    with pytest.raises(TaskTimeoutError, match=r"0\.3 s") as caught:
        future.result(SECONDS)
    assert isinstance(caught.value, TimeoutError)
    assert 0.3 <= time.monotonic() - begun < 3
    (pid,) = os.listdir(tmp_path)
    assert not is_alive(int(pid))
    until(lambda: len(slots(star)) == 2, "two slots")


def test_timeout_counts_the_running_time_alone(client: Client) -> None:
    view = client.options(timeout=0.5)
    futures = [view.submit(time.sleep, 0.2) for _ in range(8)]
    assert [future.result(SECONDS) for future in futures] == [None] * 8


def fail_until(directory: str, attempts: int) -> int:
    Path(directory, str(time.monotonic_ns())).touch()
    made = len(os.listdir(directory))
    if made < attempts:
        raise ConnectionError(f"attempt {made}")
    return made


def test_raising_task_is_tried_again_as_often_as_its_retries_say(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert client.options(retries=2).submit(fail_until, str(tmp_path / "a"), 3).result(SECONDS) == 3
    with pytest.raises(ConnectionError, match="attempt 2"):
        client.options(retries=1).submit(fail_until, str(tmp_path / "b"), 9).result(SECONDS)


def test_higher_priority_goes_first(star: TriedStar, client: Client, tmp_path: Path) -> None:
    def note(name: str, directory: str) -> None:
        Path(directory, f"{time.monotonic_ns()} {name}").touch()
        time.sleep(0.02)  # so long that a slot is given few at a time: one that stands still holds no batch back

    blockers = [client.submit(time.sleep, 0.5) for _ in range(4)]
    low = [client.options(priority=-1).submit(note, "low", str(tmp_path)) for _ in range(20)]
    high = [client.options(priority=5).submit(note, "high", str(tmp_path)) for _ in range(20)]
    for future in (*blockers, *low, *high):
        future.result(SECONDS)
    order = [name.split()[1] for name in sorted(os.listdir(tmp_path))]
    assert order.count("high") == 20
    # Two slots run their batches side by side, so the last of one batch may end after the first of the next.
    assert order[:5] == ["high"] * 5
    assert order[:20].count("high") >= 15


# -- what comes back ---------------------------------------------------------------------------------------------


class Refusal(ValueError):  # noqa: N818
    """An exception of the user's own module."""


def refuse(text: str) -> None:
    raise Refusal(text)


def test_own_exception_comes_back_as_itself_with_the_remote_traceback(client: Client) -> None:
    with pytest.raises(Refusal, match="not today") as caught:
        client.submit(refuse, "not today").result(SECONDS)
    assert "refuse" in str(caught.value.__cause__)
    assert "Traceback" in str(caught.value.__cause__)


def test_result_that_cannot_be_pickled_is_a_clear_error(client: Client) -> None:
    import threading  # noqa: PLC0415

    def lock() -> Any:
        return threading.Lock()

    with pytest.raises(ResultError, match="lock"):
        client.submit(lock).result(SECONDS)


def test_exception_that_cannot_be_pickled_is_told_as_text(client: Client) -> None:
    def bad() -> None:
        class Unspeakable(Exception):  # noqa: N818
            def __init__(self) -> None:
                super().__init__("unspeakable", (n for n in range(3)))

        raise Unspeakable

    with pytest.raises(TaskError, match="unspeakable"):
        client.submit(bad).result(SECONDS)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_task_that_wants_to_end_the_interpreter_only_fails(star: TriedStar, client: Client, kind: type) -> None:
    def leave(kind: type) -> None:
        raise kind("bye")

    client.submit(pow, 2, 2).result(SECONDS)
    before = sorted(slots(star))
    future = client.submit(leave, kind)
    error = future.exception(SECONDS)
    assert isinstance(error, (kind, TaskError)), repr(error)
    assert "bye" in str(error)
    assert sorted(slots(star)) == before


def test_huge_exception_text_arrives(client: Client) -> None:
    def shout() -> None:
        raise ValueError("x" * (8 << 20))

    error = client.submit(shout).exception(SECONDS)
    assert isinstance(error, ValueError)
    assert len(str(error)) > 1000
    assert client.submit(pow, 2, 2).result(SECONDS) == 4


class LoadsNowhere:
    """Pickles well, and raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def test_result_that_fails_to_load_here_is_a_clear_error(client: Client) -> None:
    def bad() -> Any:
        return LoadsNowhere()

    error = client.submit(bad).exception(SECONDS)
    assert error is not None
    assert "not a number" in str(error) or "not a number" in str(error.__cause__), repr(error)
    assert client.submit(pow, 2, 2).result(SECONDS) == 4


def test_argument_that_fails_to_load_there_is_a_clear_error(client: Client) -> None:
    with pytest.raises(LoadError, match="not a number"):
        client.submit(print, LoadsNowhere()).result(SECONDS)


# -- the slot's surroundings -------------------------------------------------------------------------------------


def test_what_a_task_prints_stands_in_the_log_with_its_name(star: TriedStar, client: Client) -> None:
    def chatty(number: int) -> None:
        print("first line of", number)
        sys.stderr.write("no newline")

    client.submit(chatty, 17).result(SECONDS)
    line = until(lambda: [line for line in star.log().splitlines() if "first line of 17" in line], "the line")[0]
    assert "chatty]" in line
    assert any("chatty] no newline" in line for line in star.log().splitlines())


def test_threads_are_shared_out_among_the_slots(client: Client) -> None:
    def threads() -> dict[str, str | None]:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        return {name: os.environ.get(name) for name in names}

    cores = len(os.sched_getaffinity(0))
    found = client.submit(threads).result(SECONDS)
    assert all(value is not None and 1 <= int(value) <= max(1, cores // 2) for value in found.values()), found


def test_initializer_runs_once_in_each_slot(star: TriedStar, client: Client) -> None:
    def begun() -> tuple[int, str | None]:
        time.sleep(0.02)
        return os.getpid(), os.environ.get("BEGUN")

    found = {future.result(SECONDS) for future in [client.submit(begun) for _ in range(40)]}
    assert {value for _, value in found} == {"yes"}
    for pid, _ in found:
        assert star.log().count(f"initialised {pid}\n") == 1
