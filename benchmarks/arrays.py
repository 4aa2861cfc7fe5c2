"""How fast arrays go there and back, and what a GB costs all processes together.

`plus_one` of float64 arrays, one worker of one slot, so and so many arrays in flight. MB/s and CPU seconds per GB
both count the payload once; it crosses two links there and two back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import (
    CONTENDERS,
    PAIRS,
    PAIRS_QUICK,
    RIVALS,
    TURNS,
    TURNS_QUICK,
    Contender,
    Question,
    Row,
    Sample,
    compete,
    measured,
)
from benchmarks.tasks import check, inputs

BENCHMARK = "arrays"


@dataclass(frozen=True, slots=True)
class Case:
    """One size: bytes of an array, how many are in flight, how many make a round, and a round of a rival."""

    measure: str
    payload_bytes: int
    depth: int
    count: int
    rival_count: int


FULL = (
    Case("64 MiB arrays, 1 in flight", 64 << 20, 1, 4, 2),
    Case("1 MiB arrays, 200 in flight", 1 << 20, 200, 400, 100),
    Case("8 KiB arrays, 200 in flight", 8 << 10, 200, 8_000, 400),
)
QUICK = (
    Case("64 MiB arrays, 1 in flight", 64 << 20, 1, 2, 1),
    Case("1 MiB arrays, 200 in flight", 1 << 20, 200, 200, 20),
    Case("8 KiB arrays, 200 in flight", 8 << 10, 200, 1_000, 50),
)
SMALL = (
    Case("1 MiB arrays, 1 in flight", 1 << 20, 1, 2, 2),
    Case("8 KiB arrays, 8 in flight", 8 << 10, 8, 16, 16),
)
"""For the tests."""
MEASURES = tuple(name for case in FULL for name in (case.measure, f"{case.measure}: CPU"))


def question(case: Case, *, cpu: bool = True) -> Question:
    """How everyone is asked for one round at one size; the CPU of all processes is a measure of its own."""
    arrays = inputs(case.count, case.payload_bytes)

    def ask(contender: Contender) -> Sample:
        own = arrays[: case.rival_count] if contender.name in RIVALS else arrays
        gigabytes = case.payload_bytes * len(own) / 1e9
        seconds, cpu, answers = measured(contender, lambda: contender.arrays(own, case.depth), gigabytes)
        return Sample(gigabytes * 1e3 / seconds, cpu, check(own, answers))

    return Question(
        case.measure,
        "MB/s",
        ask,
        cpu_per="s/GB",
        cpu_measure=f"{case.measure}: CPU" if cpu else "",
        parameters={"payload_bytes": case.payload_bytes, "depth": case.depth, "count": case.count, "workers": 1},
    )


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    cases: Sequence[Case] | None = None,
    pairs: int | None = None,
    turns: int | None = None,
) -> list[Row]:
    """Measure all sizes, everyone side by side."""
    return compete(
        BENCHMARK,
        [question(case) for case in cases or (QUICK if quick else FULL)],
        names,
        workers=1,
        pairs=pairs or (PAIRS_QUICK if quick else PAIRS),
        turns=turns or (TURNS_QUICK if quick else TURNS),
    )
