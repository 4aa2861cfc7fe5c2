"""Columns of numbers, cut where they do not follow one another."""

from __future__ import annotations

from array import array

import pytest

from starcore.manager.columns import contiguous


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
