"""The standard library's ProcessPoolExecutor: no network, no encryption, one machine. What doing without costs."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any

import psutil

from benchmarks.tasks import Array, nothing, plus_one

MAP_CHUNK = 100


class Pool:
    """`workers` spawned processes behind the executor's pipes; there is no manager."""

    name = "pool"

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __enter__(self) -> Pool:
        before = {child.pid for child in psutil.Process().children()}
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._workers, mp_context=context)
        list(self._pool.map(nothing, range(4 * self._workers)))
        self._pids = [child.pid for child in psutil.Process().children() if child.pid not in before]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def pids(self) -> dict[str, list[int]]:
        return {"worker": self._pids}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        answers: list[Array] = []
        running: deque[Future[Array]] = deque()
        for array in arrays:
            if len(running) == depth:
                answers.append(running.popleft().result())
            running.append(self._pool.submit(plus_one, array))
        return answers + [future.result() for future in running]

    def submit(self, values: Sequence[Any]) -> list[Any]:
        futures = [self._pool.submit(nothing, value) for value in values]
        return [future.result() for future in futures]

    def map(self, values: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(nothing, values, chunksize=MAP_CHUNK))

    def round_trip(self, value: Any) -> Any:
        return self._pool.submit(nothing, value).result()
