"""The benchmark of many workers runs small and gives rows to believe."""

from __future__ import annotations

import pytest

from benchmarks import peers


def test_every_measure_of_a_small_crowd_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FEW", 2)
    made = peers.run(quick=True, workers=8, lone=20, bulk=500)
    assert [row.measure for row in made] == list(peers.MEASURES)
    assert [row.unit for row in made] == ["KiB", "% of a core", "s", "x", "x", "KiB"]
    assert all(row.contender == "star" and row.rounds == 1 for row in made)
    assert all(row.value > 0 for row in made[1:3] + made[5:])


def test_nobody_else_is_asked() -> None:
    assert peers.run(quick=True, names=("dask", "limit")) == []
