"""Outcomes on their way in: what is whole, what is landing, what is to be acknowledged. Pure.

An OUTCOME is acknowledged when every body that it announced is here, and until then its manager keeps it. Late
and repeated ones find their tasks done and are acknowledged again. ACKs wait a moment for company: most travel
with the next SUBMIT.

A body that a lost link cut off goes on where it stopped, when the very same answer is announced again; so bodies
arrive even where no link lives long enough for a whole one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from operator import sub

from starcore.client.orders import Discard, Landed, Outbox, Receive, Released, Resolve
from starcore.client.state import CANCELLING, DONE, LANDING, SENT, JobEntry, Ledger, Run
from starcore.events import ChunkReceived
from starcore.messages import Abort, Ack, Column, Outcome
from starcore.streams import Receiving, Sending

ACK_DELAY_SECONDS = 0.02
"""Long enough that in a loop of calls the next SUBMIT takes the ACK along."""
BODY_ACK_DELAY_SECONDS = 0.002
"""An answer with a body lies in a worker's arena until it is acknowledged."""
ACKS_MAX = 1024


@dataclass(slots=True)
class _Answer:
    """An OUTCOME some of whose bodies are on their way."""

    sequence: int
    tasks: int
    pending: int = 0
    aborted: int = 0


@dataclass(slots=True)
class _Landing:
    run: Run
    at: int
    attempt: int
    status: int
    size: int
    answer: _Answer


@dataclass(slots=True)
class _CutOff:
    """What a lost link left of a landing, and by what its answer is known again."""

    job: int
    index: int
    same: tuple[int, int, int]
    position: int


class Answers:
    """The incoming half of one session."""

    def __init__(self, ledger: Ledger, outbox: Outbox) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._landings: dict[int, _Landing] = {}
        self._cut_off: dict[int, _CutOff] = {}
        self._acks: Column = array("Q")
        self._ack_at = 0.0
        self._receiving = Receiving()
        self._sending = Sending()

    @property
    def ack_at(self) -> float | None:
        """When acknowledgements are due that nothing else has taken along."""
        return self._ack_at if self._acks else None

    def open_link(self, sending: Sending, first_window_bytes: int, resumed: bool) -> None:
        """Begin on a new link; a manager that does not know the session announces nothing again."""
        self._sending = sending
        self._receiving = Receiving(first_window_bytes)
        if not resumed:
            for stream in list(self._cut_off):
                self._discard(stream)

    def leave_link(self) -> None:
        """A link is gone: what was landing is announced again, and what was not acknowledged said again."""
        for stream, landing in self._landings.items():
            same = (landing.answer.sequence, landing.attempt, landing.size)
            index = landing.run.first + landing.at
            position = self._receiving.position(stream)
            self._cut_off[stream] = _CutOff(landing.run.entry.job.job, index, same, position)
        self._landings.clear()
        self._acks = array("Q")
        self._receiving = Receiving()

    def outcome(self, entry: JobEntry, message: Outcome) -> None:
        """Settle what is whole, make landings for what is not; acknowledge where nothing is on its way."""
        if len(message.indices) == 1 and not message.body_sizes and not self._cut_off:
            index = message.indices[0]
            run = self._ledger.find(entry, index)
            if run is not None and self._ledger.settle_sent(run, index - run.first, index - run.first + 1):
                self._outbox.ask(
                    Resolve(message.job, message.indices, message.statuses, message.head_sizes, message.heads)
                )
                self.acknowledge(message.sequence)
                return
        sizes = message.body_sizes if any(message.body_sizes) else None
        answer = _Answer(message.sequence, len(message.indices))
        fresh: list[int] = []
        for position, run, start, stop in self._stretches(entry, message.indices):
            if sizes is None and not self._cut_off and self._ledger.settle_sent(run, start, stop):
                fresh += range(position, position + stop - start)
            else:
                self._outcome_each(run, start, stop, message, position, answer, fresh)
        if fresh:
            self._outbox.ask(_resolve(message, fresh))
        if not answer.pending:
            self.acknowledge(message.sequence)

    def _stretches(self, entry: JobEntry, indices: Column) -> Iterator[tuple[int, Run, int, int]]:
        """Where the indices count up by ones within one run: position, run, start and stop in it."""
        steps = map(sub, indices[1:], indices)
        ends = [at for at, step in enumerate(steps, 1) if step != 1]
        position = 0
        for end in [*ends, len(indices)]:
            while position < end:
                index = indices[position]
                run = self._ledger.find(entry, index)
                if run is None:  # done long ago
                    position += 1
                    continue
                start = index - run.first
                stop = min(start + end - position, len(run.states))
                yield position, run, start, stop
                position += stop - start

    def _outcome_each(
        self, run: Run, start: int, stop: int, message: Outcome, position: int, answer: _Answer, fresh: list[int]
    ) -> None:
        """Settle or land the tasks of a stretch one by one; add the positions of those with an answer for the user."""
        released = []
        for at in range(start, stop):
            state = run.states[at]
            if state != DONE:
                size = message.body_sizes[position] if message.body_sizes else 0
                if size and state != CANCELLING:
                    landing = _Landing(run, at, message.attempt, message.statuses[position], size, answer)
                    self._land(landing, message, position)
                else:
                    if state != CANCELLING:
                        fresh.append(position)
                        if run.body(at):
                            released.append(run.first + at)
                    self._settle(run, at)
            position += 1
        if released:
            self._outbox.ask(Released(message.job, released))

    def chunk(self, event: ChunkReceived) -> JobEntry | None:
        """Account a chunk; return the job whose task it made whole."""
        stream = event.stream
        if not self._receiving.take(stream, event.attempt, event.offset, event.length):
            return None
        if not self._receiving.complete(stream):
            return None
        landing = self._landings.pop(stream)
        run, at, answer = landing.run, landing.at, landing.answer
        job, index = run.entry.job.job, run.first + at
        self._receiving.close(stream)
        self._sending.close(stream)
        if run.body(at):
            self._outbox.ask(Released(job, [index]))
        self._ledger.settle(run, at)
        self._outbox.ask(Landed(job, index, landing.status))
        answer.pending -= 1
        if not answer.pending:
            self.acknowledge(answer.sequence, BODY_ACK_DELAY_SECONDS)
        return run.entry

    def abort(self, message: Abort) -> bool:
        """The worker was lost in the middle of an answer. False where no answer has this stream."""
        landing = self._landings.get(message.stream)
        if landing is None:
            return False
        if message.attempt >= landing.attempt:
            self.void(message.stream)
        return True

    def void(self, stream: int) -> None:
        """End a landing, if there is one: its task is outstanding again."""
        self._discard(stream)
        landing = self._forget(stream)
        if landing is not None:
            self._ledger.move(landing.run, landing.at, SENT)
            self._outbox.ask(Discard(landing.run.entry.job.job, landing.run.first + landing.at))

    def acknowledge(self, sequence: int, delay_seconds: float = ACK_DELAY_SECONDS) -> None:
        """Acknowledge soon."""
        due = self._outbox.now + delay_seconds
        self._ack_at = min(self._ack_at, due) if self._acks else due
        self._acks.append(sequence)
        if len(self._acks) >= ACKS_MAX:
            self.flush()

    def flush(self) -> None:
        """Acknowledge now."""
        if self._acks:
            acks, self._acks = self._acks, array("Q")
            self._outbox.send(Ack(acks))

    def check(self, live: bool) -> None:
        """Assert the invariants."""
        self._receiving.check()
        assert live or not (self._landings or self._acks or len(self._receiving))
        assert set(self._landings) == {stream for stream in self._landings if stream in self._receiving}
        assert len(self._receiving) == len(self._landings)
        assert not self._landings.keys() & self._cut_off.keys()
        for stream, landing in self._landings.items():
            assert landing.run.states[landing.at] == LANDING, stream
            assert stream == _stream(landing.run, landing.at)
            assert landing.answer.pending > 0

    def _land(self, landing: _Landing, message: Outcome, position: int) -> None:
        run, at, size = landing.run, landing.at, landing.size
        stream = _stream(run, at)
        cut_off = self._cut_off.get(stream)
        if cut_off is not None and cut_off.same == (message.sequence, landing.attempt, size):
            del self._cut_off[stream]
            self._receiving.resume(stream, landing.attempt, size, cut_off.position)
        else:
            self.void(stream)
            self._receiving.open(stream, landing.attempt, size)
            start = sum(message.head_sizes[:position])
            head = bytes(message.heads[start : start + message.head_sizes[position]])
            self._outbox.ask(Receive(run.entry.job.job, run.first + at, landing.attempt, landing.status, head, size))
        self._ledger.move(run, at, LANDING)
        landing.answer.pending += 1
        self._landings[stream] = landing
        grant = self._receiving.grant(stream, size)
        assert grant is not None, stream
        self._outbox.send(grant)

    def _settle(self, run: Run, at: int) -> None:
        """A task is over, and so is every stream of its own."""
        if run.bodies and run.bodies[at]:
            self._sending.close(_stream(run, at))
        if run.states[at] == LANDING:
            self._forget(_stream(run, at))
        if self._cut_off:
            self._discard(_stream(run, at))
        self._ledger.settle(run, at)

    def _discard(self, stream: int) -> None:
        cut_off = self._cut_off.pop(stream, None)
        if cut_off is not None:
            self._outbox.ask(Discard(cut_off.job, cut_off.index))

    def _forget(self, stream: int) -> _Landing | None:
        landing = self._landings.pop(stream, None)
        if landing is None:
            return None
        self._receiving.close(stream)
        answer = landing.answer
        answer.pending -= 1
        answer.aborted += 1
        # What was only ever aborted was not delivered: a later OUTCOME, with another sequence, will be.
        if not answer.pending and answer.aborted < answer.tasks:
            self.acknowledge(answer.sequence)
        return landing


def _stream(run: Run, at: int) -> int:
    return int(run.entry.job.job << 32 | run.first + at)


def _resolve(message: Outcome, positions: list[int]) -> Resolve:
    """The outcomes at these positions; the message's own columns where that is all of them."""
    if len(positions) == len(message.indices):
        return Resolve(message.job, message.indices, message.statuses, message.head_sizes, message.heads)
    starts = [0]
    for size in message.head_sizes:
        starts.append(starts[-1] + size)
    return Resolve(
        message.job,
        array("I", [message.indices[at] for at in positions]),
        bytes(message.statuses[at] for at in positions),
        array("I", [message.head_sizes[at] for at in positions]),
        b"".join(message.heads[starts[at] : starts[at + 1]] for at in positions),
    )
