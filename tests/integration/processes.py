"""Managers, workers and clients as real processes, for the tests of this directory.

A `Place` is one user on one machine: a config directory, a runtime directory, an environment, and the programs that
were started there. `Program` is one of them: its log is a file, `wait_for` waits for a line in it, and whatever a
test does, `Place.close` ends every program by its own process group. Nothing here ever touches the real home.

::

    place.manager()                     --host 127.0.0.1 --port 0 --client-port 0, and waits until it listens
    place.worker("--slots", "2")        dials the manager that runs in this place, and waits until it is in
    place.python("print(1)")            a caller of its own, run to its end
    with place.client() as client:      a client in the test's own process
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starcore import Client

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
_ADDRESS = r"(?:port |\S*:)(?P<{}>\d+)(?: of every address)?"
LISTENING = f"listening: workers on {_ADDRESS.format('worker')}, clients on {_ADDRESS.format('client')}"


def eventually(true: Callable[[], Any], what: str, seconds: float = START_SECONDS_MAX) -> Any:
    """Return what `true` gives as soon as it is true; fail after `seconds`, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


def free_ports(count: int = 2, host: str = "127.0.0.1") -> list[int]:
    """Ports that are free now: for tests that have to name a port before anybody listens."""
    holders = [socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)]
    holders += [socket.create_server((host, 0), family=holders[0].family) for _ in range(count - 1)]
    try:
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The living children of a process, and theirs."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found.setdefault(int(fields[1]), []).append(int(path.parent.name))
    below, waiting = [], [pid]
    while waiting:
        waiting += (young := found.get(waiting.pop(), []))
        below += young
    return [each for each in below if alive(each)]


class Program:
    """A process of its own group, whose output (both streams) goes to a file."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: dict[str, str], **options: Any) -> None:
        self.path = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True, **options
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, pattern: str, seconds: float = START_SECONDS_MAX) -> re.Match[str]:
        """Wait until a line of the log matches; fail at once when the process ends before."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.running
            if found := re.search(pattern, self.log, re.MULTILINE):
                return found
            assert running, f"it ended with {self.process.returncode} before it said {pattern!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"not said within {seconds:g} s: {pattern!r}\n{self.log}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds:g} s:\n{self.log}") from None

    def terminate(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Send SIGTERM and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Kill the process alone, as the machine's memory killer does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill what is left of the group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()


class Manager(Program):
    """A manager; its ports are known once it listens."""

    port = 0
    client_port = 0

    def listening(self) -> Manager:
        """Wait until it listens, and learn its ports from its log."""
        found = self.wait_for(LISTENING)
        self.port, self.client_port = int(found["worker"]), int(found["client"])
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def worker_address(self) -> str:
        return f"127.0.0.1:{self.port}"


class Place:
    """One user on one machine."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / "config"
        self.programs: list[Program] = []
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("STARCORE_", "STARCOMPUTE_", "COVERAGE"))}
        self.environment = {
            **clean,
            "STARCORE_CONFIG_DIR": str(self.config),
            "STARCORE_RUNTIME_DIR": str(directory / "run"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **variables,
        }

    # -- programs --------------------------------------------------------------------------------------------

    def start(self, *command: str, kind: type[Program] = Program, **options: Any) -> Any:
        """Start a program that runs until the test ends it, or ends."""
        number = len(self.programs)
        environment = {**self.environment, **options.pop("variables", {})}
        options.setdefault("cwd", self.directory)
        program = kind(command, log=self.directory / f"program-{number}.log", environment=environment, **options)
        self.programs.append(program)
        return program

    def manager(self, *options: str, ready: bool = True, **rest: Any) -> Manager:
        """Start a manager on free ports of 127.0.0.1 (options that are given later win), and wait until it listens."""
        command = [sys.executable, "-m", "starcore.manager", "--host", "127.0.0.1", "--port", "0", "--client-port", "0"]
        manager: Manager = self.start(*command, *options, kind=Manager, **rest)
        return manager.listening() if ready else manager

    def worker(self, *options: str, ready: bool = True, **rest: Any) -> Program:
        """Start a worker with one slot (options that are given later win), and wait until the manager took it in."""
        command = [sys.executable, "-m", "starcore.worker", "--slots", "1", "--arena", "256M", *options]
        worker: Program = self.start(*command, **rest)
        if ready:
            worker.wait_for("connected|joined")
        return worker

    def run(self, *command: str, seconds: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            command,
            env={**self.environment, **variables},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def starcore(self, *arguments: str, seconds: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `starcore ARGUMENTS` to its end."""
        return self.run(sys.executable, "-m", "starcore", *arguments, seconds=seconds, **variables)

    def python(self, code: str, *, seconds: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        return self.run(sys.executable, "-c", code, seconds=seconds, **variables)

    # -- files and clients -----------------------------------------------------------------------------------

    @property
    def star(self) -> Path:
        return self.config / "star"

    def issue(self, role: str, name: str, *options: str) -> Path:
        """Issue a join file with the command, and return its path."""
        path = self.directory / f"{name}.join"
        said = self.starcore("certs", "issue", role, name, "--out", str(path), *options)
        assert said.returncode == 0, said.stderr
        return path

    @contextlib.contextmanager
    def client(self, manager: Manager, **options: Any) -> Iterator[Client]:
        """A client in this process, with the join file of this place's own star; what it leaves undone is dropped."""
        options.setdefault("join", self.star / "client.join")
        client = Client(manager.address, **options)
        try:
            yield client
        finally:
            client.shutdown(wait=False, cancel_futures=True)
            if client._session is not None:
                client._session.end(abandon=True)
                client._session.join(STOP_SECONDS_MAX)

    def runtime_files(self) -> list[dict[str, Any]]:
        """What running managers left for their neighbours."""
        return [json.loads(path.read_text()) for path in (self.directory / "run").glob("manager-*.json")]

    def logs(self) -> str:
        """Every program's log, for a failing test."""
        return "".join(f"\n--- {program.process.args}\n{program.log}" for program in self.programs)

    def close(self) -> None:
        """End every program, the youngest first."""
        for program in reversed(self.programs):
            program.close()
