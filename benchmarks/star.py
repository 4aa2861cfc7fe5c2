"""The star itself as a contender: a LocalStar of real processes over real TLS, used through the public API."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import starcore
from benchmarks.tasks import Array, nothing, plus_one


class Star:
    """A manager and `workers` workers of one slot each; this process is the client."""

    name = "star"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._stack = ExitStack()

    def __enter__(self) -> Star:
        with ExitStack() as stack:
            self._star = stack.enter_context(starcore.LocalStar(workers=self._workers, slots=1))
            self._client = stack.enter_context(self._star.client())
            # Both slots have loaded the function and numpy before anything is measured.
            list(self._client.map(nothing, range(100)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, list[int]]:
        pids = self._star.pids
        return {"manager": [pids["manager"]], "worker": list(pids["workers"])}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        answers: list[Array] = []
        running: deque[Future[Array]] = deque()
        for array in arrays:
            if len(running) == depth:
                answers.append(running.popleft().result())
            running.append(self._client.submit_array(plus_one, array))
        return answers + [future.result() for future in running]

    def submit(self, values: Sequence[Any]) -> list[Any]:
        futures = [self._client.submit(nothing, value) for value in values]
        return [future.result() for future in futures]

    def map(self, values: Sequence[Any]) -> list[Any]:
        return list(self._client.map(nothing, values))

    def round_trip(self, value: Any) -> Any:
        return self._client.submit(nothing, value).result()
