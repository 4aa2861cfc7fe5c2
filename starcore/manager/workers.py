"""What workers hold: who may be given work, what each was given, how it ended. Pure.

::

    Scheduler.choose ─▶ ASSIGN ─▶ Leased ─┬─ RESULT ─────▶ Deliveries (or once more: an exception with retries left)
                                          ├─ RETRACTED ──▶ the queue
                                          └─ worker lost ▶ the queue; what may have been running counts a loss

A RESULT's columns for consecutive leases of one leased run go into an OUTCOME as they are; only tasks to which
something happened are looked at one by one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from starcore.errors import Status
from starcore.manager.blobs import Blobs
from starcore.manager.delivery import Deliveries
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Flow, Relay
from starcore.manager.scheduling import MOVE_SECONDS, UNKNOWN_SECONDS, Scheduler, head_bytes
from starcore.manager.state import (
    Counters,
    Delivery,
    Job,
    Leased,
    Limits,
    Mark,
    Run,
    Span,
    State,
    Step,
    Worker,
    contiguous,
)
from starcore.messages import Assign, Column, Confirm, Forget, Result, Retract, Retracted, Running, Started


class Workforce:
    """Every worker's leases."""

    def __init__(
        self, epoch: int, outbox: Outbox, relay: Relay, blobs: Blobs, scheduler: Scheduler, deliveries: Deliveries, limits: Limits
    ) -> None:
        self._outbox = outbox
        self._relay = relay
        self._blobs = blobs
        self._scheduler = scheduler
        self._deliveries = deliveries
        self._limits = limits
        self._lease = epoch << 32
        self.counters = Counters()
        self.leasing = True
        """False in a drain: nothing new is given out."""
        self.move_at: float | None = None
        """When work may have to move from a laden worker to an idle one."""

    # -- giving ----------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> None:
        """Give out all that can be given, then see whether work has to move."""
        if not self.leasing:
            return
        while (choice := self._scheduler.choose(self._deliveries.full)) is not None:
            self._assign(*choice, now)
        while (found := self._scheduler.surplus(now)) is not None:
            worker, leases = found
            numbers = sorted(leased.first + offset for leased, offset in leases)
            self._outbox.send(worker.link, Retract(False, array("Q", numbers)))
        self.move_at = None
        if self._scheduler.restless():
            self.move_at = now + MOVE_SECONDS

    def retract(self, run: Run, positions: Iterable[int], *, kill: bool) -> None:
        """Tell the workers that have these tasks that nobody wants them any more."""
        wanted: dict[Worker, list[int]] = {}
        pending = set(positions)
        for leased in run.job.leased_runs:
            if leased.run is not run:
                continue
            for offset in leased.live():
                if leased.start + offset in pending:
                    wanted.setdefault(leased.worker, []).append(leased.first + offset)
        for worker, numbers in wanted.items():
            if worker.link:
                self._outbox.send(worker.link, Retract(kill, array("Q", sorted(numbers))))

    def forget(self, job: Job) -> None:
        """No task of this job will come any more."""
        for worker in job.workers:
            worker.jobs.pop(job.number, None)
            if worker.link:
                self._outbox.send(worker.link, Forget(job.number))
        job.workers.clear()

    # -- what workers say ------------------------------------------------------------------------------------

    def results(self, worker: Worker, message: Result) -> None:
        """Leases ended."""
        message.statuses = bytes(message.statuses)
        heads = memoryview(message.heads)
        kept: set[int] = set()
        at = 0
        for low, high in contiguous(message.leases):
            while low < high:
                leased = worker.find(message.leases[low])
                if leased is None:
                    self.counters.stale += 1
                    stop = low + 1
                else:
                    stop = min(high, low + leased.stop - message.leases[low])
                size = sum(message.head_sizes[low:stop])
                if leased is not None:
                    piece = _Piece(leased, message.leases[low] - leased.first, message, low, stop, heads[at : at + size])
                    self._land(piece, kept)
                low = stop
                at += size
        leases = message.leases
        if kept:
            leases = array("Q", (lease for lease in leases if lease not in kept))
        if leases:
            self._outbox.send(worker.link, Confirm(leases))

    def retracted(self, worker: Worker, message: Retracted) -> None:
        """A worker gave back what it had not started, and keeps the rest."""
        for leased, low, high in self._held(worker, message.leases):
            moved = leased.marks[low] == Mark.ASKED
            self.give_back(leased, low, high, moved=moved)
        for leased, low, high in self._held(worker, message.declined):
            for offset in range(low, high):
                self._mark(leased, offset, Mark.STARTED)

    def started(self, worker: Worker, message: Started) -> None:
        """Leases have been running for a while: their clients hear of it."""
        for leased, low, high in self._held(worker, message.leases):
            run = leased.run
            running = array("I")
            for offset in range(low, high):
                self._mark(leased, offset, Mark.STARTED)
                if run.states[leased.start + offset] == State.LEASED:
                    running.append(run.first + leased.start + offset)
            client = run.job.client
            if running and client.link:
                self._outbox.send(client.link, Running(run.job.client_number, running))

    # -- workers come and go ---------------------------------------------------------------------------------

    def resume(self, worker: Worker, leases: Column) -> int:
        """A worker is back within its grace, and says what it still holds. Returns how many leases it lost."""
        held = set(leases)
        lost = 0
        for leased in list(worker.leases):
            missing = [offset for offset in leased.live() if leased.first + offset not in held]
            lost += len(missing)
            for low, high in contiguous(array("Q", missing)):
                self.give_back(leased, missing[low], missing[high - 1] + 1)
            for offset in [offset for offset in leased.answering if leased.first + offset not in held]:
                self._lose_answer(leased, offset)
            if leased.run.flows and leased.left and leased.start in leased.run.flows:
                self._relay.aim(leased.run.flows[leased.start], worker.link, leased.first, leased.attempt)
        for digest in [digest for digest, flow in worker.blobs.items() if flow is not None]:
            self._blobs.wanted(worker, digest)
        return lost

    def lose(self, worker: Worker, *, blame: bool) -> int:
        """A worker is gone for good: what it held runs elsewhere. Returns how many leases that were.

        With `blame`, what may have been running counts a loss. A worker starts its leases in the order of their
        numbers, so beside those that it said had STARTED only its first `slots` unfinished ones can have been
        running, as far as the manager can know; when slots take small tasks in batches, others may have been, but
        blaming the whole batch would let a thousand innocent tasks collect losses. A killer that escapes the blame
        moves to the front as the tasks before it finish, and is caught there.
        """
        running = worker.slots if blame else 0
        lost = 0
        for leased in list(worker.leases):
            for offset in list(leased.answering):
                self._lose_answer(leased, offset)
            live = list(leased.live())
            lost += len(live)
            suspects = []
            for offset in live:
                if blame and (running > 0 or leased.marks[offset] == Mark.STARTED):
                    suspects.append(offset)
                    running -= 1
            innocent = array("Q", sorted(set(live).difference(suspects)))
            for offset in suspects:
                cause = f"the connection to worker {worker.name} was lost"
                self._count_loss(leased, offset, cause)
            for low, high in contiguous(innocent):
                self.give_back(leased, innocent[low], innocent[high - 1] + 1)
        for job in worker.jobs.values():
            job.workers.pop(worker, None)
        worker.jobs.clear()
        for digest in list(worker.blobs):
            self._blobs.retire(worker, digest)
        return lost

    def give_back(self, leased: Leased, low: int, high: int, *, moved: bool = False) -> None:
        """Leases end without a result: their tasks are queued for the next attempt."""
        self._close(leased, low, high, Mark.ENDED)
        run = leased.run
        start, stop = leased.start + low, leased.start + high
        for first, last in _leased_ranges(run, start, stop):
            self._requeue(run, first, last, leased.attempt, moved=moved)

    def aborted(self, worker: Worker, stream: int, attempt: int) -> None:
        """A worker ends a stream: it cannot send an answer that it announced, or takes no argument."""
        leased = worker.find(stream)
        if leased is None:
            return
        offset = stream - leased.first
        if offset in leased.answering:
            self._lose_answer(leased, offset)
        elif leased.marks[offset] < Mark.ANSWERING:
            flow = leased.run.flows.get(leased.start)
            if flow is not None:
                self._relay.unaim(flow)

    def acknowledged(self, delivery: Delivery) -> None:
        """A client has an answer with a body whole: its worker may free it."""
        run, start, stop = delivery.pieces[0]
        job = run.job
        failed = run.end(start, stop, delivery.outcome.statuses)
        job.failed += failed
        job.done += (stop - start) - failed
        self._unlease(job, stop - start)
        leased = delivery.leased
        if leased is not None:
            offset = start - leased.start
            self._end_answer(leased, offset)
            if leased.worker.link:
                self._outbox.send(leased.worker.link, Confirm(array("Q", [leased.first + offset])))

    def recalled(self, delivery: Delivery) -> None:
        """An answer with a body cannot be had any more: the task runs again."""
        run, start, stop = self._deliveries.recall(delivery)
        self._requeue(run, start, stop, delivery.outcome.attempt)

    def dropped(self, delivery: Delivery) -> None:
        """Nobody wants an answer with a body any more."""
        leased = delivery.leased
        if leased is not None:
            offset = delivery.pieces[0][1] - leased.start
            self._end_answer(leased, offset)
            if leased.worker.link:
                self._outbox.send(leased.worker.link, Confirm(array("Q", [leased.first + offset])))

    def cancelled(self, job: Job, tasks: int) -> None:
        """Leased tasks were cancelled: they count for nobody, though a slot may still run them."""
        self._unlease(job, tasks)

    def check(self, worker: Worker) -> None:
        """Assert the invariants of one worker's account."""
        assert worker.free + worker.running == worker.slots
        assert worker.unfinished == sum(leased.left for leased in worker.leases), worker.name
        assert worker.asked == sum(leased.marks.count(Mark.ASKED) for leased in worker.leases), worker.name
        bodies = sum(leased.run.body(leased.start) for leased in worker.leases if leased.left)
        assert worker.arena_used_bytes == bodies <= worker.arena_bytes, worker.name
        assert [leased.first for leased in worker.leases] == sorted(leased.first for leased in worker.leases)
        for leased in worker.leases:
            assert leased.left == sum(1 for _ in leased.live()) and (leased.left or leased.answering)
            assert leased.marks.count(Mark.ANSWERING) == len(leased.answering)
            assert leased in leased.run.job.leased_runs
        assert all(worker in job.workers for job in worker.jobs.values())

    @staticmethod
    def flows(worker: Worker) -> Iterator[Flow]:
        """The flows of blobs on their way to a worker."""
        return (flow for flow in worker.blobs.values() if flow is not None)

    # -- private ---------------------------------------------------------------------------------------------

    def _assign(self, worker: Worker, span: Span, now: float) -> None:
        run, count = span.run, span.stop - span.start
        job = run.job
        estimate = job.mean_seconds
        leased = Leased(
            self._lease, run, span.start, span.attempt, worker, bytearray(count), count, now,
            UNKNOWN_SECONDS if estimate is None else estimate, span.moved,
        )  # fmt: skip
        self._lease += count
        run.step(span.start, span.stop, Step.LEASE)
        job.leased += count
        job.client.leased += count
        job.leased_runs[leased] = None
        worker.leases.append(leased)
        worker.arena_used_bytes += run.body(span.start)
        self._scheduler.lease(leased)
        if job.number not in worker.jobs:
            if job.blob is not None:
                self._blobs.supply(worker, job.blob)
            worker.jobs[job.number] = job
            job.workers[worker] = None
            self._outbox.send(worker.link, job.message)
        sizes, heads = head_bytes(span)
        bodies = run.body_sizes[span.start : span.stop]
        self._outbox.send(
            worker.link, Assign(leased.first, job.number, run.first + span.start, span.attempt, sizes, bodies, heads)
        )
        flow = run.flows.get(span.start) if run.flows else None
        if flow is not None:
            self._relay.aim(flow, worker.link, leased.first, span.attempt)

    def _land(self, piece: _Piece, kept: set[int]) -> None:
        """Take the results of consecutive leases of one leased run."""
        if piece.plain():
            self._finish(piece)
            return
        for single in piece.split():
            if single.stop - single.low > 1:
                self._finish(single)
            elif self._land_one(single):
                kept.add(single.message.leases[single.low])

    def _land_one(self, piece: _Piece) -> bool:
        """Take the result of one lease. True where the worker has to keep its answer's body."""
        leased, offset, message = piece.leased, piece.offset, piece.message
        run, position = leased.run, leased.start + piece.offset
        mark, status = leased.marks[offset], message.statuses[piece.low]
        if mark == Mark.ENDED:
            self.counters.stale += 1
            return False
        if mark == Mark.ANSWERING:
            self.counters.duplicates += 1
            flow = leased.answering[offset].flow
            if flow is not None and not flow.source:
                self._relay.expect(flow, leased.worker.link, window=False)
            return True
        seconds = message.seconds[piece.low]
        if run.states[position] != State.LEASED:
            self.counters.stale += 1
            self._close(leased, offset, offset + 1, Mark.ENDED, seconds)
            return False
        if status == Status.CRASHED:
            self.counters.crashes += 1
            self._count_loss(leased, offset, bytes(piece.heads).decode(errors="replace"), seconds)
            return False
        if status == Status.RAISED and run.job.message.retries:
            task = run.task(position)
            if task.raised < run.job.message.retries:
                task.raised += 1
                self._close(leased, offset, offset + 1, Mark.ENDED, seconds)
                self._requeue(run, position, position + 1, leased.attempt)
                return False
        if message.body_sizes and message.body_sizes[piece.low]:
            self._answer(piece, message.body_sizes[piece.low])
            return True
        self._finish(piece)
        return False

    def _finish(self, piece: _Piece) -> None:
        """Results that are final and here: an OUTCOME of the same columns."""
        leased, message, count = piece.leased, piece.message, piece.stop - piece.low
        run, job = leased.run, leased.run.job
        start = leased.start + piece.offset
        statuses, sizes, spent = message.statuses, message.head_sizes, message.seconds
        if count != len(message.leases):
            low, high = piece.low, piece.stop
            statuses, sizes, spent = statuses[low:high], sizes[low:high], spent[low:high]
        seconds = sum(spent)
        job.time(count, seconds)
        failed = run.end(start, start + count, statuses)
        job.failed += failed
        job.done += count - failed
        self._close(leased, piece.offset, piece.offset + count, Mark.ENDED, seconds)
        self._unlease(job, count)
        indices = array("I", range(run.first + start, run.first + start + count))
        self._deliveries.deliver(
            job, [(run, start, start + count)], indices, leased.attempt, statuses, sizes, piece.heads
        )

    def _answer(self, piece: _Piece, size: int) -> None:
        """A result whose body is still at the worker: an OUTCOME of one task, and a flow."""
        leased, message, offset = piece.leased, piece.message, piece.offset
        run, job = leased.run, leased.run.job
        position = leased.start + offset
        seconds = message.seconds[piece.low]
        job.time(1, seconds)
        self._close(leased, offset, offset + 1, Mark.ANSWERING, seconds)
        flow = Flow(size, source_stream=leased.first + offset, source_attempt=leased.attempt)
        self._relay.expect(flow, leased.worker.link)
        leased.answering[offset] = self._deliveries.deliver(
            job,
            [(run, position, position + 1)],
            array("I", [run.first + position]),
            leased.attempt,
            message.statuses[piece.low : piece.stop],
            message.head_sizes[piece.low : piece.stop],
            piece.heads,
            body_bytes=size,
            leased=leased,
            flow=flow,
        )

    def _lose_answer(self, leased: Leased, offset: int) -> None:
        """The body of an answer cannot come from this worker any more."""
        delivery = leased.answering[offset]
        self._end_answer(leased, offset)
        delivery.leased = None
        flow = delivery.flow
        if flow is not None and flow.sink and flow.forwarded:
            self._relay.close_source(flow)  # all of it is on its way: the client's word is still to come
            return
        self.counters.requeued += 1
        self.recalled(delivery)

    def _count_loss(self, leased: Leased, offset: int, cause: str, seconds: float = 0.0) -> None:
        """A slot or worker died while this task ran, or may have: try again, but not for ever."""
        run, position = leased.run, leased.start + offset
        self._close(leased, offset, offset + 1, Mark.ENDED, seconds)
        if run.states[position] != State.LEASED:
            return
        task = run.task(position)
        task.losses += 1
        task.cause = cause
        if task.losses < self._limits.crash_tasks_max:
            self._requeue(run, position, position + 1, leased.attempt)
            return
        job = run.job
        run.step(position, position + 1, Step.FAIL)
        job.failed += 1
        self._unlease(job, 1)
        text = (
            f"{cause}; last run by worker {leased.worker.name} ({leased.worker.host}), attempt {leased.attempt}: "
            f"given up after {task.losses} deaths under this task"
        )
        self._outbox.log("warning", f"job {job.number} task {run.first + position}: {text}")
        self._deliveries.settle(job, [(run, position, position + 1)], leased.attempt, Status.CRASHED, text)

    def _requeue(self, run: Run, start: int, stop: int, attempt: int, *, moved: bool = False) -> None:
        """Leased tasks wait again; those that are too large for any worker by now fail."""
        run.step(start, stop, Step.REQUEUE)
        self.counters.requeued += stop - start
        self._unlease(run.job, stop - start)
        span = run.span(start, stop, attempt + 1)
        span.moved = moved
        self._scheduler.queue(span)

    def _close(self, leased: Leased, low: int, high: int, mark: Mark, seconds: float = 0.0) -> None:
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

    def _end_answer(self, leased: Leased, offset: int) -> None:
        leased.marks[offset] = Mark.ENDED
        del leased.answering[offset]
        if not leased.left and not leased.answering:
            self._remove(leased)

    @staticmethod
    def _remove(leased: Leased) -> None:
        leased.worker.remove(leased)
        del leased.run.job.leased_runs[leased]

    @staticmethod
    def _unlease(job: Job, tasks: int) -> None:
        job.leased -= tasks
        job.client.leased -= tasks

    @staticmethod
    def _mark(leased: Leased, offset: int, mark: Mark) -> None:
        if leased.marks[offset] == Mark.ASKED:
            leased.worker.asked -= 1
        leased.marks[offset] = mark

    def _held(self, worker: Worker, leases: Column) -> Iterator[tuple[Leased, int, int]]:
        """Find the leases that a worker speaks of and has not ended, in pieces of one leased run and mark."""
        for lease in leases:
            leased = worker.find(lease)
            if leased is None or leased.marks[lease - leased.first] >= Mark.ANSWERING:
                self.counters.stale += 1
            else:
                yield leased, lease - leased.first, lease - leased.first + 1


class _Piece:
    """Consecutive leases of one leased run, and their places in a RESULT."""

    __slots__ = ("heads", "leased", "low", "message", "offset", "stop")

    def __init__(self, leased: Leased, offset: int, message: Result, low: int, stop: int, heads: memoryview) -> None:
        self.leased = leased
        self.offset = offset
        self.message = message
        self.low = low
        self.stop = stop
        self.heads = heads

    def plain(self) -> bool:
        """Whether all of these just ended, and their answers are whole and final."""
        leased, message, low, stop = self.leased, self.message, self.low, self.stop
        start, count = leased.start + self.offset, stop - low
        return (
            max(leased.marks[self.offset : self.offset + count]) < Mark.ANSWERING
            and leased.run.all(State.LEASED, start, start + count)
            and not (message.body_sizes and any(message.body_sizes[low:stop]))
            and message.statuses.find(Status.CRASHED, low, stop) < 0
            and not (leased.run.job.message.retries and message.statuses.find(Status.RAISED, low, stop) >= 0)
        )

    def split(self) -> Iterator[_Piece]:
        """Cut into plain pieces and single odd ones."""
        sizes = self.message.head_sizes
        singles = []
        at = 0
        for place in range(self.low, self.stop):
            heads = self.heads[at : at + sizes[place]]
            singles.append(_Piece(self.leased, self.offset + place - self.low, self.message, place, place + 1, heads))
            at += sizes[place]
        at = begin = 0
        for number, single in enumerate(singles):
            if not single.plain():
                if begin < number:
                    yield self._part(singles[begin], number - begin, at)
                    at += sum(sizes[self.low + begin : self.low + number])
                yield single
                at += len(single.heads)
                begin = number + 1
        if begin < len(singles):
            yield self._part(singles[begin], len(singles) - begin, at)

    def _part(self, first: _Piece, count: int, at: int) -> _Piece:
        size = sum(self.message.head_sizes[first.low : first.low + count])
        return _Piece(self.leased, first.offset, self.message, first.low, first.low + count, self.heads[at : at + size])


def _leased_ranges(run: Run, start: int, stop: int) -> list[tuple[int, int]]:
    """Cut out what was cancelled."""
    if run.all(State.LEASED, start, stop):
        return [(start, stop)]
    positions = array("Q", (position for position in range(start, stop) if run.states[position] == State.LEASED))
    return [(positions[low], positions[high - 1] + 1) for low, high in contiguous(positions)]
