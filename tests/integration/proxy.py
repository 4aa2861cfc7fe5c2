"""A small TCP proxy that stands between a peer and its manager, and does to the wire what networks do to it.

::

    peer ──▶ Proxy ──▶ manager        cut()        both ends closed at once, in the middle of whatever they said
                                      half_open()  the connections there are forward nothing more, and nobody hears why
                                      flip()       one bit of what comes next is another one
                                      duplicate()  what comes next is said twice
                                      pause()      one direction stands still, or both, until resume()
                                      delay        seconds that every piece waits
                                      trickle      at most so many bytes a second each way; 0: as many as come
                                      closed       True: new connections are turned away

It forwards bytes and knows nothing of TLS. It runs on a loop in a thread of its own; every method is for the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeVar

PIECE_BYTES = 256 << 10
TRICKLE_SECONDS = 0.05
"""How often a trickle drops."""

T = TypeVar("T")


class To(Enum):
    """Where a direction leads."""

    MANAGER = 0
    PEER = 1


class _Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, to: To) -> None:
        self.source, self.sink, self.to = source, sink, to
        self.lost = asyncio.Event()
        self.forwards = asyncio.Event()
        self.forwards.set()
        self.repeats = 0

    async def open(self) -> None:
        """Wait until it forwards; for ever, once the connection is half open."""
        await self.forwards.wait()
        if self.lost.is_set():
            await asyncio.Event().wait()


class _Pair:
    """One connection: the peer's socket and ours to the manager."""

    def __init__(self, peer: socket.socket, manager: socket.socket) -> None:
        self.sockets = (peer, manager)
        self.ways = (_Way(peer, manager, To.MANAGER), _Way(manager, peer, To.PEER))
        self.flips = 0
        self.tasks: list[asyncio.Task[None]] = []

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in self.tasks:
            task.cancel()
        for sock in self.sockets:
            # Now, not when the tasks end: the number may be another socket's by then.
            loop.remove_reader(sock)
            loop.remove_writer(sock)
            sock.close()


class Proxy:
    """Forwards what connects to `address` to a port of this machine.

    Parameters
    ----------
    port : int
        Where the manager listens.
    listen : int, optional
        Where the proxy does; any free port where it is not given.
    """

    def __init__(self, port: int, listen: int = 0) -> None:
        self.delay = 0.0
        self.trickle = 0
        self.closed = False
        self.accepted = 0
        self._port = port
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", listen))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="proxy", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where peers dial."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Close every connection at once; return how many there were."""

        def cut() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                self._end(pair)
            return len(pairs)

        return self._call(cut)

    def half_open(self) -> None:
        """From now on the connections that stand swallow everything; new ones are forwarded as ever."""
        self._call(lambda: [way.lost.set() for way in self._ways()])

    def flip(self) -> None:
        """Change one bit of what each connection's next piece says, to the manager or to the peer."""

        def flip() -> None:
            for pair in self._pairs:
                pair.flips += 1

        self._call(flip)

    def duplicate(self) -> None:
        """Say the next piece of every direction twice."""

        def duplicate() -> None:
            for way in self._ways():
                way.repeats += 1

        self._call(duplicate)

    def pause(self, to: To | None = None) -> None:
        """Forward nothing more in one direction, or in both; TCP holds up who goes on speaking."""
        self._call(lambda: [way.forwards.clear() for way in self._ways() if to in (None, way.to)])

    def resume(self) -> None:
        """Forward again what was paused."""
        self._call(lambda: [way.forwards.set() for way in self._ways()])

    def close(self) -> None:
        """End everything."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the thread ------------------------------------------------------------------------------------------

    def _ways(self) -> Iterator[_Way]:
        return (way for pair in self._pairs for way in pair.ways)

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def _main(self) -> None:
        accepting = self._loop.create_task(self._accept())
        try:
            self._loop.run_forever()
        finally:
            accepting.cancel()
            tasks = [accepting, *(task for pair in self._pairs for task in pair.tasks)]
            for pair in list(self._pairs):
                self._end(pair)
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._listener.close()
            self._loop.close()

    async def _accept(self) -> None:
        while True:
            peer, _ = await self._loop.sock_accept(self._listener)
            if self.closed:
                peer.close()
                continue
            self.accepted += 1
            peer.setblocking(False)
            port = await self._ask(peer)
            if port is None:
                peer.close()
                continue
            manager = socket.socket()
            manager.setblocking(False)
            try:
                await self._loop.sock_connect(manager, ("127.0.0.1", port))
            except OSError:
                peer.close()
                manager.close()
                continue
            pair = _Pair(peer, manager)
            self._pairs.add(pair)
            pair.tasks = [self._loop.create_task(self._forward(pair, way)) for way in pair.ways]

    async def _ask(self, peer: socket.socket) -> int | None:
        """Say whither a new connection goes; None turns it away."""
        return self._port

    async def _forward(self, pair: _Pair, way: _Way) -> None:
        with contextlib.suppress(OSError):
            while True:
                piece = await self._loop.sock_recv(way.source, self._piece_bytes())
                if self.delay:
                    await asyncio.sleep(self.delay)
                await way.open()
                if not piece:
                    break
                if pair.flips:
                    pair.flips -= 1
                    middle = len(piece) // 2
                    piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
                if way.repeats:
                    way.repeats -= 1
                    piece *= 2
                await self._loop.sock_sendall(way.sink, piece)
                if self.trickle:
                    await asyncio.sleep(TRICKLE_SECONDS)
        self._end(pair)

    def _piece_bytes(self) -> int:
        return max(1, min(PIECE_BYTES, int(self.trickle * TRICKLE_SECONDS))) if self.trickle else PIECE_BYTES

    def _end(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        pair.close(self._loop)


class HttpProxy(Proxy):
    """A proxy that is asked by the method CONNECT of HTTP, and knows one name: this machine's.

    Parameters
    ----------
    name : str
        The name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(0)
        self.requests: list[str] = []
        """What was asked, whole."""
        self.refusal = ""
        """Said to everybody, where it is not empty: `407 Proxy Authentication Required`."""
        self._name = name

    async def _ask(self, peer: socket.socket) -> int | None:
        request = b""
        with contextlib.suppress(OSError):
            while not request.endswith(b"\r\n\r\n"):
                if not (more := await self._loop.sock_recv(peer, 4096)):
                    return None
                request += more
            self.requests.append(request.decode())
            method, _, rest = self.requests[-1].partition(" ")
            name, _, port = rest.partition(" ")[0].rpartition(":")
            known = (method, name) == ("CONNECT", self._name)
            refusal = self.refusal or ("" if known else "502 Bad Gateway")
            await self._loop.sock_sendall(peer, f"HTTP/1.1 {refusal or '200 OK'}\r\nVia: test\r\n\r\n".encode())
            return None if refusal else int(port)
        return None
