"""The star as a contender: real processes, right answers, and the pids to charge."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from benchmarks.star import Star
from benchmarks.tasks import check, inputs


@pytest.fixture(scope="module")
def star() -> Iterator[Star]:
    with Star(workers=1) as running:
        yield running


def test_the_star_gives_right_answers(star: Star) -> None:
    arrays = inputs(5, 1 << 20)
    check(arrays, star.arrays(arrays, depth=2))
    values = list(range(50))
    assert star.submit(values) == star.map(values) == values
    assert star.round_trip("x") == "x"


def test_the_star_names_its_processes(star: Star) -> None:
    pids = star.pids()
    assert [len(pids[role]) for role in ("manager", "worker")] == [1, 1]
    assert all(psutil.pid_exists(pid) for role in pids.values() for pid in role)
