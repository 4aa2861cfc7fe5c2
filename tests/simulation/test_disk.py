"""The whole star with a journal, simulated: every seed keeps its promises, whoever dies."""

from __future__ import annotations

from functools import cache

import pytest

from .disk import JournaledStar
from .star import Report

SEEDS = range(40)


@cache
def lived(seed: int) -> Report:
    """What came of a seed, which is lived through once; a broken promise raises."""
    return JournaledStar(seed).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_star_with_a_journal_keeps_every_promise(seed: int) -> None:
    assert lived(seed).steps


def test_disks_fail_and_tasks_are_refused_and_others_done_meanwhile() -> None:
    reports = [lived(seed) for seed in SEEDS]
    failed = [report for report in reports if report.faults.get("the disk fails")]
    assert len(failed) > len(SEEDS) // 5
    assert any(report.outcomes.get("UNRUNNABLE") for report in failed)


def test_seeds_have_managers_that_are_killed_and_find_their_work_again() -> None:
    star = JournaledStar(next(seed for seed in SEEDS if lived(seed).faults.get("kill the manager")))
    assert star.run().executions
    assert star.disk.frames
    assert star.manager is not None
    assert star.manager.core.status(0.0)["epoch"] == 9
