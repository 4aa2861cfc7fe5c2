"""The simulated network: connections with bandwidth, latency and full buffers, which break in every way.

::

    core ─▶ SimDriver ─▶ End ═ frames ═▶ Pipe ── bandwidth, latency ──▶ End ─▶ SimDriver ─▶ core
                          ▲                │ window full: the write buffer fills up ─▶ Blocked
                          └─ Lost ── cut, fin, or nothing at all (half-open, power loss)

Every message passes `codec.encode` and `codec.decode`. Chunks carry views of bytes that are never copied. A chunk's
destination is asked for when its first byte comes, and the core hears of it when its last one has. Within one
connection everything arrives in order; across connections nothing does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any
from zlib import crc32

from starcore import codec
from starcore.events import ChunkReceived, Peer, Received
from starcore.messages import Goodbye, Role

from .driver import Process, SimDriver
from .world import World

KIND = {record: kind for kind, record, _, _ in codec.TABLE}
HIGH_WATER_BYTES = 128 << 10
LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
DIAL_SECONDS = 10.0
FLOW_BYTES = 4096
LATENCY_SECONDS_MAX = 0.05
LATE_SECONDS_MAX = 1.0
"""What comes late on a slow line is not so late that its sender is taken for dead, and rightly."""
BANDWIDTH_MIN = 4e5
"""Bytes a second of a line that is not called slow."""
INSTANT_SECONDS = 50e-6
"""What takes no longer to send takes no time at all."""


def peer(role: Role, name: str) -> Peer:
    """Say who somebody is, as TLS would."""
    return Peer(role, name, f"{name}:1", f"print of {name}", name)


MANAGER = peer(Role.MANAGER, "manager")


class Spring(Enum):
    """When a trap springs: the message that it waits for is lost, or it is the last one that comes."""

    BEFORE = auto()
    AFTER = auto()


class Connection:
    """Two ends and what is between them."""

    def __init__(self, world: World, dialer: SimDriver, listener: SimDriver) -> None:
        self.world = world
        self.dead = False
        self.stalled = False
        self.trap: tuple[int, Spring] | None = None
        """The kind of message at which it breaks."""
        self.spared = 0
        """How many messages of that kind pass before."""
        self.latency = world.skewed(0.0002, LATENCY_SECONDS_MAX)
        self.bandwidth = world.skewed(BANDWIDTH_MIN, 1e9)
        self.dialer = End(self, dialer, listener.process.name)
        self.listener = End(self, listener, dialer.process.name)
        self.dialer.out = Pipe(self, self.dialer, self.listener)
        self.listener.out = Pipe(self, self.listener, self.dialer)

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.dialer, self.listener

    @property
    def flowing(self) -> bool:
        """Whether a body, or much of anything, is on its way."""
        return any(end.out.flying > FLOW_BYTES for end in self.ends)

    def cut(self) -> None:
        """The connection is gone; each end finds out in its own time, or by the silence alone."""
        world = self.world
        for end in self.ends:
            end.out.drop(keep=world.chance(0.5))
        self.dead = True
        for end in self.ends:
            if not world.chance(0.1):
                delay = world.skewed(0.0001, 3.0)
                world.later(delay, end.driver.process.post, end.broken, "connection reset")

    def springs(self, reader: End, kind: int) -> Spring | None:
        """Whether it breaks at a message of this kind that has come; where BEFORE, the message is lost."""
        if self.trap is None or self.trap[0] != kind or self.dead:
            return None
        if self.spared:
            self.spared -= 1
            return None
        spring, self.trap = self.trap[1], None
        self.world.fault("cut at a message", self.dialer.driver.process.name)
        if spring is Spring.BEFORE:
            for end in self.ends:
                if end is not reader:
                    end.out.drop(keep=False)
            self.cut()
        return spring

    def vanish(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.dead = True

    def stall(self) -> None:
        """Nothing passes for now."""
        self.stalled = True

    def resume(self) -> None:
        """What waited passes, in order."""
        self.stalled = False
        for end in self.ends:
            end.out.resume()


class End:
    """One end of a connection: a link of its process's driver."""

    out: Pipe

    def __init__(self, connection: Connection, driver: SimDriver, other: str) -> None:
        self.connection = connection
        self.driver = driver
        self.link = driver.number()
        self.other = other
        self.open = False
        self.over = False
        self.deaf = False
        """A message was lost: what is behind it cannot come either, though the kernel may have it by now."""
        self.blocked = False
        self.told_blocked = False
        self.pumping = False
        self.outbox: list[bytes] = []

    def flush(self) -> None:
        """Write what was queued, joined."""
        if self.outbox:
            frames, self.outbox = self.outbox, []
            self.out.push(sum(map(len, frames)), frames)

    def close(self, last: Goodbye | None) -> None:
        """Say the last word, and close."""
        if last is not None:
            self.outbox.append(codec.encode(last))
        self.flush()
        self.over = True
        reason = "closed by the other side"
        if last is not None and self.connection.world.chance(0.1):
            self.out.drop(keep=False)  # a reset overtakes the last words
            reason = "connection reset"
        self.out.push(0, reason)

    def broken(self, reason: str) -> None:
        """The kernel says that the connection is gone."""
        if not self.over:
            self.over = True
            self.driver.lost(self, reason)

    def deliver(self, frames: Any) -> None:
        """Take what came in."""
        if type(frames) is str:
            self.broken(frames)
            return
        for frame in frames:
            if self.over or self.deaf:
                return
            sprung = self.connection.springs(self, frame[2])
            if sprung is Spring.BEFORE:
                self.deaf = True
                return
            kind, meta_bytes = frame[2], int.from_bytes(frame[4:8], "little")
            view = memoryview(frame)
            message = codec.decode(kind, view[16 : 16 + meta_bytes], view[16 + meta_bytes :])
            self.driver.feed(Received(self.link, message), f"{self.link} {kind} {crc32(frame)}")
            if sprung is Spring.AFTER:
                self.connection.cut()

    def begin_chunk(self, state: list[Any], chunk: tuple[int, int, int, int, Any]) -> None:
        """A chunk's first byte is here."""
        if not self.over and not self.deaf:
            stream, attempt, offset, length, _ = chunk
            state.append(self.driver._shell.destination(self.link, stream, attempt, offset, length))

    def end_chunk(self, state: list[Any], chunk: tuple[int, int, int, int, Any]) -> None:
        """A chunk is here whole."""
        if self.over or self.deaf or not state:
            return
        stream, attempt, offset, length, payload = chunk
        token = self.driver._shell.landed(state[0], offset, length, payload)
        event = ChunkReceived(self.link, stream, attempt, offset, length, token)
        self.driver.feed(event, f"{self.link} {stream} {attempt} {offset} {length}")


class Pipe:
    """One direction: a write buffer, a line of some bandwidth, a latency, and what the reader's kernel holds."""

    def __init__(self, connection: Connection, sender: End, receiver: End) -> None:
        self._connection = connection
        self._world = connection.world
        self._sender = sender
        self._receiver = receiver
        self._queue: deque[tuple[int, Any]] = deque()
        self._buffered = 0
        self._busy = False
        self.flying = 0
        """Bytes that have left and were not read."""
        self._window = int(self._world.skewed(64 << 10, 1 << 20))
        self._free_at = 0.0
        self._epoch = 0
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._unread = False

    def push(self, size: int, item: Any) -> None:
        """Write: a list of frames, a chunk, or the reason of the end."""
        self._queue.append((size, item))
        self._buffered += size
        self._pump()
        if self._buffered > HIGH_WATER_BYTES and not self._sender.blocked:
            self._sender.blocked = True
            self._sender.driver.writable(self._sender, False)

    def drop(self, *, keep: bool) -> None:
        """Lose what is not sent yet, and unless `keep` what is on its way too."""
        self._buffered -= sum(size for size, _ in self._queue)
        self._queue.clear()
        if not keep:
            self._epoch += 1
            self.flying = 0

    def resume(self) -> None:
        """Go on after a stall."""
        waiting, self._waiting = self._waiting, []
        for callback, args in waiting:
            self._world.later(0.0, callback, *args)
        self._free_at = max(self._free_at, self._world.now)
        self._pump()

    def leave_unread(self) -> None:
        """The reader takes nothing for now; what comes fills its kernel's memory, then the writer's."""
        self._unread = True

    def read_on(self) -> None:
        """The reader takes what waited."""
        self._unread = False
        if not self._connection.stalled:
            self.resume()

    # -- private ---------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        connection = self._connection
        while self._queue and not self._busy and self.flying < self._window:
            if connection.stalled or connection.dead:
                return
            size, item = self._queue.popleft()
            seconds = size / connection.bandwidth
            self.flying += size
            if seconds < INSTANT_SECONDS:
                self._sent(size, item)
            else:
                self._busy = True
                self._world.later(seconds, self._line_free, self._epoch, size, item)

    def _line_free(self, epoch: int, size: int, item: Any) -> None:
        self._busy = False
        if epoch == self._epoch:
            self._sent(size, item)
        else:
            self._buffered -= size
        self._pump()

    def _sent(self, size: int, item: Any) -> None:
        self._buffered -= size
        world, connection = self._world, self._connection
        if self._sender.blocked and self._buffered <= LOW_WATER_BYTES and not self._sender.over:
            self._sender.blocked = False
            world.later(0.0, self._sender.driver.process.post, self._unblock)
        delay = connection.latency * (1.0 + 0.5 * world.rng.random())
        if world.chance(0.01):
            delay = min(delay * world.between(5, 40), LATE_SECONDS_MAX)
        arrival = max(world.now + delay, self._free_at)
        if type(item) is tuple:
            state: list[Any] = []
            world.at(arrival, self._arrive, self._epoch, 0, self._receiver.begin_chunk, (state, item))
            arrival += size / connection.bandwidth
            world.at(arrival, self._arrive, self._epoch, size, self._receiver.end_chunk, (state, item))
        else:
            world.at(arrival, self._arrive, self._epoch, size, self._receiver.deliver, (item,))
        self._free_at = arrival

    def _unblock(self) -> None:
        if not self._sender.blocked:
            self._sender.driver.writable(self._sender, True)

    def _arrive(self, epoch: int, size: int, take: Callable[..., None], args: tuple[Any, ...]) -> None:
        if epoch != self._epoch:
            return
        if self._connection.stalled or self._unread:
            self._waiting.append((self._arrive, (epoch, size, take, args)))
        else:
            self._receiver.driver.process.post(self._read, size, take, args)

    def _read(self, size: int, take: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.flying -= size
        take(*args)
        self._pump()


class Network:
    """Who can reach the manager, and every connection that stands."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listener: SimDriver | None = None
        """The manager's driver; None while there is no manager."""
        self.connections: list[Connection] = []
        self.first_traps: list[tuple[int, Spring]] = []
        """The traps of the next connections that are made, one each."""
        self.late: dict[str, float] = {}
        """Processes whose next connection breaks for them at once, and how long after that what they said comes."""
        self.apart: dict[str, None] = {}
        """Processes that are cut off from the manager."""

    def dial(
        self,
        driver: SimDriver,
        peer: Peer,
        manager: Peer,
        fail: Callable[[str], None],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a connection to the manager, or say after a while why there is none."""
        world, process = self.world, driver.process
        attempt = {"open": True}

        def failed(reason: str) -> None:
            if attempt["open"]:
                attempt["open"] = False
                fail(reason)

        def accept() -> None:
            if attempt["open"] and process.alive and self.listener is listener and listener is not None:
                world.later(world.skewed(0.0005, 0.02), process.post, established)

        def established() -> None:
            if not attempt["open"]:
                return
            attempt["open"] = False
            if self.listener is not listener or listener is None:
                fail("connection reset in the handshake")
                return
            connection = Connection(world, driver, listener)
            if process.name in self.apart:
                connection.stall()
            if self.first_traps:
                connection.trap = self.first_traps.pop()
            self.connections.append(connection)
            self.connections = [one for one in self.connections if not (one.dialer.over and one.listener.over)]
            dialer, other = connection.dialer, connection.listener
            world.later(connection.latency, listener.process.post, listened, other)
            dialer.out._free_at = world.now + connection.latency
            done()
            if late := self.late.pop(process.name, 0.0):
                dialer.out._free_at = world.now + late
                world.later(world.skewed(0.001, 0.1), process.post, dialer.broken, "connection reset")
            driver.opened(dialer, manager)

        def listened(end: End) -> None:
            if not end.over and self.listener is listener and listener is not None:
                listener.opened(end, peer)

        def arrive() -> None:
            if process.name in self.apart:
                return
            if listener is None:
                world.later(0.001, process.post, failed, "connection refused")
            else:
                listener.process.post(accept)

        listener = self.listener
        world.later(DIAL_SECONDS, process.post, failed, "timed out")
        world.later(world.skewed(0.0002, 0.02), arrive)

    def of(self, process: Process) -> list[Connection]:
        """The connections of a process that stand at either end."""
        return [one for one in self.connections if any(end.driver.process is process for end in one.ends)]

    def separate(self, names: list[str]) -> None:
        """Cut processes off from the manager: nothing is lost yet, but nothing passes."""
        for name in names:
            self.apart[name] = None
        for connection in self.connections:
            if connection.dialer.driver.process.name in self.apart:
                connection.stall()

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        self.apart.clear()
        for connection in self.connections:
            if connection.stalled:
                connection.resume()

    def mend(self) -> None:
        """No line is slow any more, and no reader."""
        self.heal()
        self.first_traps.clear()
        self.late.clear()
        for connection in self.connections:
            connection.trap = None
            connection.latency = min(connection.latency, LATENCY_SECONDS_MAX)
            connection.bandwidth = max(connection.bandwidth, BANDWIDTH_MIN)
            for end in connection.ends:
                end.out.read_on()

    def kill(self, process: Process, *, power: bool = False) -> None:
        """A process is gone; its kernel closes its connections, unless that is gone as well (`power`)."""
        for connection in self.of(process):
            for end in connection.ends:
                if end.driver.process is process and not end.over:
                    end.over = True
                    if power:
                        connection.vanish()
                    else:
                        end.out.push(0, "connection reset")
