"""Runs are cut, never unpacked; answers stay on the shelf until they are confirmed."""

from __future__ import annotations

from array import array

import pytest

from starcore.messages import BATCH_TASKS_MAX, Assign
from starcore.worker.runs import SEGMENT_BYTES_MIN, Answers, Run, Shelf, runs_of, segment_bytes


def run(count: int = 5) -> Run:
    sizes = array("I", range(1, count + 1))
    return Run(100, 1, 7, 2, sizes, b"".join(bytes([65 + i]) * (i + 1) for i in range(count)))


def answers(*leases: int, bodies: tuple[int, ...] = ()) -> Answers:
    found = Answers()
    heads = b"".join(b"%03d" % lease for lease in leases)
    found.add(leases, bytes(len(leases)), array("d", [1.0] * len(leases)), array("I", [3] * len(leases)), heads)
    found.bodies = dict.fromkeys(bodies, (1, 1000))
    return found


def test_a_cut_has_its_own_leases_indices_and_heads() -> None:
    piece = run().cut(1, 3)
    assert (list(piece.leases), piece.first, piece.attempt) == ([101, 102], 8, 2)
    assert bytes(piece.heads) == b"BBCCC"


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ({100}, [[101, 102, 103, 104]]),
        ({102}, [[100, 101], [103, 104]]),
        ({104, 999}, [[100, 101, 102, 103]]),
        ({100, 101, 102, 103, 104}, []),
        (set(), [[100, 101, 102, 103, 104]]),
    ],
)
def test_what_is_left_of_a_run_without_some_leases(gone: set[int], left: list[list[int]]) -> None:
    assert [list(piece.leases) for piece in run().without(gone)] == left


def test_a_batch_is_bounded_by_tasks_and_by_bytes_and_is_never_empty() -> None:
    assert run().fitting(3) == 3
    assert run().fitting(5, 6) == 3
    assert run().fitting(5, 0) == 1


def test_tasks_with_a_body_stand_alone() -> None:
    message = Assign(100, 1, 7, 1, array("I", [1] * 5), array("Q", [0, 0, 9, 8, 0]), b"abcde")
    found = [(list(r.leases), r.body_bytes, bytes(r.heads)) for r in runs_of(message)]
    assert found == [([100, 101], 0, b"ab"), ([102], 9, b"c"), ([103], 8, b"d"), ([104], 0, b"e")]


def test_size_classes_waste_a_quarter_at_most() -> None:
    for size in (1, 65536, 65537, 100_000, 5 << 20, (5 << 20) + 1, 123_456_789, 1 << 33):
        rounded = segment_bytes(size)
        assert size <= rounded <= max(SEGMENT_BYTES_MIN, size * 5 // 4)
        assert rounded % 4096 == 0


def test_what_was_sent_as_one_is_confirmed_as_one() -> None:
    shelf = Shelf()
    shelf.put(answers(1, 2, bodies=(2,)))
    shelf.put(answers(3))
    assert shelf.confirm(array("Q", [1, 2])) == [2]
    assert (list(shelf.leases), len(shelf), 3 in shelf) == ([3], 1, True)


def test_confirmations_across_messages_take_what_they_name() -> None:
    shelf = Shelf()
    shelf.put(answers(1, 2, 3, bodies=(3,)))
    shelf.put(answers(4, 5, bodies=(4,)))
    assert shelf.confirm(array("Q", [2, 4, 99])) == [4]
    assert list(shelf.leases) == [1, 3, 5]
    first = next(iter(shelf)).message()
    assert (bytes(first.heads), list(first.body_sizes)) == (b"001003", [0, 1000])
    assert shelf.clear() == [3]
    assert not shelf


def test_a_message_without_bodies_says_no_sizes() -> None:
    assert len(answers(1, 2).message().body_sizes) == 0


def test_answers_are_full_before_a_message_is_too_large() -> None:
    found = answers(1)
    assert not found.full(BATCH_TASKS_MAX - 1, 0)
    assert found.full(BATCH_TASKS_MAX, 0)
    assert found.full(1, 256 << 10)
    assert not Answers().full(1, 1 << 30)
