"""How a client reaches its manager: whose loop, what it says of itself, and one TLS connection after another.

When to dial is the core's decision (`Dial`); why it failed goes back to it as `Lost`, and as an error of ours with
one sentence for people to whoever waits for the first WELCOME.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
import secrets
import socket
import ssl
from collections.abc import Callable

import numpy as np

from starcore import __version__, connecting, settings, tls
from starcore.client.core import FIRST_WINDOW_BYTES, RESULT_BYTES
from starcore.driver import Driver
from starcore.errors import CredentialsError, SetupError, StarCoreError, UnconfiguredError, UnreachableError
from starcore.events import Lost, Peer
from starcore.messages import PROTOCOL_VERSION, Hello, Role

Resolve = Callable[[], tls.Target]

_log = logging.getLogger("starcore.client")

DIAL_SECONDS = 10.0
"""How long one attempt may take, name resolution and handshake included."""
BRISK_SECONDS = 1.5
"""
A packet that is lost while the link is down is sent again only after a while that doubles; so is a question to a name
server. An attempt that takes longer than this is left alone, and gets others beside it that begin afresh. A SYN is
sent again after one second, which one that was lost just before the link's return should live to see.
"""


class Dialer:
    """Makes the connections of one session, one at a time, in the loop's thread.

    Parameters
    ----------
    target : tls.Target
        Where, and as whom.
    context : ssl.SSLContext
        Made from the target's identity.
    resolve : callable
        Says it again, before each attempt: a join file may be renewed, a manager may be elsewhere. While it fails,
        what it said last holds.
    driver : Driver
        Whose links they become.
    loop : asyncio.AbstractEventLoop
        The loop.
    trouble : callable
        Told why a connection was not made, or ended before its WELCOME.
    """

    def __init__(
        self,
        target: tls.Target,
        context: ssl.SSLContext,
        resolve: Resolve,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        trouble: Callable[[StarCoreError], None],
    ) -> None:
        self._target = target
        self._context = context
        self._resolve = resolve
        self._driver = driver
        self._loop = loop
        self._trouble = trouble
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._reached: tuple[str, str] | None = None
        """A host, and the address at which it answered last."""

    def dial(self, delay_seconds: float, reason: str) -> None:
        """Dial after a while; `reason` is what the last connection died of."""
        if reason:
            self._trouble(_as_error(reason, self._target))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_seconds, self._start)

    def stop(self) -> None:
        """Dial no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._timer = None
        if self._task is None:
            self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        failure: BaseException | None = None
        try:
            self._look_again()
            await self._race()
        except Exception as error:  # whatever it is, the core has to hear of it, or nobody dials again
            failure = error
        self._task = None
        if failure is not None:
            trouble = tls.as_error(failure, self._target)
            self._trouble(trouble)
            self._driver.feed(Lost(0, str(trouble)))

    def _look_again(self) -> None:
        """Take in a join file that was renewed."""
        try:
            target = self._resolve()
            if target.identity != self._target.identity:
                self._context = tls.dial_context(target.identity)
        except SetupError as error:
            _log.info("starcore: dialing as before: %s", error)
        else:
            self._target = target

    async def _race(self) -> None:
        """One patient attempt, for a manager that is slow; and beside it brisk ones, for a link that comes back."""
        patient = self._loop.create_task(self._attempt_by_name())
        brisk = self._loop.create_task(self._attempt_afresh())
        try:
            await asyncio.wait((patient, brisk), timeout=DIAL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if patient.done():
                patient.result()
            elif not brisk.done():
                raise TimeoutError
        finally:
            patient.cancel()
            brisk.cancel()
            await asyncio.wait((patient, brisk))

    async def _attempt_by_name(self) -> None:
        """Where no name server answers, the address will do at which the manager was last."""
        host = self._target.host
        try:
            await self._attempt(host)
        except socket.gaierror:
            if self._last_address() == host:
                raise
            await self._attempt(self._last_address())

    async def _attempt_afresh(self) -> None:
        """Begin anew as long as there is no answer, without a name server; what fails is the other's to tell."""
        delay = BRISK_SECONDS
        while True:
            await asyncio.sleep(delay)
            began = self._loop.time()
            try:
                await asyncio.wait_for(self._attempt(self._last_address()), BRISK_SECONDS)
            except Exception:
                delay = max(0.0, began + BRISK_SECONDS - self._loop.time())
            else:
                return

    def _last_address(self) -> str:
        """Where the manager answered last; its name where it never did."""
        host = self._target.host
        return self._reached[1] if self._reached is not None and self._reached[0] == host else host

    async def _attempt(self, address: str) -> None:
        target = self._target
        link, _ = await connecting.dial(
            self._loop,
            lambda: self._driver.connection(self._identify),
            address,
            target.port,
            self._context,
            target.identity.server_name,
        )
        peer = link.get_extra_info("peername")
        if peer:  # else it is closed again already
            self._reached = target.host, peer[0]

    def _identify(self, ssl_object: ssl.SSLObject | ssl.SSLSocket, address: str) -> Peer:
        try:
            return tls.identify(self._target.identity, Role.MANAGER, ssl_object, address)
        except CredentialsError as error:
            self._trouble(error)
            raise


def find(address: str | None, join: str | os.PathLike[str] | None) -> tuple[tls.Target, Resolve]:
    """Return where a client's manager is, and what says so later; where nothing does, a local star is started.

    Raises
    ------
    UnconfiguredError, CredentialsError, AddressError
        An address or a join file was given, and there is no manager by it.
    """

    def resolve() -> tls.Target:
        return settings.dialer(Role.CLIENT, join=join, address=address)

    try:
        return resolve(), resolve
    except UnconfiguredError:
        if address is not None or join is not None:
            raise
    # The roof of the house stands above this room, and is only looked for where nothing else is configured.
    with importlib.import_module("starcore.local").start_default() as client:
        return client._target, client._resolve


def hello(target: tls.Target) -> Hello:
    """What a new session says of itself."""
    return Hello(
        version=PROTOCOL_VERSION,
        role=Role.CLIENT,
        session=secrets.token_bytes(16),
        name=target.identity.name,
        host=socket.gethostname(),
        pid=os.getpid(),
        software=f"starcore {__version__}",
        python=platform.python_version(),
        numpy=np.__version__,
        first_window_bytes=FIRST_WINDOW_BYTES,
        result_bytes=RESULT_BYTES,
    )


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return an event loop: "uvloop", "asyncio", or what ``STARCORE_LOOP`` says and else is there ("auto")."""
    if kind == "auto":
        kind = os.environ.get("STARCORE_LOOP", "") or "auto"
    if kind != "asyncio":
        try:
            loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            return loop
    return asyncio.SelectorEventLoop()  # what Windows takes unasked knows no readiness of sockets


def _as_error(reason: str, target: tls.Target) -> StarCoreError:
    """What a connection that ended before its WELCOME died of; TLS 1.3 tells a refusal only then."""
    if "SSL" in reason and "EOF" not in reason:
        return tls.as_error(ssl.SSLError(1, reason), target)
    return UnreachableError(f"the manager at {target.address} closed the connection before it said WELCOME: {reason}")
