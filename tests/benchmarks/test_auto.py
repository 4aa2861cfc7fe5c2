"""The benchmark of automatic chunks runs small and gives rows to believe."""

from __future__ import annotations

import pytest

from benchmarks import auto
from benchmarks.wires import Wire, WireError


def test_the_stages_are_measured_alone_and_together() -> None:
    made = auto.run(quick=True, loopback_bytes=8 << 20, wire_bytes=2 << 20)
    measures = [row.measure for row in made]
    assert set(measures) <= set(auto.MEASURES)
    assert {auto.CPU, auto.MEMORY} <= set(measures)
    for row in made:
        assert row.contender == "star"
        assert row.value > 0
        assert row.unit in {"x", "MiB", "ms"}


def test_nothing_is_measured_where_the_star_is_not_asked_for() -> None:
    assert auto.run(names=["limit"]) == []


def test_a_wire_leaves_nothing_behind() -> None:
    try:
        with Wire(1e6) as wire:
            names = list(wire._names.values())
            with wire.at("near"), wire.at("far"):
                pass
    except WireError as error:
        pytest.skip(str(error))
    assert not [name for name in names if wire.exists(name)]
