"""Scenarios that bring an event upon a task in a state where seeds seldom do: by hand, one core at a time.

What a scenario is for stands above it, as states before a colon and the event behind it. It plays honest peers only,
says what has to come of it, and `test_seldom.py` looks with the simulator's own recorder (`reached.py`) whether the
core under it came through these pairs. The scenarios are in `directed_manager.py` and `directed_client.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tests.client.test_core import Client
from tests.manager.star import Star

from .reached import Pair, Reached

Play = TypeVar("Play", bound=Callable[..., None])

SCENARIOS: dict[Callable[..., None], list[Pair]] = {}
"""Each with the pairs that it is for; the first of them names the core."""


class WatchedStar(Star):
    """The manager's core, with the recorder in front."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.reached = Reached()

    def feed(self, event: Any) -> None:
        """Turn the core once."""
        self.reached.manager(self.core, event, self.now)
        super().feed(event)


class WatchedClient(Client):
    """The client's core, with the recorder in front."""

    def __init__(self) -> None:
        self.reached = Reached()
        super().__init__()

    def feed(self, event: Any) -> None:
        """Turn the core once."""
        self.reached.client(self.core, event)
        super().feed(event)


def reaches(core: str, *wanted: str) -> Callable[[Play], Play]:
    """Put a scenario into the table: what it is for, as in ``"DONE FAILED: RESULT RAISED"``."""

    def enter(play: Play) -> Play:
        pairs = SCENARIOS[play] = []
        for each in wanted:
            states, event = each.split(": ")
            pairs += [(core, state, event) for state in states.split()]
        return play

    return enter
