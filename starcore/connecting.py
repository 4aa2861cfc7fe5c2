"""From an address, or from a socket that was accepted, to TLS: what `transport.py` takes over from there.

A loop's own `create_connection` keeps its sockets to itself; OpenSSL shall have this one.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from starcore.proxies import Proxy, tunnel
from starcore.tls import join_address
from starcore.transport import TLSTransport, reset

HANDSHAKE_SECONDS_MAX = 60.0

_AWAY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH)
"""What an address of a family says that this machine has no way to."""
_Protocol = TypeVar("_Protocol", bound=asyncio.BufferedProtocol)


class _Handshake:
    """One socket's way to TLS."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: ssl.SSLSocket) -> None:
        self._loop = loop
        self._sock = sock
        self._over: asyncio.Future[None] = loop.create_future()
        self._reading = self._writing = False

    async def done(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._too_late, seconds)
        try:
            self._step()
            await self._over
        finally:
            timer.cancel()
            self._watch(False, False)

    def _step(self) -> None:
        if self._over.done():
            return
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(True, False)
        except ssl.SSLWantWriteError:
            self._watch(False, True)
        except ssl.SSLCertVerificationError as error:  # which is a ValueError as well
            self._fail(error)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ValueError) as error:
            self._fail(reset(error))
        except OSError as error:
            self._fail(reset(error) if error.errno == errno.ENOTCONN else error)
        else:
            self._over.set_result(None)

    def _too_late(self, seconds: float) -> None:
        if not self._over.done():
            self._fail(ConnectionAbortedError(f"the TLS handshake took longer than {seconds:g} s"))

    def _fail(self, error: OSError) -> None:
        # With its traceback, the error would tie this frame, and so all memory of the connection, into a circle.
        self._over.set_exception(error.with_traceback(None))

    def _watch(self, bytes_: bool, room: bool) -> None:
        """Have the next step made when there is something to read, or room to write."""
        loop, number = self._loop, self._sock.fileno()
        if bytes_ is not self._reading:
            loop.add_reader(number, self._step) if bytes_ else loop.remove_reader(number)
        if room is not self._writing:
            loop.add_writer(number, self._step) if room else loop.remove_writer(number)
        self._reading, self._writing = bytes_, room


async def secure(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], _Protocol],
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    seconds: float = HANDSHAKE_SECONDS_MAX,
) -> tuple[TLSTransport, _Protocol]:
    """See a connected socket through TLS; it is closed if that fails.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The running loop.
    factory : callable
        Makes the protocol.
    sock : socket.socket
        Connected; it belongs to the transport from here on.
    context : ssl.SSLContext
        Whether it listens or dials follows from `server_hostname`.
    server_hostname : str, optional
        Whom a dialer wants to reach; None for the end that was dialed.
    seconds : float, default 60
        How long the handshake may take.

    Raises
    ------
    OSError
        The connection ended before TLS stood; as an ssl.SSLError, one of the two refuses the other, or the peer speaks
        no TLS; as a ConnectionAbortedError, it took longer than `seconds`.
    """
    try:
        sock.setblocking(False)
        wrapped = context.wrap_socket(
            sock,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
    except (OSError, ValueError) as error:
        sock.close()
        raise reset(error) from error
    protocol = factory()
    try:
        await _Handshake(loop, wrapped).done(seconds)
    except BaseException:
        wrapped.close()
        raise
    transport = TLSTransport(loop, wrapped, protocol)
    transport.begin()
    return transport, protocol


async def dial(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], _Protocol],
    host: str,
    port: int,
    context: ssl.SSLContext,
    server_hostname: str,
    proxy: Proxy | None = None,
) -> tuple[TLSTransport, _Protocol]:
    """Connect to the first address of `host` that answers, or to what a proxy finds by it, and see it through TLS.

    Raises
    ------
    OSError
        None of them did, or as of `secure`.
    UnreachableError
        The proxy did not, or made no way.
    """
    if proxy is None:
        sock = await _connect(loop, host, port)
    else:
        sock = await _connect_by(loop, proxy, join_address(host, port))
    return await secure(loop, factory, sock, context, server_hostname=server_hostname)


async def _connect_by(loop: asyncio.AbstractEventLoop, proxy: Proxy, address: str) -> socket.socket:
    try:
        sock = await _connect(loop, proxy.host, proxy.port)
    except OSError as error:
        raise proxy.unreachable(error) from error
    try:
        await tunnel(loop, sock, proxy, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failures: list[OSError] = []
    for family, kind, number, _, address in found:
        sock = None
        try:
            sock = socket.socket(family, kind, number)
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as error:
            failures.append(error)
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            return sock
    if not failures:
        raise OSError(f"no address is known for {host!r}")
    raise next((error for error in failures if error.errno not in _AWAY), failures[0])
