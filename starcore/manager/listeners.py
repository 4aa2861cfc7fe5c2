"""The sockets that the manager listens on, and who gets through TLS there.

They are opened before anything else is done: a port that cannot be had is said before a star is made for it, so a
first start that fails leaves nothing behind. And both address families get the same number where the port is left to
the system, which asyncio does not promise.

`Acceptor` takes connections itself, and `Handshakes` has one task for each until TLS stands: the log shall say who
was turned away, and why::

    listening socket ─accept─▶ connecting.secure ─TLS─▶ the protocol's connection_made
                                       └─ refused, garbage, silence ─▶ one line
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from starcore import connecting
from starcore.errors import AddressError
from starcore.tls import join_address

BACKLOG = 4096
"""A backlog of 100 throttles a storm of reconnections."""
ACCEPTS_A_TURN = 64
EXHAUSTED_SECONDS = 1.0
"""How long no connection is taken after one could not be, as when this process has no descriptor left."""
ATTEMPTS = 20
"""A free port of one family may be taken in the other one."""

_log = logging.getLogger("starcore.manager")


class Acceptor:
    """Takes connections from listening sockets.

    Parameters
    ----------
    sockets : sequence of socket.socket
        They listen already; `close` closes them.
    take : callable(socket, address)
        Sees a connection through TLS, here or elsewhere.
    loop : asyncio.AbstractEventLoop
        Where all of it happens.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        take: Callable[[socket.socket, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._sockets = sockets
        self._take = take
        self._loop = loop
        self._closed = False
        for each in sockets:
            each.setblocking(False)
            loop.add_reader(each, self._accept, each)

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                advice = ": raise this process's limit of open files" if error.errno == errno.EMFILE else ""
                _log.error("no connection can be taken for %g s: %s%s", EXHAUSTED_SECONDS, error.strerror, advice)
                self._loop.remove_reader(listener)
                self._loop.call_later(EXHAUSTED_SECONDS, self._resume, listener)
                return
            connection.setblocking(False)
            self._take(connection, join_address(*address[:2]))

    def _resume(self, listener: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listener, self._accept, listener)


class Handshakes:
    """Sees accepted connections through TLS, and tells in the log of those that do not get through.

    Parameters
    ----------
    context : ssl.SSLContext
        The port's.
    seconds : float
        How long a handshake may take.
    loop : asyncio.AbstractEventLoop
        Where all of it happens.
    logger : logging.Logger, optional
        Where it is told.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        seconds: float,
        loop: asyncio.AbstractEventLoop,
        logger: logging.Logger = _log,
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._loop = loop
        self._log = logger
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self,
        connection: socket.socket,
        address: str,
        factory: Callable[[], asyncio.BufferedProtocol],
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Begin a connection's handshake; when TLS stands, `factory` makes its protocol, else `failed` hears why."""
        task = self._loop.create_task(self._shake_hands(connection, address, factory, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Drop the connections whose handshake is not done."""
        for task in self._tasks:
            task.cancel()

    async def _shake_hands(
        self,
        connection: socket.socket,
        address: str,
        factory: Callable[[], asyncio.BufferedProtocol],
        failed: Callable[[str], None] | None,
    ) -> None:
        try:
            await connecting.secure(self._loop, factory, connection, self._context, seconds=self._seconds)
        except OSError as error:
            why = f"the TLS handshake failed: {self._why(error)}"
            self._log.warning("refused %s: %s", address, why)
            if failed is not None:
                failed(why)

    def _why(self, error: BaseException) -> str:
        if isinstance(error, (ConnectionAbortedError, TimeoutError)):
            return f"it was not done within {self._seconds:g} s"
        if not isinstance(error, ssl.SSLError):
            return "the other side closed the connection"
        if error.reason == "CERTIFICATE_VERIFY_FAILED":
            return f"its certificate is not one of this star ({getattr(error, 'verify_message', '') or 'unknown'})"
        return (error.reason or str(error)).replace("_", " ").lower()


def listen(host: str | None, port: int, flag: str) -> list[socket.socket]:
    """Return listening sockets, one for every address of `host`, all with the same port.

    Who dials before the manager accepts waits in the backlog.

    Parameters
    ----------
    host : str or None
        A name or an address of this machine; None for every address, IPv4 and IPv6.
    port : int
        0 for any free one.
    flag : str
        The option that names the port, for the error's text.

    Raises
    ------
    AddressError
        The port is in use or needs rights, or the host is not here.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _foreign(host) from error
    places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for attempt in range(ATTEMPTS):
        try:
            return _listen_all(places)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == ATTEMPTS - 1:
                raise _explained(error, host, port, flag) from error
    raise AssertionError("the last attempt returns or raises")


def _listen_all(places: Sequence[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in places:
            port = opened[0].getsockname()[1] if opened else address[1]
            try:
                opened.append(_listen_one(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error  # a machine without IPv6 is no obstacle, as long as there is another address
    except OSError:
        for each in opened:
            each.close()
        raise
    if not opened and missing is not None:
        raise missing
    return opened


def _listen_one(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port whose last connections linger in TIME_WAIT is free: a manager that restarts has its port at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # on Linux only this finds out that somebody else listens there
    except OSError:
        listener.close()
        raise
    return listener


def _explained(error: OSError, host: str | None, port: int, flag: str) -> AddressError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressError(
            f"port {port} needs rights that this user lacks: use --port 8443 --client-port 8444, or allow it with "
            f"'sudo sysctl net.ipv4.ip_unprivileged_port_start={port}'"
        )
    if error.errno == errno.EADDRINUSE:
        return AddressError(f"port {port} is in use on this machine: stop what uses it, or choose another with {flag}")
    if error.errno == errno.EADDRNOTAVAIL:
        return _foreign(host)
    where = join_address(host or "*", port)
    return AddressError(f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}")


def _foreign(host: str | None) -> AddressError:
    return AddressError(
        f"{host!r} is not an address of this machine: leave --host out to listen on all (the address that join files "
        f"carry is another matter: python -m starcore.certs init --host {host})"
    )
