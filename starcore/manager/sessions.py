"""Links and the sessions they carry: greeting, silence, and how long an absent peer is waited for. Pure.

A link is a connection; a session is a peer's identity, outliving its links::

    Opened ─▶ link without owner ── HELLO ─▶ link of a session ── Lost ─▶ absent ── grace ─▶ over
                 │ greeting_seconds              │ silence_seconds          │ HELLO of the same session
                 ▼                               ▼                          ▼ and certificate: resumed
               Close                           Close
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush
from typing import Any

from starcore.errors import Code, RefusedError
from starcore.events import Peer
from starcore.manager import facts
from starcore.manager.budget import Credits
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.state import Capability, Client, Worker, python_capability
from starcore.messages import PROTOCOL_VERSION, FunctionKind, Heartbeat, Hello, Role
from starcore.texts import NAME_CHARS_MAX, plain

BEAT_MOMENTS = 20
"""Heartbeats leave at so many moments of their interval: to a thousand peers 50 in one turn of the loop."""
RESTART_GRACE_SECONDS = 10.0
"""How long an earlier manager's peers are waited for at least: a worker dials every 6 s at the longest."""
SLOTS_MAX = (1 << 32) - 1
"""What a u32 of the wire says of the whole star."""


class Timer(Enum):
    """What a time was set for."""

    LINK = auto()
    GRACE = auto()
    ARGUMENTS = auto()
    NOTICE = auto()
    STORED = auto()
    SLOTS = auto()
    DRAIN = auto()


class Timers:
    """Times at which something is to be looked at; whoever looks finds out whether it still matters."""

    def __init__(self) -> None:
        self._times: list[float] = []
        """A heap, in which a time stands once: a thousand links share a few moments (see BEAT_MOMENTS)."""
        self._set: dict[float, list[tuple[Timer, Any]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._set.values()))

    def set(self, when: float, timer: Timer, subject: Any = None) -> None:
        """Ask to be told at a time."""
        others = self._set.get(when)
        if others is None:
            self._set[when] = [(timer, subject)]
            heappush(self._times, when)
        else:
            others.append((timer, subject))

    def next(self) -> float | None:
        """Return the earliest time."""
        return self._times[0] if self._times else None

    def due(self, now: float) -> list[tuple[Timer, Any]]:
        """Take what is due."""
        due: list[tuple[Timer, Any]] = []
        while self._times and self._times[0] <= now:
            due += self._set.pop(heappop(self._times))
        return due


@dataclass(slots=True, eq=False)
class Link:
    """A connection that stands."""

    number: int
    peer: Peer
    heard_at: float
    watch_at: float
    """The one time that is set for it; earlier ones were overtaken."""
    owner: Client | Worker | None = None


class Sessions:
    """Who is connected, who is expected back."""

    def __init__(self, outbox: Outbox, timers: Timers, limits: Limits, credits: Credits) -> None:
        self._outbox = outbox
        self._timers = timers
        self._limits = limits
        self._credits = credits
        self.links: dict[int, Link] = {}
        self.clients: dict[bytes, Client] = {}
        self.workers: dict[bytes, Worker] = {}
        self.draining = False
        self._restored_at = float("-inf")

    def open(self, number: int, peer: Peer, now: float) -> None:
        """A connection stands; its peer has to greet."""
        link = self.links[number] = Link(number, peer, now, now)
        self._outbox.spoken_at[number] = now
        self._watch_at(link, now + self._limits.greeting_seconds)

    def close(self, number: int) -> Link | None:
        """Forget a link. Returns what it was."""
        self._outbox.spoken_at.pop(number, None)
        return self.links.pop(number, None)

    def beat(self, number: int, now: float) -> bool:
        """A heartbeat came. False where it is out of place: its peer has not greeted, or is gone."""
        link = self.links.get(number)
        if link is None or link.owner is None:
            return False
        link.heard_at = now
        return True

    def watch(self, number: int, now: float) -> tuple[Code, str] | None:
        """Fill the silence on a link. Returns why it has to be closed, if it has."""
        link = self.links.get(number)
        if link is None or now < link.watch_at:
            return None
        limits = self._limits
        if link.owner is None:
            return Code.SILENT, f"no greeting within {limits.greeting_seconds:g} s"
        if now >= link.heard_at + limits.silence_seconds:
            return Code.SILENT, f"nothing heard for {limits.silence_seconds:g} s"
        beat_at = self._beat_at(number)
        if now >= beat_at:
            self._outbox.send(number, Heartbeat())
            beat_at = self._beat_at(number)
        self._watch_at(link, min(link.heard_at + limits.silence_seconds, beat_at))
        return None

    def greet(self, link: Link, hello: Hello, now: float) -> tuple[Client | Worker, bool]:
        """Accept a HELLO: the session it names, and whether that goes on. Raises RefusedError."""
        self._examine(link, hello)
        session: Client | Worker | None
        if hello.role == Role.CLIENT:
            session = self.clients.get(hello.session)
            resumed = session is not None
            if session is None:
                session = self.clients[hello.session] = _client(link, hello)
            session.result_bytes = min(hello.result_bytes, self._credits.open(hello.session)[1])
        else:
            session = self.workers.get(hello.session)
            resumed = session is not None
            if session is None:
                session = self.workers[hello.session] = _worker(link, hello)
        session.address = link.peer.address
        session.identity, session.certificate = link.peer.identity, link.peer.name
        if isinstance(session, Client):
            session.fingerprint = link.peer.fingerprint
        if self._outbox.journaled and not resumed:
            self._outbox.record(facts.of_session(session))
        link.owner = session
        self._watch_at(link, now + self._limits.heartbeat_seconds)
        return session, resumed

    def restore(self, session: Client | Worker, now: float) -> None:
        """Wait for a peer of an earlier manager's, a little longer than usual: it has to notice first."""
        if isinstance(session, Client):
            self.clients[session.session] = session
            self._credits.open(session.session)
        else:
            self.workers[session.session] = session
        self._restored_at = now
        self.absent(session, now)

    def expired(self, session: Client | Worker, now: float) -> bool:
        """Whether an absent session has been waited for long enough."""
        if isinstance(session, Client):
            known, grace = self.clients.get(session.session) is session, self._limits.session_grace_seconds
        else:
            known, grace = self.workers.get(session.session) is session, self._limits.worker_grace_seconds
        until = max(session.left_at + grace, self._restored_at + RESTART_GRACE_SECONDS)
        session.awaited = known and not session.link and now < until
        if session.awaited:
            self._timers.set(until, Timer.GRACE, session)
        return known and not session.link and not session.awaited

    def absent(self, session: Client | Worker, now: float) -> None:
        """A session lost its link: wait for it."""
        session.link = 0
        session.left_at = now
        client = isinstance(session, Client)
        if client:
            self._timers.set(now + self._limits.argument_grace_seconds, Timer.ARGUMENTS, session)
        grace = self._limits.session_grace_seconds if client else self._limits.worker_grace_seconds
        if not session.awaited:  # one timer, however often it comes and goes
            session.awaited = True
            self._timers.set(now + grace, Timer.GRACE, session)

    def size(self) -> tuple[int, int]:
        """Count connected workers and their slots."""
        here = [worker.slots for worker in self.workers.values() if worker.link and not worker.draining]
        return len(here), min(sum(here), SLOTS_MAX)

    def check(self) -> None:
        """Assert the invariants."""
        for number, link in self.links.items():
            assert link.number == number and number in self._outbox.spoken_at
            assert link.owner is None or link.owner.link == number, number
        assert self._outbox.spoken_at.keys() == self.links.keys()
        sessions: list[Client | Worker] = [*self.clients.values(), *self.workers.values()]
        for session in sessions:
            assert not session.link or self.links[session.link].owner is session

    def _beat_at(self, number: int) -> float:
        """When the next heartbeat leaves on a link, where nothing else does: a little earlier, in company."""
        latest = self._outbox.spoken_at[number] + self._limits.heartbeat_seconds
        return latest - latest % (self._limits.heartbeat_seconds / BEAT_MOMENTS)

    def _watch_at(self, link: Link, when: float) -> None:
        link.watch_at = when
        self._timers.set(when, Timer.LINK, link.number)

    def _examine(self, link: Link, hello: Hello) -> None:
        role = link.peer.role
        if hello.version != PROTOCOL_VERSION:
            raise RefusedError(
                Code.VERSION,
                f"this manager speaks protocol {PROTOCOL_VERSION}, the {role.name.lower()} speaks {hello.version}: "
                f"install the same StarCore on both sides",
            )
        if hello.role != role or role == Role.MANAGER:
            raise RefusedError(
                Code.ROLE, f"a {role.name.lower()}'s certificate and port, but the peer says {hello.role.name.lower()}"
            )
        known = self.clients.get(hello.session) if role == Role.CLIENT else self.workers.get(hello.session)
        # An earlier manager's journal may have the fingerprint.
        same = (link.peer.identity, link.peer.fingerprint)
        if known is not None and known.certificate != link.peer.name and known.identity not in same:
            raise RefusedError(Code.ROLE, "this session belongs to another certificate")
        if known is not None and known.link > link.number:  # its dialer gave this link up before it made that one
            raise RefusedError(Code.SUPERSEDED, "this session has a newer connection")
        if known is None and self.draining:
            raise RefusedError(Code.DRAINING, "this manager is shutting down")
        if known is None:
            self._limit(link, role)
        if role == Role.WORKER and not 1 <= hello.slots <= self._limits.worker_slots_max:
            raise RefusedError(
                Code.UNEXPECTED, f"a worker has 1 to {self._limits.worker_slots_max} slots, not {hello.slots}"
            )
        if len(hello.functions) > self._limits.worker_functions_max:
            most = self._limits.worker_functions_max
            raise RefusedError(Code.OVERRUN, f"{len(hello.functions)} registered functions, where {most} are allowed")

    def _limit(self, link: Link, role: Role) -> None:
        """One certificate cannot fill the tables with sessions that nobody continues."""
        sessions = self.clients.values() if role == Role.CLIENT else self.workers.values()
        most = self._limits.certificate_sessions_max
        if len(sessions) >= most and sum(each.identity == link.peer.identity for each in sessions) >= most:
            text = f"this {role.name.lower()} has {most} sessions; those that ended badly are waited for"
            raise RefusedError(Code.OVERRUN, text)


def _client(link: Link, hello: Hello) -> Client:
    name = plain(hello.name or link.peer.name, NAME_CHARS_MAX)
    client = Client(hello.session, link.peer.identity, name, link.peer.address, hello.result_bytes)
    # No outcome of an earlier session under this name is taken for one of this: a body goes on where it was cut off.
    client.sequence = link.number << 32
    return client


def _worker(link: Link, hello: Hello) -> Worker:
    capabilities: list[Capability] = [] if hello.only_registered else [python_capability(hello.python)]
    functions = list(dict.fromkeys(hello.functions))
    capabilities += [(FunctionKind.REGISTERED, function) for function in functions]
    if functions:
        capabilities.append((FunctionKind.REGISTERED, ""))
    return Worker(
        hello.session,
        link.peer.identity,
        plain(hello.name or link.peer.name, NAME_CHARS_MAX),
        plain(hello.host, NAME_CHARS_MAX),
        link.peer.address,
        plain(hello.python, NAME_CHARS_MAX),
        hello.slots,
        hello.arena_bytes,
        tuple(dict.fromkeys(capabilities)),
    )
