"""What a journal's records come to: the sessions, jobs and tasks as they stood when the last one was written. Pure.

`Recovery.apply` takes one record after the other. It never refuses one: where a part of the journal was lost, a record
may speak of what is not known, and then says nothing. What that leaves open is closed by the peers: a client says
again whatever it waits for, a worker what it holds.

Runs stay in columns here as they do in the manager; small ones that follow each other are joined.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starcore.errors import Status
from starcore.manager.columns import contiguous
from starcore.manager.records import (
    Accepted,
    Acknowledged,
    BlobKnown,
    ClientKnown,
    ClientOver,
    Delivered,
    Ended,
    Epoch,
    Fact,
    JobForgotten,
    JobKnown,
    JobsHeld,
    Leased,
    Requeued,
    Troubled,
    WorkerKnown,
    WorkerOver,
)
from starcore.manager.state import RUN_BYTES_MAX, RUN_TASKS_MAX, State
from starcore.messages import Column

NO_LEASE = 0
FIRST_ATTEMPT = 1
_STATES = bytes(
    State.DONE if status == Status.OK else State.CANCELLED if status == Status.CANCELLED else State.FAILED
    for status in range(256)
)
"""An outcome's statuses, translated into states."""


@dataclass(slots=True, eq=False)
class KeptRun:
    """Tasks `first`, `first + 1`, ... of a job: a column for each thing that is known of them."""

    order: int
    first: int
    head_sizes: Column
    body_sizes: Column
    heads: bytearray
    states: bytearray
    """QUEUED until there is an outcome; what is leased has a lease."""
    read: bytearray
    """1 where the outcome was acknowledged."""
    attempts: Column
    leases: Column
    holders: list[bytes | None]
    """The worker's session, for what is leased."""
    troubles: dict[int, Troubled] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """The index after the last one's."""
        return self.first + len(self.states)

    def open(self, position: int) -> bool:
        """Whether a task has no outcome yet."""
        return self.states[position] == State.QUEUED


@dataclass(slots=True, eq=False)
class KeptJob:
    """One job."""

    known: JobKnown
    runs: list[KeptRun] = field(default_factory=list)
    forgotten: bool = False

    def pieces(self, first: int, stop: int) -> Iterator[tuple[KeptRun, int, int]]:
        """Find the tasks that are known: runs, and positions in them."""
        place = max(0, bisect_right(self.runs, first, key=_first) - 1)
        for run in self.runs[place : bisect_left(self.runs, stop, key=_first)]:
            if run.stop > first:
                yield run, max(first, run.first) - run.first, min(stop, run.stop) - run.first


@dataclass(slots=True, eq=False)
class KeptClient:
    """One client's session."""

    known: ClientKnown
    sequence: int
    jobs: dict[int, KeptJob] = field(default_factory=dict)
    unread: dict[int, Ended] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class KeptWorker:
    """One worker's session."""

    known: WorkerKnown
    jobs: dict[int, None] = field(default_factory=dict)


def _first(run: KeptRun) -> int:
    return run.first


class Recovery:
    """The star of an earlier manager."""

    def __init__(self) -> None:
        self.epoch = 0
        """0 where there was no manager."""
        self.generation = 0
        self.last_job = 0
        self.clients: dict[bytes, KeptClient] = {}
        self.workers: dict[bytes, KeptWorker] = {}
        self.jobs: dict[int, KeptJob] = {}
        self.blobs: dict[bytes, BlobKnown] = {}
        self._runs = 0

    @property
    def open_tasks(self) -> int:
        """Tasks without an outcome."""
        return sum(run.states.count(State.QUEUED) for job in self.jobs.values() for run in job.runs)

    @property
    def unread_outcomes(self) -> int:
        """Outcomes that their clients have not acknowledged."""
        return sum(len(client.unread) for client in self.clients.values())

    def apply(self, fact: Fact) -> None:
        """Take the next record."""
        _APPLY[type(fact)](self, fact)

    # -- sessions and jobs -----------------------------------------------------------------------------------

    def _epoch(self, fact: Epoch) -> None:
        """A segment begins, with all that is known told anew."""
        for table in (self.clients, self.workers, self.jobs, self.blobs):
            table.clear()
        self.epoch, self.generation, self.last_job = fact.epoch, fact.generation, fact.jobs

    def _client(self, fact: ClientKnown) -> None:
        self._client_over(ClientOver(fact.session))  # a session begins once: that it was over may be what was lost
        self.clients[fact.session] = KeptClient(fact, fact.sequence)

    def _client_over(self, fact: ClientOver) -> None:
        client = self.clients.pop(fact.session, None)
        for number in client.jobs if client is not None else ():
            del self.jobs[number]

    def _worker(self, fact: WorkerKnown) -> None:
        self.workers[fact.session] = KeptWorker(fact)

    def _worker_over(self, fact: WorkerOver) -> None:
        self.workers.pop(fact.session, None)

    def _jobs_held(self, fact: JobsHeld) -> None:
        worker = self.workers.get(fact.session)
        if worker is not None:
            worker.jobs.update(dict.fromkeys(fact.jobs))

    def _job(self, fact: JobKnown) -> None:
        self.last_job = max(self.last_job, fact.job)
        client = self.clients.get(fact.session)
        if client is not None:
            self.jobs[fact.job] = client.jobs[fact.job] = KeptJob(fact)

    def _forgotten(self, fact: JobForgotten) -> None:
        job = self.jobs.get(fact.job)
        if job is not None:
            job.forgotten = True
            self._close_if_done(job)

    def _blob(self, fact: BlobKnown) -> None:
        self.blobs[fact.digest] = fact

    # -- tasks -----------------------------------------------------------------------------------------------

    def _accepted(self, fact: Accepted) -> None:
        job, count = self.jobs.get(fact.job), len(fact.head_sizes)
        if job is None or any(job.pieces(fact.first, fact.first + count)):
            return
        bodies = fact.body_sizes if any(fact.body_sizes) else array("Q")
        last = job.runs[-1] if job.runs else None
        if last is not None and last.order == self._runs and _joins(last, fact, bodies):
            _extend(last, fact)
            return
        self._runs += 1
        run = KeptRun(
            self._runs, fact.first, fact.head_sizes, bodies, bytearray(fact.heads), bytearray(count), bytearray(count),
            array("I", [FIRST_ATTEMPT]) * count, array("Q", [NO_LEASE]) * count, [None] * count,
        )  # fmt: skip
        job.runs.insert(bisect_left(job.runs, run.first, key=_first), run)

    def _leased(self, fact: Leased) -> None:
        worker = self.workers.get(fact.session)
        if worker is not None:
            worker.jobs[fact.job] = None
        for run, start, stop in self._pieces(fact.job, fact.first, fact.first + fact.count):
            lease = fact.lease + run.first + start - fact.first
            run.leases[start:stop] = array("Q", range(lease, lease + stop - start))
            run.attempts[start:stop] = array("I", [fact.attempt]) * (stop - start)
            run.holders[start:stop] = [fact.session] * (stop - start)

    def _requeued(self, fact: Requeued) -> None:
        for run, start, stop in self._pieces(fact.job, fact.first, fact.first + fact.count):
            _unlease(run, start, stop)
            run.attempts[start:stop] = array("I", [fact.attempt]) * (stop - start)

    def _troubled(self, fact: Troubled) -> None:
        for run, position, _ in self._pieces(fact.job, fact.index, fact.index + 1):
            run.troubles[position] = fact

    def _ended(self, fact: Ended) -> None:
        job = self.jobs.get(fact.job)
        if job is None:
            return
        client = self.clients[job.known.session]
        client.sequence = max(client.sequence, fact.sequence)
        client.unread[fact.sequence] = fact
        self._end(job, fact.indices, bytes(fact.statuses))

    def _acknowledged(self, fact: Acknowledged) -> None:
        client = self.clients.get(fact.session)
        if client is None:
            return
        for sequence in fact.sequences:
            ended = client.unread.pop(sequence, None)
            job = self.jobs.get(ended.job) if ended is not None else None
            if ended is not None and job is not None:
                self._read(job, ended.indices)

    def _delivered(self, fact: Delivered) -> None:
        job = self.jobs.get(fact.job)
        if job is not None:
            self._end(job, fact.indices, bytes(fact.statuses))
            self._read(job, fact.indices)

    # -- private ---------------------------------------------------------------------------------------------

    def _pieces(self, number: int, first: int, stop: int) -> list[tuple[KeptRun, int, int]]:
        job = self.jobs.get(number)
        return list(job.pieces(first, stop)) if job is not None else []

    @staticmethod
    def _end(job: KeptJob, indices: Column, statuses: bytes) -> None:
        for low, high in contiguous(indices):
            first, stop = indices[low], indices[high - 1] + 1
            for run, start, end in job.pieces(first, stop):
                at = low + run.first + start - first
                run.states[start:end] = statuses[at : at + end - start].translate(_STATES)
                _unlease(run, start, end)

    def _read(self, job: KeptJob, indices: Column) -> None:
        for low, high in contiguous(indices):
            for run, start, stop in list(job.pieces(indices[low], indices[high - 1] + 1)):
                run.read[start:stop] = b"\1" * (stop - start)
                if run.read.count(0) == 0:
                    job.runs.remove(run)
        self._close_if_done(job)

    def _close_if_done(self, job: KeptJob) -> None:
        if job.forgotten and not job.runs:
            del self.jobs[job.known.job]
            del self.clients[job.known.session].jobs[job.known.job]


def _joins(run: KeptRun, fact: Accepted, bodies: Column) -> bool:
    """Whether tasks may stand in the run before them."""
    few = len(run.states) + len(fact.head_sizes) <= RUN_TASKS_MAX
    small = len(run.heads) + len(fact.heads) <= RUN_BYTES_MAX
    return few and small and run.stop == fact.first and not bodies and not run.body_sizes


def _extend(run: KeptRun, fact: Accepted) -> None:
    count = len(fact.head_sizes)
    run.head_sizes.extend(fact.head_sizes)
    run.heads += fact.heads
    run.states += bytes(count)
    run.read += bytes(count)
    run.attempts.extend([FIRST_ATTEMPT] * count)
    run.leases.extend([NO_LEASE] * count)
    run.holders.extend([None] * count)


def _unlease(run: KeptRun, start: int, stop: int) -> None:
    run.leases[start:stop] = array("Q", [NO_LEASE]) * (stop - start)
    run.holders[start:stop] = [None] * (stop - start)


_APPLY: dict[type, Callable[[Recovery, Any], None]] = {
    Epoch: Recovery._epoch,
    ClientKnown: Recovery._client,
    ClientOver: Recovery._client_over,
    WorkerKnown: Recovery._worker,
    WorkerOver: Recovery._worker_over,
    JobsHeld: Recovery._jobs_held,
    JobKnown: Recovery._job,
    JobForgotten: Recovery._forgotten,
    BlobKnown: Recovery._blob,
    Accepted: Recovery._accepted,
    Leased: Recovery._leased,
    Requeued: Recovery._requeued,
    Troubled: Recovery._troubled,
    Ended: Recovery._ended,
    Acknowledged: Recovery._acknowledged,
    Delivered: Recovery._delivered,
}
