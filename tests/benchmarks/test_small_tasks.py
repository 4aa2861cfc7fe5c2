"""The benchmark of small tasks runs small and gives rows to believe."""

from __future__ import annotations

from benchmarks import small_tasks


def test_small_tasks_are_measured_by_submit_and_by_map() -> None:
    made = small_tasks.run(names=("star", "limit", "pool"), share=0.001, repeats=1)
    assert {(row.measure, row.contender) for row in made} == {
        (small_tasks.SUBMIT, "star"),
        (small_tasks.SUBMIT, "pool"),
        (small_tasks.MAP, "star"),
        (small_tasks.MAP, "pool"),
        (small_tasks.MANAGER, "star"),
    }
    for row in made:
        assert row.measure in small_tasks.MEASURES
        assert row.value > 0
        assert row.parameters["workers"] == 2
        if row.measure != small_tasks.MANAGER:
            assert row.unit == "tasks/s"
            assert row.cpu_per == "µs"
            assert row.ratios.keys() == ({"pool"} if row.contender == "star" else set())
