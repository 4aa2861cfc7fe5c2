"""How fast arrays go there and back, and what a GB costs each process.

`plus_one` of float64 arrays, one worker of one slot, one array or more in flight. MB/s and CPU seconds per GB both
count the payload once; it crosses two links there and two back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Contender, Row, Sample, command_line, contenders, measured, rounds, rows
from benchmarks.tasks import check, inputs

BENCHMARK = "arrays"


@dataclass(frozen=True, slots=True)
class Case:
    """One size: bytes of an array, how many are in flight, how many make a round."""

    measure: str
    payload_bytes: int
    depth: int
    count: int


FULL = (
    Case("64 MiB arrays, 1 in flight", 64 << 20, 1, 4),
    Case("64 MiB arrays, 2 in flight", 64 << 20, 2, 4),
    Case("1 MiB arrays, 8 in flight", 1 << 20, 8, 100),
    Case("8 KiB arrays, 64 in flight", 8 << 10, 64, 1000),
)
QUICK = (
    Case("64 MiB arrays, 1 in flight", 64 << 20, 1, 2),
    Case("1 MiB arrays, 8 in flight", 1 << 20, 8, 40),
    Case("8 KiB arrays, 64 in flight", 8 << 10, 64, 300),
)
SMALL = (
    Case("1 MiB arrays, 1 in flight", 1 << 20, 1, 2),
    Case("1 MiB arrays, 2 in flight", 1 << 20, 2, 4),
    Case("8 KiB arrays, 8 in flight", 8 << 10, 8, 16),
)
"""For the tests."""


def measure_case(running: Sequence[Contender], case: Case, repeats: int) -> list[Row]:
    """Let everyone take turns at one size."""
    arrays = inputs(case.count, case.payload_bytes)
    gigabytes = case.payload_bytes * case.count / 1e9

    def measure(contender: Contender) -> Sample:
        seconds, cpu, answers = measured(contender, lambda: contender.arrays(arrays, case.depth), gigabytes)
        check(arrays, answers)
        return Sample(gigabytes * 1e3 / seconds, cpu)

    return rows(
        rounds(running, measure, repeats),
        benchmark=BENCHMARK,
        measure=case.measure,
        unit="MB/s",
        cpu_per="s/GB",
        parameters={"payload_bytes": case.payload_bytes, "depth": case.depth, "count": case.count, "workers": 1},
    )


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star", "limit", "dask", "pool"),
    cases: Sequence[Case] | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure all sizes, everyone side by side."""
    with contenders(names, workers=1) as running:
        return [
            row
            for case in cases or (QUICK if quick else FULL)
            for row in measure_case(running, case, repeats or (3 if quick else 7))
        ]


if __name__ == "__main__":
    sys.exit(command_line("benchmarks.arrays", run))
