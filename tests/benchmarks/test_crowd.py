"""The crowd greets, works and comes back as workers do."""

from __future__ import annotations

import time

import pytest

from benchmarks import crowd
from benchmarks.crowd import Crowd, FragileStar
from benchmarks.tasks import nothing


def test_crowd_does_what_workers_do_and_comes_back_after_a_restart() -> None:
    with FragileStar(workers=0, log_level="error") as star, Crowd(star, 5) as members:
        before = time.monotonic()
        assert before - crowd.WAIT_SECONDS_MAX < members.wait() <= time.monotonic()
        assert len(members.pids) == 2
        with star.client(wait=False) as client:
            assert list(client.map(nothing, range(50))) == list(range(50))
            assert client.submit(nothing, 7).result(10) == 7
        star.kill_manager()
        star.restart_manager()
        assert members.wait() > before
        with star.client(wait=False) as client:
            assert client.submit(nothing, 8).result(10) == 8


def test_crowd_that_is_not_complete_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "WAIT_SECONDS_MAX", 0.0)
    with FragileStar(workers=0, log_level="error") as star, Crowd(star, 1) as members, pytest.raises(TimeoutError):
        members.wait()
