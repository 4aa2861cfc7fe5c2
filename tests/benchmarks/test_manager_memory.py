"""The benchmark of the manager's memory runs small and gives rows to believe."""

from __future__ import annotations

from benchmarks import manager_memory


def test_memory_is_seen_idle_during_and_after_arrays() -> None:
    made = manager_memory.run(names=("star", "limit", "pool"), payload_bytes=1 << 20, count=4)
    moments = [f"manager memory, {when}" for when in ("idle", "during arrays", "after arrays")]
    assert [(row.measure, row.contender) for row in made] == [
        (moment, name) for moment in moments for name in ("star", "limit")
    ]
    assert all(row.unit == "MiB" and row.value > 1 for row in made)
    idle, during = made[:2], made[2:4]
    assert all(before.value <= most.value for before, most in zip(idle, during, strict=True))
