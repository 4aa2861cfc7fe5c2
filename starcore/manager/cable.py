"""What the process that decides and a shard say to each other: frames on a socketpair, descriptors beside them.

::

    the switch                                                 a shard
    SETUP, MEMORY (+ descriptor) ────────────────────────────▶
                                 ◀──────────────────────────── READY
    ADOPT (+ the accepted socket) ───────────────────────────▶ TLS
                                 ◀──────────────────────────── OPENED, or LOST
                                 ◀──────────────────────────── FROM, then messages as the peer framed them
    WRITE, GREETED, SEND, CLOSE ─────────────────────────────▶ the peer
                                 ◀──────────────────────────── ARRIVED, FAULT, LOST, ROOM, READ
    FREE, FORGET, LEAVE ─────────────────────────────────────▶

The frames are those of the wire with kinds of their own, beyond all that a peer may say; what a peer says goes
through as it came, behind a FROM that names its link. Nothing here ever leaves the machine. What one turn of the loop
has to say leaves in one write; what is in no hurry waits for company.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from struct import Struct

from starcore._framing import FrameReader
from starcore.messages import FRAME_MAGIC, KIND_MAX, Buffer

FIRST_KIND = KIND_MAX - 15
"""No peer's frame has this kind, or one above."""
INLINE_BYTES_MAX = 16 << 10
"""A chunk that is no longer travels inside a frame: it would waste a cell."""
COMPANY_SECONDS = 0.05
SOCKET_BYTES = 1 << 20
READ_DESCRIPTORS_MAX = 64
TURN_BYTES_MAX = 1 << 20
"""More than this does not wait for the end of the turn, which may be megabytes away."""
CHOKING_BYTES = 4 << 20
"""What may wait to be written before the cable says so."""

PASSING = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""What a system says for the moment: there are as many descriptors on their way as a process without rights may have
open, or no memory. What was to be sent then is sent when there is room, since either end counts on all of it."""


class Told(IntEnum):
    """What a shard tells."""

    READY = FIRST_KIND
    FROM = FIRST_KIND + 1
    OPENED = FIRST_KIND + 2
    LOST = FIRST_KIND + 3
    FAULT = FIRST_KIND + 4
    ARRIVED = FIRST_KIND + 5
    BROUGHT = FIRST_KIND + 6
    ROOM = FIRST_KIND + 7
    READ = FIRST_KIND + 8


class Order(IntEnum):
    """What a shard is told."""

    SETUP = FIRST_KIND
    MEMORY = FIRST_KIND + 1
    FORGET = FIRST_KIND + 2
    ADOPT = FIRST_KIND + 3
    GREETED = FIRST_KIND + 4
    WRITE = FIRST_KIND + 5
    SEND = FIRST_KIND + 6
    HAND = FIRST_KIND + 7
    FREE = FIRST_KIND + 8
    CLOSE = FIRST_KIND + 9
    LEAVE = FIRST_KIND + 10


HEADER = Struct("<HBBIQ")
NUMBER = Struct("<Q")
"""A link, a memory or a cell; of READ the orders that were carried out, by number, as many as there are."""
ARRIVED = Struct("<QQIIQQ")
"""link, stream, attempt, length, offset, cell"""
BROUGHT = Struct("<QQIQ")
"""link, stream, attempt, offset; the bytes are the payload. HAND has the same."""
SEND = Struct("<QQIIQQQI")
"""link, stream, attempt, length, offset, memory, cell, where in the cell"""
ADOPT = Struct("<QB")
"""link, role; the payload is the peer's address"""
MEMORY = Struct("<QB")
"""memory, whether it is the shard's own"""
FAULT = Struct("<QB")
"""link, which error; the payload is its text"""
GREETED = Struct("<Qd")
"""The link, and its silence (s)."""

Heard = Callable[[int, memoryview, memoryview], None]


class Cable:
    """One end, which never blocks.

    Parameters
    ----------
    sock : socket.socket
        One end of a stream socketpair; `close` closes it.
    loop : asyncio.AbstractEventLoop
        Where all of it happens.
    heard : callable(kind, meta, payload)
        Takes a frame; the two views are valid only during the call.
    cut : callable()
        Hears, once, that the other end is gone.
    choked : callable(bool), optional
        Hears that too much waits to be written, and that nothing does any more.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        heard: Heard,
        cut: Callable[[], None],
        choked: Callable[[bool], None] | None = None,
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._cut = cut
        self._choked = choked
        self._reader = FrameReader(heard, lambda *chunk: None, lambda *chunk: None, greeting=False)
        self._said: list[Buffer] = []
        self._said_bytes = 0
        """Of payloads alone."""
        self._unsent: deque[tuple[memoryview, int | None]] = deque()
        self._unsent_bytes = 0
        self._descriptors: deque[int] = deque()
        self._flush_due = self._company_due = self._is_choked = self._closed = False
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        loop.add_reader(sock, self._readable)

    def say(self, kind: int, meta: Buffer = b"", payload: Buffer = b"", *, hurry: bool = True) -> None:
        """Queue a frame for this turn's one write, or without `hurry` for the next one."""
        self._said.append(HEADER.pack(FRAME_MAGIC, kind, 0, len(meta), len(payload)))
        self._said.append(meta)
        if payload:
            self._said.append(payload)
            self._said_bytes += len(payload)
            if self._said_bytes > TURN_BYTES_MAX:
                self.flush()
                return
        if hurry and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)
        elif not hurry and not self._company_due:
            self._company_due = True
            self._loop.call_later(COMPANY_SECONDS, self._flush_late)

    def hand(self, kind: int, meta: Buffer, payload: Buffer, descriptor: int) -> None:
        """Send a frame and a descriptor, which is closed as soon as it has left."""
        self.flush()
        if self._closed:
            os.close(descriptor)
            return
        frame = HEADER.pack(FRAME_MAGIC, kind, 0, len(meta), len(payload)) + meta + payload
        self._push(memoryview(frame), descriptor)

    def flush(self) -> None:
        """Write what was said."""
        self._flush_due = False
        if self._said:
            joined = b"".join(self._said)
            self._said.clear()
            self._said_bytes = 0
            if not self._closed:
                self._push(memoryview(joined), None)

    def descriptor(self) -> int:
        """Return the descriptor that came with the frame at hand; the caller closes it."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Hang up; `cut` is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        if self._unsent:
            self._loop.remove_writer(self._socket)
        self._socket.close()
        self._reader.close()
        for _, descriptor in self._unsent:
            if descriptor is not None:
                os.close(descriptor)
        self._unsent.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    # -- private ---------------------------------------------------------------------------------------------

    def _flush_late(self) -> None:
        self._company_due = False
        self.flush()

    def _push(self, data: memoryview, descriptor: int | None) -> None:
        waiting = bool(self._unsent)
        self._unsent.append((data, descriptor))
        self._unsent_bytes += len(data)
        if not waiting:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._socket, self._writable)
        if self._unsent_bytes > CHOKING_BYTES and not self._is_choked:
            self._choke(True)

    def _writable(self) -> None:
        self._write()
        if not self._unsent and not self._closed:
            self._loop.remove_writer(self._socket)
            if self._is_choked:
                self._choke(False)

    def _choke(self, is_choked: bool) -> None:
        self._is_choked = is_choked
        if self._choked is not None:
            self._choked(is_choked)

    def _write(self) -> None:
        try:
            while self._unsent:
                data, descriptor = self._unsent[0]
                sent = self._send(data, descriptor)
                self._unsent_bytes -= sent
                if descriptor is not None:
                    os.close(descriptor)
                if sent < len(data):
                    self._unsent[0] = (data[sent:], None)
                else:
                    self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in PASSING:
                return
            while self._unsent:
                _, descriptor = self._unsent.popleft()
                if descriptor is not None:
                    os.close(descriptor)
            self._unsent_bytes = 0  # the reader will see the end

    def _send(self, data: memoryview, descriptor: int | None) -> int:
        if descriptor is None:
            return self._socket.send(data)
        return self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))])

    def _readable(self) -> None:
        space = socket.CMSG_SPACE(READ_DESCRIPTORS_MAX * array("i").itemsize)
        try:
            count, ancillary, _, _ = self._socket.recvmsg_into(
                [self._reader.get_buffer()], space, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count, ancillary = 0, []
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors.extend(array("i", rights))
        if count:
            self._reader.advance(count)
        elif not self._closed:
            self.close()
            self._cut()
