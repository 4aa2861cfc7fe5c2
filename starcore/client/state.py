"""The client's books: which tasks are outstanding, what each weighs at the manager, which may go next. Pure.

Consecutive calls of one job are one *run*, a record in columns; a million queued calls are a few thousand runs.
A run holds the heads of its tasks until their outcomes are here, since a lost connection means sending them
again. What happened to each task is one byte::

    WAITING ──cut()──▶ SENT ──outcome without a body──────────────────▶ DONE
       ▲                │ └───outcome with a body──▶ LANDING ──landed──▶ DONE
       └───rewind()─────┘              (aborted: back to SENT)
    WAITING, never sent ──cancel()──▶ DONE        SENT ──cancel()──▶ CANCELLING ──any outcome──▶ DONE

SENT, LANDING and CANCELLING tasks weigh on the submit credit: their heads, and `TASK_OVERHEAD_BYTES` each. (The
manager lets go of a LANDING one sooner, but takes it back where its answer breaks off.) What does not fit waits
here, highest priority first and in the order of the calls.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from starcore.messages import BATCH_BYTES_MAX, BATCH_TASKS_MAX, Column, Job, Submit

TASK_OVERHEAD_BYTES = 64
"""What a task weighs at the manager beside its head."""
AGAIN = 1 << 33
"""Added to the priority of what was sent on an earlier link: it may weigh at the manager still, so it goes first."""
DEAD_RUNS_MAX = 64
"""Finished runs that a job's index may carry before it is swept."""

WAITING, SENT, LANDING, CANCELLING, DONE = range(5)

LEGAL = frozenset(
    {
        (WAITING, SENT), (WAITING, LANDING), (WAITING, CANCELLING), (WAITING, DONE),
        (SENT, WAITING), (SENT, LANDING), (SENT, CANCELLING), (SENT, DONE),
        (LANDING, WAITING), (LANDING, SENT), (LANDING, CANCELLING), (LANDING, DONE),
        (CANCELLING, DONE),
    }
)  # fmt: skip
"""Every transition of a task; WAITING to LANDING is an answer that came again before its task was sent again."""
_CHARGED = frozenset({SENT, LANDING, CANCELLING})
_WAITING_STATES = bytes((WAITING,))


@dataclass(slots=True)
class Run:
    """Tasks `first`, `first + 1`, ... of one job, in columns."""

    entry: JobEntry
    serial: int
    first: int
    heads: list[bytes]
    bodies: Column
    states: bytearray
    left: int
    cursor: int = 0
    again: int = 0

    @property
    def end(self) -> int:
        """One past the last index."""
        return self.first + len(self.states)

    def body(self, at: int) -> int:
        """The body size of the task at this position."""
        return int(self.bodies[at]) if self.bodies else 0

    def extend(self, heads: list[bytes], bodies: Column) -> None:
        """Take in the tasks that follow."""
        if bodies and not self.bodies:
            self.bodies = array("Q", bytes(8 * len(self.states)))
        if self.bodies:
            self.bodies.extend(bodies or array("Q", bytes(8 * len(heads))))
        self.heads.extend(heads)
        self.states.extend(bytes(len(heads)))
        self.left += len(heads)


@dataclass(slots=True)
class JobEntry:
    """One function with its options, and its outstanding tasks."""

    job: Job
    told: bool = False
    noticed: bool = False
    left: int = 0
    dead: int = 0
    runs: list[Run] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    kills: dict[int, bool] = field(default_factory=dict)
    attached: bool = False
    """It reads a stored job: its tasks are never sent, and weigh nothing until their answers land."""


class Ledger:
    """Every outstanding task of one session."""

    def __init__(self) -> None:
        self.submit_bytes = 0
        self.jobs: dict[int, JobEntry] = {}
        self.charged = 0
        self.outstanding = 0
        self._queues: dict[int, deque[Run]] = {}
        self._serial = 0

    def begin(self, job: Job) -> None:
        """Take in a job, which has no task yet."""
        self.jobs[job.job] = JobEntry(job)

    def forget(self, number: int) -> JobEntry:
        """Strike a job that has no outstanding task."""
        entry = self.jobs.pop(number)
        assert not entry.left, entry
        return entry

    def call(self, number: int, first: int, heads: list[bytes], bodies: Column) -> None:
        """Queue tasks `first`, `first + 1`, ...; an empty `bodies` says that none has one."""
        entry = self.jobs[number]
        queue = self._queues.setdefault(entry.job.priority, deque())
        count = len(heads)
        entry.left += count
        self.outstanding += count
        tail = queue[-1] if queue else None
        start = 0
        if tail is not None and tail.entry is entry and tail.end == first and tail.left:
            start = min(count, BATCH_TASKS_MAX - len(tail.states))
            tail.extend(heads[:start], bodies[:start])
        while start < count:
            stop = min(count, start + BATCH_TASKS_MAX)
            run = Run(
                entry, self._serial, first + start, heads[start:stop], bodies[start:stop],
                bytearray(stop - start), stop - start,
            )  # fmt: skip
            self._serial += 1
            entry.runs.append(run)
            entry.firsts.append(run.first)
            queue.append(run)
            start = stop

    def expect(self, number: int, tasks: int) -> None:
        """Await the outcomes of tasks that this session never sends."""
        entry = self.jobs[number]
        for start in range(0, tasks, BATCH_TASKS_MAX):
            count = min(BATCH_TASKS_MAX, tasks - start)
            run = Run(entry, self._serial, start, [b""] * count, array("Q"), bytearray(count), count)
            self._serial += 1
            entry.runs.append(run)
            entry.firsts.append(start)
        entry.left += tasks
        self.outstanding += tasks

    def find(self, entry: JobEntry, index: int) -> Run | None:
        """The run that holds a task, or held it not long ago."""
        at = bisect_right(entry.firsts, index) - 1
        if at < 0 or index >= entry.runs[at].end:
            return None
        return entry.runs[at]

    def cut(self) -> tuple[Run, int, int] | None:
        """Mark the next tasks as sent, as many as one message and the credit take: (run, start, stop)."""
        while self._queues:
            priority = max(self._queues)
            queue = self._queues[priority]
            while queue:
                run = queue[0]
                states, cursor = run.states, run.cursor
                while cursor < len(states) and states[cursor] != WAITING:
                    cursor += 1
                run.cursor = cursor
                if cursor == len(states) or (priority > AGAIN // 2 and cursor >= run.again):
                    queue.popleft()
                    continue
                stop = self._fill(run, cursor)
                run.cursor = stop
                return (run, cursor, stop) if stop > cursor else None
            del self._queues[priority]
        return None

    def settle(self, run: Run, at: int) -> None:
        """A task is over: nothing of it is kept."""
        if run.states[at] == CANCELLING:
            del run.entry.kills[run.first + at]
        self.move(run, at, DONE)
        run.heads[at] = b""
        run.left -= 1
        run.entry.left -= 1
        if not run.left:
            run.heads.clear()
            self._sweep(run.entry)

    def settle_sent(self, run: Run, start: int, stop: int) -> bool:
        """Settle a stretch of tasks at once. False, and nothing is done, where one is not just SENT or has a body."""
        count = stop - start
        if count == 1 == len(run.states) and run.states[start] == SENT and not run.bodies:
            self.charged -= len(run.heads[start]) + TASK_OVERHEAD_BYTES
            self.outstanding -= 1
            run.states[start] = DONE
            run.heads.clear()
            run.left = 0
            run.entry.left -= 1
            self._sweep(run.entry)
            return True
        if run.bodies or run.states.count(SENT, start, stop) != count:
            return False
        self.charged -= sum(map(len, run.heads[start:stop])) + count * TASK_OVERHEAD_BYTES
        self.outstanding -= count
        run.states[start:stop] = bytes((DONE,)) * count
        run.heads[start:stop] = [b""] * count
        run.left -= count
        run.entry.left -= count
        if not run.left:
            run.heads.clear()
            self._sweep(run.entry)
        return True

    def move(self, run: Run, at: int, state: int) -> None:
        """Change a task's state, its weight and the counts that hang on it."""
        before = run.states[at]
        assert (before, state) in LEGAL, (before, state)
        weight = len(run.heads[at]) + TASK_OVERHEAD_BYTES
        self.charged += weight * ((state in _CHARGED) - (before in _CHARGED))
        self.outstanding -= (before < CANCELLING) - (state < CANCELLING)
        run.states[at] = state

    def cancel(self, run: Run, at: int, kill: bool) -> bool:
        """The caller wants no outcome: False where the manager never heard of the task, and need not."""
        if run.states[at] == WAITING and at >= run.again:
            self.settle(run, at)
            return False
        self.move(run, at, CANCELLING)
        run.entry.kills[run.first + at] = kill
        return True

    def rewind(self, known: bool) -> None:
        """Begin on a new link: all that is outstanding has to be sent again, in the old order.

        A manager that does not know the session (`known` is false) has nothing that a cancel could reach.
        """
        waiting: list[Run] = []
        for entry in self.jobs.values():
            entry.told = entry.noticed = False
            if not known:
                for index in list(entry.kills):
                    run = self.find(entry, index)
                    assert run is not None, index
                    self.settle(run, index - run.first)
            waiting.extend(run for run in entry.runs if run.left)
        self._queues.clear()
        for run in sorted(waiting, key=lambda run: run.serial):
            run.again = max(run.again, run.cursor)
            run.cursor = 0
            for at, state in enumerate(run.states):
                if state in {SENT, LANDING}:
                    self.move(run, at, WAITING)
            if run.entry.attached:
                continue
            self._queues.setdefault(run.entry.job.priority, deque()).append(run)
            if run.again:
                self._queues.setdefault(AGAIN + run.entry.job.priority, deque()).append(run)

    def check(self) -> None:
        """Assert the invariants."""
        charged = outstanding = 0
        for entry in self.jobs.values():
            assert entry.firsts == [run.first for run in entry.runs] == sorted(entry.firsts)
            assert entry.left == sum(run.left for run in entry.runs)
            assert entry.dead == sum(not run.left for run in entry.runs)
            for run in entry.runs:
                assert run.left == len(run.states) - run.states.count(DONE), run.first
                assert not run.bodies or len(run.bodies) == len(run.states)
                assert len(run.states) <= BATCH_TASKS_MAX
                live = [(len(run.heads[at]), state) for at, state in enumerate(run.states) if state != DONE]
                charged += sum(size + TASK_OVERHEAD_BYTES for size, state in live if state in _CHARGED)
                outstanding += sum(state != CANCELLING for _, state in live)
                assert run.cursor == 0 or WAITING not in run.states[: run.cursor]
            assert sum(run.states.count(CANCELLING) for run in entry.runs) == len(entry.kills)
        assert charged == self.charged, (charged, self.charged)
        assert outstanding == self.outstanding, (outstanding, self.outstanding)

    def waiting(self) -> Iterator[Run]:
        """The runs that are queued, in the order in which they will go."""
        for priority in sorted(self._queues, reverse=True):
            yield from (run for run in self._queues[priority] if priority < AGAIN // 2)

    def _fill(self, run: Run, start: int) -> int:
        """Mark tasks of a run from `start` on as sent, and say where it stopped."""
        if len(run.states) == 1:
            weight = len(run.heads[0]) + TASK_OVERHEAD_BYTES
            if weight > self.submit_bytes - self.charged and self.charged:
                return start
            self.charged += weight  # a lone task is always allowed
            run.states[0] = SENT
            return 1
        # What was sent before and what was not never share a message: `again` is the message's, not the task's.
        limit = min(run.again if start < run.again else len(run.states), start + BATCH_TASKS_MAX)
        waiting = limit - start - len(run.states[start:limit].lstrip(_WAITING_STATES))
        sizes = list(accumulate(map(len, run.heads[start : start + waiting])))
        count = max(1, bisect_right(sizes, BATCH_BYTES_MAX)) if waiting else 0
        room = self.submit_bytes - self.charged
        if count and sizes[count - 1] + count * TASK_OVERHEAD_BYTES > room:
            count = bisect_right(range(count), room, key=lambda at: sizes[at] + (at + 1) * TASK_OVERHEAD_BYTES)
            if not (count or self.charged):
                count = 1  # a lone task is always allowed
        if count:
            self.charged += sizes[count - 1] + count * TASK_OVERHEAD_BYTES
            run.states[start : start + count] = bytes((SENT,)) * count
        return start + count

    def _sweep(self, entry: JobEntry) -> None:
        entry.dead += 1
        if len(entry.runs) == 1:
            entry.runs.clear()
            entry.firsts.clear()
            entry.dead = 0
        elif (entry.dead > DEAD_RUNS_MAX and entry.dead * 2 > len(entry.runs)) or not entry.left:
            entry.runs = [run for run in entry.runs if run.left]
            entry.firsts = [run.first for run in entry.runs]
            entry.dead = 0


def submit_of(run: Run, start: int, stop: int) -> Submit:
    """The message that carries these tasks of a run."""
    heads = run.heads[start:stop]
    return Submit(
        job=run.entry.job.job,
        first=run.first + start,
        again=start < run.again,
        head_sizes=array("I", map(len, heads)),
        body_sizes=run.bodies[start:stop] if run.bodies and any(run.bodies[start:stop]) else array("Q"),
        heads=b"".join(heads),
    )
