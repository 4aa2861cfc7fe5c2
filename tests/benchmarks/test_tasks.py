"""The common functions: inputs differ, and a wrong answer does not pass."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.tasks import NAP_SECONDS, check, inputs, nap, plus_one


def test_inputs_have_the_size_asked_for_and_differ() -> None:
    first, second = inputs(2, 1 << 16)
    assert first.nbytes == second.nbytes == 1 << 16
    assert not np.array_equal(first, second)


def test_a_wrong_answer_does_not_pass() -> None:
    arrays = inputs(2, 64)
    answers = [plus_one(array) for array in arrays]
    assert check(arrays, answers) != check(arrays[:1], answers[:1])
    with pytest.raises(AssertionError):
        check(arrays, answers[::-1])
    with pytest.raises(AssertionError):
        check(arrays, answers[:1])


def test_a_nap_takes_its_time_and_gives_its_value_back() -> None:
    start = time.perf_counter()
    assert nap(3) == 3
    assert time.perf_counter() - start >= NAP_SECONDS
