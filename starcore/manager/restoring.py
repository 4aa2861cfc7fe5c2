"""A manager's state, rebuilt from what its journal's records came to. Pure.

Sessions are absent until their peers dial again, tasks are QUEUED, or LEASED to a worker that is waited for. Bodies
are not here: a living client sends them again (`Submit` with `again`), a worker has its answers on the shelf. Those of
stored jobs lie in files.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping

from starcore.errors import ProtocolError
from starcore.events import Token
from starcore.manager.blobs import Blobs
from starcore.manager.clients import Clientele, capability_of
from starcore.manager.columns import contiguous
from starcore.manager.delivery import Deliveries
from starcore.manager.flows import Flow
from starcore.manager.leases import Leases
from starcore.manager.records import ClientKnown, Ended, JobKnown, WorkerKnown
from starcore.manager.recovery import (
    NO_LEASE,
    STATES,
    File,
    KeptClient,
    KeptJob,
    KeptRun,
    KeptStored,
    KeptWorker,
    Recovery,
)
from starcore.manager.relay import Relay
from starcore.manager.scheduling import Scheduler
from starcore.manager.sessions import Sessions
from starcore.manager.state import (
    TASK_OVERHEAD_BYTES,
    Capability,
    Client,
    Delivery,
    Job,
    Run,
    Span,
    State,
    Task,
    Worker,
    python_capability,
)
from starcore.manager.store import Store
from starcore.manager.stored import Keeper, StoredJob
from starcore.messages import Blob as BlobMessage
from starcore.messages import FunctionKind, Outcome
from starcore.messages import Job as JobMessage


class Shelf:
    """The files of stored jobs that an earlier manager left: `bodies` says what stands for each.

    One file is one kept flow, however many jobs need it.
    """

    def __init__(self, relay: Relay, bodies: Mapping[int, Token]) -> None:
        self._relay = relay
        self._bodies = bodies

    def flow(self, file: File) -> Flow:
        """Return a flow that keeps this file."""
        number, size = file
        return self._relay.restore(Flow(size, number=number), self._bodies[number])

    def argument(self, file: File) -> Flow:
        """Return a flow that sends this file to whoever runs a task."""
        return self._relay.loan(self.flow(file))


class Restorer:
    """Fills the tables of a manager that has none yet."""

    def __init__(
        self,
        sessions: Sessions,
        blobs: Blobs,
        scheduler: Scheduler,
        deliveries: Deliveries,
        leases: Leases,
        clientele: Clientele,
        store: Store,
        shelf: Shelf,
    ) -> None:
        self._sessions = sessions
        self._blobs = blobs
        self._scheduler = scheduler
        self._deliveries = deliveries
        self._leases = leases
        self._clientele = clientele
        self._store = store
        self._shelf = shelf
        self._workers: dict[bytes, Worker] = {}
        self._jobs: dict[int, Job] = {}

    def restore(self, recovery: Recovery, now: float, wall_seconds: float = 0.0) -> None:
        """Make what was; `wall_seconds` is what `now` lacks to count from 1970."""
        recovery.settle({})
        for kept in recovery.workers.values():
            self._worker(kept.known, now)
        for client in recovery.clients.values():
            self._client(client, recovery, now)
        stored = [job for job in recovery.jobs.values() if isinstance(job, KeptStored)]
        for job in stored:
            self._stored(job, recovery, now, wall_seconds)
        self._clientele.jobs = recovery.last_job
        self._store.count_bodies(recovery.last_body)
        for worker in recovery.workers.values():
            self._jobs_held(worker)
        self._tasks(recovery, now)
        for client in recovery.clients.values():
            self._unread(client)
        for job in stored:
            self._outcomes(job)
        for each in recovery.jobs.values():
            self._jobs[each.known.job].forgotten = each.forgotten

    # -- sessions and jobs -----------------------------------------------------------------------------------

    def _worker(self, known: WorkerKnown, now: float) -> None:
        capabilities: list[Capability] = [python_capability(known.python)] if known.shipped else []
        capabilities += [(FunctionKind.REGISTERED, name) for name in known.functions]
        worker = self._workers[known.session] = Worker(
            known.session,
            known.identity,
            known.name,
            known.host,
            known.address,
            known.python,
            known.slots,
            known.arena_bytes,
            tuple(capabilities),
            certificate=known.certificate,
        )
        self._sessions.restore(worker, now)
        self._scheduler.join(worker)
        self._scheduler.leave(worker, returning=True)

    def _client(self, kept: KeptClient, recovery: Recovery, now: float) -> None:
        known = kept.known
        client = _client_of(known)
        # Outcomes that were said and not written down have numbers that must not come again.
        client.sequence = (kept.sequence >> 32) + 1 << 32
        self._sessions.restore(client, now)
        for job in kept.jobs.values():
            self._job(client, job, recovery)

    def _job(self, client: Client, kept: KeptJob, recovery: Recovery) -> None:
        known = kept.known
        self._clientele.jobs = known.job - 1
        with contextlib.suppress(ProtocolError):  # it broke a rule then, too, and its client was told
            self._clientele.job(client, _message_of(known))
        if known.number not in client.jobs:  # the limits were larger: its client says it again, and is told why
            del recovery.jobs[known.job]
            return
        self._jobs[known.job] = client.jobs[known.number]
        blob = recovery.blobs.get(known.digest)
        if blob is not None and known.kind == FunctionKind.SHIPPED:
            refused = self._blobs.offered(client, BlobMessage(blob.digest, 0, 0, blob.head))
            if refused is not None:
                refused.refusals.clear()  # its tasks are not here yet: their client is asked for it, and told why

    def _stored(self, kept: KeptStored, recovery: Recovery, now: float, wall_seconds: float) -> None:
        """Make a stored job, without its tasks."""
        known, message = kept.stored, _message_of(kept.known)
        keeper = self._store.keeper(known.identity, known.owner, known.address)
        keeper.sequence = kept.owner.sequence
        changed_at = min(now, kept.changed_at - wall_seconds)
        stored = StoredJob(
            *(known.job, keeper, message, known.job, capability_of(message), None),
            name=known.name,
            source_number=known.source,
            note=bytes(known.note),
            tasks=known.tasks,
            size=known.size,
            keep_seconds=known.keep_seconds,
            admitted=True,
            taken=known.tasks,
            taken_bytes=known.size,
            arrived=known.tasks,
            whole=True,
            begun_at=min(now, known.begun_at - wall_seconds),
            changed_at=changed_at,
            touched_at=changed_at,
            gone=array("I", kept.gone),
            gone_statuses=bytearray(kept.gone.values()),
        )
        self._clientele.adopt(stored)
        self._jobs[known.job] = stored
        blob = stored.blob
        if blob is not None and not blob.whole:
            head = recovery.blobs.get(known.digest)
            if head is not None:
                self._blobs.restore(known.digest, head.head)
            elif known.digest in recovery.functions and next(kept.open_tasks(), None) is not None:
                self._blobs.restore(known.digest, b"", self._shelf.flow(recovery.functions[known.digest]))

    def _outcomes(self, kept: KeptStored) -> None:
        """Give a stored job its outcomes, and count them."""
        stored = self._jobs[kept.known.job]
        assert isinstance(stored, StoredJob)
        keeper = stored.client
        assert isinstance(keeper, Keeper)
        for sequence, ended in kept.owner.unread.items():
            if ended.job != stored.number:
                continue
            delivery = _delivery(stored, ended)
            self._deliveries.restore(keeper, delivery)
            stored.told.append(delivery)
            if sequence in kept.answers:
                stored.bodies[delivery] = self._shelf.flow(kept.answers[sequence])
            if sequence in kept.fetched:
                stored.fetched[delivery] = None
        ends = {run.first + at: state for run in stored.runs for at, state in enumerate(run.states)}
        ends.update((index, bytes((status,)).translate(STATES)[0]) for index, status in kept.gone.items())
        counted = Counter(ends.values())
        stored.done, stored.failed = counted[State.DONE], counted[State.FAILED]
        stored.cancelled = counted[State.CANCELLED]
        self._store.restore(stored, keeper)

    def _jobs_held(self, kept: KeptWorker) -> None:
        worker = self._workers[kept.known.session]
        for number in kept.jobs:
            job = self._jobs.get(number)
            if job is None:
                worker.forgotten.append(number)
            else:
                worker.jobs[number] = job
                job.workers[worker] = None

    # -- tasks -----------------------------------------------------------------------------------------------

    def _tasks(self, recovery: Recovery, now: float) -> None:
        """Make the runs, oldest first; queue what waits, lease what was leased."""
        leases: list[tuple[int, Worker, Span]] = []
        runs = [(run.order, job, run) for job in recovery.jobs.values() for run in job.runs]
        for _, job, kept in sorted(runs, key=lambda each: each[0]):
            run = self._run(self._jobs[job.known.job], kept)
            if isinstance(job, KeptStored):
                for position in run.flows:
                    run.flows[position] = self._shelf.argument(job.arguments[run.first + position])
            for start, stop in _alike(kept, self._workers):
                worker = self._workers.get(kept.holders[start] or b"")
                attempt = kept.attempts[start]
                if worker is not None:
                    leases.append((kept.leases[start], worker, run.span(start, stop, attempt)))
                    continue
                # What a worker held whose end was not written down was tried.
                self._queue(run.span(start, stop, attempt + (kept.leases[start] != NO_LEASE)))
        for number, worker, span in sorted(leases, key=lambda each: each[0]):
            leased = self._leases.begin(worker, span, now, number)
            if leased.start in leased.run.flows:
                leased.run.flows[leased.start].leased = leased

    def _run(self, job: Job, kept: KeptRun) -> Run:
        count = len(kept.states)
        heads = memoryview(bytes(kept.heads))
        unfinished = kept.states.count(State.QUEUED)
        unread = kept.read.count(0)
        states = bytearray(kept.states)
        run = Run(job, 0, kept.first, kept.head_sizes, kept.body_sizes, heads, states, unfinished, unread)
        if not unfinished:
            run.release()
        for position, trouble in kept.troubles.items():
            if states[position] == State.QUEUED:
                run.tasks[position] = Task(
                    trouble.losses, trouble.raised, trouble.deaths.splitlines(), trouble.settled
                )
        self._clientele.restore(run)
        assert len(run.states) == count
        return run

    def _queue(self, span: Span) -> None:
        job = span.run.job
        if job.ready:
            self._scheduler.queue(span)
        else:
            job.waiting.append(span)

    def _unread(self, kept: KeptClient) -> None:
        client = self._sessions.clients[kept.known.session]
        for ended in kept.unread.values():
            job = self._jobs.get(ended.job)
            if job is not None:
                self._deliveries.restore(client, _delivery(job, ended))


def _client_of(known: ClientKnown) -> Client:
    return Client(
        known.session,
        known.identity,
        known.name,
        known.address,
        known.result_bytes,
        certificate=known.certificate,
    )


def _message_of(known: JobKnown) -> JobMessage:
    return JobMessage(
        known.number,
        known.kind,
        known.digest,
        known.function,
        known.python,
        known.retries,
        known.timeout_seconds,
        known.priority,
        known.shares,
    )


def _alike(run: KeptRun, workers: dict[bytes, Worker]) -> Iterator[tuple[int, int]]:
    """Cut a run's open tasks where they wait for another attempt, or are leased otherwise: (start, stop) positions."""
    bodied = bool(run.body_sizes)
    attempts, leases, holders = run.attempts, run.leases, run.holders
    position, stop = 0, len(run.states)
    while (position := run.states.find(State.QUEUED, position)) >= 0:
        start, lease = position, leases[position]
        alone = bodied and lease != NO_LEASE
        position += 1
        while (
            position < stop
            and not alone
            and run.states[position] == State.QUEUED
            and attempts[position] == attempts[start]
            and holders[position] == holders[start]
            and leases[position] == (lease + position - start if lease else NO_LEASE)
        ):
            position += 1
        yield start, position


def _delivery(job: Job, ended: Ended) -> Delivery:
    outcome = Outcome(
        ended.sequence,
        job.client_number,
        ended.attempt,
        ended.indices,
        ended.statuses,
        ended.head_sizes,
        array("Q"),
        ended.heads,
    )
    pieces = []
    for low, high in contiguous(ended.indices):
        first, stop = ended.indices[low], ended.indices[high - 1] + 1
        for run in job.overlapping(first, stop):
            pieces.append((run, max(first, run.first) - run.first, min(stop, run.stop) - run.first))
    measure = len(ended.heads) + TASK_OVERHEAD_BYTES * len(ended.indices)
    return Delivery(outcome, pieces, measure, settled=ended.settled)
