"""Stored jobs, simulated: whoever brought them is gone, whoever comes back is told every outcome once."""

from __future__ import annotations

import pytest

from .detaching import DetachedStar, JournaledDetachedStar
from .world import Violation

SEEDS = 60


@pytest.fixture(scope="module")
def fetched() -> list[int]:
    """The seeds, lived through once: how many tasks each stored and fetched."""
    return [live(DetachedStar(seed)) for seed in range(SEEDS)]


def live(star: DetachedStar) -> int:
    try:
        return star.live()
    except Exception as error:
        raise Violation("\n".join([f"seed {star.world.seed}: {error}", *star.world.tail()])) from error


def test_every_seed_brings_back_what_was_accepted(fetched: list[int]) -> None:
    assert sum(fetched) > 10 * SEEDS


def test_seed_says_the_same_twice(fetched: list[int]) -> None:
    stars = [DetachedStar(7), DetachedStar(7)]
    assert {star.live() for star in stars} == {fetched[7]}
    assert len({star.world.hash for star in stars}) == 1


def test_every_seed_brings_back_what_was_accepted_though_managers_are_killed() -> None:
    stars = [JournaledDetachedStar(seed) for seed in range(SEEDS)]
    assert sum(map(live, stars)) > 5 * SEEDS
    assert sum(star.world.faults.get("kill the manager", 0) for star in stars) > SEEDS // 10
