"""Which fault comes when, to whom and for how long, from one seed. Pure.

Faults are dealt from a shuffled deck, as cards are: each kind comes as often as its weight says in every round, so a
short run meets all of them, and their order is any.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

FIRST_SECONDS = 3.0
"""The star is left alone for so long at first."""
GAP_SECONDS = 1.05
"""Between two faults, on average."""
GAP_SECONDS_MIN = 0.2
RANKS = 1 << 16
"""A victim is a number below this, taken modulo how many there are when it is its turn."""


class Fault(Enum):
    """What may happen."""

    KILL_SLOT = auto()
    KILL_SUPERVISOR = auto()
    KILL_MANAGER = auto()
    KILL_CALLER = auto()
    FREEZE_SLOT = auto()
    FREEZE_SUPERVISOR = auto()
    FREEZE_MANAGER = auto()
    FREEZE_CALLER = auto()
    CUT = auto()
    CUT_ALL = auto()
    HALF_OPEN = auto()
    CLOSE = auto()
    PAUSE = auto()
    DELAY = auto()
    TRICKLE = auto()
    FLIP = auto()
    DUPLICATE = auto()


_CARDS: dict[Fault, tuple[int, float, float]] = {
    Fault.KILL_SLOT: (3, 0, 0),
    Fault.KILL_SUPERVISOR: (2, 0.1, 3),
    Fault.KILL_MANAGER: (1, 0.1, 2),
    Fault.KILL_CALLER: (1, 0, 1),
    Fault.FREEZE_SLOT: (2, 0.2, 3),
    Fault.FREEZE_SUPERVISOR: (2, 0.2, 6),
    Fault.FREEZE_MANAGER: (1, 0.2, 4),
    Fault.FREEZE_CALLER: (1, 0.2, 6),
    Fault.CUT: (4, 0, 0),
    Fault.CUT_ALL: (1, 0, 0),
    Fault.HALF_OPEN: (3, 0, 0),
    Fault.CLOSE: (2, 0.2, 6),
    Fault.PAUSE: (2, 0.2, 5),
    Fault.DELAY: (2, 0.5, 3),
    Fault.TRICKLE: (1, 0.5, 3),
    Fault.FLIP: (3, 0, 0),
    Fault.DUPLICATE: (3, 0, 0),
}
"""How often in a deck, and for how many seconds at least and at most."""

DECK = sum(count for count, _, _ in _CARDS.values())


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault."""

    at: float
    """Seconds after the start."""
    fault: Fault
    rank: int
    """Says who is hurt."""
    seconds: float
    """How long it lasts."""


def schedule(seed: int, seconds: float) -> list[Blow]:
    """Every fault of a run that lasts so long."""
    chance = random.Random(seed)
    blows: list[Blow] = []
    deck: list[Fault] = []
    at = FIRST_SECONDS
    while at < seconds:
        if not deck:
            deck = [fault for fault, (count, _, _) in _CARDS.items() for _ in range(count)]
            chance.shuffle(deck)
        fault = deck.pop()
        _, least, most = _CARDS[fault]
        blows.append(Blow(at, fault, chance.randrange(RANKS), chance.uniform(least, most)))
        at += GAP_SECONDS_MIN + chance.expovariate(1 / (GAP_SECONDS - GAP_SECONDS_MIN))
    return blows
