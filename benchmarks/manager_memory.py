"""How much memory the process in the middle takes: idle, while arrays pass, and after them.

Resident set of the manager (the limit's relay, dask's scheduler), sampled every few milliseconds while `plus_one`
of several arrays is under way at once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from benchmarks.harness import Contender, Row, Sample, command_line, contenders, rows
from benchmarks.tasks import check, inputs

BENCHMARK = "manager_memory"
SAMPLE_SECONDS = 0.005
SETTLE_SECONDS = 0.5
NAMES = ("star", "limit", "dask")


def resident_mib(pids: Sequence[int]) -> float:
    """Resident memory of these processes together."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids)) / 2**20


@contextmanager
def watched(pids: Sequence[int]) -> Iterator[list[float]]:
    """A list whose only item is the largest resident memory seen while the block runs."""
    most = [resident_mib(pids)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            most[0] = max(most[0], resident_mib(pids))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def measure_one(contender: Contender, payload_bytes: int, depth: int, count: int) -> dict[str, Sample]:
    """Idle, during and after, in MiB."""
    pids = contender.pids()["manager"][:1]
    idle = resident_mib(pids)
    arrays = inputs(count, payload_bytes)
    with watched(pids) as most:
        answers = contender.arrays(arrays, depth)
    check(arrays, answers)
    time.sleep(SETTLE_SECONDS)
    return {"idle": Sample(idle), "during arrays": Sample(most[0]), "after arrays": Sample(resident_mib(pids))}


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = NAMES,
    payload_bytes: int | None = None,
    depth: int = 4,
    count: int | None = None,
) -> list[Row]:
    """Measure one after the other: memory does not drift as time does."""
    size = payload_bytes or ((16 << 20) if quick else (64 << 20))
    number = count or (8 if quick else 16)
    with contenders([name for name in names if name in NAMES], workers=1) as running:
        seen = {contender.name: measure_one(contender, size, depth, number) for contender in running}
    return [
        row
        for when in ("idle", "during arrays", "after arrays")
        for row in rows(
            {name: [samples[when]] for name, samples in seen.items()},
            benchmark=BENCHMARK,
            measure=f"manager memory, {when}",
            unit="MiB",
            parameters={"payload_bytes": size, "depth": depth, "count": number, "workers": 1},
        )
    ]


if __name__ == "__main__":
    sys.exit(command_line("benchmarks.manager_memory", run, names=NAMES))
