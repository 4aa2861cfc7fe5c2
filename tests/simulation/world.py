"""Virtual time, chance and the trace: what a world consists of before anybody lives in it.

Everything that happens is a callback on one heap, ordered by its time and then by the order in which it was asked
for; all chance comes from one `random.Random(seed)`. So a seed and a commit give the same trace, whose hash says so.
Not here: the network (`network.py`), who lives in the world (`peers.py`), what goes wrong (`faults.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

TAIL_EVENTS = 80
"""How many of the last events a failing seed shows."""
LINE_LETTERS = 260
CALLBACKS_MAX = 100_000
"""More than this and something ticks for ever."""


class Violation(AssertionError):  # noqa: N818 - it is what a checker found, not a fault of the simulator's
    """An invariant does not hold."""


class World:
    """One seed's clock, chance and memory.

    Parameters
    ----------
    seed : int
        Decides everything.
    trace : bool
        Whether every event is printed.
    """

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        """Events that a core took; after each, that core was checked."""
        self.faults: dict[str, int] = {}
        self.troubled_at = 0.0
        """When something last went wrong, or the last of it was mended."""
        self.runs = 0
        """How many answers were worked out so far, so that no two are alike."""
        self.swollen = 0
        """Slots that were found too large between two tasks."""
        self.deaths = 0
        """Slots and workers that died, or were taken for dead."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._callbacks = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._tail: deque[tuple[float, str, Any]] = deque(maxlen=TAIL_EVENTS)
        self._trace = trace

    # -- time ------------------------------------------------------------------------------------------------

    def at(self, time: float, callback: Callable[..., None], *args: Any) -> None:
        """Call back at a time."""
        self._serial += 1
        heappush(self._heap, (max(time, self.now), self._serial, callback, args))

    def later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        """Call back after a delay."""
        self.at(self.now + delay, callback, *args)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `until`, or until `done`, which is asked every now and then. Whether it was done."""
        heap = self._heap
        look_at = self.now
        while heap and heap[0][0] <= until:
            time, _, callback, args = heappop(heap)
            self.now = time
            self._callbacks += 1
            if self._callbacks > CALLBACKS_MAX:
                raise Violation(f"{CALLBACKS_MAX} callbacks, and no end: something ticks for ever")
            callback(*args)
            if done is not None and time >= look_at:
                if done():
                    return True
                look_at = time + 0.05
        if done is not None and done():
            return True
        self.now = max(self.now, until)
        return False

    # -- chance ----------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """Whether something happens that happens so often."""
        return self.rng.random() < probability

    def between(self, low: float, high: float) -> float:
        """A time between two."""
        return low + (high - low) * self.rng.random()

    def skewed(self, low: float, high: float) -> float:
        """Something between two, whose logarithm is uniform: mostly small, at times large."""
        return float(low * (high / low) ** self.rng.random())

    # -- the trace -------------------------------------------------------------------------------------------

    def note(self, who: str, mark: str, what: Any = "") -> None:
        """Remember that something happened; `mark` is what the hash is made of, `what` is only shown."""
        self._hash.update(f"{self.now:.9f} {who} {mark}\n".encode())
        self._tail.append((self.now, who, what or mark))
        if self._trace:
            print(_line(self.now, who, what or mark))

    def fault(self, name: str, who: str) -> None:
        """Count and note a fault."""
        self.faults[name] = self.faults.get(name, 0) + 1
        self.troubled_at = self.now
        self.note(who, f"*** {name}")

    @property
    def hash(self) -> str:
        """What the trace comes to."""
        return self._hash.hexdigest()

    def tail(self) -> list[str]:
        """The last events, as text."""
        return [_line(*entry) for entry in self._tail]


def _line(now: float, who: str, what: Any) -> str:
    text = what if isinstance(what, str) else repr(what)
    return f"{now:11.6f}  {who:<10}  {text if len(text) < LINE_LETTERS else text[:LINE_LETTERS] + '…'}"
