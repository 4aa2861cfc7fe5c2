"""Columns of numbers, cut where they do not follow one another."""

from __future__ import annotations

from array import array

import pytest

from starcore.manager.columns import contiguous, gaps
from starcore.messages import Submit


@pytest.mark.parametrize(
    ("numbers", "pieces"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([5, 6, 7], [(0, 3)]),
        ([5, 6, 9, 10, 4], [(0, 2), (2, 4), (4, 5)]),
        ([5, 9, 7], [(0, 1), (1, 2), (2, 3)]),
        ([5, 5], [(0, 1), (1, 2)]),
    ],
)
def test_columns_are_cut_into_consecutive_numbers(numbers, pieces):
    assert list(contiguous(array("Q", numbers))) == pieces


def test_gaps_are_what_is_not_known_yet_of_tasks_that_are_said_again():
    message = Submit(1, 10, True, array("I", [1, 2, 3, 4, 5]), array("Q"), b"abbcccddddeeeee")
    pieces = [(piece.first, list(piece.head_sizes), bytes(piece.heads)) for piece in gaps(message, [(8, 11), (12, 14)])]
    assert pieces == [(11, [2], b"bb"), (14, [5], b"eeeee")]
    assert not list(gaps(message, [(0, 99)]))
