"""How many small tasks a second, submitted one by one and by the batch call.

`nothing` of a number, two workers of one slot. *Submit* makes a future for each call and then gathers all answers;
*map* is each contender's own batch call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.harness import Contender, Row, Sample, command_line, contenders, measured, rounds, rows

BENCHMARK = "small_tasks"
WORKERS = 2
COUNTS = {"star": 20_000, "dask": 1_000, "pool": 10_000}
"""Tasks a round: about a second's work for each."""


def measure_call(running: Sequence[Contender], call: str, share: float, repeats: int) -> list[Row]:
    """Let everyone take turns at one way to submit."""
    counts = {name: max(int(count * share), 10) for name, count in COUNTS.items()}

    def measure(contender: Contender) -> Sample:
        values = list(range(counts[contender.name]))
        work = contender.submit if call == "submit" else contender.map
        seconds, cpu, answers = measured(contender, lambda: work(values), len(values) / 1e3)
        assert answers == values, "a wrong answer"
        return Sample(len(values) / seconds, cpu)

    return rows(
        rounds(running, measure, repeats),
        benchmark=BENCHMARK,
        measure=f"small tasks by {call}",
        unit="tasks/s",
        cpu_per="s/1000",
        parameters={"workers": WORKERS, "counts": {c.name: counts[c.name] for c in running}},
    )


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star", "dask", "pool"),
    share: float | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure both ways, everyone side by side; the limit knows no tasks and is left out."""
    asked = [name for name in names if name in COUNTS]
    with contenders(asked, workers=WORKERS) as running:
        return [
            row
            for call in ("submit", "map")
            for row in measure_call(running, call, share or (0.25 if quick else 1.0), repeats or (3 if quick else 7))
        ]


if __name__ == "__main__":
    sys.exit(command_line("benchmarks.small_tasks", run, names=tuple(COUNTS)))
