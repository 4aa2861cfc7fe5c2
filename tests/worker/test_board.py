"""A slot's board."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from starcore.worker.board import Board


@pytest.fixture
def boards() -> Iterator[tuple[Board, Board]]:
    """The same page, mapped twice."""
    first, descriptor = Board.create()
    yield first, Board(descriptor)
    os.close(descriptor)


def test_the_other_side_sees_what_runs_since_when(boards: tuple[Board, Board]) -> None:
    slot, supervisor = boards
    assert supervisor.read() == (0, 0, False, 0.0)
    assert slot.begin(3, 1, 12.5)
    assert supervisor.read() == (3, 1, True, 12.5)
    slot.end(3, 1)
    assert supervisor.read() == (3, 1, False, 12.5)


def test_a_recalled_batch_does_not_begin_and_a_later_one_does(boards: tuple[Board, Board]) -> None:
    slot, supervisor = boards
    slot.begin(3, 1, 1.0)
    supervisor.recall(3)
    slot.end(3, 1)
    assert not slot.begin(3, 2, 2.0)
    assert supervisor.read()[:3] == (3, 1, False)
    assert slot.begin(4, 1, 3.0)
