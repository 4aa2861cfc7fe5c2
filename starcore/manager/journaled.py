"""A manager's core with a journal: what it promises waits until the disk has it. Pure.

::

    event ─▶ ManagerCore ─▶ actions ┬────────────────────────────────▶ the driver, at once
                   │                └ what rests on facts ─ held ─────▶ the driver, once all facts before are durable
                   └ facts ─▶ Record ─▶ ledger.py ─ fsync ─▶ Durable ─┘

An ASSIGN waits for the record of the task and of its lease: so whatever a worker runs, the next manager knows of, and
takes its answer. What ends a task waits for the record of its end: an OUTCOME ends it for the client, a CONFIRM lets
the worker drop the answer. So nothing that has finished runs again. (An OUTCOME with a body is not held: its task stays
open until the client has it all, and until that is durable the worker keeps the body.)

When the journal cannot be written, nothing is held: what was accepted before is served from memory, at worst run once
more after a crash; new tasks are refused, with the reason. Once a new segment with all that is so is on disk, it is as
before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starcore.events import Action, Event, Send, Token
from starcore.manager import facts
from starcore.manager.budget import Budget
from starcore.manager.core import STATUS_ROWS_MAX, ManagerCore
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox, SpoolWorks, Synced
from starcore.manager.records import Epoch, Fact
from starcore.manager.recovery import Recovery
from starcore.manager.restoring import Restorer, Shelf
from starcore.manager.stored import StoreLimits
from starcore.messages import Assign, Buffer, Confirm, Forget, Message, Outcome, Retract, Stored

HELD = frozenset({Assign, Outcome, Confirm, Retract, Forget})
"""What gives a task out or says that it is over; the last two only keep their place behind these."""


@dataclass(slots=True)
class Record:
    """Action: write these facts down; `upto` comes back in Durable. `anew`: they are all that is so, for a segment."""

    facts: list[Fact]
    upto: int
    anew: bool = False


@dataclass(slots=True)
class Durable:
    """Event: all facts up to this number are on disk, in so many bytes; the last fsync took so long."""

    upto: int
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Failed:
    """Event: the journal cannot be written."""

    reason: str


@dataclass(slots=True)
class Renew:
    """Event: the ledger wants all that is so, to begin a segment with it."""


class JournaledOutbox(Outbox):
    """Collects facts beside actions, and holds back what rests on them."""

    journaled = True

    def __init__(self) -> None:
        super().__init__()
        self._facts: list[Fact] = []
        self._recording = True
        self._held: deque[tuple[int, Send]] = deque()

    @property
    def held(self) -> int:
        """Messages that wait for the disk."""
        return len(self._held)

    def take(self) -> list[Action]:
        """Hand over what was asked for; facts first, so that a file goes when it is written that it is not needed."""
        actions = super().take()
        if self._facts:
            actions.insert(0, Record(self._facts, self.made))
            self._facts = []
        return actions

    def record(self, fact: Fact) -> None:
        """Have a fact outlive this process; while that cannot be, the next segment will tell it."""
        if self._recording:
            self._facts.append(fact)
            self.made += 1

    def anew(self, everything: list[Fact]) -> None:
        """Have a segment begin with all that is so; what was told in this turn is part of that."""
        self._facts.clear()
        self._recording = True
        self.made += len(everything)
        self._actions.insert(0, Record(everything, self.made, anew=True))

    def send(self, link: int, message: Any, *, hurry: bool = True) -> None:
        """Queue a message, or hold it until what it rests on is durable."""
        kind = type(message)
        waits = self.durable < self.made and kind in HELD and not self.failure
        if waits and not (kind is Outcome and message.body_sizes):
            self._held.append((self.made, Send(link, message, hurry)))
        else:
            super().send(link, message, hurry=hurry)

    def hold(self, link: int, message: Any) -> None:
        """Queue a message, or hold it until all that was recorded is durable."""
        if self.durable < self.made and not self.failure:
            self._held.append((self.made, Send(link, message)))
        else:
            super().send(link, message)

    def revoke(self, link: int, job: int) -> None:
        """Take back what is held of this job: what it promises cannot be kept."""
        self._held = deque(each for each in self._held if each[1].link != link or not _tells(each[1].message, job))

    def fail(self, reason: str) -> None:
        """What was told may never be on disk: promise nothing until a segment tells all of it anew."""
        self.failure, self._recording = reason, False
        self._facts.clear()
        self.settle(self.made)

    def settle(self, upto: int) -> None:
        """All facts up to here are durable (or will not be): what waited for them leaves, if its link still stands."""
        self.durable = max(self.durable, upto)
        while self._held and self._held[0][0] <= upto:
            _, held = self._held.popleft()
            if held.link in self.spoken_at:
                super().send(held.link, held.message, hurry=held.hurry)


class JournaledCore(ManagerCore):
    """The star's middle, with a journal.

    Parameters
    ----------
    recovery : Recovery
        What an earlier manager left.
    number : int
        Names this journal, where no earlier manager did (30 bits); it is what peers know the manager by.
    step : int
        From 1 on: how far this manager's leases begin behind those of the one before.
    now : float
        The time of `handle`.
    bodies : mapping of int to token, optional
        What stands for the files that the recovery names, by their numbers; those that are lost it was told of.
    wall_seconds : float, optional
        What `now` lacks to count from 1970.
    limits, read, budget, store
        As for ManagerCore.
    """

    _outbox: JournaledOutbox

    def __init__(
        self,
        recovery: Recovery,
        number: int,
        now: float,
        *,
        step: int = 1,
        bodies: Mapping[int, Token] | None = None,
        wall_seconds: float = 0.0,
        limits: Limits | None = None,
        read: Callable[[Token], Buffer] = memoryview,
        budget: Budget | None = None,
        store: StoreLimits | None = None,
    ) -> None:
        generation = recovery.generation + step if recovery.epoch else number
        super().__init__(generation, limits, read, budget, JournaledOutbox(), store=store)
        self._epoch = recovery.epoch or number
        self._last = Durable(0)
        self._outbox.now, self._outbox.wall_seconds = now, wall_seconds
        Restorer(
            self._sessions,
            self._blobs,
            self._scheduler,
            self._deliveries,
            self._leases,
            self._clientele,
            self._store,
            Shelf(self._relay, bodies or {}),
        ).restore(recovery, now, wall_seconds)
        self._store.earlier_jobs = self._clientele.jobs
        for client in self._sessions.clients.values():
            for job in client.jobs.values():
                self._notices.watch(job, now)
        self._outbox.take()  # nobody is here to be told, and all of it is on disk
        self._outbox.settle(self._outbox.made)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        outbox, kind = self._outbox, type(event)
        if kind is Durable:
            outbox.now = now
            self._durable(event)
        elif kind is Failed:
            outbox.now = now
            self._failed(event)
        elif kind is Renew:
            outbox.now = now
            outbox.anew(self.everything())
        elif kind is Synced:
            outbox.now = now
            self._store.synced(event.bodies)
            self._settle(now)
        elif kind is SpoolWorks:
            outbox.now = now
            self._store.spool_works()
            self._settle(now)
        else:
            return super().handle(event, now)
        return outbox.take()

    def everything(self) -> list[Fact]:
        """All that a segment begins with."""
        workers, wall_seconds = self._sessions.workers.values(), self._outbox.wall_seconds
        return [
            Epoch(self._epoch, self._leases.generation, self._clientele.jobs),
            *self._blobs.facts(),
            *facts.everything(self._everyone(), workers, self._scheduler.spans(), wall_seconds),
        ]

    def status(self, now: float, rows_max: int = STATUS_ROWS_MAX) -> dict[str, Any]:
        """Describe the star, for `starcore status`."""
        journal = {
            "bytes": self._last.bytes,
            "records": self._outbox.made,
            "fsync_ms": round(self._last.seconds * 1e3, 3),
            "waiting": self._outbox.held,
            "failure": self._outbox.failure,
        }
        return {**super().status(now, rows_max), "journal": journal}

    # -- private ---------------------------------------------------------------------------------------------

    def _durable(self, event: Durable) -> None:
        self._last = event
        if self._outbox.failure:
            self._outbox.failure = ""
            self._outbox.log("warning", "the journal is written again: new tasks are taken")
        self._outbox.settle(event.upto)

    def _failed(self, event: Failed) -> None:
        text = f"the manager's journal cannot be written: {event.reason}; new tasks are refused until it can"
        if not self._outbox.failure:
            self._outbox.log("error", text)
        self._store.journal_failed(text)
        self._outbox.fail(text)


def _tells(message: Message, job: int) -> bool:
    """Whether this is told of a client's job of that number."""
    return isinstance(message, (Stored, Outcome)) and message.job == job
