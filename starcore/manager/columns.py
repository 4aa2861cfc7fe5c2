"""Columns of numbers, cut where they do not follow one another. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from starcore.messages import Column


def contiguous(numbers: Column) -> Iterator[tuple[int, int]]:
    """Cut a column into its longest pieces of consecutive numbers, as (start, stop) positions."""
    if not numbers:
        return
    count, first = len(numbers), numbers[0]
    if count == 1:
        yield 0, 1
        return
    if numbers[-1] - first == count - 1 and numbers == array(numbers.typecode, range(first, first + count)):
        yield 0, count
        return
    start = 0
    for place in range(1, count):
        if numbers[place] != numbers[place - 1] + 1:
            yield start, place
            start = place
    yield start, count
