"""A whole star on this machine: the embedded default, and a context manager for tests, notebooks, benchmarks.

::

    this process ──TLS on loopback──▶ manager (child) ◀──TLS on loopback── workers (children) ─▶ slots

The children are the same programs that run anywhere else, with throw-away credentials in a directory of mode
0700. They hang on a *lifeline*: a pipe whose writing end only this process holds, for a forked child lets go of it.
Whatever ends this process, kill -9 included, closes the pipe; the children see it, remove the directory and leave.
They do not belong to the terminal's foreground group, so Ctrl-C is this process's business alone.

Starting takes as long as the slowest chain of imports, not their sum: this process opens the manager's sockets, so
everybody's address is known before anybody runs; manager and workers start at once and load their modules, wait at a
*gate* until the credentials are made, and whoever dials early waits in the backlog; meanwhile the client is loaded::

    this process  ─ sockets ─┬─ credentials ─ gate ─ import client, numpy ─┬─ ready ──────
    manager                  └─ imports ───────▏──── listens ──────────────┘   ▲
    worker                   └─ imports ───────▏──── slot starts, dials ───────┘
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from starcore import certificates, settings
from starcore.errors import ArgumentValueError, SetupError

if TYPE_CHECKING:
    from starcore.client.api import Client

BACKLOG = 128
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 5.0
FAREWELL_SECONDS_MAX = 1.0
"""How long a client may take to leave before the star goes down around it."""
_HOST = "127.0.0.1"


class LocalStar:
    """A manager and workers as child processes of this one.

    Parameters
    ----------
    workers : int, default 2
        How many worker processes (supervisors).
    slots : int, default 1
        Slots of each worker; a slot is a process that runs one task at a time.
    worker_options : sequence of str, optional
        More command-line options for ``python -m starcore.worker``.
    manager_options : sequence of str, optional
        More command-line options for ``python -m starcore.manager``.
    log_level : str, default "warning"
        What the children write to this process's stderr.

    Examples
    --------
    >>> with starcore.LocalStar(workers=2, slots=1) as star:
    ...     with star.client() as client:
    ...         client.submit(pow, 2, 10).result()
    1024
    """

    _listen_host = _HOST

    def __init__(
        self,
        workers: int = 2,
        slots: int = 1,
        *,
        worker_options: tuple[str, ...] | list[str] = (),
        manager_options: tuple[str, ...] | list[str] = (),
        log_level: str = "warning",
    ) -> None:
        if workers < 0 or slots < 1:
            raise ArgumentValueError(f"a local star needs workers >= 0 and slots >= 1, not {workers} and {slots}")
        self._slots = slots
        self._worker_options = list(worker_options)
        self._log_level = log_level
        self._owner = os.getpid()
        self._closed = False
        self._clients: list[Client] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lifeline, self._lifeline_end = os.pipe()
        _stars.add(self)
        self.directory = Path(tempfile.mkdtemp(prefix="starcore-"))
        try:
            self._start(workers, list(manager_options))
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where clients dial: ``host:port``."""
        return f"{_HOST}:{self.client_port}"

    @property
    def worker_address(self) -> str:
        """Where workers dial: ``host:port``."""
        return f"{_HOST}:{self.port}"

    @property
    def pids(self) -> dict[str, Any]:
        """The children: ``{"manager": pid, "workers": [pid, ...]}``; slots are children of their worker."""
        return {"manager": self._manager.pid, "workers": [worker.pid for worker in self._workers]}

    def join_file(self, role: str) -> Path:
        """Return the join file of ``"worker"`` or ``"client"``, for processes that are not this star's children."""
        return self.directory / f"{role}.join"

    def client(self, *, wait: bool = True, **options: Any) -> Client:
        """Return a new client of this star.

        Parameters
        ----------
        wait : bool, default True
            Return when every worker's slots are there.
        **options
            As for `starcore.Client`.

        Raises
        ------
        SetupError
            The star is closed, a child ended, or the workers did not join within 30 s.
        """
        if self._closed:
            raise SetupError("this local star is closed; start another one")
        options.setdefault("join", self.join_file("client"))
        client: Client = import_module("starcore.client.api").Client(self.address, **options)
        self._clients.append(client)
        if wait:
            self._wait_for_slots(client)
        return client

    def start_worker(self, *options: str) -> int:
        """Start one more worker and return its pid."""
        if self._closed or os.getpid() != self._owner:
            raise SetupError("this local star is closed, or belongs to the process that this one was forked from")
        return self._start_worker(list(options))

    def close(self) -> None:
        """End the children and remove the directory; does nothing in a forked child, or the second time."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        _stars.discard(self)
        for client in self._clients:
            with contextlib.suppress(Exception):
                _abandon(client)
        self._cut_lifeline()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        children = [*self._workers, *([self._manager] if hasattr(self, "_manager") else [])]
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> LocalStar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- private ---------------------------------------------------------------------------------------------

    def _cut_lifeline(self) -> None:
        for descriptor in (self._lifeline_end, self._lifeline):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _start(self, workers: int, manager_options: list[str]) -> None:
        """Start everybody at once, and return when the manager listens."""
        reading, writing = os.pipe()
        gate, gate_end = os.pipe()
        listeners = [socket.create_server((self._listen_host, 0), backlog=BACKLOG) for _ in range(2)]
        self.port: int = listeners[0].getsockname()[1]
        self.client_port: int = listeners[1].getsockname()[1]
        with open(reading, "rb") as ready, open(gate_end, "wb") as opening:
            try:
                self._start_manager(manager_options, listeners, writing, gate)
                for _ in range(workers):
                    self._start_worker([], gate)
            finally:
                for descriptor in (writing, gate):
                    os.close(descriptor)
                for listener in listeners:
                    listener.close()
            certificates.create_star(self.directory, host=_HOST)
            opening.write(b"." * (1 + workers))
            opening.close()
            import_module("starcore.client.api")
            self._wait_for_manager(ready)

    def _start_manager(
        self, options: list[str], listeners: list[socket.socket], ready: int, gate: int | None = None
    ) -> None:
        sockets = [listener.fileno() for listener in listeners]
        command = [sys.executable, "-m", "starcore.manager", "--star", str(self.directory), "--host", _HOST]
        command += ["--listen-fds", ",".join(map(str, sockets)), "--log-level", self._log_level, "--ephemeral"]
        command += ["--lifeline", str(self._lifeline), "--ready-fd", str(ready), *_gated(gate), *options]
        self._manager = _spawn(command, self._lifeline, ready, gate, *sockets)

    def _start_worker(self, options: list[str], gate: int | None = None) -> int:
        command = [sys.executable, "-m", "starcore.worker", "--join", str(self.join_file("worker"))]
        command += ["--manager", self.worker_address, "--slots", str(self._slots), "--log-level", self._log_level]
        command += ["--lifeline", str(self._lifeline), *_gated(gate), *self._worker_options, *options]
        self._workers.append(_spawn(command, self._lifeline, gate))
        return self._workers[-1].pid

    def _wait_for_manager(self, ready: BinaryIO) -> None:
        waiting = select.poll()  # select() knows no descriptor beyond 1,023
        waiting.register(ready, select.POLLIN)
        if not waiting.poll(START_SECONDS_MAX * 1000):
            raise SetupError(f"the local manager did not start within {START_SECONDS_MAX:.0f} s")
        if not ready.readline():
            raise SetupError(f"the local manager ended with exit code {self._manager.wait()}; its reason stands above")

    def _wait_for_slots(self, client: Client) -> None:
        wanted = len(self._workers) * self._slots
        deadline = time.monotonic() + START_SECONDS_MAX
        while client.slots < wanted:
            for worker in self._workers:
                if worker.poll() is not None:
                    raise SetupError(f"a local worker ended with {worker.returncode}; its reason stands above")
            if time.monotonic() > deadline:
                raise SetupError(f"only {client.slots} of {wanted} slots joined within {START_SECONDS_MAX:.0f} s")
            time.sleep(0.005)


def _abandon(client: Client) -> None:
    """End a client's session, whatever is outstanding: nobody is left to do it."""
    client.shutdown(wait=False, cancel_futures=True)
    if client._session is not None:
        client._session.end(abandon=True)
        client._session.join(FAREWELL_SECONDS_MAX)


_default_lock = threading.Lock()
_default: LocalStar | None = None


def start_default() -> Client:
    """Start the star that the module-level calls use where nothing is configured, and say so once."""
    global _default  # noqa: PLW0603 - one embedded star a process
    with _default_lock:
        if _default is None or _default._owner != os.getpid():
            slots = settings.usable_cores()
            sys.stderr.write(
                "starcore: no manager is configured and none runs on this machine, so a local star with "
                f"{slots} slot{'s' if slots > 1 else ''} was started; it ends with this process\n"
            )
            _default = LocalStar(workers=1, slots=slots)
            atexit.register(_close_at_exit, _default)
        return _default.client(wait=False)


def _close_at_exit(star: LocalStar) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # said twice: the lifeline ends with this process anyway
        star.close()


def _gated(gate: int | None) -> list[str]:
    return [] if gate is None else ["--gate", str(gate)]


def _spawn(command: list[str], *descriptors: int | None) -> subprocess.Popen[bytes]:
    passed = [descriptor for descriptor in descriptors if descriptor is not None]
    return subprocess.Popen(command, pass_fds=passed, start_new_session=True, env=_environment())


def _environment() -> dict[str, str]:
    """The children's environment: nothing in it may lead them to another star."""
    strays = ("STARCORE_JOIN", "STARCORE_MANAGER")
    return {k: v for k, v in os.environ.items() if k not in strays and not k.startswith("STARCOMPUTE_")}


# -- forks ---------------------------------------------------------------------------------------------------

_stars: weakref.WeakSet[LocalStar] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child may outlive its parent; the parent's star must not."""
    global _default_lock  # noqa: PLW0603 - whoever held it stayed in the parent
    _default_lock = threading.Lock()
    for star in list(_stars):
        star._cut_lifeline()
    _stars.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
