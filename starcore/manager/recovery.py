"""What a journal's records come to: the sessions, jobs and tasks as they stood when the last one was written. Pure.

`Recovery.apply` takes one record after the other. It never refuses one: where a part of the journal was lost, a record
may speak of what is not known, and then says nothing. What that leaves open is closed by the peers: a client says
again whatever it waits for, a worker what it holds.

Runs stay in columns here as they do in the manager; small ones that follow each other are joined.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starcore.errors import Status
from starcore.manager.columns import contiguous
from starcore.manager.records import (
    LEASE_BITS,
    Accepted,
    Acknowledged,
    Answered,
    ArgumentKept,
    BlobKnown,
    ClientKnown,
    ClientOver,
    Delivered,
    Ended,
    Epoch,
    Fact,
    Fetched,
    FunctionKept,
    Gone,
    JobForgotten,
    JobKnown,
    JobsHeld,
    Leased,
    Renamed,
    Requeued,
    StoredKnown,
    StoredWhole,
    Touched,
    Troubled,
    WorkerKnown,
    WorkerOver,
)
from starcore.manager.state import RUN_BYTES_MAX, RUN_TASKS_MAX, State
from starcore.messages import Column, FunctionKind

NO_LEASE = 0
FIRST_ATTEMPT = 1
STATES = bytes(
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
    owner: KeptOwner
    runs: list[KeptRun] = field(default_factory=list)
    forgotten: bool = False

    def pieces(self, first: int, stop: int) -> Iterator[tuple[KeptRun, int, int]]:
        """Find the tasks that are known: runs, and positions in them."""
        place = max(0, bisect_right(self.runs, first, key=_first) - 1)
        for run in self.runs[place : bisect_left(self.runs, stop, key=_first)]:
            if run.stop > first:
                yield run, max(first, run.first) - run.first, min(stop, run.stop) - run.first


File: TypeAlias = tuple[int, int]
"""The number of a body, and its size."""


@dataclass(slots=True, eq=False)
class KeptStored(KeptJob):
    """One stored job; those that are not whole are gone with the manager."""

    stored: StoredKnown = field(kw_only=True)
    changed_at: float = 0.0
    whole: bool = False
    arguments: dict[int, File] = field(default_factory=dict)
    """By index, of tasks that may have ended since."""
    answers: dict[int, File] = field(default_factory=dict)
    """By the sequence of the outcome."""
    fetched: dict[int, None] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)
    """Status by index."""

    def open_tasks(self) -> Iterator[tuple[KeptRun, int]]:
        """Yield the tasks without an outcome, by their run and position."""
        return ((run, at) for run in self.runs for at in range(len(run.states)) if run.open(at))


@dataclass(slots=True, eq=False)
class KeptOwner:
    """Who has jobs, and outcomes of them."""

    sequence: int = 0
    jobs: dict[int, KeptJob] = field(default_factory=dict)
    unread: dict[int, Ended] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class KeptClient(KeptOwner):
    """One client's session."""

    known: ClientKnown = field(kw_only=True)


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
        self.keepers: dict[str, KeptOwner] = {}
        """Stored jobs, by whose they are."""
        self.jobs: dict[int, KeptJob] = {}
        self.blobs: dict[bytes, BlobKnown] = {}
        self.functions: dict[bytes, File] = {}
        """Those in files, by their digest."""
        self.last_body = 0
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
        for table in (self.clients, self.workers, self.keepers, self.jobs, self.blobs, self.functions):
            table.clear()
        self.epoch, self.generation, self.last_job = fact.epoch, fact.generation, fact.jobs

    def _client(self, fact: ClientKnown) -> None:
        self._client_over(ClientOver(fact.session))  # a session begins once: that it was over may be what was lost
        self.clients[fact.session] = KeptClient(fact.sequence, known=fact)

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
            self.jobs[fact.job] = client.jobs[fact.job] = KeptJob(fact, client)

    def _forgotten(self, fact: JobForgotten) -> None:
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            self._drop(job)
        elif job is not None:
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
        self.generation = max(self.generation, fact.lease >> LEASE_BITS)
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
        owner = job.owner
        owner.sequence = max(owner.sequence, fact.sequence)
        owner.unread[fact.sequence] = fact
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

    # -- stored jobs -----------------------------------------------------------------------------------------

    def files(self) -> dict[int, int]:
        """Return the bodies that are needed, each with its size."""
        files: dict[int, int] = {}
        for job in self._whole():
            files.update(job.answers.values())
            indices = [run.first + at for run, at in job.open_tasks()]
            files.update(job.arguments[index] for index in indices if index in job.arguments)
            if indices and job.known.digest in self.functions:
                files.update([self.functions[job.known.digest]])
        return files

    def settle(self, lost: Mapping[int, str]) -> int:
        """Let go of what was not accepted, and end what cannot go on: what it needs is lost. Returns how many tasks.

        `lost` says of bodies why they cannot be had.
        """
        if not self.epoch:  # it was lost: to peers this manager is another one, to which they owe nothing
            self.workers.clear()
            for session in list(self.clients):
                self._client_over(ClientOver(session))
        for job in [job for job in self.jobs.values() if isinstance(job, KeptStored) and not job.whole]:
            self._drop(job)
        ended = 0
        for job in list(self._whole()):
            for sequence in [sequence for sequence, (body, _) in job.answers.items() if body in lost]:
                index = job.owner.unread.pop(sequence).indices[0]
                body, _ = job.answers.pop(sequence)
                job.fetched.pop(sequence, None)
                self._fail(job, index, f"its answer, which the manager kept, is lost: {lost[body]}")
                ended += 1
            unknown, function = self._complete(job), self._lost_function(job, lost)
            for run, at in list(job.open_tasks()):
                reason = function or self._lost_argument(job, run, at, lost)
                if run.first + at in unknown:
                    reason = "the journal's record of this task is lost"
                if reason:
                    self._fail(job, run.first + at, reason, run.attempts[at])
                    ended += 1
        return ended

    def _complete(self, job: KeptStored) -> set[int]:
        """Have each task of an accepted job known: nobody says one again whose record was lost. Returns which were."""
        known = bytearray(job.stored.tasks)
        for run in job.runs:
            known[run.first : run.stop] = b"\1" * (run.stop - run.first)
        for index in job.gone:
            known[index : index + 1] = b"\1"
        unknown = array("I", (index for index, here in enumerate(known) if not here)) if 0 in known else array("I")
        for low, high in contiguous(unknown):
            for first in range(unknown[low], unknown[high - 1] + 1, RUN_TASKS_MAX):
                count = min(RUN_TASKS_MAX, unknown[high - 1] + 1 - first)
                self._accepted(Accepted(job.known.job, first, array("I", bytes(4 * count))))
        for ended in job.owner.unread.values() if unknown else ():
            if ended.job == job.known.job:
                self._end(job, ended.indices, bytes(ended.statuses))
        return set(unknown)

    def _lost_function(self, job: KeptStored, lost: Mapping[int, str]) -> str:
        digest = job.known.digest
        if job.known.kind != FunctionKind.SHIPPED or digest in self.blobs:
            return ""
        body, _ = self.functions.get(digest, (0, 0))
        reason = lost.get(body, "" if body else "the journal does not name it")
        return f"its function, which the manager kept, is lost: {reason}" if reason else ""

    @staticmethod
    def _lost_argument(job: KeptStored, run: KeptRun, at: int, lost: Mapping[int, str]) -> str:
        if not run.body_sizes or not run.body_sizes[at]:
            return ""
        body, size = job.arguments.get(run.first + at, (0, 0))
        reason = lost.get(body, "" if size == run.body_sizes[at] else "the journal does not name it")
        return f"its argument, which the manager kept, is lost: {reason}" if reason else ""

    def _fail(self, job: KeptStored, index: int, reason: str, attempt: int = FIRST_ATTEMPT) -> None:
        head, status = reason.encode(), bytes((Status.UNRUNNABLE,))
        sizes = array("I", [len(head)])
        ended = Ended(job.known.job, job.owner.sequence + 1, attempt, True, array("I", [index]), status, sizes, head)
        self._ended(ended)

    def _whole(self) -> Iterator[KeptStored]:
        return (job for job in self.jobs.values() if isinstance(job, KeptStored) and job.whole)

    def _stored(self, fact: StoredKnown) -> None:
        self.last_job = max(self.last_job, fact.job)
        keeper = self.keepers.setdefault(fact.identity, KeptOwner())
        known = JobKnown(
            *(fact.job, b"", fact.job, fact.kind, fact.digest, fact.function, fact.python),
            *(fact.retries, fact.timeout_seconds, fact.priority),
        )
        job = KeptStored(known, keeper, stored=fact, changed_at=fact.changed_at)
        self.jobs[fact.job] = keeper.jobs[fact.job] = job

    def _renamed(self, fact: Renamed) -> None:
        if fact.former in self.keepers and fact.identity not in self.keepers:
            keeper = self.keepers[fact.identity] = self.keepers.pop(fact.former)
            for job in keeper.jobs.values():
                assert isinstance(job, KeptStored)
                job.stored.identity = fact.identity

    def _stored_whole(self, fact: StoredWhole) -> None:
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.whole = True

    def _touched(self, fact: Touched) -> None:
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.changed_at = fact.changed_at

    def _argument(self, fact: ArgumentKept) -> None:
        self.last_body = max(self.last_body, fact.body)
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.arguments[fact.index] = fact.body, fact.size

    def _function(self, fact: FunctionKept) -> None:
        self.last_body = max(self.last_body, fact.body)
        self.functions[fact.digest] = fact.body, fact.size

    def _answered(self, fact: Answered) -> None:
        self.last_body = max(self.last_body, fact.body)
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.answers[fact.sequence] = fact.body, fact.size
            indices, sizes = array("I", [fact.index]), array("I", [len(fact.head)])
            self._ended(
                Ended(fact.job, fact.sequence, fact.attempt, False, indices, bytes((fact.status,)), sizes, fact.head)
            )

    def _fetched(self, fact: Fetched) -> None:
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.fetched.update((sequence, None) for sequence in fact.sequences if sequence in job.owner.unread)

    def _gone(self, fact: Gone) -> None:
        job = self.jobs.get(fact.job)
        if isinstance(job, KeptStored):
            job.gone.update(zip(fact.indices, bytes(fact.statuses), strict=False))
            job.owner.unread.pop(fact.sequence, None)
            job.answers.pop(fact.sequence, None)
            job.fetched.pop(fact.sequence, None)
            self._read(job, fact.indices)

    def _drop(self, job: KeptStored) -> None:
        """A stored job is over."""
        number, keeper = job.known.job, job.owner
        del self.jobs[number], keeper.jobs[number]
        for sequence in [sequence for sequence, ended in keeper.unread.items() if ended.job == number]:
            del keeper.unread[sequence]
        if not keeper.jobs:
            del self.keepers[job.stored.identity]

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
                run.states[start:end] = statuses[at : at + end - start].translate(STATES)
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
            del job.owner.jobs[job.known.job]


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
    StoredKnown: Recovery._stored,
    Renamed: Recovery._renamed,
    StoredWhole: Recovery._stored_whole,
    Touched: Recovery._touched,
    ArgumentKept: Recovery._argument,
    FunctionKept: Recovery._function,
    Answered: Recovery._answered,
    Fetched: Recovery._fetched,
    Gone: Recovery._gone,
}
