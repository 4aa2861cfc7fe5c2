"""The records of stored jobs, which outlive the client that made them. No decisions, and no messages sent.

A stored job is a `Job` like any other, but its client is a `Keeper`: one an identity, without a link, never
absent. So the scheduler, leases and results need not know of it. What else there is to know of one stands here::

    a client's job ── DETACH ─▶ StoredJob, its tasks and their arguments ── run ──▶ told, bodies ──▶ Reading (ATTACH)
     (the source)                └── names ── Keeper(identity)                                        a client's job
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starcore.manager.flows import Flow
from starcore.manager.state import TASK_OVERHEAD_BYTES, Client, Delivery, Job, Run
from starcore.messages import Buffer, Column
from starcore.texts import NAME_CHARS_MAX, plain

SWEEP_SECONDS_MAX = 60.0
UNBOUNDED_BYTES = 1 << 62
"""A keeper's unread answers are counted by the store, with the arguments; not by the credit of a client."""


FULL = (
    "the manager keeps {} bytes of detached jobs (--stored-memory, --spool), and these are full; it goes on when a job "
    "is forgotten, or fetched by result(), which lets go of what has come"
)
"""Why tasks of a job that was accepted wait."""


@dataclass(slots=True)
class StoreLimits:
    """Every limit of stored jobs, with its unit last."""

    memory_bytes: int = 1 << 30
    """Arguments and answers that are kept in memory; what is beyond goes to the spool."""
    spool_bytes: int = 0
    """Arguments and answers that may lie in files; 0: there is no spool."""
    keep_seconds: float = 7 * 86400.0
    """How long a job is kept at most after its last change: a task that ended, somebody who asked for its answers."""
    identity_jobs_max: int = 256
    """Stored jobs of one identity."""
    name_chars_max: int = 100

    @property
    def sweep_seconds(self) -> float:
        """How often it is looked for jobs that were kept for too long."""
        return min(SWEEP_SECONDS_MAX, self.keep_seconds / 10)

    @property
    def bytes(self) -> int:
        """What all stored jobs may come to."""
        return self.memory_bytes + self.spool_bytes


@dataclass(slots=True, eq=False)
class Keeper(Client):
    """The stored jobs of one identity, as a client that has no link and never leaves."""

    names: dict[str, StoredJob] = field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        """What its jobs take of the store."""
        return sum(stored.bytes_kept for stored in self.names.values())

    @property
    def grown(self) -> bool:
        """Whether its jobs take more than they were let in with: their answers are larger than their arguments."""
        return self.stored_bytes > sum(stored.size for stored in self.names.values() if stored.admitted)


@dataclass(slots=True, eq=False)
class StoredJob(Job):
    """A job whose tasks, arguments and answers are the manager's."""

    name: str = ""
    source_number: int = 0
    """The manager's number of the job that brings it, or brought it."""
    note: Buffer = b""
    """Its client's own, opaque: how the answers are put together."""
    tasks: int = 0
    size: int = 0
    """Bytes that it was announced with: heads, bodies, and TASK_OVERHEAD_BYTES a task."""
    keep_seconds: float = 0.0
    source: Job | None = None
    """The job of the client that brings it; it may send again what it has no word of."""
    admitted: bool = False
    """The store has room for it; until then nothing is sent."""
    taken: int = 0
    """Tasks that are here, perhaps without all bytes of their arguments."""
    taken_bytes: int = 0
    """What they come to, as `size` counts."""
    arrived: int = 0
    """Tasks whose bytes are here."""
    accepted_at: int = 0
    """The number of the fact that it is accepted; it may be told of when that is durable."""
    touched_at: float = 0.0
    """What the journal has of `changed_at`."""
    held_up: bool = False
    """It was said that its tasks wait for room."""
    whole: bool = False
    """All tasks are here, and the function: the job is accepted, and only now it runs."""
    over: bool = False
    begun_at: float = 0.0
    changed_at: float = 0.0
    argument_bytes: int = 0
    """What is kept, or kept free, for tasks that have no outcome yet."""
    answer_bytes: int = 0
    told: list[Delivery] = field(default_factory=list)
    """The outcomes that are here whole, in their order; their bodies stand in `bodies`."""
    bodies: dict[Delivery, Flow] = field(default_factory=dict)
    readings: dict[Job, Reading] = field(default_factory=dict)
    fetched: dict[Delivery, None] = field(default_factory=dict)
    """Outcomes that a taking reader has: they go when room is needed."""
    gone: Column = field(default_factory=lambda: array("I"))
    """Tasks whose outcomes went so."""
    gone_statuses: bytearray = field(default_factory=bytearray)

    @property
    def ready(self) -> bool:
        """Whether its tasks may run."""
        return self.whole

    @property
    def bytes_kept(self) -> int:
        """What it takes of the store."""
        return self.argument_bytes + self.answer_bytes

    @property
    def ended(self) -> int:
        """How many tasks have an outcome."""
        return self.done + self.failed + self.cancelled

    @property
    def waiting_count(self) -> int:
        """How many tasks of an accepted job no worker has."""
        return self.tasks - self.leased - self.ended if self.whole else 0


@dataclass(slots=True, eq=False)
class Reading:
    """A client's job that tells the outcomes of a stored one."""

    job: Job
    stored: StoredJob
    take: bool
    begun: bool = False
    """It was told what is gone."""
    noticed: bool = False
    """It was told why nothing comes."""
    cursor: int = 0
    """Of the outcomes told, how many it was sent."""


@dataclass(slots=True, eq=False)
class Argument:
    """What a flow from a detaching client brings."""

    stored: StoredJob
    run: Run
    position: int


def weight(run: Run, start: int, stop: int) -> int:
    """Return what tasks of a run take of the store until they have an outcome."""
    bodies = sum(run.body_sizes[start:stop]) if run.body_sizes else 0
    return sum(run.head_sizes[start:stop]) + TASK_OVERHEAD_BYTES * (stop - start) + bodies


def answer_weight(delivery: Delivery, body: Flow | None) -> int:
    """Return what an outcome takes of the store."""
    outcome = delivery.outcome
    size = body.size if body is not None else 0
    return len(outcome.heads) + TASK_OVERHEAD_BYTES * len(outcome.indices) + size


def row(stored: StoredJob, now: float, stopped: bool = False) -> dict[str, Any]:
    """Describe a stored job for those who ask."""
    return {
        "name": stored.name,
        "number": stored.number,
        "function": plain(stored.message.function, NAME_CHARS_MAX),
        "tasks": stored.tasks,
        "accepted": stored.whole,
        "arrived": stored.arrived,
        "queued": stored.tasks - stored.leased - stored.ended,
        "running": stored.leased,
        "done": stored.done,
        "waits_for_room": bool(stopped and stored.waiting_count),
        "failed": stored.failed,
        "cancelled": stored.cancelled,
        "fetched": len(stored.fetched) + len(stored.gone),
        "bytes": stored.bytes_kept,
        "age_seconds": round(now - stored.begun_at, 3),
        "expires_in_seconds": round(stored.changed_at + stored.keep_seconds - now, 3),
    }


def lenders(run: Run) -> Iterator[Flow]:
    """Yield the flows that keep arguments which are lent to workers."""
    return (flow.lender for flow in run.flows.values() if flow.lender is not None)


def coming(keepers: Iterable[Keeper]) -> int:
    """Count the answers whose bodies are on their way from workers, or to the disk."""
    return sum(delivery.flow is not None for keeper in keepers for delivery in keeper.unread.values())


def share(stored: StoredJob) -> int:
    """Return what the jobs of its owner take of the store."""
    keeper = stored.client
    assert isinstance(keeper, Keeper)
    return keeper.stored_bytes


def check(stored: StoredJob) -> None:
    """Assert the invariants of one."""
    assert not stored.over and stored.client.jobs[stored.client_number] is stored
    assert stored.arrived <= stored.taken <= stored.tasks
    assert not stored.whole or (stored.arrived == stored.tasks and not stored.waiting)
    assert set(stored.bodies) <= set(stored.told)
    open_bytes = sum(weight(run, at, at + 1) for run in stored.runs for at in _untold(stored, run.first))
    assert not stored.whole or stored.argument_bytes == open_bytes, stored.name
    kept = sum(answer_weight(delivery, stored.bodies.get(delivery)) for delivery in stored.told)
    assert stored.answer_bytes == kept, stored.name


def _untold(stored: StoredJob, first: int) -> Iterator[int]:
    """Yield the positions of a run whose outcomes are not told yet."""
    run = stored.find(first)
    assert run is not None
    told = {index for each in stored.told for index in each.outcome.indices} | set(stored.gone)
    return (at for at in range(run.count) if first + at not in told)
