"""The manager's memory stays below `--memory`, whoever is fast, slow or deaf; and other clients do not notice.

`STARCORE_MEMORY_GB` says how much the fast client submits: 2 GB in every test run, 10 for the whole promise.
With shards the memory is that of all its processes: what is theirs alone, their parts of what they share, and the
memories that chunks lie in, whoever has mapped them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import Client, codec
from starcore.messages import FunctionKind, Grant, Heartbeat, Job, Role, StatusRequest, Submit
from starcore.pickling import small_call

from .stars import TriedStar, children, tried_star, until
from .test_garbage import Stranger, hello

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="run on Linux: looks into /proc"),
]
GIGABYTES = float(os.environ.get("STARCORE_MEMORY_GB", "2"))
SIZES = ((128, 1), (256, 1), (206, 3), (512, 3))
"""`--memory` in MiB, and `--shards`."""
ARRAY_BYTES = 32 << 20
SECONDS = 300.0
NAPS = 20
NAP_SECONDS = 0.05
NAP_ROUNDS = 4
SLOWER_MAX = 1.05
"""How much slower a neighbour may be, the best of some rounds beside the best of others: the machine may be busy."""


def rss_bytes(pid: int, what: str = "VmRSS") -> int:
    """What a process has resident, or with "VmHWM" ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    return 0


def manager_bytes(pid: int) -> int:
    """What all processes of a manager have resident, what they share counted once."""
    shards = children(pid)
    if not shards:
        return rss_bytes(pid)
    total, memories = 0, {}
    for each in (pid, *shards):
        with contextlib.suppress(OSError):  # a shard that ends while it is looked at
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_File:")):
                    total += int(line.split()[1]) << 10
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "starcore-cells" in os.readlink(descriptor):
                told = descriptor.stat()
                memories[told.st_ino] = told.st_blocks * 512
    return total + sum(memories.values())


class Scale:
    """Looks at the manager's memory all the time."""

    def __init__(self, pid: int) -> None:
        self.most = manager_bytes(pid)
        self.before = self.most
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._weigh)

    def _weigh(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, manager_bytes(self._pid))

    def __str__(self) -> str:
        return f"{self.before >> 20} MiB before, at most {self.most >> 20}"

    def __enter__(self) -> Scale:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if not children(self._pid):
            self.most = max(self.most, rss_bytes(self._pid, "VmHWM"))


@pytest.fixture(params=SIZES, ids=[f"{mebibytes}M-shards{shards}" for mebibytes, shards in SIZES])
def bound(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The manager's memory in bytes, and its shards."""
    mebibytes, shards = request.param
    return mebibytes << 20, shards


@pytest.fixture
def star(tmp_path: Path, bound: tuple[int, int]) -> Iterator[TriedStar]:
    memory_bytes, shards = bound
    options = ("--memory", f"{memory_bytes >> 20}M", "--shards", str(shards), "--session-grace-seconds", "3")
    with tried_star(tmp_path, workers=0, manager_options=options) as star:
        yield star


@contextlib.contextmanager
def kept_alive(stranger: Stranger) -> Iterator[None]:
    """Say a heartbeat every second, and read nothing."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(OSError):
                stranger.say(Heartbeat())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def naps(client: Client, meanwhile: Callable[[], bool] = lambda: True) -> float:
    """How long 50 ms tasks take that nobody else's worker runs, at best while something else goes on."""
    found = []
    for _ in range(NAP_ROUNDS):
        begun = time.monotonic()
        futures = [client.submit("time:sleep", NAP_SECONDS) for _ in range(NAPS)]
        for future in futures:
            future.result(SECONDS)
        if meanwhile():
            found.append(time.monotonic() - begun)
    return min(found)


def slowly(array: np.ndarray[Any, Any]) -> int:
    time.sleep(0.02)
    return int(array[-1])


def start_neighbour(star: TriedStar) -> Client:
    """A client with a worker of its own, for a function that nobody else calls."""
    star.start_worker("--slots", "1", "--only-registered", "--function", "time:sleep", "--arena", "64M")
    client = star.client(wait=False)
    until(lambda: client.slots >= 1, "the neighbour's worker", 30)
    client.submit("time:sleep", NAP_SECONDS).result(SECONDS)
    return client


def submit_much(client: Client, gigabytes: float) -> tuple[np.ndarray[Any, Any], list[Future[Any]]]:
    array = np.arange(ARRAY_BYTES // 8)
    return array, [client.submit_array(slowly, array) for _ in range(int(gigabytes * 1e9) // ARRAY_BYTES)]


@pytest.mark.timeout(900)
def test_memory_stays_below_its_limit_while_gigabytes_go_to_a_slow_worker(
    star: TriedStar, bound: tuple[int, int]
) -> None:
    neighbour = start_neighbour(star)
    star.start_worker("--slots", "1", "--arena", "128M")
    alone = naps(neighbour)
    own_before = rss_bytes(os.getpid())
    with Scale(star.pids["manager"]) as scale, star.client(wait=False) as client:
        array, futures = submit_much(client, GIGABYTES)
        until(lambda: any(future.done() for future in futures), "the first answer", 60)
        beside = naps(neighbour, lambda: not all(future.done() for future in futures))
        own = rss_bytes(os.getpid()) - own_before
        status = neighbour.status()
        assert [future.result(SECONDS) for future in futures] == [int(array[-1])] * len(futures)
    print(f"manager {scale}; naps {alone:.2f} s alone, {beside:.2f} s beside")
    assert scale.most < bound[0]
    assert own < 4 * ARRAY_BYTES, "the client holds views, not copies"
    assert status["memory_used_bytes"] < status["memory_bytes"] == bound[0]
    assert beside < SLOWER_MAX * alone


@pytest.mark.timeout(300)
def test_memory_stays_below_its_limit_beside_clients_that_do_not_read(star: TriedStar, bound: tuple[int, int]) -> None:
    neighbour = start_neighbour(star)
    star.start_worker("--slots", "2", "--only-registered", "--function", "numpy:zeros", "--arena", "512M")
    until(lambda: neighbour.slots >= 3, "both workers", 30)
    alone = naps(neighbour)
    tasks = 2000
    heads = [small_call((size,)) for size in (1 << 20, 7000)]
    assert all(heads)
    with Scale(star.pids["manager"]) as scale, contextlib.ExitStack() as stack:
        for number in range(4):
            stranger = stack.enter_context(Stranger(star, Role.CLIENT, f"deaf{number}"))
            stranger.say(hello(Role.CLIENT, f"deaf{number}", result_bytes=1 << 30, first_window_bytes=1 << 30))
            stranger._sock.recv(1 << 16)
            stranger.say(Job(1, FunctionKind.REGISTERED, bytes(32), "numpy:zeros", "", 0, 0.0, 0))
            head = heads[number % 2] or b""
            stranger.say(Submit(1, 0, False, array("I", [len(head)] * tasks), array("Q"), head * tasks))
            stack.enter_context(kept_alive(stranger))
        time.sleep(3.0)
        beside = naps(neighbour)
        assert sum(client["unread"] for client in neighbour.status()["clients"]) > 4
    print(f"manager {scale}; naps {alone:.2f} s alone, {beside:.2f} s beside")
    assert scale.most < bound[0]
    assert beside < SLOWER_MAX * alone
    until(lambda: len(neighbour.status()["clients"]) == 1, "the end of the deaf", 30)


@pytest.mark.timeout(300)
def test_memory_stays_below_its_limit_beside_workers_that_do_not_read(star: TriedStar, bound: tuple[int, int]) -> None:
    neighbour = start_neighbour(star)
    alone = naps(neighbour)
    python = platform.python_version()
    with Scale(star.pids["manager"]) as scale, star.client(wait=False) as client, contextlib.ExitStack() as stack:
        deaf: list[Stranger] = []
        for number in range(8):
            stranger = stack.enter_context(Stranger(star, Role.WORKER, f"deaf{number}"))
            about: dict[str, Any] = {"slots": 16, "python": python, "only_registered": False, "arena_bytes": 4 << 30}
            stranger.say(hello(Role.WORKER, f"deaf{number}", first_window_bytes=1 << 30, **about))
            stranger._sock.recv(1 << 16)
            stack.enter_context(kept_alive(stranger))
            deaf.append(stranger)
        epoch = neighbour.status()["epoch"]
        large = np.arange(ARRAY_BYTES // 8)
        futures = [client.submit_array(slowly, large) for _ in range(120)]
        until(lambda: sum(worker["leased"] for worker in neighbour.status()["workers"]) >= 100, "leases", 30)
        for lease in range(200):  # it does not read which leases it has, so it asks for what may be there
            for stranger in deaf:
                stranger.say(Grant(epoch << 32 | lease, 1, 0, ARRAY_BYTES))
        time.sleep(2.0)
        beside = naps(neighbour)
        held = neighbour.status()["memory_used_bytes"]
        print(f"manager {scale}, {held >> 20} counted; naps {alone:.2f} s, {beside:.2f} beside")
        stack.close()
        star.start_worker("--slots", "1", "--arena", "256M")
        assert [future.result(SECONDS) for future in futures] == [int(large[-1])] * len(futures)
    assert scale.most < bound[0]
    assert beside < SLOWER_MAX * alone


@pytest.mark.timeout(300)
def test_memory_stays_below_its_limit_beside_a_client_that_asks_and_asks(
    star: TriedStar, bound: tuple[int, int]
) -> None:
    neighbour = start_neighbour(star)
    with Scale(star.pids["manager"]) as scale, Stranger(star, Role.CLIENT, "curious") as stranger:
        stranger.greet(Role.CLIENT)
        status = codec.encode(StatusRequest())
        with contextlib.suppress(OSError):  # the manager hangs up
            for _ in range(150):
                stranger.say(status * 1000)
        neighbour.status()
    print(f"manager {scale}")
    assert scale.most < bound[0]
