"""The campaigns that several test files look at: each is lived through once."""

from __future__ import annotations

import time

import pytest

from .campaign import Tally, tally_of

FIXED_SEEDS = 1150
FRESH_SEEDS = 1150


@pytest.fixture(scope="session")
def fixed() -> Tally:
    """The fixed seeds."""
    return tally_of(0, FIXED_SEEDS)


@pytest.fixture(scope="session")
def fresh() -> Tally:
    """Other seeds each time; one that fails is printed, and replays."""
    return tally_of(10_000 + int(time.time()) % 1_000_000_000, FRESH_SEEDS)
