"""Leases: how they begin, and every way in which they end without an answer. Pure.

queue ── begin ──▶ Leased ──┬── close ─▶ ended, by a result (see results.py)
▲                         ├── give_back ─────────────┐ attempt + 1
│                         └── count_loss ─▶ suspects ┤
└────────────────────────────────────────────────────┘ or CRASHED at the crash limit
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

from starcore.errors import Status
from starcore.manager import facts
from starcore.manager.columns import contiguous
from starcore.manager.delivery import Deliveries
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.records import LEASE_BITS, Requeued
from starcore.manager.relay import Relay
from starcore.manager.scheduling import UNKNOWN_SECONDS, Scheduler
from starcore.manager.state import (
    Delivery,
    Job,
    Leased,
    Mark,
    Run,
    Span,
    State,
    Step,
    Worker,
)
from starcore.manager.story import Stories
from starcore.postmortem import split_facts, with_facts
from starcore.texts import FURTHER_CHARS_MAX, NAME_CHARS_MAX, plain, plain_lines, task_name


@dataclass(slots=True)
class Counters:
    """What went wrong so far, for `starcore status`."""

    stale: int = 0
    duplicates: int = 0
    requeued: int = 0
    crashes: int = 0


class Leases:
    """The books of what is leased."""

    def __init__(
        self,
        epoch: int,
        outbox: Outbox,
        relay: Relay,
        scheduler: Scheduler,
        deliveries: Deliveries,
        stories: Stories,
        limits: Limits,
    ) -> None:
        self._outbox = outbox
        self._relay = relay
        self._scheduler = scheduler
        self._deliveries = deliveries
        self._stories = stories
        self._limits = limits
        self._next = epoch << LEASE_BITS
        self.counters = Counters()

    @property
    def generation(self) -> int:
        """What the next lease's number begins with: after very many of them it is no more what the first one's did."""
        return self._next >> LEASE_BITS

    def begin(self, worker: Worker, span: Span, now: float, number: int = 0) -> Leased:
        """Lease queued tasks to a worker, under new numbers or those that it has from an earlier manager."""
        run, count = span.run, span.stop - span.start
        job = run.job
        mean = job.mean_seconds
        estimate = UNKNOWN_SECONDS if mean is None else mean
        marks = bytearray(count)
        first = number or self._next
        leased = Leased(first, run, span.start, span.attempt, worker, marks, count, now, estimate, span.moved)
        if not number:
            self._next += count
            if self._outbox.journaled and job.journaled:
                self._outbox.record(facts.of_lease(leased))
        run.step(span.start, span.stop, Step.LEASE)
        job.leased += count
        job.client.leased += count
        job.leased_runs[leased] = None
        worker.leases.append(leased)
        worker.arena_used_bytes += run.body(span.start)
        self._scheduler.lease(leased)
        self._stories.leased(leased)
        return leased

    def close(self, leased: Leased, low: int, high: int, mark: Mark, seconds: float = 0.0) -> None:
        """The worker is through with these leases."""
        worker, run, count = leased.worker, leased.run, high - low
        if worker.asked:
            worker.asked -= leased.marks.count(Mark.ASKED, low, high)
        leased.marks[low:high] = bytes((mark,)) * count
        leased.left -= count
        if run.body_sizes:
            worker.arena_used_bytes -= run.body(leased.start)
            flow = run.flows.get(leased.start)
            if flow is not None:
                self._relay.unaim(flow)
        if not leased.left and mark == Mark.ENDED and not leased.answering:
            self._remove(leased)
        self._scheduler.finished(leased, count, seconds)

    def give_back(self, leased: Leased, low: int, high: int, cause: str, *, moved: bool = False) -> None:
        """Leases end without a result: their tasks are queued for the next attempt."""
        self.close(leased, low, high, Mark.ENDED)
        run = leased.run
        start, stop = leased.start + low, leased.start + high
        for first, last in _leased_ranges(run, start, stop):
            self.requeue(run, first, last, leased.attempt, cause, moved=moved)

    def count_loss(self, leased: Leased, offset: int, cause: str, seconds: float = 0.0) -> None:
        """A slot or worker died while this task ran, or may have: try again, but not for ever.

        The cause may have several lines, as a worker writes them: the first says what happened.
        """
        run, position = leased.run, leased.start + offset
        cause, known = split_facts(cause)
        self.close(leased, offset, offset + 1, Mark.ENDED, seconds)
        if run.states[position] != State.LEASED:
            return
        task = run.task(position)
        task.losses += 1
        what, *stack = plain_lines(cause)
        worker = f"worker {leased.worker.name} ({leased.worker.host})"
        task.deaths.append(f"attempt {leased.attempt}, {worker}: {plain(what, FURTHER_CHARS_MAX)}")
        if self._outbox.journaled and run.job.journaled:
            self._outbox.record(facts.of_trouble(run, position, task))
        if task.losses < self._limits.crash_tasks_max:
            self.requeue(run, position, position + 1, leased.attempt, cause)
            return
        job = run.job
        run.step(position, position + 1, Step.FAIL)
        job.failed += 1
        self.unlease(job, 1)
        text = (
            f"{what}; last run by {worker}, attempt {leased.attempt}: "
            f"given up after {task.losses} deaths under this task"
        )
        name = task_name(job.client.session, job.client_number, run.first + position)
        self._outbox.log("warning", f"task {name} ({plain(job.message.function, NAME_CHARS_MAX)}): {text}")
        report = "\n".join([text, *(f"  {death}" for death in task.deaths), *stack])
        report = with_facts(report, replace(known, worker=leased.worker.name, attempts=leased.attempt))
        self._deliveries.settle(job, [(run, position, position + 1)], leased.attempt, Status.CRASHED, report)

    def requeue(self, run: Run, start: int, stop: int, attempt: int, cause: str, *, moved: bool = False) -> None:
        """Leased tasks wait again, for their next attempt; `cause` says why."""
        run.step(start, stop, Step.REQUEUE)
        self.counters.requeued += stop - start
        self._stories.requeued(run, start, stop, attempt, cause)
        self.unlease(run.job, stop - start)
        if self._outbox.journaled and run.job.journaled:
            self._outbox.record(Requeued(run.job.number, run.first + start, stop - start, attempt + 1))
        span = run.span(start, stop, attempt + 1)
        span.moved = moved
        self._scheduler.queue(span)

    def begin_answer(self, leased: Leased, offset: int, delivery: Delivery) -> None:
        """A worker holds this answer's body for its client."""
        leased.answering[offset] = delivery
        held, client = leased.worker.answers_of, leased.run.job.client
        held[client] = held.get(client, 0) + _body(delivery)

    def end_answer(self, leased: Leased, offset: int) -> None:
        """A worker holds this answer's body no more, or in vain."""
        leased.marks[offset] = Mark.ENDED
        held, client = leased.worker.answers_of, leased.run.job.client
        held[client] -= _body(leased.answering.pop(offset))
        if not held[client]:
            del held[client]
        if not leased.left and not leased.answering:
            self._remove(leased)

    @staticmethod
    def unlease(job: Job, tasks: int) -> None:
        """Leased tasks ended, or count for nobody though a slot may still run them."""
        job.leased -= tasks
        job.client.leased -= tasks

    def check(self, worker: Worker) -> None:
        """Assert the invariants of one worker's account."""
        assert worker.free + worker.running == worker.slots
        assert all(worker in job.workers for job in worker.jobs.values())
        if not worker.leases:
            idle = (worker.unfinished, worker.asked, worker.arena_used_bytes, worker.arriving, worker.arriving_bytes)
            assert not any(idle) and not worker.answers_of and not worker.arriving_of, (worker.name, idle)
            return
        assert worker.unfinished == sum(leased.left for leased in worker.leases), worker.name
        assert worker.asked == sum(leased.marks.count(Mark.ASKED) for leased in worker.leases), worker.name
        bodies = sum(leased.run.body(leased.start) for leased in worker.leases if leased.left)
        assert worker.arena_used_bytes == bodies <= worker.arena_bytes, worker.name
        answers = [delivery for leased in worker.leases for delivery in leased.answering.values()]
        assert sum(worker.answers_of.values()) == sum(map(_body, answers)), worker.name
        arriving = [leased for leased in worker.leases if leased.arriving]
        assert worker.arriving == len(arriving) == sum(worker.arriving_of.values()), worker.name
        assert worker.arriving_bytes == sum(leased.run.body(leased.start) for leased in arriving), worker.name
        assert [leased.first for leased in worker.leases] == sorted(leased.first for leased in worker.leases)
        for leased in worker.leases:
            assert leased.left == sum(map(leased.marks.count, _LIVE))
            assert leased.left or leased.answering
            assert leased.marks.count(Mark.ANSWERING) == len(leased.answering)
            assert leased in leased.run.job.leased_runs

    @staticmethod
    def _remove(leased: Leased) -> None:
        leased.worker.remove(leased)
        del leased.run.job.leased_runs[leased]


_LIVE = (Mark.HELD, Mark.STARTED, Mark.ASKED)


def _body(delivery: Delivery) -> int:
    return delivery.flow.size if delivery.flow is not None else 0


def _leased_ranges(run: Run, start: int, stop: int) -> list[tuple[int, int]]:
    """Cut out what was cancelled."""
    if run.all(State.LEASED, start, stop):
        return [(start, stop)]
    positions = array("Q", (position for position in range(start, stop) if run.states[position] == State.LEASED))
    return [(positions[low], positions[high - 1] + 1) for low, high in contiguous(positions)]
