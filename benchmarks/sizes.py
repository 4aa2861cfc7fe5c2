"""How throughput grows with the size of an array, and where the limit lies; what plot.py draws.

`plus_one` of float64 arrays from 1 KiB to 64 MiB, one worker of one slot, as many in flight as make 64 MiB, at most
200. MB/s count the payload once.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arrays import Case, question
from benchmarks.harness import CONTENDERS, RIVALS, TURNS, Row, compete

BENCHMARK = "sizes"
DEPTH_MAX = 200
IN_FLIGHT_BYTES = 64 << 20
ROUND_BYTES = 64 << 20
ROUND_ARRAYS_MAX = 2_000
RIVAL_SHARE = 10
SIZES = tuple(1 << bits for bits in range(10, 27, 2))
QUICK_SIZES = (1 << 10, 1 << 16, 1 << 20)


def said(size: int) -> str:
    """A size in words."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def case(size: int, share: float = 1.0) -> Case:
    """One size: in flight and in a round as many as the bytes allow; a rival gets a tenth of a round."""
    depth = max(1, min(DEPTH_MAX, IN_FLIGHT_BYTES // size))
    count = max(2, int(min(ROUND_ARRAYS_MAX, ROUND_BYTES // size) * share))
    return Case(f"by size: {said(size)} arrays", size, depth, count, max(2, count // RIVAL_SHARE))


MEASURES = tuple(case(size).measure for size in SIZES)


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    sizes: Sequence[int] | None = None,
    share: float | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure every size, everyone side by side; a quick look is at the star and the limit alone."""
    asked = [name for name in names if not (quick and name in RIVALS)]
    chosen = [case(size, share or (0.25 if quick else 1.0)) for size in sizes or (QUICK_SIZES if quick else SIZES)]
    questions = [question(each, cpu=False) for each in chosen]
    number = repeats or (1 if quick else TURNS)
    return compete(BENCHMARK, questions, asked, workers=1, pairs=number, turns=1)
