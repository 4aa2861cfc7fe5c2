"""What clients ask for: jobs, tasks, cancellations, acknowledgements. Pure.

A client that comes back says again what it still waits for. What is known already is not taken twice (its bodies
are reattached to the new link), what was lost on the way is taken now.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from starcore.errors import OverrunError, Status, UnexpectedError
from starcore.manager import facts
from starcore.manager.blobs import Blobs
from starcore.manager.budget import Credits
from starcore.manager.columns import contiguous, gaps
from starcore.manager.delivery import Deliveries, Piece
from starcore.manager.flows import FIRST_ATTEMPT, Flow
from starcore.manager.leases import Leases
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.records import Accepted, Acknowledged, ClientOver, JobForgotten
from starcore.manager.relay import Relay
from starcore.manager.results import Results
from starcore.manager.scheduling import Scheduler
from starcore.manager.state import (
    JOB_OVERHEAD_BYTES,
    TASK_OVERHEAD_BYTES,
    Blob,
    Capability,
    Client,
    Job,
    Run,
    State,
    Step,
    python_capability,
)
from starcore.manager.stored import Keeper
from starcore.manager.story import Stories
from starcore.manager.values import Values
from starcore.manager.workers import Workforce
from starcore.messages import BATCH_TASKS_MAX, JOB_MAX, Ack, Cancel, FunctionKind, Share, Submit
from starcore.messages import Blob as BlobMessage
from starcore.messages import Job as JobMessage

INDEX_MAX = (1 << 32) - 1
WAITING_SWEPT_SPANS = 64
"""Spans of a job without its function, beyond twice its runs, before those are swept that wait for nothing."""


class Clientele:
    """Every client's jobs."""

    def __init__(
        self,
        outbox: Outbox,
        relay: Relay,
        blobs: Blobs,
        values: Values,
        scheduler: Scheduler,
        deliveries: Deliveries,
        leases: Leases,
        results: Results,
        workforce: Workforce,
        stories: Stories,
        credits: Credits,
        limits: Limits,
    ) -> None:
        self._outbox = outbox
        self._relay = relay
        self._blobs = blobs
        self._values = values
        self._scheduler = scheduler
        self._deliveries = deliveries
        self._leases = leases
        self._results = results
        self._workforce = workforce
        self._stories = stories
        self._credits = credits
        self._limits = limits
        self.jobs = 0
        """The number that was given to a job last."""
        self._runs = 0

    # -- jobs ------------------------------------------------------------------------------------------------

    def job(self, client: Client, message: JobMessage) -> None:
        """A job begins, or is told again."""
        job = client.jobs.get(message.job)
        if job is None:
            if message.job > JOB_MAX:
                raise UnexpectedError(f"job {message.job} is beyond {JOB_MAX}")
            self.jobs += 1
            theirs = JobMessage(
                self.jobs,
                message.kind,
                message.digest,
                message.function,
                message.python,
                message.retries,
                message.timeout_seconds,
                message.priority,
                message.shares,
            )
            job = Job(self.jobs, client, theirs, message.job, capability_of(message), None)
            job.bytes = len(message.function) + len(message.python) + len(message.shares) + JOB_OVERHEAD_BYTES
            self._require_room(job)
            self._values.pin(job, message.shares)  # first, for it may refuse: no worker ever hears of half a job
            self._enlist(job)
            self._stories.begin(job)
            if message.kind == FunctionKind.SHIPPED:
                job.blob = self._blobs.pin(message.digest, job)
            if self._outbox.journaled:
                self._outbox.record(facts.of_job(job))
        self._values.ask(job)
        if job.blob is not None and not job.refusal:
            self._blobs.ask(job.blob, client)

    def forget(self, client: Client, number: int) -> None:
        """No task of this job will come any more."""
        job = client.jobs.get(number)
        if job is not None:
            if job.runs:  # who forgets has every outcome; the ACK of some went with an earlier link
                had = [each.outcome.sequence for each in client.unread.values() if each.outcome.job == number]
                for start in range(0, len(had), BATCH_TASKS_MAX):  # what comes of it has to fit records and messages
                    self.acknowledge(client, Ack(array("Q", had[start : start + BATCH_TASKS_MAX])))
            job.forgotten = True
            if self._outbox.journaled and job.journaled:
                self._outbox.record(JobForgotten(job.number))
            if client.jobs.get(number) is job:  # else it was forgotten before, and over with these
                self._close_if_done(job)

    def blob(self, client: Client, message: BlobMessage) -> None:
        """A blob comes."""
        self._wake(self._blobs.offered(client, message))

    def share(self, client: Client, message: Share) -> None:
        """A value is announced."""
        value = self._values.offered(client, message)
        for job in value.jobs if value is not None else ():
            if job.ready:
                self.queue_waiting(job)

    def blob_grown(self, client: Client, stream: int) -> None:
        """A piece of a blob came."""
        self._wake(self._blobs.grown(client, stream))

    def blob_lost(self, number: int, text: str) -> bool:
        """A file cannot be read any more. Whether a function is lost with it: no task that needs it can run."""
        blob = self._blobs.kept_in(number)
        if blob is None:
            return False
        for run in [run for job in blob.jobs for run in job.runs]:
            for at in range(run.count):
                if run.states[at] <= State.LEASED and at not in run.answers:
                    self.fail(run, at, Status.UNRUNNABLE, text)
        self._blobs.lose(blob)  # who calls it again is asked for it
        self._ask_anyone(blob)
        return True

    def blob_aborted(self, client: Client, stream: int) -> None:
        """A blob will not come from this client."""
        self._values.aborted(client, stream)
        blob = self._blobs.aborted(client, stream)
        if blob is not None:
            self._ask_anyone(blob)

    # -- tasks -----------------------------------------------------------------------------------------------

    def submit(self, client: Client, message: Submit) -> None:
        """Tasks come."""
        self._deliveries.require_read(client)
        job = client.jobs.get(message.job)
        if job is None:
            raise UnexpectedError(f"tasks of job {message.job}, which is not known")
        stop = message.first + len(message.head_sizes)
        if stop > INDEX_MAX:
            raise UnexpectedError(f"task {stop - 1} is beyond {INDEX_MAX - 1}")
        known = job.overlapping(message.first, stop)
        refused = self._deliveries.refused(job, message.first, stop) if message.again and job.refused else []
        if not known and not refused:
            self.take(job, message, client.link)
            return
        if not message.again:
            raise UnexpectedError(f"tasks {message.first} to {stop - 1} of job {message.job} were submitted before")
        for gap in gaps(message, sorted([*refused, *((run.first, run.stop) for run in known)])):
            self.take(job, gap, client.link)
        for run in known:
            self.reattach(run, message.first, stop, client.link)

    def cancel(self, client: Client, message: Cancel) -> None:
        """The caller wants no outcome of these tasks."""
        self._deliveries.require_read(client)
        job = client.jobs.get(message.job)
        if job is None:
            return
        parts: list[Piece] = []
        unknown = array("I")
        for low, high in contiguous(message.indices):
            first, stop = message.indices[low], message.indices[high - 1] + 1
            at = first
            for run in job.overlapping(first, stop):
                unknown.extend(range(at, run.first))
                at = max(at, min(run.stop, stop))
                parts.append((run, max(first, run.first) - run.first, at - run.first))
            unknown.extend(range(at, stop))
        pieces = self._cancel(job, parts, kill=message.kill)
        if pieces:
            self._deliveries.settle(job, pieces, 0, Status.CANCELLED)
        if unknown:
            self._deliveries.refuse(job, unknown, Status.CANCELLED)

    def acknowledge(self, client: Client, message: Ack) -> None:
        """Outcomes arrived."""
        if self._outbox.journaled:
            self._outbox.record(Acknowledged(client.session, message.sequences))
        if len(message.sequences) == 1:
            lone = self._deliveries.acknowledge(client, message.sequences[0])
            if lone is not None:
                if lone.flow is not None and lone.pieces:
                    self._results.acknowledged([lone])
                self._close_if_done(client.jobs.get(lone.outcome.job))
            return
        over = [self._deliveries.acknowledge(client, sequence) for sequence in message.sequences]
        read = [delivery for delivery in over if delivery is not None]
        self._results.acknowledged([each for each in read if each.flow is not None and each.pieces])
        for number in dict.fromkeys(delivery.outcome.job for delivery in read):
            self._close_if_done(client.jobs.get(number))

    def aborted(self, client: Client, stream: int, reason: str) -> None:
        """The client ends a stream: it takes no answer, or has no argument."""
        job = client.jobs.get(stream >> 32)
        run = job.find(stream & INDEX_MAX) if job is not None else None
        if run is None:
            return
        position = (stream & INDEX_MAX) - run.first
        if position in run.answers:
            self.acknowledge(client, Ack(array("Q", [run.answers[position].outcome.sequence])))
        elif position in run.flows:
            self.fail(run, position, Status.UNRUNNABLE, f"the client took its argument back: {reason}")

    # -- for the store ---------------------------------------------------------------------------------------

    def register(self, client: Client, number: int) -> Job:
        """Make a job of a client's that has no tasks of its own: it tells the outcomes of a stored one."""
        self.jobs += 1
        message = JobMessage(self.jobs, FunctionKind.REGISTERED, bytes(32), "")
        job = Job(self.jobs, client, message, number, capability_of(message), None, journaled=False)
        self._enlist(job)
        return job

    def number(self) -> int:
        """Number a job."""
        self.jobs += 1
        return self.jobs

    def adopt(self, job: Job) -> None:
        """Take in a stored job."""
        told = job.message
        job.bytes = len(told.function) + len(told.python) + JOB_OVERHEAD_BYTES
        self._enlist(job)
        self._stories.begin(job)
        if told.kind == FunctionKind.SHIPPED:
            job.blob = self._blobs.pin(told.digest, job)

    def cancel_all(self, job: Job) -> None:
        """End what of a stored job has no outcome yet."""
        pieces = self._cancel(job, [(run, 0, run.count) for run in job.runs if run.unfinished], kill=True)
        for _, group in groupby(pieces, key=itemgetter(0)):
            self._deliveries.settle(job, list(group), 0, Status.CANCELLED)

    def end(self, job: Job) -> None:
        """A stored job is over: what runs is ended, and no outcome of it is kept."""
        client = job.client
        self.cancel_all(job)
        kept = [each for each, delivery in client.unread.items() if delivery.outcome.job == job.client_number]
        for sequence in kept:
            self._deliveries.acknowledge(client, sequence)
        self.forget(client, job.client_number)

    def fail(self, run: Run, position: int, status: Status, text: str) -> None:
        """A task that has no outcome yet fails, wherever it is."""
        job, state = run.job, run.states[position]
        if state == State.QUEUED:
            if job.ready:
                self._scheduler.unqueue(job, 1)
        elif state == State.LEASED:
            self._recall(run, position)
            self._workforce.retract(job, {run: {position}}, kill=True)
            self._leases.unlease(job, 1)
        else:
            return
        self._end(run, position, status, text)

    # -- clients come and go ---------------------------------------------------------------------------------

    def resume(self, client: Client) -> None:
        """A client is back: it hears of what it has not acknowledged, and acknowledges again what it has."""
        self._deliveries.resend(client)

    def granted(self, client: Client, stream: int) -> bool:
        """A client asks for an answer's body. True where that is gone with its worker: the task runs again."""
        job = client.jobs.get(stream >> 32)
        run = job.find(stream & INDEX_MAX) if job is not None else None
        delivery = run.answers.get((stream & INDEX_MAX) - run.first) if run is not None else None
        if delivery is None or delivery.leased is not None:
            return False
        if delivery.flow is None or delivery.flow.forwarded:
            return False
        self._results.recalled(delivery)
        return True

    def absent(self, client: Client) -> None:
        """A client's link is gone: blobs that were on their way may come from another one."""
        for blob in self._blobs.left(client):
            self._ask_anyone(blob)

    def ask_back(self, client: Client) -> None:
        """A client does not come back soon: no worker waits for its arguments and values any more."""
        for job in client.jobs.values():
            self._workforce.ask_back(job)

    def drop(self, client: Client) -> int:
        """A client's session is over: its jobs go, what runs is ended. Returns how many tasks had no outcome."""
        unfinished = 0
        if self._outbox.journaled:
            self._outbox.record(ClientOver(client.session))
        self._scheduler.remove_client(client)
        for delivery in client.unread.values():
            self._results.dropped(delivery)
        self._deliveries.forget(client)
        for job in client.jobs.values():
            job.queued = 0
            leased = {run: {at for at, state in enumerate(run.states) if state == State.LEASED} for run in job.runs}
            self._workforce.retract(job, leased, kill=True)
            for run in job.runs:
                unfinished += run.unfinished
                self._stories.dropped(run)
                for position in leased[run]:
                    run.step(position, position + 1, Step.CANCEL)
                for flow in run.flows.values():
                    self._relay.end(flow)
                run.flows.clear()
                run.release()
            self._leases.unlease(job, job.leased)
            self._close(job)
        client.jobs.clear()
        self._values.left(client)
        return unfinished

    def outgrown(self) -> bool:
        """Fail what turned out to fit no worker. Whether there was any."""
        misfits = self._scheduler.misfits()
        for span in misfits:
            self._misfit(span.run, span.start)
        return bool(misfits)

    def restore(self, run: Run) -> None:
        """Take in a run of an earlier manager's, all of whose open tasks are QUEUED; they are not in line yet."""
        job, client = run.job, run.job.client
        self._runs += 1
        run.order = client.newest = self._runs
        job.add(run)
        for position in range(run.count):
            if run.states[position] == State.QUEUED:
                task = run.tasks.get(position)
                if task is None or not task.settled:
                    client.owed_bytes += run.head_sizes[position] + TASK_OVERHEAD_BYTES
                if size := run.body(position):
                    run.flows[position] = Flow(size, source_stream=job.client_number << 32 | (run.first + position))

    def runs(self, client: Client) -> Iterator[Run]:
        """Every run of a client."""
        return (run for job in client.jobs.values() for run in job.runs)

    def flows(self, client: Client) -> Iterator[Flow]:
        """The flows of arguments."""
        return (flow for run in self.runs(client) for flow in run.flows.values())

    # -- private ---------------------------------------------------------------------------------------------

    def take(self, job: Job, message: Submit, link: int) -> None:
        """Take a run in, whose bodies come over this link."""
        client, count = job.client, len(message.head_sizes)
        if not count:
            return
        if job.forgotten:
            raise UnexpectedError(f"tasks of job {message.job}, which was over")
        if self._outbox.failure and job.journaled:
            indices = range(message.first, message.first + count)
            self._deliveries.refuse(job, indices, Status.UNRUNNABLE, self._outbox.failure)
            return
        cost = len(message.heads) + TASK_OVERHEAD_BYTES * count
        alone = count == 1 and not client.owed_bytes
        granted = self._credits.submit_bytes(client.session)
        if client.link and client.owed_bytes + cost > granted and not alone:  # else the store counts
            raise OverrunError(f"{client.owed_bytes} + {cost} bytes of tasks, where {granted} are granted")
        client.owed_bytes += cost
        self._stories.queued(job, message.first, count)
        if self._outbox.journaled and job.journaled:
            sizes = message.head_sizes[:]  # the run's own column grows
            self._outbox.record(Accepted(job.number, message.first, sizes, message.body_sizes, message.heads))
        if not self._join(job, message):
            self._begin(job, message, link)

    def _join(self, job: Job, message: Submit) -> bool:
        """Add tasks that wait behind others to the run before them. Whether they could be.

        Whoever submits slowly what workers do slower still would else queue a record for each task.
        """
        if not job.runs or not (job.queued or job.waiting) or message.body_sizes:
            return False
        run, count = job.runs[-1], len(message.head_sizes)
        if run.order != job.client.newest or run.stop != message.first or not run.grows(count, len(message.heads)):
            return False
        if job.refusal:
            return False
        span = run.grow(message.head_sizes, message.heads)
        if not job.ready:
            job.waiting += [] if span is None else [span]
        elif span is None:
            self._scheduler.grown(job, count)
        else:
            self._scheduler.queue(span)
        return True

    def _begin(self, job: Job, message: Submit, link: int) -> None:
        client, count = job.client, len(message.head_sizes)
        self._runs += 1
        client.newest = self._runs
        bodies = message.body_sizes if message.body_sizes and any(message.body_sizes) else array("Q")
        heads = memoryview(message.heads)
        run = Run(job, self._runs, message.first, message.head_sizes, bodies, heads, bytearray(count), count, count)
        job.add(run)
        for position, size in enumerate(bodies):
            if size:
                flow = run.flows[position] = Flow(size, source_stream=message.job << 32 | (run.first + position))
                self._relay.expect(flow, link, window=not message.again)
        if job.refusal:
            self._refuse_run(run, job.refusal)
            return
        if count == 1 and not bodies and job.ready and self._workforce.at_once(run):
            return
        span = run.tail = run.span(0, count, FIRST_ATTEMPT)
        if job.ready:
            self._scheduler.queue(span)
            for position in self._scheduler.too_large(run):
                self._scheduler.unqueue(job, 1)
                self._misfit(run, position)
        else:
            job.waiting.append(span)

    def reattach(self, run: Run, first: int, stop: int, link: int) -> None:
        """The client is ready to send these tasks' bodies once more."""
        for position, flow in run.flows.items():
            if first <= run.first + position < stop and not flow.source and flow.lender is None:
                self._relay.expect(flow, link, window=False)

    def _cancel(self, job: Job, parts: list[Piece], *, kill: bool) -> list[Piece]:
        """Cancel what of these parts of a job's runs is not over; returns the pieces that it is."""
        pieces: list[Piece] = []
        held: dict[Run, set[int]] = {}
        for run, low, high in parts:
            leased: set[int] = set()
            cancelled = array("Q")
            for position in range(low, high):
                state = run.states[position]
                if state == State.QUEUED:
                    if job.ready:
                        self._scheduler.unqueue(job, 1)
                elif state == State.LEASED:
                    leased.add(position)
                else:
                    continue
                cancelled.append(position)
            for position in leased:
                self._recall(run, position)
            if leased:
                held.setdefault(run, set()).update(leased)
            self._leases.unlease(job, len(leased))
            for position in cancelled:
                run.step(position, position + 1, Step.CANCEL)
            job.cancelled += len(cancelled)
            pieces += [(run, cancelled[start], cancelled[stop - 1] + 1) for start, stop in contiguous(cancelled)]
        self._workforce.retract(job, held, kill=kill)
        if len(job.waiting) > WAITING_SWEPT_SPANS + 2 * len(job.runs):
            job.waiting = [span for span in job.waiting if span.skip()]
        return pieces

    def _recall(self, run: Run, position: int) -> None:
        """If the answer's body is on its way, stop it."""
        delivery = run.answers.get(position)
        if delivery is not None:
            self._results.dropped(delivery)
            self._deliveries.recall(delivery)

    def _misfit(self, run: Run, position: int) -> None:
        size, shared = run.body(position), run.job.value_bytes
        most = self._scheduler.arena_bytes_max(run.job.capability)
        what = f"argument of {size} bytes" if not shared else f"put values of {shared} bytes"
        if size and shared:
            what += f" and its argument of {size} bytes together"
        verb = "fit" if shared else "fits"
        text = f"its {what} {verb} no worker: the largest arena has {most} bytes (see worker --arena)"
        self._end(run, position, Status.UNRUNNABLE, text)

    def _end(self, run: Run, position: int, status: Status, text: str) -> None:
        run.step(position, position + 1, Step.FAIL)
        run.job.failed += 1
        self._deliveries.settle(run.job, [(run, position, position + 1)], 0, status, text)

    def _wake(self, blob: Blob | None) -> None:
        """A blob is whole, or refused to somebody: what waited for it goes on."""
        if blob is None:
            return
        for job in blob.jobs:
            if job.refusal:
                waiting, job.waiting = job.waiting, []
                for span in waiting:
                    self._refuse_run(span.run, job.refusal)
            elif job.ready:
                self.queue_waiting(job)

    def queue_waiting(self, job: Job) -> None:
        """All that its tasks need is here, or known."""
        waiting, job.waiting = job.waiting, []
        for span in waiting:
            self._scheduler.queue(span)

    def _refuse_run(self, run: Run, reason: str) -> None:
        for position in range(run.count):
            if run.states[position] == State.QUEUED:
                self._end(run, position, Status.UNRUNNABLE, reason)

    def _require_room(self, job: Job) -> None:
        """Bound the texts of a client's jobs; those of stored ones the store counts."""
        client = job.client
        if type(client) is not Keeper and client.job_bytes + job.bytes > self._limits.job_bytes:
            raise OverrunError(f"more than {self._limits.job_bytes} bytes of jobs")

    def _enlist(self, job: Job) -> None:
        """Put a job into its client's table."""
        client = job.client
        job.bytes = job.bytes or JOB_OVERHEAD_BYTES
        self._require_room(job)
        client.job_bytes += job.bytes
        client.jobs[job.client_number] = job

    def _ask_anyone(self, blob: Blob) -> None:
        for job in blob.jobs:
            if job.client.link:
                self._blobs.ask(blob, job.client)
                return

    def _close_if_done(self, job: Job | None) -> None:
        if job is not None and job.forgotten and not job.runs:
            del job.client.jobs[job.client_number]
            self._close(job)

    def _close(self, job: Job) -> None:
        """A job is over."""
        job.client.job_bytes -= job.bytes
        self._blobs.unpin(job)
        self._values.unpin(job)
        self._workforce.forget(job)


def capability_of(message: JobMessage) -> Capability:
    """Name what a job needs."""
    if message.kind == FunctionKind.REGISTERED:
        return FunctionKind.REGISTERED, message.function
    return python_capability(message.python)
