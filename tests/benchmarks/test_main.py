"""One table for everything: contenders in columns, the star's ratio, the targets."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import TARGETS, cell, main, summary, verdicts
from benchmarks.harness import Row, Sample, rows

ARRAYS, SUBMIT, TRIP = TARGETS


def figures(measure: str, unit: str, cpu: dict[str, float] | None = None, **values: float) -> list[Row]:
    samples = {name: [Sample(value, cpu or {})] for name, value in values.items()}
    return rows(samples, benchmark="b", measure=measure, unit=unit, cpu_per="s/GB")


def test_targets_are_met_or_not() -> None:
    made = figures(ARRAYS, "MB/s", star=130.0, limit=200.0)
    made += figures(SUBMIT, "tasks/s", star=9_999.0, dask=500.0)
    made += figures(TRIP, "µs", star=400.0, limit=100.0)
    assert verdicts(made) == {ARRAYS: True, SUBMIT: False, TRIP: True}


def test_without_the_star_or_the_limit_nothing_is_said() -> None:
    made = figures(ARRAYS, "MB/s", star=130.0) + figures(SUBMIT, "tasks/s", dask=500.0)
    assert verdicts(made) == {ARRAYS: None, SUBMIT: None, TRIP: None}


def test_the_table_has_one_line_a_measure() -> None:
    made = figures(ARRAYS, "MB/s", star=100.0, limit=200.0, dask=50.0) + figures("idle memory", "MiB", star=40.0)
    head, _, arrays, memory = summary(made).splitlines()
    assert head.split() == ["measure", "star", "limit", "dask", "pool", "star/limit", "target"]
    assert arrays.partition("(MB/s)")[2].split()[:5] == ["100", "200", "50", "-", "0.50"]
    assert arrays.endswith(">= 0.6 of limit  NOT MET")
    assert memory.partition("(MiB)")[2].split() == ["40", "-", "-", "-", "-"]


def test_the_table_has_a_line_for_the_cpu_of_each_role() -> None:
    made = figures(ARRAYS, "MB/s", {"client": 1.5, "manager": 3.0}, star=100.0, limit=200.0)
    lines = summary(made).splitlines()[3:]
    assert [line.split("s/GB)")[1].split()[:3] for line in lines] == [["1.5", "1.5", "-"], ["3", "3", "-"]]
    assert "CPU of the manager" in lines[1]


def test_a_cell_shows_the_spread_of_its_rounds() -> None:
    samples = {"star": [Sample(90.0), Sample(100.0), Sample(110.0)]}
    assert cell(rows(samples, benchmark="b", measure="m", unit="s")[0]) == "100 ±10%"
    assert cell(None) == "-"


def test_the_command_runs_what_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--quick", "--only", "limit"]) == 0
    printed = capsys.readouterr().out
    assert "round trip, median" in printed
    assert "small tasks" not in printed


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["speed"])
    assert exit_code.value.code == 2
    assert "arrays, small_tasks, latency, manager_memory" in capsys.readouterr().err
