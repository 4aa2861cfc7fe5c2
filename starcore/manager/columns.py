"""Columns of numbers, cut where they do not follow one another. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from starcore.messages import Column, Submit


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


def gaps(message: Submit, known: list[tuple[int, int]]) -> Iterator[Submit]:
    """Cut out of tasks those that are known already, from first to stop."""
    sizes, bodies, heads = message.head_sizes, message.body_sizes, memoryview(message.heads)
    stop = message.first + len(sizes)
    at = message.first
    for first, last in [*known, (stop, stop)]:
        if at < first:
            low, high = at - message.first, min(first, stop) - message.first
            begin = sum(sizes[:low])
            part = heads[begin : begin + sum(sizes[low:high])]
            yield Submit(message.job, at, True, sizes[low:high], bodies[low:high], part)
        at = max(at, last)
