"""Outcomes on their way to clients: numbered, kept until acknowledged, told again after a reconnection. Pure.

    RESULT, cancel, failure ─▶ deliver ─▶ OUTCOME(sequence) ─▶ ACK(sequence) ─▶ acknowledge: the record goes

An answer without a body is finished when its OUTCOME is made: the manager has all of it. One with a body stays
LEASED until the client acknowledged it, since only its worker has the bytes; if that worker is lost before all of
them were forwarded, the answer is *recalled* (ABORT) and the task runs again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from starcore.errors import Code, OverrunError, Status
from starcore.manager import facts
from starcore.manager.columns import contiguous
from starcore.manager.flows import Flow
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Relay
from starcore.manager.state import TASK_OVERHEAD_BYTES, Client, Delivery, Job, Leased, Run
from starcore.manager.stored import Keeper
from starcore.manager.story import Stories
from starcore.messages import FRAME_PAYLOAD_BYTES_MAX, Abort, Buffer, Column, Outcome

Piece = tuple[Run, int, int]
"""Positions [start, stop) of a run."""


class Deliveries:
    """What clients have not acknowledged."""

    def __init__(self, outbox: Outbox, relay: Relay, stories: Stories, limits: Limits) -> None:
        self._outbox = outbox
        self._relay = relay
        self._stories = stories
        self._limits = limits
        self.full: set[Client] = set()
        """Clients whose unread answers exceed their result credit: nothing is dispatched for them."""
        self.kept: list[Delivery] = []
        """Outcomes of stored jobs, until the store takes them."""
        self.read: list[Delivery] = []
        """Acknowledged outcomes that were no task's own but what the store had said, until it takes them."""

    def deliver(
        self,
        job: Job,
        pieces: list[Piece],
        indices: Column,
        attempt: int,
        statuses: Buffer,
        head_sizes: Column,
        heads: Buffer,
        *,
        body_bytes: int = 0,
        leased: Leased | None = None,
        flow: Flow | None = None,
        settled: bool = False,
    ) -> Delivery:
        """Make an OUTCOME of tasks that ended, and send it if its client is connected."""
        client = job.client
        client.sequence += 1
        body_sizes = array("Q", (body_bytes,) if flow is not None else ())
        outcome = Outcome(client.sequence, job.client_number, attempt, indices, statuses, head_sizes, body_sizes, heads)
        measure = len(heads) + TASK_OVERHEAD_BYTES * len(indices) + min(body_bytes, self._limits.relay_window_bytes)
        delivery = Delivery(outcome, pieces, measure, flow, settled, leased)
        client.settled_bytes += measure * settled
        client.unread[client.sequence] = delivery
        for run, start, stop in pieces:
            client.owed_bytes -= self._owed(run, start, stop)
            if flow is None:
                self._finish(run, start, stop)
            else:
                run.answers[start] = delivery
        self._unread(client, measure)
        if self._outbox.journaled and job.journaled and pieces:
            self._outbox.record(facts.of_outcome(job, delivery))
        self._send(client, delivery, window=True)
        return delivery

    def restore(self, client: Client, delivery: Delivery) -> None:
        """Take in an outcome of an earlier manager's."""
        client.unread[delivery.outcome.sequence] = delivery
        client.settled_bytes += delivery.bytes * delivery.settled
        self._unread(client, delivery.bytes)

    def settle(self, job: Job, pieces: list[Piece], attempt: int, status: Status, text: str = "") -> None:
        """Make an OUTCOME that no worker had a part in: the tasks were cancelled, or cannot run."""
        head = text.encode()
        count = sum(stop - start for _, start, stop in pieces)
        indices = array("I")
        for run, start, stop in pieces:
            indices.extend(range(run.first + start, run.first + stop))
        sizes = array("I", [len(head)]) * count
        self._stories.settled(job, indices, attempt, status, text)
        self.deliver(job, pieces, indices, attempt, bytes((status,)) * count, sizes, head * count, settled=True)

    def refuse(self, job: Job, indices: Iterable[int], status: Status, text: str = "") -> None:
        """Make an OUTCOME of tasks that are not here at all."""
        column = array("I", indices)
        count = len(column)
        head = text.encode()[: FRAME_PAYLOAD_BYTES_MAX // max(1, count)]  # it goes to each, in one message
        sizes = array("I", [len(head)]) * count
        delivery = self.deliver(job, [], column, 0, bytes((status,)) * count, sizes, head * count, settled=True)
        job.refused.update(dict.fromkeys(column, delivery.outcome.sequence))

    @staticmethod
    def refused(job: Job, first: int, stop: int) -> list[tuple[int, int]]:
        """Return which of these tasks were refused, and their client has not read it: from first to stop each."""
        indices = array("I", (index for index in range(first, stop) if index in job.refused))
        return [(indices[low], indices[high - 1] + 1) for low, high in contiguous(indices)]

    def acknowledge(self, client: Client, sequence: int) -> Delivery | None:
        """The client has an outcome whole. Returns what it was; None if that is long over."""
        delivery = client.unread.pop(sequence, None)
        if delivery is None:
            return None
        self._unread(client, -delivery.bytes)
        client.settled_bytes -= delivery.bytes * delivery.settled
        if delivery.flow is not None:
            self._relay.end(delivery.flow)
            for run, start, stop in delivery.pieces:
                del run.answers[start]
                self._finish(run, start, stop)
        for run, start, stop in delivery.pieces:
            run.unread -= stop - start
            if run.unread == 0:
                run.job.remove(run)
        if not delivery.pieces:
            self._unrefuse(client.jobs.get(delivery.outcome.job), delivery.outcome)
            self.read.append(delivery)
        self._stories.delivered(delivery)
        return delivery

    def keep(self, delivery: Delivery) -> None:
        """The store has an answer's body whole: neither its worker nor its argument is needed any more."""
        run, start, stop = delivery.pieces[0]
        delivery.flow = delivery.leased = None
        del run.answers[start]
        self._finish(run, start, stop)

    def recall(self, delivery: Delivery) -> Piece:
        """Take an answer back whose body cannot be had any more. Returns the task, which is still leased."""
        run, start, stop = delivery.pieces[0]
        client, flow = run.job.client, delivery.flow
        assert flow is not None, "only an answer with a body can be lost"
        del client.unread[delivery.outcome.sequence]
        self._unread(client, -delivery.bytes)
        if flow.sink:
            reason = "the worker that had this answer is gone"
            self._outbox.send(flow.sink, Abort(flow.sink_stream, flow.sink_attempt, Code.GONE, reason))
        self._relay.end(flow)
        del run.answers[start]
        run.task(start).settled = True
        return run, start, stop

    def require_read(self, client: Client) -> None:
        """Ask nothing more of us before what we said to it is acknowledged. Raises OverrunError."""
        most = self._limits.settled_bytes
        if client.settled_bytes > most:
            raise OverrunError(f"{client.settled_bytes} bytes of outcomes are not acknowledged, where {most} are kept")

    def resend(self, client: Client) -> None:
        """Tell a client that came back, perhaps with another credit, what it has not acknowledged."""
        self._unread(client, 0)
        for delivery in client.unread.values():
            self._send(client, delivery, window=False)

    def forget(self, client: Client) -> None:
        """The client's session is over."""
        for delivery in client.unread.values():
            if delivery.flow is not None:
                self._relay.end(delivery.flow)
        client.unread.clear()
        client.unread_bytes = client.settled_bytes = 0
        self.full.discard(client)

    @staticmethod
    def flows(client: Client) -> Iterator[Flow]:
        """The flows of answers."""
        return (delivery.flow for delivery in client.unread.values() if delivery.flow is not None)

    def check(self, client: Client) -> None:
        """Assert the invariants of one client's account."""
        assert client.unread_bytes == sum(delivery.bytes for delivery in client.unread.values())
        assert client.settled_bytes == sum(each.bytes for each in client.unread.values() if each.settled)
        assert type(client) is Keeper or (client in self.full) == (client.unread_bytes > client.result_bytes)
        for sequence, delivery in client.unread.items():
            assert delivery.outcome.sequence == sequence
            assert delivery.leased is None or delivery in delivery.leased.answering.values()
        for job in client.jobs.values():
            assert set(job.refused.values()) <= client.unread.keys(), "a refusal that was read"

    # -- private ---------------------------------------------------------------------------------------------

    def _send(self, client: Client, delivery: Delivery, *, window: bool) -> None:
        if not client.link:
            if type(client) is Keeper:
                self.kept.append(delivery)
            return
        self._outbox.send(client.link, delivery.outcome)
        if delivery.flow is not None:
            stream = delivery.outcome.job << 32 | delivery.outcome.indices[0]
            self._relay.aim(delivery.flow, client.link, stream, delivery.outcome.attempt, window=window)
        else:
            self._relay.among(client.link)

    @staticmethod
    def _unrefuse(job: Job | None, outcome: Outcome) -> None:
        """Its client knows of tasks that were refused: it may submit them again."""
        if job is not None and job.refused:
            for index in outcome.indices:
                if job.refused.get(index) == outcome.sequence:
                    del job.refused[index]

    def _unread(self, client: Client, change: int) -> None:
        client.unread_bytes += change
        if client.unread_bytes > client.result_bytes:
            self.full.add(client)
        else:
            self.full.discard(client)

    def _finish(self, run: Run, start: int, stop: int) -> None:
        """The manager needs nothing of these tasks' arguments any more."""
        run.unfinished -= stop - start
        if run.flows:
            for position in range(start, stop):
                flow = run.flows.pop(position, None)
                if flow is not None:
                    self._relay.end(flow)
                    if flow.lender is not None:
                        self._relay.end(flow.lender)
        if run.unfinished == 0:
            run.release()

    @staticmethod
    def _owed(run: Run, start: int, stop: int) -> int:
        """What these tasks give back of the submit credit; nothing where they gave it back before."""
        owed = sum(run.head_sizes[start:stop]) + TASK_OVERHEAD_BYTES * (stop - start)
        for position in run.tasks:
            if start <= position < stop and run.tasks[position].settled:
                owed -= run.head_sizes[position] + TASK_OVERHEAD_BYTES
        return owed
