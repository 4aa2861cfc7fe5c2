"""The journal's vocabulary: what a manager has to know after it died, one record a fact. Pure.

A record says what *is* from now on, never what to do: whoever reads them in order (`recovery.py`) needs no clock and
no rules. How they become bytes is `journal.py`'s table; `docs/JOURNAL.md` tells the same.

    a session    ClientKnown … ClientOver          WorkerKnown, JobsHeld … WorkerOver
    a job        JobKnown, BlobKnown … JobForgotten
    its tasks    Accepted ─▶ Leased ─▶ Ended ─▶ Acknowledged          the answer was here: it is in `Ended`
                      ▲         │└────────────▶ Delivered             its body was at a worker until the client had it
                      └ Requeued, Troubled
    a stored job StoredKnown ─▶ Accepted, ArgumentKept, FunctionKept ─▶ StoredWhole ─▶ as above, but
                 Answered for an answer with a body ─▶ Fetched ─▶ Gone; Touched; JobForgotten is its end

Tasks are named by the manager's number of their job and their index, sessions by their 16 bytes, bodies that the
manager keeps by the number of their file (`bodies.py`), which is whole before a record names it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starcore.messages import Buffer, Column, FunctionKind

LEASE_BITS = 32
"""Of a lease's number, so many count; what stands before them is its generation, at first one a manager."""


def _u32() -> Column:
    return array("I")


def _u64() -> Column:
    return array("Q")


@dataclass(slots=True)
class Epoch:
    """The first record of a segment: the journal's number, the last one that leases began with, and the last job's."""

    epoch: int
    generation: int
    jobs: int


@dataclass(slots=True)
class ClientKnown:
    """A client's session; its outcomes are numbered from `sequence` on."""

    session: bytes
    identity: str
    certificate: str
    name: str
    address: str
    result_bytes: int
    sequence: int


@dataclass(slots=True)
class ClientOver:
    """A client's session is over, and its jobs with it."""

    session: bytes


@dataclass(slots=True)
class WorkerKnown:
    """A worker's session, and what it can run."""

    session: bytes
    identity: str
    certificate: str
    name: str
    host: str
    address: str
    python: str
    slots: int
    arena_bytes: int
    shipped: bool
    functions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WorkerOver:
    """A worker's session is over: what it held waits again."""

    session: bytes


@dataclass(slots=True)
class JobsHeld:
    """A worker knows these jobs."""

    session: bytes
    jobs: Column = field(default_factory=_u32)


@dataclass(slots=True)
class JobKnown:
    """A job, by the manager's number and by its client's."""

    job: int
    session: bytes
    number: int
    kind: FunctionKind
    digest: bytes
    function: str
    python: str
    retries: int
    timeout_seconds: float
    priority: int
    shares: Buffer = b""


@dataclass(slots=True)
class JobForgotten:
    """No task of this job will come any more; it goes with its last unread outcome."""

    job: int


@dataclass(slots=True)
class BlobKnown:
    """A function that fits into a head. A larger one is asked of its client again."""

    digest: bytes
    head: Buffer = b""


@dataclass(slots=True)
class Accepted:
    """Tasks `first`, `first + 1`, ... of a job."""

    job: int
    first: int
    head_sizes: Column = field(default_factory=_u32)
    body_sizes: Column = field(default_factory=_u64)
    heads: Buffer = b""


@dataclass(slots=True)
class Leased:
    """A worker has these tasks, under leases of consecutive numbers."""

    session: bytes
    lease: int
    job: int
    first: int
    count: int
    attempt: int


@dataclass(slots=True)
class Requeued:
    """These tasks wait again, for this attempt."""

    job: int
    first: int
    count: int
    attempt: int


@dataclass(slots=True)
class Troubled:
    """What happened to a task that did not simply run."""

    job: int
    index: int
    losses: int
    raised: int
    settled: bool
    deaths: str


@dataclass(slots=True)
class Ended:
    """An outcome that is here whole, kept until it is acknowledged; `settled`: no worker had a part in it."""

    job: int
    sequence: int
    attempt: int
    settled: bool
    indices: Column = field(default_factory=_u32)
    statuses: Buffer = b""
    head_sizes: Column = field(default_factory=_u32)
    heads: Buffer = b""


@dataclass(slots=True)
class Acknowledged:
    """A client has these outcomes."""

    session: bytes
    sequences: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Delivered:
    """A client has the answers of these tasks: nothing of them is needed any more."""

    job: int
    indices: Column = field(default_factory=_u32)
    statuses: Buffer = b""


@dataclass(slots=True)
class StoredKnown:
    """A stored job, on its way here or here: whose it is, and what it was announced with; times since 1970."""

    job: int
    source: int
    """The client's job that brings it."""
    identity: str
    owner: str
    address: str
    name: str
    tasks: int
    size: int
    keep_seconds: float
    begun_at: float
    changed_at: float
    kind: FunctionKind
    digest: bytes
    function: str
    python: str
    retries: int
    timeout_seconds: float
    priority: int
    note: Buffer = b""


@dataclass(slots=True)
class Renamed:
    """The stored jobs of one identity, as an earlier version knew it, are another's."""

    former: str
    identity: str


@dataclass(slots=True)
class StoredWhole:
    """All of a stored job is here: it is accepted, and runs."""

    job: int


@dataclass(slots=True)
class Touched:
    """Something happened to a stored job at this time (s since 1970): it is kept for so long from then on."""

    job: int
    changed_at: float


@dataclass(slots=True)
class ArgumentKept:
    """An argument of a stored job is here, in a file."""

    job: int
    index: int
    body: int
    size: int


@dataclass(slots=True)
class FunctionKept:
    """A function that a stored job needs and that is larger than a head is here, in a file."""

    digest: bytes
    body: int
    size: int


@dataclass(slots=True)
class Answered:
    """As `Ended`, of a stored job's task whose answer has a body: it is here, in a file."""

    job: int
    sequence: int
    attempt: int
    index: int
    status: int
    body: int
    size: int
    head: Buffer = b""


@dataclass(slots=True)
class Fetched:
    """A reader that takes what it reads has these outcomes of a stored job: they go when room is needed."""

    job: int
    sequences: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Gone:
    """Outcomes of a stored job that were fetched, and let go."""

    job: int
    sequence: int
    """Which outcome that was; 0 where it went before this segment began."""
    indices: Column = field(default_factory=_u32)
    statuses: Buffer = b""


Fact: TypeAlias = Any
"""One of the above."""
