"""The arena: warm segments are used again, nothing is left behind, and how much there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from starcore.capacity import memory_limit_bytes
from starcore.worker.arena import (
    FREE_SECONDS_MAX,
    Arena,
    Pool,
    default_arena_bytes,
    memory_file,
)

MIB = 1 << 20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_free_segment_serves_the_next_body_of_its_class() -> None:
    arena = Arena(64 * MIB)
    piece, _ = arena.take(5 * MIB)
    address = piece.segment.address
    arena.give(piece, 0.0)
    again, closed = arena.take(5 * MIB - 1)
    assert (again.segment.address, closed) == (address, [])
    arena.close()


def test_a_segment_that_somebody_looks_at_is_not_used_again() -> None:
    arena = Arena(64 * MIB)
    piece, _ = arena.take(MIB)
    view = piece.view(0, 10)
    arena.give(piece, 0.0)
    other, _ = arena.take(MIB)
    assert other is not piece
    view.release()
    third, _ = arena.take(MIB)
    assert third is piece
    arena.close()


def test_free_segments_make_room_for_new_ones() -> None:
    arena = Arena(8 * MIB)
    pieces = [arena.take(2 * MIB)[0] for _ in range(4)]
    for at, piece in enumerate(pieces):
        arena.give(piece, float(at))
    _, closed = arena.take(3 * MIB)
    assert closed == pieces[:2]
    assert arena.total_bytes == 7 * MIB
    arena.close()


def test_what_found_no_use_for_a_while_is_given_back() -> None:
    arena = Arena(8 * MIB)
    piece, _ = arena.take(MIB)
    arena.give(piece, 100.0)
    assert arena.trim(100.0 + FREE_SECONDS_MAX - 1) == []
    assert arena.trim(100.0 + FREE_SECONDS_MAX + 1) == [piece]
    assert arena.total_bytes == 0


def test_nothing_is_left_open() -> None:
    before = descriptors()
    arena = Arena(64 * MIB)
    pieces = [arena.take(MIB)[0] for _ in range(5)]
    arena.give(pieces[0], 0.0)
    arena.forget(pieces[1])
    assert descriptors() == before + 4
    arena.close()
    assert descriptors() == before


def test_memory_that_is_not_there_is_an_error_and_leaves_nothing() -> None:
    before = descriptors()
    with pytest.raises(OSError, match="memory"):
        memory_file("starcore-test", 1 << 50)
    assert descriptors() == before


def test_without_memfd_an_unlinked_file_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    arena = Arena(MIB)
    piece, _ = arena.take(1000)
    piece.view(0, 5)[:] = b"hello"
    assert os.pread(piece.descriptor, 5, 0) == b"hello"
    assert list(tmp_path.iterdir()) == []
    arena.close()


def test_a_pool_uses_what_was_freed_and_closes_what_is_too_much() -> None:
    pool = Pool(4 * MIB)
    small, large = pool.take(MIB), pool.take(8 * MIB)
    assert pool.free(small.number, 0.0) == []
    assert pool.take(MIB) is small
    assert pool.free(large.number, 0.0) == [large.number]
    assert pool.free(99, 0.0) == []
    pool.close()


def test_the_default_is_a_quarter_of_the_memory() -> None:
    assert default_arena_bytes() == max(64 * MIB, memory_limit_bytes() // 4)
