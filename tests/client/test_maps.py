"""Batches of `map`, over futures that the test ends by hand."""

from __future__ import annotations

import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from starcore.client.maps import BATCHES_PER_SLOT, Batches, Columns, Inputs
from starcore.pickling import Failed


class Star:
    """Takes batches, and answers them when told."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.batches: list[tuple[list[tuple[Any, ...]], Future[Any]]] = []
        self.sizes: list[int] = []

    def send(self, columns: Columns, count: int) -> Future[Any]:
        future: Future[Any] = Future()
        calls = list(zip(*columns, strict=True))
        assert len(calls) == count
        self.batches.append((calls, future))
        self.sizes.append(count)
        return future

    def answer(self) -> None:
        calls, future = self.batches.pop(0)
        answers = [-number for (number,) in calls]
        future.set_result(answers if len(calls) > 1 else answers[0])

    def batches_of(self, items: Any, **more: Any) -> Batches:
        more = {"chunksize": None, "buffersize": None, **more}
        inputs = Inputs([items], lazy=more["buffersize"] is not None)
        return Batches(self.send, inputs, slots=lambda: self.slots, **more)


def test_results_come_in_order_and_all_of_them_without_anybody_iterating() -> None:
    star = Star(2)
    batches = star.batches_of(range(500))
    while star.batches:
        star.answer()
    assert list(batches.results(None)) == [-number for number in range(500)]


class Late(Future[Any]):
    """A future whose waiters run well before its callbacks, as any thread may be late."""

    def _invoke_callbacks(self) -> None:
        threading.Timer(0.02, super()._invoke_callbacks).start()  # type: ignore[misc]


@pytest.mark.parametrize("buffersize", [None, 40])
def test_results_do_not_end_where_those_who_send_the_next_batch_are_late(
    monkeypatch: pytest.MonkeyPatch, buffersize: int | None
) -> None:
    """Whoever iterated had all answers so far, found no further batch, and took it for the end: 114 of 209."""
    monkeypatch.setitem(Star.send.__globals__, "Future", Late)
    star = Star()
    batches = star.batches_of(range(200), chunksize=7, buffersize=buffersize)

    def answer_all() -> None:
        ended = time.monotonic() + 20
        while star.batches or (sum(star.sizes) < 200 and time.monotonic() < ended):
            if star.batches:
                star.answer()

    answering = threading.Thread(target=answer_all)
    answering.start()
    assert list(batches.results(None)) == [-number for number in range(200)]
    answering.join()


def test_waiting_for_the_next_batch_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Star.send.__globals__, "Future", Late)
    monkeypatch.setattr(Late, "_invoke_callbacks", lambda self: None)
    star = Star()
    results = star.batches_of(range(200), chunksize=7).results(time.monotonic() + 0.2)
    while star.batches:
        star.answer()
    with pytest.raises(FutureTimeoutError):
        list(results)


def test_batches_grow_from_one_where_calls_are_quick_and_shrink_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("starcore.client.maps.time", SimpleNamespace(monotonic=lambda: now))
    star = Star(2)
    star.batches_of(range(5000))
    while star.batches:
        now += len(star.batches[0][0]) * 1e-4  # 10,000 calls a second, 5,000 a slot
        star.answer()
    assert sum(star.sizes) == 5000
    assert star.sizes[0] == 1
    assert max(star.sizes) == 100
    assert star.sizes[-1] <= 5  # a millisecond


def test_only_a_few_batches_are_in_flight() -> None:
    star = Star(3)
    star.batches_of(range(1000))
    assert len(star.batches) == 3 * BATCHES_PER_SLOT + 1


def test_fixed_size_is_kept() -> None:
    star = Star()
    batches = star.batches_of(range(10), chunksize=4)
    while star.batches:
        star.answer()
    assert star.sizes == [4, 4, 2]
    assert len(list(batches.results(None))) == 10


def test_call_with_a_large_array_travels_alone() -> None:
    star = Star()
    star.batches_of([np.zeros(100_000)] * 4)
    assert star.sizes == [1] * 4


def test_endless_iterables_are_read_only_as_far_as_the_buffer() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    star = Star()
    results = star.batches_of(numbers(), chunksize=1, buffersize=3).results(None)
    assert len(taken) == 3
    star.answer()
    assert next(results) == 0
    star.answer()
    assert next(results) == -1
    assert len(taken) == 4


def test_closing_early_cancels_the_rest() -> None:
    star = Star()
    results = star.batches_of(range(100), chunksize=1).results(None)
    star.answer()
    next(results)
    waiting = [future for _, future in star.batches]
    results.close()
    assert all(future.cancelled() for future in waiting)


def test_map_that_was_cancelled_sends_no_more() -> None:
    """Ctrl-C cancels batches one by one: each that ended would make room for another."""
    star = Star()
    results = star.batches_of(range(100), chunksize=1).results(None)
    for _, future in list(star.batches):
        future.cancel()
    assert star.sizes == [1] * (BATCHES_PER_SLOT + 1)
    with pytest.raises(CancelledError):
        next(results)


def test_exception_comes_in_its_turn() -> None:
    star = Star()
    results = star.batches_of(range(3), chunksize=3).results(None)
    star.batches.pop()[1].set_result([0, Failed(KeyError("one")), 2])
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)


def test_timeout_counts_from_the_call() -> None:
    star = Star()
    results = star.batches_of(range(3)).results(time.monotonic())
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert all(future.cancelled() for _, future in star.batches)


def test_first_call_that_cannot_be_sent_raises_where_it_was_made() -> None:
    def send(columns: Columns, count: int) -> Future[Any]:
        raise TypeError("cannot be pickled")

    with pytest.raises(TypeError):
        Batches(send, Inputs([range(3)], lazy=False), chunksize=None, buffersize=None, slots=lambda: 1)


def test_nothing_to_do_is_done() -> None:
    assert list(Star().batches_of([]).results(None)) == []


# -- inputs ------------------------------------------------------------------------------------------------------


def test_inputs_come_in_columns_and_the_shortest_ends_them() -> None:
    inputs = Inputs([range(5), iter("abc"), count()], lazy=True)
    assert inputs.total is None
    assert inputs.take(2, 1e9) == (([0, 1], ["a", "b"], [0, 1]), 2)
    assert inputs.take(2, 1e9) == (([2], ["c"], [2]), 1)
    assert inputs.take(2, 1e9)[1] == 0


def test_inputs_that_somebody_may_change_are_copied_unless_they_are_read_lazily() -> None:
    changing = [1, 2, 3]
    now, later = Inputs([changing], lazy=False), Inputs([changing], lazy=True)
    changing.append(4)
    assert (now.total, later.total) == (3, None)
    assert now.take(9, 1e9) == (([1, 2, 3],), 3)
    assert later.take(9, 1e9) == (([1, 2, 3, 4],), 4)


def test_ten_million_numbers_of_a_range_take_no_memory() -> None:
    tracemalloc.start()
    try:
        inputs = Inputs([range(10_000_000)], lazy=False)
        assert inputs.total == 10_000_000
        assert inputs.take(3, 1e9) == (([0, 1, 2],), 3)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_an_iterable_raises_comes_after_the_answers_of_what_it_gave() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise KeyError("no more")

    star = Star()
    results = star.batches_of(numbers(), chunksize=3, buffersize=10).results(None)
    while star.batches:
        star.answer()
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    with pytest.raises(KeyError):
        next(results)
    assert star.sizes == [3, 2]


# -- a buffer ------------------------------------------------------------------------------------------------------


def test_slow_consumer_piles_up_no_more_than_the_buffer() -> None:
    drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        for number in count():
            drawn += 1
            yield number

    star = Star(2)
    results = star.batches_of(numbers(), buffersize=100).results(None)
    for taken in range(3000):
        while star.batches:
            star.answer()
        assert next(results) == -taken
        assert drawn <= taken + 100
    assert max(star.sizes) == 25  # so that each slot has work while one batch is yielded


def test_fixed_size_beyond_the_buffer_is_cut_to_it() -> None:
    star = Star()
    results = star.batches_of(count(), chunksize=50, buffersize=20).results(None)
    star.answer()
    assert [next(results) for _ in range(20)] == [-number for number in range(20)]
    assert star.sizes == [20]


def test_answers_of_a_batch_that_are_no_scalars_are_kept_by_nobody_once_they_are_yielded() -> None:
    star = Star()
    results = star.batches_of(range(2), chunksize=2).results(None)
    star.batches.pop()[1].set_result([np.zeros(3), np.ones(3)])
    first = weakref.ref(next(results))
    assert first() is None
    assert next(results).tolist() == [1, 1, 1]
