"""Which task goes to which worker: fairness, priorities, batch sizes, and who gives work back. Pure.

The scheduler owns two tables and answers two questions. Work waits in *lanes*, one for each capability that a job
may need; a worker stands in every lane that it can serve::

    lane (SHIPPED, "3.11")    clients with queued work ─▶ the least used one's best span
                              workers: idle ─▶ with room ─▶ (laden)

`choose` names the next lease: of the clients who wait, the one that has used the fewest slot-seconds (as the
workers reported them; an estimate is charged at the lease and corrected by the result), of its work the highest
priority, then the oldest. Idle slots come first, one worker after the other, and nobody gets more than his share
of a short queue. A worker is then kept `AHEAD_SECONDS` of work ahead, or one task a slot where tasks are long.

A lease whose argument is still on its way takes no slot: a slow client, or one that went away, keeps nobody from
running. Each client may have a few such leases at a worker: one running and one behind it for each slot, and as many
more as it takes to hide the way (but see `_fits`), which is measured (`Job.way_seconds`: from the lease until the
argument had left whole). And where a client's tasks with and without bodies wait together, the two kinds take turns.

A task that saw two deaths is a suspect, and runs alone: a worker is *reserved*, empties, and gets nothing else until
the suspect has ended. So the innocent who died with it are cleared, and it can only fail alone.

`surplus` names what to take back: unstarted work of a laden worker, when the queue is empty and others are idle.

Neither looks at all workers or all tasks: workers move between ordered sets when what they hold changes.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import chain, islice

from starcore.manager.state import Capability, Client, Job, Leased, Mark, Run, Span, State, Worker
from starcore.manager.stored import Keeper
from starcore.messages import BATCH_BYTES_MAX, BATCH_TASKS_MAX

AHEAD_SECONDS = 0.02
"""Work that waits at a worker for each of its slots, so that the wire is hidden."""
GRAIN_SECONDS = 0.002
"""A share of a short queue is at least so much work a slot: a message for less would cost the manager more than the
work costs the worker, and a thousand idle workers would get five tasks each."""
UNKNOWN_SECONDS = 0.01
"""What a task is charged before its job has had a result."""
MEAN_SECONDS_MIN = 1e-6
MOVE_SECONDS = 0.1
"""Work that begins sooner than this where it is, is not moved."""
WORKER_TASKS_MAX = BATCH_TASKS_MAX // 2
"""What one worker holds unfinished. A HELLO lists every lease, those with an answer on its way included, and one
column of it holds BATCH_TASKS_MAX."""
SWEPT_SPANS = 64
"""Spans in a line, beyond twice its tasks, before it is swept."""
AWAITED_PER_SLOT_MAX = 16
"""Arguments of one client on their way to a worker, for each of its slots: whatever their way takes."""
NEAR_SECONDS = 0.05
AWAITED_NEAR_BYTES = 4 << 20
AWAITED_NEAR_MIN = 2
"""Where the way takes less, so many bytes a slot hide it, or so many arguments. More would only lie about and leave
the processor's caches: an array of 1 MiB would cost all processes together a twentieth more."""
REFILLS = 2
"""Arguments ahead are asked for in so many parts, as those before them are used up: what each process does for several
in one turn of its loop costs it less than one by one, and that is another twentieth."""
WAY_GROWTH = 1.1
WAY_SECONDS = 0.001
"""How much longer than the shortest known way the next one may seem: so that a wire may become slower."""
LOOK_WORKERS_MAX = 16
"""How many workers one decision may look at closely."""

Entry = tuple[int, int, int, int, Span]
"""Sorted by descending priority, age of the run, descending attempt; a serial number ends every tie."""


@dataclass(slots=True)
class _Line:
    """One client's work in one lane. Bodied tasks and suspects wait apart: they need memory, or an empty worker."""

    suspect: list[Entry] = field(default_factory=list)
    plain: list[Entry] = field(default_factory=list)
    bodied: list[Entry] = field(default_factory=list)
    tasks: int = 0
    bodied_next: bool = False
    """Where tasks with and without bodies wait at one priority, those with one come first this time."""

    def heap(self, span: Span) -> list[Entry]:
        """Where a span waits."""
        if span.suspect:
            return self.suspect
        return self.bodied if _pulls(span) else self.plain

    def sweep(self) -> None:
        """Throw out the spans whose tasks were all cancelled, before they are more than the others."""
        if len(self.suspect) + len(self.plain) + len(self.bodied) > SWEPT_SPANS + 2 * self.tasks:
            for heap in (self.suspect, self.plain, self.bodied):
                heap[:] = [entry for entry in heap if entry[4].skip()]
                heapify(heap)

    def heaps(self, connected: bool) -> list[list[Entry]]:
        """The heaps that have work, the more urgent one first; bodies come from a connected client, or the store."""
        heaps = [self.suspect, self.plain, self.bodied] if connected else [self.suspect, self.plain]
        for heap in heaps:
            while heap and not heap[0][4].skip():
                heappop(heap)
        waiting = sorted((heap for heap in heaps if heap), key=_urgency)
        if not connected and self.suspect and _pulls(self.suspect[0][4]):
            waiting.remove(self.suspect)
        if connected and self.plain and self.bodied and self.plain[0][0] == self.bodied[0][0]:
            one, other = (place for place, heap in enumerate(waiting) if heap is not self.suspect)
            if (waiting[one] is self.bodied) != self.bodied_next:
                waiting[one], waiting[other] = waiting[other], waiting[one]
        return waiting


@dataclass(slots=True, eq=False)
class _Lane:
    """One capability."""

    lines: dict[Client, _Line] = field(default_factory=dict)
    tasks: int = 0
    slots: int = 0
    arena_bytes_max: int = 0
    workers: dict[Worker, None] = field(default_factory=dict)
    away: dict[Worker, None] = field(default_factory=dict)
    """Lost a moment ago, and expected back: they count for what can be run at all."""
    idle: OrderedDict[Worker, None] = field(default_factory=OrderedDict)
    roomy: OrderedDict[Worker, None] = field(default_factory=OrderedDict)
    laden: OrderedDict[Worker, None] = field(default_factory=OrderedDict)


def _pulls(span: Span) -> bool:
    """Whether its tasks need bytes that only their client has."""
    return span.bodied or bool(span.run.job.values)


def _urgency(heap: list[Entry]) -> tuple[int, int, int, int]:
    return heap[0][:4]


class Scheduler:
    """What waits, who is free, and who comes next."""

    def __init__(self) -> None:
        self._lanes: dict[Capability, _Lane] = {}
        self._floor_seconds = 0.0
        self._serial = 0
        self.misfit: list[Span] = []
        """Tasks, one a span, that were found to fit no capable worker."""
        self.tasks = 0
        """How many wait in all lanes."""
        self._laden = 0
        """How many places in lanes laden workers stand in: while there is none, nothing needs to move."""

    # -- work ------------------------------------------------------------------------------------------------

    def queue(self, span: Span) -> None:
        """Put tasks in line; those of an older run come before those of a younger one."""
        job = span.run.job
        tasks = span.run.states.count(State.QUEUED, span.start, span.stop)
        if not tasks:
            return
        client = job.client
        lane = self._lane(job.capability)
        line = lane.lines.get(client)
        if line is None:
            line = lane.lines[client] = _Line()
        if not client.queued and not client.leased:
            client.used_seconds = max(client.used_seconds, self._floor_seconds)
        self._serial += 1
        entry = (-job.message.priority, span.run.order, -span.attempt, self._serial, span)
        heappush(line.heap(span), entry)
        self._count(lane, line, job, tasks)

    def grown(self, job: Job, tasks: int) -> None:
        """A span in line became longer."""
        lane = self._lanes[job.capability]
        self._count(lane, lane.lines[job.client], job, tasks)

    def unqueue(self, job: Job, tasks: int) -> None:
        """Tasks in line were cancelled; their spans skip them."""
        lane = self._lanes[job.capability]
        line = lane.lines[job.client]
        self._count(lane, line, job, -tasks)
        line.sweep()

    def remove_client(self, client: Client) -> None:
        """Nothing of this client waits any more."""
        for capability, lane in list(self._lanes.items()):
            line = lane.lines.pop(client, None)
            if line is not None:
                lane.tasks -= line.tasks
                self.tasks -= line.tasks
                self._tidy(capability, lane)
        client.queued = 0

    def finished(self, leased: Leased, tasks: int, seconds: float) -> None:
        """Leases ended after so many slot-seconds (0 for those that never ran): correct what was charged."""
        worker, client = leased.worker, leased.run.job.client
        estimate = tasks * leased.estimate_seconds
        client.used_seconds = max(0.0, client.used_seconds + seconds - estimate)
        if leased.arriving:
            self._arrive(leased)
        worker.unfinished -= tasks
        worker.backlog_seconds = max(0.0, worker.backlog_seconds - estimate) if worker.ready else 0.0
        self.place(worker)

    def arrived(self, leased: Leased, now: float) -> None:
        """All of a lease's argument has left for its worker."""
        if leased.arriving:
            job, seconds = leased.run.job, now - leased.at
            known = job.way_seconds
            job.way_seconds = min(seconds, WAY_GROWTH * known + WAY_SECONDS) if known else seconds
            self._arrive(leased)
            self.place(leased.worker)

    # -- workers ---------------------------------------------------------------------------------------------

    def join(self, worker: Worker) -> None:
        """A worker can be given work."""
        for capability in worker.capabilities:
            lane = self._lane(capability)
            if worker not in lane.workers:
                lane.away.pop(worker, None)
                lane.workers[worker] = None
                lane.slots += worker.slots
                lane.arena_bytes_max = max(lane.arena_bytes_max, worker.arena_bytes)
        self.place(worker)

    def leave(self, worker: Worker, *, returning: bool = False) -> None:
        """A worker is given no more work; it may come back."""
        for capability in worker.capabilities:
            lane = self._lanes.get(capability)
            if lane is None:
                continue
            if worker in lane.workers:
                del lane.workers[worker]
                lane.slots -= worker.slots
                self._laden -= worker in lane.laden
                for group in (lane.idle, lane.roomy, lane.laden):
                    group.pop(worker, None)
            if returning:
                lane.away[worker] = None
            else:
                lane.away.pop(worker, None)
            lane.arena_bytes_max = max((other.arena_bytes for other in (*lane.workers, *lane.away)), default=0)
            self._tidy(capability, lane)

    def place(self, worker: Worker) -> None:
        """Put a worker where its work says: idle, with room for more, laden (or both of these), or neither."""
        if not worker.unfinished:
            worker.alone = False
        taken = worker.alone or (worker.reserved and worker.unfinished > 0)
        ready = worker.ready
        idle = ready < worker.slots and not taken
        ahead = worker.backlog_seconds < worker.slots * AHEAD_SECONDS / 2
        roomy = not idle and not taken and (ready < 2 * worker.slots or ahead)
        laden = worker.unfinished > worker.slots
        for capability in worker.capabilities:
            lane = self._lanes.get(capability)
            if lane is not None and worker in lane.workers:
                self._laden += laden - (worker in lane.laden)
                for group, belongs in ((lane.idle, idle), (lane.roomy, roomy), (lane.laden, laden)):
                    if belongs:
                        group[worker] = None
                    else:
                        group.pop(worker, None)

    def spans(self) -> Iterator[Span]:
        """All that waits, in no order."""
        for lane in self._lanes.values():
            for line in lane.lines.values():
                yield from (entry[4] for entry in (*line.suspect, *line.plain, *line.bodied))

    def capable(self, capability: Capability) -> bool:
        """Whether a worker that is here could run such a job."""
        lane = self._lanes.get(capability)
        return lane is not None and bool(lane.workers or lane.away)

    def waiting(self, capability: Capability) -> Iterator[Client]:
        """Clients with work in this lane."""
        lane = self._lanes.get(capability)
        return iter(list(lane.lines) if lane else ())

    def too_large(self, run: Run) -> list[int]:
        """Positions of the tasks whose bodies fit no capable worker that is here."""
        lane = self._lanes.get(run.job.capability)
        if lane is None or not lane.workers or not run.body_sizes or max(run.body_sizes) <= lane.arena_bytes_max:
            return []
        return [position for position, size in enumerate(run.body_sizes) if size > lane.arena_bytes_max]

    def arena_bytes_max(self, capability: Capability) -> int:
        """The largest arena in this lane."""
        lane = self._lanes.get(capability)
        return lane.arena_bytes_max if lane else 0

    def misfits(self) -> list[Span]:
        """Take the tasks, one a span, that were found to fit no capable worker."""
        misfits, self.misfit = self.misfit, []
        return misfits

    # -- decisions -------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether there is nothing to give out and nothing to move, as after most events of a lone task."""
        return not self.tasks and not self._laden

    def choose(self, full: set[Client]) -> tuple[Worker, Span] | None:
        """Name the next lease, and take it out of the queue. Clients in `full` have unread answers enough."""
        if not self.tasks:
            return None
        served = (lane for lane in self._lanes.values() if lane.lines and (lane.idle or lane.roomy))
        lines = ((lane, client) for lane in served for client in lane.lines if client not in full)
        waiting = [(client.used_seconds, place, lane, client) for place, (lane, client) in enumerate(lines)]
        heapify(waiting)  # mostly the first one is it, but where arguments are awaited it may be none of very many
        while waiting:
            used, _, lane, client = heappop(waiting)
            choice = self._match(lane, client, full)
            if choice is not None:
                self._floor_seconds = max(self._floor_seconds, used)
                return choice
        return None

    def at_once(self, job: Job) -> Worker | None:
        """Name the worker that gets a task without a body, where no other waits: as `choose` would, without a line.

        None where that takes a longer look.
        """
        lane, client = self._lanes.get(job.capability), job.client
        if self.tasks or lane is None or not lane.idle or job.values:
            return None
        worker = next(iter(lane.idle))
        if worker.reserved or worker.unfinished >= WORKER_TASKS_MAX or worker.answers_of:
            return None
        used = client.used_seconds
        if used < self._floor_seconds:
            if not client.leased:
                client.used_seconds = self._floor_seconds
        else:
            self._floor_seconds = used
        lane.idle.move_to_end(worker)
        return worker

    def lease(self, leased: Leased) -> None:
        """Charge a lease to its client and its worker."""
        worker, client = leased.worker, leased.run.job.client
        charge = leased.left * leased.estimate_seconds
        client.used_seconds += charge
        worker.unfinished += leased.left
        if leased.run.body(leased.start):
            leased.arriving = True
            worker.arriving += leased.left
            worker.arriving_bytes += leased.run.body(leased.start)
            worker.arriving_of[client] = worker.arriving_of.get(client, 0) + leased.left
        else:
            worker.backlog_seconds += charge
        self.place(worker)

    def surplus(self, now: float) -> tuple[Worker, list[tuple[Leased, int]]] | None:
        """Name leases to take back from a laden worker for idle ones, and mark them as asked for."""
        if not self._laden:
            return None
        for lane in self._lanes.values():
            if lane.lines or not lane.laden or not _anyone_free(lane):
                continue
            free = sum(worker.free for worker in _ends(lane.idle))
            free -= sum(worker.asked for worker in islice(lane.laden, LOOK_WORKERS_MAX))  # on its way already
            for worker in list(islice(lane.laden, LOOK_WORKERS_MAX)):
                lane.laden.move_to_end(worker)
                found = self._movable(worker, lane, min(free, worker.unfinished - worker.slots - worker.asked), now)
                if found:
                    return worker, found
        return None

    def restless(self) -> bool:
        """Whether somebody is idle while somebody else is laden, so that work may have to move soon."""
        return self._laden > 0 and any(
            not lane.lines and lane.laden and _anyone_free(lane) for lane in self._lanes.values()
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert self.tasks == sum(lane.tasks for lane in self._lanes.values())
        assert self._laden == sum(len(lane.laden) for lane in self._lanes.values())
        for lane in self._lanes.values():
            assert lane.tasks == sum(line.tasks for line in lane.lines.values())
            assert lane.slots == sum(worker.slots for worker in lane.workers)
            for worker in lane.workers:
                assert worker.link and not worker.draining, worker.name
                taken = worker.alone or (worker.reserved and worker.unfinished > 0)
                assert (worker in lane.idle) == (worker.ready < worker.slots and not taken), worker.name
                assert sum(worker.arriving_of.values()) == worker.arriving <= worker.unfinished, worker.name
                assert (worker in lane.laden) == (worker.unfinished > worker.slots), worker.name
                assert worker not in lane.idle or worker not in lane.roomy, worker.name
                assert not worker.alone or worker.unfinished <= 1, worker.name
            for client, line in lane.lines.items():
                spans = [entry[4] for entry in (*line.suspect, *line.plain, *line.bodied)]
                tasks = sum(span.run.states.count(0, span.start, span.stop) for span in spans)
                assert line.tasks == tasks > 0, (client.name, line.tasks, tasks)

    # -- private ---------------------------------------------------------------------------------------------

    def _lane(self, capability: Capability) -> _Lane:
        lane = self._lanes.get(capability)
        if lane is None:
            lane = self._lanes[capability] = _Lane()
        return lane

    def _tidy(self, capability: Capability, lane: _Lane) -> None:
        if not lane.lines and not lane.workers and not lane.away:
            self._lanes.pop(capability, None)

    def _count(self, lane: _Lane, line: _Line, job: Job, tasks: int) -> None:
        client = job.client
        line.tasks += tasks
        lane.tasks += tasks
        self.tasks += tasks
        client.queued += tasks
        job.queued += tasks
        if line.tasks == 0:
            del lane.lines[client]
            self._tidy(job.capability, lane)

    def _match(self, lane: _Lane, client: Client, full: set[Client]) -> tuple[Worker, Span] | None:
        """Find a worker for the client's most urgent span, or for the next one that some worker can take."""
        line = lane.lines[client]
        for heap in line.heaps(_has_bodies(client)):
            span = heap[0][4]
            job, body = span.run.job, span.run.body(span.start)
            if body + job.value_bytes > lane.arena_bytes_max:
                self.misfit.append(span.take(1, BATCH_BYTES_MAX))
                self._count(lane, line, job, -1)
                return None
            if heap is line.suspect:
                worker, count = self._alone(lane, job, body), 1
            else:
                worker, count = self._roomiest(lane, job, body, full)
            if worker is not None:
                line.bodied_next = heap is line.plain
                share = -(-lane.tasks * worker.slots // lane.slots)
                if (mean := job.mean_seconds) is not None:
                    share = max(share, int(GRAIN_SECONDS * worker.slots / max(mean, MEAN_SECONDS_MIN)))
                piece = span.take(1 if span.bodied else min(count, share), BATCH_BYTES_MAX)
                self._count(lane, line, job, piece.start - piece.stop)
                return worker, piece
        return None

    def _roomiest(self, lane: _Lane, job: Job, body: int, full: set[Client]) -> tuple[Worker | None, int]:
        """Find a worker with room for tasks of this job, an idle one first; they take turns."""
        # A worker may be idle and yet have its share of arguments on their way; it is looked at once more for others.
        looks = ((lane.idle, True), (lane.idle, False), (lane.roomy, False)) if body else (
            (lane.idle, True), (lane.roomy, False)
        )  # fmt: skip
        for group, idle in looks:
            for worker in _look(group, body + job.value_bytes):
                if worker.reserved:
                    if self._suspects_wait(worker, full):
                        continue
                    worker.reserved = False
                room = self._room_for_body if body else self._room
                count = room(worker, job, body, idle=idle)
                if count > 0 and _fits(worker, job, body):
                    group.move_to_end(worker)
                    return worker, count
        return None, 0

    def _alone(self, lane: _Lane, job: Job, body: int) -> Worker | None:
        """Find an empty worker for a suspect, or reserve one that will be empty."""
        candidates = [*_look(lane.idle, body + job.value_bytes), *_look(lane.roomy, body + job.value_bytes)]
        for worker in candidates:
            if not worker.unfinished:
                worker.reserved, worker.alone = False, True
                return worker
        if candidates and not any(worker.reserved for worker in lane.workers):
            candidates[0].reserved = True
            self.place(candidates[0])
        return None

    def _suspects_wait(self, worker: Worker, full: set[Client]) -> bool:
        """Whether a suspect that could run now waits for this worker."""
        for capability in worker.capabilities:
            lane = self._lanes.get(capability)
            for client, line in lane.lines.items() if lane is not None else ():
                if line.suspect and client not in full and any(
                    heap is line.suspect for heap in line.heaps(_has_bodies(client))
                ):
                    return True
        return False

    @staticmethod
    def _room(worker: Worker, job: Job, body: int, *, idle: bool) -> int:
        """How many tasks of this job the worker should get now."""
        slots, mean = worker.slots, job.mean_seconds
        by_count = (slots if idle else 2 * slots) - worker.ready
        ahead = slots * AHEAD_SECONDS - worker.backlog_seconds
        # Where many short tasks keep a worker busy, there is still room for one long or unknown task: without it
        # their client would get the rest of every worker for ever.
        by_time = int(ahead > 0) if mean is None else max(int(ahead > 0), int(ahead / max(mean, MEAN_SECONDS_MIN)))
        return min(max(by_count, by_time), WORKER_TASKS_MAX - worker.unfinished)

    @staticmethod
    def _room_for_body(worker: Worker, job: Job, body: int, *, idle: bool) -> int:
        """How many tasks with bodies the worker should get now; other clients' arguments on their way count for none.

        One runs in each slot, and behind it come as many as keep the slot busy while the next one travels.
        """
        slots, ready = worker.slots, worker.ready
        wanted = slots
        if not idle:
            mean = max(job.mean_seconds or UNKNOWN_SECONDS, MEAN_SECONDS_MIN)
            most = AWAITED_PER_SLOT_MAX
            if job.way_seconds < NEAR_SECONDS:
                most = min(most, max(AWAITED_NEAR_MIN, AWAITED_NEAR_BYTES // body))
            wanted += slots * min(1 + int((AHEAD_SECONDS / 2 + job.way_seconds) / mean), most)
            if worker.backlog_seconds < slots * AHEAD_SECONDS / 2:
                ready = min(ready, slots)  # many short ones are no reason to let the wire rest
        count = wanted - ready - worker.arriving_of.get(job.client, 0)
        if not idle:
            worker.sated = count < (wanted // REFILLS if worker.sated else 1)
            if worker.sated:
                return 0
        return min(count, WORKER_TASKS_MAX - worker.unfinished)

    @staticmethod
    def _arrive(leased: Leased) -> None:
        """The lease is one that a slot can run."""
        worker, client = leased.worker, leased.run.job.client
        leased.arriving = False
        worker.arriving -= 1
        worker.arriving_bytes -= leased.run.body(leased.start)
        worker.arriving_of[client] -= 1
        if not worker.arriving_of[client]:
            del worker.arriving_of[client]
        worker.backlog_seconds += leased.estimate_seconds

    def _movable(self, worker: Worker, lane: _Lane, count: int, now: float) -> list[tuple[Leased, int]]:
        """Pick unstarted leases from the end of what a worker holds, never from its first ones: those run."""
        found: list[tuple[Leased, int]] = []
        behind = worker.unfinished - worker.slots
        for leased in islice(reversed(worker.leases), LOOK_WORKERS_MAX):
            job = leased.run.job
            waits = (job.mean_seconds or 0.0) * (worker.unfinished - worker.slots) / worker.slots
            late = max(waits, now - leased.at) >= MOVE_SECONDS
            movable = late and not leased.moved and self._lanes.get(job.capability) is lane
            for offset in reversed(range(len(leased.marks))):
                if len(found) >= count or behind <= 0:
                    break
                mark = leased.marks[offset]
                behind -= mark < Mark.ANSWERING
                if movable and mark == Mark.HELD:
                    leased.marks[offset] = Mark.ASKED
                    found.append((leased, offset))
        worker.asked += len(found)
        return found


def _look(group: Iterable[Worker], size: int) -> Iterator[Worker]:
    """The first workers, but for those whose arena is too small for `size` bytes: these never move, nor count."""
    able = (worker for worker in group if worker.arena_bytes >= size) if size else group
    return islice(able, LOOK_WORKERS_MAX)


def _has_bodies(client: Client) -> bool:
    """Whether the arguments of a client's tasks can be had: they are here, or it is."""
    return client.link != 0 or type(client) is Keeper


def _fits(worker: Worker, job: Job, body: int) -> bool:
    """Whether the arena has room for a task of this client's: who sends or reads slowly is left a part of it.

    What is on its way takes half of the arena, but for one argument a slot of each client; and a client of whose
    answers half of it is full has to read some.
    """
    client, most = job.client, worker.arena_bytes // 2
    if worker.answers_of.get(client, 0) > most:
        return False
    if not body:
        return True
    if worker.arriving_bytes + body > most and worker.arriving_of.get(client, 0) >= worker.slots:
        return False
    return body <= worker.arena_bytes - worker.arena_used_bytes


def _anyone_free(lane: _Lane) -> bool:
    return any(worker.unfinished < worker.slots for worker in _ends(lane.idle))


def _ends(idle: OrderedDict[Worker, None]) -> Iterable[Worker]:
    """Who was given nothing for longest, and who became idle last: between them are those that wait for arguments."""
    if len(idle) <= 2 * LOOK_WORKERS_MAX:
        return idle
    return chain(islice(idle, LOOK_WORKERS_MAX), islice(reversed(idle), LOOK_WORKERS_MAX))


def head_bytes(span: Span) -> tuple[array[int], memoryview]:
    """Return the columns of a span's heads."""
    sizes = span.run.head_sizes[span.start : span.stop]
    return sizes, span.run.heads[span.at : span.at + sum(sizes)]
