"""Stored jobs: what a client leaves behind, and another of the same identity comes back for. Pure.

::

    DETACH ─▶ waiting ── room ─▶ admitted ── SUBMIT, bodies pulled whole ─▶ whole: STORED, and the job runs
                                    │ its client is gone for good                │
                                    ▼                                            ▼
                                   over ◀── FORGET, or kept for too long ── told: outcomes, kept with their bodies
                                                                                 │ ATTACH
                                                                                 ▼
                                                             OUTCOMEs of a client's own job, as fast as it reads

To the client that brings it, a task's OUTCOME says that its bytes are here: nothing of it is in the client's hands any
more. The job begins to run when all of it is here, so what is left of a client that died on the way is nothing.

The store has so many bytes. A job is let in when there is room for its arguments; as tasks end, their answers take
the place of the arguments. Where those are larger and the store is full, tasks of jobs that have grown wait, until
somebody forgets a job, or takes its answers (ATTACH with `take`: what has arrived there may go).

With a journal all of this outlives the manager (`keeping.py`), from the moment on at which the job is accepted.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import replace

from starcore.errors import Code, OverrunError, UnexpectedError
from starcore.events import Unreadable
from starcore.manager.clients import Clientele
from starcore.manager.columns import gaps
from starcore.manager.delivery import Deliveries
from starcore.manager.flows import Flow
from starcore.manager.keeping import Keeping
from starcore.manager.losses import Losses
from starcore.manager.outbox import Outbox, SpoolFailed
from starcore.manager.readings import Readings
from starcore.manager.relay import Relay
from starcore.manager.results import Results
from starcore.manager.scheduling import Scheduler
from starcore.manager.sessions import Timer, Timers
from starcore.manager.state import TASK_OVERHEAD_BYTES, Client, Delivery, Job, State
from starcore.manager.stored import (
    FULL,
    UNBOUNDED_BYTES,
    Argument,
    Keeper,
    StoredJob,
    StoreLimits,
    answer_weight,
    check,
    lenders,
    row,
    share,
    weight,
)
from starcore.messages import Attach, Deed, Detach, Inquire, Inventory, Stored, Submit
from starcore.texts import plain

NAMES_SAID_MAX = 10
"""Of the jobs that end with the manager."""


class Store:
    """Every stored job."""

    def __init__(
        self,
        outbox: Outbox,
        timers: Timers,
        relay: Relay,
        scheduler: Scheduler,
        deliveries: Deliveries,
        results: Results,
        clientele: Clientele,
        limits: StoreLimits,
    ) -> None:
        self._outbox = outbox
        self._timers = timers
        self._relay = relay
        self._scheduler = scheduler
        self._deliveries = deliveries
        self._results = results
        self._clientele = clientele
        self._limits = limits
        self.keepers: dict[str, Keeper] = {}
        """By the identity of whose jobs they are (`tls.identify`)."""
        self.claimed: dict[Job, None] = {}
        """Clients' jobs that have no tasks of their own: they bring a stored one, or read one."""
        self._sources: dict[Job, StoredJob] = {}
        """Jobs of clients whose tasks are to be stored, until their client forgets them."""
        self._readings = Readings(outbox, relay, deliveries)
        self._waiting: dict[StoredJob, None] = {}
        self._arriving: dict[StoredJob, None] = {}
        self._stopped: set[Keeper] = set()
        self._keeping = Keeping(outbox, relay)
        self._losses = Losses(outbox, relay, clientele, self._readings, self._weigh)
        self._sweeping = False
        """A timer is set to look for jobs that were kept for too long: one, however many there are."""
        self._roomier = False
        """Since a waiting job was last looked at, something has gone or come."""
        self.earlier_jobs = 0
        """Clients' jobs up to this number are from an earlier manager's journal; what it had not accepted is lost."""
        self.bytes = 0
        """What all stored jobs take."""

    # -- what clients say ------------------------------------------------------------------------------------

    def detach(self, client: Client, message: Detach) -> None:
        """The tasks of a job are to be stored, or this is said again."""
        source = client.jobs.get(message.job)
        if source is None:
            raise UnexpectedError(f"job {message.job} is to be stored, and is not known")
        stored = self._sources.get(source)
        if stored is None:
            if source.runs or source in self._readings:
                raise UnexpectedError(f"job {message.job} is to be stored, and has tasks already")
            if source.number <= self.earlier_jobs:
                stored = self._accepted_before(client, source, message.name)
                if stored is None:  # its client has let go of what had arrived there
                    self._say(source, Code.GONE, "the manager began anew, and what it had stored of this job is lost")
                    return
            elif self._keeping.refusal:
                self._say(source, Code.GONE, self._keeping.refusal)
                return
            elif reason := self._refusal(client, source, message):
                self._say(source, Code.UNEXPECTED, reason)
                return
            else:
                stored = self._begin(client, source, message)
        if stored.over and not stored.whole:
            self._say(source, Code.GONE, f"the stored job {stored.name!r} is over")
        elif stored.admitted:
            self._say_state(stored, source)

    def submit(self, client: Client, source: Job, message: Submit) -> None:
        """Tasks of a job that is to be stored."""
        self._deliveries.require_read(client)
        stored = self._sources.get(source)
        if stored is None:
            raise UnexpectedError(f"tasks of job {message.job}, which reads a stored one")
        if stored.over or (stored.whole and message.again):
            return
        count = len(message.head_sizes)
        if not stored.admitted or message.first + count > stored.tasks:
            raise UnexpectedError(f"tasks {message.first} to {message.first + count - 1} of a job to be stored")
        known = stored.overlapping(message.first, message.first + count)
        if known and not message.again:
            raise UnexpectedError(f"tasks of job {message.job} were submitted before")
        new = gaps(message, [(run.first, run.stop) for run in known]) if known else (message,)
        for piece in new:
            self._measure(stored, piece)
            self._clientele.take(stored, piece, client.link)
            self._took(stored, source, piece)
        for run in known:
            self._clientele.reattach(run, message.first, message.first + count, client.link)

    def attach(self, client: Client, message: Attach) -> None:
        """A client wants the outcomes of a stored job, or says so again."""
        job = client.jobs.get(message.job)
        if job is None:
            job = self._clientele.register(client, message.job)
            keeper = self._keeping.keeper(self.keepers, client)
            stored = keeper.names.get(message.name) if keeper is not None else None
            if stored is None:
                self._say(job, Code.GONE, f"there is no stored job {plain(message.name)!r}")
                self._clientele.forget(client, message.job)
                return
            self._readings.begin(job, stored, take=message.take)
            self.claimed[job] = None
            self._keeping.touched(stored)
        elif job not in self._readings:
            raise UnexpectedError(f"job {message.job} is no reader of a stored job")
        stored = self._readings[job].stored
        self._outbox.send(client.link, Stored(message.job, 0, "", stored.whole, stored.tasks, stored.note))

    def inquire(self, client: Client, message: Inquire) -> None:
        """A client asks how its stored jobs stand, and may want one cancelled or forgotten."""
        keeper = self._keeping.keeper(self.keepers, client)
        names = keeper.names if keeper is not None else {}
        stored = names.get(message.name)
        if message.deed == Deed.CANCEL and stored is not None:
            self.cancel(stored)
        elif message.deed == Deed.FORGET and stored is not None:
            self._discard(stored, f"the stored job {stored.name!r} was forgotten")
        asked = names.values() if not message.name else [names[name] for name in [message.name] if name in names]
        rows = [row(each, self._outbox.now, each.client in self._stopped) for each in asked]
        self._outbox.hold(client.link, Inventory(message.question, json.dumps(rows, ensure_ascii=False)))

    def cancel(self, stored: StoredJob) -> None:
        """End what has no outcome yet; a job that is not accepted is gone with that."""
        if not stored.whole:
            self._discard(stored, f"the stored job {stored.name!r} was cancelled")
            return
        self._clientele.cancel_all(stored)

    # -- jobs and clients that go ----------------------------------------------------------------------------

    def forgotten(self, job: Job) -> None:
        """A client wants to hear no more of a job of its own."""
        self.claimed.pop(job, None)
        stored = self._sources.pop(job, None)
        if stored is not None:
            stored.source = None
            if not (stored.whole or stored.over):
                self._discard(stored, "its client gave it up")
        self._readings.end(job)

    def left(self, client: Client) -> None:
        """A client's session is over."""
        for job in [job for job in self.claimed if job.client is client]:
            self.forgotten(job)

    def expire(self, now: float) -> None:
        """See which jobs have been kept for long enough; look again in a while, as long as there are any."""
        self._sweeping = False
        for stored in self._jobs():
            if now >= stored.changed_at + stored.keep_seconds and not stored.leased:  # what runs is being worked on
                kept = f"{stored.keep_seconds:g} s"
                self._outbox.log("info", f"stored job {stored.name} of {stored.client.name} goes: kept for {kept}")
                self._discard(stored, f"the stored job {stored.name!r} was kept for {kept}, and went")
        self._sweep_later()

    # -- bytes -----------------------------------------------------------------------------------------------

    def grown(self, flow: Flow) -> None:
        """A chunk of an argument or an answer came, perhaps its last one."""
        if self._keeping.grown(flow, self._limits):
            self._here(flow)

    def synced(self, bodies: list[int]) -> None:
        """These bodies are on disk, whole."""
        for number in bodies:
            flow = self._keeping.synced(number)
            if flow is not None:
                self._here(flow)

    def disk_failed(self, event: SpoolFailed | Unreadable) -> None:
        """The disk does not take a file, or does not give one."""
        if isinstance(event, Unreadable):
            self._losses.lose(self._jobs(), event.body, event.reason)
        else:
            self._spool_failed(event.reason)

    def _spool_failed(self, reason: str) -> None:
        """The shell cannot write any more: nothing new is let in beyond what fits into memory, or with a journal."""
        if self._outbox.journaled:
            text = f"what detached jobs need cannot be written: {reason}; new ones are refused until it can"
            if not self._keeping.failure:
                self._outbox.log("error", text)
            self._keeping.failure = text
            self._refuse([stored for stored in self._jobs() if not stored.whole], text)
        elif self._limits.spool_bytes:
            self._outbox.log("error", f"the spool takes no more, and memory is all that is left: {reason}")
            self._limits = replace(self._limits, spool_bytes=0)

    def spool_works(self) -> None:
        """With a journal: what could not be written is written now."""
        if self._keeping.failure:
            self._keeping.failure = ""
            self._outbox.log("warning", "what detached jobs need is written again: new ones are taken")

    def journal_failed(self, reason: str) -> None:
        """What the journal has not is not promised: jobs of which it does not know that they are accepted are not."""
        self._refuse([stored for stored in self._jobs() if not self._keeping.secure(stored)], reason)

    def warn(self) -> None:
        """Say what a manager that is about to leave takes along."""
        names = [stored.name for stored in self._jobs()]
        if names and not self._outbox.journaled:
            some = ", ".join(names[:NAMES_SAID_MAX]) + (", ..." if len(names) > NAMES_SAID_MAX else "")
            self._outbox.log("warning", f"stored jobs that end with this manager: {len(names)} ({some})")

    def settle(self) -> None:
        """End a turn: take what was told, see what has become whole, let in, let go, and tell on."""
        if not self.keepers:
            self._deliveries.kept.clear()
            self._deliveries.read.clear()
            return
        kept, self._deliveries.kept = self._deliveries.kept, []
        for delivery in kept:
            self._answered(delivery)
        read, self._deliveries.read = self._deliveries.read, []
        for delivery in read:
            self._read(delivery)
        for stored in list(self._arriving):
            self._accept(stored)
        self._admit()
        self._make_room()
        self._readings.tell()

    def check(self) -> None:
        """Assert the invariants."""
        jobs = self._jobs()
        assert self.bytes == sum(stored.bytes_kept for stored in jobs)
        for stored in jobs:
            check(stored)
        reading = {job for stored in jobs for job in stored.readings}
        assert self.claimed.keys() == self._sources.keys() | reading
        self._readings.check()

    def flows(self) -> Iterator[Flow]:
        """The flows that keep arguments and answers."""
        for stored in self._jobs():
            yield from stored.bodies.values()
            for run in stored.runs:
                yield from lenders(run)

    @property
    def body_bytes(self) -> int:
        """What is here of all bodies, in memory or in files."""
        return sum(flow.end - flow.begin for flow in self.flows())

    # -- private ---------------------------------------------------------------------------------------------

    def _refusal(self, client: Client, source: Job, message: Detach) -> str:
        """Say why a job cannot be stored; nothing where it can."""
        keeper, name, most = self._keeping.keeper(self.keepers, client), message.name, self._limits
        if not name or plain(name, most.name_chars_max) != name:
            return f"a stored job's name is 1 to {most.name_chars_max} printable characters, not {plain(name)!r}"
        if source.values:
            return "put values live with their client: a stored job cannot need any"
        if message.size > most.bytes:
            return f"a job of {message.size} bytes, where the manager stores {most.bytes} (--stored-memory, --spool)"
        if keeper is None:
            return ""
        if name in keeper.names:
            return f"there is a stored job {name!r} already: starcore jobs forget NAME, or take another one"
        if len(keeper.names) >= most.identity_jobs_max:
            return f"this client has {most.identity_jobs_max} stored jobs: forget some"
        return ""

    def _begin(self, client: Client, source: Job, message: Detach) -> StoredJob:
        now = self._outbox.now
        keeper = self.keeper(client.identity, client.name, client.address)
        kept = min(message.keep_seconds or self._limits.keep_seconds, self._limits.keep_seconds)
        number = self._clientele.number()  # its own: both may be in the journal, and end each for itself
        told = replace(source.message, job=number)
        stored = StoredJob(
            *(number, keeper, told, number, source.capability, None),
            name=message.name,
            source_number=source.number,
            note=bytes(message.note),
            tasks=message.tasks,
            size=message.size,
            keep_seconds=kept,
            source=source,
            begun_at=now,
            changed_at=now,
        )
        self._clientele.adopt(stored)
        self._keeping.begun(stored)
        keeper.names[stored.name] = stored
        self._sources[source] = stored
        self.claimed[source] = None
        self._waiting[stored] = None
        self._roomier = True
        self._sweep_later()
        return stored

    def keeper(self, identity: str, name: str, address: str) -> Keeper:
        """Return who has the stored jobs of an identity."""
        keeper = self.keepers.get(identity)
        if keeper is None:
            keeper = self.keepers[identity] = Keeper(b"", identity, name, address, UNBOUNDED_BYTES)
        return keeper

    def restore(self, stored: StoredJob, keeper: Keeper) -> None:
        """Take in a job that an earlier manager had accepted, with its runs and outcomes."""
        keeper.names[stored.name] = stored
        open_tasks = ((run, at) for run in stored.runs for at in range(run.count) if run.states[at] <= State.LEASED)
        arguments = sum(weight(run, at, at + 1) for run, at in open_tasks)
        answers = sum(answer_weight(delivery, stored.bodies.get(delivery)) for delivery in stored.told)
        self._weigh(stored, arguments=arguments, answers=answers)
        self._sweep_later()

    def count_bodies(self, last: int) -> None:
        """Number bodies from there on: an earlier manager's are known up to it."""
        self._keeping.bodies = last

    def _jobs(self) -> list[StoredJob]:
        return [stored for keeper in self.keepers.values() for stored in keeper.names.values()]

    def _accepted_before(self, client: Client, source: Job, name: str) -> StoredJob | None:
        """Return the job that an earlier manager took in from this one, if it accepted it."""
        keeper = self._keeping.keeper(self.keepers, client)
        stored = keeper.names.get(name) if keeper is not None else None
        if stored is None or stored.source_number != source.number:
            return None
        stored.source = source
        self._sources[source] = stored
        self.claimed[source] = None
        return stored

    def _refuse(self, jobs: list[StoredJob], reason: str) -> None:
        """Let go of jobs that cannot be promised; who brings them hears nothing else of them."""
        for stored in jobs:
            if stored.source is not None:
                self._outbox.revoke(stored.source.client.link, stored.source.client_number)
            self._discard(stored, reason)

    def _sweep_later(self) -> None:
        if self.keepers and not self._sweeping:
            self._sweeping = True
            self._timers.set(self._outbox.now + self._limits.sweep_seconds, Timer.STORED)

    def _admit(self) -> None:
        """Let jobs in, those of the client that has least here first; a large one is not overtaken for ever."""
        while self._waiting and self._roomier:
            stored = min(self._waiting, key=share)
            if self.bytes + stored.size > self._limits.bytes:
                self._roomier = False
                return
            del self._waiting[stored]
            self._arriving[stored] = None
            stored.admitted = True
            self._weigh(stored, arguments=stored.size)
            if stored.source is not None:
                self._say_state(stored, stored.source)

    def _measure(self, stored: StoredJob, piece: Submit) -> None:
        """Take no more than was announced. Raises OverrunError."""
        stored.taken_bytes += sum(piece.head_sizes) + sum(piece.body_sizes)
        stored.taken_bytes += TASK_OVERHEAD_BYTES * len(piece.head_sizes)
        if stored.taken_bytes > stored.size:
            raise OverrunError(f"{stored.taken_bytes} bytes of a job that was announced with {stored.size}")

    def _took(self, stored: StoredJob, source: Job, piece: Submit) -> None:
        """Tasks are here; those without a body, whole."""
        first, count = piece.first, len(piece.head_sizes)
        stored.taken += count
        if not piece.body_sizes or not any(piece.body_sizes):
            self._arrived(stored, source, array("I", range(first, first + count)))
            return
        for run in stored.overlapping(first, first + count):
            for position, flow in run.flows.items():
                if flow.owner is None and flow.lender is None:
                    self._keeping.pull(flow, Argument(stored, run, position))
        small = array("I", (first + at for at, size in enumerate(piece.body_sizes) if not size))
        if small:
            self._arrived(stored, source, small)

    def _here(self, flow: Flow) -> None:
        """A body is here whole."""
        self._relay.close_source(flow)
        owner, flow.owner = flow.owner, None
        if isinstance(owner, Argument):
            if not owner.stored.over:
                self._brought(owner, flow)
        elif (stored := self._stored(owner)) is not None:  # not taken back while it was written
            self._keeping.answered(stored, owner, flow)
            self._results.acknowledged([owner])
            self._deliveries.keep(owner)
            self._tell(owner, flow)

    def _brought(self, argument: Argument, flow: Flow) -> None:
        """An argument is here whole: from now on it is lent to whoever runs the task."""
        stored, run = argument.stored, argument.run
        run.flows[argument.position] = self._relay.loan(flow)
        self._keeping.brought(run, argument.position, flow)
        if stored.source is not None:
            self._arrived(stored, stored.source, array("I", [run.first + argument.position]))

    def _arrived(self, stored: StoredJob, source: Job, indices: array[int]) -> None:
        """Tell the client that nothing of these tasks is in its hands any more."""
        stored.arrived += len(indices)
        zeros = array("I", bytes(4 * len(indices)))
        self._deliveries.deliver(source, [], indices, 1, bytes(len(indices)), zeros, b"")

    def _accept(self, stored: StoredJob) -> None:
        """If all of a job is here, it is accepted, and runs."""
        blob = stored.blob
        if stored.source is not None and stored.source.refusal:
            self._discard(stored, stored.source.refusal)
        elif stored.arrived == stored.tasks and (blob is None or blob.whole) and self._keeping.function(stored):
            stored.whole = True
            self._keeping.accepted(stored)
            del self._arriving[stored]
            self._weigh(stored, arguments=stored.taken_bytes - stored.argument_bytes)  # some was announced in vain
            self._keeping.touched(stored)
            self._clientele.queue_waiting(stored)
            if stored.source is not None:
                self._say_state(stored, stored.source)

    def _answered(self, delivery: Delivery) -> None:
        """A task of a stored job ended. Its answer's body is pulled here; only then is it told."""
        stored = self._stored(delivery)
        if stored is None:
            return  # taken back, in the same turn
        flow = delivery.flow
        if flow is None:
            self._tell(delivery, None)
        elif flow.source:
            self._keeping.pull(flow, delivery)

    def _stored(self, delivery: Delivery) -> StoredJob | None:
        """Return the stored job that an outcome belongs to, while it is kept."""
        run = delivery.pieces[0][0]
        stored = run.job
        assert isinstance(stored, StoredJob)
        known = stored.client.unread.get(delivery.outcome.sequence) is delivery
        return stored if known and not stored.over else None

    def _tell(self, delivery: Delivery, body: Flow | None) -> None:
        """An outcome is here whole: it is kept, and told to whoever reads."""
        stored = self._stored(delivery)
        if stored is None:
            return
        if body is not None:
            stored.bodies[delivery] = body
        stored.told.append(delivery)
        released = sum(weight(*piece) for piece in delivery.pieces)
        self._weigh(stored, arguments=-released, answers=answer_weight(delivery, body))
        self._keeping.touched(stored)

    def _read(self, delivery: Delivery) -> None:
        """A reader has an outcome."""
        found = self._readings.read(delivery)
        if found is None:
            return
        reading, origin = found
        self._keeping.touched(reading.stored)
        if reading.take and self._stored(origin) is not None:
            self._keeping.fetched(reading.stored, origin)

    def _make_room(self) -> None:
        """Where the store is full, let go of what was fetched, and hold up the jobs that have outgrown their place."""
        if self.bytes > self._limits.bytes:
            for keeper in self.keepers.values():
                for stored in keeper.names.values():
                    while stored.fetched and self.bytes > self._limits.bytes:
                        self._let_go(stored, next(iter(stored.fetched)))
        elif not (self._stopped or self._keeping.failure):
            return
        for keeper in self.keepers.values():
            if (self.bytes > self._limits.bytes and keeper.grown) or self._keeping.failure:
                self._stopped.add(keeper)
                self._deliveries.full.add(keeper)
            else:
                self._stopped.discard(keeper)
                self._deliveries.full.discard(keeper)
        if not self._keeping.failure:
            self._readings.say_why(self._stopped, FULL.format(self._limits.bytes))

    def _let_go(self, stored: StoredJob, delivery: Delivery) -> None:
        """An outcome goes before its job does."""
        del stored.fetched[delivery]
        place = stored.told.index(delivery)
        del stored.told[place]
        self._keeping.gone(stored, delivery)
        self._readings.let_go(stored, delivery, place)
        body = stored.bodies.pop(delivery, None)
        if body is not None:
            self._relay.end(body)
        self._weigh(stored, answers=-answer_weight(delivery, body))
        self._deliveries.acknowledge(stored.client, delivery.outcome.sequence)

    def _discard(self, stored: StoredJob, reason: str) -> None:
        """A stored job is over, and with it all that is kept of it."""
        stored.over = True
        self._keeping.over(stored)
        keeper, blob = stored.client, stored.blob
        assert isinstance(keeper, Keeper)
        del keeper.names[stored.name]
        self._waiting.pop(stored, None)
        self._arriving.pop(stored, None)
        if stored.source is not None:
            self._say(stored.source, Code.GONE, reason)
        for job in self._readings.discard(stored):
            self.claimed.pop(job, None)
            self._say(job, Code.GONE, reason)
            self._clientele.forget(job.client, job.client_number)
        self._weigh(stored, arguments=-stored.argument_bytes, answers=-stored.answer_bytes)
        self._clientele.end(stored)
        for body in stored.bodies.values():
            self._relay.end(body)
        self._keeping.released(blob)
        if not keeper.names:
            del self.keepers[keeper.identity]
            self._scheduler.remove_client(keeper)
            self._deliveries.full.discard(keeper)
            self._stopped.discard(keeper)

    def _weigh(self, stored: StoredJob, *, arguments: int = 0, answers: int = 0) -> None:
        stored.argument_bytes += arguments
        stored.answer_bytes += answers
        self.bytes += arguments + answers
        self._roomier = self._roomier or arguments + answers <= 0  # 0: one that waited in front has gone

    def _say_state(self, stored: StoredJob, source: Job) -> None:
        self._send(source, Stored(source.client_number, 0, "", stored.whole, stored.tasks))

    def _say(self, job: Job, code: Code, reason: str) -> None:
        self._send(job, Stored(job.client_number, code, reason, False, 0))

    def _send(self, job: Job, message: Stored) -> None:
        if job.client.link:
            self._outbox.hold(job.client.link, message)
