"""`python -m starcore.manager.shard`: a process of the manager's that holds connections and decides nothing.

::

    peer ──TLS──▶ PeerConnection ─ messages, as framed ──▶ Cable ─▶ the process that decides (`switch.py`)
                       │ a chunk: its name alone ────────▶
                       └─▶ Cells ◀── a neighbour reads it there (`cells.py`)

Here is all that costs a manager its time with large payloads: handshakes, encryption, the kernel. A message is passed
on as it came, with no look inside; a chunk stays in this process's memory until whoever holds the receiver's
connection has sent it from there. What is written, and when, is said by orders on the cable, which are carried out in
their order, at once.

A shard ends with its cable: when the manager is gone, however it went, nothing of it is left. Signals are the
manager's business.
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
import sys
import weakref
from array import array
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

from starcore import logs, tls
from starcore.connection import Connection, Owner
from starcore.errors import Code, CredentialsError, FrameError, OverrunError, ProtocolError, UnknownMessageError
from starcore.events import Peer
from starcore.manager import cable
from starcore.manager.cable import FIRST_KIND, INLINE_BYTES_MAX, NUMBER, Cable, Order, Told
from starcore.manager.cells import Cells, Loan
from starcore.manager.listeners import Handshakes
from starcore.messages import Buffer, Goodbye, Role
from starcore.options import Parser

FAULTS: tuple[type[ProtocolError], ...] = (ProtocolError, FrameError, UnknownMessageError, OverrunError)
"""What a connection finds wrong without a look inside of a message, by number."""
LEAVING_SECONDS = 2.0
"""How long the last words may take."""


class PeerConnection(Connection):
    """A connection whose messages are read, and written, elsewhere."""

    def __init__(
        self, link: int, shard: Shard, identify: Any, loop: asyncio.AbstractEventLoop, unread_bytes_max: int
    ) -> None:
        super().__init__(link, cast("Owner", shard), identify, loop, unread_bytes_max=unread_bytes_max)
        self._shard = shard
        self.cell: int | None = None
        """Where the chunk at hand is landing."""
        self.owing = 0
        """Chunks that were written, and whose room is not known yet to be free."""
        self.faulty = False

    def greeted(self, silence_seconds: float) -> None:
        """The peer was welcomed: chunks may come."""
        self._reader.greeted()
        self.watch(silence_seconds)

    def write(self, frames: bytes) -> None:
        """Queue frames for this turn's one write."""
        if not self._closed:
            self._queue.append(frames)
            if not self._flush_due:
                self._flush_due = True
                self._shard.queued(self)

    def pause(self, paused: bool) -> None:
        """Read nothing more for now, or go on."""
        transport = cast("asyncio.ReadTransport", self._transport)
        with contextlib.suppress(RuntimeError):  # it is closing, or reads already
            transport.pause_reading() if paused else transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell also when it was closed from here."""
        super().connection_lost(exc)
        self._shard.gone(self)

    def _deliver(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        if not self._closed:
            self._shard.frame(self.link, kind, meta, payload)


class Shard:
    """The connections of one process, and the orders for them.

    Parameters
    ----------
    sock : socket.socket
        This end of the cable.
    loop : asyncio.AbstractEventLoop
        Where all of it happens.
    logger : logging.Logger
        Where it is told who was turned away.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, logger: logging.Logger) -> None:
        self._loop = loop
        self._log = logger
        self._links: dict[int, PeerConnection] = {}
        self._open: set[PeerConnection] = set()
        self._handshakes: dict[Role, Handshakes] = {}
        self._identify: dict[Role, Any] = {}
        self._cells: Cells | None = None
        self._idle_bytes_max = self._unread_bytes_max = 0
        self._loans: dict[int, Loan] = {}
        self._from = 0
        self._orders = 0
        """Chunks that it was told to send from cells, so far; each is known by its number."""
        self._unread: dict[int, weakref.ref[Any]] = {}
        """Those that a connection looks at still: what of them found no room in its socket."""
        self._read: list[int] = []
        """Those that it does not, and that this was not told of yet."""
        self._written: dict[int, PeerConnection] = {}
        self._settling = False
        self._choked = False
        self._finished = asyncio.Event()
        self._cable = Cable(sock, loop, self._obey, self._finished.set, self._choke)

    async def serve(self) -> None:
        """Return when there is no more to do here."""
        await self._finished.wait()
        self._unread.clear()
        self._cable.close()
        for handshakes in self._handshakes.values():
            handshakes.close()

    # -- what connections tell -------------------------------------------------------------------------------

    def opened(self, connection: PeerConnection, peer: Peer) -> None:
        """TLS stands and the peer is who it should be."""
        self._links[connection.link] = connection
        self._open.add(connection)
        if self._choked:
            connection.pause(True)
        self._cable.say(Told.OPENED, NUMBER.pack(connection.link), json.dumps(asdict(peer)).encode())

    def refused(self, connection: PeerConnection, error: CredentialsError) -> None:
        """TLS stands, but the peer has no business here."""
        self._open.add(connection)
        self._log.warning("refused %s: %s", connection.address, str(error).removeprefix(f"{connection.address} "))
        connection.close(Goodbye(Code.ROLE, str(error)))
        self._tell_lost(connection.link, str(error))

    def frame(self, link: int, kind: int, meta: memoryview, payload: memoryview) -> None:
        """Pass a message on as it came."""
        if kind >= FIRST_KIND:
            raise UnknownMessageError(f"no message has the kind {kind}")
        if link != self._from:
            self._from = link
            self._cable.say(Told.FROM, NUMBER.pack(link))
        self._cable.say(kind, bytes(meta), bytes(payload))

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Take a cell for a chunk, or a buffer of its own for a short one."""
        connection = self._links.get(link)
        if connection is None or self._cells is None:
            return None
        if length <= INLINE_BYTES_MAX:
            return bytearray(length)
        try:
            connection.cell = self._cells.take(length)
        except OSError as error:
            self._log.error("no memory for a chunk of %s: %s", connection.address, error)
            self._loop.call_soon(self._abort, connection, "the manager has no memory left")
            return None
        return self._cells.room(connection.cell, length)

    def arrived(self, link: int, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        """Tell of a chunk: its name, or itself if it is short."""
        connection = self._links.get(link)
        if connection is None or token is None:
            return
        if connection.cell is None:
            self._cable.say(Told.BROUGHT, cable.BROUGHT.pack(link, stream, attempt, offset), token)
        else:
            name, connection.cell = connection.cell, None
            self._cable.say(Told.ARRIVED, cable.ARRIVED.pack(link, stream, attempt, length, offset, name))

    def fault(self, connection: PeerConnection, error: ProtocolError) -> None:
        """The peer broke the wire's rules: tell once, and read no more of it until it is closed."""
        if not connection.faulty:
            connection.faulty = True
            connection.pause(True)
            which = FAULTS.index(type(error)) if type(error) in FAULTS else 0
            self._cable.say(Told.FAULT, cable.FAULT.pack(connection.link, which), str(error).encode())

    def queued(self, connection: Connection) -> None:
        """Have what a link has to say leave at the end of this turn."""
        self._loop.call_soon(connection.flush)

    def writable(self, link: int, writable: bool) -> None:
        """The write buffer filled up, or drained: what was written to it has found room."""
        connection = self._links.get(link)
        if writable and connection is not None:
            self._tell_room(connection)

    def lost(self, connection: PeerConnection, reason: str) -> None:
        """The connection is gone."""
        if self._links.pop(connection.link, None) is not None:
            self._let_go(connection)
            self._tell_lost(connection.link, reason)

    def gone(self, connection: PeerConnection) -> None:
        """Its last byte is sent, or never will be."""
        self._open.discard(connection)

    # -- orders ----------------------------------------------------------------------------------------------

    def _obey(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        try:
            _ORDERS[kind](self, meta, payload)
        except Exception as error:  # costs one link, and not the process
            self._log.error("a fault of our own while carrying out order %d", kind, exc_info=error)
            if kind in _OF_A_LINK and (connection := self._links.get(NUMBER.unpack_from(meta)[0])) is not None:
                self._abort(connection, "internal error; see the manager's log")

    def _setup(self, meta: memoryview, payload: memoryview) -> None:
        setup = json.loads(bytes(payload))
        identity = tls.ManagerIdentity(**setup["identity"])
        self._idle_bytes_max, self._unread_bytes_max = setup["idle_bytes"], setup["unread_bytes"]
        for role in (Role.WORKER, Role.CLIENT):
            context = tls.listen_context(identity, role)
            self._handshakes[role] = Handshakes(context, setup["greeting_seconds"], self._loop, self._log)
            self._identify[role] = functools.partial(tls.identify, identity, role)
        self._cable.say(Told.READY)

    def _memory(self, meta: memoryview, payload: memoryview) -> None:
        number, own = cable.MEMORY.unpack(meta)
        descriptor = self._cable.descriptor()
        try:
            self._loans[number] = Loan(descriptor)
            if own:
                self._cells = Cells(os.dup(descriptor), self._idle_bytes_max)
        finally:
            os.close(descriptor)

    def _forget(self, meta: memoryview, payload: memoryview) -> None:
        self._loans.pop(NUMBER.unpack(meta)[0]).close()

    def _adopt(self, meta: memoryview, payload: memoryview) -> None:
        link, number = cable.ADOPT.unpack(meta)
        role, address = Role(number), str(payload, "utf-8")
        try:
            sock = socket.socket(fileno=self._cable.descriptor())
        except IndexError:  # a process that has no number for a descriptor is given none
            why = "this process may have no more files open: raise its limit"
            self._log.error("refused %s: %s", address, why)
            self._tell_lost(link, why)
            return
        sock.setblocking(False)
        identify = self._identify[role]
        self._handshakes[role].begin(
            sock,
            address,
            lambda: PeerConnection(link, self, identify, self._loop, self._unread_bytes_max),
            functools.partial(self._tell_lost, link),
        )

    def _greeted(self, meta: memoryview, payload: memoryview) -> None:
        number, silence_seconds = cable.GREETED.unpack(meta)
        connection = self._links.get(number)
        if connection is not None:
            connection.greeted(silence_seconds)

    def _write(self, meta: memoryview, payload: memoryview) -> None:
        connection = self._links.get(NUMBER.unpack(meta)[0])
        if connection is not None:
            connection.write(bytes(payload))

    def _send(self, meta: memoryview, payload: memoryview) -> None:
        link, stream, attempt, length, offset, memory, cell, start = cable.SEND.unpack(meta)
        connection = self._links.get(link)
        self._orders += 1
        if connection is None:
            self._tell_read(self._orders)
            return
        piece = self._loans[memory].piece(cell, start, length)
        self._unread[self._orders] = weakref.ref(piece.obj, functools.partial(self._tell_read, self._orders))
        connection.send_chunk(stream, attempt, offset, piece)
        self._wrote(connection)

    def _hand(self, meta: memoryview, payload: memoryview) -> None:
        link, stream, attempt, offset = cable.BROUGHT.unpack(meta)
        connection = self._links.get(link)
        if connection is not None:
            connection.send_chunk(stream, attempt, offset, bytes(payload))
            self._wrote(connection)

    def _free(self, meta: memoryview, payload: memoryview) -> None:
        assert self._cells is not None
        self._cells.give(NUMBER.unpack(meta)[0])

    def _close(self, meta: memoryview, payload: memoryview) -> None:
        connection = self._links.pop(NUMBER.unpack(meta)[0], None)
        if connection is not None:
            connection.close()
            self._let_go(connection)

    def _leave(self, meta: memoryview, payload: memoryview) -> None:
        """Leave when every last word is said, or could not be."""
        for connection in list(self._links.values()):
            connection.close()
        self._links.clear()
        until = self._loop.time() + LEAVING_SECONDS

        def look() -> None:
            if not self._open or self._loop.time() >= until:
                self._finished.set()
            else:
                self._loop.call_later(0.005, look)

        look()

    # -- private ---------------------------------------------------------------------------------------------

    def _wrote(self, connection: PeerConnection) -> None:
        connection.owing += 1
        self._written[connection.link] = connection
        self._settle_soon()

    def _settle_soon(self) -> None:
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Tell what became of this turn's chunks."""
        self._settling = False
        written, self._written = self._written, {}
        for connection in written.values():
            if not connection.blocked:
                self._tell_room(connection)
        read, self._read = self._read, []
        if read:
            self._cable.say(Told.READ, array("Q", read).tobytes(), hurry=False)

    def _tell_read(self, order: int, _: Any = None) -> None:
        """Nobody looks at a chunk's cell any more: however long a slow peer's takes, the others' are free meanwhile."""
        self._unread.pop(order, None)
        self._read.append(order)
        self._settle_soon()

    def _tell_room(self, connection: PeerConnection) -> None:
        for _ in range(connection.owing):
            self._cable.say(Told.ROOM, NUMBER.pack(connection.link))
        connection.owing = 0

    def _tell_lost(self, link: int, reason: str) -> None:
        self._cable.say(Told.LOST, NUMBER.pack(link), reason.encode("utf-8", "replace"))

    def _abort(self, connection: PeerConnection, reason: str) -> None:
        connection.abort()
        self.lost(connection, reason)

    def _let_go(self, connection: PeerConnection) -> None:
        """Take back the cell of a chunk that will never be whole."""
        if connection.cell is not None and self._cells is not None:
            self._cells.give(connection.cell)
            connection.cell = None

    def _choke(self, choked: bool) -> None:
        """Read nothing while the process that decides cannot keep up: so TCP slows the peers down."""
        self._choked = choked
        for connection in self._links.values():
            if not connection.faulty:
                connection.pause(choked)


_ORDERS: dict[int, Callable[[Shard, memoryview, memoryview], None]] = {
    Order.SETUP: Shard._setup,
    Order.MEMORY: Shard._memory,
    Order.FORGET: Shard._forget,
    Order.ADOPT: Shard._adopt,
    Order.GREETED: Shard._greeted,
    Order.WRITE: Shard._write,
    Order.SEND: Shard._send,
    Order.HAND: Shard._hand,
    Order.FREE: Shard._free,
    Order.CLOSE: Shard._close,
    Order.LEAVE: Shard._leave,
}
_OF_A_LINK = frozenset({Order.GREETED, Order.WRITE, Order.SEND, Order.HAND, Order.CLOSE})


def main(argv: list[str] | None = None) -> int:
    """Run a shard, and return the exit code."""
    import uvloop  # noqa: PLC0415 - only a manager has it for sure

    parser = Parser(prog="python -m starcore.manager.shard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cable", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    parser.add_argument("--json-logs", action="store_true")
    options = parser.parse_args(argv)
    logs.setup(options.log_level, options.json_logs)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    logger = logging.getLogger(f"starcore.manager.shard{options.number}")

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        logs.watch(loop, logger)
        await Shard(socket.socket(fileno=options.cable), loop, logger).serve()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
