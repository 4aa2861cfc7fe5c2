"""dask.distributed as a star: one scheduler, workers of one thread, a client, mutual TLS 1.3, loopback.

What a star allows: the client reaches the scheduler and nobody else, so arrays are scattered and gathered through
it (``direct=False``), as they would be where no worker can be dialled. Nannies, dashboard, spilling and memory
limits are off; nothing else is tuned.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.credentials import Credentials, make_credentials
from benchmarks.harness import ROOT, child_environment
from benchmarks.tasks import Array, nothing, plus_one

START_SECONDS_MAX = 60


class DaskStar:
    """A scheduler and `workers` worker processes, started as commands; this process is the client."""

    name = "dask"

    def __init__(self, workers: int) -> None:
        self._distributed = importlib.import_module("distributed")
        self._workers = workers
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> DaskStar:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            credentials = make_credentials(directory)
            stack.callback(self._end)
            address = self._start_scheduler(directory, credentials)
            for _ in range(self._workers):
                self._start_worker(address, directory, credentials)
            security = self._distributed.Security(
                tls_ca_file=credentials.ca,
                tls_client_cert=credentials.certificate("client"),
                tls_client_key=credentials.key("client"),
                require_encryption=True,
            )
            self._client = self._distributed.Client(
                address, security=security, direct_to_workers=False, set_as_default=False, timeout=START_SECONDS_MAX
            )
            self._client.wait_for_workers(self._workers, timeout=START_SECONDS_MAX)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, list[int]]:
        return {
            "manager": [self._processes[0].pid],
            "worker": [process.pid for process in self._processes[1:]],
        }

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        answers: list[Array] = []
        running: deque[Any] = deque()
        for array in arrays:
            if len(running) == depth:
                answers.append(running.popleft().result())
            placed = self._client.scatter(array, direct=False, hash=False)
            running.append(self._client.submit(plus_one, placed, pure=False))
        return answers + [future.result() for future in running]

    def submit(self, values: Sequence[Any]) -> list[Any]:
        futures = [self._client.submit(nothing, value, pure=False) for value in values]
        return list(self._client.gather(futures))

    def map(self, values: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(self._client.map(nothing, values, pure=False)))

    def round_trip(self, value: Any) -> Any:
        return self._client.submit(nothing, value, pure=False).result()

    def _start_scheduler(self, directory: Path, credentials: Credentials) -> str:
        file = directory / "scheduler.json"
        self._start("scheduler", credentials, "manager", "--host", "tls://127.0.0.1:0", "--scheduler-file", str(file))
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._processes[0].poll() is None:
            try:
                return str(json.loads(file.read_text())["address"])
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.05)
        raise RuntimeError("dask's scheduler did not start")

    def _start_worker(self, address: str, directory: Path, credentials: Credentials) -> None:
        options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(directory)]
        self._start("worker", credentials, "worker", address, "--protocol", "tls", "--host", "127.0.0.1", *options)

    def _start(self, command: str, credentials: Credentials, role: str, *arguments: str) -> None:
        keys = ["--tls-ca-file", credentials.ca, "--tls-cert", credentials.certificate(role)]
        keys += ["--tls-key", credentials.key(role)]
        program = [sys.executable, "-m", f"distributed.cli.dask_{command}", *arguments, *keys]
        program += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        environment = child_environment(
            DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION="1.3", DASK_DISTRIBUTED__LOGGING__DISTRIBUTED="error"
        )
        self._processes.append(
            subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def _end(self) -> None:
        if self._client is not None:
            self._client.close()
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
