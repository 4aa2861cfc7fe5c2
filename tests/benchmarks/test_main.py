"""One run of everything: benchmarks find themselves, run, and end in one table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import found, main, run_all, verdicts
from benchmarks.harness import Sample, rows
from benchmarks.targets import TARGETS


def test_every_benchmark_says_what_it_asks_and_what_it_measures() -> None:
    modules = found()
    assert {"arrays", "small_tasks", "latency", "memory"} <= modules.keys()
    for name, module in modules.items():
        assert module.__name__ == f"benchmarks.{name}"
        assert module.__doc__
        assert module.MEASURES
        assert callable(module.run)


def test_no_measure_is_taken_twice() -> None:
    measures = [measure for module in found().values() for measure in module.MEASURES]
    assert len(measures) == len(set(measures))


def test_verdicts_are_about_what_was_measured() -> None:
    first = TARGETS[0]
    made = rows({"star": [Sample(1.0)], "limit": [Sample(100.0)]}, benchmark="b", measure=first.measure, unit="MB/s")
    assert verdicts(made) == [False]
    assert verdicts([]) == []


def test_the_command_runs_what_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--quick", "--only", "limit"]) == 0
    printed = capsys.readouterr().out
    assert "round trip, median" in printed
    assert "small tasks" not in printed
    assert "hashes of the answers" in printed


def test_every_row_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--quick", "--only", "limit", "--rows"]) == 0
    assert "interval" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["speed"])
    assert exit_code.value.code == 2
    assert "no such benchmark: speed; there are arrays" in capsys.readouterr().err


def test_what_was_found_is_kept_before_the_next_benchmark_may_fail() -> None:
    def fail(**how: Any) -> Any:
        raise OSError("no room")

    made = rows({"star": [Sample(1.0)]}, benchmark="b", measure="m", unit="s")
    asked: Any = {"first": SimpleNamespace(run=lambda **how: made), "second": SimpleNamespace(run=fail)}
    kept: list[Any] = []
    with pytest.raises(OSError, match="no room"):
        run_all(asked, quick=True, names=["star"], keep=kept.extend)
    assert kept == made
