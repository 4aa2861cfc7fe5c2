"""Heads and bodies: the four places, reading at every split, and sizes that lie."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore.errors import FrameError
from starcore.layouts import Segments, Strided
from starcore.messages import HEAD_BYTES_MAX
from starcore.payloads import ALIGNMENT, BARE, BODY, INLINE, SPILLED, Packed, seal, tag_of, unseal


def body_of(packed: Packed) -> bytearray:
    return bytearray(packed.read(0, packed.body_bytes))


@pytest.mark.parametrize(
    ("text_bytes", "segment_bytes", "place"),
    [
        *((0, [], BARE), (HEAD_BYTES_MAX - 2, [], BARE), (HEAD_BYTES_MAX - 1, [], SPILLED)),
        *((10, [1, 0, 65], INLINE), (10, [HEAD_BYTES_MAX - 28], INLINE), (10, [HEAD_BYTES_MAX - 27], BODY)),
        *((HEAD_BYTES_MAX - 21, [8, 8], SPILLED), (HEAD_BYTES_MAX - 22, [99], BODY), (0, [8] * 20_000, SPILLED)),
    ],
)
def test_a_payload_goes_where_it_fits_and_comes_back(text_bytes: int, segment_bytes: list[int], place: int) -> None:
    text = bytes(text_bytes)
    segments: Segments = [memoryview(bytes([index % 251]) * size) for index, size in enumerate(segment_bytes)]
    packed = seal(5, text, list(segments))
    assert tag_of(packed.head) == (5, place)
    assert len(packed.head) <= HEAD_BYTES_MAX
    tag, found, pieces = unseal(packed.head, memoryview(body_of(packed)))
    assert (tag, bytes(found)) == (5, text)
    assert [bytes(piece) for piece in pieces] == [bytes(segment) for segment in segments]  # type: ignore[arg-type]
    assert all(not piece.readonly for piece in pieces)


def test_segments_of_a_body_are_aligned_and_borrowed() -> None:
    arrays = [np.full(size, 7, np.uint8) for size in (140_000, 1, 100)]
    packed = seal(5, b"", [memoryview(array) for array in arrays])
    assert packed.body_bytes == 140_032 + ALIGNMENT + 100
    arrays[0][5] = 9
    assert bytes(packed.read(4, 3)) == b"\7\11\7"
    assert np.shares_memory(np.frombuffer(packed.read(0, 100), np.uint8), arrays[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.data())
def test_a_body_reads_the_same_at_every_split(sizes: list[int], data: st.DataObject) -> None:
    segments: Segments = []
    whole = bytearray()
    for index, size in enumerate(sizes):
        array = (np.arange(2 * size) + index).astype(np.uint8)[::2]
        segments.append(Strided(array) if index % 2 and size else memoryview(array.tobytes()))
        whole += bytes(-len(whole) % ALIGNMENT) + array.tobytes()
    packed = Packed(b"", segments)
    assert packed.body_bytes == len(whole)
    offset = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - offset))
    assert bytes(packed.read(offset, length)) == whole[offset : offset + length]
    destination = bytearray(len(whole))
    packed.copy_into(destination)
    assert destination == whole


def test_reading_beyond_the_body_is_refused() -> None:
    packed = Packed(b"", [memoryview(bytes(10))])
    for offset, length in ((0, 11), (-1, 2), (11, 0), (5, -1)):
        with pytest.raises(ValueError, match="of a body of 10 bytes"):
            packed.read(offset, length)


def u32(count: int) -> bytes:
    return struct.pack("<I", count)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        *((b"", b""), (b"\5", b""), (b"\5\7", b""), (bytes([5, BARE]), b"x"), (bytes([5, INLINE]), b"")),
        (bytes([5, INLINE]) + u32(4) + u32(2**32 - 1), b""),
        (bytes([5, INLINE]) + u32(12) + u32(1) + struct.pack("<Q", 9) + bytes(8), b""),
        (bytes([5, INLINE]) + u32(12) + u32(1) + struct.pack("<Q", 8) + bytes(9), b""),
        (bytes([5, INLINE]) + u32(2**31) + u32(0), b""),
        (bytes([5, BODY]) + u32(1) + struct.pack("<Q", 2**60), bytes(100)),
        (bytes([5, BODY]) + u32(2) + struct.pack("<QQ", 50, 50), bytes(100)),
        (bytes([5, BODY]) + u32(0), b"x"),
        (bytes([5, SPILLED]) + struct.pack("<Q", 2**63), bytes(100)),
        (bytes([5, SPILLED]) + struct.pack("<Q", 4), u32(1)),
        (bytes([5, SPILLED]) + bytes(7), b""),
    ],
)
def test_sizes_that_lie_are_a_frame_error(head: bytes, body: bytes) -> None:
    with pytest.raises(FrameError):
        unseal(head, memoryview(body))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=80), st.sampled_from([BARE, INLINE, BODY, SPILLED]))
def test_arbitrary_heads_open_or_are_a_frame_error(rest: bytes, body: bytes, place: int) -> None:
    try:
        unseal(bytes([5, place]) + rest, memoryview(body))
    except FrameError:
        return
