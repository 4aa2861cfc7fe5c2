"""The benchmark of put runs small, and what it counts is what crossed and what is there."""

from __future__ import annotations

import pytest

from benchmarks import put


@pytest.mark.alone
def test_what_a_put_value_costs_is_measured() -> None:
    made = put.run(names=("star",), size=24 << 20, tasks=12, repeats=1)
    assert [row.measure for row in made] == list(put.MEASURES)
    by = {row.measure: row.value for row in made}
    assert 1.0 <= by[put.UP] < 1.2
    assert 1.0 <= by[put.DOWN] < 1.2
    assert 0.9 < by[put.MEMORY] < 2.5
    assert by[put.SECONDS] > 0
    assert len({row.answers for row in made}) == 1


def test_nobody_else_is_asked() -> None:
    assert put.run(names=("limit", "pool")) == []
