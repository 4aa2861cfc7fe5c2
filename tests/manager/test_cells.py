"""The memory of a shard: cells out and back, what a neighbour sees, and pages that go back to the system."""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterator

import pytest

from starcore.manager import cells
from starcore.manager.budget import IDLE_BYTES_MAX
from starcore.manager.cells import CELL_BYTES_MIN, Cells, Loan, cell_bytes
from starcore.messages import CHUNK_BYTES_MAX

IDLE_CELLS = IDLE_BYTES_MAX // CHUNK_BYTES_MAX

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: memfd")


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = cells.create()
    yield made
    os.close(made)


@pytest.fixture
def own(descriptor: int) -> Iterator[Cells]:
    made = Cells(os.dup(descriptor))
    yield made
    made.close()


def pages(descriptor: int) -> int:
    """How many bytes of memory the system has given."""
    return os.fstat(descriptor).st_blocks * 512


def test_neighbour_reads_what_the_owner_wrote(own: Cells, descriptor: int) -> None:
    own.take(CHUNK_BYTES_MAX)
    cell = own.take(CHUNK_BYTES_MAX)
    own.room(cell, 8)[:] = b"a chunk!"
    loan = Loan(descriptor)
    piece = loan.piece(cell, 2, 5)
    assert bytes(piece) == b"chunk"
    assert piece.readonly
    looked_at, other = weakref.ref(piece.obj), weakref.ref(loan.piece(cell, 2, 5).obj)
    assert other() is None, "nobody looks at this one"
    rest = piece[1:]
    del piece
    assert looked_at() is not None, "somebody looks at the rest"
    del rest
    assert looked_at() is None
    loan.close()


def test_loan_that_somebody_looks_at_stays(descriptor: int) -> None:
    loan = Loan(descriptor)
    piece = loan.piece(0, 0, 1)
    with pytest.raises(BufferError):
        loan.close()
    piece.release()
    loan.close()


def test_cells_are_reused_and_counted(own: Cells) -> None:
    first, second = own.take(CHUNK_BYTES_MAX), own.take(CHUNK_BYTES_MAX)
    assert first != second
    assert own.used == 2
    own.give(first)
    assert own.used == 1
    assert own.take(CHUNK_BYTES_MAX) == first


def test_memory_costs_nothing_until_it_is_used_and_idle_cells_go_back(own: Cells, descriptor: int) -> None:
    assert pages(descriptor) == 0
    taken = [own.take(CHUNK_BYTES_MAX) for _ in range(IDLE_CELLS + 3)]
    assert pages(descriptor) == len(taken) * CHUNK_BYTES_MAX
    for cell in taken:
        own.give(cell)
    assert own.used == 0
    assert pages(descriptor) == IDLE_CELLS * CHUNK_BYTES_MAX
    again = [own.take(CHUNK_BYTES_MAX) for _ in taken]
    assert sorted(again) == sorted(taken)
    assert pages(descriptor) == len(taken) * CHUNK_BYTES_MAX


def test_cell_without_memory_is_not_given_out(own: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="no space"):
            own.take(CHUNK_BYTES_MAX)
    assert own.used == 0
    assert own.take(CHUNK_BYTES_MAX) == 0


def test_cells_suit_their_chunks_and_lie_apart(own: Cells, descriptor: int) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    for length in (1, 16_384, 16_385, 65_536, 65_537, 81_921, 300_000, 786_433, CHUNK_BYTES_MAX):
        cell = cell_bytes(length)
        assert length <= cell <= max(CELL_BYTES_MIN, length * 1.25)
        assert cell % page == 0
    assert cell_bytes(CHUNK_BYTES_MAX) == CHUNK_BYTES_MAX
    lengths = [20_000, 70_000, 300_000, 20_001, CHUNK_BYTES_MAX]
    names = [own.take(length) for length in lengths]
    ends = [name + cell_bytes(length) for name, length in zip(names, lengths, strict=True)]
    assert sorted([0, *ends[:-1]]) == names, "one behind the other"
    assert pages(descriptor) == ends[-1]
    own.give(names[1])
    assert own.take(80_000) == names[1]


def test_cells_that_lie_idle_measure_no_more_than_the_budget_says(descriptor: int) -> None:
    frugal = Cells(os.dup(descriptor), 2 * CHUNK_BYTES_MAX)
    for cell in [frugal.take(CHUNK_BYTES_MAX) for _ in range(5)]:
        frugal.give(cell)
    assert pages(descriptor) == 2 * CHUNK_BYTES_MAX
    frugal.close()
