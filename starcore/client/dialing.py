"""How a client reaches its manager: whose loop, what it says of itself, and one TLS connection after another.

When to dial is the core's decision (`Dial`); why it failed goes back to it as `Lost`, and as an error of ours with
one sentence for people to whoever waits for the first WELCOME.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import secrets
import socket
import ssl
from collections.abc import Callable
from typing import cast

import numpy as np

from starcore import __version__, settings, tls
from starcore.client.core import FIRST_WINDOW_BYTES, RESULT_BYTES
from starcore.driver import Driver
from starcore.errors import CredentialsError, StarCoreError, UnconfiguredError, UnreachableError
from starcore.events import Lost, Peer
from starcore.messages import PROTOCOL_VERSION, Hello, Role

DIAL_SECONDS = 10.0
"""How long one attempt may take, name resolution and handshake included."""


class Dialer:
    """Makes the connections of one session, one at a time, in the loop's thread.

    Parameters
    ----------
    target : tls.Target
        Where, and as whom.
    context : ssl.SSLContext
        Made from the target's identity.
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
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        trouble: Callable[[StarCoreError], None],
    ) -> None:
        self._target = target
        self._context = context
        self._driver = driver
        self._loop = loop
        self._trouble = trouble
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

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
        target = self._target
        connecting = self._loop.create_connection(
            lambda: self._driver.connection(self._identify),
            target.host,
            target.port,
            ssl=self._context,
            server_hostname=target.identity.server_name,
        )
        failure: BaseException | None = None
        try:
            await asyncio.wait_for(connecting, DIAL_SECONDS)
        except asyncio.TimeoutError:
            failure = TimeoutError()
        except Exception as error:  # whatever it is, the core has to hear of it, or nobody dials again
            failure = error
        self._task = None
        if failure is not None:
            trouble = tls.as_error(failure, target)
            self._trouble(trouble)
            self._driver.feed(Lost(0, str(trouble)))

    def _identify(self, ssl_object: ssl.SSLObject | ssl.SSLSocket, address: str) -> Peer:
        try:
            return tls.identify(self._target.identity, Role.MANAGER, ssl_object, address)
        except CredentialsError as error:
            self._trouble(error)
            raise


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
    return asyncio.new_event_loop()


def _as_error(reason: str, target: tls.Target) -> StarCoreError:
    """What a connection that ended before its WELCOME died of; TLS 1.3 tells a refusal only then."""
    if "SSL" in reason and "EOF" not in reason:
        return tls.as_error(ssl.SSLError(1, reason), target)
    return UnreachableError(f"the manager at {target.address} closed the connection before it said WELCOME: {reason}")


def find_target(address: str | None, join: str | os.PathLike[str] | None) -> tls.Target:
    """Say where to dial, as whom; where nothing is configured, start a local star and dial that. Raises SetupError."""
    try:
        return settings.dialer(Role.CLIENT, join=join, address=address)
    except UnconfiguredError:
        if address is not None or join is not None:
            raise
    # The roof of the house stands above this room, and is only looked for where nothing else is configured.
    with importlib.import_module("starcore.local").start_default() as star_client:
        return cast("tls.Target", star_client._target)
