"""A star of real cores whose links are queues, with room for peers that behave as they like.

::

    HonestClient (ClientCore) ─┐                       ┌─ HonestWorker (WorkerCore, slots that echo)
                               ├─ World (ManagerCore) ─┤
    any Guest ─────────────────┘                       └─ any Guest

The world does what the driver does: it performs sends, closes the link of a peer at fault, and says Writable after
each chunk. Beyond that it looks: every message that the manager says has to be one that codec.py takes, every line
of its log one line, every exception of a core's a ProtocolError, and `check()` holds after each event.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from starcore import codec
from starcore.client import orders as calls
from starcore.client.core import ClientCore
from starcore.errors import ProtocolError, Status
from starcore.events import ChunkReceived, Close, Drop, Lost, Opened, Peer, Received, Send, SendChunk, Tick, Writable
from starcore.manager.core import Finished, Limits, Log, ManagerCore
from starcore.manager.stored import StoreLimits
from starcore.messages import PROTOCOL_VERSION, FunctionKind, Goodbye, Hello, Job, Message, Role
from starcore.worker import orders
from starcore.worker.core import WorkerCore

HEADER_BYTES = 16
LOG_CHARS_MAX = 2000
STEPS_MAX = 200_000
MANAGER = Peer(Role.MANAGER, "manager", "192.0.2.1:443", "f" * 64, "star/manager/manager")


def through_the_wire(message: Message) -> Message:
    """Return what the other side hears of a message; raises where no frame can say it."""
    frame = memoryview(codec.encode(message))
    meta = int.from_bytes(frame[4:8], "little")
    return codec.decode(frame[2], frame[HEADER_BYTES : HEADER_BYTES + meta], frame[HEADER_BYTES + meta :])


class Guest:
    """Whoever is at the other end of a link of the manager's."""

    role = Role.CLIENT
    name = "guest"

    def connected(self, link: int) -> None:
        """The link stands."""

    def hear(self, link: int, message: Message) -> None:
        """A message came."""

    def hear_chunk(self, link: int, chunk: SendChunk) -> None:
        """A chunk came."""

    def lost(self, link: int) -> None:
        """The link is gone."""


class World:
    """A manager's core, and the links to its guests."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        self.core = ManagerCore(7, Limits(**limits), store=StoreLimits(keep_seconds=100.0))
        self.guests: dict[int, Guest] = {}
        self.closed: list[tuple[Guest, int, str]] = []
        self.lines: list[str] = []
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._numbers = count(1)

    # -- links -----------------------------------------------------------------------------------------------

    def connect(self, guest: Guest) -> int:
        """Let a guest's connection stand."""
        link = next(self._numbers)
        self.guests[link] = guest
        self.feed(Opened(link, Peer(guest.role, guest.name, f"192.0.2.1:{link}", f"print of {guest.name}", guest.name)))
        guest.connected(link)
        return link

    def say(self, link: int, message: Message) -> None:
        """A guest says something, which the manager hears when its turn comes."""
        self.later(self._received, link, message)

    def push(self, link: int, stream: int, attempt: int, offset: int, data: Any) -> None:
        """A guest sends a chunk."""
        self.later(self.feed, ChunkReceived(link, stream, attempt, offset, len(data), data))

    def cut(self, link: int) -> None:
        """A connection breaks."""
        guest = self.guests.pop(link, None)
        if guest is not None:
            self.feed(Lost(link, "cut\nby nobody"))
            guest.lost(link)

    # -- turning ---------------------------------------------------------------------------------------------

    def later(self, what: Callable[..., None], *args: Any) -> None:
        """Do something when all that is in line before it is done."""
        self._queue.append((what, args))

    def run(self) -> None:
        """Go on until nothing is in line."""
        for _ in range(STEPS_MAX):
            if not self._queue:
                return
            what, args = self._queue.popleft()
            what(*args)
        raise AssertionError("they talk for ever")

    def wait(self, seconds: float) -> None:
        """Let time pass for everybody."""
        end = self.now + seconds
        while True:
            self.run()
            deadline = self.core.deadline()
            guests = [guest for guest in dict.fromkeys(self.guests.values()) if isinstance(guest, Honest)]
            times = [time for time in (deadline, *(guest.core.deadline() for guest in guests)) if time is not None]
            at = min(times, default=end)
            if at > end:
                break
            self.now = max(self.now, at)
            if deadline is not None and deadline <= self.now:
                self.feed(Tick())
            for guest in guests:
                wants = guest.core.deadline()
                if wants is not None and wants <= self.now:
                    guest.feed(Tick())
            self.run()
            if at >= end:
                break
        self.now = end

    def feed(self, event: Any) -> None:
        """Turn the manager's core, as the driver does."""
        try:
            actions = self.core.handle(event, self.now)
        except ProtocolError as error:
            actions = [Close(event.link, error.code, str(error))]
        for action in actions:
            self._perform(action)
        self.core.check()

    def _received(self, link: int, message: Message) -> None:
        if link in self.guests:
            self.feed(Received(link, message))

    def _perform(self, action: Any) -> None:
        kind = type(action)
        if kind is Log:
            assert action.text.isprintable() and len(action.text) <= LOG_CHARS_MAX, action.text[:300]
            self.lines.append(action.text)
        elif kind is Drop:
            pass
        elif kind is Finished:
            raise AssertionError("nobody asked the manager to finish")
        elif kind is Close:
            guest = self.guests.pop(action.link, None)
            if guest is not None:
                codec.encode(Goodbye(action.code, action.reason))
                self.closed.append((guest, action.code, action.reason))
                self.later(self.feed, Lost(action.link, action.reason))
                self.later(guest.lost, action.link)
        elif kind is Send:
            heard = through_the_wire(action.message)
            if action.link in self.guests:
                self.later(self._hear, action.link, heard)
        elif kind is SendChunk:
            assert action.token is not None and len(action.token) >= action.start + action.length
            if action.link in self.guests:
                self.later(self._hear_chunk, action)
                self.later(self.feed, Writable(action.link))
        else:
            raise AssertionError(action)

    def _hear(self, link: int, message: Message) -> None:
        if link in self.guests:
            self.guests[link].hear(link, message)

    def _hear_chunk(self, chunk: SendChunk) -> None:
        if chunk.link in self.guests:
            self.guests[chunk.link].hear_chunk(chunk.link, chunk)


# -- honest peers --------------------------------------------------------------------------------------------


class Honest(Guest):
    """A real core with its shell. Alone (without a world) it collects what it says."""

    core: Any

    def __init__(self, world: World | None, name: str) -> None:
        self.world = world
        self.name = name
        self.link = 0
        self.now = 0.0
        self.said: list[Message] = []
        self.faults: list[ProtocolError] = []
        self._links = count(1)

    def clock(self) -> float:
        """Return the time."""
        return self.now if self.world is None else self.world.now

    def feed(self, event: Any) -> None:
        """Turn the core, as the driver does."""
        try:
            actions = self.core.handle(event, self.clock())
        except ProtocolError as error:
            self.faults.append(error)
            actions = [Close(self.link, error.code, str(error))]
        for action in actions:
            self._perform(action)
        self.core.check()

    def dial(self) -> None:
        """Make a connection."""
        if self.link:
            return
        if self.world is not None:
            self.world.connect(self)
        else:
            self.connected(next(self._links))

    def connected(self, link: int) -> None:
        self.link = link
        self.feed(Opened(link, MANAGER))

    def hear(self, link: int, message: Message) -> None:
        if link == self.link:
            self.feed(Received(link, message))

    def hear_chunk(self, link: int, chunk: SendChunk) -> None:
        if link == self.link:
            data = chunk.token[chunk.start : chunk.start + chunk.length]
            self.land(chunk.stream, chunk.attempt, chunk.offset, data)
            self.feed(ChunkReceived(link, chunk.stream, chunk.attempt, chunk.offset, chunk.length))

    def lost(self, link: int) -> None:
        if link == self.link:
            self.link = 0
            self.feed(Lost(link, "cut"))

    def land(self, stream: int, attempt: int, offset: int, data: Any) -> None:
        """A chunk's bytes go where they belong."""

    def source(self, stream: int, offset: int, length: int) -> Any:
        """Return an outgoing chunk's bytes."""
        raise NotImplementedError

    def own(self, action: Any) -> None:
        """Carry out what only this role knows."""

    def _perform(self, action: Any) -> None:
        kind = type(action)
        if kind is Send:
            heard = through_the_wire(action.message)
            if self.world is not None:
                self.world.say(action.link, heard)
            else:
                self.said.append(heard)
        elif kind is SendChunk:
            data = self.source(action.stream, action.offset, action.length) if action.token is None else action.token
            assert len(data) == action.length, action
            if self.world is not None:
                self.world.push(action.link, action.stream, action.attempt, action.offset, data)
                self.world.later(self.feed, Writable(action.link))
        elif kind is Close:
            self._close(action)
        else:
            self.own(action)

    def _close(self, action: Close) -> None:
        link = action.link
        if link != self.link or not link:
            return
        if self.world is not None:
            self.world.say(link, Goodbye(action.code, action.reason))
            self.world.later(self.world.cut, link)
        else:
            self.link = 0
            self.feed(Lost(link, action.reason))


def answer_of(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Compute what every function of this star computes."""
    return b"answer to " + head[:100], bytes(reversed(body))


class HonestWorker(Honest):
    """A worker whose slots answer at once."""

    role = Role.WORKER

    def __init__(self, world: World | None, name: str, slots: int = 2, functions: list[str] | None = None) -> None:
        super().__init__(world, name)
        self.segments: dict[int, tuple[int, bytearray]] = {}
        self.answers: dict[int, bytes] = {}
        self.finished = False
        hello = Hello(
            PROTOCOL_VERSION,
            Role.WORKER,
            hashlib.md5(name.encode()).digest(),
            name=name,
            python="3.11",
            slots=slots,
            arena_bytes=1 << 24,
            functions=functions or ["pkg:fn"],
        )
        self.core = WorkerCore(hello)
        for action in self.core.start(self.clock()):
            self._perform(action)

    def land(self, stream: int, attempt: int, offset: int, data: Any) -> None:
        at, memory = self.segments.get(stream, (0, bytearray()))
        if at == attempt and offset + len(data) <= len(memory):
            memory[offset : offset + len(data)] = data

    def source(self, stream: int, offset: int, length: int) -> Any:
        return self.answers[stream][offset : offset + length]

    def soon(self, event: Any) -> None:
        """Let something happen a little later."""
        if self.world is not None:
            self.world.later(self.feed, event)
        else:
            self.feed(event)

    def own(self, action: Any) -> None:
        kind = type(action)
        if kind is orders.Dial:
            if self.world is not None:
                self.world.later(self.dial)
        elif kind is orders.StartSlot:
            self.soon(orders.SlotReady(action.slot, 1))
        elif kind is orders.KillSlot:
            self.soon(orders.SlotDied(action.slot, "SIGKILL"))
        elif kind is orders.Allocate:
            assert action.key not in self.segments
            self.segments[action.key] = (action.attempt, bytearray(min(action.size, 1 << 20)))
            self.soon(orders.Allocated(action.key))
        elif kind is orders.Release:
            del self.segments[action.key]
        elif kind is orders.ReleaseAnswer:
            del self.answers[action.lease]
        elif kind is orders.RunBatch:
            self.soon_done(action)
        elif kind is orders.Recall:
            self.soon(orders.Inspected(action.slot, action.batch, 0, False, 0.0, action.batch))
        elif kind is orders.Inspect:
            self.soon(orders.Inspected(action.slot, 0, 0, False, 0.0))
        elif kind is orders.Finished:
            self.finished = True

    def soon_done(self, action: orders.RunBatch) -> None:
        """Let a slot answer a batch."""
        if self.world is not None:
            self.world.later(self._done, action)
        else:
            self._done(action)

    def _done(self, action: orders.RunBatch) -> None:
        slot = self.core._bench.slots[action.slot]
        batch = slot.batch(action.batch)
        if batch is None or batch.run.lease != action.run.lease:
            return  # taken back
        run = batch.run
        body = bytes(self.segments[run.lease][1]) if run.body_bytes else b""
        heads, begin, answer = [], 0, b""
        for size in run.head_sizes:
            head, answer = answer_of(bytes(run.heads[begin : begin + size]), body)
            heads.append(head)
            begin += size
        if answer:
            self.answers[run.lease] = answer
        tasks = len(run)
        self.feed(
            orders.SlotDone(
                action.slot,
                action.batch,
                0,
                bytes([Status.OK] * tasks),
                array("d", [0.001] * tasks),
                array("I", map(len, heads)),
                b"".join(heads),
                len(answer),
            )
        )


class HonestClient(Honest):
    """A client that knows what it wants, and compares it with what it gets."""

    role = Role.CLIENT

    def __init__(self, world: World | None, name: str, **options: Any) -> None:
        super().__init__(world, name)
        self.heads: dict[tuple[int, int], bytes] = {}
        self.bodies: dict[int, bytes] = {}
        self.landings: dict[tuple[int, int], tuple[int, bytes, bytearray]] = {}
        self.got: dict[tuple[int, int], tuple[int, bytes, bytes]] = {}
        self.lines: list[str] = []
        self.finished = False
        self._jobs = 0
        session = hashlib.md5(name.encode()).digest()
        hello = Hello(
            PROTOCOL_VERSION,
            Role.CLIENT,
            session,
            name=name,
            first_window_bytes=1 << 16,
            result_bytes=1 << 22,
        )
        self.core = ClientCore(hello, **options)
        self.feed(calls.Connect())

    def job(self, blob: bytes = b"a function", registered: bool = False) -> int:
        """Begin a job."""
        self._jobs += 1
        kind = FunctionKind.REGISTERED if registered else FunctionKind.SHIPPED
        digest = bytes(32) if registered else hashlib.sha256(blob).digest()
        name = "pkg:fn" if registered else "f"
        self.feed(calls.Begin(Job(self._jobs, kind, digest, name, "3.11"), b"" if registered else blob))
        return self._jobs

    def call(self, job: int, first: int, tasks: int, body: bytes = b"") -> None:
        """Call a function so many times."""
        heads = [f"{self.name} {job}/{index}".encode() for index in range(first, first + tasks)]
        for at, head in enumerate(heads):
            self.heads[job, first + at] = head
            if body:
                self.bodies[job << 32 | (first + at)] = body
        self.feed(calls.Call(job, first, heads, array("Q", [len(body)] * tasks if body else [])))

    def require_all(self) -> None:
        """Every call has come back with what its function returns."""
        for (job, index), head in self.heads.items():
            body = self.bodies.get(job << 32 | index, b"")
            assert (job, index) in self.got, f"{self.name}: no outcome of task {job}/{index}"
            assert self.got[job, index] == (Status.OK, *answer_of(head, body)), self.got[job, index]

    def land(self, stream: int, attempt: int, offset: int, data: Any) -> None:
        at, _, memory = self.landings.get((stream >> 32, stream & 0xFFFFFFFF), (0, b"", bytearray()))
        if at == attempt and offset + len(data) <= len(memory):
            memory[offset : offset + len(data)] = data

    def source(self, stream: int, offset: int, length: int) -> Any:
        return self.bodies[stream][offset : offset + length]

    def own(self, action: Any) -> None:
        kind = type(action)
        if kind is calls.Dial:
            if self.world is not None:
                self.world.later(self.dial)
        elif kind is calls.Resolve:
            begin = 0
            for index, status, size in zip(action.indices, action.statuses, action.head_sizes, strict=True):
                self._get(action.job, index, status, bytes(action.heads[begin : begin + size]), b"")
                begin += size
        elif kind is calls.Receive:
            memory = bytearray(min(action.body_bytes, 1 << 20))
            self.landings[action.job, action.index] = (action.attempt, action.head, memory)
        elif kind is calls.Landed:
            _, head, memory = self.landings.pop((action.job, action.index))
            self._get(action.job, action.index, action.status, head, bytes(memory))
        elif kind is calls.Discard:
            self.landings.pop((action.job, action.index), None)
        elif kind in (calls.Say, calls.Log):
            assert action.text.isprintable() and len(action.text) <= LOG_CHARS_MAX, action.text[:300]
            self.lines.append(action.text)
        elif kind in (calls.Finished, calls.Refused):
            self.finished = True

    def _get(self, job: int, index: int, status: int, head: bytes, body: bytes) -> None:
        assert (job, index) not in self.got, f"two outcomes of task {job}/{index}"
        self.got[job, index] = (status, head, body)
