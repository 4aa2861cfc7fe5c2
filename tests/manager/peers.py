"""Peers on real TLS for tests of the manager's shells: a driver with a core that records, dialing out of this process.

Everything happens in one loop; the manager's side of a connection is handed over as a socket that was accepted.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from typing import Any

from starcore import certificates, connecting, tls
from starcore.driver import Driver
from starcore.events import Action, ChunkReceived, Event, Opened, Received, Send, SendChunk, Tick
from starcore.messages import CHUNK_BYTES_MAX, Message, Role

SECONDS = 20.0


class Recorder:
    """A core that writes down what it is told, and says what it was told to say."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.says: list[Action] = []
        self.on: dict[type, Callable[[Any], list[Action]]] = {}

    def handle(self, event: Event, now: float) -> list[Action]:
        self.events.append(event)
        says, self.says = self.says, []
        return says + (self.on[type(event)](event) if type(event) in self.on else [])

    def deadline(self) -> float | None:
        return None

    def check(self) -> None:
        pass

    def seen(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def heard(self) -> list[Message]:
        return [event.message for event in self.seen(Received)]


class Caller:
    """A peer that dialed, with memory for what comes and bytes to send."""

    def __init__(self, identity: tls.DialerIdentity) -> None:
        self._identity = identity
        self.core = Recorder()
        self.driver = Driver(self.core, asyncio.get_running_loop(), self, logging.getLogger("starcore.test"))
        self.body = b""
        self.room = bytearray(CHUNK_BYTES_MAX)

    async def dial(self, sock: socket.socket) -> None:
        """Speak TLS over a connected socket."""
        await connecting.secure(
            asyncio.get_running_loop(),
            lambda: self.driver.connection(functools.partial(tls.identify, self._identity, Role.MANAGER)),
            sock,
            tls.dial_context(self._identity),
            server_hostname=self._identity.server_name,
        )

    @property
    def link(self) -> int:
        return int(self.core.seen(Opened)[0].link)

    def say(self, *messages: Message) -> None:
        self.core.says = [Send(self.link, message) for message in messages]
        self.driver.feed(Tick())

    def send(self, stream: int, body: bytes) -> None:
        """Send a body in one chunk."""
        self.body = body
        self.core.says = [SendChunk(self.link, stream, 1, 0, len(body))]
        self.driver.feed(Tick())

    def got(self, stream: int) -> bytes | None:
        """The chunk of this stream, once it came."""
        for event in self.core.seen(ChunkReceived):
            if event.stream == stream:
                return bytes(self.room[: event.length])
        return None

    def write(self, data: bytes) -> None:
        """Write bytes past all rules."""
        connection: Any = next(iter(self.driver._links.values()))
        connection._transport.write(data)

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        raise TypeError(action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> memoryview:
        return memoryview(self.room)[offset : offset + length]

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> bytes:
        return self.body[offset : offset + length]

    def release(self, token: Any) -> None:
        pass


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on this machine: the dialer's and the one that was accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialed = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    dialed.setblocking(False)
    return dialed, accepted


def caller(star: certificates.Star, role: Role) -> Caller:
    """A peer with this star's own join file."""
    join = star.client_join if role is Role.CLIENT else star.worker_join
    return Caller(certificates.read_join(join).identity)


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until something is so; return what it gave."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while not (found := condition()):
        assert asyncio.get_running_loop().time() < deadline, what or condition
        await asyncio.sleep(0.001)
    return found
