"""Plain values: everything comes back as it was, and no bytes of a stranger's do anything but fail."""

from __future__ import annotations

import contextlib
import enum
import math
import struct
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from starcore.errors import FrameError
from starcore.layouts import NotPlainError, Segments, Strided
from starcore.plain import DEPTH_MAX, decode, encode

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]), max_size=3)
    | st.binary()
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
values = st.recursive(
    scalars
    | st.lists(st.floats(), min_size=7, max_size=10)
    | st.lists(st.integers(-(2**63), 2**64), min_size=7, max_size=10).map(tuple),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def there_and_back(value: Any) -> Any:
    segments: Segments = []
    text = encode(value, segments)
    return decode(text, [received(segment) for segment in segments])


def received(segment: memoryview | Strided) -> memoryview:
    octets = segment.read(0, segment.nbytes) if isinstance(segment, Strided) else segment
    return memoryview(bytearray(octets))


def same(one: Any, other: Any) -> bool:
    """Equal in value and type all the way down; NaN is NaN, and 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return bool(one == other)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_a_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)


@settings(max_examples=60, deadline=None)
@given(npst.arrays(npst.scalar_dtypes(), ()).map(lambda array: array[()]))
def test_a_numpy_scalar_comes_back_with_its_type(value: Any) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        *(np.float64("nan"), np.float16(1), np.longdouble(1) / 3, np.complex64(1j), np.bool_(True), np.longlong(-1)),
        *(np.datetime64("2026-11-23T01:02:03", "ms"), np.datetime64("NaT"), np.timedelta64(3, "W"), np.void(b"abc")),
        *(np.str_("tail\0"), np.str_(""), np.bytes_(b"tail\0"), np.str_("\ud800"), np.intc(4), np.ulonglong(5)),
        np.zeros((), [("a", ">i4"), ("b", "U2")])[()],
    ],
    ids=repr,
)
def test_numpy_scalars_of_every_family_come_back(value: Any) -> None:
    found = there_and_back((value, {"key": value}))
    assert same(found, (value, {"key": value}))


def test_arrays_inside_containers_come_back_writable() -> None:
    value = {"a": np.arange(5), "b": [np.zeros((2, 3), order="F"), np.arange(9)[::2]], ("c", 1): np.array("x")}
    found = there_and_back(value)
    assert same(found, value)
    assert found["a"].flags.writeable
    assert found["b"][1].flags.writeable


def test_long_bytes_travel_as_a_segment() -> None:
    octets = bytes(100_000)
    segments: Segments = []
    assert len(encode([octets, octets], segments)) < 100
    assert len(segments) == 1
    assert there_and_back([octets, octets]) == [octets, octets]


def test_what_is_shared_stays_shared() -> None:
    row, array, text, pair = [1], np.arange(3), "x" * 100, (1, [2])
    found = there_and_back([row, row, {"a": array, "b": array}, text, text, pair, pair])
    assert found[0] is found[1]
    assert found[2]["a"] is found[2]["b"]
    assert found[3] is found[4]
    assert found[5] is found[6]


def test_recursive_lists_and_dicts_come_back() -> None:
    ring: list[Any] = [1]
    ring.append({"ring": ring})
    found = there_and_back(ring)
    assert found[1]["ring"] is found


def test_shared_tuples_do_not_grow_the_text() -> None:
    pair: Any = (0.5,)
    for _ in range(DEPTH_MAX - 2):
        pair = (pair, pair)
    assert len(encode(pair, [])) < 1000


class Colour(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


class Sub(np.ndarray):
    pass


class Float64(np.float64):
    pass


def tuple_in_itself() -> tuple[Any, ...]:
    ring: list[Any] = []
    pair = (ring, 1)
    ring.append(pair)
    return pair


@pytest.mark.parametrize(
    "value",
    [
        *(Colour.RED, Point(1, 2), OrderedDict(a=1), {1, 2}, frozenset(), bytearray(b"a"), range(3), object(), int),
        *(
            np.array([None]),
            np.array([1]).view(Sub),
            np.ma.masked_array([1]),
            Float64(1),
            np.void(b""),
            tuple_in_itself(),
        ),
        *(ValueError("x"), lambda: 1, True.__class__, Ellipsis, slice(1), memoryview(b"a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused_and_leaves_no_segment(value: Any) -> None:
    segments: Segments = []
    with pytest.raises(NotPlainError):
        encode([np.arange(3), value], segments)
    assert segments == []


def test_what_is_nested_too_deeply_is_not_plain() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX):
        deep = [deep]
    assert there_and_back(deep) == deep
    with pytest.raises(NotPlainError):
        encode([deep], [])


def u32(count: int) -> bytes:
    return struct.pack("<I", count)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"?", b"NN", b"i1234567", b"I" + u32(2**32 - 1), b"s" + u32(5) + b"abc", b"s" + u32(1) + b"\xff"),
        *(b"l" + u32(2**32 - 1), b"t" + u32(3) + b"NN", b"D" + u32(1) + b"N", b"L" + u32(2**32 - 1), b"V" + u32(1)),
        *(b"r" + u32(0), b"t" + u32(1) + b"r" + u32(0), b"l" + u32(1) + b"r" + u32(9), b"a", b"a" + u32(0)),
        *(b"D" + u32(1) + b"l" + u32(0) + b"N", b"D" + u32(1) + b"D" + u32(0) + b"N", b"B" + u32(0), b"B" + u32(7)),
        *(b"n" + u32(3) + b"<f8" + b"1234567", b"n" + u32(2) + b"|O" + bytes(8), b"w" + u32(1) + b"\xff"),
        (b"l" + u32(1)) * 100 + b"N",
        (b"t" + u32(1)) * 5000 + b"N",
        (b"D" + u32(1) + b"N") * 100 + b"N",
        b"l" + u32(2) + b"l" + u32(0) + b"D" + u32(1) + b"t" + u32(1) + b"r" + u32(1) + b"N",
    ],
)
def test_hostile_bytes_are_a_frame_error(text: bytes) -> None:
    with pytest.raises(FrameError):
        decode(text, [])


def test_a_segment_is_used_once() -> None:
    with pytest.raises(FrameError):
        decode(b"l" + u32(2) + (b"B" + u32(0)) * 2, [memoryview(bytes(10))])


def test_an_array_of_another_size_than_its_segment_is_a_frame_error() -> None:
    segments: Segments = []
    text = encode([np.arange(4)], segments)
    for octets in (b"", bytes(31), bytes(33)):
        with pytest.raises(FrameError):
            decode(text, [memoryview(bytearray(octets))])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values, st.data())
def test_a_flipped_or_cut_text_either_decodes_or_is_a_frame_error(value: Any, data: st.DataObject) -> None:
    text = bytearray(encode(value, []))
    place = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        del text[place:]
    else:
        text[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        decode(bytes(text), [])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([b"l", b"t", b"D", b"r", b"N", b"s", b"n", b"a", b"L", u32(0), u32(1), u32(3), b"<f8"]))
)
def test_arbitrary_letters_either_decode_or_are_a_frame_error(letters: list[bytes]) -> None:
    with contextlib.suppress(FrameError):
        decode(b"".join(letters), [memoryview(bytearray(8))])
