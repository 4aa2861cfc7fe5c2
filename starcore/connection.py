"""One TLS stream as an `asyncio.BufferedProtocol`: messages in and out, chunks from and to where they live.

Not here: what a message means (the cores), who may connect (`tls.py`), records and sockets (`transport.py`), when to
close (`driver.py`).

In::

    OpenSSL decrypts into get_buffer() ─▶ FrameReader.advance ─▶ a message: codec.decode ─▶ owner.received
                                                             └▶ a chunk: owner.destination, then owner.arrived

Out: `send` only queues; all that one turn of the loop queued leaves in one joined write when the owner asks for a
`flush`, since a TLS record per small frame costs eight times as much. A chunk is written at once, behind what was
queued before it. What of it finds no room in the socket waits there as a view of the caller's memory: who uses that
memory again looks first whether somebody still has a view of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from starcore import codec
from starcore._framing import FrameReader, Region, chunk_header
from starcore.errors import CredentialsError, OverrunError, ProtocolError
from starcore.events import Peer
from starcore.messages import Buffer, Message, Welcome

WRITE_HIGH_WATER_BYTES = 128 << 10
"""Above this a link takes no more chunks: a heartbeat never stands behind megabytes."""
NOTSENT_LOWAT_BYTES = 128 << 10
"""What the kernel may hold unsent; without it a peer that reads nothing swallows 4 MB."""
WRITE_PIECE_BYTES = 256 << 10
TURN_BYTES_MAX = 1 << 20
"""More than this does not wait for the end of the turn: one read may hold very many questions."""
UNREAD_BYTES_MAX = 1 << 30
"""What waits for a peer that asks and asks, and does not read."""
COMPANY_SECONDS = 0.05
"""How long a message without hurry waits for others; after 10 ms a loop of lone calls still paid for one in ten."""
CLOSING_SECONDS = 2.0
"""How long a closed link may take to send its last bytes."""
KEEPALIVE_PROBES = 3
"""So many unanswered ones, and the kernel calls a silent link dead."""
_INT_MAX = (1 << 31) - 1

_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)

_log = logging.getLogger("starcore.connection")


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def opened(self, connection: Connection, peer: Peer) -> None:
        """TLS stands and the peer is who it should be."""

    def refused(self, connection: Connection, error: CredentialsError) -> None:
        """TLS stands, but the peer has no business here."""

    def received(self, link: int, message: Message) -> None:
        """A message came in."""

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Where a chunk's bytes go; None throws them away."""

    def arrived(self, link: int, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        """A chunk came in whole."""

    def fault(self, connection: Connection, error: ProtocolError) -> None:
        """The peer broke the wire's rules."""

    def hold(self) -> None:
        """Several events come, and `end_turn` right after them."""

    def end_turn(self) -> None:
        """No more events come in this turn of the loop."""

    def queued(self, connection: Connection) -> None:
        """There is something to `flush` at the end of this turn."""

    def writable(self, link: int, writable: bool) -> None:
        """The write buffer filled up, or drained."""

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is gone."""


Identify = Callable[[Any, str], Peer]


class Connection(asyncio.BufferedProtocol):
    """A link: one TLS connection under one number; what it reads passes through `scratch`, which others may use too."""

    def __init__(
        self,
        link: int,
        owner: Owner,
        identify: Identify,
        loop: asyncio.AbstractEventLoop,
        scratch: Region | None = None,
        unread_bytes_max: int = UNREAD_BYTES_MAX,
    ) -> None:
        self.link = link
        self.blocked = False
        self.gone = False
        """Whether the transport has nothing more to send, or no way to."""
        self.alone = False
        """Whether its owner has no other link: what it read ends the turn of the loop."""
        self.address = "?"
        self._owner = owner
        self._identify = identify
        self._loop = loop
        self._unread_bytes_max = unread_bytes_max
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(self._deliver, self._destination, self._arrived, scratch=scratch)
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._flush_due = False
        self._company_due = False
        self._closed = False

    # -- called by the loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up: look at the peer before anything of its is read."""
        self._transport = cast("asyncio.Transport", transport)
        self._tune()
        self.address = _address_text(transport.get_extra_info("peername"))
        try:
            peer = self._identify(transport.get_extra_info("ssl_object"), self.address)
        except CredentialsError as error:
            self._owner.refused(self, error)
            return
        self._owner.opened(self, peer)

    def get_buffer(self, sizehint: int) -> memoryview:  # the hint is no limit
        """Hand out scratch memory, or the rest of a chunk's own destination."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what came; a peer that breaks the rules is at fault, not we."""
        if self._closed:
            return
        if self.alone:
            self._owner.hold()
        try:
            self._reader.advance(nbytes)
        except ProtocolError as error:
            self._owner.fault(self, error)
        finally:
            if self.alone:
                self._owner.end_turn()

    def eof_received(self) -> bool | None:
        """Let the transport close itself; `connection_lost` tells."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, unless it closed the link itself."""
        self._reader.close()
        self.gone = True
        self._transport = None  # no circle is left, so all its memory is free at once
        if not self._closed:
            self._closed = True
            self._owner.lost(self, _reason(exc))

    def pause_writing(self) -> None:
        """Take no more chunks for now."""
        self.blocked = True
        if not self._closed:
            self._owner.writable(self.link, False)

    def resume_writing(self) -> None:
        """Chunks may flow again."""
        self.blocked = False
        if not self._closed:
            self._owner.writable(self.link, True)

    # -- called by the driver --------------------------------------------------------------------------------

    def send(self, message: Message, *, hurry: bool = True) -> None:
        """Queue a message for this turn's one write, or without `hurry` for the next one."""
        if self._closed:
            return
        if type(message) is Welcome:
            self._reader.greeted()
            self.watch(message.silence_seconds)
        frame = codec.encode(message)
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        if hurry and not self._flush_due:
            self._flush_due = True
            self._owner.queued(self)
        elif not hurry and not self._company_due:
            self._company_due = True
            self._loop.call_later(COMPANY_SECONDS, self._flush_late)

    def flush(self) -> None:
        """Write what is queued, joined."""
        self._flush_due = False
        if not self._queue or self._transport is None:
            return
        joined = b"".join(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        if len(joined) <= WRITE_PIECE_BYTES:
            self._transport.write(joined)
        else:
            view = memoryview(joined)
            for start in range(0, len(joined), WRITE_PIECE_BYTES):
                self._transport.write(view[start : start + WRITE_PIECE_BYTES])
        if self.blocked and not self._closed and self._transport.get_write_buffer_size() > self._unread_bytes_max:
            self._owner.fault(self, OverrunError(f"more than {self._unread_bytes_max} bytes wait for it to read"))

    def send_chunk(self, stream: int, attempt: int, offset: int, view: Buffer) -> None:
        """Write a chunk, behind every message queued so far."""
        if self._closed or self._transport is None:
            return
        self._queue.append(chunk_header(stream, attempt, offset, len(view)))
        header = b"".join(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._transport.writelines([header, view])

    def send_token(self, stream: int, attempt: int, offset: int, length: int, token: Any, start: int) -> None:
        """Write a chunk: `length` bytes of a token, from its `start` on."""
        self.send_chunk(stream, attempt, offset, memoryview(token)[start : start + length])

    def close(self, last: Message | None = None) -> None:
        """Send what is queued, then `last`, and close; the owner hears nothing more of this link."""
        if last is not None:
            self.send(last)
        self.flush()
        self._closed = True
        self._reader.close()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(CLOSING_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close at once, sending nothing more."""
        self._closed = True
        self._reader.close()
        self._queue.clear()
        if self._transport is not None:
            self._transport.abort()

    def descriptor(self) -> int | None:
        """The socket's descriptor, for a forked child that must close it without a TLS byte."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return None if sock is None else cast("int", sock.fileno())

    def watch(self, silence_seconds: float) -> None:
        """Let the kernel give up a dead link as soon as the cores do: what is not acknowledged, and what is silent.

        The cores notice by themselves, but only while their process runs: a client whose interpreter is busy, or a
        process that is stopped, leaves it to its kernel.
        """
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is None:
            return
        interval = max(1, round(silence_seconds / (KEEPALIVE_PROBES + 1)))
        for name, value in (
            ("TCP_USER_TIMEOUT", max(1, round(1000 * silence_seconds))),
            ("TCP_KEEPIDLE", interval),
            ("TCP_KEEPALIVE", interval),  # what macOS calls the same
            ("TCP_KEEPINTVL", interval),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                with contextlib.suppress(OSError):  # no TCP, or longer than the kernel counts
                    sock.setsockopt(socket.IPPROTO_TCP, option, min(value, _INT_MAX))

    # -- private ---------------------------------------------------------------------------------------------

    def _deliver(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        if self._closed:
            return
        message = codec.decode(kind, meta, payload)
        if type(message) is Welcome:
            self._reader.greeted()
            self.watch(message.silence_seconds)
        self._owner.received(self.link, message)
        if self._queued_bytes > TURN_BYTES_MAX and not self._closed:
            self.flush()

    def _destination(self, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        return self._owner.destination(self.link, stream, attempt, offset, length)

    def _arrived(self, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        if not self._closed:
            self._owner.arrived(self.link, stream, attempt, offset, length, token)

    def _flush_late(self) -> None:
        self._company_due = False
        self.flush()

    def _tune(self) -> None:
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if _TCP_NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)


def _address_text(peername: Any) -> str:
    if not isinstance(peername, tuple) or len(peername) < 2:
        return str(peername or "?")
    host, port = peername[0], peername[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(exc: Exception | None) -> str:
    if exc is None:
        return "closed by the other side"
    text = str(exc).splitlines()[0] if str(exc) else ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
