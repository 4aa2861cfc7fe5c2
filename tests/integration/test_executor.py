"""`Client` as an Executor on a real star: what `concurrent.futures` promises, and what takes executors takes it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize

from starcore import ArgumentTypeError, Client, LocalStar, SessionLostError, TaskError, TaskTimeoutError

from .processes import eventually

SECONDS = 30.0


@pytest.fixture(scope="module")
def star() -> Iterator[LocalStar]:
    with LocalStar(workers=2, slots=1) as star:
        yield star


@pytest.fixture(scope="module")
def client(star: LocalStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


def square(x: Any) -> Any:
    return x * x


def fail_at(x: int, bad: int = 7) -> int:
    if x == bad:
        raise KeyError(x)
    return x


def occupy(client: Client, directory: Path) -> list[Future[Any]]:
    """Keep both slots busy until a file `go` is there; return when they are."""
    go = str(directory / "go")

    def hold(path: str) -> None:
        deadline = time.monotonic() + 20
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.005)

    held = [client.submit(hold, go) for _ in range(2)]
    eventually(lambda: all(future.running() for future in held), "both slots are busy")
    return held


def release(directory: Path) -> None:
    (directory / "go").touch()


# -- futures -----------------------------------------------------------------------------------------------------


def test_client_is_an_executor_and_its_futures_are_real(client: Client) -> None:
    future = client.submit(square, 12)
    assert isinstance(client, Executor)
    assert isinstance(future, Future)
    assert future.result(SECONDS) == 144
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert not future.cancel()
    assert future.exception() is None


def test_arguments_of_any_name_belong_to_the_function(client: Client) -> None:
    def named(self: int, fn: int, *, timeout: int, retries: int, priority: int, client: int = 0) -> Any:
        return self, fn, timeout, retries, priority, client

    future = client.submit(named, 1, fn=2, timeout=3, retries=4, priority=5, client=6)
    assert future.result(SECONDS) == (1, 2, 3, 4, 5, 6)
    assert client.submit(lambda **kwargs: kwargs, self=1, fn=2).result(SECONDS) == {"self": 1, "fn": 2}


def test_callbacks_are_called_once_with_their_future(client: Client) -> None:
    seen: list[Any] = []
    future = client.submit(square, 3)
    future.add_done_callback(seen.append)
    future.add_done_callback(lambda done: seen.append(done.result()))
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(lambda done: seen.append("after one that raised"))
    eventually(lambda: len(seen) == 3, "three callbacks")
    future.add_done_callback(lambda done: seen.append("at once"))
    assert seen == [future, 9, "after one that raised", "at once"]


def test_as_completed_yields_in_the_order_of_completion(client: Client) -> None:
    slow = client.submit(time.sleep, 0.4)
    quick = [client.submit(square, i) for i in range(5)]
    order = list(as_completed([slow, *quick], SECONDS))
    assert order[-1] is slow
    assert {future.result() for future in order[:-1]} == {0, 1, 4, 9, 16}


def wait_for(path: str | None) -> bool:
    while path is not None and not os.path.exists(path):
        time.sleep(0.01)
    return True


def test_answers_do_not_wait_for_the_task_behind_them(tmp_path: Path) -> None:
    """Short tasks travel in batches, and their answers in company; how long the next one runs nobody knows."""
    go = str(tmp_path / "go")
    with LocalStar(workers=1, slots=1) as star, star.client() as client:
        list(client.map(wait_for, [None] * 2000, chunksize=1))  # they are known to be short
        futures = [client.submit(wait_for, go if index == 500 else None) for index in range(1000)]
        for future in futures[:500]:
            assert future.result(SECONDS)
        assert not futures[500].done()
        Path(go).touch()
        assert all(future.result(SECONDS) for future in futures)


def test_wait_knows_first_completed_first_exception_and_time(client: Client) -> None:
    slow, quick = client.submit(time.sleep, 0.3), client.submit(square, 2)
    done, rest = wait([slow, quick], SECONDS, FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {slow})
    bad = client.submit(fail_at, 7)
    done, _ = wait([slow, bad], SECONDS, FIRST_EXCEPTION)
    assert bad in done
    done, rest = wait([client.submit(time.sleep, 0.3), slow], 0.001)
    assert len(rest) >= 1
    wait(rest, SECONDS)
    with pytest.raises(FutureTimeoutError):
        client.submit(time.sleep, 0.1).result(0.001)


def test_exceptions_are_their_own_with_the_remote_traceback(client: Client) -> None:
    error = client.submit(fail_at, 7).exception(SECONDS)
    assert type(error) is KeyError
    assert error.args == (7,)
    assert "raise KeyError(x)" in str(error.__cause__)
    assert "fail_at" in str(error.__cause__)
    assert "starcore/worker" not in str(error.__cause__)

    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def raise_odd() -> None:
        raise OddError(1, 2)

    odd = client.submit(raise_odd).exception(SECONDS)
    assert isinstance(odd, TaskError)
    assert "OddError" in str(odd)
    assert "1 and 2" in str(odd)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, MemoryError])
def test_exceptions_that_would_end_a_process_end_one_call(client: Client, error: type[BaseException]) -> None:
    def leave() -> None:
        raise error("enough")

    assert client.submit(leave).exception(SECONDS) is not None
    assert client.submit(square, 2).result(SECONDS) == 4


# -- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_takes_back_what_waits_and_not_what_runs(client: Client, tmp_path: Path) -> None:
    held = occupy(client, tmp_path)
    waiting = [client.submit((tmp_path / f"ran-{i}").touch) for i in range(10)]
    assert not held[0].cancel()
    assert all(future.cancel() for future in waiting)
    assert all(future.cancelled() and future.done() for future in waiting)
    assert waiting[0].cancel()
    with pytest.raises(CancelledError):
        waiting[3].result(SECONDS)
    # Each slot had one of them next in line: the word has to reach it.
    eventually(lambda: sum(worker["leased"] for worker in client.status()["workers"]) == 2, "the rest is taken back")
    release(tmp_path)
    assert [future.result(SECONDS) for future in held] == [None, None]
    assert client.submit(square, 5).result(SECONDS) == 25
    assert not list(tmp_path.glob("ran-*"))


def test_client_cancel_ends_what_runs(client: Client) -> None:
    future = client.submit(time.sleep, 60)
    eventually(future.running, "it runs")
    begun = time.monotonic()
    assert client.cancel(future)
    assert future.cancelled()
    assert [client.submit(square, i).result(SECONDS) for i in range(4)] == [0, 1, 4, 9]
    assert time.monotonic() - begun < 10
    done = client.submit(square, 1)
    done.result(SECONDS)
    assert not client.cancel(done)


# -- map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", ["auto", 1, 10, 5000])
def test_map_is_the_builtin_in_order(client: Client, chunksize: Any) -> None:
    assert list(client.map(pow, range(2000), [3] * 1500, chunksize=chunksize)) == [i**3 for i in range(1500)]


def test_map_of_nothing_of_one_and_of_arrays(client: Client) -> None:
    assert list(client.map(square, [])) == []
    assert list(client.map(square, [3])) == [9]
    for size in (10, 30_000):
        stack = np.arange(12.0 * size).reshape(12, size)
        answers = list(client.map(np.negative, stack))
        assert np.array_equal(answers, -stack)
        assert all(answer.flags.writeable for answer in answers)


def test_map_yields_what_comes_before_an_exception_and_then_raises_it(client: Client) -> None:
    for chunksize in (1, 3, "auto"):
        results = client.map(fail_at, range(20), chunksize=chunksize)
        assert list(islice(results, 7)) == list(range(7))
        with pytest.raises(KeyError):
            next(results)


def test_map_times_out_and_cancels_the_rest(client: Client, tmp_path: Path) -> None:
    def slow(path: Path, i: int) -> int:
        if i:
            time.sleep(0.2)
        (path / f"ran-{i}").touch()
        return i

    results = client.map(partial(slow, tmp_path), range(100), timeout=0.5, chunksize=1)
    assert next(results) == 0
    with pytest.raises(FutureTimeoutError):
        list(results)
    client.submit(square, 1).result(SECONDS)
    assert len(list(tmp_path.glob("ran-*"))) < 20


def test_map_closed_early_cancels_the_rest(client: Client, tmp_path: Path) -> None:
    def leave_a_trace(path: Path, i: int) -> int:
        time.sleep(0.02)
        (path / f"ran-{i}").touch()
        return i

    results = client.map(partial(leave_a_trace, tmp_path), range(1000), chunksize=1)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    client.submit(square, 1).result(SECONDS)
    assert len(list(tmp_path.glob("ran-*"))) < 50


def test_map_closed_before_its_first_answer_cancels_all(client: Client) -> None:
    begun = time.monotonic()
    client.map(time.sleep, [0.05] * 1000, chunksize=1).close()  # type: ignore[attr-defined]
    assert client.submit(square, 1).result(SECONDS) == 1
    assert time.monotonic() - begun < 5


def test_map_runs_before_anybody_iterates(client: Client, tmp_path: Path) -> None:
    results = client.map(lambda name: (tmp_path / name).touch(), list("abcdefgh" * 5))
    eventually(lambda: len(list(tmp_path.glob("?"))) == 8, "all have run")
    assert list(results) == [None] * 40


def test_map_looks_ahead_no_further_than_it_was_told(client: Client) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in count():
            taken = number + 1
            yield number

    results = client.map(square, numbers(), buffersize=16)
    assert list(islice(results, 100)) == [i * i for i in range(100)]
    assert taken <= 100 + 16
    results.close()


def test_map_reports_an_iterable_that_fails(client: Client) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        list(client.map(square, numbers()))
    results = client.map(square, numbers(), buffersize=4)
    assert next(results) == 1
    with pytest.raises(OSError, match="ends here"):
        next(results)


def test_map_of_what_cannot_be_pickled_says_so(client: Client) -> None:
    with pytest.raises(ArgumentTypeError, match="cannot be pickled"):
        list(client.map(str, [1, 2, threading.Lock(), 4]))
    with pytest.raises(ArgumentTypeError, match="function is needed"):
        client.map(3, [1])  # type: ignore[arg-type]


def test_map_of_many_small_calls_is_quick(client: Client) -> None:
    begun = time.monotonic()
    assert sum(client.map(square, range(50_000))) == sum(i * i for i in range(50_000))
    assert time.monotonic() - begun < 15


def test_progress_is_drawn_where_it_is_asked_for(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(client.map(square, range(50), progress=True)) == [i * i for i in range(50)]
    drawn = capsys.readouterr().err
    assert "square" in drawn
    assert "50/50" in drawn
    whole = client.submit_array(np.negative, np.ones((9, 9)), chunks=2, progress=True)
    assert whole.result(SECONDS).sum() == -81
    eventually(lambda: "5/5" in capsys.readouterr().err, "the bar is full")


# -- options -----------------------------------------------------------------------------------------------------


def test_retries_run_again_what_raised(client: Client, tmp_path: Path) -> None:
    def third_time(path: Path) -> int:
        tries = len(list(path.iterdir()))
        (path / str(tries)).touch()
        if tries < 2:
            raise OSError("not yet")
        return tries

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert client.options(retries=2).submit(third_time, tmp_path / "a").result(SECONDS) == 2
    with pytest.raises(OSError, match="not yet"):
        client.options(retries=1).submit(third_time, tmp_path / "b").result(SECONDS)
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_retry_gets_a_fresh_argument(client: Client, tmp_path: Path) -> None:
    def spoil(a: Any, path: str) -> Any:
        a += 1
        if not os.path.exists(path):
            Path(path).touch()
            raise OSError("not yet")
        return a

    for size in (5, 50_000):
        flag = str(tmp_path / str(size))
        future = client.options(retries=1).submit_array(spoil, np.zeros(size), args=(flag,))
        assert future.result(SECONDS).sum() == size


def test_timeout_ends_a_call_and_nothing_else(client: Client) -> None:
    future = client.options(timeout=0.3).submit(time.sleep, 60)
    ok = client.options(timeout=20).submit(square, 4)
    error = future.exception(SECONDS)
    assert isinstance(error, TaskTimeoutError)
    assert isinstance(error, TimeoutError)
    assert "\n" not in str(error)
    assert ok.result(SECONDS) == 16


@pytest.mark.alone
def test_priority_goes_first(client: Client, tmp_path: Path) -> None:
    held = occupy(client, tmp_path)

    def note(path: Path, name: str) -> float:
        time.sleep(0.01)
        return time.time()

    low = [client.options(priority=-1).submit(note, tmp_path, "low") for _ in range(6)]
    normal = [client.submit(note, tmp_path, "normal") for _ in range(6)]
    high = [client.options(priority=5).submit(note, tmp_path, "high") for _ in range(6)]
    release(tmp_path)
    times = [sorted(future.result(SECONDS) for future in futures) for futures in (high, normal, low)]
    wait(held, SECONDS)
    # What was prefetched onto a slot before the others came keeps its place: one a slot.
    assert times[0][-3] < times[1][2] < times[1][-3] < times[2][2]


# -- who takes executors -----------------------------------------------------------------------------------------


def test_scipy_takes_map_for_its_workers(client: Client) -> None:
    calls = []

    def mapped(function: Any, points: Any) -> Any:
        calls.append(function)
        return client.map(function, points)

    bounds = [(-5, 5)] * 3
    found = optimize.differential_evolution(
        optimize.rosen, bounds, workers=mapped, updating="deferred", seed=3, maxiter=15, popsize=6, polish=False
    )
    alone = optimize.differential_evolution(
        optimize.rosen, bounds, workers=map, updating="deferred", seed=3, maxiter=15, popsize=6, polish=False
    )
    assert np.array_equal(found.x, alone.x)
    assert len(calls) > 5
    direct = optimize.differential_evolution(
        optimize.rosen, bounds, workers=client.map, updating="deferred", seed=3, maxiter=3, popsize=4, polish=False
    )
    assert direct.nfev > 20


def test_scipy_integrates_with_client_map(client: Client) -> None:
    result, _ = integrate.quad_vec(lambda x: np.array([x, x**2]), 0, 1, workers=client.map)
    assert np.allclose(result, [1 / 2, 1 / 3])


def test_run_in_executor_of_asyncio(client: Client) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(client, square, i) for i in range(20)))

    assert asyncio.run(main()) == [i * i for i in range(20)]


# -- shutdown ----------------------------------------------------------------------------------------------------


def test_leaving_the_context_waits_for_the_calls(star: LocalStar) -> None:
    with star.client() as client:
        futures = [client.submit(time.sleep, 0.1) for _ in range(4)]
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(RuntimeError, match="shut down"):
        client.submit(square, 1)


def test_shutdown_without_waiting_lets_the_calls_finish(star: LocalStar) -> None:
    client = star.client()
    futures = [client.submit(time.sleep, 0.1) for _ in range(4)]
    begun = time.monotonic()
    client.shutdown(wait=False)
    assert time.monotonic() - begun < 0.1
    for call in (
        lambda: client.submit(square, 1),
        lambda: client.submit_array(square, np.ones(3)),
        lambda: list(client.map(square, [1])),
        lambda: client.run([np.ones(3)], square),
        client.status,
    ):
        with pytest.raises(SessionLostError, match="shut down") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert [future.result(SECONDS) for future in futures] == [None] * 4
    client.shutdown()
    client.shutdown(cancel_futures=True)


def test_shutdown_with_cancel_ends_what_waits_and_keeps_what_runs(star: LocalStar, tmp_path: Path) -> None:
    client = star.client()
    held = occupy(client, tmp_path)
    waiting = [client.submit(square, i) for i in range(50)]
    whole = client.submit_array(np.negative, np.ones((100, 2000)), chunks=10)
    threading.Timer(0.2, release, [tmp_path]).start()
    client.shutdown(cancel_futures=True)
    assert [future.exception() for future in held] == [None, None]
    assert all(future.cancelled() for future in [*waiting, whole])


def test_future_outlives_its_client(star: LocalStar) -> None:
    future = star.client().submit(square, 9)
    assert future.result(SECONDS) == 81
