"""The directed scenarios hold, each reaches the pairs that it is for, and none what cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import directed_client, directed_manager  # noqa: F401 - they fill the table
from .directed import SCENARIOS, WatchedClient, WatchedStar
from .test_reached import IMPOSSIBLE, pairs_of


@pytest.mark.parametrize("play", SCENARIOS, ids=lambda play: play.__name__)
def test_scenario_reaches_what_it_is_for(play: Callable[..., None]) -> None:
    wanted = set(SCENARIOS[play])
    world = WatchedStar() if {core for core, _, _ in wanted} == {"manager"} else WatchedClient()
    play(world)
    reached = world.reached.pairs.keys()
    assert wanted <= reached
    assert not reached & pairs_of(IMPOSSIBLE).keys()


def test_no_pair_has_two_scenarios() -> None:
    wanted = [pair for pairs in SCENARIOS.values() for pair in pairs]
    assert len(wanted) == len(set(wanted))
