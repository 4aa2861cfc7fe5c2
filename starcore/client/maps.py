"""`map`: many small calls in batches, their answers one by one and in order.

How many calls share a batch follows from what is measured. The first batches are single calls; from then on
a batch is what a slot computes in about `BATCH_SECONDS` at the pace seen so far::

    calls ──fill()──▶ batches in flight, a few a slot ──▶ outcomes ──▶ iterator, in order
              ▲                    │ done
              └────────────────────┘ also while nobody iterates

A call with large arrays travels alone, uncopied. With a `buffersize` nothing is taken from the iterables but by
the iterating thread, so they may be endless.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any

from starcore.messages import BATCH_TASKS_MAX, HEAD_BYTES_MAX

BATCH_SECONDS = 0.02
"""How long a batch should keep a slot: long beside the wire, short beside a human."""
BATCHES_PER_SLOT = 4
GROWTH_MAX = 8
"""A batch is at most so many times larger than the one before: one early measure may be wrong."""
SHARES = 4
"""The last calls are dealt out in at least so many batches a slot, so that all slots end together."""

Send = Callable[[Sequence[tuple[Any, ...]]], "Future[Any]"]


class Batches:
    """The state of one `map`.

    Parameters
    ----------
    send : callable
        Sends a batch of calls (their positional arguments); a lone call's future has its plain value, that of
        a larger batch a list of (ok, value or exception).
    calls : iterable of tuple
        The positional arguments of each call.
    chunksize : int or None
        A fixed size; None measures.
    buffersize : int or None
        How many calls may be taken and not yet yielded; None takes all of `calls` (a sequence, then) at once.
    slots : callable
        How many slots the star has now.
    """

    def __init__(
        self,
        send: Send,
        calls: Iterable[tuple[Any, ...]],
        *,
        chunksize: int | None,
        buffersize: int | None,
        slots: Callable[[], int],
    ) -> None:
        self._send = send
        self._total = len(calls) if isinstance(calls, Sequence) else None
        self._calls = iter(calls)
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._slots = slots
        self._lock = threading.RLock()
        self._batches: deque[tuple[Future[Any], int]] = deque()
        self._in_flight = 0
        self._size = 1
        self._sent = 0
        self._done = 0
        self._yielded = 0
        self._exhausted = False
        self._closed = False
        self._error: BaseException | None = None
        self._started = time.monotonic()
        self.fill()
        if self._error is not None and not self._batches:
            raise self._error

    def results(self, deadline: float | None) -> Iterator[Any]:
        """Yield the answers in order; raises the first exception met, or TimeoutError past `deadline`."""
        results = self._in_order(deadline)
        next(results)
        return results

    def _in_order(self, deadline: float | None) -> Iterator[Any]:
        try:
            yield None  # taken at once: a generator that has begun is closed with its calls, one that has not is not
            while True:
                if self._buffersize is not None:
                    self.fill()
                with self._lock:
                    if not self._batches:
                        break
                    future, count = self._batches.popleft()
                yield from self._answers(future, count, deadline)
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what has not been asked for any more."""
        with self._lock:
            self._closed = True
            rest = list(self._batches)
            self._batches.clear()
        for future, _ in rest:
            future.cancel()

    def fill(self) -> None:
        """Send batches until enough are in flight."""
        with self._lock:
            while not self._closed and not self._exhausted and self._error is None and self._room():
                try:
                    batch = self._next()
                    if not batch:
                        break
                    future = self._send(batch)
                except Exception as error:
                    self._error = error
                    break
                self._sent += len(batch)
                self._in_flight += 1
                self._batches.append((future, len(batch)))
                future.add_done_callback(partial(self._landed, len(batch)))

    def _room(self) -> bool:
        if self._buffersize is not None and self._sent - self._yielded >= self._buffersize:
            return False
        return self._in_flight < BATCHES_PER_SLOT * max(1, self._slots()) + 1

    def _next(self) -> list[tuple[Any, ...]]:
        size = self._chunksize or self._size
        if self._buffersize is not None:
            size = min(size, self._buffersize - (self._sent - self._yielded))
        batch: list[tuple[Any, ...]] = []
        weight = 0
        for call in islice(self._calls, size):
            batch.append(call)
            weight += sum(getattr(argument, "nbytes", 0) for argument in call)
            if self._chunksize is None and weight > HEAD_BYTES_MAX:
                break
        else:
            self._exhausted = len(batch) < size
        return batch

    def _landed(self, count: int, _: Future[Any]) -> None:
        with self._lock:
            self._in_flight -= 1
            self._done += count
            if self._chunksize is None:
                self._measure()
            if self._buffersize is None:
                self.fill()

    def _measure(self) -> None:
        slots = max(1, self._slots())
        pace = self._done / max(1e-6, time.monotonic() - self._started) / slots
        size = min(pace * BATCH_SECONDS, self._size * GROWTH_MAX, BATCH_TASKS_MAX)
        if self._total is not None:
            size = min(size, (self._total - self._sent) / (SHARES * slots))
        self._size = max(1, int(size))

    def _answers(self, future: Future[Any], count: int, deadline: float | None) -> Iterator[Any]:
        try:
            value = future.result(None if deadline is None else deadline - time.monotonic())
        except BaseException:
            future.cancel()
            raise
        # The future is this frame's own now: as answers are yielded, nothing else keeps them alive.
        del future
        if count == 1:
            self._yielded += 1
            yield value
            return
        value.reverse()
        while value:
            ok, answer = value.pop()
            self._yielded += 1
            if not ok:
                raise answer
            yield answer
