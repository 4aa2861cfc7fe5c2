"""loky's executor: the standard library's pool with cloudpickle and a way back from dead workers; no network."""

from __future__ import annotations

import importlib
from types import TracebackType

import psutil

from benchmarks.rivals.pool import Pool
from benchmarks.tasks import nothing


class LokyPool(Pool):
    """`workers` processes behind loky's pipes; there is no manager."""

    name = "loky"

    def __enter__(self) -> LokyPool:
        before = {child.pid for child in psutil.Process().children()}
        executor = importlib.import_module("loky.process_executor").ProcessPoolExecutor
        self._pool = executor(self._workers, timeout=None)
        list(self._pool.map(nothing, range(4 * self._workers)))
        self._pids = [child.pid for child in psutil.Process().children() if child.pid not in before]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)
