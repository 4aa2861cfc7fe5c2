"""The bench where the slots sit: who is given what, who is looked at, killed, started again. Pure.

Nobody asks a slot anything while it runs a task. Its *board*, a page of shared memory, says which task of which
batch began when; the bench has it read (Inspect) once a task may have run for a while. A Recall forbids the slot
to begin anything more of what it holds, so what stands behind a long task can run elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from starcore.events import Action, Log
from starcore.messages import FunctionKind, Job
from starcore.texts import task_name
from starcore.worker.library import Library
from starcore.worker.orders import (
    Inspect,
    Inspected,
    KillSlot,
    Lend,
    Recall,
    RunBatch,
    SlotDied,
    SlotDone,
    StartSlot,
    Swollen,
    TakeBack,
    Teach,
    Unteach,
)
from starcore.worker.reports import report, size_text
from starcore.worker.runs import Run
from starcore.worker.slots import (
    FATAL,
    SLOT_BATCHES_MAX,
    SLOT_TASKS_MAX,
    Batch,
    End,
    Remains,
    Slot,
    SlotState,
    Turn,
    Why,
    batch_tasks,
)

STARTED_SECONDS = 0.05
"""A task that has run so long is said to have STARTED, and nothing waits behind it."""
START_FAILURES_MAX = 3
"""So many failed starts before any slot was ever ready, and the worker gives up."""
RESTART_SECONDS_MIN = 0.1
RESTART_SECONDS_MAX = 5.0
KEPT_SHARE = 4
"""A slot that keeps more than this part of the arena in views of old arguments is started anew."""


@dataclass(slots=True)
class Inspection:
    """What an Inspected came to."""

    started: int = 0
    back: list[Run] = field(default_factory=list)
    declined: list[int] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)


class Bench:
    """All slots of this worker."""

    def __init__(self, slots: int, library: Library) -> None:
        self.slots = [Slot(number) for number in range(slots)]
        self.hopeless = ""
        self._library = library
        self._ever_ready = False
        self._closing = False
        self._next = math.inf

    # -- life and death --------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Start every slot."""
        actions: list[Action] = []
        for slot in self.slots:
            slot.start_at = self._next = now
        actions += self.tick(now)
        return actions

    def close(self) -> None:
        """Start no slot any more."""
        self._closing = True
        for slot in self.slots:
            slot.start_at = None

    def ready(self, number: int, pid: int) -> None:
        """Note that a slot waits for work."""
        slot = self.slots[number]
        slot.turn(Turn.READY)
        slot.pid = pid
        self._ever_ready = True

    def kill(self, slot: Slot, why: Why, lease: int = 0, text: str = "") -> list[Action]:
        """Have a slot's process ended; the reason that came last counts."""
        if slot.state is SlotState.DOWN:
            return []
        if slot.end is not None and slot.end.why is Why.DROPPED:
            return []
        slot.turn(Turn.KILL)
        slot.end = End(why, lease, text)
        return [KillSlot(slot.number, text, stack=why in FATAL, kindly=why is Why.CANCELLED)]

    def died(self, event: SlotDied, now: float) -> tuple[Remains, list[Action]]:
        """Sort out what a dead slot leaves, and plan its successor."""
        slot = self.slots[event.slot]
        pid, was, end = slot.pid, slot.state, slot.end
        remains = slot.died(event.batch, event.started, event.running)
        slot.turn(Turn.DIED)
        slot.failures = slot.failures + 1 if end is None else 0
        if was is SlotState.STARTING and not self._ever_ready and slot.failures >= START_FAILURES_MAX:
            self.hopeless = f"no slot can be started: {event.cause}"
        name = f"slot {slot.number}" + (f" (pid {pid})" if pid else "")
        actions: list[Action] = [_obituary(name, event, was, end, remains)]
        if not self._closing:
            pause = 0.0
            if slot.failures > 1:
                pause = min(RESTART_SECONDS_MAX, RESTART_SECONDS_MIN * 2.0 ** min(slot.failures - 2, 10))
            slot.start_at = now + pause
            self._next = min(self._next, slot.start_at)
            if not pause:
                actions += self._start(slot)
        return remains, actions

    def _start(self, slot: Slot) -> list[Action]:
        slot.start_at = None
        slot.turn(Turn.START)
        return [StartSlot(slot.number)]

    # -- work ------------------------------------------------------------------------------------------------

    def feed(self, ready: deque[Run], now: float) -> list[Action]:
        """Give what is ready to the slots, the least loaded first."""
        actions: list[Action] = []
        if len(ready) == 1 and len(ready[0].head_sizes) == 1:  # a lone task: the first idle slot is the least loaded
            for slot in self.slots:
                if not slot.batches and slot.usable:
                    return [*self._give(slot, ready.popleft(), now)]
        usable = [slot for slot in self.slots if slot.usable]
        while ready and usable:
            slot = min(usable, key=self._load)
            run = ready[0]
            full, expected = self._load(slot)
            mean = self._library.jobs[run.job].mean_seconds
            tasks = 0 if full else batch_tasks(expected, mean, len(slot.batches), _share(ready, len(usable)))
            if not tasks:
                break
            tasks = run.fitting(tasks)
            if tasks < len(run):
                ready[0] = run.cut(tasks, len(run))
                run = run.cut(0, tasks)
            else:
                ready.popleft()
            actions += self._give(slot, run, now)
        return actions

    def _load(self, slot: Slot) -> tuple[bool, float]:
        expected = 0.0
        for batch in slot.batches:
            entry = self._library.jobs.get(batch.run.job)
            mean = entry.mean_seconds if entry is not None else None
            expected += math.inf if mean is None else mean * (len(batch.run) - batch.done)
        return len(slot.batches) >= SLOT_BATCHES_MAX, expected

    def _give(self, slot: Slot, run: Run, now: float) -> Iterator[Action]:
        entry = self._library.jobs[run.job]
        job = entry.job
        for name in entry.names:
            if name not in slot.values:
                slot.values.add(name)
                value = self._library.values[name]
                yield Lend(slot.number, name, value.head, value.key, value.size)
        if job.job not in slot.jobs:
            slot.jobs.add(job.job)
            if entry.registered or job.digest in slot.digests:
                yield Teach(slot.number, job)
            else:
                volume = self._library.volumes[job.digest]
                slot.digests.add(job.digest)
                yield Teach(slot.number, job, volume.data, volume.key)
        idle = not slot.batches
        batch = slot.give(run, job.timeout_seconds)
        if idle:
            self._look_later(slot, now)
        yield RunBatch(slot.number, batch.number, run)

    def done(self, slot: Slot, batch: Batch, event: SlotDone, now: float) -> None:
        """Account tasks that answered, and learn how long their like takes."""
        count = len(event.statuses)
        batch.done += count
        slot.failures = 0
        entry = self._library.jobs.get(batch.run.job)
        if entry is not None:
            entry.measured(sum(event.seconds) / count)
        if batch.done == len(batch.run):
            slot.batches.remove(batch)
        if slot.batches:
            self._look_later(slot, now)
        else:
            slot.inspect_at = None

    def rest(self, slot: Slot, capacity: int) -> list[Action]:
        """End a slot that keeps too much, once it has nothing to do."""
        if slot.kept_bytes * KEPT_SHARE > capacity:
            slot.recycle = True
        if slot.recycle and not slot.batches and slot.state is SlotState.READY:
            mib = slot.kept_bytes / (1 << 20)
            return self.kill(slot, Why.RECYCLED, text=f"its tasks keep views of {mib:.0f} MiB of old arguments")
        return []

    def swollen(self, event: Swollen) -> list[Action]:
        """End a slot that has too much memory: at the cost of the task that runs, or of nobody."""
        slot, used, limit = self.slots[event.slot], size_text(event.used), size_text(event.limit)
        if slot.state is not SlotState.READY or not slot.last_batch:  # what it began with is no task's fault
            return []
        if not slot.batches:
            return self.kill(slot, Why.RECYCLED, text=f"its tasks left {used} behind, more than its {limit}")
        text = (
            f"its slot had {used} of memory of its own, where each may have {limit} (--slot-memory): split the work "
            f"into smaller pieces, or let the worker have fewer slots with more memory each"
        )
        return self.kill(slot, Why.MEMORY, text=text)

    def unteach(self, *, job: int | None = None, digest: bytes = b"") -> list[Action]:
        """Let slots forget a job or a blob."""
        actions: list[Action] = []
        for slot in self.slots:
            if job in slot.jobs or digest in slot.digests:
                slot.jobs.discard(-1 if job is None else job)
                slot.digests.discard(digest)
                actions.append(Unteach(slot.number, job, digest))
        return actions

    def take_back(self, name: bytes, jobs: Iterable[Job]) -> list[Action]:
        """Let slots forget a shared value, and functions of jobs that use it: their closures may look at it."""
        actions: list[Action] = []
        for job in jobs:
            actions += self.unteach(job=job.job)
            if job.kind is FunctionKind.SHIPPED:
                actions += self.unteach(digest=job.digest)
        for slot in self.slots:
            if name in slot.values:
                slot.values.discard(name)
                actions.append(TakeBack(slot.number, name))
        return actions

    # -- looking, recalling ----------------------------------------------------------------------------------

    def recall(self, slot: Slot) -> list[Action]:
        """Forbid a slot to begin anything more of what it holds."""
        if slot.recalled or slot.state is not SlotState.READY or not slot.batches:
            return []
        slot.recalled = slot.last_batch
        return [Recall(slot.number, slot.last_batch)]

    def want(self, slot: Slot, leases: set[int], kill: bool) -> list[Action]:
        """Ask leases back from a slot."""
        if not leases:
            return []
        for lease in leases:
            slot.wanted[lease] = slot.wanted.get(lease, False) or kill
        return self.recall(slot)

    def inspected(self, slot: Slot, event: Inspected, now: float) -> Inspection:
        """Decide by a slot's board."""
        found = Inspection()
        batch = slot.batch(event.batch)
        lease = 0
        if batch is not None and event.running and event.started > batch.done:
            lease = batch.run.lease + event.started - 1
        if event.recalled:
            slot.recalled = 0
            found.back = slot.take_back(event.batch, event.started, event.recalled)
            self._answer_wanted(slot, lease, found)
        slot.inspect_at = None
        if batch is not None and lease and slot.state is SlotState.READY:
            self._watch(slot, batch, event, now, found)
        elif slot.batches:
            self._look_later(slot, now)
        return found

    def _answer_wanted(self, slot: Slot, running: int, found: Inspection) -> None:
        back = {lease for run in found.back for lease in run.leases}
        wanted, slot.wanted = slot.wanted, {}
        for lease, kill in wanted.items():
            if lease in back:
                continue
            if lease == running and kill:
                slot.wanted[lease] = True  # answered when the slot has died
                found.actions += self.kill(slot, Why.CANCELLED, lease, "its task was cancelled")
            else:
                found.declined.append(lease)

    def _watch(self, slot: Slot, batch: Batch, event: Inspected, now: float, found: Inspection) -> None:
        lease, since, elapsed = batch.run.lease + event.started - 1, event.since, now - event.since
        entry = self._library.jobs.get(batch.run.job)
        timeout = batch.timeout_seconds
        if timeout and now >= since + timeout:  # the very sums that `_look_at` is given: no look is a hair too early
            text = f"it ran longer than its timeout of {timeout:g} s"
            found.actions += self.kill(slot, Why.TIMEOUT, lease, text)
            return
        if now < since + STARTED_SECONDS:
            self._look_at(slot, since + min(STARTED_SECONDS, timeout or STARTED_SECONDS))
            return
        if slot.said_started != lease:
            slot.said_started = found.started = lease
        if entry is not None:
            entry.mean_seconds = max(entry.mean_seconds or 0.0, elapsed)
        if slot.tasks > 1:
            found.actions += self.recall(slot)
        if timeout:
            self._look_at(slot, since + timeout)

    def _look_later(self, slot: Slot, now: float) -> None:
        timeout = slot.batches[0].timeout_seconds
        self._look_at(slot, now + (min(STARTED_SECONDS, timeout) if timeout else STARTED_SECONDS))

    def _look_at(self, slot: Slot, at: float) -> None:
        slot.inspect_at = at
        self._next = min(self._next, at)

    # -- time ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Start and look at the slots whose time has come."""
        actions: list[Action] = []
        if now < self._next:
            return actions
        self._next = math.inf
        for slot in self.slots:
            if slot.start_at is not None:
                if now >= slot.start_at:
                    actions += self._start(slot)
                else:
                    self._next = min(self._next, slot.start_at)
            if slot.inspect_at is not None:
                if now >= slot.inspect_at:
                    slot.inspect_at = None
                    actions.append(Inspect(slot.number))
                else:
                    self._next = min(self._next, slot.inspect_at)
        return actions

    def deadline(self) -> float | None:
        """When a slot is next to be looked at; may be too early, never too late."""
        return None if self._next == math.inf else self._next

    # -- who has what ----------------------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        """Whether any slot holds a task."""
        return any(slot.batches for slot in self.slots)

    def busy(self) -> list[Slot]:
        """Slots that hold tasks."""
        return [slot for slot in self.slots if slot.batches]

    def jobs(self) -> set[int]:
        """The jobs of all that slots hold."""
        return {batch.run.job for slot in self.slots for batch in slot.batches}

    def leases(self) -> Iterator[int]:
        """Leases in slots, but for those that were dropped."""
        return (lease for slot in self.slots if not _dropped(slot) for lease in slot.leases)

    def dropped(self) -> set[int]:
        """Leases that count no more, in slots that are about to die."""
        return {lease for slot in self.slots if _dropped(slot) for lease in slot.leases}

    def check(self) -> None:
        """Assert the invariants."""
        for slot in self.slots:
            assert all(0 <= batch.done < len(batch.run) for batch in slot.batches), slot
            assert len(slot.batches) <= SLOT_BATCHES_MAX, slot
            assert slot.tasks <= SLOT_BATCHES_MAX * SLOT_TASKS_MAX, slot
            assert slot.state is not SlotState.DOWN or not slot.batches, slot
            assert slot.state is SlotState.DOWN or slot.start_at is None, slot
            assert (slot.end is not None) == (slot.state is SlotState.ENDING), slot
            assert slot.inspect_at is None or self._next <= slot.inspect_at, slot


def _dropped(slot: Slot) -> bool:
    return slot.end is not None and slot.end.why is Why.DROPPED


def _share(ready: deque[Run], slots: int) -> int:
    waiting = 0
    for run in ready:
        waiting += len(run)
        if waiting >= slots * SLOT_TASKS_MAX:
            break
    return -(-waiting // slots)


def _obituary(name: str, event: SlotDied, was: SlotState, end: End | None, remains: Remains) -> Log:
    if end is not None:
        return Log("info", f"{name} was ended: {end.text}")
    if was is SlotState.STARTING:
        return Log("error", f"{name} did not start: {event.cause}")
    doing = ""
    if remains.running is not None:
        doing = f" while it ran task {task_name(b'', remains.running.job, remains.running.first)}"
    return Log("warning", report(f"{name} ended by {event.cause}{doing}; another one starts", event.peak, event.stack))
