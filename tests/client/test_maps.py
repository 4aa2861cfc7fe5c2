"""Batches of `map`, over futures that the test ends by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import count
from typing import Any

import numpy as np
import pytest

from starcore.client.maps import BATCHES_PER_SLOT, Batches


class Star:
    """Takes batches, and answers them when told."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.batches: list[tuple[list[tuple[Any, ...]], Future[Any]]] = []
        self.sizes: list[int] = []

    def send(self, calls: Sequence[tuple[Any, ...]]) -> Future[Any]:
        future: Future[Any] = Future()
        self.batches.append((list(calls), future))
        self.sizes.append(len(calls))
        return future

    def answer(self) -> None:
        calls, future = self.batches.pop(0)
        answers = [(True, -number) for (number,) in calls]
        future.set_result(answers if len(calls) > 1 else answers[0][1])

    def batches_of(self, calls: Any, **more: Any) -> Batches:
        more = {"chunksize": None, "buffersize": None, **more}
        return Batches(self.send, calls, slots=lambda: self.slots, **more)


def singles(stop: int) -> list[tuple[int]]:
    return [(number,) for number in range(stop)]


def test_results_come_in_order_and_all_of_them_without_anybody_iterating() -> None:
    star = Star(2)
    batches = star.batches_of(singles(500))
    while star.batches:
        star.answer()
    assert list(batches.results(None)) == [-number for number in range(500)]


def test_batches_grow_from_one_where_calls_are_quick_and_shrink_to_the_end() -> None:
    star = Star(2)
    star.batches_of(singles(5000))
    while star.batches:
        star.answer()
    assert star.sizes[0] == 1
    assert max(star.sizes) > 20
    assert star.sizes[-1] < max(star.sizes)


def test_only_a_few_batches_are_in_flight() -> None:
    star = Star(3)
    star.batches_of(singles(1000))
    assert len(star.batches) == 3 * BATCHES_PER_SLOT + 1


def test_fixed_size_is_kept() -> None:
    star = Star()
    batches = star.batches_of(singles(10), chunksize=4)
    while star.batches:
        star.answer()
    assert star.sizes == [4, 4, 2]
    assert len(list(batches.results(None))) == 10


def test_call_with_a_large_array_travels_alone() -> None:
    star = Star()
    star.batches_of([(np.zeros(100_000),)] * 4)
    assert star.sizes == [1] * 4


def test_endless_iterables_are_read_only_as_far_as_the_buffer() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[tuple[int]]:
        for number in count():
            taken.append(number)
            yield (number,)

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
    results = star.batches_of(singles(100), chunksize=1).results(None)
    star.answer()
    next(results)
    waiting = [future for _, future in star.batches]
    results.close()
    assert all(future.cancelled() for future in waiting)


def test_exception_comes_in_its_turn() -> None:
    star = Star()
    results = star.batches_of(singles(3), chunksize=3).results(None)
    star.batches.pop()[1].set_result([(True, 0), (False, KeyError("one")), (True, 2)])
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)


def test_timeout_counts_from_the_call() -> None:
    star = Star()
    results = star.batches_of(singles(3)).results(time.monotonic())
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert all(future.cancelled() for _, future in star.batches)


def test_first_call_that_cannot_be_sent_raises_where_it_was_made() -> None:
    def send(calls: Sequence[tuple[Any, ...]]) -> Future[Any]:
        raise TypeError("cannot be pickled")

    with pytest.raises(TypeError):
        Batches(send, singles(3), chunksize=None, buffersize=None, slots=lambda: 1)


def test_nothing_to_do_is_done() -> None:
    assert list(Star().batches_of([]).results(None)) == []
