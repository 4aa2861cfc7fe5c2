"""The functions that every contender runs, and the arrays they run on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def plus_one(array: Array) -> Array:
    """Touch every byte once, there and back."""
    return array + 1


def nothing(value: Any) -> Any:
    """Cost as little as a task can."""
    return value


def inputs(count: int, payload_bytes: int) -> list[Array]:
    """`count` different arrays of that size, so that no cache of anybody's can answer for them."""
    length = max(payload_bytes // 8, 1)
    base = np.arange(length, dtype=np.float64)
    return [base + 1000 * number for number in range(count)]


def check(arrays: list[Array], answers: list[Array]) -> None:
    """Compare every answer, element by element, with what this process makes of its input."""
    assert len(answers) == len(arrays)
    for array, answer in zip(arrays, answers, strict=True):
        assert answer.dtype == array.dtype
        assert np.array_equal(answer, plus_one(array)), "a wrong answer"
