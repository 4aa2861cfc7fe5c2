"""What a thousand workers cost one manager: memory, heartbeats, their return after a crash, the choice among them.

The workers are a crowd (crowd.py): a real connection and a real core each, in two processes. *Memory* is what the
manager's resident set grew by, each, after a first generation of as many came and left, for a heap that was used
once is what a manager of weeks has. *Heartbeats* are its CPU while nothing else happens. *Back* is the time from the
start of a new manager's process to the last WELCOME, after the old one was killed and stayed away for so long that
every worker waits as long as it ever does. The *cost of a task* is the manager's CPU for no-ops that are submitted
one after the other's answer, heartbeats not counted, with all the workers to that with ten; *in bulk*, for no-ops
submitted all at once.

A *silent connection* is somebody who dials and says nothing, not even the first byte of TLS: what as many of them as
there are workers take of the manager's memory, each, after a first generation of them was turned away.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import psutil

from benchmarks.crowd import Crowd, FragileStar
from benchmarks.harness import Row, Sample, cpu_seconds, digest, rows
from benchmarks.memory import resident_mib
from benchmarks.tasks import nothing
from starcore import Client

BENCHMARK = "peers"
MEASURES = (
    "manager memory of a worker",
    "manager CPU for heartbeats",
    "workers back after a restart",
    "cost of a task, 1,000 workers to 10",
    "cost of a task in bulk, 1,000 workers to 10",
    "manager memory of a silent connection",
)
UNITS = ("KiB", "% of a core", "s", "x", "x", "KiB")
FEW = 10
SETTLE_SECONDS = 6.0
"""Longer than the manager waits before it gives a handshake's memory back."""
IDLE_ROUNDS = 5
"""A machine that has other guests may be slow for some seconds: twice what it takes otherwise was seen."""
ACCEPTED_SECONDS_MAX = 8.0
"""Less than the silent are given for their handshake: until the last of them has to be taken in."""


class Watch:
    """The manager's CPU from now on."""

    def __init__(self, star: FragileStar) -> None:
        self._pid = star.pids["manager"]
        self._cpu, self._at = cpu_seconds(self._pid), time.perf_counter()

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self._pid) - self._cpu

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._at


def memory_kib(star: FragileStar) -> float:
    """The manager's resident memory."""
    return resident_mib([star.pids["manager"]]) * 1024


def idle_cores(star: FragileStar, seconds: float) -> float:
    """What part of a core the manager takes while nothing is asked of it."""
    watch = Watch(star)
    time.sleep(seconds)
    return watch.cpu() / watch.seconds()


def cost_microseconds(star: FragileStar, client: Client, count: int, idle: float, *, bulk: bool) -> Sample:
    """The manager's CPU of a no-op."""
    watch = Watch(star)
    if bulk:
        answers = [future.result() for future in [client.submit(nothing, value) for value in range(count)]]
    else:
        answers = [client.submit(nothing, value).result() for value in range(count)]
    cpu = watch.cpu() - idle * watch.seconds()
    assert answers == list(range(count)), "a wrong answer"
    return Sample(cpu / count * 1e6, {}, digest(answers))


def costs(workers: int, lone: int, bulk: int, repeats: int, settle: float) -> dict[bool, list[Sample]]:
    """A no-op's cost with so many workers, in bulk (True) and one by one, `repeats` times."""
    with FragileStar(workers=0, log_level="error") as star, Crowd(star, workers) as crowd:
        crowd.wait()
        with star.client(wait=False) as client:
            list(client.map(nothing, range(100)))
            cost_microseconds(star, client, bulk, 0.0, bulk=True)
            cost_microseconds(star, client, workers, 0.0, bulk=False)  # they take turns: now all have the function
            time.sleep(settle)
            idle = idle_cores(star, max(settle, 1.0))
            return {
                many: [cost_microseconds(star, client, bulk if many else lone, idle, bulk=many) for _ in range(repeats)]
                for many in (False, True)
            }


def presence(workers: int, away: float, settle: float, repeats: int) -> tuple[Sample, list[Sample], Sample]:
    """Memory of a worker (KiB), heartbeats of all (% of a core), and the time until all are back (s)."""
    with FragileStar(workers=0, log_level="error") as star:
        with Crowd(star, FEW) as crowd:
            crowd.wait()
        time.sleep(settle)
        before = memory_kib(star)
        with Crowd(star, workers) as crowd:
            crowd.wait()
        with Crowd(star, workers) as crowd:
            crowd.wait()
            time.sleep(settle)
            memory = (memory_kib(star) - before) / workers
            idle = [Sample(100 * idle_cores(star, max(settle, 2.0))) for _ in range(repeats)]
            star.kill_manager()
            time.sleep(away)
            start = time.monotonic()
            star.restart_manager()
            return Sample(memory), idle, Sample(crowd.wait() - start)


@contextlib.contextmanager
def silent(star: FragileStar, count: int) -> Iterator[None]:
    """Dial so many times, and say nothing; in here the manager has accepted all, and afterwards let go of them."""
    manager = psutil.Process(star.pids["manager"])
    with contextlib.ExitStack() as stack:
        dialled = [stack.enter_context(socket.create_connection(("127.0.0.1", star.port))) for _ in range(count)]
        addresses = {peer.getsockname() for peer in dialled}

        def accepted() -> int:
            """How many the manager holds, whatever else it has open."""
            return sum(tuple(here.raddr) in addresses for here in manager.net_connections("tcp") if here.raddr)

        _until(lambda: accepted() == count)
        yield
    _until(lambda: accepted() == 0)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ACCEPTED_SECONDS_MAX
    while not true():
        assert time.monotonic() < deadline, "more than the manager takes in, or lets go of, in time"
        time.sleep(0.05)


def silence_kib(connections: int, settle: float) -> Sample:
    """Memory of a silent connection (KiB)."""
    with FragileStar(workers=0, log_level="error") as star:
        with silent(star, connections):
            pass
        time.sleep(settle)
        before = memory_kib(star)
        with silent(star, connections):
            return Sample((memory_kib(star) - before) / connections)


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star",),
    workers: int | None = None,
    lone: int | None = None,
    bulk: int | None = None,
) -> list[Row]:
    """Measure the star alone; quick, with fewer workers that were away for a moment."""
    if "star" not in names:
        return []
    many = workers or (100 if quick else 1000)
    settle, away = (0.3, 0.0) if quick else (SETTLE_SECONDS, 15.0)
    one, all_at_once, repeats = lone or (200 if quick else 1500), bulk or (5000 if quick else 50_000), 1 if quick else 3
    memory, idle, back = presence(many, away, settle, IDLE_ROUNDS if not quick else 1)
    unheard = silence_kib(many, settle)
    few, crowded = (costs(number, one, all_at_once, repeats, min(settle, 2.0)) for number in (FEW, many))
    ratios = {
        kind: [Sample(a.value / b.value, {}, a.answers) for a, b in zip(crowded[kind], few[kind], strict=True)]
        for kind in (False, True)
    }
    taken = ([memory], idle, [back], ratios[False], ratios[True], [unheard])
    parameters = {"workers": many, "few": FEW, "lone": one, "bulk": all_at_once, "away_seconds": away}
    return [
        row
        for measure, unit, samples in zip(MEASURES, UNITS, taken, strict=True)
        for row in rows({"star": samples}, benchmark=BENCHMARK, measure=measure, unit=unit, parameters=parameters)
    ]
