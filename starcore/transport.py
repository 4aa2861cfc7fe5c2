"""A TLS transport for a `asyncio.BufferedProtocol` whose SSL object owns the socket.

A loop's own TLS passes each byte through two memory BIOs: received, copied into OpenSSL, copied out of it.
Here OpenSSL reads and writes the socket itself, and decrypts a record straight into what the protocol hands out.

::

    add_reader ─▶ SSL_read into get_buffer() ─▶ buffer_updated          as long as records keep coming, a budget a turn
    write ─▶ SSL_write at once ─┬▶ all of it is with the kernel
                                └▶ the rest, as a view of the caller's memory, waits for add_writer

Not here: how a connection comes about (`connecting.py`), who may have one (`tls.py`), what its bytes mean
(`connection.py`).

What was written and found no room is kept by reference, not copied: whoever reuses memory that it has written looks
whether somebody still has a view of it. OpenSSL wants a write that was cut short to be repeated with the same bytes
(they may have moved); so the piece at hand stays the piece at hand until it is through.

The end of a link is one of these, each told once by `connection_lost`:

*the peer's* `close_notify` or its FIN: None. What still waits to be written is dropped; nobody would read it.
*close()*: what waits is written, then `close_notify`, then FIN; what comes in is thrown away until the peer closes too.
*abort()*: at once; None.
*a fault*, of the network or of TLS: the exception. Where writing fails, what the peer had said before is read first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from starcore._framing import take_in

RECORD_BYTES_MAX = 16 << 10
"""What TLS puts into one record."""
READ_TURN_BYTES = 512 << 10
"""What one link may take in, or give out, before the others have their turn."""
WRITE_TURN_BYTES = 1 << 20
JOINED_BYTES_MAX = 64 << 10
"""Up to here, pieces leave as one write: a record fewer is worth the copy."""
_BULK_MIN = 8 << 10
"""A read that brings less than this was the last one, unless OpenSSL says that it has more."""
CLOSING_SECONDS_MAX = 30.0
"""How long a closed link may take to send what waits, if nobody aborts it."""
LOW_WATER_PART = 4

_Buffer = Any


class TLSTransport(asyncio.Transport):
    """One connection, from the end of its handshake.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Everything here happens in this loop's thread; it needs `add_reader` and `add_writer`.
    sock : ssl.SSLSocket
        Not blocking, its handshake done.
    protocol : asyncio.BufferedProtocol
        Hears `connection_made` from `begin`.
    """

    __slots__ = (
        "_broken",
        "_buffered",
        "_closing",
        "_ear",
        "_fd",
        "_high",
        "_later",
        "_loop",
        "_lost",
        "_low",
        "_paused",
        "_peername",
        "_pending",
        "_protocol",
        "_queue",
        "_read",
        "_reading",
        "_shut",
        "_sock",
        "_turned",
        "_unit",
        "_write",
        "_writing",
        "deaf",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: ssl.SSLSocket, protocol: asyncio.BufferedProtocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol: asyncio.BufferedProtocol | None = protocol
        # A method in Python that only passes the call on, once a record, costs an array a few hundredths of its CPU.
        inner: Any = getattr(sock, "_sslobj", None)
        owner: Any = inner if all(hasattr(inner, name) for name in ("read", "write", "pending")) else sock
        self._read: Callable[[int, Any], int] = owner.read
        self._write: Callable[[Any], int] = owner.write
        self._pending: Callable[[], int] = owner.pending
        self._peername: Any = None
        with contextlib.suppress(OSError):
            self._peername = sock.getpeername()
        self._queue: deque[_Buffer] = deque()
        self._unit: _Buffer | None = None
        """What is being written; the same bytes until they are through."""
        self._buffered = 0
        self._high, self._low = 64 << 10, 16 << 10
        self._paused = False
        """Whether the protocol was told to write no more."""
        self._reading = self._writing = False
        """What the loop looks for."""
        self._ear: weakref.ref[Any] | None = None
        """The callback that the loop has; nobody else has it."""
        self._turned: str = ""
        """Which of the two OpenSSL asked to have turned round: "read" waits for room, or "write" for bytes."""
        self._closing = self._shut = self._lost = False
        self.deaf = True
        """Whether what the peer says is not for the protocol, now or ever."""
        self._broken: BaseException | None = None
        self._later: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Tell the protocol that the connection is there, and listen."""
        assert self._protocol is not None
        self.deaf = False
        try:
            self._protocol.connection_made(self)
        except BaseException:
            self._stop()
            self._end()
            raise
        if not self.deaf:
            self._watch_bytes(True)

    # -- what asyncio promises -------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket, the SSL object (which are one), or what TLS found out about the peer."""
        if name == "peername":
            return self._peername if self._peername is not None else default
        if name in ("socket", "ssl_object"):
            return self._sock
        if name == "sockname":
            return self._sock.getsockname() if self._sock.fileno() >= 0 else default
        if name == "peercert":
            return self._sock.getpeercert() if self._sock.fileno() >= 0 else default
        return default

    def is_closing(self) -> bool:
        """Whether it closes, or is closed."""
        return self._closing or self._lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol take over."""
        self._protocol = cast("asyncio.BufferedProtocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        assert self._protocol is not None, "the connection is over"
        return self._protocol

    def is_reading(self) -> bool:
        """Whether bytes are taken in."""
        return not self.deaf

    def pause_reading(self) -> None:
        """Take nothing in for now: TCP slows the peer down."""
        if not self._closing and not self._lost:
            self.deaf = True
            self._watch_bytes(False)

    def resume_reading(self) -> None:
        """Take bytes in again."""
        if not self._closing and not self._lost and self.deaf:
            self.deaf = False
            self._watch_bytes(True)
            self._loop.call_soon(self._readable)  # the poll does not know of what OpenSSL has already

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait; a piece counts in full until all of it is through."""
        return self._buffered

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark (bytes)."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when the protocol is told to pause and to go on."""
        if high is None:
            high = 64 << 10 if low is None else LOW_WATER_PART * low
        self._low, self._high = high // LOW_WATER_PART if low is None else low, high

    def can_write_eof(self) -> bool:
        """TLS has no half-open connections that anybody could rely on."""
        return False

    # -- reading ---------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take records in until none is there, or this turn's share is had."""
        if self.deaf:
            if self._shut:
                self._swallow()
            return
        if self._turned == "write":
            self._turned = ""
            self._push()
        error = self._take(_BULK_MIN)
        if error is not None and not isinstance(error, ssl.SSLWantReadError):
            self._not_read(error)

    def _take(self, bulk: int) -> OSError | bool | None:
        protocol = self._protocol
        assert protocol is not None
        ask, tell = protocol.get_buffer, protocol.buffer_updated
        try:
            return take_in(self, ask, tell, self._read, self._pending, READ_TURN_BYTES, bulk)
        except Exception as fault:  # of the protocol's own
            self._loop.call_exception_handler(
                {"message": "a protocol failed", "exception": fault, "transport": self, "protocol": protocol}
            )
            self._lose(fault)
            return None

    def _not_read(self, error: OSError | bool) -> None:
        if isinstance(error, ssl.SSLWantWriteError):
            self._turned = "read"
            self._watch_room(True)
        elif isinstance(error, (bool, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            self._ended()
        else:
            self._lose(error)

    def _ended(self) -> None:
        """The peer says no more: then nobody reads there any more, either."""
        assert self._protocol is not None
        self._protocol.eof_received()
        if not self._lost:
            self._queue.clear()
            if self._unit is None:
                with contextlib.suppress(OSError, ValueError):
                    self._sock.unwrap()
            self._lose(None)

    def _swallow(self) -> None:
        """Throw away what comes before the peer closes, too: closing on unread bytes would cost it our last ones."""
        room = bytearray(RECORD_BYTES_MAX)
        for _ in range(READ_TURN_BYTES // RECORD_BYTES_MAX):
            try:
                count = socket.socket.recv_into(self._sock, room)  # as it came: nobody wants to know what it says
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if not count:
                self._lose(None)
                return

    # -- writing ---------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Write at once what the kernel takes; the rest waits, as a view of the caller's memory."""
        self._put(data)
        if self._buffered > self._high:
            self._pause()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Write the pieces one after the other; a short one travels in one record with the beginning of the next."""
        short = b""
        for piece in list_of_data:
            size = len(piece)
            if len(short) + size <= JOINED_BYTES_MAX:
                short += piece
            elif len(short) < RECORD_BYTES_MAX:
                view = memoryview(piece)
                cut = RECORD_BYTES_MAX - len(short) if short else 0
                if cut:
                    self._put(short + view[:cut])
                    short = b""
                self._put(view[cut:])
            else:
                self._put(short)
                self._put(piece)
                short = b""
        if short:
            self._put(short)
        if self._buffered > self._high:
            self._pause()

    def _put(self, data: Any) -> None:
        if self._closing or self._lost or self._broken is not None or not len(data):
            return
        if self._unit is not None:
            self._buffered += len(data)
            self._queue.append(data)
            return
        try:  # mostly there is room, and nothing to remember
            count = self._write(data)
            if count == len(data):
                return
            data = memoryview(data)[count:]
        except ssl.SSLWantWriteError:
            self._buffered += len(data)
            self._unit = data
            self._watch_room(True)
            return
        except OSError:  # the same again, with all that belongs to it
            pass
        self._buffered += len(data)
        self._unit = data
        self._push()

    def _push(self) -> None:
        """Write on, until there is nothing left or no room."""
        unit, write, share = self._unit, self._write, WRITE_TURN_BYTES
        try:
            while unit is not None and share > 0:
                size = len(unit)
                count = write(unit)
                self._buffered -= count
                share -= count
                unit = memoryview(unit)[count:] if count < size else self._next()
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLWantReadError:
            self._turned = "write"
        except OSError as error:
            self._unit = None
            self._break(error)
            return
        self._unit = unit
        wants = unit is not None and self._turned != "write"
        if wants is not self._writing:
            self._watch_room(wants)

    def _next(self) -> _Buffer | None:
        """What to write next: short pieces together."""
        queue = self._queue
        if not queue:
            return None
        first = queue.popleft()
        if not queue or len(first) + len(queue[0]) > RECORD_BYTES_MAX:
            return first
        joined, size = [first], len(first)
        while queue and size + len(queue[0]) <= JOINED_BYTES_MAX:
            joined.append(queue.popleft())
            size += len(joined[-1])
        return b"".join(joined)

    def _writable(self) -> None:
        if self._turned == "read":
            self._turned = ""
            self._watch_room(self._unit is not None)
            self._readable()
        if self._lost:
            return
        if self._shut:
            self._say_goodbye()
            return
        self._push()
        if self._lost or self._broken is not None:
            return
        if self._unit is None and self._closing:
            self._say_goodbye()
        elif self._paused and self._buffered <= self._low:
            self._paused = False
            assert self._protocol is not None
            self._protocol.resume_writing()

    def _pause(self) -> None:
        if not self._paused and self._protocol is not None and not self._lost:
            self._paused = True
            self._protocol.pause_writing()

    def _break(self, error: BaseException) -> None:
        """Nothing can be written any more; but what the peer said before it went is worth hearing."""
        # Before Python 3.13, OpenSSL's word for every end of a socket is EOF.
        self._broken = reset(error) if isinstance(error, ssl.SSLEOFError) else error.with_traceback(None)
        self._queue.clear()
        self._buffered = 0
        if self._writing:
            self._watch_room(False)
        self._loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        error = None if self.deaf else self._take(1)
        if error is None and not self.deaf:
            self._loop.call_soon(self._give_up)  # there may be more than this turn's share
            return
        if error is not None and not isinstance(error, ssl.SSLWantReadError):
            self._not_read(error)
        self._lose(self._broken)

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what waits, say so to the peer, and end when it has closed as well."""
        if self._closing or self._lost:
            return
        self._closing = self.deaf = True
        self._watch_bytes(False)
        self._later = self._loop.call_later(CLOSING_SECONDS_MAX, self.abort)
        if self._broken is None and self._unit is None:
            self._say_goodbye()

    def abort(self) -> None:
        """End at once."""
        self._lose(None)

    def _say_goodbye(self) -> None:
        self._shut = True
        try:
            self._sock.unwrap()
        except ssl.SSLWantWriteError:
            self._watch_room(True)
            return
        except OSError:  # said; the peer has not yet, or says something else, or is gone, which we shall see
            pass
        else:
            self._lose(None)
            return
        self._watch_room(False)
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose(None)
            return
        self._watch_bytes(True)

    def _lose(self, error: BaseException | None) -> None:
        """Look for nothing any more, let go of all memory, and tell when the present call is over."""
        if self._lost:
            return
        self._stop()
        self._loop.call_soon(self._tell, error)

    def _stop(self) -> None:
        self._lost = self.deaf = True
        self._watch_bytes(False)
        self._watch_room(False)
        self._queue.clear()
        self._unit = None
        self._buffered = 0
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _tell(self, error: BaseException | None) -> None:
        protocol = self._protocol
        try:
            if protocol is not None:
                protocol.connection_lost(cast("Exception | None", error))
        finally:
            self._end()

    def _end(self) -> None:
        """Close the socket; the SSL object's memory goes with it, whoever still knows this transport."""
        self._protocol = None
        self._read = self._write = self._pending = _over
        self._sock.close()

    # -- the loop --------------------------------------------------------------------------------------------

    def _watch_bytes(self, wanted: bool) -> None:
        self._ear = None
        if wanted:
            ear = self._readable
            self._loop.add_reader(self._fd, ear)
            self._ear = weakref.ref(ear, self._unheard)
        elif self._reading:
            self._loop.remove_reader(self._fd)
        self._reading = wanted

    def _unheard(self, ear: Any) -> None:
        """The loop forgot us.

        A socket that failed is looked at once more by uvloop, and never again. But its error stands behind what the
        peer had said before, and of that we may have taken only a part; only the death of the callback tells.
        """
        if ear is self._ear:
            with contextlib.suppress(RuntimeError):  # a loop that is being closed forgets everybody
                self._loop.call_soon(self._read_out)

    def _read_out(self) -> None:
        """Read a socket that failed to its end, or to where it goes on after all."""
        if self._lost or not self._reading:
            return
        if self.deaf:
            self._readable()  # which swallows until there is nothing
        else:
            error = self._take(1)
            if self._lost or not self._reading:
                return
            if error is None:
                self._loop.call_soon(self._read_out)
                return
            if not isinstance(error, ssl.SSLWantReadError):
                self._not_read(error)
        if not self._lost:
            writing = self._writing
            self._watch_room(False)
            self._watch_bytes(False)
            self._watch_bytes(True)
            self._watch_room(writing)

    def _watch_room(self, wanted: bool) -> None:
        if wanted:
            self._loop.add_writer(self._fd, self._writable)
        elif self._writing:
            self._loop.remove_writer(self._fd)
        self._writing = wanted


def _over(*arguments: Any) -> int:
    raise OSError(errno.EBADF, "the connection is over")


def reset(error: BaseException | None) -> ConnectionResetError:
    """Say that a connection ended, whatever word OpenSSL had for it."""
    made = ConnectionResetError(errno.ECONNRESET, "the other side closed the connection")
    made.__cause__ = error if error is None else error.with_traceback(None)
    return made
