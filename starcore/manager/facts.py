"""The manager's records, told as facts of the journal: one by one as they come about, or all that is so now. Pure.

`everything` is what a new segment begins with. Read by `recovery.py`, it comes to the same as all the facts that were
told one by one before it; a test holds the two together.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from starcore.errors import Status
from starcore.manager.columns import contiguous
from starcore.manager.flows import Flow
from starcore.manager.records import (
    Accepted,
    Answered,
    ArgumentKept,
    ClientKnown,
    Delivered,
    Ended,
    Fact,
    Fetched,
    FunctionKept,
    Gone,
    JobForgotten,
    JobKnown,
    JobsHeld,
    Leased,
    Requeued,
    StoredKnown,
    StoredWhole,
    Troubled,
    WorkerKnown,
)
from starcore.manager.state import (
    Client,
    Delivery,
    Job,
    Mark,
    Run,
    Span,
    State,
    Task,
    Worker,
)
from starcore.manager.state import Leased as LeasedRun
from starcore.manager.stored import Keeper, StoredJob
from starcore.messages import BATCH_TASKS_MAX, FunctionKind

_STATUSES = {State.DONE: Status.OK, State.FAILED: Status.RAISED, State.CANCELLED: Status.CANCELLED}
"""What stands for an outcome that its client has: only how the task ended."""


def of_session(session: Client | Worker) -> ClientKnown | WorkerKnown:
    """A session, whichever it is."""
    return of_client(session) if isinstance(session, Client) else of_worker(session)


def of_client(client: Client) -> ClientKnown:
    """A client's session."""
    return ClientKnown(
        client.session,
        client.identity,
        client.certificate,
        client.name,
        client.address,
        client.result_bytes,
        client.sequence,
    )


def of_worker(worker: Worker) -> WorkerKnown:
    """A worker's session."""
    functions = [name for kind, name in worker.capabilities if kind == FunctionKind.REGISTERED]
    shipped = any(kind == FunctionKind.SHIPPED for kind, _ in worker.capabilities)
    return WorkerKnown(
        worker.session,
        worker.identity,
        worker.certificate,
        worker.name,
        worker.host,
        worker.address,
        worker.python,
        worker.slots,
        worker.arena_bytes,
        shipped,
        functions,
    )


def of_job(job: Job) -> JobKnown:
    """A job."""
    told = job.message
    return JobKnown(
        job.number,
        job.client.session,
        job.client_number,
        told.kind,
        told.digest,
        told.function,
        told.python,
        told.retries,
        told.timeout_seconds,
        told.priority,
        told.shares,
    )


def of_lease(leased: LeasedRun) -> Leased:
    """A lease, just given."""
    run, count = leased.run, len(leased.marks)
    session = leased.worker.session
    return Leased(session, leased.first, run.job.number, run.first + leased.start, count, leased.attempt)


def of_trouble(run: Run, position: int, task: Task, *, settled: bool = False) -> Troubled:
    """What happened to a task."""
    index = run.first + position
    return Troubled(run.job.number, index, task.losses, task.raised, task.settled or settled, "\n".join(task.deaths))


def of_outcome(job: Job, delivery: Delivery) -> Ended | Troubled:
    """An outcome. One whose body is still at its worker leaves its task open; only the credit was given back."""
    if delivery.flow is not None:
        run, position, _ = delivery.pieces[0]
        return of_trouble(run, position, run.tasks.get(position) or Task(), settled=True)
    said = delivery.outcome
    return Ended(
        job.number,
        said.sequence,
        said.attempt,
        delivery.settled,
        said.indices,
        said.statuses,
        said.head_sizes,
        said.heads,
    )


def of_answer(job: Job, delivery: Delivery, body: Flow) -> Answered:
    """An outcome of a stored job whose body is in a file."""
    said = delivery.outcome
    index, status = said.indices[0], bytes(said.statuses)[0]
    return Answered(job.number, said.sequence, said.attempt, index, status, body.number, body.size, said.heads)


def of_argument(run: Run, position: int, lender: Flow) -> ArgumentKept:
    """An argument of a stored job that is in a file."""
    return ArgumentKept(run.job.number, run.first + position, lender.number, lender.size)


def of_function(stored: StoredJob) -> FunctionKept | None:
    """The function of a stored job, where it is in a file."""
    blob = stored.blob
    return FunctionKept(blob.digest, blob.body, blob.size) if blob is not None and blob.body else None


def of_stored(stored: StoredJob, wall_seconds: float) -> StoredKnown:
    """A stored job; `wall_seconds` is what its times lack to count from 1970."""
    told, keeper = stored.message, stored.client
    return StoredKnown(
        stored.number,
        stored.source_number,
        keeper.identity,
        keeper.name,
        keeper.address,
        stored.name,
        stored.tasks,
        stored.size,
        stored.keep_seconds,
        stored.begun_at + wall_seconds,
        stored.changed_at + wall_seconds,
        told.kind,
        told.digest,
        told.function,
        told.python,
        told.retries,
        told.timeout_seconds,
        told.priority,
        stored.note,
    )


def everything(
    clients: Iterable[Client], workers: Iterable[Worker], spans: Iterable[Span], wall_seconds: float = 0.0
) -> Iterator[Fact]:
    """All that is so now, but for the small blobs; `spans` is what waits in line."""
    clients = list(clients)
    runs: list[Run] = []
    for worker in workers:
        yield of_worker(worker)
        yield from _jobs_held(worker)
    for client in clients:
        yield from _of_sender(client, wall_seconds)
        runs += [run for job in client.jobs.values() if job.journaled for run in job.runs]
    again = _tried_before(clients, spans)
    unread = _unread(clients)
    for run in sorted(runs, key=lambda run: run.order):
        yield from _of_run(run, unread.get(run, bytearray(run.count)), again.get(run, ()))
    for client in clients:
        for job in client.jobs.values():
            for leased in job.leased_runs:
                yield from _leases(leased)
            if job.forgotten and job.journaled:
                yield JobForgotten(job.number)
        for job in client.jobs.values():
            if isinstance(job, StoredJob) and job.journaled:
                yield from _arrived(job)
        yield from _outcomes(client)
        for job in client.jobs.values():
            if isinstance(job, StoredJob) and job.journaled:
                yield from _fetched(job)


def _of_sender(client: Client, wall_seconds: float) -> Iterator[Fact]:
    """A client and its jobs, or the stored jobs of an identity."""
    if not isinstance(client, Keeper):
        yield of_client(client)
    for job in client.jobs.values():
        if job.journaled:
            yield of_stored(job, wall_seconds) if isinstance(job, StoredJob) else of_job(job)


def _outcomes(client: Client) -> Iterator[Fact]:
    """What a client has not acknowledged, or a stored job keeps."""
    for delivery in client.unread.values():
        if delivery.flow is None and delivery.pieces:
            job = delivery.pieces[0][0].job
            body = job.bodies.get(delivery) if isinstance(job, StoredJob) else None
            if job.journaled:
                yield of_outcome(job, delivery) if body is None else of_answer(job, delivery, body)


def _arrived(stored: StoredJob) -> Iterator[Fact]:
    """What files are kept for a stored job, and whether all of it is here."""
    for run in stored.runs:
        for position, flow in run.flows.items():
            if flow.lender is not None:
                yield of_argument(run, position, flow.lender)
    function = of_function(stored)
    if function is not None:
        yield function
    if stored.whole:
        yield StoredWhole(stored.number)


def _fetched(stored: StoredJob) -> Iterator[Fact]:
    """What of a stored job was fetched."""
    fetched = array("Q", (delivery.outcome.sequence for delivery in stored.fetched))
    for start in range(0, len(fetched), BATCH_TASKS_MAX):
        yield Fetched(stored.number, fetched[start : start + BATCH_TASKS_MAX])
    for start in range(0, len(stored.gone), BATCH_TASKS_MAX):
        stop = start + BATCH_TASKS_MAX
        yield Gone(stored.number, 0, stored.gone[start:stop], stored.gone_statuses[start:stop])


def _jobs_held(worker: Worker) -> Iterator[JobsHeld]:
    numbers = array("I", worker.jobs)
    for start in range(0, len(numbers), BATCH_TASKS_MAX):
        yield JobsHeld(worker.session, numbers[start : start + BATCH_TASKS_MAX])


def _tried_before(clients: list[Client], spans: Iterable[Span]) -> dict[Run, list[Span]]:
    """What waits for an attempt that is not its first, by runs."""
    found: dict[Run, list[Span]] = {}
    waiting = (span for client in clients for job in client.jobs.values() for span in job.waiting)
    for span in (*spans, *waiting):
        if span.attempt > 1:
            found.setdefault(span.run, []).append(span)
    for client in clients:
        for delivery in client.unread.values():
            # Of an answer whose worker is gone: it is leased to nobody.
            if delivery.flow is not None and delivery.leased is None and delivery.pieces:
                run, start, stop = delivery.pieces[0]
                found.setdefault(run, []).append(Span(run, start, stop, delivery.outcome.attempt + 1, 0))
    return found


def _unread(clients: list[Client]) -> dict[Run, bytearray]:
    """By runs, a byte for each task: 1 where its outcome is not acknowledged."""
    found: dict[Run, bytearray] = {}
    for client in clients:
        for delivery in client.unread.values():
            for run, start, stop in delivery.pieces:
                found.setdefault(run, bytearray(run.count))[start:stop] = b"\1" * (stop - start)
    return found


def _of_run(run: Run, unread: bytearray, again: Iterable[Span]) -> Iterator[Fact]:
    number = run.job.number
    sizes = run.head_sizes[:] if run.unfinished else array("I", bytes(4 * run.count))  # else the heads have gone
    yield Accepted(number, run.first, sizes, run.body_sizes, run.heads)
    for position in sorted({*run.tasks, *run.answers}):
        yield of_trouble(run, position, run.tasks.get(position) or Task(), settled=position in run.answers)
    for span in again:
        waits = array("Q", (at for at in range(span.start, span.stop) if run.states[at] <= State.LEASED))
        for low, high in contiguous(waits):
            yield Requeued(number, run.first + waits[low], high - low, span.attempt)
    over = [at for at in range(run.count) if run.states[at] in _STATUSES and not unread[at]]
    if over:
        statuses = bytes(_STATUSES[State(run.states[at])] for at in over)
        yield Delivered(number, array("I", (run.first + at for at in over)), statuses)


def _leases(leased: LeasedRun) -> Iterator[Leased]:
    run, session = leased.run, leased.worker.session
    held = array(
        "Q",
        (
            offset
            for offset, mark in enumerate(leased.marks)
            if mark < Mark.ENDED and run.states[leased.start + offset] == State.LEASED
        ),
    )
    for low, high in contiguous(held):
        first = run.first + leased.start + held[low]
        yield Leased(session, leased.first + held[low], run.job.number, first, high - low, leased.attempt)
