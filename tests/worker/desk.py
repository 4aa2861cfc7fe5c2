"""Builders for tests of the worker's core: a worker in a line, what it asks for, and that it asks nothing else.

::

    desk = Desk(slots=1)                 # slots are ready, the manager has said WELCOME
    job = desk.job()
    desk.assign(job, lease=10, count=1)
    batch = desk.batch()                 # takes Teach and RunBatch from what was asked
    desk.done(batch)
    desk.result([10])
    desk.quiet()                         # nothing else was asked for, and check() holds
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from starcore.errors import Status
from starcore.events import (
    Action,
    ChunkReceived,
    Dial,
    Event,
    Log,
    Lost,
    Opened,
    Peer,
    Received,
    Send,
    SendChunk,
    Tick,
)
from starcore.messages import (
    PROTOCOL_VERSION,
    Assign,
    Blob,
    Confirm,
    FunctionKind,
    Hello,
    Job,
    Message,
    Result,
    Retract,
    Role,
    Welcome,
)
from starcore.worker.core import WorkerCore
from starcore.worker.orders import Inspected, RunBatch, SlotDied, SlotDone, SlotReady, StartSlot, Teach

T = TypeVar("T")
SESSION = bytes([127, 128] * 8)
"""Of a worker that comes back in about the time that the backoff says, since it is neither hasty nor slow."""
MANAGER = Peer(Role.MANAGER, "manager", "192.0.2.1:443", "f" * 64, "star/manager/manager")


class Desk:
    """A worker's core, its clock, and what it asked for."""

    def __init__(self, slots: int = 1, *, arena_bytes: int = 1 << 30, up: bool = True, **options: Any) -> None:
        self.now = 100.0
        self.link = 0
        self.asked: list[Action] = []
        self.lines: list[Log] = []
        self._jobs = 0
        self._told: dict[int, Job] = {}
        name = {"name": "node7-1", "host": "node7"}
        hello = Hello(PROTOCOL_VERSION, Role.WORKER, SESSION, **name, slots=slots, arena_bytes=arena_bytes)
        self.core = WorkerCore(hello, **options)
        self._note(self.core.start(self.now))
        if up:
            for slot in range(slots):
                self.take(StartSlot)
                self.feed(SlotReady(slot, 1000 + slot))
            self.take(Dial)
            self.connect()

    # -- what happens ----------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Let something happen; the checks run after each event."""
        self._note(self.core.handle(event, self.now))
        self.core.check()

    def receive(self, message: Message) -> None:
        if isinstance(message, Job):
            self._told[message.job] = message
        self.feed(Received(self.link, message))

    def connect(self, *, resumed: bool = False, window: int = 0, over: Sequence[int] = ()) -> Hello:
        """Let the dialled connection stand and the manager welcome us; return our HELLO.

        A manager that knows the session names all jobs again but those that are `over`.
        """
        self.link += 1
        self.feed(Opened(self.link, MANAGER))
        hello = self.said(Hello)
        self.receive(Welcome(PROTOCOL_VERSION, 1, resumed, first_window_bytes=window))
        for number in [number for number in self._told if resumed and number not in over]:
            self.receive(self._told[number])
        return hello

    def lose(self, reason: str = "cut") -> None:
        self.feed(Lost(self.link, reason))

    def wait(self, seconds: float) -> None:
        """Let time pass, with a Tick whenever the core wants one."""
        end = self.now + seconds
        while (at := self.core.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.feed(Tick())
        self.now = end

    def turn(self) -> None:
        """End the turn of the loop: what was gathered is sent."""
        self.wait(0.0)

    def job(self, *, timeout: float = 0.0, blob: bool = True, kind: FunctionKind = FunctionKind.SHIPPED) -> int:
        """Announce a job, with its blob."""
        self._jobs += 1
        code = b"code %d" % self._jobs
        digest = hashlib.sha256(code).digest() if kind is FunctionKind.SHIPPED else bytes(32)
        if blob and kind is FunctionKind.SHIPPED:
            self.receive(Blob(digest, 0, 0, code))
        self.receive(Job(self._jobs, kind, digest, "fn", "3.11", timeout_seconds=timeout))
        return self._jobs

    def assign(self, job: int, lease: int, count: int = 1, *, bodies: Iterable[int] = (), attempt: int = 1) -> None:
        sizes = array("I", [3] * count)
        self.receive(Assign(lease, job, lease, attempt, sizes, array("Q", bodies), b"abc" * count))

    def body(self, lease: int, size: int, *, attempt: int = 1) -> None:
        """Send the whole body of an argument."""
        self.feed(ChunkReceived(self.link, lease, attempt, 0, size))

    def retract(self, *leases: int, kill: bool = False) -> None:
        self.receive(Retract(kill, array("Q", leases)))

    def confirm(self, *leases: int) -> None:
        self.receive(Confirm(array("Q", leases)))

    def done(
        self,
        batch: RunBatch,
        *,
        first: int = 0,
        count: int | None = None,
        seconds: float = 1.0,
        status: Status = Status.OK,
        body: int = 0,
        in_place: bool = False,
        kept: bool = False,
    ) -> None:
        """Let a slot answer tasks of a batch."""
        count = len(batch.run) - first if count is None else count
        statuses, times = bytes([status] * count), array("d", [seconds] * count)
        sizes = array("I", [2] * count)
        self.feed(SlotDone(batch.slot, batch.batch, first, statuses, times, sizes, b"ok" * count, body, in_place, kept))

    def inspected(self, batch: RunBatch, started: int, *, since: float, recalled: int = 0) -> None:
        self.feed(Inspected(batch.slot, batch.batch, started, started > 0, since, recalled))

    def die(self, batch: RunBatch, started: int, cause: str = "SIGSEGV", *, running: bool = True) -> None:
        self.feed(SlotDied(batch.slot, cause, batch.batch, started, running))

    # -- what was asked for ----------------------------------------------------------------------------------

    def take(self, kind: type[T]) -> T:
        """Take the first action of this kind; there must be one."""
        found = next((action for action in self.asked if type(action) is kind), None)
        assert found is not None, f"no {kind.__name__} in {self.asked}"
        self.asked.remove(found)
        return found

    def said(self, kind: type[T]) -> T:
        """Take the first message of this kind that was sent."""
        sent = (action for action in self.asked if type(action) is Send)
        found = next((action for action in sent if type(action.message) is kind), None)
        assert found is not None, f"no {kind.__name__} in {self.asked}"
        self.asked.remove(found)
        assert found.link == self.link
        message: T = found.message
        return message

    def batch(self, *, taught: bool = True) -> RunBatch:
        """Take a batch that was given to a slot, and the lesson that goes before it."""
        if taught:
            self.take(Teach)
        return self.take(RunBatch)

    def result(self, leases: list[int], status: Status = Status.OK) -> Result:
        """Take the RESULT of these leases."""
        self.turn()
        result = self.said(Result)
        assert list(result.leases) == leases
        assert bytes(result.statuses) == bytes([status] * len(leases))
        return result

    def chunk(self) -> SendChunk:
        return self.take(SendChunk)

    def quiet(self) -> None:
        """Nothing else was asked for."""
        assert self.asked == []
        self.core.check()

    def _note(self, actions: list[Action]) -> None:
        self.lines += [action for action in actions if type(action) is Log]
        self.asked += [action for action in actions if type(action) is not Log]
