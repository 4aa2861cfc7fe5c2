"""The benchmark of small tasks runs small and gives rows to believe."""

from __future__ import annotations

from benchmarks import small_tasks


def test_small_tasks_are_measured_by_submit_and_by_map() -> None:
    made = small_tasks.run(names=("star", "limit", "pool"), share=0.005, repeats=1)
    assert [(row.measure, row.contender) for row in made] == [
        ("small tasks by submit", "star"),
        ("small tasks by submit", "pool"),
        ("small tasks by map", "star"),
        ("small tasks by map", "pool"),
    ]
    for row in made:
        assert row.unit == "tasks/s"
        assert row.value > 0
        assert row.ratio is None
        assert row.cpu_per == "s/1000"
        assert row.parameters == {"workers": 2, "counts": {"star": 100, "pool": 50}}
