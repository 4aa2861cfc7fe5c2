"""The benchmark of arrays runs small, side by side, and gives rows to believe."""

from __future__ import annotations

from benchmarks import arrays


def test_arrays_are_measured_side_by_side() -> None:
    names = ("star", "limit", "pool")
    made = arrays.run(names=names, cases=arrays.SMALL, pairs=1, turns=1)
    values = [row for row in made if row.unit == "MB/s"]
    sums = [row for row in made if row.unit == "s/GB"]
    for kind, suffix in ((values, ""), (sums, ": CPU")):
        wanted = {(case.measure + suffix, name) for case in arrays.SMALL for name in names}
        assert {(row.measure, row.contender) for row in kind} == wanted
    assert len(made) == len(values) + len(sums) == 2 * len(arrays.SMALL) * len(names)
    for row in values:
        assert row.benchmark == "arrays"
        assert row.low <= row.value <= row.high
        assert row.ratios.keys() == ({"limit", "pool"} if row.contender == "star" else set())
        assert row.cpu.keys() == {"client", "worker"} | ({"manager"} if row.contender != "pool" else set())
        assert row.parameters.keys() == {"payload_bytes", "depth", "count", "workers"}
    for case in arrays.SMALL:
        assert len({row.answers for row in values if row.measure == case.measure}) == 1


def test_measures_are_those_of_the_cases() -> None:
    assert {case.measure for case in arrays.FULL} == {case.measure for case in arrays.QUICK}
    assert set(arrays.MEASURES) >= {case.measure for case in arrays.FULL}
