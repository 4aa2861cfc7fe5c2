"""What the supervisor knows of each slot, and how much work a slot is given ahead. Pure.

::

    DOWN ──start──▶ STARTING ──ready──▶ READY ──kill──▶ ENDING ──died──▶ DOWN
                        └──────kill, died───┴──died──▶

A slot runs its batches in order. It is given a second batch while the first one runs only if both together are
a few milliseconds of work, so a trip over the socket is hidden, and a long task is never stuck behind another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from starcore.errors import Status
from starcore.worker.runs import Run

AHEAD_SECONDS = 0.005
"""The most expected work that a slot may hold."""
SLOT_TASKS_MAX = 256
SLOT_BATCHES_MAX = 2
TASK_SECONDS_MIN = 1e-6


class SlotState(Enum):
    """The life of a slot's process."""

    DOWN = auto()
    STARTING = auto()
    READY = auto()
    ENDING = auto()


class Turn(Enum):
    """What can happen to a slot's process."""

    START = auto()
    READY = auto()
    KILL = auto()
    DIED = auto()


TRANSITIONS: dict[tuple[SlotState, Turn], SlotState] = {
    (SlotState.DOWN, Turn.START): SlotState.STARTING,
    (SlotState.STARTING, Turn.READY): SlotState.READY,
    (SlotState.STARTING, Turn.KILL): SlotState.ENDING,
    (SlotState.STARTING, Turn.DIED): SlotState.DOWN,
    (SlotState.READY, Turn.KILL): SlotState.ENDING,
    (SlotState.READY, Turn.DIED): SlotState.DOWN,
    (SlotState.ENDING, Turn.READY): SlotState.ENDING,
    (SlotState.ENDING, Turn.KILL): SlotState.ENDING,
    (SlotState.ENDING, Turn.DIED): SlotState.DOWN,
}


class Why(Enum):
    """Why a slot was killed."""

    TIMEOUT = auto()
    MEMORY = auto()
    CANCELLED = auto()
    DROPPED = auto()
    RECYCLED = auto()
    STOPPED = auto()


FATAL: dict[Why, Status] = {Why.TIMEOUT: Status.TIMEOUT, Why.MEMORY: Status.MEMORY}
"""Ends that are the fault of the task that runs, and its outcome; the others cost it an attempt at most."""


@dataclass(slots=True)
class End:
    """A kill that was ordered: for which lease (0: whatever runs), and what its outcome says."""

    why: Why
    lease: int = 0
    text: str = ""


@dataclass(slots=True)
class Batch:
    """A run in a slot; the first `done` of its tasks have answered."""

    number: int
    run: Run
    done: int = 0
    timeout_seconds: float = 0.0
    """The job's, which may be forgotten while its last, cancelled tasks run."""


@dataclass(slots=True)
class Verdict:
    """What becomes of the tasks of a dead slot: given back, run again here, or answered with a status and a text."""

    given: list[Run] = field(default_factory=list)
    again: list[Run] = field(default_factory=list)
    answered: Run | None = None
    status: Status = Status.CRASHED
    text: str = ""


@dataclass(slots=True)
class Remains:
    """What a dead slot left: what it was running, what may have run, and what had not begun."""

    running: Run | None = None
    touched: list[Run] = field(default_factory=list)
    untouched: list[Run] = field(default_factory=list)

    def judge(self, end: End | None, cause: str) -> Verdict:
        """Say who is to blame. What may have written to its argument cannot run again with it."""
        verdict = Verdict()
        for run in self.touched:  # it ended, and its answer is lost
            (verdict.given if run.body_bytes else verdict.again).append(run)
        running = self.running
        if running is not None:
            aimed = end is not None and end.lease in (0, running.lease)
            if end is None:
                verdict.answered, verdict.text = running, f"the slot that ran it ended by {cause}"
            elif aimed and end.why in FATAL:
                verdict.answered, verdict.status, verdict.text = running, FATAL[end.why], end.text
            elif aimed or running.body_bytes:
                verdict.given.append(running)
            else:
                verdict.again.append(running)
        verdict.again += self.untouched
        return verdict


@dataclass(slots=True)
class Slot:
    """One slot."""

    number: int
    state: SlotState = SlotState.DOWN
    pid: int = 0
    batches: deque[Batch] = field(default_factory=deque)
    last_batch: int = 0
    recalled: int = 0
    """The batch up to which a Recall is on its way; 0 for none."""
    wanted: dict[int, bool] = field(default_factory=dict)
    """Leases that a RETRACT asks back, and whether it may kill for them."""
    jobs: set[int] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)
    values: set[bytes] = field(default_factory=set)
    """Names of the shared values that it has mapped."""
    kept_bytes: int = 0
    recycle: bool = False
    end: End | None = None
    failures: int = 0
    start_at: float | None = None
    inspect_at: float | None = None
    said_started: int = 0
    """The lease that STARTED was last sent for."""

    def turn(self, turn: Turn) -> None:
        """Walk the table; a missing pair raises KeyError."""
        self.state = TRANSITIONS[self.state, turn]

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return self.state is SlotState.READY and not self.recalled and not self.recycle

    @property
    def tasks(self) -> int:
        """How many tasks it holds that have not answered."""
        return sum(len(batch.run) - batch.done for batch in self.batches)

    @property
    def leases(self) -> Iterator[int]:
        """The leases of these tasks."""
        return (lease for batch in self.batches for lease in batch.run.leases[batch.done :])

    def batch(self, number: int) -> Batch | None:
        """Find a batch by its number."""
        if self.batches and self.batches[0].number == number:
            return self.batches[0]
        return next((batch for batch in self.batches if batch.number == number), None)

    def give(self, run: Run, timeout_seconds: float = 0.0) -> Batch:
        """Add a batch."""
        self.last_batch += 1
        batch = Batch(self.last_batch, run, timeout_seconds=timeout_seconds)
        self.batches.append(batch)
        return batch

    def take_back(self, number: int, started: int, upto: int) -> list[Run]:
        """Cut off what will never start, given what the board says after a Recall."""
        back: list[Run] = []
        for batch in list(self.batches):
            if batch.number > upto or batch.number < number:
                continue
            begun = max(started, batch.done) if batch.number == number else 0
            if begun < len(batch.run):
                back.append(batch.run.cut(begun, len(batch.run)))
                batch.run = batch.run.cut(0, begun)
            if batch.done == len(batch.run):
                self.batches.remove(batch)
        return back

    def withdraw(self, number: int, started: int) -> tuple[list[Run], set[int]]:
        """Cut off what the slot announced and then did not begin, since a Recall came in between.

        Returns it, and which of its leases were asked back: they are answered for with that.
        """
        batch = self.batch(number)
        if batch is None or started >= len(batch.run):
            return [], set()
        back = batch.run.cut(started, len(batch.run))
        batch.run = batch.run.cut(0, started)
        if batch.done == len(batch.run):
            self.batches.remove(batch)
        asked = set(back.leases).intersection(self.wanted)
        for lease in asked:
            del self.wanted[lease]
        return [back], asked

    def died(self, number: int, started: int, running: bool) -> Remains:
        """Divide what it held by what the board said last, and be empty."""
        remains = Remains()
        for batch in self.batches:
            if batch.number < number:
                begun = len(batch.run)
            else:
                begun = max(started, batch.done) if batch.number == number else 0
            ended = begun - 1 if running and batch.number == number and begun > batch.done else begun
            if ended > batch.done:
                remains.touched.append(batch.run.cut(batch.done, ended))
            if begun > ended:
                remains.running = batch.run.cut(ended, begun)
            if begun < len(batch.run):
                remains.untouched.append(batch.run.cut(begun, len(batch.run)))
        self.batches.clear()
        self.jobs.clear()
        self.digests.clear()
        self.values.clear()
        self.wanted.clear()
        self.pid = self.last_batch = self.recalled = self.kept_bytes = self.said_started = 0
        self.recycle, self.end, self.inspect_at = False, None, None
        return remains


def batch_tasks(expected: float, mean: float | None, batches: int, share: int) -> int:
    """How many more tasks to give to a slot.

    Parameters
    ----------
    expected : float
        Seconds of work that it holds; infinity where that is not known.
    mean : float or None
        Seconds that a task of the job takes.
    batches : int
        How many batches it holds.
    share : int
        An equal part of what waits.
    """
    if batches >= SLOT_BATCHES_MAX:
        return 0
    if mean is None:
        return 0 if batches else 1
    room = int((AHEAD_SECONDS - expected) / max(mean, TASK_SECONDS_MIN)) if expected < AHEAD_SECONDS else 0
    if batches == 0:
        room = max(1, room)
    return max(0, min(room, SLOT_TASKS_MAX, share))
