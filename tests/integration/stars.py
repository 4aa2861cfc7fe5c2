"""A local star that can be looked into and hurt: its log is kept, its processes are counted, its manager restarts.

After every test the star must be *quiet*: nothing queued, leased, unread or held at the manager, no traceback in any
log, and, once it is closed, not one process left of all that it ever started. Processes are recognised by a mark in
their environment, so one that lost its parent is found as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starcore import LocalStar
from starcore.client.api import Client

MARK = "STARCORE_TEST_STAR"
WAIT_SECONDS = 10.0


def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Wait until a condition holds; return what it said."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The living children of a process."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class TriedStar(LocalStar):
    """A local star for tests.

    Parameters
    ----------
    directory : path
        Where its log goes.
    workers, slots, options
        As for `LocalStar`; `manager_options` and `worker_options` are for all of its processes.
    variables : dict of str, optional
        More environment variables of all its processes.
    """

    def __init__(
        self,
        directory: Path,
        workers: int = 2,
        slots: int = 1,
        variables: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.log_path = directory / "star.log"
        self.mark = uuid.uuid4().hex
        self._variables = {**(variables or {}), MARK: self.mark}
        self._manager_options = list(options.get("manager_options", ()))
        options.setdefault("log_level", "info")
        with self._logged():
            super().__init__(workers, slots, **options)

    # -- hurting it ------------------------------------------------------------------------------------------

    def kill_manager(self) -> None:
        """Kill -9."""
        self._manager.kill()
        self._manager.wait()

    def restart_manager(self) -> None:
        """Start a manager again, on the same ports and with the same credentials."""
        reading, writing = os.pipe()
        with self._logged(), open(reading, "rb") as ready, contextlib.ExitStack() as stack:
            ports = (self.port, self.client_port)
            listeners = [stack.enter_context(socket.create_server(("127.0.0.1", port))) for port in ports]
            self._start_manager(self._manager_options, listeners, writing)
            os.close(writing)
            self._wait_for_manager(ready)

    def start_worker(self, *options: str) -> int:
        """Start one more worker and return its pid."""
        with self._logged():
            return super().start_worker(*options)

    def start_program(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program that belongs to this star: its errors stand in the log, and it carries the mark."""
        with self._logged():
            return subprocess.Popen(command, **options)

    def kill_worker(self, pid: int, number: int = signal.SIGKILL) -> list[int]:
        """Kill -9 a supervisor; return the slots that it had."""
        slots = children(pid)
        process = next(worker for worker in self._workers if worker.pid == pid)
        os.kill(pid, number)
        process.wait(WAIT_SECONDS)
        self._workers.remove(process)
        return slots

    @property
    def worker_pids(self) -> list[int]:
        """The supervisors."""
        return list(self.pids["workers"])

    # -- looking into it -------------------------------------------------------------------------------------

    def log(self) -> str:
        """All that its processes have said so far."""
        return self.log_path.read_text(errors="replace")

    def processes(self) -> list[int]:
        """Every living process that this star ever started."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and needle in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def check_quiet(self, observer: Client | None = None) -> dict[str, Any]:
        """End all other clients, assert that nothing is left of what was done here; return the last status."""
        if observer is None:
            with self.client(wait=False) as client:
                return self.check_quiet(client)
        for client in self._clients:
            if client is not observer:
                ending = threading.Thread(target=client.shutdown, daemon=True)
                ending.start()
                ending.join(WAIT_SECONDS)
                assert not ending.is_alive(), f"a client with outstanding tasks: {observer.status()}"
        self._clients = [observer]
        status: dict[str, Any] = {}

        def quiet() -> bool:
            nonlocal status
            status = observer.status()
            clients, workers = status["clients"], status["workers"]
            return (
                not any(client["queued"] or client["leased"] or client["unread"] for client in clients)
                and not any(worker["leased"] or worker["running"] or worker["arena_used_bytes"] for worker in workers)
                and not status["jobs"]
                and not status["held_bytes"]
            )

        with contextlib.suppress(AssertionError):
            until(quiet, "quiet", 5)
        assert quiet(), status
        return status

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Whoever is started in here writes to the log, and carries the mark."""
        saved, found = os.dup(2), {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)
        try:
            with self.log_path.open("ab", buffering=0) as log:
                os.dup2(log.fileno(), 2)
                yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            for name, value in found.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def tried_star(directory: Path, workers: int = 2, slots: int = 1, **options: Any) -> Iterator[TriedStar]:
    """A star for one test, or for many; afterwards it must be quiet, and leave nothing."""
    star = TriedStar(directory, workers, slots, **options)
    try:
        yield star
        star.check_quiet()
    finally:
        star.close()
        left = star.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left, f"processes that outlived their star: {left}\n{star.log()[-4000:]}"
    log = star.log()
    assert "Traceback" not in log, log[-8000:]
    assert "fault of our own" not in log, log[-8000:]
    assert not star.directory.exists()
