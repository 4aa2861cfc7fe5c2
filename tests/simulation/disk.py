"""The disk under a simulated manager with a journal: what it had synced is there after a death, and nothing else is.

::

    JournaledStar(seed).run()      as SimStar, but each manager goes on where the last one was cut off

A commit takes its time, and a manager that dies in it has promised nothing for it. So do the files of stored jobs: they
are synced a while after their chunks came, each on its own. Up to `failing_until` the disk takes nothing (F10): the
ledger and the bodies' thread try again, as theirs do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starcore.events import Spill, Spooled
from starcore.manager import journal
from starcore.manager.core import Limits
from starcore.manager.journaled import Durable, Failed, JournaledCore, Record, Renew
from starcore.manager.outbox import SpoolFailed, SpoolWorks, Synced
from starcore.manager.recovery import Recovery

from .checkers import Truth
from .network import Network
from .peers import ManagerProcess, view_of
from .star import SimStar
from .world import Violation, World

RENEW_RECORDS = 400
"""A segment of more records than so many is renewed."""
RETRY_SECONDS = 1.0
EPOCH = 9
SICK_SECONDS_MAX = 12.0


class Disk:
    """What is on it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.files: dict[int, dict[int, Any]] = {}
        """Pieces by their offset, by the number of the body."""
        self.failing_until = 0.0

    def body(self, number: int, size: int) -> Any:
        """Read a file whole."""
        whole = b"".join(bytes(payload) for _, payload in sorted(self.files.get(number, {}).items()))
        if len(whole) != size:
            raise Violation(f"file {number} has {len(whole)} bytes, where the journal names {size}")
        return memoryview(whole)

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
        recovery = disk.recovery()
        named = recovery.files()
        disk.files = {number: disk.files.get(number, {}) for number in named}  # what is not named goes
        bodies = {number: Spooled(number, 0, size, size=size) for number, size in named.items()}
        core = JournaledCore(recovery, EPOCH, now, limits=limits, read=view_of, bodies=bodies)
        core.check()
        super().__init__(world, network, truth, EPOCH, limits, core)
        self._disk = disk
        self.files: dict[tuple[int, int], Any] = {
            (number, 0): disk.body(number, size) for number, size in named.items()
        }
        """By body and offset: what stands for chunks that are in files, or on their way there."""
        self._idle_at = 0.0
        """When the commit that is on its way is over."""
        self._failing = self._renewing = self._spool_failing = False
        self._unneeded: list[int] = []
        """Files that go when the disk knows that."""
        self.driver.feed(Renew())

    def perform(self, action: Any) -> None:
        """Write, besides what every manager does."""
        if type(action) is Spill:
            self._spill(action)
            return
        if type(action) is not Record:
            super().perform(action)
            return
        frames = [journal.encode(fact) for fact in action.facts]
        self._idle_at = max(self._idle_at, self.world.now) + self.world.skewed(0.0002, 0.02)
        self.world.at(self._idle_at, self.post, self._commit, frames, action.upto, action.anew)

    def leaves(self, token: Any) -> Any:
        """A chunk, or a part of one, is written to a link."""
        return self.files[token.body, token.offset] if type(token) is Spooled else super().leaves(token)

    def release(self, token: Any) -> None:
        """Take a buffer back, or let a file go, when the disk has all that was recorded so far."""
        if type(token) is not Spooled:
            super().release(token)
            return
        del self.files[token.body, token.offset]
        if not any(number == token.body for number, _ in self.files):
            self.world.at(self._idle_at, self.post, self._unlink, token.body)

    def _spill(self, action: Spill) -> None:
        spooled = action.spooled
        payload = self.leaves(action.token)[: spooled.length]
        self.files[spooled.body, spooled.offset] = payload
        if not action.copy:
            super().release(action.token)
        self.world.later(self.world.skewed(0.0002, 0.5), self.post, self._sync, spooled, payload)

    def _sync(self, spooled: Spooled, payload: Any) -> None:
        if (spooled.body, spooled.offset) not in self.files:
            return
        if self.world.now < self._disk.failing_until:
            self._spool_failing = True
            self.driver.feed(SpoolFailed("No space left on device"))
            self.world.later(RETRY_SECONDS, self.post, self._sync, spooled, payload)
            return
        if self._spool_failing:
            self._spool_failing = False
            self.driver.feed(SpoolWorks())
        file = self._disk.files.setdefault(spooled.body, {})
        file[spooled.offset] = payload
        if sum(map(len, file.values())) == spooled.size:
            self.driver.feed(Synced([spooled.body]))

    def _unlink(self, number: int) -> None:
        if self._failing:
            self._unneeded.append(number)
        else:
            self._disk.files.pop(number, None)

    def _fail(self) -> None:
        self._failing, self._renewing = True, False
        self._truth.journal_fails = True
        self.world.later(RETRY_SECONDS, self.post, self._try_again)
        self.driver.feed(Failed("No space left on device"))

    def _try_again(self) -> None:
        self._renewing = True
        self.driver.feed(Renew())

    def _commit(self, frames: list[bytes], upto: int, anew: bool) -> None:
        disk = self._disk
        if self._failing and not (anew and self._renewing):
            return
        if self.world.now < disk.failing_until:
            self._fail()
            return
        self._failing = self._renewing = False
        while self._unneeded:
            self._unlink(self._unneeded.pop())
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
        if self.world.now >= self.disk.failing_until:
            self.world.fault("the disk fails", "disk")
            self.disk.failing_until = self.world.now + self.world.skewed(0.1, SICK_SECONDS_MAX)

    def _make_well(self) -> None:
        self.disk.failing_until = 0.0
        super()._make_well()
