"""The disk under a simulated manager with a journal: what it had synced is there after a death, and nothing else is.

::

    JournaledStar(seed).run()      as SimStar, but each manager goes on where the last one was cut off

A commit takes its time, and a manager that dies in it has promised nothing for it. A disk that fails (F10) writes
nothing for a while: the segment at hand is given up, new tasks are refused, and a new segment is tried again and again.
What is on the disk stays, and a manager that is killed meanwhile begins with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starcore.manager import journal
from starcore.manager.core import Limits
from starcore.manager.journaled import Durable, Failed, JournaledCore, Record, Renew
from starcore.manager.recovery import Recovery

from .checkers import Truth
from .network import Network
from .peers import ManagerProcess, view_of
from .star import SimStar
from .world import World

RENEW_RECORDS = 400
"""A segment of more records than so many is renewed."""
EPOCH = 9
RETRY_SECONDS = 0.5
SICK_SECONDS_MAX = 12.0


class Disk:
    """What is on it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.sick = ""
        """Why nothing can be written."""

    def recovery(self) -> Recovery:
        """Read it."""
        recovery = Recovery()
        for frame in self.frames:
            recovery.apply(journal.decode(frame))
        return recovery


class JournaledManager(ManagerProcess):
    """A manager and its ledger."""

    def __init__(self, world: World, network: Network, truth: Truth, disk: Disk, limits: Limits) -> None:
        now = int(world.now * 1000.0) / 1000.0
        core = JournaledCore(disk.recovery(), EPOCH, now, limits=limits, read=view_of)
        core.check()
        super().__init__(world, network, truth, EPOCH, limits, core)
        self._disk = disk
        self._idle_at = 0.0
        """When the commit that is on its way is over."""
        self._records = 0
        self._given_up = 0
        """Records up to this one belong to a segment that failed."""
        self.driver.feed(Renew())

    def perform(self, action: Any) -> None:
        """Write, besides what every manager does."""
        if type(action) is not Record:
            super().perform(action)
            return
        frames = [journal.encode(fact) for fact in action.facts]
        self._idle_at = max(self._idle_at, self.world.now) + self.world.skewed(0.0002, 0.02)
        self._records += 1
        self.world.at(self._idle_at, self.post, self._commit, self._records, frames, action.upto, action.anew)

    def _commit(self, record: int, frames: list[bytes], upto: int, anew: bool) -> None:
        disk = self._disk
        if record <= self._given_up:
            return
        if disk.sick:
            self._given_up = self._records
            self._truth.journal_fails = True
            self.driver.feed(Failed(disk.sick), disk.sick)
            self.world.later(RETRY_SECONDS, self.post, self.driver.feed, Renew())
            return
        disk.frames = frames if anew else disk.frames + frames
        self.driver.feed(Durable(upto))
        if len(disk.frames) > RENEW_RECORDS and not anew:
            self.driver.feed(Renew())


class JournaledStar(SimStar):
    """A star whose manager has a journal."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.disk = Disk()

    def start_manager(self) -> None:
        """Start a manager where there is none; it knows what the disk knows."""
        if self.manager is None or not self.manager.alive:
            self.manager = JournaledManager(self.world, self.network, self.truth, self.disk, self._limits)

    def faults_of_its_own(self) -> list[tuple[Callable[[], None], float]]:
        """F10."""
        return [(self._fail_disk, 2.0)]

    def _fail_disk(self) -> None:
        """The disk is full, or a fsync fails; after a while there is room again."""
        if not self.disk.sick:
            self.world.fault("the disk fails", "disk")
            self.disk.sick = self.world.rng.choice(("No space left on device", "Input/output error"))
            self.world.later(self.world.skewed(0.1, SICK_SECONDS_MAX), self._heal_disk)

    def _heal_disk(self) -> None:
        self.disk.sick = ""

    def _make_well(self) -> None:
        self._heal_disk()
        super()._make_well()
