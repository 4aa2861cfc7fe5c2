"""Small values packed in C: byte for byte what `plain.py` writes, and no bytes of a stranger's do anything but fail."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore._framing import pack_scalar, pack_scalars, unpack_scalar_run, unpack_scalars
from starcore.plain import decode, encode

PREFIX = b"\x21\x00"
OTHER = object()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), max_size=30)
    | st.binary(max_size=30)
)
sequences = st.lists(scalars, max_size=12)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and repr(one) == repr(other)


def read(head: bytes) -> Any:
    return unpack_scalar_run(head, array("I", [len(head)]), PREFIX, OTHER)[0]


@settings(max_examples=300, deadline=None)
@given(scalars)
def test_a_scalar_is_written_as_plain_writes_it_and_comes_back(value: Any) -> None:
    head = pack_scalar(value, PREFIX)
    assert head == PREFIX + encode(value, [])
    assert same(read(head), value)


@settings(max_examples=300, deadline=None)
@given(sequences | sequences.map(tuple))
def test_a_sequence_is_written_as_plain_writes_it_or_left_to_it(value: Any) -> None:
    head = pack_scalars(value, PREFIX)
    if head is None:
        assert len(value) >= 8
        assert set(map(type, value)) in ({int}, {float})
    else:
        assert head == PREFIX + encode(value, [])
        assert same(unpack_scalars(head, PREFIX), value)


@settings(max_examples=200, deadline=None)
@given(sequences)
def test_what_plain_wrote_is_read_alike(value: list[Any]) -> None:
    found = unpack_scalars(PREFIX + encode(value, []), PREFIX)
    assert found is None or same(found, decode(encode(value, []), []))


class Number(int):
    """No plain int: its type would be lost."""


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, Number(3), [1], (1,), "x" * (8 << 10), b"x" * (8 << 10)])
def test_what_is_no_small_scalar_is_left_to_plain(value: Any) -> None:
    assert pack_scalar(value, PREFIX) is None
    assert pack_scalars([value], PREFIX) is None


@pytest.mark.parametrize("value", ["x" * 64, b"x" * 64, "é" * 64])
def test_texts_that_plain_numbers_are_left_to_it_among_others(value: Any) -> None:
    assert pack_scalars((value,), PREFIX) is None
    assert pack_scalar(value, PREFIX) == PREFIX + encode(value, [])


@pytest.mark.parametrize("value", [{}, {1: 2}, iter(()), 7])
def test_only_lists_and_tuples_are_sequences(value: Any) -> None:
    assert pack_scalars(value, PREFIX) is None


@settings(max_examples=200, deadline=None)
@given(sequences.map(lambda items: [*items, "end"]), st.data())
def test_every_cut_and_every_byte_too_many_is_nobodys_scalar(value: list[Any], data: st.DataObject) -> None:
    head = pack_scalars(value, PREFIX)
    assert head is not None
    for end in range(len(head)):
        assert unpack_scalars(head[:end], PREFIX) is None
    assert unpack_scalars(head + data.draw(st.binary(min_size=1)), PREFIX) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_bytes_of_a_stranger_are_read_as_plain_reads_them_or_not_at_all(text: bytes) -> None:
    for found in (read(PREFIX + text), unpack_scalars(PREFIX + text, PREFIX)):
        assert found is OTHER or found is None or same(found, decode(text, []))


def test_a_count_that_lies_allocates_nothing() -> None:
    assert unpack_scalars(PREFIX + b"l\xff\xff\xff\xff" + b"N" * 10, PREFIX) is None


def test_each_head_of_a_run_is_read_where_the_one_before_should_have_ended() -> None:
    heads = [PREFIX + b"N", b"", PREFIX + b"Nx", PREFIX + b"s\x09\0\0\0ab", b"\x23\0N", PREFIX + encode(5, [])]
    found = unpack_scalar_run(b"".join(heads), array("I", map(len, heads)), PREFIX, OTHER)
    assert found == [None, OTHER, OTHER, OTHER, OTHER, 5]


def test_a_run_shorter_than_its_sizes_is_a_fault_of_our_own() -> None:
    with pytest.raises(ValueError, match="shorter than their sizes"):
        unpack_scalar_run(b"abc", array("I", [4]), PREFIX, OTHER)
    with pytest.raises(TypeError):
        unpack_scalar_run(b"abc", array("Q", [3]), PREFIX, OTHER)
