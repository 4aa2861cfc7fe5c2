"""Targets: what is met, what is missed, what cannot be said; and each names a measure that is really taken."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import found
from benchmarks.harness import Row, Sample, rows
from benchmarks.targets import TARGETS, Target, at_least, at_most


def made(**values: float) -> list[Row]:
    return rows({name: [Sample(value)] for name, value in values.items()}, benchmark="b", measure="m", unit="s")


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (at_least("b", "m", 10, "promised"), True),
        (at_least("b", "m", 11, "promised"), False),
        (at_most("b", "m", 10, "promised"), True),
        (at_most("b", "m", 9, "promised"), False),
        (at_least("b", "m", 0.5, "promised", of="limit"), True),
        (at_most("b", "m", 0.4, "promised", of="limit"), False),
        (at_most("b", "m", 0.4, "promised", of="dask"), None),
        (at_most("b", "another", 0.4, "promised"), None),
    ],
)
def test_targets_are_met_or_not_or_cannot_be_said(target: Target, met: bool | None) -> None:
    assert target.met(made(star=10.0, limit=20.0)) is met


def test_without_the_star_nothing_is_said() -> None:
    assert at_least("b", "m", 1, "promised").met(made(limit=20.0)) is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.measure)
def test_every_target_names_a_measure_that_its_benchmark_takes(target: Target) -> None:
    assert target.measure in found()[target.benchmark].MEASURES
    assert target.source
