"""Arrays as header and memory: every dtype family there and back, and headers that nobody should believe."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from starcore.errors import FrameError
from starcore.layouts import (
    NotPlainError,
    Segments,
    Strided,
    describe,
    get_array,
    is_plain_array,
    parse_dtype,
    put_array,
)

DTYPES = [
    *"?bBhHiIlLqQefdgFDG",
    *[">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"],
    *["S5", "U3", ">U3", "V7", "M8[ns]", "M8[25s]", "m8[D]", "M8", "m8", ">M8[us]", "m8[3Y]"],
    [("a", "<i4"), ("b", ">f8")],
    [("a", "i1"), ("nested", [("x", "f4", (2, 3)), ("t", "M8[ms]")])],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    {"names": ["late", "early"], "formats": ["i4", "i2"], "offsets": [8, 0], "itemsize": 20},
    {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 1], "titles": ["A title", None]},
    np.dtype((np.record, [("a", "i4")])),
    [("ünï", "S2"), ("empty", "S0"), ("whole", "U4")],
]
every_dtype = pytest.mark.parametrize("dtype", [np.dtype(d) for d in DTYPES], ids=str)


class Sub(np.ndarray):  # type: ignore[type-arg]
    pass


def there_and_back(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    segments: Segments = []
    header = b"before" + put_array(array, segments) + b"after"
    spec, end = get_array(memoryview(header), 6)
    assert header[end:] == b"after"
    segment = segments[spec.segment]
    octets = bytes(segment.read(0, segment.nbytes) if isinstance(segment, Strided) else segment)
    assert spec.nbytes == len(octets)
    return spec.view(memoryview(bytearray(octets)))


def assert_same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert found.dtype == wanted.dtype
    assert found.dtype.byteorder == wanted.dtype.byteorder
    assert found.dtype.isalignedstruct == wanted.dtype.isalignedstruct
    assert found.dtype.char == wanted.dtype.char
    assert found.dtype.type is wanted.dtype.type
    assert found.shape == wanted.shape
    assert raw(found) == raw(wanted)
    assert found.flags.writeable


def raw(array: np.ndarray[Any, Any]) -> bytes:
    """Every byte, also those between the fields, which numpy's own copies leave out."""
    return array.view(f"V{array.itemsize}").tobytes()


def bytes_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of arbitrary but valid items: NaNs, NaTs and padding included, no code point beyond Unicode."""
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    octets = bytes(i * 37 % 251 for i in range(count))
    if "U" in str(dtype):
        octets = bytes(len(octets))
    return np.frombuffer(octets, dtype, count // dtype.itemsize).reshape(shape)


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (3, 4), (2, 3, 4)], ids=str)
def test_an_array_comes_back_with_the_same_bytes_dtype_and_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    array = bytes_of(dtype, shape) if 0 not in shape else np.empty(shape, dtype)
    assert_same(there_and_back(array), array)


@every_dtype
def test_a_strided_array_comes_back_in_c_order(dtype: np.dtype[Any]) -> None:
    array = bytes_of(dtype, (6, 8))[::-2, 1::3]
    assert_same(there_and_back(array), array)


@every_dtype
def test_a_fortran_ordered_array_stays_so(dtype: np.dtype[Any]) -> None:
    array = bytes_of(dtype, (4, 6)).T
    found = there_and_back(array)
    assert_same(found, array)
    assert found.flags.f_contiguous


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    npst.arrays(
        dtype=st.one_of(npst.scalar_dtypes(), npst.nested_dtypes(max_itemsize=64)),
        shape=npst.array_shapes(min_dims=0, max_dims=4, max_side=4),
    )
)
def test_any_array_of_hypothesis_comes_back(array: np.ndarray[Any, Any]) -> None:
    if is_plain_array(array):
        found = there_and_back(array)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_strided_segment_reads_at_every_offset(data: st.DataObject) -> None:
    base = np.arange(7 * 5 * 3, dtype=data.draw(st.sampled_from(["u1", ">i2", "f8", "c16"]))).reshape(7, 5, 3)
    array = base.transpose(2, 0, 1)[:, :: data.draw(st.sampled_from([1, 2, -1, -3]))]
    whole = array.tobytes()
    offset = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - offset))
    assert bytes(Strided(array).read(offset, length)) == whole[offset : offset + length]


def test_a_contiguous_array_is_not_copied() -> None:
    for array in (np.zeros((50, 50)), np.zeros((50, 50), order="F"), np.zeros(9, "M8[s]")):
        segments: Segments = []
        put_array(array, segments)
        array.reshape(-1, order="A").view(np.uint8)[...] = 7
        assert bytes(segments[0]) == b"\7" * array.nbytes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(object),
        np.dtype([("a", object)]),
        np.dtype("f8", metadata={"unit": "m"}),
        np.dtype([("a", np.dtype("f8", metadata={"unit": "m"}))]),
        np.dtype([("a", [("b", np.dtype("i4", metadata={1: 2}), (2,))])]),
        np.dtype("V0"),
        np.dtype([]),
        np.dtype({"names": ["a"], "formats": ["i4"], "titles": [7]}),
    ],
    ids=str,
)
def test_a_dtype_that_only_pickle_can_carry_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(NotPlainError):
        describe(dtype)


def test_a_dtype_with_metadata_is_refused_even_after_its_equal_was_accepted() -> None:
    describe(np.dtype("f8"))
    with pytest.raises(NotPlainError):
        describe(np.dtype("f8", metadata={"a": 1}))


def test_subclasses_are_no_plain_arrays_except_memmaps(tmp_path: Any) -> None:
    assert is_plain_array(np.memmap(tmp_path / "map", "f4", "w+", shape=(3,)))
    assert not is_plain_array(np.array([1]).view(Sub))
    assert not is_plain_array(np.ma.masked_array([1]))
    assert not is_plain_array([1])


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"O", b"|O", b"|O8", b"<f8,O", b"<f8,<f8", b"f8", b"<V-1", b"<S99999999999", b"<f7", b"object"),
        *(b"<M8[parsec]", b"<M8[99999999999s]", b"\xff\xfe", b"{", b"[]", b"{}", b"null", b"7", b'"<f8,O"', b'"|O"'),
        b'{"base":"<f8","shape":[-1]}',
        b'{"base":"<f8","shape":[4611686018427387904,4611686018427387904]}',
        b'{"base":"<f8","shape":"ab"}',
        b'{"names":["a"],"formats":["|O"],"offsets":[0],"titles":[null],"itemsize":8,"aligned":false,"record":false}',
        b'{"names":["a"],"formats":["<i4"],"offsets":[6],"titles":[null],"itemsize":8,"aligned":false,"record":false}',
        b'{"names":["a"],"formats":["<i4"],"offsets":[-4],"titles":[null],"itemsize":8,"aligned":false,"record":false}',
        b'{"names":["a","a"],"formats":["<i4","<i4"],"offsets":[0,4],"titles":[null],"itemsize":8,"aligned":0,"record":0}',
        b'{"base":' * 20 + b'"<f8"' + b',"shape":[1]}' * 20,
        b'{"base":' * 5000,
        b"[" * 100_000,
    ],
)
def test_a_hostile_dtype_is_a_frame_error(text: bytes) -> None:
    with pytest.raises(FrameError):
        parse_dtype(text)


def header(*, order: bytes = b"C", shape: tuple[int, ...] = (2,), text: bytes = b"<f8") -> memoryview:
    octets = struct.pack("<IcB", 0, order, len(shape)) + struct.pack(f"<{len(shape)}QH", *shape, len(text)) + text
    return memoryview(octets)


def test_a_header_that_is_cut_off_is_a_frame_error() -> None:
    whole = header()
    for length in range(len(whole)):
        with pytest.raises(FrameError):
            get_array(whole[:length], 0)


@pytest.mark.parametrize(
    "octets",
    [header(order=b"K"), header(text=b"|V0"), header(text=json.dumps("<U0").encode())],
)
def test_a_header_that_cannot_be_is_a_frame_error(octets: memoryview) -> None:
    with pytest.raises(FrameError):
        get_array(octets, 0)


@pytest.mark.parametrize("shape", [(2**63,), (2**64 - 1, 0), (1,) * 200, (2**40, 0, 2**40), (0,) * 65])
def test_a_shape_that_cannot_be_is_a_frame_error(shape: tuple[int, ...]) -> None:
    spec, _ = get_array(header(shape=shape), 0)
    with pytest.raises(FrameError):
        spec.view(memoryview(bytearray(16)))
