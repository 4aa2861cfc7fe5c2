"""Where a client's manager is, what a session says of itself to it, and whose loop it runs on.

The connections are `starcore.dialing`'s.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import secrets
import socket

import numpy as np

from starcore import __version__, settings, tls
from starcore.client.core import FIRST_WINDOW_BYTES, RESULT_BYTES
from starcore.dialing import Resolve
from starcore.errors import SetupError, UnconfiguredError
from starcore.messages import PROTOCOL_VERSION, Hello, Role
from starcore.texts import NAME_CHARS_MAX, plain

_LOOPS = ("auto", "asyncio", "uvloop")


def find(address: str | None, join: str | os.PathLike[str] | None) -> tuple[tls.Target, Resolve, bool]:
    """Return where a client's manager is, what says so later, and whether it ends with this process.

    Where nothing says so, a local star is started, which does.

    Raises
    ------
    UnconfiguredError, CredentialsError, AddressError
        An address or a join file was given, and there is no manager by it.
    """

    def resolve() -> tls.Target:
        return settings.dialer(Role.CLIENT, join=join, address=address)

    try:
        return resolve(), resolve, False
    except UnconfiguredError:
        if address is not None or join is not None:
            raise
    # The roof of the house stands above this room, and is only looked for where nothing else is configured.
    with importlib.import_module("starcore.local").start_default() as client:
        return client._target, client._resolve, True


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
    """Return an event loop: "uvloop", "asyncio", or what ``STARCORE_LOOP`` says and else is there ("auto").

    Raises
    ------
    SetupError
        ``STARCORE_LOOP`` says something else.
    """
    if kind == "auto":
        kind = os.environ.get("STARCORE_LOOP", "") or "auto"
        if kind not in _LOOPS:
            said = plain(kind, NAME_CHARS_MAX)
            raise SetupError(f"STARCORE_LOOP is {said}: set it to auto, asyncio or uvloop, or unset it")
    if kind != "asyncio":
        try:
            loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            return loop
    return asyncio.SelectorEventLoop()  # what Windows takes unasked knows no readiness of sockets
