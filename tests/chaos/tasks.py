"""What workers compute, and callers compute again to compare."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def square(number: int, seconds: float = 0.0) -> int:
    """A small task."""
    if seconds:
        time.sleep(seconds)
    return number * number


def scaled(array: Array, factor: int) -> Array:
    """A new array, as large as its argument."""
    return array * factor + 1


def sharpened(array: Array) -> Array:
    """Write to the argument and return it."""
    array *= 3
    return array


def weighted(table: Array, row: int) -> float:
    """Look at a shared value."""
    return float(table[row % len(table)].sum()) + row


def refuse(number: int) -> None:
    """Raise, as user's functions do."""
    raise ValueError(f"no {number}", number)


def linger(seconds: float, answer: int = 0) -> int:
    """Be slow."""
    time.sleep(seconds)
    return answer
