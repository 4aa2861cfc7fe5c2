"""What workers hold: who is given work, who gives it back, who comes and goes. Pure.

::

    Scheduler.choose ─▶ ASSIGN ─▶ Leased ─┬─ RESULT ─────▶ results.py
                                          ├─ RETRACTED ──▶ the queue
                                          └─ worker lost ▶ the queue; what may have been running counts a loss
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from starcore.manager.blobs import Blobs
from starcore.manager.columns import contiguous
from starcore.manager.delivery import Deliveries
from starcore.manager.flows import FIRST_ATTEMPT, Flow
from starcore.manager.leases import Leases
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.records import WorkerOver
from starcore.manager.relay import Relay
from starcore.manager.results import Results
from starcore.manager.scheduling import MOVE_SECONDS, Scheduler, head_bytes
from starcore.manager.state import Client, Job, Leased, Mark, Run, Span, State, Worker
from starcore.manager.story import Stories
from starcore.manager.values import Values
from starcore.messages import Assign, Column, Drain, Forget, Retract, Retracted, Running, Started
from starcore.texts import NAME_CHARS_MAX, plain

DRAINED_MAX = 2000
"""How many names the answer to one DRAIN_REQUEST lists: so that they fit one message, however long they are."""

PATTERN_CHARS_MAX = 1024
"""A longer pattern fits nobody: of 64 KiB, what it is made into takes 0.6 s and 3 MiB, and is kept for next time."""

FORGETS_REPEATED_MAX = 1024
"""How many FORGETs are said again to a worker that comes back: the last ones may have been lost with its link."""


class Workforce:
    """Every worker."""

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
        stories: Stories,
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
        self._stories = stories
        self._limits = limits
        self.leasing = True
        """False in a drain: nothing new is given out."""
        self.move_at: float | None = None
        """When work may have to move from a laden worker to an idle one."""

    # -- giving ----------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> None:
        """Give out all that can be given, then see whether work has to move."""
        self.move_at = None
        if self._relay.arrived:
            arrived, self._relay.arrived = self._relay.arrived, []
            for leased in arrived:
                self._scheduler.arrived(leased, now)
        if not self.leasing or self._scheduler.settled:
            return
        while (choice := self._scheduler.choose(self._deliveries.full)) is not None:
            self._assign(*choice, now)
        while (found := self._scheduler.surplus(now)) is not None:
            worker, leases = found
            numbers = sorted(leased.first + offset for leased, offset in leases)
            self._outbox.send(worker.link, Retract(False, array("Q", numbers)))
        if self._scheduler.restless():
            self.move_at = now + MOVE_SECONDS

    def at_once(self, run: Run) -> bool:
        """Give out a lone task without putting it in line, where a slot is free. Whether it was."""
        job = run.job
        if not self.leasing or job.client in self._deliveries.full:
            return False
        worker = self._scheduler.at_once(job)
        if worker is None:
            return False
        self._assign(worker, Span(run, 0, 1, FIRST_ATTEMPT, 0), self._outbox.now)
        return True

    def retract(self, job: Job, tasks: dict[Run, set[int]], *, kill: bool) -> None:
        """Tell the workers that have these tasks of a job, by run, that nobody wants them any more."""
        wanted: dict[Worker, list[int]] = {}
        for leased in job.leased_runs if tasks else ():
            positions = tasks.get(leased.run)
            if not positions:
                continue
            for offset in leased.live():
                if leased.start + offset in positions:
                    leased.unwanted[offset] = kill
                    wanted.setdefault(leased.worker, []).append(leased.first + offset)
        for worker, numbers in wanted.items():
            if worker.link:
                self._outbox.send(worker.link, Retract(kill, array("Q", sorted(numbers))))

    def ask_back(self, job: Job) -> None:
        """Its client is gone: whatever waits at a worker for an argument, or a value, keeps a slot from others."""
        for leased in job.leased_runs:
            flow = leased.run.flows.get(leased.start)
            waits = flow is not None and flow.end < flow.size
            if not waits and all(self._values.has(leased.worker, value) for value in job.values):
                continue
            asked = array("Q")
            for offset, mark in enumerate(leased.marks):
                if mark == Mark.HELD:
                    leased.marks[offset] = Mark.ASKED
                    asked.append(leased.first + offset)
            leased.worker.asked += len(asked)
            if asked and leased.worker.link:
                self._outbox.send(leased.worker.link, Retract(False, asked))

    def granted(self, worker: Worker, stream: int) -> None:
        """A worker asks for an argument: once more, maybe, when its client has been away for long."""
        leased = worker.find(stream)
        if leased is None:
            return
        flow = leased.run.flows.get(leased.start)
        if flow is not None and flow.end < flow.size and flow.lender is None and self._missed(leased.run.job.client):
            self.ask_back(leased.run.job)

    def forget(self, job: Job) -> None:
        """No task of this job will come any more."""
        for worker in job.workers:
            worker.jobs.pop(job.number, None)
            worker.forgotten.append(job.number)
            if worker.link:
                self._outbox.send(worker.link, Forget(job.number))
                del worker.forgotten[:-FORGETS_REPEATED_MAX]
        job.workers.clear()

    # -- what workers say ------------------------------------------------------------------------------------

    def retracted(self, worker: Worker, message: Retracted) -> None:
        """A worker gave back what it had not started, and keeps the rest."""
        for leased, low, high in self._held(worker, message.leases):
            moved = leased.marks[low] == Mark.ASKED
            cause = f"{'taken' if moved else 'given'} back from worker {worker.name}, where it had not begun"
            self._leases.give_back(leased, low, high, cause, moved=moved)
        for leased, low, high in self._held(worker, message.declined):
            for offset in range(low, high):
                self._mark(leased, offset, Mark.STARTED)

    def started(self, worker: Worker, message: Started) -> None:
        """Leases have been running for a while: their clients hear of it."""
        for leased, low, high in self._held(worker, message.leases):
            run = leased.run
            running = array("I")
            for offset in range(low, high):
                told = leased.marks[offset] == Mark.STARTED
                self._mark(leased, offset, Mark.STARTED)
                if not told and run.states[leased.start + offset] == State.LEASED:
                    running.append(run.first + leased.start + offset)
            if running:
                self._stories.running(leased, running)
            client = run.job.client
            if running and client.link:
                self._outbox.send(client.link, Running(run.job.client_number, running))

    # -- workers come and go ---------------------------------------------------------------------------------

    def resume(self, worker: Worker, leases: Column) -> int:
        """A worker is back within its grace, and says what it still holds. Returns how many leases it lost."""
        for job in worker.jobs.values():  # it may have been lost with the link; a worker that knows it ignores it
            self._outbox.send(worker.link, job.message)
        held = set(leases)
        lost = 0
        for leased in list(worker.leases):
            missing = [offset for offset in leased.live() if leased.first + offset not in held]
            lost += len(missing)
            for low, high in contiguous(array("Q", missing)):
                cause = f"worker {worker.name} came back without it"
                self._leases.give_back(leased, missing[low], missing[high - 1] + 1, cause)
            for offset in [offset for offset in leased.answering if leased.first + offset not in held]:
                self._results.lose(leased, offset)
            flow = leased.run.flows.get(leased.start)
            if flow is not None and leased.left:
                self._relay.aim(flow, worker.link, leased.first, leased.attempt)
        self._retract_again(worker, leases)
        for number in worker.forgotten:
            self._outbox.send(worker.link, Forget(number))
        if worker.drain_reason and not worker.draining:
            self._outbox.send(worker.link, Drain(worker.drain_reason))
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
        if self._outbox.journaled:
            self._outbox.record(WorkerOver(worker.session))
        cause = f"the connection to worker {worker.name} was lost" if blame else f"worker {worker.name} left"
        for leased in list(worker.leases):
            for offset in list(leased.answering):
                self._results.lose(leased, offset)
            live = list(leased.live())
            lost += len(live)
            suspects = []
            for offset in live:
                if blame and (running > 0 or leased.marks[offset] == Mark.STARTED):
                    suspects.append(offset)
                    running -= 1
            innocent = array("Q", sorted(set(live).difference(suspects)))
            for offset in suspects:
                self._leases.count_loss(leased, offset, cause)
            for low, high in contiguous(innocent):
                self._leases.give_back(leased, innocent[low], innocent[high - 1] + 1, cause)
        for job in worker.jobs.values():
            job.workers.pop(worker, None)
        worker.jobs.clear()
        for digest in list(worker.blobs):
            self._blobs.retire(worker, digest)
        self._values.lose(worker)
        return lost

    def drain(self, workers: Iterable[Worker], pattern: str, client: str) -> list[str]:
        """Tell the connected workers of this name or host to finish and leave; return their names."""
        names: list[str] = []
        for worker in workers if len(pattern) <= PATTERN_CHARS_MAX else ():
            # A worker that names no host is on none: "" as a pattern would fit it.
            known = (name for name in (worker.name, worker.host) if name)
            if worker.link and any(fnmatchcase(name, pattern) for name in known):
                worker.drain_reason = f"asked by client {client}"
                self._outbox.send(worker.link, Drain(worker.drain_reason))
                names.append(worker.name)
        asked = plain(pattern, NAME_CHARS_MAX)
        self._outbox.log("info", f"client {client} drains {asked}: {len(names)} worker{'s' * (len(names) != 1)}")
        return names[:DRAINED_MAX]

    def wanted(self, worker: Worker, digest: bytes) -> None:
        """A worker lacks a function or a value: a value once more, maybe, when its client has been away for long."""
        self._blobs.wanted(worker, digest)
        value = self._values.wanted(worker, digest)
        if value is not None and self._missed(value.client):
            for job in value.jobs:
                self.ask_back(job)

    def aborted(self, worker: Worker, stream: int, attempt: int) -> None:
        """A worker ends a stream: it cannot send an answer that it announced, or takes no argument."""
        leased = worker.find(stream)
        if leased is None:
            return
        offset = stream - leased.first
        if offset in leased.answering:
            self._results.lose(leased, offset)
        elif leased.marks[offset] < Mark.ANSWERING:
            flow = leased.run.flows.get(leased.start)
            if flow is not None:
                self._relay.unaim(flow)

    @staticmethod
    def flows(worker: Worker) -> Iterator[Flow]:
        """The flows of blobs on their way to a worker."""
        return (flow for flow in worker.blobs.values() if flow is not None)

    # -- private ---------------------------------------------------------------------------------------------

    def _missed(self, client: Client) -> bool:
        """Whether nobody waits any longer for a client to send what its tasks need."""
        return not client.link and client.left_at <= self._outbox.now - self._limits.argument_grace_seconds

    def _assign(self, worker: Worker, span: Span, now: float) -> None:
        run, job = span.run, span.run.job
        leased = self._leases.begin(worker, span, now)
        if job.number not in worker.jobs:
            if job.blob is not None:
                self._blobs.supply(worker, job.blob)
            self._values.supply(worker, job.values)
            worker.jobs[job.number] = job
            job.workers[worker] = None
            self._outbox.send(worker.link, job.message)
        sizes, heads = head_bytes(span)
        bodies = run.body_sizes[span.start : span.stop]
        first = run.first + span.start
        self._outbox.send(worker.link, Assign(leased.first, job.number, first, span.attempt, sizes, bodies, heads))
        flow = run.flows.get(span.start) if run.flows else None
        if flow is not None:
            flow.leased = leased
            self._relay.aim(flow, worker.link, leased.first, span.attempt)
        else:
            self._relay.among(worker.link)

    def _retract_again(self, worker: Worker, held: Column) -> None:
        """Say once more what a returning worker may not have heard, and take from it what nobody knows of."""
        forced, asked = array("Q", (lease for lease in held if worker.find(lease) is None)), array("Q")
        for leased in worker.leases:
            for offset in leased.live():
                if leased.unwanted.get(offset):
                    forced.append(leased.first + offset)
                elif offset in leased.unwanted or leased.marks[offset] == Mark.ASKED:
                    asked.append(leased.first + offset)
        for kill, numbers in ((True, forced), (False, asked)):
            if numbers:
                self._outbox.send(worker.link, Retract(kill, numbers))

    @staticmethod
    def _mark(leased: Leased, offset: int, mark: Mark) -> None:
        if leased.marks[offset] == Mark.ASKED:
            leased.worker.asked -= 1
        leased.marks[offset] = mark

    def _held(self, worker: Worker, leases: Column) -> list[tuple[Leased, int, int]]:
        """Find the leases that a worker speaks of and has not ended, in pieces of one leased run and mark."""
        found: list[tuple[Leased, int, int]] = []
        for lease in dict.fromkeys(leases):
            leased = worker.find(lease)
            if leased is None or leased.marks[lease - leased.first] >= Mark.ANSWERING:
                self._leases.counters.stale += 1
                continue
            offset = lease - leased.first
            last, low, high = found[-1] if found else (None, 0, 0)
            if last is leased and high == offset and leased.marks[low] == leased.marks[offset]:
                found[-1] = (leased, low, offset + 1)
            else:
                found.append((leased, offset, offset + 1))
        return found
