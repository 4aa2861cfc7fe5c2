"""Both ends of a connection on real TLS over real sockets: ours in a loop, the other one in the test's own hands."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starcore import certificates, connecting, tls
from starcore.messages import Role
from starcore.transport import TLSTransport

SECONDS = 20.0


class Heard(asyncio.BufferedProtocol):
    """Keeps what comes, and what it was told."""

    def __init__(self, room_bytes: int = 64 << 10) -> None:
        self.room = memoryview(bytearray(room_bytes))
        self.data = bytearray()
        self.told: list[Any] = []
        self.transport: TLSTransport | None = None
        self.on_bytes: Callable[[int], Any] = lambda count: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TLSTransport)
        self.transport = transport
        self.told.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.room[:nbytes]
        self.on_bytes(nbytes)

    def eof_received(self) -> None:
        self.told.append("eof")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append(("lost", exc))

    @property
    def lost(self) -> Any:
        """What the connection was lost to, in a list; empty as long as it stands."""
        return [each[1] for each in self.told if isinstance(each, tuple)]


class World:
    """A loop, and the two ends of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, star: certificates.Star) -> None:
        self.loop = loop
        self.star = star
        self.open: list[socket.socket] = []

    def sockets(self, family: str = "tcp") -> tuple[socket.socket, socket.socket]:
        """Two connected sockets."""
        if family == "unix":
            near, far = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                far = socket.create_connection(listener.getsockname())
                near, _ = listener.accept()
        self.open += [near, far]
        far.settimeout(SECONDS)
        return near, far

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """The manager's, and a client's."""
        listens = tls.listen_context(certificates.manager_identity(self.star), Role.CLIENT)
        return listens, tls.dial_context(certificates.read_join(self.star.client_join).identity)

    def far_end(self, far: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """The other end, its handshake not done."""
        wrapped = context.wrap_socket(
            far, server_hostname=tls.SERVER_NAME, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.open.append(wrapped)
        return wrapped

    async def meet(
        self, heard: Heard | None = None, family: str = "tcp", small: bool = False
    ) -> tuple[Heard, TLSTransport, ssl.SSLSocket]:
        """See both ends through their handshakes: what our end hears, its transport, the blocking other end."""
        near, raw = self.sockets(family)
        if small:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        listens, dials = self.contexts()
        far = self.far_end(raw, dials)
        heard = heard or Heard()
        (transport, _), _ = await asyncio.gather(
            connecting.secure(self.loop, lambda: heard, near, listens), aside(far.do_handshake)
        )
        assert heard.told == ["made"]
        return heard, transport, far


async def aside(call: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call that blocks."""
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(call, *arguments))


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.001)
    return found


def everything(far: ssl.SSLSocket, count: int) -> bytes:
    """Read so many bytes."""
    got = bytearray()
    while len(got) < count and (piece := far.recv(65536)):
        got += piece
    return bytes(got)


Test = Callable[[World], Awaitable[None]]


@contextmanager
def running(loop: asyncio.AbstractEventLoop, star: certificates.Star) -> Iterator[Callable[[Test], None]]:
    """Run a test on a loop; nothing may end in its exception handler unasked."""
    world = World(loop, star)
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: faults.append(context))

    def runner(test: Test) -> None:
        loop.run_until_complete(asyncio.wait_for(test(world), 3 * SECONDS))
        assert faults == []

    yield runner
    for each in world.open:
        each.close()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
