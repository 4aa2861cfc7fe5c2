"""What the star has promised, in one table: for each measure a figure, the direction, and the promise in words.

`of` names the contender that the star's value is divided by, round by round; without it the value itself counts.
Whether a target is met is computed from the rows of one run, and never asserted by a test: a slow machine is not
a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Row


@dataclass(frozen=True, slots=True)
class Target:
    """One promise about one measure."""

    benchmark: str
    measure: str
    figure: float
    more_is_better: bool
    source: str
    of: str = ""

    def value(self, made: Sequence[Row]) -> float | None:
        """The star's figure in these rows; None where the star, or whoever it is compared with, is not there."""
        row = next((row for row in made if row.measure == self.measure and row.contender == "star"), None)
        if row is None:
            return None
        if not self.of:
            return row.value
        return row.ratios[self.of].median if self.of in row.ratios else None

    def met(self, made: Sequence[Row]) -> bool | None:
        """Whether the promise holds in these rows; None where it cannot be said."""
        value = self.value(made)
        if value is None:
            return None
        return value >= self.figure if self.more_is_better else value <= self.figure


def at_least(benchmark: str, measure: str, figure: float, source: str, *, of: str = "") -> Target:
    """More is better."""
    return Target(benchmark, measure, figure, True, source, of)


def at_most(benchmark: str, measure: str, figure: float, source: str, *, of: str = "") -> Target:
    """Less is better."""
    return Target(benchmark, measure, figure, False, source, of)


_ARRAYS = "64 MiB there and back, one worker of one slot"
_START = "imports without numpy; a star of one's own, and a worker, are there at once"
_PEERS = "1,000 workers connected"
_QUEUE = "a million queued no-ops, and no slower for it"
_AUTO = "chunks='auto' with out=: upload, computing and download overlap"
_PUT = "a big object put once and used by 1,000 tasks crosses each wire once and lies in a machine's memory once"

TARGETS: tuple[Target, ...] = (
    at_least("arrays", "64 MiB arrays, 1 in flight", 0.95, f"{_ARRAYS}: 0.95 of the limit", of="limit"),
    at_most("arrays", "64 MiB arrays, 1 in flight: CPU", 1.1, f"{_ARRAYS}: CPU at most 1.1 of the limit's", of="limit"),
    at_least("arrays", "1 MiB arrays, 200 in flight", 0.9, "0.9 of the limit at the same sizes and depth", of="limit"),
    at_least("arrays", "8 KiB arrays, 200 in flight", 0.6, "0.6 of the limit at the same sizes and depth", of="limit"),
    at_most("memory", "client memory grown by, 64 MiB arrays", 96, f"{_ARRAYS}: one payload and 32 MiB"),
    at_most(
        "memory", "worker memory grown by, 64 MiB arrays", 224, f"{_ARRAYS}: three payloads and 32 MiB (summed PSS)"
    ),
    at_most("memory", "manager memory grown by, 64 MiB arrays", 32, f"{_ARRAYS}: the manager by at most 32 MiB"),
    at_most(
        "arena", "supervisor to slot, 64 MiB argument", 0.5, "shared memory adds at most 0.5 ms per 64 MiB argument"
    ),
    at_most(
        "auto", "auto chunks at 200 Mbit/s, to the slowest stage", 1.1, f"{_AUTO}, at most 1.1 of the slowest alone"
    ),
    at_most("auto", "auto chunks on loopback, CPU to the stages' sum", 1.1, f"{_AUTO}, CPU at most 1.1 of their sum"),
    at_most("auto", "auto chunks, client memory beyond a and out", 64, f"{_AUTO}; the client holds a, out and 64 MiB"),
    at_most("auto", "1 KB task during a 4 GiB upload", 20, "a small task during a big upload comes back within 20 ms"),
    at_most("put", "put, bytes on the client's wire", 1.05, _PUT),
    at_most("put", "put, bytes on the worker's wire", 1.05, _PUT),
    at_most("put", "put, memory of the worker machine", 1.1, _PUT),
    at_least(
        "small_tasks", "small tasks by submit", 100_000, "100,000 tasks a second by submit, two workers of one slot"
    ),
    at_least("small_tasks", "small tasks by submit", 50, "50 times dask.distributed over TLS", of="dask"),
    at_least("small_tasks", "small tasks by submit", 10, "10 times loky, which has no network", of="loky"),
    at_least("small_tasks", "small tasks by map", 500_000, "500,000 calls a second by map"),
    at_least(
        "small_tasks", "small tasks by map", 1, "no slower than ProcessPoolExecutor.map(chunksize=100)", of="pool"
    ),
    at_most("small_tasks", "manager CPU of a small task", 3, "at most 3 µs of the manager's CPU a task"),
    at_most("latency", "round trip, median", 350, "a round trip within 350 µs on an idle machine"),
    at_most("latency", "round trip, median", 1.3, "and within 1.3 of ProcessPoolExecutor's", of="pool"),
    at_most("latency", "round trip, p99", 1, "the 99th percentile no more than the pool's", of="pool"),
    at_most("queue", "manager memory of a queued task", 400, f"{_QUEUE}: at most 400 bytes each"),
    at_most("queue", "manager memory, 1,000,000 queued", 450, f"{_QUEUE}: within 450 MB"),
    at_most("queue", "cost of a task, 1,000,000 queued to 1,000", 1.2, f"{_QUEUE}: at most 1.2 of the cost at 1,000"),
    at_most("peers", "manager memory of a worker", 64, f"{_PEERS}: at most 64 KiB of the manager's memory each"),
    at_most("peers", "manager CPU for heartbeats", 5, f"{_PEERS}: heartbeats at most 5 % of a core"),
    at_most("peers", "workers back after a restart", 10, f"{_PEERS}: all back within 10 s of a manager's restart"),
    at_most("peers", "cost of a task, 1,000 workers to 10", 1.3, f"{_PEERS}: scheduling within 1.3 of that with 10"),
    at_most("journal", "dispatching again, 100,000 open", 3, "a killed manager dispatches again within 3 s"),
    at_least("shards", "busiest manager process, CPU of 1 to 2", 1.6, "two manager processes: its CPU falls by 1.6"),
    at_most("start", "import starcore", 60, f"{_START}: at most 60 ms"),
    at_most("start", "start to the first result", 0.7, f"{_START}: under 0.7 s to the first result"),
    at_most("start", "worker start to ready", 0.5, f"{_START}: under 0.5 s to a ready worker"),
)
