"""`map`: many small calls in batches, their answers one by one and in order.

How many calls share a batch follows from what is measured. The first batches are single calls; from then on
a batch is what a slot computes in about `BATCH_SECONDS` at the pace seen so far::

    iterables ──Inputs──▶ fill() ──▶ batches in flight, a few a slot ──▶ outcomes ──▶ iterator, in order
                             ▲                 │ done
                             └─────────────────┘ also while nobody iterates, where there is no `buffersize`

A batch travels in columns, one list for each iterable, and so do its answers: no call is an object of its own. A
call with large arrays travels alone, uncopied. With a `buffersize` nothing is taken from the iterables but by the
iterating thread, and no more than that: they may be endless, and a slow consumer piles up nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import islice
from typing import Any

from starcore.client.futures import TaskFuture
from starcore.messages import BATCH_TASKS_MAX, HEAD_BYTES_MAX
from starcore.pickling import Failed, are_scalars

BATCH_SECONDS = 0.02
"""How long a batch should keep a slot: long beside the wire, short beside a human."""
BATCH_SECONDS_MIN = 0.001
"""The last calls are shared among the slots, but not in smaller pieces."""
BATCHES_PER_SLOT = 4
GROWTH_MAX = 8
"""A batch is at most so many times larger than the one before: one early measure may be wrong."""
SHARES = 4
"""The last calls are dealt out in at least so many batches a slot, so that all slots end together."""
BUFFER_SHARES = 2
"""What a buffer takes is dealt out in at least so many batches a slot: some are computed while one is yielded."""

Columns = tuple[list[Any], ...]
Send = Callable[[Columns, int], "Future[Any]"]
_LASTING = frozenset({range, tuple, str, bytes})
"""Iterables that nobody can change meanwhile, so that they need no copy."""


class Inputs:
    """The items of the iterables, taken together: the shortest one ends them.

    Parameters
    ----------
    iterables : sequence of iterable
        At least one.
    lazy : bool
        Whether they are read only as far as they are asked for; else they are read at once.

    Attributes
    ----------
    total : int or None
        How many calls they make, where that is known.
    error : Exception or None
        What one of them raised; they end there.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], *, lazy: bool) -> None:
        self._alone = len(iterables) == 1
        items: Any = iterables[0] if self._alone else zip(*iterables)  # noqa: B905 - as in the builtin
        lasting = type(items) in _LASTING
        if not (lazy or lasting):
            items, lasting = list(items), True
        self.total: int | None = len(items) if lasting else None
        self.error: Exception | None = None
        self._items = iter(items)
        self._scalars = False

    def take(self, count: int, weight_max: float) -> tuple[Columns, int]:
        """Return the next calls, at most `count` and those of large arrays one by one, in columns; and how many."""
        items: list[Any] = []
        try:
            if self._scalars:
                items.extend(islice(self._items, count))
            else:
                self._weigh(items, count, weight_max)
        except Exception as error:
            self.error = error
        columns = (items,) if self._alone else tuple(map(list, zip(*items, strict=True)))
        self._scalars = all(map(are_scalars, columns))
        return columns, len(items)

    def _weigh(self, items: list[Any], count: int, weight_max: float) -> None:
        weight = 0
        for item in islice(self._items, count):
            items.append(item)
            weight += sum(getattr(argument, "nbytes", 0) for argument in ((item,) if self._alone else item))
            if weight > weight_max:
                break


class Batches:
    """The state of one `map`.

    Parameters
    ----------
    send : callable
        Sends a batch of so many calls, given their arguments in columns; a lone call's future has its plain value,
        that of a larger batch a list with a `Failed` for each call that raised.
    inputs : Inputs
        The arguments.
    chunksize : int or None
        A fixed size; None measures.
    buffersize : int or None
        How many calls may be taken and not yet yielded; None sends on whether anybody iterates or not.
    slots : callable
        How many slots the star has now.
    """

    def __init__(
        self,
        send: Send,
        inputs: Inputs,
        *,
        chunksize: int | None,
        buffersize: int | None,
        slots: Callable[[], int],
    ) -> None:
        self._send = send
        self._inputs = inputs
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._slots = slots
        self._lock = threading.RLock()
        self._landing = threading.Condition(self._lock)
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
            while (batch := self._next(deadline)) is not None:
                yield from self._answers(*batch, deadline)
            if self._error is not None:
                raise self._error
        except KeyboardInterrupt:
            self.close(kill=True)
            raise
        finally:
            self.close()

    def _next(self, deadline: float | None) -> tuple[Future[Any], int] | None:
        """Return the next batch, or None where no further one comes.

        That none is here does not say so: an answer wakes who waits for it before it calls those who send the next.
        """
        with self._lock:
            while True:
                if self._buffersize is not None:
                    self.fill()
                if self._batches:
                    return self._batches.popleft()
                if self._closed or self._exhausted or self._error is not None:
                    return None
                if not self._landing.wait(None if deadline is None else deadline - time.monotonic()):
                    raise FutureTimeoutError

    def close(self, *, kill: bool = False) -> None:
        """Cancel what has not been asked for any more; with `kill` also what runs."""
        with self._lock:
            self._closed = True
            rest = list(self._batches)
            self._batches.clear()
            self._landing.notify_all()
        for future, _ in rest:
            if kill and isinstance(future, TaskFuture):
                future.kill()
            else:
                future.cancel()

    def fill(self) -> None:
        """Send batches until enough are in flight."""
        with self._lock:
            while not self._closed and not self._exhausted and self._error is None and self._room():
                columns, count = self._inputs.take(
                    self._next_size(), HEAD_BYTES_MAX if self._chunksize is None else float("inf")
                )
                self._error = self._inputs.error
                self._exhausted = not count
                if not count:
                    break
                try:
                    future = self._send(columns, count)
                except Exception as error:
                    self._error = error
                    break
                self._sent += count
                self._in_flight += 1
                self._batches.append((future, count))
                future.add_done_callback(partial(self._landed, count))

    def _room(self) -> bool:
        if self._buffersize is not None and self._sent - self._yielded >= self._buffersize:
            return False
        return self._in_flight < BATCHES_PER_SLOT * max(1, self._slots()) + 1

    def _next_size(self) -> int:
        size = self._chunksize or self._size
        if self._buffersize is None:
            return size
        if self._chunksize is None:
            size = min(size, max(1, self._buffersize // (BUFFER_SHARES * max(1, self._slots()))))
        return min(size, self._buffersize - (self._sent - self._yielded))

    def _landed(self, count: int, future: Future[Any]) -> None:
        with self._lock:
            self._in_flight -= 1
            self._closed |= future.cancelled()  # by Ctrl-C: the iterator would get no further than here
            self._done += count
            if self._chunksize is None:
                self._measure()
            if self._buffersize is None:
                self.fill()
            self._landing.notify_all()

    def _measure(self) -> None:
        slots = max(1, self._slots())
        pace = self._done / max(1e-6, time.monotonic() - self._started) / slots
        size = min(pace * BATCH_SECONDS, self._size * GROWTH_MAX, BATCH_TASKS_MAX)
        if self._inputs.total is not None:
            share = (self._inputs.total - self._sent) / (SHARES * slots)
            size = min(size, max(share, pace * BATCH_SECONDS_MIN))
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
        elif are_scalars(value):
            yield from value
            self._yielded += count
        else:
            value.reverse()
            while value:
                if type(value[-1]) is Failed:
                    raise value.pop().error
                self._yielded += 1
                yield value.pop()
