"""Many seeds on all cores of the machine, and what they came to together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .reached import Pair
from .star import simulate
from .world import Violation

CHUNK_SEEDS = 25
"""What a process is given at a time: about a second's work."""


@dataclass(slots=True)
class Tally:
    """What some consecutive seeds came to."""

    seeds: int = 0
    steps: int = 0
    """Events that a core took, after each of which that core was checked."""
    tasks: int = 0
    cpu_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    reached: dict[Pair, int] = field(default_factory=dict)
    """Each with the first seed that reached it."""
    failed: dict[int, str] = field(default_factory=dict)
    """Seeds that did not keep their promises, and what is to be seen of it."""

    def add(self, other: Tally) -> None:
        """Take in what the next seeds came to."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.tasks += other.tasks
        self.cpu_seconds += other.cpu_seconds
        self.faults += other.faults
        self.outcomes += other.outcomes
        self.reached = {**other.reached, **self.reached}
        self.failed |= other.failed

    def line(self) -> str:
        """Say it in a line."""
        rate = self.steps / self.cpu_seconds if self.cpu_seconds else 0.0
        failed = ", ".join(map(str, self.failed)) or "none"
        return (
            f"{self.seeds:,} seeds, {self.steps:,} steps, {self.tasks:,} tasks, {sum(self.faults.values()):,} faults "
            f"in {self.cpu_seconds:.0f} CPU s ({rate:,.0f} steps/s a core); failed: {failed}"
        )


def live(seeds: range) -> Tally:
    """Live through some seeds, one after the other; none of them ends the others."""
    tally, begun = Tally(seeds=len(seeds)), time.process_time()
    for seed in seeds:
        try:
            report = simulate(seed)
        except Violation as violation:
            tally.failed[seed] = str(violation)
            continue
        tally.steps += report.steps
        tally.tasks += report.tasks
        tally.faults.update(report.faults)
        tally.outcomes.update(report.outcomes)
        for pair in report.reached:
            tally.reached.setdefault(pair, seed)
    tally.cpu_seconds = time.process_time() - begun
    return tally


def campaign(first: int, count: int, processes: int = 0) -> Iterator[Tally]:
    """Live through `count` seeds from `first` on, all cores at once; yields their tallies in the seeds' order."""
    stop = first + count
    chunks = [range(at, min(at + CHUNK_SEEDS, stop)) for at in range(first, stop, CHUNK_SEEDS)]
    with ProcessPoolExecutor(
        max_workers=processes or os.cpu_count() or 1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is for the parent, which ends its children
    ) as pool:
        try:
            yield from pool.map(live, chunks)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def tally_of(first: int, count: int) -> Tally:
    """The sum of a whole campaign."""
    total = Tally()
    for part in campaign(first, count):
        total.add(part)
    return total
