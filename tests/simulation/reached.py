"""What has happened to tasks in which state: the pairs that `test_reached.py` holds against the whole table.

Every event that names a task, or concerns all tasks of whoever comes or goes, is looked up in the core's own tables
just before the core takes it. A task that the core does not know, or knows no more, is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from starcore import messages
from starcore.client import orders as client_orders
from starcore.client.core import ClientCore
from starcore.client.state import CANCELLING, DONE, LANDING, SENT, WAITING
from starcore.errors import Status
from starcore.events import ChunkReceived, Lost, Received, Tick
from starcore.manager.core import ManagerCore
from starcore.manager.sessions import Timer
from starcore.manager.state import Client, Job, Run, State, Worker
from starcore.messages import BLOB_STREAM

UNKNOWN = "UNKNOWN"
MANAGER_STATES = (UNKNOWN, *State.__members__)
CLIENT_STATES = (UNKNOWN, "WAITING", "SENT", "LANDING", "CANCELLING", "DONE")
_CLIENT_STATE = dict(zip((WAITING, SENT, LANDING, CANCELLING, DONE), CLIENT_STATES[1:], strict=True))
_STATE = {int(state): state.name for state in State}

Pair = tuple[str, str, str]
"""Core, state, event."""


class Reached:
    """The pairs of one seed."""

    def __init__(self) -> None:
        self.pairs: dict[Pair, None] = {}

    def manager(self, core: ManagerCore, event: Any, now: float) -> None:
        """Look at an event that the manager is about to take."""
        self._add("manager", _manager(core, event, now))

    def client(self, core: ClientCore, event: Any) -> None:
        """Look at an event that a client is about to take."""
        self._add("client", _client(core, event))

    def _add(self, core: str, found: Iterable[tuple[str, str]]) -> None:
        for state, event in found:
            self.pairs[core, state, event] = None


Found = Iterator[tuple[str, str]]
"""State and event."""


# -- the manager ---------------------------------------------------------------------------------------------------


def _manager(core: ManagerCore, event: Any, now: float) -> Found:
    kind = type(event)
    if kind is Tick:
        yield from _expiring(core, now)
        return
    link = core._sessions.links.get(getattr(event, "link", 0))
    if link is None:
        return
    if kind is Lost:
        yield from _of_session(link.owner, "LOST")
    elif kind is ChunkReceived:
        yield from _chunk(link.owner, event.stream)
    elif kind is Received and type(event.message) is messages.Hello:
        yield from _hello(core, event.message)
    elif kind is Received and link.owner is not None:
        table = _FROM_CLIENT if type(link.owner) is Client else _FROM_WORKER
        look = table.get(type(event.message))
        if look is not None:
            yield from look(link.owner, event.message)


def _states(run: Run, low: int, high: int, event: str) -> Found:
    return ((_STATE[state], event) for state in set(run.states[low:high]))


def _of_session(session: Any, event: str) -> Found:
    """Every task of a client, or that a worker has."""
    if type(session) is Client:
        for job in session.jobs.values():
            for run in job.runs:
                yield from _states(run, 0, run.count, f"client {event}")
    elif type(session) is Worker:
        for leased in session.leases:
            yield from _states(leased.run, leased.start, leased.start + len(leased.marks), f"worker {event}")


def _expiring(core: ManagerCore, now: float) -> Found:
    limits = core._limits
    due = (each for when, timers in core._timers._set.items() if when <= now for each in timers)
    for timer, session in due:
        if timer is Timer.GRACE and not session.link:
            client = type(session) is Client
            grace = limits.session_grace_seconds if client else limits.worker_grace_seconds
            if now >= session.left_at + grace:
                yield from _of_session(session, "EXPIRED")


def _hello(core: ManagerCore, hello: messages.Hello) -> Found:
    if hello.role == messages.Role.CLIENT:
        yield from _of_session(core._sessions.clients.get(hello.session), "HELLO")
        return
    worker, held = core._sessions.workers.get(hello.session), {*hello.leases}
    for leased in worker.leases if worker is not None else ():
        for offset in range(len(leased.marks)):
            verb = "holds" if leased.first + offset in held else "lacks"
            yield _STATE[leased.run.states[leased.start + offset]], f"worker HELLO {verb}"
    if worker is None and held:
        yield UNKNOWN, "worker HELLO holds"


def _chunk(owner: Any, stream: int) -> Found:
    if not stream & BLOB_STREAM:
        if type(owner) is Client:
            yield _task(owner, stream >> 32, stream & 0xFFFFFFFF), "CHUNK of an argument"
        else:
            yield _lease(owner, stream), "CHUNK of an answer"


def _indices(job: Job | None, indices: Iterable[int], event: str) -> Found:
    for index in indices:
        run = job.find(index) if job is not None else None
        yield (UNKNOWN if run is None else _STATE[run.states[index - run.first]]), event


def _task(client: Client, job: int, index: int) -> str:
    return next(_indices(client.jobs.get(job), (index,), ""))[0]


def _submit(client: Client, message: messages.Submit) -> Found:
    indices = range(message.first, message.first + len(message.head_sizes))
    event = "SUBMIT again" if message.again else "SUBMIT"
    return _indices(client.jobs.get(message.job), indices, event)


def _ack(client: Client, message: messages.Ack) -> Found:
    for sequence in message.sequences:
        delivery = client.unread.get(sequence)
        if delivery is None or not delivery.pieces:
            yield UNKNOWN, "ACK"
        else:
            for run, low, high in delivery.pieces:
                yield from _states(run, low, high, "ACK")


def _of_stream(event: str) -> Callable[[Client, Any], Found]:
    def look(client: Client, message: Any) -> Found:
        if not message.stream & BLOB_STREAM:
            yield _task(client, message.stream >> 32, message.stream & 0xFFFFFFFF), event

    return look


def _lease(worker: Worker, lease: int) -> str:
    leased = worker.find(lease)
    return UNKNOWN if leased is None else _STATE[leased.run.states[leased.start + lease - leased.first]]


def _leases(worker: Worker, leases: Iterable[int], event: str) -> Found:
    return ((_lease(worker, lease), event) for lease in leases)


def _result(worker: Worker, message: messages.Result) -> Found:
    bodies = message.body_sizes or bytes(len(message.leases))
    for lease, status, body in zip(message.leases, bytes(message.statuses), bodies, strict=True):
        yield _lease(worker, lease), f"RESULT {Status(status).name}{' with a body' if body else ''}"


def _retracted(worker: Worker, message: messages.Retracted) -> Found:
    yield from _leases(worker, message.leases, "RETRACTED")
    yield from _leases(worker, message.declined, "RETRACTED declined")


def _of_lease(event: str) -> Callable[[Worker, Any], Found]:
    def look(worker: Worker, message: Any) -> Found:
        if not message.stream & BLOB_STREAM:
            yield _lease(worker, message.stream), event

    return look


_FROM_CLIENT: dict[type, Callable[[Client, Any], Found]] = {
    messages.Submit: _submit,
    messages.Cancel: lambda client, message: _indices(
        client.jobs.get(message.job), message.indices, "CANCEL kill" if message.kill else "CANCEL"
    ),
    messages.Ack: _ack,
    messages.Abort: _of_stream("client ABORT"),
    messages.Grant: _of_stream("client GRANT"),
    messages.Goodbye: lambda client, message: _of_session(client, "GOODBYE"),
}
_FROM_WORKER: dict[type, Callable[[Worker, Any], Found]] = {
    messages.Result: _result,
    messages.Retracted: _retracted,
    messages.Started: lambda worker, message: _leases(worker, message.leases, "STARTED"),
    messages.Abort: _of_lease("worker ABORT"),
    messages.Grant: _of_lease("worker GRANT"),
    messages.Draining: lambda worker, message: _of_session(worker, "DRAINING"),
    messages.Goodbye: lambda worker, message: _of_session(worker, "GOODBYE"),
}

MANAGER_EVENTS = (
    *("SUBMIT", "SUBMIT again", "CANCEL", "CANCEL kill", "ACK", "client ABORT", "client GRANT", "CHUNK of an argument"),
    *("client LOST", "client HELLO", "client EXPIRED", "client GOODBYE"),
    *(f"RESULT {status.name}" for status in Status if status is not Status.CANCELLED),
    *("RESULT OK with a body", "RETRACTED", "RETRACTED declined", "STARTED"),
    *("worker ABORT", "worker GRANT", "CHUNK of an answer"),
    *("worker LOST", "worker HELLO holds", "worker HELLO lacks", "worker EXPIRED", "worker DRAINING", "worker GOODBYE"),
)


# -- the client ----------------------------------------------------------------------------------------------------


def _client(core: ClientCore, event: Any) -> Found:
    kind = type(event)
    if kind is Received:
        look = _FROM_MANAGER.get(type(event.message))
        if look is not None and event.link == core._uplink.link:
            yield from look(core, event.message)
    elif kind is client_orders.CancelCall:
        yield from _outstanding(core, event.job, event.indices, "CancelCall kill" if event.kill else "CancelCall")
    elif kind is ChunkReceived:
        if event.link == core._uplink.link:
            yield from _streamed(core, event.stream, "CHUNK of an answer")
    elif kind is Lost and event.link == core._uplink.link:
        yield from _everything(core, "LOST")


def _outstanding(core: ClientCore, job: int, indices: Iterable[int], event: str) -> Found:
    entry = core._ledger.jobs.get(job)
    for index in indices:
        run = core._ledger.find(entry, index) if entry is not None else None
        yield (UNKNOWN if run is None else _CLIENT_STATE[run.states[index - run.first]]), event


def _streamed(core: ClientCore, stream: int, event: str) -> Found:
    return iter(()) if stream & BLOB_STREAM else _outstanding(core, stream >> 32, (stream & 0xFFFFFFFF,), event)


def _everything(core: ClientCore, event: str) -> Found:
    for entry in core._ledger.jobs.values():
        for run in entry.runs:
            for state in set(run.states):
                yield _CLIENT_STATE[state], event


def _outcome(core: ClientCore, message: messages.Outcome) -> Found:
    bodies = message.body_sizes or bytes(len(message.indices))
    for index, status, body in zip(message.indices, bytes(message.statuses), bodies, strict=True):
        kind = "with a body" if body else Status.CANCELLED.name if status == Status.CANCELLED else "whole"
        yield from _outstanding(core, message.job, (index,), f"OUTCOME {kind}")


def _welcome(core: ClientCore, message: messages.Welcome) -> Found:
    return _everything(core, "WELCOME again" if message.resumed else "WELCOME")


_FROM_MANAGER: dict[type, Callable[[ClientCore, Any], Found]] = {
    messages.Outcome: _outcome,
    messages.Welcome: _welcome,
    messages.Running: lambda core, message: _outstanding(core, message.job, message.indices, "RUNNING"),
    messages.Grant: lambda core, message: _streamed(core, message.stream, "GRANT"),
    messages.Abort: lambda core, message: _streamed(core, message.stream, "ABORT"),
    messages.Goodbye: lambda core, message: _everything(core, "GOODBYE"),
}

CLIENT_EVENTS = (
    *("OUTCOME whole", "OUTCOME with a body", "OUTCOME CANCELLED", "CHUNK of an answer", "RUNNING", "GRANT", "ABORT"),
    *("CancelCall", "CancelCall kill", "LOST", "WELCOME", "WELCOME again", "GOODBYE"),
)
