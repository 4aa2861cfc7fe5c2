"""The accounts of the arena: which bodies have memory, which wait for some. Pure; the bytes are in `arena.py`.

A body is granted only after its memory is there. One that does not fit waits, and smaller ones may pass it, but
only so many of them; one that is alone in the arena always fits. So does every blob, whatever that makes of the
capacity: the arguments that fill the arena may belong to tasks that wait for just this function.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from starcore.events import Action
from starcore.messages import BLOB_STREAM
from starcore.worker.orders import Allocate, Release
from starcore.worker.runs import segment_bytes

PASSED_MAX = 64
"""How many smaller bodies may pass one that waits."""


@dataclass(slots=True)
class Demand:
    """A body that wants memory."""

    key: int
    attempt: int
    size: int
    passed: int = 0


class Memory:
    """Bytes promised out of `capacity`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._used = 0
        self.demands: deque[Demand] = deque()
        self._held: dict[int, int] = {}
        self._pending: dict[int, Demand] = {}
        self._answers: dict[int, int] = {}
        self._short = False

    @property
    def used(self) -> int:
        """Bytes that arguments, blobs and answers occupy."""
        return self._used

    @property
    def busy(self) -> bool:
        """Whether arguments or answers occupy any."""
        return bool(self._answers) or any(not key & BLOB_STREAM for key in self._held)

    @property
    def lack(self) -> int:
        """How many bytes the first argument in line lacks."""
        return self._used + segment_bytes(self.demands[0].size) - self.capacity if self.demands else 0

    def promise(self, key: int, size: int) -> None:
        """Give a value the memory that was made sure of."""
        self._hold(Demand(key, 1, size))

    def expel(self, key: int) -> None:
        """Take a value's memory out of the accounts; nobody has to be told yet."""
        self._used -= self._held.pop(key)
        self._pending.pop(key, None)
        self._short = False

    def demand(self, demand: Demand, *, first: bool = False) -> None:
        """Ask for memory, in line or before all others."""
        if first:
            self.demands.appendleft(demand)
        else:
            self.demands.append(demand)

    def admit(self) -> list[Action]:
        """Promise memory to whoever fits."""
        if not self.demands:
            return []
        actions: list[Action] = []
        waiting: deque[Demand] = deque()
        for demand in self.demands:
            barred = self._short or (bool(waiting) and waiting[0].passed >= PASSED_MAX)
            if not demand.key & BLOB_STREAM and (barred or not self._fits(demand.size)):
                waiting.append(demand)
                continue
            if waiting:
                waiting[0].passed += 1
            self._hold(demand)
            actions.append(Allocate(demand.key, demand.attempt, demand.size))
        self.demands = waiting
        return actions

    def allocated(self, key: int, *, failed: bool) -> bool:
        """Note what became of an Allocate. False where nobody waits for it, or where it is tried again later."""
        demand = self._pending.pop(key, None)
        if demand is None:
            return False
        if not failed:
            return True
        self._used -= self._held.pop(key)
        if not self.busy:
            self._short = False  # nothing comes back that those who wait could wait for
        elif not key & BLOB_STREAM:
            self._short = True  # the machine has less than we thought: wait for our own to come back
            self.demands.appendleft(demand)
            return False
        return True

    def holds(self, key: int) -> bool:
        """Whether the memory under this key is there."""
        return key in self._held and key not in self._pending

    def size(self, key: int) -> int:
        """How many bytes are accounted under this key."""
        return self._held.get(key, 0)

    def release(self, key: int, *, kept: bool = False) -> list[Action]:
        """Take memory back, or a demand for it."""
        if key not in self._held:
            self.demands = deque(demand for demand in self.demands if demand.key != key)
            return []
        self._used -= self._held.pop(key)
        self._pending.pop(key, None)
        self._short = False
        return [Release(key, kept)]

    def keep_answer(self, lease: int, size: int) -> None:
        """Account an answer that lies in a slot's own memory."""
        self._answers[lease] = segment_bytes(size)
        self._used += self._answers[lease]

    def release_answer(self, lease: int) -> bool:
        """Take an answer's memory back. False where it lies in its argument."""
        size = self._answers.pop(lease, None)
        if size is None:
            return False
        self._used -= size
        self._short = False
        return True

    def keys(self) -> AbstractSet[int]:
        """Whatever is accounted or waits."""
        return self._held.keys() | self._answers.keys() | {demand.key for demand in self.demands}

    def check(self) -> None:
        """Assert the invariants."""
        assert self._used == sum(self._held.values()) + sum(self._answers.values())
        assert self._pending.keys() <= self._held.keys()
        arguments = [size for key, size in self._held.items() if not key & BLOB_STREAM]
        assert len(arguments) <= 1 or sum(arguments) <= self.capacity
        assert not self._held.keys() & {demand.key for demand in self.demands}

    def _fits(self, size: int) -> bool:
        if self._used + segment_bytes(size) <= self.capacity:
            return True
        return not self._answers and all(key & BLOB_STREAM for key in self._held)

    def _hold(self, demand: Demand) -> None:
        self._held[demand.key] = segment_bytes(demand.size)
        self._used += self._held[demand.key]
        self._pending[demand.key] = demand
