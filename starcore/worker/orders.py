"""What happens to the worker's core, and what it asks for, beyond what every core shares. Pure.

A *slot* is a number from 0; the process behind it comes and goes. A *batch* is a run given to a slot, numbered
by its slot's count, and its tasks are run in order; so "batch 7, 3 started" says all there is to know about a
slot's progress. A *key* names memory in the arena: a lease (its argument) or a blob's stream number.
"""

from __future__ import annotations

from dataclasses import dataclass

from starcore.events import Dial, Finished, Log, Shaken
from starcore.messages import Buffer, Column, Job
from starcore.worker.runs import Run

__all__ = [
    "Allocate",
    "Allocated",
    "Dial",
    "Drain",
    "Finished",
    "Inspect",
    "Inspected",
    "KillSlot",
    "Lend",
    "Log",
    "Recall",
    "Refused",
    "Release",
    "ReleaseAnswer",
    "RunBatch",
    "Shaken",
    "SlotDied",
    "SlotDone",
    "SlotReady",
    "SlotStopped",
    "StartSlot",
    "Stop",
    "Swollen",
    "TakeBack",
    "Teach",
    "Unteach",
]

# -- events --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SlotReady:
    """The slot's process has loaded what it was told to, and waits."""

    slot: int
    pid: int


@dataclass(slots=True)
class SlotDone:
    """Tasks `first`, `first + 1`, ... of a batch ended; an answer with a body comes alone.

    `in_place`: it lies in its argument. `kept`: the slot still looks at the argument.
    """

    slot: int
    batch: int
    first: int
    statuses: Buffer
    seconds: Column
    head_sizes: Column
    heads: Buffer
    body_bytes: int = 0
    in_place: bool = False
    kept: bool = False


@dataclass(slots=True)
class SlotStopped:
    """A recalled slot says the last word about a batch: only its first `started` tasks were begun."""

    slot: int
    batch: int
    started: int


@dataclass(slots=True)
class SlotDied:
    """The slot's process is gone. `running` says whether the last task started had not ended.

    `peak` is the most memory that it had, `stack` where it was at its end: texts, empty where that is not known.
    `peak_bytes` is the same memory as a number; 0 where no more is known than a bound.
    """

    slot: int
    cause: str
    batch: int = 0
    started: int = 0
    running: bool = False
    peak: str = ""
    stack: str = ""
    peak_bytes: int = 0


@dataclass(slots=True)
class Swollen:
    """The slot has more memory of its own than it may have (bytes)."""

    slot: int
    used: int
    limit: int


@dataclass(slots=True)
class Inspected:
    """What the slot's board says; after a Recall nothing beyond `started` will ever start there."""

    slot: int
    batch: int
    started: int
    running: bool
    since: float
    recalled: int = 0


@dataclass(slots=True)
class Allocated:
    """The memory asked for under this key is there, or (`reason`) there is none."""

    key: int
    reason: str = ""


@dataclass(slots=True)
class Refused:
    """The other end is not our manager, or does not want this worker's certificate."""

    reason: str


@dataclass(slots=True)
class Drain:
    """Take nothing more, finish what runs, leave; said twice with `insist`, it is a Stop."""

    insist: bool = True


@dataclass(slots=True)
class Stop:
    """Give everything back and leave within a moment; said twice, at once."""


# -- actions -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Allocate:
    """Make memory for an incoming body; Allocated follows."""

    key: int
    attempt: int
    size: int


@dataclass(slots=True)
class Release:
    """The memory under this key is free, or, when a slot still looks at it, no longer ours."""

    key: int
    kept: bool = False


@dataclass(slots=True)
class ReleaseAnswer:
    """The answer of this lease is in safe hands."""

    lease: int


@dataclass(slots=True)
class RunBatch:
    """Give a run to a slot."""

    slot: int
    batch: int
    run: Run


@dataclass(slots=True)
class Teach:
    """Tell a slot of a job. `blob` is None where the slot has that digest, or where it lies under `key`."""

    slot: int
    job: Job
    blob: Buffer | None = None
    key: int = 0


@dataclass(slots=True)
class Unteach:
    """A slot may forget a job, or a blob."""

    slot: int
    job: int | None = None
    digest: bytes = b""


@dataclass(slots=True)
class Lend:
    """Let a slot look at a shared value, whose body of `size` bytes lies under `key`."""

    slot: int
    name: bytes
    head: Buffer
    key: int
    size: int


@dataclass(slots=True)
class TakeBack:
    """A slot lets go of a shared value."""

    slot: int
    name: bytes


@dataclass(slots=True)
class Inspect:
    """Read a slot's board; Inspected follows."""

    slot: int


@dataclass(slots=True)
class Recall:
    """Forbid the slot to start anything more of its batches up to this one; Inspected follows."""

    slot: int
    batch: int


@dataclass(slots=True)
class StartSlot:
    """Start a slot's process; SlotReady or SlotDied follows."""

    slot: int


@dataclass(slots=True)
class KillSlot:
    """End a slot's process; SlotDied follows.

    With `stack` it ends as soon as it has written where it is; with `kindly` its task may clean up for a moment.
    """

    slot: int
    reason: str
    stack: bool = False
    kindly: bool = False
