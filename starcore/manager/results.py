"""Results: what workers answer, and what becomes of answers whose bodies they hold. Pure.

A RESULT's columns for consecutive leases of one leased run go into an OUTCOME as they are; only tasks to which
something happened (an exception with retries left, a crash, a cancellation, a body) are looked at one by one::

    RESULT ─▶ pieces of one leased run ─┬─ plain ─▶ OUTCOME, CONFIRM
                                        └─ single ─▶ stale | once more | OUTCOME and a flow; CONFIRM after ACK
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from starcore.errors import Status
from starcore.manager import facts
from starcore.manager.columns import contiguous
from starcore.manager.delivery import Deliveries
from starcore.manager.flows import Flow
from starcore.manager.leases import Leases
from starcore.manager.outbox import Outbox
from starcore.manager.records import Delivered
from starcore.manager.relay import Relay
from starcore.manager.state import Delivery, Leased, Mark, State, Worker
from starcore.manager.stored import Keeper
from starcore.manager.story import Stories
from starcore.messages import Column, Confirm, Result


class Results:
    """Answers on their way from workers to outcomes."""

    def __init__(
        self, outbox: Outbox, relay: Relay, deliveries: Deliveries, leases: Leases, stories: Stories
    ) -> None:
        self._outbox = outbox
        self._relay = relay
        self._deliveries = deliveries
        self._leases = leases
        self._stories = stories

    def take(self, worker: Worker, message: Result) -> None:
        """Leases ended."""
        message.statuses = bytes(message.statuses)
        kept: set[int] = set()
        lone = worker.find(message.leases[0]) if len(message.leases) == 1 else None
        if lone is not None:
            heads = memoryview(message.heads)
            pieces: Iterable[_Piece] = (_Piece(lone, message.leases[0] - lone.first, message, 0, 1, heads),)
        else:
            pieces = self._pieces(worker, message)
        for piece in pieces:
            if piece.plain():
                self._finish(piece)
                continue
            for part in piece.split():
                if part.count > 1:
                    self._finish(part)
                elif self._one(part):
                    kept.add(message.leases[part.low])
        leases = message.leases
        if kept:
            leases = array("Q", (lease for lease in leases if lease not in kept))
        if leases:
            # Nothing waits for it, and the next ASSIGN takes it along: alone it would cost a lone task a TLS record.
            self._outbox.send(worker.link, Confirm(leases), hurry=False)

    def acknowledged(self, deliveries: list[Delivery]) -> None:
        """A client has answers with bodies whole: their workers may free them, and hear it in one message each."""
        freed: dict[int, Column] = {}
        for delivery in deliveries:
            run, start, stop = delivery.pieces[0]
            job = run.job
            failed = run.end(start, stop, delivery.outcome.statuses)
            job.failed += failed
            job.done += (stop - start) - failed
            self._leases.unlease(job, stop - start)
            if self._outbox.journaled and job.journaled and type(job.client) is not Keeper:
                self._outbox.record(Delivered(job.number, delivery.outcome.indices, delivery.outcome.statuses))
            leased = delivery.leased
            if leased is not None:
                offset = start - leased.start
                self._leases.end_answer(leased, offset)
                freed.setdefault(leased.worker.link, array("Q")).append(leased.first + offset)
        for link, leases in freed.items():
            if link:
                self._outbox.send(link, Confirm(leases))

    def recalled(self, delivery: Delivery) -> None:
        """An answer with a body cannot be had any more: the task runs again."""
        run, start, stop = self._deliveries.recall(delivery)
        self._leases.requeue(run, start, stop, delivery.outcome.attempt, "the worker that had its answer is gone")

    def dropped(self, delivery: Delivery) -> None:
        """Nobody wants an answer with a body any more."""
        leased = delivery.leased
        if leased is not None:
            offset = delivery.pieces[0][1] - leased.start
            self._leases.end_answer(leased, offset)
            if leased.worker.link:
                self._outbox.send(leased.worker.link, Confirm(array("Q", [leased.first + offset])))

    def lose(self, leased: Leased, offset: int) -> None:
        """The body of an answer cannot come from this worker any more."""
        delivery = leased.answering[offset]
        self._leases.end_answer(leased, offset)
        delivery.leased = None
        flow = delivery.flow
        told = flow is not None and flow.sink_stream and not flow.asked
        if flow is not None and (flow.forwarded or flow.kept_whole or told):
            # All of it is here, or on its way, or the client was told of it: its word is still to come, which may be
            # that it wants no answer, or has this one. (Where it asks for the bytes, the task runs again.)
            self._relay.close_source(flow)
            return
        self.recalled(delivery)

    def _pieces(self, worker: Worker, message: Result) -> Iterator[_Piece]:
        """Cut a RESULT where the leases are not consecutive, or another leased run begins."""
        heads = memoryview(message.heads)
        at = 0
        for start, end in contiguous(message.leases):
            low = start
            while low < end:
                lease = message.leases[low]
                leased = worker.find(lease)
                high = low + 1 if leased is None else min(end, low + leased.stop - lease)
                size = sum(message.head_sizes[low:high])
                if leased is None:
                    self._leases.counters.stale += 1
                else:
                    yield _Piece(leased, lease - leased.first, message, low, high, heads[at : at + size])
                low = high
                at += size

    def _one(self, piece: _Piece) -> bool:
        """Take the result of one lease. True where the worker has to keep its answer's body."""
        leased, offset, message = piece.leased, piece.offset, piece.message
        run, position = leased.run, leased.start + piece.offset
        mark, status = leased.marks[offset], message.statuses[piece.low]
        if mark == Mark.ENDED:
            self._leases.counters.stale += 1
            return False
        if mark == Mark.ANSWERING:
            self._leases.counters.duplicates += 1
            flow = leased.answering[offset].flow
            if flow is not None and not flow.source and not flow.kept_whole:
                self._relay.expect(flow, leased.worker.link, window=False)
            return True
        seconds = self._seconds(piece)
        if run.states[position] != State.LEASED:
            self._leases.counters.stale += 1
            self._leases.close(leased, offset, offset + 1, Mark.ENDED, seconds)
            return False
        if status == Status.CRASHED:
            self._leases.counters.crashes += 1
            self._leases.count_loss(leased, offset, bytes(piece.heads).decode(errors="replace"), seconds)
            return False
        if status == Status.RAISED and run.job.message.retries:
            task = run.task(position)
            if task.raised < run.job.message.retries:
                task.raised += 1
                if self._outbox.journaled and run.job.journaled:
                    self._outbox.record(facts.of_trouble(run, position, task))
                self._leases.close(leased, offset, offset + 1, Mark.ENDED, seconds)
                cause = f"raised on worker {leased.worker.name}: retry {task.raised} of {run.job.message.retries}"
                self._leases.requeue(run, position, position + 1, leased.attempt, cause)
                return False
        if message.body_sizes and message.body_sizes[piece.low]:
            self._answer(piece, message.body_sizes[piece.low])
            return True
        self._finish(piece)
        return False

    def _finish(self, piece: _Piece) -> None:
        """Results that are final and here: an OUTCOME of the same columns."""
        leased, message, count = piece.leased, piece.message, piece.count
        run, job = leased.run, leased.run.job
        start = leased.start + piece.offset
        statuses, sizes = message.statuses, message.head_sizes
        if count != len(message.leases):
            low, high = piece.low, piece.high
            statuses, sizes = statuses[low:high], sizes[low:high]
        seconds = self._seconds(piece)
        job.time(count, seconds)
        failed = run.end(start, start + count, statuses)
        job.failed += failed
        job.done += count - failed
        self._leases.close(leased, piece.offset, piece.offset + count, Mark.ENDED, seconds)
        self._leases.unlease(job, count)
        self._stories.ended(leased, start, statuses)
        indices = array("I", range(run.first + start, run.first + start + count))
        self._deliveries.deliver(
            job, [(run, start, start + count)], indices, leased.attempt, statuses, sizes, piece.heads
        )

    def _seconds(self, piece: _Piece) -> float:
        """How long the leases of a piece ran: as the worker says, but no longer than it had them."""
        leased, spent = piece.leased, piece.message.seconds
        if len(spent) == 1:
            lone: float = min(spent[0], self._outbox.now - leased.at + CLOCK_GRAIN_SECONDS)
            return lone
        if piece.count != len(spent):
            spent = spent[piece.low : piece.high]
        slots = min(piece.count, leased.worker.slots)
        return min(sum(spent), slots * (self._outbox.now - leased.at + CLOCK_GRAIN_SECONDS))

    def _answer(self, piece: _Piece, size: int) -> None:
        """A result whose body is still at the worker: an OUTCOME of one task, and a flow."""
        leased, message, offset = piece.leased, piece.message, piece.offset
        run, job = leased.run, leased.run.job
        position = leased.start + offset
        seconds = self._seconds(piece)
        job.time(1, seconds)
        self._leases.close(leased, offset, offset + 1, Mark.ANSWERING, seconds)
        self._stories.ended(leased, position, message.statuses[piece.low : piece.high])
        flow = Flow(size, source_stream=leased.first + offset, source_attempt=leased.attempt)
        self._relay.expect(flow, leased.worker.link)
        delivery = self._deliveries.deliver(
            job,
            [(run, position, position + 1)],
            array("I", [run.first + position]),
            leased.attempt,
            message.statuses[piece.low : piece.high],
            message.head_sizes[piece.low : piece.high],
            piece.heads,
            body_bytes=size,
            leased=leased,
            flow=flow,
        )
        self._leases.begin_answer(leased, offset, delivery)


CLOCK_GRAIN_SECONDS = 0.001
"""The loop's clock counts whole milliseconds; what began and ended in one of them did take time."""


@dataclass(slots=True)
class _Piece:
    """Consecutive leases of one leased run, and their places [low, high) in a RESULT."""

    leased: Leased
    offset: int
    message: Result
    low: int
    high: int
    heads: memoryview

    @property
    def count(self) -> int:
        return self.high - self.low

    def plain(self) -> bool:
        """Whether all of these just ended, and their answers are whole and final."""
        leased, message, low, high = self.leased, self.message, self.low, self.high
        run, start, count = leased.run, leased.start + self.offset, high - low
        if count == 1:
            status = message.statuses[low]
            return (
                leased.marks[self.offset] < Mark.ANSWERING
                and run.states[start] == State.LEASED
                and not (message.body_sizes and message.body_sizes[low])
                and status != Status.CRASHED
                and not (status == Status.RAISED and run.job.message.retries)
            )
        statuses = bytes(message.statuses)
        return (
            max(leased.marks[self.offset : self.offset + count]) < Mark.ANSWERING
            and run.all(State.LEASED, start, start + count)
            and not (message.body_sizes and any(message.body_sizes[low:high]))
            and statuses.find(Status.CRASHED, low, high) < 0
            and not (run.job.message.retries and statuses.find(Status.RAISED, low, high) >= 0)
        )

    def split(self) -> Iterator[_Piece]:
        """Cut into plain pieces and single odd ones."""
        singles = list(self._singles())
        plain = [single.plain() for single in singles]
        at = place = 0
        for good, group in groupby(plain):
            number = len(list(group))
            if good:
                first, size = singles[place], sum(len(single.heads) for single in singles[place : place + number])
                heads = self.heads[at : at + size]
                yield _Piece(self.leased, first.offset, self.message, first.low, first.low + number, heads)
                at += size
            else:
                yield from singles[place : place + number]
                at += sum(len(single.heads) for single in singles[place : place + number])
            place += number

    def _singles(self) -> Iterator[_Piece]:
        sizes, at = self.message.head_sizes, 0
        for place in range(self.low, self.high):
            heads = self.heads[at : at + sizes[place]]
            yield _Piece(self.leased, self.offset + place - self.low, self.message, place, place + 1, heads)
            at += sizes[place]
