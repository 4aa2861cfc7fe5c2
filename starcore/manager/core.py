"""The manager's core: events in, actions out. Pure; the driver and the simulator turn it.

::

                         ┌─ Sessions ── who is connected, silence, grace
    event ─▶ ManagerCore ┼─ Clientele ─ jobs, tasks, cancels, acks ──┐
             (this file) ├─ Workforce ─ leases, results, losses ─────┼─▶ Outbox ─▶ actions
                         ├─ Scheduler ─ who comes next               │
                         └─ Relay, Blobs, Deliveries ─ the bytes ────┘

This file knows which message may come from whom, and what a link's beginning and end mean; it decides nothing
about tasks. Every turn ends with a dispatch: whatever can be given out is given out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from starcore.errors import Code, ProtocolError, RefusedError, UnexpectedError
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Event,
    Finished,
    Log,
    Lost,
    Opened,
    Received,
    Tick,
    Token,
    Unreadable,
    Writable,
)
from starcore.manager.audit import check_account
from starcore.manager.blobs import Blobs
from starcore.manager.budget import Budget, Credits
from starcore.manager.clients import Clientele
from starcore.manager.delivery import Deliveries
from starcore.manager.leases import Leases
from starcore.manager.limits import Limits
from starcore.manager.notices import Notices
from starcore.manager.outbox import Drain, Outbox, SpoolFailed
from starcore.manager.relay import Relay
from starcore.manager.report import client_row, job_row, worker_row
from starcore.manager.results import Results
from starcore.manager.scheduling import Scheduler
from starcore.manager.sessions import Link, Sessions, Timer, Timers
from starcore.manager.state import Client, Worker
from starcore.manager.store import Store
from starcore.manager.stored import StoreLimits, coming
from starcore.manager.story import Stories
from starcore.manager.values import Values
from starcore.manager.workers import Workforce
from starcore.messages import (
    BLOB_STREAM,
    PROTOCOL_VERSION,
    STATUS_BYTES_MAX,
    Abort,
    Ack,
    Attach,
    Blob,
    Buffer,
    Cancel,
    Detach,
    Draining,
    DrainReply,
    DrainRequest,
    Forget,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Inquire,
    Result,
    Retracted,
    Share,
    Started,
    StatusReply,
    StatusRequest,
    StoryRequest,
    Submit,
    Want,
    Welcome,
)
from starcore.messages import (
    Job as JobMessage,
)
from starcore.texts import counted, plain

STATUS_ROWS_MAX = 2000
"""Of each of a status's tables; fewer, where the whole is longer than STATUS_BYTES_MAX."""

__all__ = ["Budget", "Drain", "Finished", "Limits", "Log", "ManagerCore"]


class ManagerCore:
    """The star's middle.

    Parameters
    ----------
    epoch : int
        A number that no earlier manager used (31 bits); lease numbers begin with it.
    limits : Limits, optional
        Every bound, with its unit in its name.
    read : callable(token), optional
        Gives a token's bytes, to hold a blob against its digest; nothing else here looks at any.
    budget : Budget, optional
        What all sessions together may have here.
    outbox : Outbox, optional
        Where actions are collected.
    store : StoreLimits, optional
        The bounds of stored jobs.
    """

    def __init__(
        self,
        epoch: int,
        limits: Limits | None = None,
        read: Callable[[Token], Buffer] = memoryview,
        budget: Budget | None = None,
        outbox: Outbox | None = None,
        *,
        store: StoreLimits | None = None,
    ) -> None:
        self._budget = budget = budget or Budget()
        limits = budget.limits(limits or Limits())
        self._epoch = epoch
        self._limits = limits
        self._outbox = outbox or Outbox()
        self._timers = Timers()
        self._credits = Credits(budget, limits)
        self._sessions = Sessions(self._outbox, self._timers, limits, self._credits)
        self._relay = Relay(self._outbox, limits, budget)
        self._blobs = Blobs(epoch, self._outbox, self._relay, limits, read, budget.blob_bytes)
        self._values = Values(epoch, self._outbox, self._relay, limits)
        self._scheduler = Scheduler()
        self._stories = Stories(self._outbox, limits)
        self._deliveries = Deliveries(self._outbox, self._relay, self._stories, limits)
        relay, scheduler, stories = self._relay, self._scheduler, self._stories
        self._leases = Leases(epoch, self._outbox, relay, scheduler, self._deliveries, stories, limits)
        self._results = Results(self._outbox, self._relay, self._deliveries, self._leases, self._stories)
        self._workforce = Workforce(
            self._outbox,
            self._relay,
            self._blobs,
            self._values,
            self._scheduler,
            self._deliveries,
            self._leases,
            self._results,
            self._stories,
            limits,
        )
        self._clientele = Clientele(
            self._outbox,
            self._relay,
            self._blobs,
            self._values,
            self._scheduler,
            self._deliveries,
            self._leases,
            self._results,
            self._workforce,
            self._stories,
            self._credits,
            limits,
        )
        self._store = Store(
            self._outbox,
            self._timers,
            self._relay,
            self._scheduler,
            self._deliveries,
            self._results,
            self._clientele,
            store or StoreLimits(),
        )
        self._notices = Notices(self._outbox, self._timers, self._sessions, self._scheduler, limits)
        self._status_said = (0.0, "")
        self._drain_until: float | None = None
        self._finished = False
        self._stirred = True
        """Whether the event at hand may let a task be given out; most that carry bodies do not, and are many."""

    # -- the core's face -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        self._outbox.now = now
        self._stirred = True
        kind = type(event)
        if kind is Received:
            if type(event.message) is Heartbeat and self._sessions.beat(event.link, now):
                return []  # it sets nothing in motion, and comes by the hundred
            self._received(event, now)
        elif kind is ChunkReceived:
            self._chunk(event, now)
        elif kind in (Writable, Blocked):
            (self._relay.writable if kind is Writable else self._relay.blocked)(event.link)
            self._stirred = False
        elif kind is Opened:
            self._sessions.open(event.link, event.peer, now)
        elif kind is Lost:
            self._leave(event.link, event.reason, now)
        elif kind is Tick:
            self._tick(now)
        elif kind in (Drain, SpoolFailed, Unreadable):
            self._obey(event, now)
        else:
            raise TypeError(f"the manager's core does not know {kind.__name__}")
        if self._relay.parched:
            self._relay.irrigate()
        if self._stirred or self._relay.arrived:
            self._settle(now)
        return self._outbox.take()

    def _settle(self, now: float) -> None:
        """Give out all that can be given now, and see whether a drain is over."""
        if self._store.keepers or self._deliveries.read or self._deliveries.kept:
            self._store.settle()
        if self._scheduler.settled and not self._relay.arrived:  # as after two of the three messages of a lone task
            self._workforce.move_at = None
        else:
            self._workforce.dispatch(now)
        while self._scheduler.misfit and self._clientele.outgrown():
            self._store.settle()
            self._workforce.dispatch(now)
        if self._drain_until is not None:
            self._finish(now)

    def deadline(self) -> float | None:
        """When the core next wants a Tick."""
        timer, move = self._timers.next(), self._workforce.move_at
        if timer is None or move is None:
            return move if timer is None else timer
        return min(timer, move)

    def status(self, now: float, rows_max: int = STATUS_ROWS_MAX) -> dict[str, Any]:
        """Describe the star, for `starcore status`; its tables have at most so many rows."""
        clients, counters = self._sessions.clients.values(), self._leases.counters
        workers = self._sessions.workers.values()
        jobs = (job for client in self._everyone() for job in client.jobs.values())
        return {
            "epoch": self._epoch,
            "draining": self._sessions.draining,
            "workers": [
                worker_row(worker, self._sessions.links.get(worker.link), now) for worker in islice(workers, rows_max)
            ],
            "clients": [client_row(client) for client in islice(clients, rows_max)],
            "jobs": [job_row(job) for job in islice(jobs, rows_max)],
            "held_bytes": self._held_bytes(self._everyone()),
            "memory_bytes": self._budget.memory_bytes,
            "memory_used_bytes": self._used_bytes(),
            "idle_blob_bytes": self._blobs.idle_bytes,
            "stale": counters.stale,
            "duplicates": counters.duplicates,
            "requeued": counters.requeued,
            "crashes": counters.crashes,
        }

    def check(self) -> None:
        """Assert every invariant."""
        clients, workers = self._everyone(), self._sessions.workers.values()
        self._sessions.check()
        assert len(self._credits) == len(self._sessions.clients)
        self._store.check()
        self._blobs.check()
        self._values.check()
        self._scheduler.check()
        self._stories.check()
        flows = [*self._blobs.flows(), *self._values.flows(), *self._store.flows()]
        for client in clients:
            check_account(client)
            self._deliveries.check(client)
            flows += [*self._clientele.flows(client), *self._deliveries.flows(client)]
        for worker in workers:
            self._leases.check(worker)
            flows += self._workforce.flows(worker)
            assert worker.link or worker.left_at <= self._outbox.now
        self._relay.check(flows)
        known = set(workers)
        for client in clients:
            for job in client.jobs.values():
                assert known.issuperset(job.workers), "a table of a worker that left"
                assert all(leased.worker in known for leased in job.leased_runs), "a lease of a worker that left"

    # -- what comes in ---------------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> None:
        link = self._sessions.links.get(event.link)
        if link is None:
            return
        link.heard_at = now
        try:
            if link.owner is None:
                self._greet(link, event.message, now)
            else:
                message = event.message
                table: dict[type, Any] = _FROM_CLIENT if type(link.owner) is Client else _FROM_WORKER
                if (reaction := table.get(type(message))) is None:
                    raise UnexpectedError(f"{type(message).__name__.upper()} does not belong here")
                reaction(self, link.owner, message)
        except RefusedError as refusal:
            self._close(event.link, refusal.code, str(refusal), now)
        except ProtocolError as fault:
            self._close(event.link, fault.code, str(fault), now)

    def _chunk(self, event: ChunkReceived, now: float) -> None:
        link = self._sessions.links.get(event.link)
        if link is not None:
            link.heard_at = now
        try:
            flow = self._relay.chunk(event)
            self._stirred = flow is not None and flow.kept
            if flow is not None and flow.owner is not None:
                self._store.grown(flow)
            elif flow is not None and flow.kept and link is not None and isinstance(link.owner, Client):
                self._clientele.blob_grown(link.owner, event.stream)
        except ProtocolError as fault:
            self._close(event.link, fault.code, str(fault), now)

    def _tick(self, now: float) -> None:
        for timer, subject in self._timers.due(now):
            if timer is Timer.LINK:
                fault = self._sessions.watch(subject, now)
                if fault is not None:
                    self._close(subject, *fault, now)
            elif timer is Timer.GRACE:
                if self._sessions.expired(subject, now):
                    self._end(subject, "did not come back", now, blame=True)
            elif timer is Timer.ARGUMENTS:
                if not subject.link and now >= subject.left_at + self._limits.argument_grace_seconds:
                    self._clientele.ask_back(subject)
            elif timer is Timer.NOTICE:
                self._notices.say_why(subject)
            elif timer is Timer.STORED:
                self._store.expire(now)
            elif timer is Timer.SLOTS:
                self._notices.say_slots()

    # -- links begin and end ---------------------------------------------------------------------------------

    def _greet(self, link: Link, message: Any, now: float) -> None:
        if isinstance(message, Goodbye):  # it was not needed any more when it stood
            self._outbox.close(link.number, Code.NORMAL, "goodbye")
            self._leave(link.number, message.reason, now)
            return
        if not isinstance(message, Hello):
            raise UnexpectedError(f"{type(message).__name__.upper()} before HELLO")
        session, resumed = self._sessions.greet(link, message, now)
        if session.link:
            old, session.link = session.link, 0
            self._sessions.close(old)
            self._relay.close_link(old)
            self._outbox.close(old, Code.SUPERSEDED, "this session has a new connection")
            if isinstance(session, Client):
                self._clientele.absent(session)
            else:
                self._values.absent(session)
        session.link = link.number
        window = self._relay.open_link(link.number, message.first_window_bytes, shared=isinstance(session, Worker))
        workers, slots = self._notices.size()
        limits = self._limits
        self._outbox.send(
            link.number,
            Welcome(
                PROTOCOL_VERSION,
                self._epoch,
                resumed,
                "",
                window,
                self._credits.submit_bytes(session.session),
                limits.heartbeat_seconds,
                limits.silence_seconds,
                limits.session_grace_seconds,
                workers,
                slots,
            ),
        )
        verb = "came back" if resumed else "joined"
        if isinstance(session, Client):
            self._outbox.log("info", f"client {session.name} {verb} from {session.address}")
            self._clientele.resume(session)
            return
        has = f"{counted(session.slots, 'slot')}, Python {session.python}, an arena of {session.arena_bytes >> 20} MiB"
        who = f"worker {session.name} (certificate {link.peer.name})"
        self._outbox.log("info", f"{who} {verb} from {session.address}: {has}")
        if resumed:
            lost = self._workforce.resume(session, message.leases)
            if lost:
                self._outbox.log("warning", f"worker {session.name} lost {lost} leases on the way: queued again")
        if not session.draining:
            self._scheduler.join(session)
        self._notices.slots_changed(now)

    def _leave(self, number: int, reason: str, now: float) -> None:
        """A link is gone; its session may come back."""
        link = self._sessions.close(number)
        self._relay.close_link(number)
        if link is None or link.owner is None or link.owner.link != number:
            return
        session = link.owner
        self._sessions.absent(session, now)
        if isinstance(session, Client):
            self._outbox.log("info", f"client {session.name} left: {reason}")
            self._clientele.absent(session)
        else:
            self._outbox.log("info", f"worker {session.name} left: {reason}")
            self._values.absent(session)
            self._scheduler.leave(session, returning=True)
            self._notices.slots_changed(now)

    def _close(self, number: int, code: int, reason: str, now: float) -> None:
        """Close a link for a fault of its peer's."""
        link = self._sessions.links.get(number)
        if link is None:
            return
        name = link.owner.name if link.owner is not None else link.peer.name
        role = link.peer.role.name.lower()
        self._outbox.log("warning", f"closing {role} {name} at {link.peer.address}: {reason}")
        self._outbox.close(number, code, reason)
        self._leave(number, reason, now)

    def _end(self, session: Client | Worker, reason: str, now: float, *, blame: bool) -> None:
        """A session is over; who left of their own will (no blame) is no cause for a warning."""
        level = "warning" if blame else "info"
        if isinstance(session, Client):
            del self._sessions.clients[session.session]
            self._store.left(session)
            self._credits.close(session.session)
            unfinished = self._clientele.drop(session)
            if unfinished:
                self._outbox.log(level, f"client {session.name} {reason}: {unfinished} tasks dropped")
            return
        del self._sessions.workers[session.session]
        self._scheduler.leave(session)
        lost = self._workforce.lose(session, blame=blame)
        if lost:
            self._outbox.log(level, f"worker {session.name} {reason}: {lost} tasks queued again")
        self._notices.left(session, now)

    def _goodbye(self, session: Client | Worker, message: Goodbye) -> None:
        """The peer closes its link; with NORMAL, its session is over as well."""
        now, number = self._outbox.now, session.link
        reason = message.reason or "goodbye"
        self._outbox.close(number, Code.NORMAL, "goodbye")
        self._leave(number, reason, now)
        if message.code in (Code.NORMAL, Code.DRAINING):
            self._end(session, f"said goodbye ({reason})", now, blame=False)

    # -- messages --------------------------------------------------------------------------------------------

    def _submit(self, client: Client, message: Submit) -> None:
        if self._store.claimed and (job := client.jobs.get(message.job)) in self._store.claimed:
            self._store.submit(client, job, message)
            return
        self._clientele.submit(client, message)
        self._notices.watch(client.jobs[message.job], self._outbox.now)

    def _forget(self, client: Client, message: Forget) -> None:
        job = client.jobs.get(message.job)
        if job is not None:
            self._store.forgotten(job)
            self._clientele.forget(client, message.job)

    def _client_abort(self, client: Client, message: Abort) -> None:
        if message.stream & BLOB_STREAM:
            self._clientele.blob_aborted(client, message.stream)
        else:
            self._clientele.aborted(client, message.stream, plain(message.reason))

    def _worker_abort(self, worker: Worker, message: Abort) -> None:
        if message.stream & BLOB_STREAM:
            flow = self._relay.outbound(worker.link, message.stream)
            if flow is not None and flow.origin is not None:
                self._values.refused(worker, flow, message.code)
                return
            for digest in [digest for digest, lent in worker.blobs.items() if lent is not None and lent is flow]:
                self._blobs.retire(worker, digest)
            return
        self._workforce.aborted(worker, message.stream, message.attempt)

    def _grant(self, session: Client | Worker, message: Grant) -> None:
        self._relay.grant(session.link, message)
        if isinstance(session, Worker):
            self._workforce.granted(session, message.stream)
        self._stirred = isinstance(session, Client) and self._clientele.granted(session, message.stream)

    def _draining(self, worker: Worker, message: Draining) -> None:
        if worker.draining:
            return
        worker.draining = True
        self._scheduler.leave(worker)
        self._outbox.log("info", f"worker {worker.name} drains: it finishes what runs")
        self._notices.slots_changed(self._outbox.now)
        self._notices.left(worker, self._outbox.now)

    def _drain_workers(self, client: Client, message: DrainRequest) -> None:
        names = self._workforce.drain(self._sessions.workers.values(), message.pattern, client.name)
        self._outbox.send(client.link, DrainReply(names))

    def _status(self, client: Client, message: StatusRequest) -> None:
        now, rows = self._outbox.now, STATUS_ROWS_MAX
        made_at, text = self._status_said
        if not text or now >= made_at + self._limits.status_seconds:
            while len(text := json.dumps(self.status(now, rows))) > STATUS_BYTES_MAX:
                rows //= 2
            self._status_said = now, text
        self._outbox.send(client.link, StatusReply(text))

    # -- the shell's orders, and the end --------------------------------------------------------------------------

    def _obey(self, event: Drain | SpoolFailed | Unreadable, now: float) -> None:
        if not isinstance(event, Drain):
            return self._store.disk_failed(event)
        self._store.warn()
        self._drain(now)

    def _drain(self, now: float) -> None:
        if self._drain_until is None:
            self._drain_until = now + self._limits.drain_seconds
            self._timers.set(self._drain_until, Timer.DRAIN)
            self._sessions.draining = True
            self._workforce.leasing = False
            self._outbox.log("info", f"draining: what runs has {self._limits.drain_seconds:g} s to finish")

    def _finish(self, now: float) -> None:
        """Say that the drain is complete, once it is."""
        assert self._drain_until is not None
        running = sum(worker.unfinished for worker in self._sessions.workers.values())
        running += coming(self._store.keepers.values()) if self._outbox.journaled else 0
        unread = sum(len(client.unread) for client in self._sessions.clients.values() if client.link)
        if not self._finished and (now >= self._drain_until or (not running and not unread)):
            self._finished = True
            if running or unread:
                self._outbox.log("warning", f"drained: {running} tasks still ran, {unread} outcomes were not read")
            self._outbox.finish()

    # -- status ----------------------------------------------------------------------------------------------

    def _held_bytes(self, clients: Iterable[Client]) -> int:
        """All bytes of payloads that are here, but for the functions that are kept in case they come again."""
        held = self._relay.held_bytes + self._blobs.held_bytes - self._blobs.idle_bytes + self._values.held_bytes
        for client in clients:
            held += sum(len(delivery.outcome.heads) for delivery in client.unread.values())
            held += sum(len(run.heads) for run in self._clientele.runs(client))
        return held

    def _everyone(self) -> list[Client]:
        """Clients, and who keeps stored jobs for them."""
        return [*self._sessions.clients.values(), *self._store.keepers.values()]

    def _used_bytes(self) -> int:
        """What counts against the budget: what is here, and what was granted and is still to come.

        Stored jobs do not: they have a sum of their own (`stored.py`).
        """
        clients = self._sessions.clients.values()
        unread = sum(client.unread_bytes for client in clients)
        held = self._held_bytes(clients) - self._store.body_bytes
        return self._budget.base_bytes + held + self._relay.promised_bytes + self._blobs.idle_bytes + unread


_FROM_CLIENT: dict[type, Callable[[ManagerCore, Client, Any], None]] = {
    Abort: ManagerCore._client_abort,
    Ack: lambda core, client, message: core._clientele.acknowledge(client, message),
    Attach: lambda core, client, message: core._store.attach(client, message),
    Blob: lambda core, client, message: core._clientele.blob(client, message),
    Cancel: lambda core, client, message: core._clientele.cancel(client, message),
    Detach: lambda core, client, message: core._store.detach(client, message),
    DrainRequest: ManagerCore._drain_workers,
    Forget: ManagerCore._forget,
    Goodbye: ManagerCore._goodbye,
    Grant: ManagerCore._grant,
    Inquire: lambda core, client, message: core._store.inquire(client, message),
    JobMessage: lambda core, client, message: core._clientele.job(client, message),
    Share: lambda core, client, message: core._clientele.share(client, message),
    StatusRequest: ManagerCore._status,
    StoryRequest: lambda core, client, message: core._stories.answer(client, message.question, message.task),
    Submit: ManagerCore._submit,
}
"""What a client may say after HELLO, beside HEARTBEAT."""

_FROM_WORKER: dict[type, Callable[[ManagerCore, Worker, Any], None]] = {
    Abort: ManagerCore._worker_abort,
    Draining: ManagerCore._draining,
    Goodbye: ManagerCore._goodbye,
    Grant: ManagerCore._grant,
    Result: lambda core, worker, message: core._results.take(worker, message),
    Retracted: lambda core, worker, message: core._workforce.retracted(worker, message),
    Started: lambda core, worker, message: core._workforce.started(worker, message),
    Want: lambda core, worker, message: core._workforce.wanted(worker, message.digest),
}
"""What a worker may say after HELLO, beside HEARTBEAT."""
