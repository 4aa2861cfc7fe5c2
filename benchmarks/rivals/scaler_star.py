"""opengris-scaler as a star: one scheduler, an object store beside it, workers, a client; TLS on loopback.

Its sockets are encrypted, but nobody shows or checks a client's or a worker's certificate: the library has no
setting for it. The scheduler and the workers are children of one process that this file's main part starts.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.credentials import Credentials, make_credentials
from benchmarks.harness import ROOT, child_environment
from benchmarks.tasks import Array, nothing, plus_one

ANSWER_SECONDS_MAX = 60


class ScalerStar:
    """A scheduler and `workers` workers in processes of their own; this process is the client."""

    name = "scaler"

    def __init__(self, workers: int) -> None:
        self._scaler: Any = importlib.import_module("scaler")
        self._workers = workers
        self._stack = ExitStack()

    def __enter__(self) -> ScalerStar:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            make_credentials(directory)
            command = [sys.executable, "-m", "benchmarks.rivals.scaler_star", str(directory), str(self._workers)]
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(self._end)
            assert self._process.stdout is not None
            address = self._process.stdout.readline().strip()
            if not address:
                raise RuntimeError("scaler's scheduler did not start")
            self._client: Any = self._scaler.Client(address=address, timeout_seconds=ANSWER_SECONDS_MAX)
            stack.callback(self._client.disconnect)
            self.submit(range(4 * self._workers))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, list[int]]:
        """Scheduler, object store and workers together: descendants of one process."""
        return {"worker": [self._process.pid]}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        answers: list[Array] = []
        running: deque[Any] = deque()
        for array in arrays:
            if len(running) == depth:
                answers.append(running.popleft().result(ANSWER_SECONDS_MAX))
            running.append(self._client.submit(plus_one, array))
        return answers + [future.result(ANSWER_SECONDS_MAX) for future in running]

    def submit(self, values: Sequence[Any]) -> list[Any]:
        futures = [self._client.submit(nothing, value) for value in values]
        return [future.result(ANSWER_SECONDS_MAX) for future in futures]

    def map(self, values: Sequence[Any]) -> list[Any]:
        return list(self._client.map(nothing, values))

    def round_trip(self, value: Any) -> Any:
        return self._client.submit(nothing, value).result(ANSWER_SECONDS_MAX)

    def _end(self) -> None:
        """Let the process shut its children down; whatever of them stays is killed."""
        children = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        for child in children:
            if child.is_running():
                child.kill()


def serve(directory: Path, workers: int) -> None:
    """Run scheduler, store and workers until stdin ends; say the address on stdout."""
    scaler = importlib.import_module("scaler")
    security = importlib.import_module("scaler.config.common.security").SecurityConfig
    port = importlib.import_module("scaler.utility.network_util").get_available_tcp_port
    credentials = Credentials(directory)
    cluster = scaler.SchedulerClusterCombo(
        n_workers=workers,
        address=f"tls://127.0.0.1:{port()}",
        object_storage_address=f"tls://127.0.0.1:{port()}",
        security_config=security(tls_cert=credentials.certificate("manager"), tls_key=credentials.key("manager")),
        logging_level="ERROR",
        logging_paths=("/dev/null",),
    )
    try:
        print(cluster.get_address(), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
