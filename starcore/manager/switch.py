"""The manager's connections, when other processes hold them: who holds which, and what is to be done there.

::

    listening sockets ─accept─▶ Switch.adopt ─ the descriptor ─▶ the shard with the fewest of that role
    Driver ◀──────────────────▶ RemoteLink ◀──────── Cable ────▶ shard.py: TLS, framing, chunks

The process that decides is this one: it has the one core and the one driver, for which a `RemoteLink` is a connection
like any other. Of a chunk it sees the name alone (`Cell`); a shard that is to send it reads the cell of the shard that
received it. A cell goes back to its owner when the core has dropped it and every shard that was told to send it has
read it.

A shard that dies takes its connections with it, which their peers make anew; what lies in its memory can still be
sent, and the memory is forgotten with its last cell. Another shard takes its place. When this process ends, however
it ends, all cables are cut, and the shards end too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from starcore import codec, tls
from starcore.connection import UNREAD_BYTES_MAX
from starcore.driver import Driver
from starcore.errors import ProtocolError, SetupError
from starcore.events import Peer
from starcore.manager import cable, cells
from starcore.manager.budget import Budget
from starcore.manager.cable import FIRST_KIND, NUMBER, Cable, Order, Told
from starcore.manager.shard import FAULTS
from starcore.messages import Buffer, Message, Role, Welcome

CHUNKS_AHEAD = 2
"""With so many chunks that it was told to send and has no room for yet, a link takes no more: the second one hides the
way to the shard and back."""
WRITE_BYTES_MAX = 256 << 10
"""Of one WRITE; a message may be longer."""
START_SECONDS_MAX = 30.0
RESTART_SECONDS = 0.5
"""How long to wait before another shard takes a dead one's place, for one that dies at its start."""
STOP_SECONDS_MAX = 3.0
POLL_SECONDS = 0.02

_log = logging.getLogger("starcore.manager")


@dataclass(slots=True, eq=False)
class Cell:
    """A chunk's bytes, as this process knows them: by name."""

    owner: Shard
    number: int
    length: int
    readers: int = 0
    """Orders to send it that are not carried out."""
    dropped: bool = False
    """The core needs it no more: it is free as soon as nobody reads it."""


class RemoteLink:
    """One connection that a shard holds; to the driver, a connection."""

    def __init__(self, link: int, shard: Shard, role: Role, address: str) -> None:
        self.link = link
        self.address = address
        self.role = role
        self.open = False
        self._shard = shard
        self._cable = shard.cable
        self._name = NUMBER.pack(link)
        self._ahead = 0

    @property
    def blocked(self) -> bool:
        """Whether enough chunks are on their way to it."""
        return self._ahead >= CHUNKS_AHEAD

    def room(self) -> bool:
        """One chunk was written. Returns whether the link was blocked until then."""
        blocked = self.blocked
        self._ahead -= 1
        return blocked and not self.blocked

    def send(self, message: Message, *, hurry: bool = True) -> None:
        """Send a message."""
        if type(message) is Welcome:
            self._cable.say(Order.GREETED, cable.GREETED.pack(self.link, message.silence_seconds))
        frame = codec.encode(message)
        if len(frame) <= WRITE_BYTES_MAX:
            self._cable.say(Order.WRITE, self._name, frame, hurry=hurry)
            return
        for start in range(0, len(frame), WRITE_BYTES_MAX):
            self._cable.say(Order.WRITE, self._name, frame[start : start + WRITE_BYTES_MAX])

    def send_chunk(self, stream: int, attempt: int, offset: int, view: Buffer) -> None:
        """Send a chunk whose bytes are here."""
        self._ahead += 1
        self._cable.say(Order.HAND, cable.BROUGHT.pack(self.link, stream, attempt, offset), view)

    def send_token(self, stream: int, attempt: int, offset: int, length: int, token: Any, start: int) -> None:
        """Have a chunk sent from where it lies."""
        if type(token) is not Cell:
            self.send_chunk(stream, attempt, offset, token[start : start + length])
            return
        self._ahead += 1
        shard = self._shard
        shard.orders += 1
        shard.reading[shard.orders] = token
        token.readers += 1
        self._cable.say(
            Order.SEND,
            cable.SEND.pack(self.link, stream, attempt, length, offset, token.owner.number, token.number, start),
        )

    def close(self, last: Message | None = None) -> None:
        """Close the connection behind all that was said."""
        if self._shard.lines.pop(self.link, None) is not None:
            if last is not None:
                self.send(last)
            self._cable.say(Order.CLOSE, self._name)

    def descriptor(self) -> None:
        """The socket is not here."""


class Shard:
    """A shard as the switch sees it; its number is also that of its memory."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], memory: int, loan: cells.Loan) -> None:
        self.number = number
        self.process = process
        self.cable: Cable
        self.memory = memory
        self.loan = loan
        self.lines: dict[int, RemoteLink] = {}
        self.ready = False
        self.gone = False
        self.used = 0
        """Cells of its memory that hold chunks."""
        self.orders = 0
        """To send a cell's bytes, so far; each is known by its number."""
        self.reading: dict[int, Cell] = {}
        """What it was told to send and has not read yet, by order."""
        self.source: RemoteLink | None = None
        """Whose messages come now."""

    def load(self, role: Role) -> tuple[int, int, int]:
        """How much it holds, to be compared: links of this role first."""
        lines = self.lines.values()
        return sum(line.role is role for line in lines), len(lines), self.number


class Switch:
    """All shards.

    Parameters
    ----------
    count : int
        How many there are.
    driver : Driver
        Turns the core.
    identity : tls.ManagerIdentity
        What the manager shows to its peers.
    greeting_seconds : float
        How long a handshake may take.
    loop : asyncio.AbstractEventLoop
        Where all of it happens.
    log_options : sequence of str
        The shards' options for their logs.
    budget : Budget, optional
        What a shard may keep of idle cells, and of what a peer does not read.
    """

    def __init__(
        self,
        count: int,
        driver: Driver,
        identity: tls.ManagerIdentity,
        greeting_seconds: float,
        loop: asyncio.AbstractEventLoop,
        log_options: tuple[str, ...] = (),
        budget: Budget | None = None,
    ) -> None:
        budget = budget or Budget()
        self._count = count
        self._driver = driver
        setup = {"identity": asdict(identity), "greeting_seconds": greeting_seconds}
        setup |= {"idle_bytes": budget.idle_bytes, "unread_bytes": min(UNREAD_BYTES_MAX, budget.unread_bytes)}
        self._setup = json.dumps(setup).encode()
        self._loop = loop
        self._log_options = log_options
        self._shards: dict[int, Shard] = {}
        self._memories: dict[int, Shard] = {}
        self._numbers = 0
        self._changed = asyncio.Event()
        self._closing = False

    @property
    def pids(self) -> list[int]:
        """The shards' processes."""
        return [shard.process.pid for shard in self._shards.values()]

    async def open(self) -> None:
        """Start the shards, and return when all of them are ready.

        Raises
        ------
        SetupError
            One of them could not be started, ended, or was not ready in time.
        """
        try:
            for _ in range(self._count):
                self._start()
        except OSError as error:
            raise SetupError(f"no shard can be started: {error.strerror}") from error
        deadline = self._loop.time() + START_SECONDS_MAX
        while not all(shard.ready for shard in self._shards.values()) or len(self._shards) < self._count:
            if len(self._shards) < self._count:
                raise SetupError("a shard of the manager ended at its start; its reason stands above")
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - self._loop.time())
            except asyncio.TimeoutError:
                raise SetupError(f"a shard was not ready within {START_SECONDS_MAX:g} s") from None

    async def close(self) -> None:
        """Have every shard say its last words and leave; return when all are gone."""
        self._closing = True
        processes = [shard.process for shard in self._shards.values()]
        for shard in self._shards.values():
            shard.cable.say(Order.LEAVE)
            shard.cable.flush()
        deadline = self._loop.time() + STOP_SECONDS_MAX
        while self._shards and self._loop.time() < deadline:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), deadline - self._loop.time())
        for shard in self._shards.values():
            shard.process.kill()
            shard.cable.close()
        for process in processes:
            process.wait()  # its end of the cable is closed: it is as good as gone
        for shard in self._memories.values():
            os.close(shard.memory)

    def adopt(self, role: Role, connection: socket.socket, address: str) -> None:
        """Hand an accepted connection to the shard with the fewest of its role."""
        ready = [shard for shard in self._shards.values() if shard.ready]
        if not ready:
            _log.warning("refused %s: no shard is ready", address)
            connection.close()
            return
        shard = min(ready, key=lambda each: each.load(role))
        line = RemoteLink(self._driver.number(), shard, role, address)
        shard.lines[line.link] = line
        shard.cable.hand(Order.ADOPT, cable.ADOPT.pack(line.link, role), address.encode(), connection.detach())

    def read(self, token: Any) -> Buffer:
        """Give a chunk's bytes: of a function, to hold it against its digest; of all else the name is enough."""
        return token.owner.loan.piece(token.number, 0, token.length) if type(token) is Cell else memoryview(token)

    def give(self, token: Any) -> None:
        """Take back what a chunk lies in, as soon as everybody who is to send it has read it."""
        if type(token) is not Cell:
            return
        token.dropped = True
        self._free(token)

    # -- processes -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a shard; it learns of all memories, and all others of its own."""
        self._numbers += 1
        with contextlib.ExitStack() as undo:
            memory = cells.create()
            undo.callback(os.close, memory)
            loan = cells.Loan(memory)
            undo.callback(loan.close)
            here, there = socket.socketpair()
            undo.callback(here.close)
            command = [sys.executable, "-m", "starcore.manager.shard", "--cable", str(there.fileno())]
            command += ["--number", str(self._numbers), *self._log_options]
            with there:
                process = subprocess.Popen(command, pass_fds=(there.fileno(),), stdin=subprocess.DEVNULL)
            undo.pop_all()
        shard = Shard(self._numbers, process, memory, loan)
        hear, cut = functools.partial(self._hear, shard), functools.partial(self._cut, shard)
        shard.cable = Cable(here, self._loop, hear, cut)
        self._shards[shard.number] = self._memories[shard.number] = shard
        shard.cable.say(Order.SETUP, b"", self._setup)
        try:
            for other in self._memories.values():
                _introduce(other, shard)
            for other in self._shards.values():
                if other is not shard:
                    _introduce(shard, other)
        except OSError:  # it would be told to read what it, or another one, cannot see
            process.kill()
            raise

    def _cut(self, shard: Shard) -> None:
        """A shard is gone, and its connections with it."""
        del self._shards[shard.number]
        shard.gone, shard.ready = True, False
        lines, shard.lines = list(shard.lines.values()), {}
        for line in lines:
            if line.open:
                self._driver.lost(line, f"shard {shard.number}, which held it, ended")
        for order in list(shard.reading):
            self._was_read(shard, order)
        if not shard.used and shard.number in self._memories:
            self._forget(shard)
        self._bury(shard, self._loop.time() + STOP_SECONDS_MAX)

    def _bury(self, shard: Shard, deadline: float) -> None:
        """Wait for the process's end, say how it was, and start another."""
        if shard.process.poll() is None:
            if self._loop.time() > deadline:
                shard.process.kill()
            self._loop.call_later(POLL_SECONDS, self._bury, shard, deadline)
            return
        if not self._closing:
            cause = _cause(shard.process.returncode)
            _log.error("shard %d %s: another one takes its place", shard.number, cause)
            self._loop.call_later(RESTART_SECONDS, self._restart)
        self._changed.set()

    def _restart(self) -> None:
        if self._closing or len(self._shards) >= self._count:
            return
        try:
            self._start()
        except OSError as error:  # no memory, no process or no descriptor is left: mostly for a while
            _log.error("no shard can be started: %s", error.strerror)
            self._loop.call_later(RESTART_SECONDS, self._restart)

    def _was_read(self, shard: Shard, order: int) -> None:
        """A shard has sent what it was told to, or never will."""
        cell = shard.reading.pop(order)
        cell.readers -= 1
        self._free(cell)

    def _free(self, cell: Cell) -> None:
        """Let a cell's owner have it back, if nobody needs it."""
        if cell.readers or not cell.dropped:
            return
        owner = cell.owner
        owner.used -= 1
        if not owner.gone:
            owner.cable.say(Order.FREE, NUMBER.pack(cell.number), hurry=False)
        elif not owner.used:
            self._forget(owner)

    def _forget(self, owner: Shard) -> None:
        """The last cell of a dead shard's memory is free."""
        del self._memories[owner.number]
        self._unmap(owner)
        for shard in self._shards.values():
            shard.cable.say(Order.FORGET, NUMBER.pack(owner.number), hurry=False)

    def _unmap(self, owner: Shard) -> None:
        """Let go of a memory, as soon as the thread that writes files has looked away from what is not needed there."""
        try:
            owner.loan.close()
        except BufferError:
            self._loop.call_later(POLL_SECONDS, self._unmap, owner)
        else:
            os.close(owner.memory)

    # -- what shards tell ------------------------------------------------------------------------------------

    def _hear(self, shard: Shard, kind: int, meta: memoryview, payload: memoryview) -> None:
        if kind < FIRST_KIND:
            self._message(shard, kind, meta, payload)
        else:
            _TOLD[kind](self, shard, meta, payload)

    def _message(self, shard: Shard, kind: int, meta: memoryview, payload: memoryview) -> None:
        line = shard.source
        if line is None or line.link not in shard.lines:
            return
        try:
            message = codec.decode(kind, meta, payload)
        except ProtocolError as error:
            self._driver.fault(line, error)
            return
        self._driver.received(line.link, message)

    def _ready(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        shard.ready = True
        _log.info("shard %d is ready: process %d", shard.number, shard.process.pid)
        self._changed.set()

    def _from(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        shard.source = shard.lines.get(NUMBER.unpack(meta)[0])

    def _opened(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        line = shard.lines.get(NUMBER.unpack(meta)[0])
        if line is not None:
            told = json.loads(bytes(payload))
            line.open, line.address = True, told["address"]
            self._driver.opened(line, Peer(**told | {"role": Role(told["role"])}))

    def _lost(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        line = shard.lines.pop(NUMBER.unpack(meta)[0], None)
        if line is not None and line.open:
            self._driver.lost(line, str(payload, "utf-8"))

    def _fault(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        link, which = cable.FAULT.unpack(meta)
        line = shard.lines.get(link)
        if line is not None:
            self._driver.fault(line, FAULTS[which](str(payload, "utf-8")))

    def _arrived(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        link, stream, attempt, length, offset, number = cable.ARRIVED.unpack(meta)
        shard.used += 1
        self._driver.arrived(link, stream, attempt, offset, length, Cell(shard, number, length))

    def _brought(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        link, stream, attempt, offset = cable.BROUGHT.unpack(meta)
        self._driver.arrived(link, stream, attempt, offset, len(payload), bytes(payload))

    def _room(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        line = shard.lines.get(NUMBER.unpack(meta)[0])
        if line is not None and line.room():
            self._driver.writable(line.link, True)

    def _read(self, shard: Shard, meta: memoryview, payload: memoryview) -> None:
        for (order,) in NUMBER.iter_unpack(meta):
            self._was_read(shard, order)


_TOLD: dict[int, Callable[[Switch, Shard, memoryview, memoryview], None]] = {
    Told.READY: Switch._ready,
    Told.FROM: Switch._from,
    Told.OPENED: Switch._opened,
    Told.LOST: Switch._lost,
    Told.FAULT: Switch._fault,
    Told.ARRIVED: Switch._arrived,
    Told.BROUGHT: Switch._brought,
    Told.ROOM: Switch._room,
    Told.READ: Switch._read,
}


def _introduce(owner: Shard, shard: Shard) -> None:
    """Let a shard map a memory."""
    meta = cable.MEMORY.pack(owner.number, owner is shard)
    shard.cable.hand(Order.MEMORY, meta, b"", os.dup(owner.memory))


def _cause(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
