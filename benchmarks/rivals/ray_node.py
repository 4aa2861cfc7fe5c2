"""Ray on one node: tasks through its raylet, arrays through its shared-memory store; no TLS, no second machine.

What a star cannot have: client and workers map the same memory, so an array that is put crosses no wire.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import psutil

from benchmarks.harness import ROOT
from benchmarks.tasks import Array, nothing, plus_one

ANSWER_SECONDS_MAX = 60


class RayNode:
    """A head node with `workers` cores; this process is the driver."""

    name = "ray"

    def __init__(self, workers: int) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._workers = workers

    def __enter__(self) -> RayNode:
        before = {child.pid for child in psutil.Process().children()}
        self._ray.init(
            num_cpus=self._workers,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
        )
        self._nothing, self._plus_one = self._ray.remote(nothing), self._ray.remote(plus_one)
        self.submit(range(4 * self._workers))
        self._pids = [child.pid for child in psutil.Process().children() if child.pid not in before]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def pids(self) -> dict[str, list[int]]:
        """All of the node's processes; the workers are descendants of its raylet."""
        return {"worker": self._pids}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        answers: list[Array] = []
        running: deque[Any] = deque()
        for array in arrays:
            if len(running) == depth:
                answers.append(self._get(running.popleft()))
            running.append(self._plus_one.remote(array))
        return answers + [self._get(reference) for reference in running]

    def submit(self, values: Sequence[Any]) -> list[Any]:
        return list(self._get([self._nothing.remote(value) for value in values]))

    def map(self, values: Sequence[Any]) -> list[Any]:
        """Ray has no batch call for tasks."""
        return self.submit(values)

    def round_trip(self, value: Any) -> Any:
        return self._get(self._nothing.remote(value))

    def _get(self, what: Any) -> Any:
        return self._ray.get(what, timeout=ANSWER_SECONDS_MAX)
