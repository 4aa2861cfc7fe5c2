"""The benchmark of one process against two shards runs small and gives rows to believe."""

from __future__ import annotations

import sys

import pytest

from benchmarks import shards

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: shards share memfds")


def test_both_managers_are_measured_with_the_same_answers() -> None:
    made = shards.run(names=("star",), payload_bytes=1 << 20, count=2, repeats=2)
    assert [row.measure for row in made] == list(shards.MEASURES)
    assert [row.unit for row in made] == ["x", "s/GB", "s/GB", "s/GB"]
    assert all(row.value > 0 and row.contender == "star" and row.rounds == 2 for row in made)
    assert len({row.answers for row in made}) == 1


def test_without_the_star_there_is_nothing_to_measure() -> None:
    assert shards.run(names=("limit",)) == []
