"""Cutting arrays into views, and their answers back into one array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore.client.arrays import (
    Joiner,
    block,
    check_array,
    check_axis,
    check_out,
    plan,
    snapshot,
)
from starcore.errors import ArgumentTypeError, ArgumentValueError, UntrustedError
from starcore.pickling import pack_answer, unpack_answer


@pytest.mark.parametrize("value", [[1, 2], 3.5, "a", None, (np.zeros(1),), np.float64(1)], ids=repr)
def test_what_is_no_array_is_refused_with_advice(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"numpy\.asarray"):
        check_array(value)


def test_an_array_of_objects_is_refused_with_advice() -> None:
    for array in (np.array([None]), np.zeros(2, [("a", object)])):
        with pytest.raises(ArgumentTypeError, match=r"holds Python objects: convert it with numpy\.asarray"):
            check_array(array)


def test_other_arrays_pass() -> None:
    for array in (np.zeros(()), np.ma.masked_array([1]), np.zeros(3, "M8[s]"), np.zeros(2, [("a", "i4")])):
        assert check_array(array) is array


# -- out ---------------------------------------------------------------------------------------------------------


def test_an_out_that_shares_memory_with_the_input_is_refused() -> None:
    whole = np.zeros(100)
    for out in (whole, whole[10:], whole[::-1], whole.reshape(10, 10), whole.view("u1")):
        with pytest.raises(ArgumentValueError, match="may share memory"):
            check_out(out, whole[:50])
    assert check_out(whole[50:], whole[:50]) is not None


def test_an_out_that_maps_the_same_bytes_of_a_file_is_refused(tmp_path: Path) -> None:
    np.zeros(1000).tofile(tmp_path / "data")
    first = np.memmap(tmp_path / "data", "f8", "r+")
    second = np.memmap(tmp_path / "data", "f8", "r+", offset=4000)
    with pytest.raises(ArgumentValueError, match="may share memory"):
        check_out(second, first)
    with pytest.raises(ArgumentValueError, match="may share memory"):
        check_out(second[:20], first[510:])
    assert check_out(second, first[:500]) is second
    assert check_out(second[20:], first[500:515]).shape == (480,)
    other = np.memmap(tmp_path / "other", "f8", "w+", shape=(1000,))
    assert check_out(other, first) is other


@pytest.mark.parametrize(
    ("out", "error"),
    [
        *(([1], ArgumentTypeError), (np.array([None]), ArgumentTypeError), (np.ma.zeros(3), ArgumentTypeError)),
        (np.broadcast_to(np.zeros(1), (3,)), ArgumentValueError),
    ],
    ids=repr,
)
def test_an_out_that_cannot_be_written_is_refused(out: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="`out`"):
        check_out(out, np.ones(3))


def test_a_snapshot_does_not_change_with_the_original() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    copy = snapshot(array)
    array[:] = 0
    assert copy.sum() == 66
    assert copy.flags.f_contiguous
    assert isinstance(snapshot(np.ma.masked_array([1], [True])), np.ma.MaskedArray)


# -- plans -------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(-2, 1), st.sampled_from("CF"))
def test_blocks_are_views_that_cover_the_axis(length: int, chunks: int, axis: int, order: Any) -> None:
    shape = (length, 3) if axis in (0, -2) else (3, length)
    array = np.asarray(np.arange(3 * length).reshape(shape), order=order)
    pieces = plan(array, min(chunks, length), axis)
    blocks = [block(array, piece, axis) for piece in pieces]
    assert np.array_equal(np.concatenate(blocks, axis), array)
    assert all(np.shares_memory(part, array) for part in blocks)
    assert {part.shape[axis] for part in blocks[:-1]} <= {min(chunks, length)}


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        *((0, ArgumentValueError), (-1, ArgumentValueError), (11, ArgumentValueError), (True, ArgumentValueError)),
        *((np.True_, ArgumentValueError), (2.0, ArgumentTypeError), ("all", ArgumentTypeError)),
        *((None, ArgumentTypeError), ((2, 3), ArgumentTypeError), (np.array([1, 2]), ArgumentTypeError)),
    ],
    ids=repr,
)
def test_chunks_that_cannot_be_are_refused(chunks: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="chunks"):
        plan(np.zeros((10, 20)), chunks)


@pytest.mark.parametrize(
    ("axis", "error"),
    [(2, ArgumentValueError), (-3, ArgumentValueError), (True, ArgumentTypeError), (0.0, ArgumentTypeError)],
)
def test_an_axis_that_is_not_there_is_refused(axis: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="axis"):
        plan(np.zeros((10, 20)), 1, axis)


def test_a_scalar_array_cannot_be_cut() -> None:
    with pytest.raises(ArgumentValueError, match="0-d array"):
        plan(np.zeros(()), 1)


def test_numpy_integers_are_integers() -> None:
    assert plan(np.zeros((4, 6)), np.int64(3), np.int8(-1)) == [slice(0, 3), slice(3, 6)]  # type: ignore[arg-type]
    assert check_axis(np.zeros((4, 6)), -1) == 1


@pytest.mark.parametrize("shape", [(0,), (0, 5)])
def test_an_empty_axis_is_one_empty_block_whatever_the_chunks(shape: tuple[int, ...]) -> None:
    assert plan(np.zeros(shape), 1) == plan(np.zeros(shape), 64) == [slice(0, 0)]
    with pytest.raises(ArgumentValueError, match="chunks is 0, and the axis has 0 rows: give 1 or more"):
        plan(np.zeros(shape), 0)


def test_pieces_may_grow_while_answers_come() -> None:
    array = np.arange(12.0).reshape(6, 2)
    pieces: list[slice] = []
    joiner = Joiner(pieces, length=6)
    for piece in (slice(0, 1), slice(1, 4), slice(4, 6)):
        pieces.append(piece)
        joiner.add(len(pieces) - 1, array[piece] + 1)
    assert np.array_equal(joiner.result(), array + 1)


# -- joining -----------------------------------------------------------------------------------------------------

Function = Callable[[np.ndarray[Any, Any]], Any]


def joined(
    fn: Function,
    array: np.ndarray[Any, Any],
    chunks: int,
    axis: int = 0,
    *,
    out: np.ndarray[Any, Any] | None = None,
    trust: bool = True,
    backwards: bool = False,
) -> Any:
    """The road of `submit_array` without the star: small answers inline, large ones streamed."""
    axis = check_axis(array, axis)
    pieces = plan(array, chunks, axis)
    joiner = Joiner(pieces, axis, out=out, trust=trust)
    order = range(len(pieces))
    for index in reversed(order) if backwards else order:
        assert not joiner.complete
        packed = pack_answer(fn(block(array, pieces[index], axis)))
        if packed.body_bytes:
            place = joiner.landing_for(index, packed.head, packed.body_bytes)
            place.buffer[:] = packed.read(0, packed.body_bytes)
            place.finish()
        else:
            joiner.add(index, unpack_answer(packed.head, trust=trust))
    assert joiner.complete
    return joiner.result()


FUNCTIONS: list[Function] = [
    *(
        np.negative,
        lambda a: a.astype("f4"),
        lambda a: a > 3,
        lambda a: a[..., None] * np.ones(2),
        lambda a: a.copy("F"),
    ),
    *(lambda a: np.concatenate([a, a], -1), lambda a: a.astype("U12"), lambda a: a.astype("M8[s]"), np.isnan),
]


@pytest.mark.parametrize("fn", FUNCTIONS, ids=range(len(FUNCTIONS)))
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(7, 6, 5), (40, 50, 60)], ids=str)
def test_the_joined_answer_is_the_answer_of_the_whole(fn: Function, axis: int, shape: tuple[int, ...]) -> None:
    array = np.arange(float(np.prod(shape))).reshape(shape)
    wanted = np.concatenate([fn(part) for part in np.array_split(array, shape[axis], axis)], axis)
    for backwards in (False, True):
        found = joined(fn, array, max(1, shape[axis] // 3), axis, backwards=backwards, trust=False)
        if axis != -1:
            assert np.array_equal(found, wanted)
        assert found.dtype == wanted.dtype
        assert found.flags.writeable
        out = np.empty_like(found)
        assert joined(fn, array, max(1, shape[axis] // 3), axis, out=out, backwards=backwards) is out
        assert np.array_equal(out, found)


@pytest.mark.parametrize(
    "fn", [lambda a: a[:1], lambda a: np.repeat(a, 2, 0), lambda a: a[a[:, 0] > 5], lambda a: a[:0]]
)
def test_answers_of_another_length_are_concatenated(fn: Function) -> None:
    array = np.arange(30.0).reshape(10, 3)
    wanted = np.concatenate([fn(array[start : start + 4]) for start in range(0, 10, 4)])
    for backwards in (False, True):
        found = joined(fn, array, 4, backwards=backwards)
        assert np.array_equal(found, wanted)
        out = np.empty(wanted.shape)
        assert joined(fn, array, 4, out=out, backwards=backwards) is out
        assert np.array_equal(out, wanted)


def test_answers_of_several_dtypes_are_promoted_as_numpy_does() -> None:
    found = joined(lambda a: a if a[0] < 4 else a.astype(complex), np.arange(8.0), 4)
    assert found.dtype == complex
    assert found.tolist() == list(range(8))


def test_masked_arrays_keep_their_masks() -> None:
    found = joined(lambda a: np.ma.masked_greater(a, 5), np.arange(8), 3)
    assert found.mask.tolist() == [False] * 6 + [True] * 2


def test_a_lone_block_is_its_answer() -> None:
    found = joined(lambda a: a.T, np.arange(12.0).reshape(3, 4), 3)
    assert found.shape == (4, 3)


def test_a_streamed_block_lands_in_its_slice_of_the_whole() -> None:
    out = np.zeros((4, 20_000))
    joiner = Joiner([slice(0, 2), slice(2, 4)], 0, out=out)
    packed = pack_answer(np.ones((2, 20_000)))
    place = joiner.landing_for(1, packed.head, packed.body_bytes)
    assert np.shares_memory(np.frombuffer(place.buffer, np.uint8), out[2:])
    place.buffer[:] = packed.read(0, packed.body_bytes)
    assert not joiner.complete
    place.finish()
    assert out.sum(1).tolist() == [0, 0, 20_000, 20_000]


def test_a_landing_that_was_given_up_can_be_made_again() -> None:
    joiner = Joiner([slice(0, 20_000)], 0, out=np.zeros(20_000))
    packed = pack_answer(np.ones(20_000))
    joiner.landing_for(0, packed.head, packed.body_bytes).buffer[:100] = bytes(100)
    place = joiner.landing_for(0, packed.head, packed.body_bytes)
    place.buffer[:] = packed.read(0, packed.body_bytes)
    place.finish()
    assert joiner.result().sum() == 20_000


@pytest.mark.parametrize("value", [1.0, None, [1, 2], (np.zeros(2),), np.float64(3)], ids=repr)
def test_an_answer_that_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentValueError, match=f"it returned {type(value).__name__}"):
        joined(lambda a: value, np.zeros(4), 2)


def test_an_answer_without_the_axis_is_refused() -> None:
    with pytest.raises(ArgumentValueError, match="an array that has this axis"):
        joined(lambda a: np.array(a.sum()), np.zeros(4), 2)
    with pytest.raises(ArgumentValueError, match="along axis 1"):
        joined(lambda a: a[:, 0], np.zeros((4, 4)), 2, 1)


def test_answers_that_do_not_fit_together_are_refused_naming_their_shapes() -> None:
    with pytest.raises(ArgumentValueError, match=r"cannot be joined along axis 0: \(2, 3\), \(2, 4\)"):
        joined(lambda a: np.zeros((2, 3 if a[0] == 0 else 4)), np.arange(4), 2)


@pytest.mark.parametrize(
    "out", [np.zeros((8, 3), "f4"), np.zeros((8, 4)), np.zeros(8), np.zeros((7, 3)), np.zeros((8, 3), ">f8")], ids=str
)
def test_an_out_that_does_not_fit_is_refused_naming_both(out: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ArgumentValueError, match=r"`out` is .* of shape .*answer is float64 of shape"):
        joined(np.negative, np.zeros((8, 3)), 2, out=out)


def test_a_misfit_shows_from_the_head_alone() -> None:
    packed = pack_answer(np.zeros((2, 20_000)))
    joiner = Joiner([slice(0, 2), slice(2, 4)], 0, out=np.zeros((4, 20_001)))
    with pytest.raises(ArgumentValueError, match="a block's answer"):
        joiner.landing_for(0, packed.head, packed.body_bytes)


def test_a_pickled_block_needs_trust() -> None:
    packed = pack_answer(np.ma.zeros(20_000))
    with pytest.raises(UntrustedError):
        Joiner([slice(0, 1)], trust=False).landing_for(0, packed.head, packed.body_bytes)
    assert joined(np.ma.array, np.arange(40_000.0), 20_000).sum() == np.arange(40_000.0).sum()


def test_answers_land_in_a_memmap(tmp_path: Path) -> None:
    out = np.memmap(tmp_path / "out", "f8", "w+", shape=(30_000,))
    assert joined(np.negative, np.arange(30_000.0), 10_000, out=out) is out
    assert np.array_equal(np.fromfile(tmp_path / "out"), -np.arange(30_000.0))


def test_padding_between_fields_is_joined_and_copied_too() -> None:
    padded = np.dtype([("flag", "?"), ("value", "f8")], align=True)
    array = np.ndarray(8, padded, bytearray(range(128)))
    joiner = Joiner(plan(array, 3))
    for index, piece in enumerate(plan(array, 3)):
        joiner.add(index, block(array, piece))
    for copy in (joiner.result(), snapshot(array)):
        assert copy.view("V16").tobytes() == bytes(range(128))
    assert snapshot(array[::-2]).view("V16").tobytes() == array.view("V16")[::-2].tobytes()
