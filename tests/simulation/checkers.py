"""The invariants of RELIABILITY.md, apart from the workload: what was promised, and whether it was kept.

`Truth` knows what every client asked for and judges each outcome as it comes (I1, I2, I4, I9). `Wire` watches what
is said on the links (I3, leases). `require_drained` looks into the cores when everything is over (I5, I6, I7). The
cores' own `check()` runs besides, and nobody may ever be blamed for breaking the wire's rules: all peers are honest.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starcore.client.core import ClientCore
from starcore.errors import Code, Status
from starcore.events import ChunkReceived, Received
from starcore.manager.core import Limits, ManagerCore
from starcore.manager.state import SUSPECT_LOSSES, Client, Leased, Mark, State
from starcore.manager.values import Values
from starcore.messages import HEAD_BYTES_MAX, Assign, Goodbye, Job, Outcome, Submit
from starcore.worker.core import WorkerCore
from starcore.worker.departure import STOP_SECONDS_MAX
from starcore.worker.runs import Run

from .reached import Reached
from .work import Answer, Kind, Spec
from .world import Violation, World

if TYPE_CHECKING:
    from .callers import Calls

CRASH_LIMIT = 3
_BLAME = b"given up after %d deaths under this task" % CRASH_LIMIT
CHUNK_SLACK_SECONDS = 0.02
VIGIL_SLACK_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class _Task:
    record: Calls
    spec: Spec
    head: bytes
    cancelled: bool = False
    outcome: Status | None = None


class Truth:
    """Every task that was ever asked for, and what became of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wire = Wire()
        self.reached = Reached()
        self.arenas: list[int] = []
        """The arena of every worker that there ever was."""
        self.memory_fails = False
        self.journal_fails = False
        """Tasks may have been refused while nothing could be written."""
        self.counts: Counter[Status] = Counter()
        self.notices = 0
        self.executions = 0
        self._tasks: dict[tuple[str, int, int], _Task] = {}
        self._by_serial: dict[int, _Task] = {}
        self._executed: dict[int, Counter[int]] = {}
        self._answers: dict[int, dict[Answer, None]] = {}
        """What slots gave, by a task's serial number: one each time that it ran."""
        self._owed: dict[tuple[str, int, int], _Task] = {}
        """Those without an outcome, that somebody waits for."""
        self._gone: dict[str, None] = {}

    # -- what happens ----------------------------------------------------------------------------------------

    def called(self, client: str, record: Calls, index: int, spec: Spec, head: bytes) -> None:
        """A client asked for a task."""
        key = (client, record.number, index)
        if key in self._tasks:
            raise Violation(f"the simulator names two tasks {key}")
        self._tasks[key] = self._by_serial[spec.serial] = task = _Task(record, spec, head)
        if client not in self._gone:
            self._owed[key] = task

    def cancelled(self, client: str, job: int, index: int) -> None:
        """Nobody waits for a task any more."""
        self._tasks[client, job, index].cancelled = True
        self._owed.pop((client, job, index), None)

    def needs(self, run: Run) -> tuple[bytes, ...]:
        """The values that were given to a task, by what its client asked for."""
        record = self._by_serial[Spec.of(run.heads).serial].record
        return tuple(treasure.name for treasure in record.needs)

    def is_cancelled(self, client: str, job: int, index: int) -> bool:
        """Whether nobody waits for a task."""
        return self._tasks[client, job, index].cancelled

    def is_void(self, serial: int) -> bool:
        """Whether nobody waits for the task with this serial number."""
        return self._by_serial[serial].cancelled

    def gone(self, client: str) -> None:
        """A client will never come back: nothing is promised to it any more."""
        self._gone[client] = None
        self._owed = {key: task for key, task in self._owed.items() if key[0] != client}

    def executed(self, head: bytes, status: int, answer: Answer | None) -> None:
        """A slot came to the end of a task."""
        self.executions += 1
        serial = Spec.of(head).serial
        self._executed.setdefault(serial, Counter())[status] += 1
        if answer is not None:
            self._answers.setdefault(serial, {})[answer] = None

    def require_function(self, who: str, job: Job, run: Run) -> None:
        """A task runs with the function that it was meant for, whatever number its job has."""
        record = self._by_serial[Spec.of(run.heads).serial].record
        if (job.function, job.digest) != (record.function, record.digest):
            raise Violation(f"I4: {who} runs a task of {record.function!r} with {job.function!r}")

    def told(self, client: str, text: str) -> None:
        """A client asked for the star's state."""
        if "workers" not in json.loads(text):
            raise Violation(f"{client} hears of a star without workers: {text}")

    def noticed(self, client: str, text: str) -> None:
        """A client is told why a job waits."""
        self.notices += 1
        if not text:
            raise Violation(f"{client} is told nothing")

    def outcome(self, client: str, job: int, index: int, status: Status, head: bytes, body: int) -> None:
        """A client's future is resolved."""
        task = self._tasks.get((client, job, index))
        name = f"{client}'s task {job}/{index}"
        if task is None:
            raise Violation(f"I1: an outcome of {name}, which was never asked for")
        if task.cancelled:
            return
        if task.outcome is not None:
            raise Violation(f"I1: {name} has two outcomes, {task.outcome.name} and {status.name}")
        task.outcome = status
        self._owed.pop((client, job, index), None)
        self.counts[status] += 1
        fault = self._judge(task, status, head, body)
        if fault:
            raise Violation(f"{fault}: {name}, {task.spec}, ended as {status.name} with {bytes(head[:200])!r}")

    # -- judging ---------------------------------------------------------------------------------------------

    def _judge(self, task: _Task, status: Status, head: bytes, body: int) -> str:
        spec, record = task.spec, task.record
        executed = self._executed.get(spec.serial, Counter())
        if status is Status.OK:
            if not executed[Status.OK]:
                return "I4: an answer that no slot gave"
            given = self._answers[spec.serial]
            return "" if Answer(bytes(head), body) in given else "I4: not what the slot's function gave"
        if not head:
            return "I9: no cause"
        fits = {
            Status.RAISED: spec.kind in (Kind.RAISE, Kind.FLAKY) and executed[Status.RAISED] > record.retries,
            Status.CRASHED: executed[Status.CRASHED] + self.world.deaths >= CRASH_LIMIT and _BLAME in bytes(head),
            Status.TIMEOUT: self._may_time_out(spec, record.timeout_seconds),
            Status.MEMORY: spec.kind is Kind.SWELL or self.world.swollen > 0,
            Status.UNSENDABLE: spec.kind is Kind.UNSENDABLE,
            Status.UNRUNNABLE: self.memory_fails
            or (self.journal_fails and b"journal cannot be written" in bytes(head))
            or spec.argument + record.shared_bytes > min(self.arenas),
        }
        return "" if fits.get(status) else "an outcome that cannot be"

    @staticmethod
    def _may_time_out(spec: Spec, timeout: float) -> bool:
        endless = spec.kind in {Kind.HANG, Kind.SWELL}  # the one that swells runs until somebody sees it
        return bool(timeout) and (endless or spec.micros * 1e-6 + CHUNK_SLACK_SECONDS >= timeout)

    # -- the end ---------------------------------------------------------------------------------------------

    def unfinished(self) -> list[tuple[str, int, int]]:
        """Tasks that are still owed an outcome."""
        return list(self._owed)

    def hanging(self) -> list[tuple[str, Calls, int]]:
        """Tasks that will never end by themselves."""
        return [
            (key[0], task.record, key[2])
            for key, task in self._owed.items()
            if task.spec.kind is Kind.HANG and not task.record.timeout_seconds
        ]

    @property
    def tasks(self) -> int:
        """How many tasks were asked for."""
        return len(self._tasks)

    def require_finished(self) -> None:
        """I2: none is lost."""
        missing = self.unfinished()
        if missing:
            tasks = ", ".join(f"{client}'s {job}/{index}" for client, job, index in missing[:5])
            spec = self._tasks[missing[0]].spec
            raise Violation(f"I2, I10: {len(missing)} tasks have no outcome: {tasks} … {spec}")


class Wire:
    """What may be said on the links, whoever says it."""

    def __init__(self) -> None:
        self._completed: dict[tuple[str, int, int, int], None] = {}
        self._bodies: dict[tuple[str, int, int, int], list[int]] = {}
        self._leases: dict[int, str] = {}
        self._attempts: dict[tuple[int, int, int, int], None] = {}
        self.over: dict[bytes, str] = {}
        """Sessions of clients whose GOODBYE a manager heard."""
        self._submitted: tuple[ManagerCore, Client, Submit] | None = None

    def manager_hears(self, core: ManagerCore, event: Any) -> None:
        """A client that says GOODBYE, and is heard, is to be forgotten; what fits no worker is refused."""
        if self._submitted is not None:
            _require_misfits_refused(*self._submitted)
            self._submitted = None
        if type(event) is Received and type(event.message) is Submit:
            link = core._sessions.links.get(event.link)
            if link is not None and isinstance(link.owner, Client) and event.message.body_sizes:
                self._submitted = core, link.owner, event.message
        if type(event) is Received and type(event.message) is Goodbye and event.message.code == Code.NORMAL:
            link = core._sessions.links.get(event.link)
            if link is not None and isinstance(link.owner, Client):
                self.over[link.owner.session] = link.owner.name

    def client_hears(self, name: str, event: Any) -> None:
        """I3: at most one completed RESULT a task and connection."""
        if type(event) is Received and type(event.message) is Outcome:
            outcome = event.message
            for at, index in enumerate(outcome.indices):
                if outcome.body_sizes and outcome.body_sizes[at]:
                    stream = outcome.job << 32 | index
                    self._bodies[name, event.link, stream, outcome.attempt] = [0, outcome.body_sizes[at]]
                elif outcome.statuses[at] != Status.CANCELLED:
                    self._complete(name, event.link, outcome.job, index)
        elif type(event) is ChunkReceived:
            body = self._bodies.get((name, event.link, event.stream, event.attempt))
            if body is not None:
                body[0] += event.length
                if body[0] == body[1]:
                    self._complete(name, event.link, event.stream >> 32, event.stream & 0xFFFFFFFF)

    def _complete(self, name: str, link: int, job: int, index: int) -> None:
        key = (name, link, job, index)
        if key in self._completed:
            raise Violation(f"I3: {name} hears of task {job}/{index} twice over one connection")
        self._completed[key] = None

    def worker_hears(self, name: str, event: Any) -> None:
        """A lease is given once, and so is each attempt of a task."""
        if type(event) is not Received or type(event.message) is not Assign:
            return
        assign = event.message
        for at in range(len(assign.head_sizes)):
            lease = assign.lease + at
            if lease in self._leases:
                raise Violation(f"lease {lease} is given to {name}, and was given to {self._leases[lease]}")
            self._leases[lease] = name
            attempt = (lease >> 32, assign.job, assign.first + at, assign.attempt)
            if attempt in self._attempts:
                raise Violation(f"attempt {assign.attempt} of task {assign.job}/{assign.first + at} is given twice")
            self._attempts[attempt] = None


def _require_misfits_refused(core: ManagerCore, client: Client, submit: Submit) -> None:
    """Nothing waits in line that is larger than the arena of every worker that was there when it came."""
    job = client.jobs.get(submit.job)
    lane = core._scheduler._lanes.get(job.capability) if job is not None and job.ready else None
    most = lane.arena_bytes_max if lane is not None and lane.workers else 0  # those that are away may come back
    for index, size in enumerate(submit.body_sizes, submit.first):
        run = job.find(index) if job is not None and 0 < most < size and not submit.again else None
        if run is not None and run.states[index - run.first] == State.QUEUED:
            raise Violation(f"{client.name}'s task {submit.job}/{index} of {size} bytes waits, where {most} bytes fit")


def require_within_budget(core: ManagerCore, limits: Limits) -> None:
    """I5: the manager's bytes are within what was granted."""
    relay, blobs = core._relay, core._blobs
    kept = sum(blob.flow.end for blob in blobs._blobs.values() if blob.flow is not None)
    link = limits.relay_link_bytes + limits.relay_window_bytes + limits.first_window_bytes
    bound = kept + link * max(1, len(relay._ports) + len(core._sessions.clients))
    if relay.held_bytes > bound:
        raise Violation(f"I5: {relay.held_bytes} bytes of bodies in the manager, where {bound} were granted")
    for client in core._sessions.clients.values():
        if client.owed_bytes > max(limits.submit_bytes, HEAD_BYTES_MAX + 64):
            raise Violation(f"I5: client {client.name} owes {client.owed_bytes} bytes of {limits.submit_bytes}")


def require_no_vigil(core: ManagerCore, limits: Limits, now: float) -> None:
    """I10: no worker keeps a place for an argument or a value whose client has been away for long."""
    for worker in core._sessions.workers.values():
        for leased in worker.leases:
            flow, client = leased.run.flows.get(leased.start), leased.run.job.client
            lacks = not all(Values.has(worker, value) for value in leased.run.job.values)
            held = any(leased.marks[at] == Mark.HELD and at not in leased.unwanted for at in leased.live())
            waits = (lacks or (flow is not None and flow.end < flow.size)) and held
            since = max(client.left_at, leased.at) + limits.argument_grace_seconds + VIGIL_SLACK_SECONDS
            if waits and not client.link and now > since:
                raise Violation(f"I10: worker {worker.name} waits for bytes of {client.name}, who is away")


def require_lifetime_kept(core: WorkerCore, name: str, lived: float, woken: float) -> None:
    """A worker takes nothing for a while before its time is up, and is gone when it is; one that stood still, after."""
    life = core._departure._lifetime
    if life is None or core._departure.over:
        return
    if lived > max(life.seconds, woken) + STOP_SECONDS_MAX:
        raise Violation(f"{name} lives for {lived:.3f} s, where it has {life.seconds:.3f}")
    drains_at = max(life.seconds - life.drain_before_seconds, woken)
    if lived > drains_at + CHUNK_SLACK_SECONDS and not core._departure.leaving:
        raise Violation(f"{name} takes work after {lived:.3f} s of {life.seconds:.3f}")


def require_no_ghosts(core: ManagerCore) -> None:
    """No value is believed to be at a worker that is gone, and no worker is kept in mind for a job that is over."""
    workers = core._sessions.workers.values()
    known = set(workers)
    for value in core._values._values.values():
        if not known.issuperset(value.workers):
            raise Violation(f"value {value.name.hex()[:8]} is believed to be at a worker that is gone")
    for worker in workers:
        over = [job.number for job in worker.jobs.values() if job.client.jobs.get(job.client_number) is not job]
        if over:
            raise Violation(f"I6: worker {worker.name} keeps jobs that are over: {over}")


def require_suspects_alone(core: ManagerCore) -> None:
    """A task with two losses runs with nothing else unfinished at its worker."""
    for worker in core._sessions.workers.values():
        for leased in worker.leases:
            suspects = [at for at in leased.live() if _losses(leased, at) >= SUSPECT_LOSSES]
            if suspects and (worker.unfinished > 1 or not worker.alone):
                raise Violation(f"a suspect, lease {leased.first + suspects[0]}, is not alone at {worker.name}")


def _losses(leased: Leased, offset: int) -> int:
    task = leased.run.tasks.get(leased.start + offset)
    return task.losses if task is not None else 0


def require_drained(manager: ManagerCore, limits: Limits, tokens: int) -> None:
    """Nothing is left of the work: only blobs that jobs, or the cache, keep."""
    status = manager.status(manager._outbox.now)
    for worker in status["workers"]:
        _require(not worker["leased"] and not worker["running"], "I7: leases at a worker", worker)
        _require(not worker["arena_used_bytes"], "I7: arena bytes at a worker", worker)
    for client in manager._sessions.clients.values():
        left = (client.queued, client.leased, client.unread_bytes, client.owed_bytes, len(client.unread), client.blobs)
        _require(not any(left), "a client's account", (client.name, *left))
        for job in client.jobs.values():
            waiting = [span for span in job.waiting if span.skip()]  # what was cancelled there is swept up later
            _require(not job.runs and not job.leased_runs and not waiting, "a job's runs", job.number)
    for session in manager._sessions.workers.values():
        _require(not session.leases and not session.asked, "I7: a worker's leases", session.name)
        on_their_way = [flow for flow in session.blobs.values() if flow and flow.sink and not flow.forwarded]
        _require(not on_their_way, "blobs on their way", (session.name, on_their_way))
    values = [flow for flow in manager._values.flows() if flow.held or flow.promised or flow.readers]
    _require(not values, "values on their way", values)
    blobs = manager._blobs._blobs.values()
    # One that no task waits for may be half told of; with its job's next task it is asked for.
    _require(all(blob.whole or blob.flow is None for blob in blobs), "an incomplete blob", len(blobs))
    kept = sum(blob.size for blob in blobs if blob.flow is not None)
    _require(manager._relay.held_bytes == kept, "I5: held bytes after the drain", (manager._relay.held_bytes, kept))
    pieces = sum(len(blob.flow.held) for blob in blobs if blob.flow is not None)
    _require(tokens == pieces, "I6: buffers after the drain", (tokens, pieces))
    idle = sum(blob.size for blob in blobs if not blob.jobs)
    _require(idle <= limits.blob_idle_bytes, "I5: the cache of blobs", idle)
    for port in manager._relay._ports.values():
        streams = [flow for flow in port.outbound.values() if not (flow.shared and flow.forwarded)]
        _require(not port.inbound and not streams and not port.thirsty, "streams of a link", streams)


def require_empty(manager: ManagerCore) -> None:
    """Everybody has left: no table remembers anybody, and no timer ticks on."""
    sessions = manager._sessions
    _require(not sessions.links and not sessions.clients and not sessions.workers, "sessions", sessions.links)
    _require(not manager._scheduler._lanes, "lanes of the scheduler", manager._scheduler._lanes)
    _require(not manager._relay._ports, "ports of the relay", manager._relay._ports)
    _require(not manager._values._values, "values", manager._values._values)
    _require(not manager._deliveries.full, "full clients", manager._deliveries.full)
    budget, credits = manager._budget, manager._credits
    lent = {
        "windows": budget.window_bytes - manager._relay._windows.left_bytes,
        "submit credit": budget.submit_bytes - credits._submit.left_bytes,
        "result credit": budget.result_bytes - credits._result.left_bytes,
    }
    _require(not any(lent.values()), "I5: what was lent to links and sessions", lent)
    _require(manager.deadline() is None, "I6: a timer", manager.deadline())


def require_idle_worker(core: WorkerCore, name: str, manager: ManagerCore) -> None:
    """A worker without work holds nothing but functions, of jobs that the manager knows."""
    known = {job for session in manager._sessions.workers.values() if session.name == name for job in session.jobs}
    _require(core._library.jobs.keys() <= known, "I6: jobs that are over", (name, known, [*core._library.jobs]))
    _require(not core._leases(), "I7: leases in a worker", (name, core._leases()))
    _require(core._memory.keys() <= core._custody.keys, "I6: memory of a worker", (name, core._memory.keys()))
    parked = [number for number, entry in core._library.jobs.items() if entry.parked]
    _require(not parked, "parked runs", (name, parked))
    jobless = [value for value in core._library.values.values() if not value.jobs]
    _require(not jobless, "values that no job needs", (name, jobless))
    _require(not len(core._sending), "streams of a worker", name)
    slots = core._bench.slots
    _require(all(not slot.batches and not slot.wanted for slot in slots), "I7: batches in slots", name)


def require_idle_client(core: ClientCore, name: str, manager: ManagerCore) -> None:
    """A client without work has nothing outstanding, and the manager keeps no job of its that is over."""
    kept = {job for session in manager._sessions.clients.values() if session.name == name for job in session.jobs}
    _require(kept <= core._ledger.jobs.keys(), "I6: jobs that are over", (name, kept, [*core._ledger.jobs]))
    _require(not core.outstanding and not core._ledger.charged, "tasks of a client", (name, core._ledger.charged))
    _require(not core._answers._landings and not core._answers._acks, "answers of a client", name)


def _require(holds: bool, what: str, detail: Any) -> None:
    if not holds:
        raise Violation(f"left after the drain: {what}: {detail}")
