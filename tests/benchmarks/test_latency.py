"""The benchmark of round trips runs small and gives rows to believe."""

from __future__ import annotations

from benchmarks import latency


def test_round_trips_have_a_median_and_a_tail() -> None:
    names = ("star", "limit", "pool")
    made = latency.run(names=names, share=0.02, repeats=2)
    assert [(row.measure, row.contender) for row in made] == [
        (measure, name) for measure in latency.MEASURES for name in names
    ]
    for row in made:
        assert row.unit == "µs"
        assert row.rounds == 2
        assert 0 < row.low <= row.value <= row.high
    assert len({row.answers for row in made}) == 1
    for median, tail in zip(made[: len(names)], made[len(names) :], strict=True):
        assert tail.low >= median.low
        assert median.cpu_per == "µs"
