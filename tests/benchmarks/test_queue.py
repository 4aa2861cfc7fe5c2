"""The benchmark of a long queue runs small and gives rows to believe."""

from __future__ import annotations

import pytest

from benchmarks import queue
from benchmarks.crowd import FragileStar


@pytest.mark.parametrize(
    ("million", "measures"), [(3000, queue.MEASURES), (10**6, queue.MEASURES[:1] + queue.MEASURES[2:])]
)
def test_every_measure_of_a_short_queue_is_taken(
    monkeypatch: pytest.MonkeyPatch, million: int, measures: tuple[str, ...]
) -> None:
    monkeypatch.setattr(queue, "MILLION", million)
    made = queue.run(quick=True, count=3000, bursts=1000)
    assert tuple(row.measure for row in made) == measures
    assert all(row.contender == "star" and row.answers for row in made)
    assert made[-1].value > 0


def test_tasks_that_are_not_queued_in_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "QUEUED_SECONDS_MAX", 0.0)
    with (
        FragileStar(workers=0, log_level="error") as star,
        star.client(wait=False) as client,
        pytest.raises(TimeoutError, match="were not queued"),
    ):
        queue.wait_until_queued(client, 1)


def test_nobody_else_is_asked() -> None:
    assert queue.run(quick=True, names=("dask", "limit")) == []
