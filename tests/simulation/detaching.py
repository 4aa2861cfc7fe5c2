"""People who detach their work and leave for good, and others of the same identity who come back for it.

A star as in `star.py`, with its faults, but for those of the manager: without a journal a stored job dies with it. With
one (`JournaledDetachedStar`) managers are killed as well.
Each owner detaches a job and goes, mostly for ever; readers attach one after the other, some die in the middle; the
last one fetches everything, is told each outcome exactly once, and forgets the job. Then nothing is left.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

from starcore.client import orders
from starcore.errors import Status
from starcore.events import Peer
from starcore.messages import Attach, Deed, Detach, FunctionKind, Role

from .callers import Calls, ClientProcess
from .checkers import require_drained
from .disk import Disk, JournaledManager
from .faults import Faults
from .star import LIVENESS_SECONDS, SETTLE_SECONDS, SimStar
from .work import ANSWER_HEAD_BYTES_MIN, BASES, Kind, Spec
from .world import Violation

TASKS_MAX = 40
TASK_OVERHEAD_BYTES = 64


class StoredWork:
    """A job that is to outlive its client, and what became of it."""

    def __init__(self, name: str, record: Calls, specs: list[Spec]) -> None:
        self.name = name
        self.record = record
        self.specs = specs
        self.accepted = False
        self.refused = False
        """Its manager died before it was accepted: its owner was told."""
        self.forgotten = False

    @property
    def size(self) -> int:
        """What the tasks come to."""
        return sum(len(spec.head()) + spec.argument + TASK_OVERHEAD_BYTES for spec in self.specs)


class Owner(ClientProcess):
    """A client that detaches jobs and reads stored ones; every owner has a certificate of its own, and one identity."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._peer = Peer(Role.CLIENT, self.name, f"{self.name}:1", f"print of {self.name}", "the owner")
        self._brought: dict[int, StoredWork] = {}
        self._read: dict[int, tuple[StoredWork, Calls]] = {}
        self._serials = count(1)
        self.listed: list[str] = []
        self._actions[orders.StoredTold] = self._stored_told
        self._actions[orders.Listed] = lambda action: self.listed.append(action.text)

    def detach(self, work: StoredWork) -> None:
        """Have a job stored."""
        record = work.record
        self._numbers += 1
        record.number, record.begun = self._numbers, True
        self.records[record.number] = record
        self._brought[record.number] = work
        detach = Detach(record.number, work.name, len(work.specs), work.size, 0.0, b"note")
        self._tell(self.driver.feed, orders.Begin(record.job(), record.blob, detach), work.name)

    def read(self, work: StoredWork) -> None:
        """Have a stored job told."""
        self._numbers += 1
        record = replace(work.record, number=self._numbers, next=0, begun=True, open={})
        self.records[record.number] = record
        self._read[record.number] = work, record
        self._tell(self.driver.feed, orders.Read(Attach(record.number, work.name, False)), work.name)

    def forget(self, work: StoredWork) -> None:
        """Let a stored job go."""
        work.forgotten = True
        self._tell(self.driver.feed, orders.Question(next(self._serials), Deed.FORGET, work.name), work.name)

    def _stored_told(self, action: orders.StoredTold) -> None:
        if action.job in self._brought:
            self._brought_told(action, self._brought[action.job])
        elif action.code:
            if not self._read[action.job][0].forgotten:
                raise Violation(f"{self.name} cannot read a stored job: {action.reason}")
        else:
            self._read_told(action)

    def _brought_told(self, action: orders.StoredTold, work: StoredWork) -> None:
        record = work.record
        if action.code:
            record.open.clear()
            work.refused = True
            if work.accepted:
                raise Violation(f"{work.name} was accepted, and is refused: {action.reason}")
        elif action.whole:
            work.accepted = True
        elif not record.open and not record.next:
            record.next = len(work.specs)
            record.open.update(enumerate(work.specs))
            for index, spec in enumerate(work.specs):
                self._truth.called(self.name, record, index, spec, spec.head())
            self._truth.gone(self.name)  # what becomes of them is promised to those who read
            self._tell(self._feed_calls, record, 0, work.specs, 0)

    def _read_told(self, action: orders.StoredTold) -> None:
        work, record = self._read[action.job]
        if action.tasks != len(work.specs):
            raise Violation(f"{work.name} has {action.tasks} tasks, and had {len(work.specs)}")
        if not record.next:
            record.next = len(work.specs)
            record.open.update(enumerate(work.specs))
            for index, spec in enumerate(work.specs):
                self._truth.called(self.name, record, index, spec, spec.head())

    def _resolve(self, action: orders.Resolve) -> None:
        if action.job not in self._brought:
            super()._resolve(action)
            return
        for index, status, size in zip(action.indices, action.statuses, action.head_sizes, strict=True):
            if (status, size) != (Status.OK, 0):
                raise Violation(f"{self.name}: task {index} is stored as {Status(status).name}, {size} bytes")
            if self.records[action.job].open.pop(index, None) is None:
                raise Violation(f"{self.name}: task {index} is stored twice")


class DetachedStar(SimStar):
    """A star whose clients leave, and whose manager does not."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.works: list[StoredWork] = []
        self._faults: type[Faults] = _GentleFaults
        self._settle_seconds = SETTLE_SECONDS
        self._serials = count(1)
        self._names = count(1)

    def live(self) -> int:
        """Live through the seed; returns how many tasks were stored and fetched. Raises Violation."""
        world, rng = self.world, self.world.rng
        self.start_manager()
        for options in self._options:
            world.later(world.skewed(0.001, 2.0), self._start_worker, options)
        for _ in range(rng.randint(1, 3)):
            world.later(world.skewed(0.001, self._fault_seconds / 2), self._bring)
        for _ in range(rng.randint(0, 3)):
            world.later(world.skewed(0.5, self._fault_seconds), self._look_in)
        self._faults(self, self._fault_seconds)
        world.run(self._fault_seconds)
        self._make_well()
        world.run(world.now + LIVENESS_SECONDS, self._all_brought)
        fetched = self._fetch_all()
        world.run(world.now + self._settle_seconds)
        self._calm = True
        assert self.manager is not None
        if self.manager.core._store.keepers:
            raise Violation(f"stored jobs are left: {list(self.manager.core._store.keepers.values())}")
        require_drained(self.manager.core, self._limits, self._buffers())
        return fetched

    def _buffers(self) -> int:
        assert self.manager is not None
        return len(self.manager.tokens)

    # -- who comes -------------------------------------------------------------------------------------------

    def _owner(self) -> Owner:
        world, name = self.world, f"owner{next(self._names)}"
        credit = int(world.skewed(1000, 200_000)) if self._tight else 256 << 20
        window = int(world.skewed(1000, 200_000)) if self._tight else 1 << 20
        owner = Owner(
            *(world, self.network, self.truth, name),
            result_bytes=credit,
            first_window_bytes=window,
            jobs_idle_max=world.rng.choice((1, 256)),
        )
        self.clients.append(owner)
        return owner

    def _bring(self) -> None:
        """An owner detaches a job and, once it is accepted, goes: mostly for ever. Some die before."""
        owner, work = self._owner(), self._work_of_somebody()
        self.works.append(work)
        owner.detach(work)
        if self.world.chance(0.2):
            self.world.later(self.world.skewed(0.01, 3.0), owner.die)
        self._see_off(owner, work)

    def _see_off(self, owner: Owner, work: StoredWork) -> None:
        if not (work.accepted or work.refused) and owner.alive:
            self.world.later(0.05, self._see_off, owner, work)
        elif owner.alive:
            owner.die() if self.world.chance(0.5) else owner.shutdown()

    def _look_in(self) -> None:
        """Somebody reads what is there, and may die over it."""
        accepted = [work for work in self.works if work.accepted]
        if not accepted:
            return
        owner = self._owner()
        owner.read(self.world.rng.choice(accepted))
        self.world.later(self.world.skewed(0.05, 20.0), owner.die)

    def _all_brought(self) -> bool:
        """Every job is accepted, or its owner died before that."""
        return all(not owner.alive or not owner._brought or owner.finished for owner in self.clients)

    def _fetch_all(self) -> int:
        """Another session fetches everything that was accepted, and forgets it."""
        world = self.world
        world.run(world.now + self._settle_seconds)  # what was never accepted is gone with its owner's session
        accepted, last = self._accepted(), self._owner()
        for work in accepted:
            last.read(work)
        world.run(world.now + LIVENESS_SECONDS, lambda: len(last._read) == len(accepted) and not self._owed(last))
        if missing := self._owed(last):
            raise Violation(f"{last.name} is not told of {missing[:5]}")
        tasks = sum(len(work.specs) for work in accepted)
        for work in accepted:
            last.forget(work)
        world.run(world.now + LIVENESS_SECONDS, lambda: len(last.listed) == len(accepted))
        for client in self.clients:
            if client.alive and not client.finished:
                client.shutdown()
        return tasks

    def _accepted(self) -> list[StoredWork]:
        """What the manager keeps: all that was accepted, whether or not its owner lived to hear of it."""
        assert self.manager is not None
        kept = {name: job for keeper in self.manager.core._store.keepers.values() for name, job in keeper.names.items()}
        if halves := [name for name, job in kept.items() if not job.whole]:
            raise Violation(f"half a job is left of {halves}")
        if lost := [work.name for work in self.works if work.accepted and work.name not in kept]:
            raise Violation(f"{lost} were accepted, and are lost")
        return [work for work in self.works if work.name in kept]

    def _owed(self, last: Owner) -> list[tuple[str, int]]:
        unbegun = [(work.name, -1) for work, record in last._read.values() if not record.next]
        return unbegun + [(work.name, index) for work, record in last._read.values() for index in record.open]

    def _work_of_somebody(self) -> StoredWork:
        world = self.world
        name = f"scan-{len(self.works)}"
        record = Calls(FunctionKind.SHIPPED, name, blob_bytes=int(world.skewed(50, 200_000)), python="3.12")
        streamed, pace = world.chance(0.5), world.skewed(20e-6, 0.3)
        tasks = int(world.skewed(1, 8 if streamed else TASKS_MAX))
        return StoredWork(name, record, [self._spec(pace, streamed) for _ in range(tasks)])

    def _spec(self, pace: float, streamed: bool) -> Spec:
        world, rng = self.world, self.world.rng
        argument = int(world.skewed(1000, self._body_bytes)) if streamed and world.chance(0.7) else 0
        answer = int(world.skewed(1000, self._body_bytes)) if streamed and world.chance(0.6) else 0
        micros = max(1, int(pace * (0.5 + rng.random()) * 1e6))
        kind = Kind.RAISE if world.chance(0.05) else Kind.ANSWER
        shortest = ANSWER_HEAD_BYTES_MIN if answer else 1
        sizes = (16, 0) if kind is Kind.RAISE else (max(int(world.skewed(1, 2000)), shortest), answer)
        return Spec(next(self._serials), kind, micros, argument, rng.randrange(BASES), *sizes)


class JournaledDetachedStar(DetachedStar):
    """The same, whose manager has a journal, and is killed again and again."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.disk = Disk()
        self._faults = _DeadlyFaults
        self._settle_seconds += self._limits.session_grace_seconds  # the next manager waits once more for who is gone

    def start_manager(self) -> None:
        """Start a manager where there is none; it knows what the disk knows."""
        if self.manager is None or not self.manager.alive:
            self.manager = JournaledManager(self.world, self.network, self.truth, self.disk, self._limits)

    def live(self) -> int:
        """Live through the seed; in the end there is no file left."""
        fetched = super().live()
        assert self.manager is not None
        functions = {blob.body for blob in self.manager.core._blobs._blobs.values()}  # kept in case they are needed
        if self.disk.files.keys() - functions:
            raise Violation(f"files are left: {sorted(self.disk.files)}")
        return fetched

    def _buffers(self) -> int:
        assert isinstance(self.manager, JournaledManager)
        return len(self.manager.tokens) + len(self.manager.files)


class _GentleFaults(Faults):
    """The faults of `faults.py` that leave the manager alive."""

    def _kill_manager(self) -> None:
        self._cut()

    def _drain_manager(self) -> None:
        self._cut()

    def _client_goes(self, looks: int = 0) -> None:
        self._cut()


class _DeadlyFaults(_GentleFaults):
    """With those of a manager that has a journal."""

    def _kill_manager(self) -> None:
        Faults._kill_manager(self)

    def _drain_manager(self) -> None:
        Faults._kill_manager(self)

    def _client_goes(self, looks: int = 0) -> None:
        """F10: the disk is full for a while."""
        star = self._star
        assert isinstance(star, JournaledDetachedStar)
        self._world.fault("fail the disk", "disk")
        star.disk.failing_until = self._world.now + self._world.skewed(0.2, 6.0)
