"""The client as callers see it: `Client`, an Executor.

Not here: its calls (`calls.py`), the module-level ones (`starcore/default.py`), the wire, threads and futures' fates
(`session.py`).
"""

from __future__ import annotations

import os
import threading
import weakref

from starcore.client.arguments import seconds_above_zero
from starcore.client.blocks import AutoFuture
from starcore.client.calls import Calls
from starcore.client.dialing import find
from starcore.client.endings import wait_for_end
from starcore.client.session import CONNECT_SECONDS, Session
from starcore.errors import SessionLostError, UnconfiguredError


class Client(Calls):
    """A session with a manager: a `concurrent.futures.Executor` whose workers may be anywhere.

    It may be used from many threads, inside a running event loop (`asyncio.wrap_future`; a call never blocks on
    the network), and after a fork, where the child opens a session of its own at its next call. A connection that
    breaks is made again for ever; futures just wait. Callbacks of futures run in the session's own thread: keep
    them short.

    A Ctrl-C while it waits (in a future's `result` or `exception`, in `wait` or `as_completed`, in the iterator of
    `map`, in `run`, in `shutdown`, or when it leaves a ``with`` block) cancels all of its calls that are not done, also
    those that run, and is then raised as ever; a second one leaves at once. Elsewhere it does nothing to the calls.

    Parameters
    ----------
    address : str, optional
        ``"host:port"`` of the manager's client port. Without one: the configured manager, else the one that runs on
        this machine, else a local star, which is started.
    join : path, optional
        The join file; else ``STARCORE_JOIN`` and the other places that `starcore.settings` lists.
    trust_results : bool, default True
        Whether answers that are pickled are unpickled, which lets a worker run code here. Arrays, numbers, texts
        and containers of them never need it.
    connect_seconds : float, default 10
        How long the first connection may take, in seconds.
    loop : {"auto", "uvloop", "asyncio"}
        The event loop of the background thread.

    Raises
    ------
    UnreachableError
        Nobody answers there.
    CredentialsError
        The join file, or the manager's certificate, is not right.
    RefusedError
        The manager will not have this client.
    SetupError, AddressError
        The settings name no manager, or no good address.

    Examples
    --------
    >>> with starcore.Client("cloud.example.org:444", join="client.join") as client:
    ...     client.submit_array(numpy.fft.fft2, image).result()
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        join: str | os.PathLike[str] | None = None,
        trust_results: bool = True,
        connect_seconds: float = CONNECT_SECONDS,
        loop: str = "auto",
    ) -> None:
        self._client = self
        self._trust = trust_results
        self._connect_seconds = seconds_above_zero("connect_seconds", connect_seconds)
        self._loop = loop
        self._lock = threading.RLock()
        self._shut = False
        self._session: Session | None = None
        self._growing: weakref.WeakSet[AutoFuture] = weakref.WeakSet()
        self._target, self._resolve, self._passing = find(address, join)
        self._live()
        _clients.add(self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the session when those made are done.

        Parameters
        ----------
        wait : bool, default True
            Return only then.
        cancel_futures : bool, default False
            Cancel the calls that are not known to run yet.
        """
        with self._lock:
            self._shut = True
            session = self._session
        if session is None:
            return
        for growing in list(self._growing):
            growing.rush()
        session.end(abandon=False)
        if cancel_futures:
            for future in session.pending():
                (future.parent or future).cancel()
        if wait:
            wait_for_end(session)

    def _interrupt(self) -> None:
        """A ``with`` block is left by Ctrl-C."""
        if self._session is not None:
            self._session.interrupt()

    def _live(self) -> Session:
        """The session, opened anew after a fork."""
        session = self._session
        if session is not None:
            return session
        with self._lock:
            if self._shut:
                raise SessionLostError("the client was shut down")
            if self._session is None:
                self._session = Session(
                    self._target,
                    resolve=self._resolve,
                    trust_results=self._trust,
                    connect_seconds=self._connect_seconds,
                    loop=self._loop,
                )
            return self._session

    def _lasting(self) -> Session:
        """The session, where its manager outlives this process: what else is detached would be lost in silence."""
        if self._passing:
            raise UnconfiguredError(
                "a detached job needs a manager that stays, and the star that was started here ends with this process: "
                "start one (python -m starcore.manager --journal DIR), or name one that runs (starcore.connect)"
            )
        return self._live()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._session = None
        self._growing = weakref.WeakSet()


# -- forks ---------------------------------------------------------------------------------------------------

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
