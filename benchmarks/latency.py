"""How long one small task takes, with nothing else under way.

`nothing` of a number, waited for, again and again: the median and the 99th percentile. For the limit it is an
array of 8 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.harness import (
    CONTENDERS,
    RIVALS,
    Contender,
    Row,
    Sample,
    contenders,
    digest,
    joined,
    measured,
    rounds,
    rows,
)

BENCHMARK = "latency"
MEDIAN, TAIL = "round trip, median", "round trip, p99"
MEASURES = (MEDIAN, TAIL)
COUNTS = {"star": 1000, "limit": 1000, "dask": 40, "pool": 1000, "loky": 1000, "scaler": 40, "ray": 200}
"""Round trips a round."""
ROUNDS, ROUNDS_QUICK = 7, 3


def measure_round(contender: Contender, count: int) -> tuple[Sample, Sample]:
    """Median and 99th percentile of `count` round trips, in µs."""
    times: list[float] = []
    answers = []

    def work() -> None:
        for value in range(count):
            start = time.perf_counter()
            answers.append(contender.round_trip(value))
            times.append((time.perf_counter() - start) * 1e6)

    _, cpu, _ = measured(contender, work, count / 1e6)
    assert answers == list(range(count)), "a wrong answer"
    hashed = digest([int(answer) for answer in answers])
    return Sample(float(np.median(times)), cpu, hashed), Sample(float(np.percentile(times, 99)), {}, hashed)


def take_turns(running: Sequence[Contender], counts: dict[str, int], repeats: int) -> list[Row]:
    """Rows of medians and tails; the tails are those of the same rounds, without each one's warm-up."""
    tails: dict[str, list[Sample]] = {contender.name: [] for contender in running}

    def measure(contender: Contender) -> Sample:
        median, tail = measure_round(contender, counts[contender.name])
        tails[contender.name].append(tail)
        return median

    medians = rounds(running, measure, repeats)
    parameters = {"workers": 1, "counts": {name: counts[name] for name in medians}}
    made = rows(medians, benchmark=BENCHMARK, measure=MEDIAN, unit="µs", cpu_per="µs", parameters=parameters)
    worst = {name: tails[name][1:] for name in medians}
    return made + rows(worst, benchmark=BENCHMARK, measure=TAIL, unit="µs", parameters=parameters)


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    share: float | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure the quiet ones side by side, pool and loky among them, then the star and the others."""
    counts = {name: max(int(count * (share or (0.3 if quick else 1.0))), 5) for name, count in COUNTS.items()}
    number = repeats or (ROUNDS_QUICK if quick else ROUNDS)
    quiet = [name for name in names if name not in RIVALS or name in {"pool", "loky"}]
    with contenders(quiet, workers=1) as running:
        made = take_turns(running, counts, number)
        star = [contender for contender in running if contender.name == "star"]
        with contenders([name for name in names if name not in quiet], workers=1) as loud:
            return joined(made, take_turns([*star, *loud], counts, number) if loud else [])
