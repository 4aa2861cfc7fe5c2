"""The benchmark of start-up runs small, and a failing rival is no reason to stop."""

from __future__ import annotations

import pytest

from benchmarks import start
from benchmarks.harness import left_out


def test_waiting_at_the_beginning_is_measured() -> None:
    made = start.run(names=("star", "limit", "pool"), repeats=1)
    assert [(row.measure, row.contender, row.unit) for row in made] == [
        (start.IMPORT, "star", "ms"),
        (start.FIRST, "star", "s"),
        (start.FIRST, "pool", "s"),
        (start.READY, "star", "s"),
    ]
    assert all(row.value > 0 and row.answers for row in made)


def test_a_program_that_fails_is_told_by_its_last_line() -> None:
    with pytest.raises(RuntimeError, match="ValueError: no such luck"):
        start.ask("raise ValueError('no such luck')")


def test_a_rival_that_cannot_start_is_left_out() -> None:
    def fail() -> float:
        raise RuntimeError("no such luck")

    left_out.pop("ray", None)
    assert start.take_turns({"star": lambda: 1.0, "ray": fail}, 2).keys() == {"star"}
    assert left_out.pop("ray") == "failed: no such luck"
