"""One client under many threads, inside running event loops, and on both sides of a fork."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import Client, LocalStar, SessionLostError

from .processes import ROOT, eventually

SECONDS = 30.0


@pytest.fixture(scope="module")
def star() -> Iterator[LocalStar]:
    with LocalStar(workers=2, slots=1) as star:
        yield star


@pytest.fixture(scope="module")
def client(star: LocalStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


# -- threads -----------------------------------------------------------------------------------------------------


def test_many_threads_use_one_client_at_once(client: Client) -> None:
    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for turn in range(15):
            size = int(rng.integers(1, 40_000))
            array = rng.random(size)
            future = client.submit_array(np.negative, array)
            whole = client.submit_array(np.square, array, chunks=max(1, size // 3))
            numbers = client.map(abs, range(-turn, 0))
            assert np.array_equal(future.result(SECONDS), -array)
            assert np.array_equal(whole.result(SECONDS), array**2)
            assert list(numbers) == list(range(turn, 0, -1))
            assert client.submit(pow, seed, turn).result(SECONDS) == seed**turn
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_cancels_race_with_answers_and_every_future_ends_once(client: Client) -> None:
    ended: list[Future[Any]] = []
    futures: list[Future[Any]] = []
    for i in range(600):
        future = client.submit_array(np.negative, np.ones(20_000)) if i % 10 == 0 else client.submit(abs, -i)
        future.add_done_callback(ended.append)
        futures.append(future)
    cancelled = [future for future in futures[::3] if (client.cancel(future) if len(ended) % 2 else future.cancel())]
    wait(futures, SECONDS)
    assert all(future.cancelled() for future in cancelled)
    assert all(future.cancelled() or future.exception() is None for future in futures)
    eventually(lambda: len(ended) == len(futures), "each was called back once")
    assert client.submit(abs, -1).result(SECONDS) == 1


def test_callbacks_may_call_the_client(client: Client) -> None:
    done = threading.Event()
    seen: list[int] = []

    def again(future: Future[Any]) -> None:
        seen.append(future.result())
        if len(seen) < 20:
            client.submit(abs, -len(seen)).add_done_callback(again)
        else:
            done.set()

    client.submit(abs, 0).add_done_callback(again)
    assert done.wait(SECONDS)
    assert seen == list(range(20))


# -- event loops -------------------------------------------------------------------------------------------------


def test_futures_are_awaited_inside_a_running_loop(client: Client) -> None:
    async def one(i: int) -> Any:
        return await asyncio.wrap_future(client.submit_array(np.sum, np.full(20_000, float(i))))

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        clock = asyncio.ensure_future(tick())
        assert await asyncio.gather(*(one(i) for i in range(30))) == [20_000.0 * i for i in range(30)]
        await asyncio.wrap_future(client.submit(time.sleep, 0.3))
        assert ticks > 10
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(client.submit(divmod, 1, 0))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(client.submit(time.sleep, 0.5)), 0.05)
        clock.cancel()

    asyncio.run(main())


def test_cancelled_awaiting_cancels_the_call(client: Client, tmp_path: Path) -> None:
    async def main() -> None:
        held = [client.submit(time.sleep, 0.5) for _ in range(2)]
        future = client.submit((tmp_path / "ran").touch)
        waiting = asyncio.ensure_future(asyncio.wrap_future(future))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        assert future.cancelled()
        for each in held:
            await asyncio.wrap_future(each)

    asyncio.run(main())
    assert client.submit(abs, -1).result(SECONDS) == 1
    assert not (tmp_path / "ran").exists()


def test_client_is_made_and_closed_inside_a_running_loop(star: LocalStar) -> None:
    async def main() -> Any:
        with star.client() as client:
            return await asyncio.wrap_future(client.submit(abs, -7))

    assert asyncio.run(main()) == 7


# -- forks -------------------------------------------------------------------------------------------------------


def in_a_fork(check: Callable[[], None]) -> int:
    """Run a check in a forked child and return its exit code: 0 where it held."""
    pid = os.fork()
    if pid:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return -1
    code = 1
    try:
        check()
        code = 0
    except BaseException as error:
        os.write(2, f"in the fork: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_child_of_a_fork_has_a_session_of_its_own(client: Client) -> None:
    running = client.submit(time.sleep, 0.5)
    array = np.ones(200_000)
    streaming = client.submit_array(np.negative, array)
    whole = client.submit_array(np.negative, array, chunks=20_000)

    def check() -> None:
        begun = time.monotonic()
        for inherited in (running, whole):
            if not inherited.done():
                try:
                    inherited.result(5)
                except SessionLostError:
                    continue
            assert inherited.done()
        assert isinstance(running.exception(0), SessionLostError)
        assert "fork" in str(running.exception(0))
        assert time.monotonic() - begun < 2
        assert client.submit(os.getppid).result(SECONDS) > 0
        assert np.array_equal(client.submit_array(np.square, array * 3).result(SECONDS), array * 9)
        assert list(client.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        assert len(client.status()["clients"]) >= 2
        client.shutdown()

    assert in_a_fork(check) == 0
    assert running.result(SECONDS) is None
    assert np.array_equal(streaming.result(SECONDS), -array)
    assert np.array_equal(whole.result(SECONDS), -array)
    assert client.submit(abs, -3).result(SECONDS) == 3


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_fork_while_other_threads_submit(client: Client) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def submit() -> None:
        try:
            while not stop.is_set():
                assert client.submit(abs, -5).result(SECONDS) == 5
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()

    def check() -> None:
        assert client.submit(abs, -6).result(SECONDS) == 6

    codes = [in_a_fork(check) for _ in range(5)]
    stop.set()
    for thread in threads:
        thread.join(SECONDS)
    assert codes == [0] * 5
    assert failures == []


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_child_that_never_calls_leaves_its_parent_alone(client: Client) -> None:
    assert in_a_fork(lambda: None) == 0
    assert client.submit(abs, -1).result(SECONDS) == 1


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_forked_child_that_ends_in_the_ordinary_way_does_not_stop_its_parents_star(star: LocalStar) -> None:
    client = star.client()
    process = multiprocessing.get_context("fork").Process(target=client.submit, args=(abs, -1))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0
    assert star.directory.exists()
    assert client.submit(abs, -2).result(SECONDS) == 2
    client.shutdown()


def test_fork_of_the_embedded_star_shares_it(tmp_path: Path) -> None:
    code = """if True:
        import os, starcore
        print(starcore.submit(abs, -1).result(30), flush=True)
        pid = os.fork()
        if not pid:
            print(starcore.submit(abs, -2).result(30), flush=True)
            raise SystemExit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(starcore.submit(abs, -3).result(30), flush=True)
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("STARCORE_", "STARCOMPUTE_"))}
    own = {"STARCORE_CONFIG_DIR": str(tmp_path / "config"), "STARCORE_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env={**clean, **own, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n2\n3\n"), done.stderr
    assert done.stderr.count("\n") == 1
