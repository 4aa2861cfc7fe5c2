"""How much memory each process takes while 64 MiB arrays go there and back, one at a time, beyond what it had.

Client and manager by their resident set, the worker's machine by the sum over supervisor and slot of the
proportional set (PSS), since they share the arena. *Before* is after some small tasks, with the input there; *the
most* is sampled every few milliseconds while `plus_one` of several arrays is under way, each answer let go before
the next array is sent. The limit's client is this process too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.harness import Contender, Row, Sample, contenders, family, rows
from benchmarks.tasks import check, inputs

BENCHMARK = "memory"
NAMES = ("star", "limit", "dask")
MEASURES = tuple(f"{role} memory grown by, 64 MiB arrays" for role in ("client", "worker", "manager"))
SAMPLE_SECONDS = 0.005
MIB = 2**20


def resident_mib(pids: Sequence[int]) -> float:
    """Resident memory of these processes together."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids)) / MIB


def proportional_mib(pids: Sequence[int]) -> float:
    """The same with each shared page counted once among those who share it."""
    return sum(_pss_bytes(pid) for pid in pids) / MIB


def _pss_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    try:
        lines = rollup.read_text().splitlines()
    except OSError:
        return int(psutil.Process(pid).memory_info().rss) if not rollup.parent.parent.exists() else 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


SIZES: dict[str, Callable[[Sequence[int]], float]] = {
    "client": resident_mib,
    "worker": proportional_mib,
    "manager": resident_mib,
}


@contextmanager
def watched(pids: dict[str, list[int]]) -> Iterator[dict[str, float]]:
    """The most memory of each role that was seen while the block ran, filled in as it runs."""
    most = {role: SIZES[role](own) for role, own in pids.items()}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            for role, own in pids.items():
                most[role] = max(most[role], SIZES[role](own))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def measure_one(contender: Contender, payload_bytes: int, count: int) -> dict[str, Sample]:
    """The growth of each role in MiB."""
    pids = family(contender.pids())
    arrays = inputs(1, payload_bytes)
    contender.round_trip(1)
    before = {role: SIZES[role](own) for role, own in pids.items()}
    with watched(pids) as most:
        for _ in range(count):
            answers = contender.arrays(arrays, 1)
            hashed = check(arrays, answers)
            del answers
    return {role: Sample(most[role] - before[role], {}, hashed) for role in SIZES}


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = NAMES,
    payload_bytes: int = 64 * MIB,
    count: int | None = None,
) -> list[Row]:
    """Measure one after the other: memory does not drift as time does."""
    number = count or (4 if quick else 16)
    asked = [name for name in names if name in (NAMES[:1] if quick else NAMES)]
    with contenders(asked, workers=1) as running:
        grown = {contender.name: measure_one(contender, payload_bytes, number) for contender in running}
    return [
        row
        for role, measure in zip(SIZES, MEASURES, strict=True)
        for row in rows(
            {name: [samples[role]] for name, samples in grown.items()},
            benchmark=BENCHMARK,
            measure=measure,
            unit="MiB",
            parameters={"payload_bytes": payload_bytes, "count": number, "workers": 1},
        )
    ]
