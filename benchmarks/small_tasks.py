"""How many small tasks a second: `nothing` of a number, submitted one by one and gathered, and by the batch call.

Two workers of one slot; the function is the same for all tasks, its argument and its answer are a small number.
The limit knows no tasks and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import (
    CONTENDERS,
    TURNS_QUICK,
    Contender,
    Question,
    Row,
    Sample,
    compete,
    digest,
    measured,
    rows,
)

BENCHMARK = "small_tasks"
SUBMIT, MAP, MANAGER = "small tasks by submit", "small tasks by map", "manager CPU of a small task"
MEASURES = (SUBMIT, MAP, MANAGER)
WORKERS = 2
ROUNDS, ROUNDS_QUICK = 7, 2
TURNS_LONG = 5
COUNTS = {
    SUBMIT: {"star": 100_000, "dask": 1_000, "pool": 5_000, "loky": 5_000, "scaler": 200, "ray": 2_000},
    MAP: {"star": 500_000, "dask": 1_000, "pool": 500_000, "loky": 500_000, "scaler": 200, "ray": 2_000},
}
"""Tasks a round: about a second's work for each."""


def question(call: str, share: float) -> Question:
    """How everyone is asked for one round of `submit` or `map`."""
    counts = {name: max(int(count * share), 10) for name, count in COUNTS[call].items()}

    def ask(contender: Contender) -> Sample:
        values = list(range(counts[contender.name]))
        work = contender.submit if call == SUBMIT else contender.map
        seconds, cpu, answers = measured(contender, lambda: work(values), len(values) / 1e6)
        assert answers == values, "a wrong answer"
        return Sample(len(values) / seconds, cpu, digest(answers))

    return Question(call, "tasks/s", ask, cpu_per="µs", parameters={"workers": WORKERS, "counts": counts})


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    share: float | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure both ways, everyone side by side; what the manager spends is read off the first."""
    made = compete(
        BENCHMARK,
        [question(call, share or (0.1 if quick else 1.0)) for call in (SUBMIT, MAP)],
        [name for name in names if name != "limit"],
        workers=WORKERS,
        pairs=repeats or (ROUNDS_QUICK if quick else ROUNDS),
        turns=repeats or (TURNS_QUICK if quick else TURNS_LONG),
    )
    spent = {row.contender: row for row in made if row.measure == SUBMIT and "manager" in row.cpu}
    return made + [
        row
        for name, from_row in spent.items()
        for row in rows(
            {name: [Sample(from_row.cpu["manager"])]},
            benchmark=BENCHMARK,
            measure=MANAGER,
            unit="µs",
            parameters=from_row.parameters,
        )
    ]
