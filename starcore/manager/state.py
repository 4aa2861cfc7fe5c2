"""The manager's records: who is here, what was submitted, what is leased. No decisions, and no messages sent.

Batches are records. What a client submits in one message stays one `Run` in columns until its last outcome is
acknowledged; what waits is a `Span` (a piece of a run), what a worker holds is a `Leased` (a piece of a run with
consecutive lease numbers). A byte a task says how it stands, so a thousand tasks step in one slice assignment::

    Submit ─▶ Run ── Span ──take(k)──▶ Leased ── RESULT ──▶ Delivery ── ACK ─▶ gone
               │      ▲                  │
             states   └── lost, retried ─┘

A task gets a record of its own (`Task`) only when something happened to it: an exception that is retried, a slot
or worker that died under it.

How a task stands, and what may happen to it::

               LEASE           FINISH
    QUEUED ───────────▶ LEASED ──────▶ DONE
      │ ▲    REQUEUE      │ │   FAIL
      │ └─────────────────┘ └────────▶ FAILED      a task that no worker can take fails unleased
      └──── CANCEL ────▶ CANCELLED ◀── CANCEL, also of a leased one; its late result is dropped
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import TypeAlias

from starcore.errors import Status
from starcore.events import Spooled
from starcore.manager.flows import FIRST_ATTEMPT, Flow
from starcore.messages import Buffer, Column, FunctionKind, Outcome
from starcore.messages import Job as JobMessage

TASK_OVERHEAD_BYTES = 64
"""What a task costs in every credit beyond its head."""
JOB_OVERHEAD_BYTES = 1 << 10
"""What a job costs beyond its texts."""
BLOB_OVERHEAD_BYTES = 1 << 10
"""What a blob costs beyond its bytes."""
RUN_TASKS_MAX = 1024
RUN_BYTES_MAX = 16 << 10
"""As long as tasks wait, those that come in small messages join the run before them, up to so many tasks and bytes."""
SUSPECT_LOSSES = 2
"""A task under which so many slots or workers died runs alone, so that nobody is blamed with it."""

Capability: TypeAlias = tuple[FunctionKind, str]
"""What a job needs and a worker has: (SHIPPED, "3.11") or (REGISTERED, "package.module:name")."""


class State(IntEnum):
    """How a task stands; one byte a task."""

    QUEUED = 0
    LEASED = 1
    DONE = 2
    FAILED = 3
    CANCELLED = 4


class Step(IntEnum):
    """What happens to a task."""

    LEASE = 0
    REQUEUE = 1
    FINISH = 2
    FAIL = 3
    CANCEL = 4


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.QUEUED, Step.LEASE): State.LEASED,
    (State.QUEUED, Step.FAIL): State.FAILED,
    (State.QUEUED, Step.CANCEL): State.CANCELLED,
    (State.LEASED, Step.REQUEUE): State.QUEUED,
    (State.LEASED, Step.FINISH): State.DONE,
    (State.LEASED, Step.FAIL): State.FAILED,
    (State.LEASED, Step.CANCEL): State.CANCELLED,
}
_AFTER = [[TRANSITIONS.get((state, step)) for state in State] for step in Step]
"""The same by number: every task takes this look twice."""


class IllegalStepError(Exception):
    """A step that no task in this state can take: a fault of our own."""


class Mark(IntEnum):
    """What a worker is known to do with one lease; one byte a lease."""

    HELD = 0
    STARTED = 1
    ASKED = 2
    """We asked for it back."""
    ANSWERING = 3
    """It ended; the worker holds the answer's body until the client has it."""
    ENDED = 4


_ENDS = bytes(State.DONE if status == Status.OK else State.FAILED for status in range(256))
"""A RESULT's statuses, translated into states."""


@dataclass(slots=True)
class Task:
    """What happened to one task that did not simply run."""

    losses: int = 0
    raised: int = 0
    deaths: list[str] = field(default_factory=list)
    settled: bool = False
    """Its client was told an outcome once (and has taken the credit back), though that answer was lost."""


@dataclass(slots=True, eq=False)
class Run:
    """Tasks `first` .. `first + count - 1` of a job, as they were submitted."""

    job: Job
    order: int
    first: int
    head_sizes: Column
    body_sizes: Column
    heads: memoryview
    states: bytearray
    unfinished: int
    unread: int
    tasks: dict[int, Task] = field(default_factory=dict)
    flows: dict[int, Flow] = field(default_factory=dict)
    """Arguments with a body."""
    answers: dict[int, Delivery] = field(default_factory=dict)
    """Answers with a body, until they are acknowledged."""
    tail: Span | None = None
    """The last tasks, as they were queued first."""
    _starts: Column | None = None

    @property
    def count(self) -> int:
        """How many tasks."""
        return len(self.states)

    @property
    def stop(self) -> int:
        """The index after the last one's."""
        return self.first + len(self.states)

    def step(self, start: int, stop: int, step: Step) -> None:
        """Take one step with the tasks at positions [start, stop), all of which stand alike."""
        before = self.states[start]
        after = _AFTER[step][before]
        if after is None or self.states.count(before, start, stop) != stop - start:
            stand = [State(state).name for state in sorted(set(self.states[start:stop]))]
            raise IllegalStepError(f"{step.name} of tasks [{start}, {stop}) that are {', '.join(stand)}")
        self.states[start:stop] = bytes((after,)) * (stop - start)

    def end(self, start: int, stop: int, statuses: Buffer) -> int:
        """Finish or fail leased tasks, each by its status; returns how many failed."""
        if stop - start == 1 and self.states[start] == State.LEASED:
            self.states[start] = end = _ENDS[statuses[0]]
            return int(end == State.FAILED)
        if self.states.count(State.LEASED, start, stop) != stop - start:
            raise IllegalStepError(f"FINISH of tasks [{start}, {stop}) that are not all LEASED")
        ends = bytes(statuses).translate(_ENDS)
        self.states[start:stop] = ends
        return ends.count(State.FAILED)

    def all(self, state: State, start: int, stop: int) -> bool:
        """Whether the tasks at positions [start, stop) all stand so."""
        return self.states.count(state, start, stop) == stop - start

    def body(self, position: int) -> int:
        """Bytes of a task's body."""
        return self.body_sizes[position] if self.body_sizes else 0

    def span(self, start: int, stop: int, attempt: int) -> Span:
        """Make a piece of this run that can be queued."""
        if self._starts is None and start:
            self._starts = array("Q", accumulate(self.head_sizes, initial=0))
        return Span(self, start, stop, attempt, 0 if self._starts is None else self._starts[start])

    def grows(self, count: int, size: int) -> bool:
        """Whether so many more tasks without bodies, with heads of so many bytes, may join this run."""
        fits = len(self.states) + count <= RUN_TASKS_MAX and len(self.heads) + size <= RUN_BYTES_MAX
        return fits and self.unfinished > 0 and not self.body_sizes

    def grow(self, head_sizes: Column, heads: Buffer) -> Span | None:
        """Take in the tasks that follow; returns what is to be queued, None where it joined what already is."""
        start, at = len(self.states), len(self.heads)
        stop = start + len(head_sizes)
        self.head_sizes.extend(head_sizes)
        self.heads = memoryview(b"".join((self.heads, heads)))
        self.states.extend(bytes(stop - start))
        self.unfinished += stop - start
        self.unread += stop - start
        self._starts = None
        tail = self.tail
        # A task that is QUEUED in its first span was never taken from it, so that span still waits.
        if tail is not None and tail.start < tail.stop == start and self.states[start - 1] == State.QUEUED:
            tail.stop = stop
            return None
        self.tail = Span(self, start, stop, FIRST_ATTEMPT, at)
        return self.tail

    def task(self, position: int) -> Task:
        """Return the record of a task to which something happened."""
        return self.tasks.setdefault(position, Task())

    def release(self) -> None:
        """Let the heads go: every task has its outcome."""
        self.heads = memoryview(b"")
        self.tail = self._starts = None
        self.tasks.clear()


@dataclass(slots=True, eq=False)
class Span:
    """Queued tasks: positions [start, stop) of a run, whose heads begin at byte `at`; all in the same attempt."""

    run: Run
    start: int
    stop: int
    attempt: int
    at: int
    moved: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it is one task that saw so many deaths that it has to run alone."""
        tasks = self.run.tasks
        return bool(tasks) and self.start in tasks and tasks[self.start].losses >= SUSPECT_LOSSES

    @property
    def bodied(self) -> bool:
        """Whether the tasks have bodies, and so travel one at a time."""
        return bool(self.run.body_sizes)

    def skip(self) -> bool:
        """Leave out what was cancelled while it waited, up to the first task still queued. False where none is."""
        states = self.run.states
        if self.start < self.stop and states[self.start] == State.QUEUED:
            return True
        found = states.find(State.QUEUED, self.start, self.stop)
        self._advance(self.stop if found < 0 else found)
        return found >= 0

    def take(self, count: int, bytes_max: int) -> Span:
        """Split off at most `count` queued tasks whose heads measure at most `bytes_max`, or a single one."""
        run, start = self.run, self.start
        stop = min(self.stop, start + count)
        if run.states.count(State.QUEUED, start, stop) != stop - start:
            stop = next(position for position in range(start, stop) if run.states[position] != State.QUEUED)
        sizes = run.head_sizes[start:stop]
        if stop - start > 1 and sum(sizes) > bytes_max:
            stop = start + max(1, bisect_right(list(accumulate(sizes)), bytes_max))
        piece = Span(run, start, stop, self.attempt, self.at, self.moved)
        self._advance(stop)
        return piece

    def _advance(self, position: int) -> None:
        self.at += sum(self.run.head_sizes[self.start : position])
        self.start = position


@dataclass(slots=True, eq=False)
class Leased:
    """Leases `first`, `first + 1`, ... of a worker: positions [start, start + count) of a run."""

    first: int
    run: Run
    start: int
    attempt: int
    worker: Worker
    marks: bytearray
    left: int
    """Leases that the worker has not ended: HELD, STARTED or ASKED."""
    at: float
    estimate_seconds: float
    moved: bool = False
    arriving: bool = False
    unwanted: dict[int, bool] = field(default_factory=dict)
    """Offsets of leases that were retracted since their tasks are over, and whether by force."""
    answering: dict[int, Delivery] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """The number after the last lease's."""
        return self.first + len(self.marks)

    def live(self) -> Iterator[int]:
        """Offsets of the leases that the worker has not ended."""
        return (offset for offset, mark in enumerate(self.marks) if mark < Mark.ANSWERING)


@dataclass(slots=True, eq=False)
class Delivery:
    """An OUTCOME that its client has not acknowledged."""

    outcome: Outcome
    pieces: list[tuple[Run, int, int]]
    bytes: int
    flow: Flow | None = None
    settled: bool = False
    """No worker had a part in it."""
    leased: Leased | None = None
    """Whose worker holds the answer's body; None once that worker is gone, or where there is no body."""


@dataclass(slots=True, eq=False)
class Blob:
    """Bytes known by their digest, kept while a job needs them."""

    digest: bytes
    size: int = 0
    head: Buffer = b""
    flow: Flow | None = None
    """How it comes, or came: a whole blob's flow keeps its chunks."""
    whole: bool = False
    body: int = 0
    """The file that keeps it for a stored job; 0 where there is none."""
    copies: list[Spooled] = field(default_factory=list)
    """What stands for that file, where the flow's own chunks lie in memory."""
    refusals: dict[Client, str] = field(default_factory=dict)
    """From whom it will never come, and why: others may mean another size, or come when there is more room."""
    jobs: dict[Job, None] = field(default_factory=dict)
    lent: dict[Worker, Flow] = field(default_factory=dict)
    """On its way to workers, from the bytes that are here."""


@dataclass(slots=True, eq=False)
class Value:
    """A value that a client shares among its tasks; its bytes pass through on their way to workers."""

    name: bytes
    client: Client
    size: int = -1
    """Of its body; -1 before it was announced."""
    head: Buffer = b""
    flow: Flow | None = None
    """How it comes; None where the head is all."""
    jobs: dict[Job, None] = field(default_factory=dict)
    workers: dict[Worker, None] = field(default_factory=dict)
    """Who has it, or is on the way to."""

    @property
    def cost(self) -> int:
        """Bytes of memory that it costs here, but for what passes through."""
        return len(self.head) + BLOB_OVERHEAD_BYTES


@dataclass(slots=True, eq=False)
class Job:
    """One function with one set of options, of one client."""

    number: int
    client: Client
    message: JobMessage
    """As workers get it, under the manager's number."""
    client_number: int
    capability: Capability
    blob: Blob | None
    runs: list[Run] = field(default_factory=list)
    """Sorted by first index; a run leaves when all its outcomes are acknowledged."""
    waiting: list[Span] = field(default_factory=list)
    """Not queued yet: the blob is not whole."""
    leased_runs: dict[Leased, None] = field(default_factory=dict)
    workers: dict[Worker, None] = field(default_factory=dict)
    queued: int = 0
    leased: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    bytes: int = 0
    """What it costs its client's `job_bytes`."""
    values: tuple[Value, ...] = ()
    """Shared values that every task needs."""
    refused: dict[int, int] = field(default_factory=dict)
    """Tasks that were never taken in, by index, and which outcome that its client has not read says so."""
    forgotten: bool = False
    journaled: bool = True
    """Whether the journal tells of it; what reads a stored job is not told of."""
    watched: bool = False
    noticed: bool = False
    way_seconds: float = 0.0
    _seconds: float = 0.0
    _timed: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether its function is here to be sent on, and its values are announced."""
        whole = self.blob is None or self.blob.whole
        return whole and not (self.values and any(value.size < 0 for value in self.values))

    @property
    def refusal(self) -> str:
        """Why its client cannot send its function, if it cannot."""
        return self.blob.refusals.get(self.client, "") if self.blob is not None and self.blob.refusals else ""

    @property
    def value_bytes(self) -> int:
        """What its values measure in a worker's arena."""
        return sum(value.size for value in self.values) if self.values else 0

    @property
    def mean_seconds(self) -> float | None:
        """How long its tasks take, the late ones counting more; None before the first result."""
        return self._seconds / self._timed if self._timed else None

    def time(self, count: int, seconds: float) -> None:
        """Learn how long tasks took."""
        if self._timed > 256:
            self._seconds *= 0.5
            self._timed *= 0.5
        self._seconds += seconds
        self._timed += count

    def add(self, run: Run) -> None:
        """Take a run in; its indices must be new."""
        if not self.runs or self.runs[-1].first < run.first:
            self.runs.append(run)
        else:
            insort(self.runs, run, key=_first)

    def remove(self, run: Run) -> None:
        """Let a run go."""
        del self.runs[0 if self.runs[0] is run else bisect_left(self.runs, run.first, key=_first)]

    def find(self, index: int) -> Run | None:
        """Return the run that has this index."""
        place = bisect_right(self.runs, index, key=_first) - 1
        return self.runs[place] if place >= 0 and index < self.runs[place].stop else None

    def overlapping(self, first: int, stop: int) -> list[Run]:
        """Return the runs that share an index with [first, stop), in order."""
        if not self.runs or self.runs[-1].first + len(self.runs[-1].states) <= first:
            return []
        low = max(0, bisect_right(self.runs, first, key=_first) - 1)
        high = bisect_left(self.runs, stop, key=_first)
        return [run for run in self.runs[low:high] if run.stop > first]


@dataclass(slots=True, eq=False)
class Client:
    """A client's session, connected or not."""

    session: bytes
    identity: str
    name: str
    address: str
    result_bytes: int
    link: int = 0
    left_at: float = 0.0
    awaited: bool = False
    """A timer for its grace is set."""
    certificate: str = ""
    """The name that its certificate was issued for, also to the one that renews it."""
    fingerprint: str = ""
    """Of the certificate it showed last; a journal of before identities knows it by that."""
    jobs: dict[int, Job] = field(default_factory=dict)
    newest: int = 0
    """The order of the run that came last."""
    blobs: dict[int, Blob] = field(default_factory=dict)
    value_bytes: int = 0
    """What its shared values cost here."""
    blob_bytes: int = 0
    """Blobs it sent since they were last counted, and those found then."""
    job_bytes: int = 0
    settled_bytes: int = 0
    owed_bytes: int = 0
    """Of the submit credit: heads and overheads of its unfinished tasks."""
    used_seconds: float = 0.0
    """Slot-seconds used, the scale of fairness."""
    queued: int = 0
    leased: int = 0
    sequence: int = 0
    unread: dict[int, Delivery] = field(default_factory=dict)
    unread_bytes: int = 0


@dataclass(slots=True, eq=False)
class Worker:
    """A worker's session, connected or within its grace."""

    session: bytes
    identity: str
    name: str
    host: str
    address: str
    python: str
    slots: int
    arena_bytes: int
    capabilities: tuple[Capability, ...]
    link: int = 0
    left_at: float = 0.0
    awaited: bool = False
    """A timer for its grace is set."""
    certificate: str = ""
    """The name that its certificate was issued for, also to the one that renews it."""
    draining: bool = False
    drain_reason: str = ""
    """Why it was told to leave, if it was: said again where it comes back without having answered."""
    reserved: bool = False
    """It gets nothing new until it is empty: a suspect is to run on it alone."""
    alone: bool = False
    """It runs a suspect."""
    leases: list[Leased] = field(default_factory=list)
    """Sorted by lease number; one leaves when nothing of it is left, neither running nor answering."""
    unfinished: int = 0
    asked: int = 0
    backlog_seconds: float = 0.0
    arriving: int = 0
    """Leases whose argument is on its way; no slot is taken by them."""
    arriving_of: dict[Client, int] = field(default_factory=dict)
    arriving_bytes: int = 0
    sated: bool = False
    """It has as many arguments as it can use, and gets more when some of these are used up."""
    answers_of: dict[Client, int] = field(default_factory=dict)
    """Bytes of answers that lie in its arena until their client has them."""
    arena_used_bytes: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    forgotten: list[int] = field(default_factory=list)
    """Jobs that were over lately, or while it was away: it may not have heard of that."""
    blobs: dict[bytes, Flow | None] = field(default_factory=dict)
    """Sent in this session, with the flow of one that is still on its way."""
    values: dict[bytes, Flow | None] = field(default_factory=dict)
    """Offered in this session, each with the flow that brings its body."""
    halted: dict[bytes, int] = field(default_factory=dict)
    """The streams of those that a lost link cut off: under the same name they go on where they stopped."""

    @property
    def ready(self) -> int:
        """Unfinished leases that a slot runs, or could run."""
        return self.unfinished - self.arriving

    @property
    def running(self) -> int:
        """Slots that have work, as far as the manager can know."""
        return min(self.slots, self.unfinished)

    @property
    def free(self) -> int:
        """Slots without work."""
        return self.slots - self.running

    def find(self, lease: int) -> Leased | None:
        """Return the leased run that has this number."""
        if len(self.leases) == 1:
            lone = self.leases[0]
            return lone if 0 <= lease - lone.first < len(lone.marks) else None
        place = bisect_right(self.leases, lease, key=_first) - 1
        return self.leases[place] if place >= 0 and lease < self.leases[place].stop else None

    def remove(self, leased: Leased) -> None:
        """Let a leased run go."""
        del self.leases[0 if self.leases[0] is leased else bisect_left(self.leases, leased.first, key=_first)]


def _first(record: Run | Leased) -> int:
    return record.first


def python_capability(python: str) -> Capability:
    """Name what a job with shipped code needs: a Python of the same major and minor version."""
    return FunctionKind.SHIPPED, ".".join(python.split(".")[:2])
