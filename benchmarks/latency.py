"""How long one small task takes, with nothing else under way.

`nothing` of a number, waited for, again and again: the median and the 99th percentile. For the limit it is an
array of 8 bytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Contender, Row, Sample, command_line, contenders, measured, rounds, rows

BENCHMARK = "latency"
COUNTS = {"star": 500, "limit": 500, "dask": 40, "pool": 500}
"""Round trips a round."""


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star", "limit", "dask", "pool"),
    share: float | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure everyone side by side."""
    counts = {name: max(int(count * (share or (0.4 if quick else 1.0))), 5) for name, count in COUNTS.items()}
    tails: dict[str, list[Sample]] = {name: [] for name in names}

    def measure(contender: Contender) -> Sample:
        times = []

        def work() -> None:
            for value in range(counts[contender.name]):
                start = time.perf_counter()
                answer = contender.round_trip(value)
                times.append((time.perf_counter() - start) * 1e6)
                assert answer == value, "a wrong answer"

        _, cpu, _ = measured(contender, work, counts[contender.name] / 1e3)
        tails[contender.name].append(Sample(float(np.percentile(times, 99))))
        return Sample(float(np.median(times)), cpu)

    with contenders(names, workers=1) as running:
        medians = rounds(running, measure, repeats or (3 if quick else 7))
    parameters = {"workers": 1, "counts": {name: counts[name] for name in medians}}
    made = rows(
        medians,
        benchmark=BENCHMARK,
        measure="round trip, median",
        unit="µs",
        cpu_per="s/1000",
        parameters=parameters,
    )
    # The first round of each was its warm-up.
    worst = {name: tails[name][1:] for name in medians}
    return made + rows(worst, benchmark=BENCHMARK, measure="round trip, p99", unit="µs", parameters=parameters)


if __name__ == "__main__":
    sys.exit(command_line("benchmarks.latency", run))
