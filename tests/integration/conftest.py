"""A place for real processes; see `processes.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .processes import Place


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Place]]:
    """Make places, and end what was started there; the logs are shown when the test fails."""
    made: list[Place] = []

    def make(name: str, **variables: str) -> Place:
        made.append(Place(tmp_path / name, **variables))
        return made[-1]

    yield make
    for place in reversed(made):
        place.close()
        sys.stderr.write(place.logs())  # pytest shows it when the test failed


@pytest.fixture
def place(places: Callable[..., Place]) -> Place:
    """One user on one machine, with no star yet."""
    return places("here")
