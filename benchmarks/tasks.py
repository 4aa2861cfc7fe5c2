"""The functions that every contender runs, and the arrays they run on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK_ITEMS = 1 << 17
NAP_SECONDS = 0.01


def plus_one(array: Array) -> Array:
    """Touch every byte once, there and back."""
    return array + 1


def nothing(value: Any) -> Any:
    """Cost as little as a task can."""
    return value


def nap(value: Any) -> Any:
    """Take a while, and cost as little as that can."""
    time.sleep(NAP_SECONDS)
    return value


def inputs(count: int, payload_bytes: int) -> list[Array]:
    """`count` different arrays of that size, so that no cache of anybody's can answer for them."""
    length = max(payload_bytes // 8, 1)
    base = np.arange(length, dtype=np.float64)
    return [base + 1000 * number for number in range(count)]


def check(arrays: Sequence[Array], answers: Sequence[Array]) -> str:
    """Compare every answer, element by element, with what this process makes of its input; return their hash.

    Block by block, for a temporary of the whole size would count as memory of the client.
    """
    assert len(answers) == len(arrays)
    whole = hashlib.sha256()
    for array, answer in zip(arrays, answers, strict=True):
        assert (answer.dtype, answer.shape) == (array.dtype, array.shape), "a wrong answer"
        for start in range(0, len(array), BLOCK_ITEMS):
            block = slice(start, start + BLOCK_ITEMS)
            assert np.array_equal(answer[block], plus_one(array[block])), "a wrong answer"
        whole.update(np.ascontiguousarray(answer).data)
    return whole.hexdigest()[:12]
