"""Builders for tests of the manager's core: a star in a line, what it says, and that it says nothing else.

::

    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, first=0, count=1)     # takes JOB, BLOB and ASSIGN from what was said
    worker.finish(lease)
    client.outcome(job, [0])
    star.quiet()                                     # nothing else was asked for, and check() holds
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from starcore.errors import Status
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Close,
    Drop,
    Event,
    Log,
    Lost,
    Opened,
    Peer,
    Received,
    Send,
    SendChunk,
    Tick,
    Writable,
)
from starcore.manager.core import Limits, ManagerCore
from starcore.manager.stored import StoreLimits
from starcore.messages import (
    CHUNK_BYTES_MAX,
    PROTOCOL_VERSION,
    Ack,
    Assign,
    Blob,
    Cancel,
    Confirm,
    FunctionKind,
    Goodbye,
    Grant,
    Hello,
    Message,
    Outcome,
    Result,
    Retract,
    Retracted,
    Role,
    Slots,
    Started,
    Submit,
    Welcome,
)
from starcore.messages import Job as JobMessage

EPOCH = 7
FUNCTION = b"a function"
M = TypeVar("M")


class Counted(dict[Any, Any]):
    """Counts how often somebody looks at all that is in it."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()

    def __iter__(self) -> Iterator[Any]:
        self.looks += 1
        return super().__iter__()


@dataclass(slots=True)
class Said:
    """A message that the core sent."""

    link: int
    message: Any


class Star:
    """A core, its clock, and what it said that no test has taken yet."""

    def __init__(self, now: float = 0.0, store: StoreLimits | None = None, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.core = ManagerCore(EPOCH, self.limits, store=store)
        self.now = now
        self.actions: list[Action] = []
        self.dropped: list[Any] = []
        self.logs: list[str] = []
        self._in_bulk = False
        self._links = count(1)
        self._names = count(1)

    # -- events ----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Turn the core once; every turn has to leave its accounts in order."""
        written: dict[int, int] = {}
        for action in self.core.handle(event, self.now):
            if isinstance(action, Log):
                self.logs.append(action.text)
            elif isinstance(action, Drop):
                self.dropped.append(action.token)
            else:
                if isinstance(action, SendChunk):
                    written[action.link] = written.get(action.link, 0) + action.length
                    assert written[action.link] <= CHUNK_BYTES_MAX, "more than a link takes at a time"
                self.actions.append(action)
        if not self._in_bulk:
            self.core.check()

    @contextmanager
    def in_bulk(self) -> Iterator[None]:
        """Look at the accounts once afterwards, not after each turn: for crowds, since a look takes in everybody."""
        self._in_bulk = True
        yield
        self._in_bulk = False
        self.core.check()

    def wait(self, seconds: float) -> None:
        """Let time pass; the core is told when it asked for that."""
        end = self.now + seconds
        while (deadline := self.core.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.feed(Tick())
        self.now = end

    def open(self, role: Role, name: str = "", identity: str = "", fingerprint: str = "") -> int:
        """Let a peer connect; it has not greeted yet."""
        link = next(self._links)
        name = name or f"{role.name.lower()}{next(self._names)}"
        self.feed(Opened(link, Peer(role, name, f"192.0.2.1:{link}", fingerprint or name, identity or name)))
        return link

    def worker(self, **options: Any) -> WorkerSide:
        """Connect a worker, up to its WELCOME."""
        return WorkerSide(self, **options)

    def client(self, **options: Any) -> ClientSide:
        """Connect a client, up to its WELCOME."""
        return ClientSide(self, **options)

    # -- what the core said ----------------------------------------------------------------------------------

    def take(self, kind: type[M], to: Side | int) -> M:
        """Take the first message of this kind that was sent to a peer."""
        link = to if isinstance(to, int) else to.link
        for action in self.actions:
            if isinstance(action, Send) and action.link == link and isinstance(action.message, kind):
                self.actions.remove(action)
                return action.message
        raise AssertionError(f"no {kind.__name__} for link {link} among {self.actions}")

    def all(self, kind: type[M], to: Side) -> list[M]:
        """Take all messages of this kind that were sent to a peer."""
        found = [a for a in self.actions if isinstance(a, Send) and a.link == to.link and isinstance(a.message, kind)]
        for action in found:
            self.actions.remove(action)
        return [action.message for action in found]

    def expect(self, message: Message, to: Side | int) -> None:
        """Take exactly this message."""
        said = self.take(type(message), to)
        assert said == message

    def closed(self, link: Side | int, code: int) -> str:
        """Take the closing of a link; returns its reason."""
        number = link if isinstance(link, int) else link.link
        for action in self.actions:
            if isinstance(action, Close) and action.link == number:
                self.actions.remove(action)
                assert action.code == code, action
                return action.reason
        raise AssertionError(f"link {number} was not closed: {self.actions}")

    def chunk(self, to: Side) -> SendChunk:
        """Take the chunk that was written to a link."""
        for action in self.actions:
            if isinstance(action, SendChunk) and action.link == to.link:
                self.actions.remove(action)
                return action
        raise AssertionError(f"no chunk for link {to.link} among {self.actions}")

    def quiet(self) -> None:
        """Nothing else was asked for, and every invariant holds."""
        self.core.check()
        assert self.actions == []

    def status(self) -> dict[str, Any]:
        """Ask how the star is."""
        return self.core.status(self.now)


class Side:
    """A peer of the manager's."""

    role: Role

    def __init__(
        self,
        star: Star,
        name: str = "",
        identity: str = "",
        session: bytes = b"",
        fingerprint: str = "",
        **hello: Any,
    ) -> None:
        self.star = star
        self.name = name or f"{self.role.name.lower()}{next(star._names)}"
        self.identity = identity or self.name
        self.fingerprint = fingerprint or f"print of {self.name}"
        self.session = session or hashlib.md5(self.name.encode()).digest()
        self.hello = hello
        self.link = 0
        self.welcome = self.connect()

    def connect(self, **changes: Any) -> Welcome:
        """Connect, again or for the first time, and greet."""
        self.link = self.star.open(self.role, self.name, self.identity, self.fingerprint)
        hello = {"version": PROTOCOL_VERSION, "role": self.role, "session": self.session, "name": self.name}
        self.say(Hello(**(hello | self.hello | changes)))
        return self.star.take(Welcome, self)

    def say(self, message: Message) -> None:
        """Send a message."""
        self.star.feed(Received(self.link, message))

    def lose(self, reason: str = "connection reset") -> None:
        """Lose the connection."""
        self.star.feed(Lost(self.link, reason))

    def push(self, stream: int, offset: int, length: int, attempt: int = 1, token: Any = None) -> None:
        """Send a chunk."""
        self.star.feed(ChunkReceived(self.link, stream, attempt, offset, length, token))

    def writable(self) -> None:
        """The link takes a chunk again."""
        self.star.feed(Writable(self.link))

    def blocked(self) -> None:
        """The link's buffer is full."""
        self.star.feed(Blocked(self.link))

    def goodbye(self, code: int = 0) -> None:
        """Leave."""
        self.say(Goodbye(code, "done"))
        self.star.closed(self, 0)


class WorkerSide(Side):
    """A worker."""

    role = Role.WORKER

    def __init__(
        self, star: Star, slots: int = 1, python: str = "3.11", arena_bytes: int = 1 << 30, **rest: Any
    ) -> None:
        super().__init__(star, slots=slots, python=python, arena_bytes=arena_bytes, **rest)

    def leased(
        self, job: JobSide | None = None, first: int | None = None, count: int | None = None, attempt: int = 1
    ) -> Assign:
        """Take an ASSIGN of this worker's (and the BLOB and JOB before it), and compare it."""
        self.star.all(Blob, self)
        self.star.all(JobMessage, self)
        assign = self.star.take(Assign, self)
        if first is not None:
            assert assign.first == first, assign
        if count is not None:
            assert len(assign.head_sizes) == count, assign
        assert assign.attempt == attempt, assign
        if job is not None:
            sizes, heads = job.heads(assign.first, len(assign.head_sizes))
            assert (assign.head_sizes, bytes(assign.heads)) == (sizes, heads), assign
        return assign

    def result(
        self,
        leases: Iterable[int],
        status: Status | Sequence[Status] = Status.OK,
        seconds: float = 0.001,
        head: bytes = b"answer",
        bodies: Sequence[int] = (),
    ) -> None:
        """Say how leases ended; they took their time."""
        self.star.now += seconds
        column = array("Q", leases)
        number = len(column)
        statuses = bytes([status] * number if isinstance(status, int) else status)
        sizes = array("I", [len(head)] * number)
        self.say(Result(column, statuses, array("d", [seconds] * number), sizes, array("Q", bodies), head * number))

    def finish(self, assign: Assign, status: Status | Sequence[Status] = Status.OK, **options: Any) -> None:
        """End all the leases of an ASSIGN, and take the CONFIRM."""
        leases = range(assign.lease, assign.lease + len(assign.head_sizes))
        self.result(leases, status, **options)
        self.star.expect(Confirm(array("Q", leases)), self)

    def give_back(self, leases: Iterable[int], declined: Iterable[int] = ()) -> None:
        """Answer a RETRACT."""
        self.say(Retracted(array("Q", leases), array("Q", declined)))

    def started(self, leases: Iterable[int]) -> None:
        """Say that leases have been running for a while."""
        self.say(Started(array("Q", leases)))

    def retracted(self, *, kill: bool = False) -> list[int]:
        """Take a RETRACT."""
        retract = self.star.take(Retract, self)
        assert retract.kill == kill
        return list(retract.leases)


class ClientSide(Side):
    """A client."""

    role = Role.CLIENT

    def __init__(self, star: Star, result_bytes: int = 1 << 26, first_window_bytes: int = 0, **rest: Any) -> None:
        self._jobs = count(1)
        super().__init__(star, result_bytes=result_bytes, first_window_bytes=first_window_bytes, **rest)

    def job(self, *, blob: bool = True, **options: Any) -> JobSide:
        """Make a job known, with the blob that it needs."""
        return JobSide(self, next(self._jobs), blob=blob, **options)

    def outcome(
        self,
        job: JobSide,
        indices: Iterable[int],
        status: Status | Sequence[Status] = Status.OK,
        head: bytes | None = b"answer",
        ack: bool = True,
    ) -> Outcome:
        """Take an OUTCOME, compare it, and acknowledge it."""
        outcome = self.star.take(Outcome, self)
        column = array("I", indices)
        assert (outcome.job, outcome.indices) == (job.number, column), outcome
        assert bytes(outcome.statuses) == bytes([status] * len(column) if isinstance(status, int) else status), outcome
        if head is not None:
            assert bytes(outcome.heads) == head * len(column)
        if ack:
            self.ack(outcome)
        return outcome

    def ack(self, *outcomes: Outcome) -> None:
        """Acknowledge outcomes."""
        self.say(Ack(array("Q", [outcome.sequence for outcome in outcomes])))

    def cancel(self, job: JobSide, indices: Iterable[int], *, kill: bool = False) -> None:
        """Cancel tasks."""
        self.say(Cancel(job.number, kill, array("I", indices)))


class JobSide:
    """A job as its client sees it."""

    def __init__(
        self, client: ClientSide, number: int, *, blob: bool = True, code: bytes = FUNCTION, **options: Any
    ) -> None:
        self.client = client
        self.number = number
        shipped = options.get("kind", FunctionKind.SHIPPED) == FunctionKind.SHIPPED
        self.digest = hashlib.sha256(code).digest() if shipped else bytes(32)
        if blob and shipped:
            client.say(Blob(self.digest, 1 << 63 | number, 0, code))
        defaults: dict[str, Any] = {"kind": FunctionKind.SHIPPED, "function": "f", "python": "3.11"}
        self.message = JobMessage(job=number, digest=self.digest, **(defaults | options))
        client.say(self.message)
        self._next = 0

    @staticmethod
    def heads(first: int, tasks: int) -> tuple[array[int], bytes]:
        """Return the columns of some tasks' heads: each is its own index as text."""
        texts = [f"#{index}".encode() for index in range(first, first + tasks)]
        return array("I", map(len, texts)), b"".join(texts)

    def submit(
        self, tasks: int = 1, *, first: int | None = None, again: bool = False, bodies: Sequence[int] = ()
    ) -> range:
        """Submit tasks; returns their indices."""
        if first is None:
            first = self._next
        self._next = max(self._next, first + tasks)
        sizes, heads = self.heads(first, tasks)
        self.client.say(Submit(self.number, first, again, sizes, array("Q", bodies), heads))
        return range(first, first + tasks)

    def stream(self, index: int) -> int:
        """Name a task's stream on the client's link."""
        return self.number << 32 | index


def settle(star: Star) -> None:
    """Let the news of the star's size pass, and forget it."""
    star.wait(star.limits.slots_said_seconds)
    star.actions = [
        action for action in star.actions if not (isinstance(action, Send) and isinstance(action.message, Slots))
    ]


__all__ = ["EPOCH", "ClientSide", "Grant", "JobSide", "Star", "WorkerSide", "settle"]
