"""The benchmark of arrays runs small, side by side, and gives rows to believe."""

from __future__ import annotations

from benchmarks import arrays


def test_arrays_are_measured_side_by_side() -> None:
    names = ("star", "limit", "pool")
    made = arrays.run(names=names, cases=arrays.SMALL, repeats=1)
    assert [(row.measure, row.contender) for row in made] == [(c.measure, name) for c in arrays.SMALL for name in names]
    for row in made:
        assert row.benchmark == "arrays"
        assert row.unit == "MB/s"
        assert row.low <= row.value <= row.high
        assert row.ratio is not None
        assert row.ratio > 0
        assert row.cpu.keys() == {"client", "worker"} | ({"manager"} if row.contender != "pool" else set())
        assert row.cpu_per == "s/GB"
        assert row.parameters.keys() == {"payload_bytes", "depth", "count", "workers"}
