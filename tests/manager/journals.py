"""Builders for tests of the journal: a star that keeps one, and what a journal comes to, fit to be compared.

::

    star = JournaledStar()                   each turn's facts are durable at once
    star = JournaledStar(syncing=False)      only when the test says `star.sync()`
    later = star.killed()                    what a manager makes of the facts that were durable
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starcore.events import Event, Spill, Spooled
from starcore.manager import journal
from starcore.manager.journaled import Durable, Failed, JournaledCore, Record, Renew
from starcore.manager.outbox import Synced
from starcore.manager.recovery import KeptStored, Recovery
from starcore.manager.state import State
from starcore.manager.stored import StoreLimits
from tests.manager.star import EPOCH, Star


class JournaledStar(Star):
    """A star whose core has a journal, and the disk under it."""

    def __init__(
        self,
        recovery: Recovery | None = None,
        *,
        now: float = 0.0,
        syncing: bool = True,
        store: StoreLimits | None = None,
        files: dict[int, int] | None = None,
        wall_seconds: float = 0.0,
        **limits: Any,
    ) -> None:
        super().__init__(now, **limits)
        recovery = recovery or Recovery()
        self.files: dict[int, int] = files or {}
        """The size of each file that is whole and synced, by its number."""
        self._writing: dict[int, int] = {}
        named = recovery.files()
        lost = {number: "No such file" for number in named if self.files.get(number) != named[number]}
        self.ended = recovery.settle(lost)
        self.files = {number: size for number, size in named.items() if number not in lost}
        bodies = {number: Spooled(number, 0, size) for number, size in self.files.items()}
        self.core: JournaledCore = JournaledCore(
            recovery, EPOCH, now, limits=self.limits, store=store, bodies=bodies, wall_seconds=wall_seconds
        )
        self._store = store
        self.syncing = syncing
        self.frames: list[bytes] = []
        """All records of the segment."""
        self.upto = 0
        """The number of the last one."""
        self.durable = 0
        """How many of them are on disk."""
        self.core.check()
        self.feed(Renew())

    def feed(self, event: Event) -> None:
        """Turn the core once, and write down what it wants to be kept."""
        super().feed(event)
        for record in [action for action in self.actions if isinstance(action, Record)]:
            self.actions.remove(record)
            if record.anew:
                self.frames.clear()
                self.durable = 0
            self.frames += [journal.encode(fact) for fact in record.facts]
            self.upto = record.upto
            if self.syncing:
                self.sync()
        for drop in [token for token in self.dropped if type(token) is Spooled]:
            self.files.pop(drop.body, None)
        whole: list[int] = []
        for spill in [action for action in self.actions if isinstance(action, Spill)]:
            self.actions.remove(spill)
            number, size = spill.spooled.body, spill.spooled.size
            self._writing[number] = self._writing.get(number, 0) + spill.spooled.length
            if self._writing[number] == size:
                self.files[number] = size
                whole.append(number)
        if whole and self.writing:
            self.feed(Synced(whole))

    writing = True
    """Whether files are synced as soon as they are whole."""

    def sync(self) -> None:
        """Bring all records to the disk."""
        self.durable = len(self.frames)
        self.feed(Durable(self.upto))

    def fail(self, reason: str = "No space left on device") -> None:
        """Refuse a write."""
        self.feed(Failed(reason))

    def recovered(self, records: int | None = None) -> Recovery:
        """Read what is on disk, or the first so many records."""
        return recovered(self.frames[: self.durable if records is None else records])

    def killed(self, records: int | None = None, **later: Any) -> JournaledStar:
        """End without a word; the next manager finds what is on disk."""
        star = JournaledStar(self.recovered(records), now=self.now, files=dict(self.files), store=self._store, **later)
        star._names = self._names  # who comes new is nobody who was here before
        return star


def recovered(frames: list[bytes]) -> Recovery:
    """Read records."""
    recovery = Recovery()
    for frame in frames:
        recovery.apply(journal.decode(frame))
    return recovery


def comes_to(recovery: Recovery) -> dict[str, Any]:
    """Name all that matters of a recovery: two that are equal in this make the same star."""
    return {
        "clients": {session: client.known.name for session, client in recovery.clients.items()},
        "workers": {
            session: (worker.known.slots, sorted(number for number in worker.jobs if number in recovery.jobs))
            for session, worker in recovery.workers.items()
        },
        "jobs": {number: (job.known, job.forgotten) for number, job in recovery.jobs.items()},
        "tasks": {
            (number, run.first + position): _task(run, position, recovery)
            for number, job in recovery.jobs.items()
            for run in job.runs
            for position in range(len(run.states))
            if not run.read[position]
        },
        "unread": {
            (session, sequence): (ended.job, ended.indices, bytes(ended.statuses), bytes(ended.heads), ended.settled)
            for session, client in [*recovery.clients.items(), *recovery.keepers.items()]
            for sequence, ended in client.unread.items()
        },
        "stored": {
            number: (_said(job), job.whole, job.answers, job.fetched, job.gone)
            for number, job in recovery.jobs.items()
            if isinstance(job, KeptStored)
        },
        "files": recovery.files(),
    }


def _said(job: KeptStored) -> Any:
    """What a stored job was announced with; when it changed last is known to a second."""
    return replace(job.stored, changed_at=0.0)


def _task(run: Any, position: int, recovery: Recovery) -> Any:
    if run.states[position] != State.QUEUED:
        return State(run.states[position])
    holder, attempt, lease = run.holders[position], run.attempts[position], run.leases[position]
    if lease and holder not in recovery.workers:
        holder, attempt, lease = None, attempt + 1, 0
    start = sum(run.head_sizes[:position])
    head = bytes(run.heads[start : start + run.head_sizes[position]])
    body = run.body_sizes[position] if run.body_sizes else 0
    trouble = run.troubles.get(position)
    trouble = (trouble.losses, trouble.raised, trouble.settled, trouble.deaths) if trouble is not None else None
    return head, body, attempt, lease, holder, None if trouble == (0, 0, False, "") else trouble
