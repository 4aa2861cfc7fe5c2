"""A simulated slot: the process that runs one task at a time, its channel and its board.

It does what `worker/slot.py` does, record by record: a task is announced on the board before it begins, a recall
is looked at twice, small answers wait for each other for a moment, and whatever was not flushed dies with the
process. Tiny tasks run as one stretch, which costs one event; how far it has come is worked out when somebody looks.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from starcore.errors import Status
from starcore.messages import Job
from starcore.worker.orders import SlotDone, SlotStopped
from starcore.worker.runs import Run

from .work import Answer, Kind, Spec, answer_of
from .world import Violation, World

TINY_SECONDS = 0.0002
STRETCH_SECONDS = 0.002
SLOW_LOOK_SECONDS = 0.005
LOOK_SECONDS = 0.5
"""Between two looks at how much memory a slot has."""


class Owner(Protocol):
    """The simulated supervisor."""

    name: str

    def said(self, slot: SimSlot, record: Any) -> None:
        """A record came in."""

    def ended(self, slot: SimSlot, cause: str) -> None:
        """The process is gone, and everything it said has been told."""

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Do something in the supervisor's process."""

    def executed(self, head: bytes, status: int, answer: Answer | None = None) -> None:
        """A task came to its end, for the checkers."""

    def requires(self, job: Job, run: Run) -> None:
        """Check that a batch runs with the function that its tasks were meant for."""

    def die(self) -> None:
        """The supervisor is killed, and all its slots."""

    def swollen(self, slot: SimSlot) -> None:
        """Whoever watches the slots finds this one too large."""

    def body_of(self, lease: int, spec: Spec) -> None:
        """Check that the argument of a lease is here whole."""


@dataclass
class Work:
    """A batch in the slot; the first `index` of its tasks have begun and ended."""

    batch: int
    run: Run
    heads: list[bytes]
    needs: tuple[bytes, ...] = ()
    index: int = 0


@dataclass
class Pending:
    """Answers that were not sent yet."""

    first: int = 0
    statuses: bytearray = field(default_factory=bytearray)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    heads: list[bytes] = field(default_factory=list)


class SimSlot:
    """One life of a slot."""

    def __init__(self, world: World, owner: Owner, number: int) -> None:
        self.world = world
        self.number = number
        self.alive = True
        self.jobs: dict[int, bool] = {}
        self.functions: dict[bytes, None] = {}
        self.taught: dict[int, Job] = {}
        self.values: dict[bytes, None] = {}
        self.runs: dict[int, Run] = {}
        """The supervisor's table of batches that were given and not wholly answered."""
        self._owner = owner
        self._queue: deque[Work] = deque()
        self._work: Work | None = None
        self._board = (0, 0, False, 0.0)
        self._recalled = 0
        self._stretch: list[float] = []
        """When each task of the stretch at hand ends; the first begins at `_begun`."""
        self._begun = 0.0
        self._token = 0
        self._pending = Pending()
        self._in_at = 0.0
        self._out_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether a task runs or waits."""
        return self._work is not None or bool(self._queue)

    # -- the supervisor's side -------------------------------------------------------------------------------

    def tell(self, take: Callable[..., None], *args: Any) -> None:
        """Send a record down the channel."""
        self._in_at = max(self.world.now + self.world.skewed(10e-6, 0.001), self._in_at)
        self.world.at(self._in_at, self._take, take, args)

    def learn(self, job: Job, blob: bytes | None) -> None:
        """LEARN, in the slot."""
        if blob is not None:
            if hashlib.sha256(blob).digest() != job.digest:
                raise Violation(f"{self._owner.name}: the function of job {job.job} is not what its digest says")
            self.functions[job.digest] = None
        self.jobs[job.job] = not any(job.digest) or job.digest in self.functions
        self.taught[job.job] = job

    def unlearn(self, job: int | None, digest: bytes) -> None:
        """UNLEARN, in the slot."""
        if job is not None:
            self.jobs.pop(job, None)
        else:
            self.functions.pop(digest, None)

    def lend(self, name: bytes) -> None:
        """LEND, in the slot."""
        self.values[name] = None

    def take_back(self, name: bytes) -> None:
        """TAKE_BACK, in the slot."""
        del self.values[name]

    def work(self, batch: int, run: Run, needs: tuple[bytes, ...]) -> None:
        """WORK, in the slot."""
        heads, at = [], 0
        for size in run.head_sizes:
            heads.append(bytes(run.heads[at : at + size]))
            at += size
        if run.job in self.taught:
            self._owner.requires(self.taught[run.job], run)
        self._queue.append(Work(batch, run, heads, needs))
        if self._work is None:
            self._next()

    def recall(self, batch: int) -> None:
        """Write the board's word for recalls: nothing up to this batch may begin any more."""
        self._recalled = batch
        if self._stretch:
            begun = self._progress()
            if begun < len(self._stretch):
                del self._stretch[begun:]
                self._again(self._stretch[-1] - self.world.now, self._end_stretch)

    def read(self) -> tuple[int, int, bool, float]:
        """Read the board: batch, tasks begun, whether the last one runs, since when."""
        if not self._stretch or self._work is None:
            return self._board
        begun = self._progress()
        since = self._stretch[begun - 2] if begun > 1 else self._begun
        return self._work.batch, self._work.index + begun, True, since

    def die(self, cause: str, delay: float = 0.001) -> None:
        """End the process; the supervisor hears of it after what was said."""
        if self.alive:
            self._board = self.read()
            self.alive = False
            self._token += 1
            self.world.at(max(self.world.now + delay, self._out_at), self._owner.post, self._owner.ended, self, cause)

    # -- the process -----------------------------------------------------------------------------------------

    def _take(self, take: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.alive:
            take(*args)

    def _say(self, record: Any) -> None:
        self._out_at = max(self.world.now + self.world.skewed(10e-6, 0.001), self._out_at)
        self.world.at(self._out_at, self._owner.post, self._owner.said, self, record)

    def _again(self, delay: float, step: Callable[[], None]) -> None:
        self._token += 1
        self.world.later(max(0.0, delay), self._step, self._token, step)

    def _step(self, token: int, step: Callable[[], None]) -> None:
        if token == self._token and self.alive:
            step()

    def _next(self) -> None:
        """Go on with the next task, or the next batch."""
        while True:
            work = self._work
            if work is None or work.index == len(work.heads):
                self._flush()
                self._work = self._queue.popleft() if self._queue else None
                if self._work is None:
                    return
                continue
            if self._recalled >= work.batch:
                self._withdraw(work)
                continue
            self._begin(work)
            return

    def _withdraw(self, work: Work) -> None:
        self._flush()
        self._say(SlotStopped(self.number, work.batch, work.index))
        self._work = None

    def _begin(self, work: Work) -> None:
        now = self.world.now
        missing = [name.hex()[:8] for name in work.needs if name not in self.values]
        if missing:
            raise Violation(f"{self._owner.name}: a task of job {work.run.job} runs without the values {missing}")
        self._begun = now
        stretch = self._tiny(work)
        if stretch:
            self._stretch = [now + end for end in accumulate(stretch)]
            self._again(self._stretch[-1] - now, self._end_stretch)
            return
        self._board = (work.batch, work.index + 1, True, now)
        if self.world.chance(0.01):
            self._again(SLOW_LOOK_SECONDS, self._look_again)
        else:
            self._run()

    def _look_again(self) -> None:
        """The second look at the recalls, for once long after the first."""
        work = self._work
        assert work is not None
        if self._recalled >= work.batch:
            self._board = (work.batch, work.index, False, self._begun)
            self._withdraw(work)
            self._next()
        else:
            self._run()

    def _tiny(self, work: Work) -> list[float]:
        """How long the tasks take that can run as one stretch."""
        stretch: list[float] = []
        total = 0.0
        if not work.run.body_bytes and self.jobs.get(work.run.job):
            for head in work.heads[work.index :]:
                spec = Spec.of(head)
                seconds = spec.micros * 1e-6
                if spec.kind is not Kind.ANSWER or spec.answer_body or seconds > TINY_SECONDS:
                    break
                stretch.append(seconds)
                total += seconds
                if total > STRETCH_SECONDS:
                    break
        return stretch

    def _progress(self) -> int:
        """How many tasks of the stretch have begun."""
        return min(len(self._stretch), bisect_right(self._stretch, self.world.now) + 1)

    def _end_stretch(self) -> None:
        work = self._work
        assert work is not None
        before = self._begun
        for end in self._stretch:
            head = work.heads[work.index]
            answer = answer_of(head)
            self._keep(work, Status.OK, answer.head, end - before)
            self._owner.executed(head, Status.OK, answer)
            before = end
            work.index += 1
        self._stretch = []
        self._board = (work.batch, work.index, False, before)
        self._flush()
        self._next()

    def _run(self) -> None:
        work = self._work
        assert work is not None
        head, run = work.heads[work.index], work.run
        if not self.jobs.get(run.job):
            raise Violation(f"{self._owner.name}: job {run.job} was not taught to slot {self.number}")
        spec = Spec.of(head)
        if run.body_bytes:
            self._owner.body_of(run.lease, spec)
        elif spec.argument:
            raise Violation(f"{self._owner.name}: a task of job {run.job} runs without its argument")
        if spec.kind is Kind.HANG:
            return
        seconds = spec.micros * 1e-6
        unlucky = self.world.chance(spec.odds)
        if spec.kind is Kind.CRASH or (spec.kind is Kind.FRAIL and unlucky):
            self._again(seconds * self.world.rng.random(), self._crash)
        elif spec.kind is Kind.DOOM:
            self._again(seconds, self._owner.die)
        elif spec.kind is Kind.RAISE or (spec.kind is Kind.FLAKY and unlucky):
            self._again(seconds, self._raise)
        elif spec.kind is Kind.SWELL:
            self._again(seconds, self._swell)
        elif spec.kind is Kind.UNSENDABLE:
            self._again(seconds, self._unsendable)
        else:
            self._again(seconds, self._return)

    def _crash(self) -> None:
        self.world.deaths += 1
        assert self._work is not None
        self._owner.executed(self._work.heads[self._work.index], Status.CRASHED)
        self.die("signal SIGSEGV")

    def _swell(self) -> None:
        """It is seen at every look, until somebody ends it."""
        self._owner.post(self._owner.swollen, self)
        self._again(LOOK_SECONDS, self._swell)

    def _raise(self) -> None:
        self._end(Status.RAISED, b"an exception")

    def _unsendable(self) -> None:
        self._end(Status.UNSENDABLE, b"the result cannot be pickled")

    def _return(self) -> None:
        assert self._work is not None
        self.world.runs += 1
        self._end(Status.OK, answer_of(self._work.heads[self._work.index], self.world.runs))

    def _end(self, status: Status, answer: Answer | bytes) -> None:
        work = self._work
        assert work is not None
        seconds = self.world.now - self._begun
        head = answer if isinstance(answer, bytes) else answer.head
        body = 0 if isinstance(answer, bytes) else answer.body
        self._owner.executed(work.heads[work.index], status, None if isinstance(answer, bytes) else answer)
        if body or work.run.body_bytes:
            self._flush()
            self._say_with_body(work, status, head, body, seconds)
        else:
            self._keep(work, status, head, seconds)
            if self.world.chance(0.9):  # a short task's answer waits for the next one's
                self._flush()
        work.index += 1
        self._board = (work.batch, work.index, False, self._begun)
        self._next()

    def _say_with_body(self, work: Work, status: Status, head: bytes, body: int, seconds: float) -> None:
        argument = work.run.body_bytes
        kept = bool(argument) and self.world.chance(0.05)
        in_place = bool(body) and body <= argument and not kept and self.world.chance(0.5)
        record = SlotDone(
            self.number, work.batch, work.index, bytes([status]), array("d", [seconds]), array("I", [len(head)]), head,
            body, in_place, kept,
        )  # fmt: skip
        self._say(record)

    def _keep(self, work: Work, status: Status, head: bytes, seconds: float) -> None:
        pending = self._pending
        if not pending.statuses:
            pending.first = work.index
        pending.statuses.append(status)
        pending.seconds.append(seconds)
        pending.heads.append(head)

    def _flush(self) -> None:
        pending = self._pending
        if not pending.statuses or self._work is None:
            return
        sizes = array("I", map(len, pending.heads))
        self._say(
            SlotDone(
                self.number, self._work.batch, pending.first, bytes(pending.statuses), pending.seconds, sizes,
                b"".join(pending.heads),
            )
        )  # fmt: skip
        self._pending = Pending()
