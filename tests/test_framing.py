"""Frames at every split point against the slow reference; limits; memory without a copy; segments."""

from __future__ import annotations

import itertools
import os
import struct
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import reference_framing as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore import _framing
from starcore._framing import FrameReader, Region, Segment, chunk_header, index_range, memory
from starcore.errors import FrameError
from starcore.messages import (
    BODY_BYTES_MAX,
    CHUNK_BYTES_MAX,
    FRAME_META_BYTES_MAX,
    FRAME_PAYLOAD_BYTES_MAX,
    GREETING_BYTES_MAX,
    KIND_MAX,
)

SCRATCH_BYTES = 64 << 10


class Peer:
    """A frame reader with its callbacks: what it was told, as the reference tells it."""

    def __init__(
        self, *, greeting: bool = False, discard: Iterable[int] = (), scratch: Region | None = None
    ) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.discard = set(discard)
        self.handed: list[int] = []
        self.landed: list[bytearray] = []
        self.reader = FrameReader(self.deliver, self.destination, self.arrived, greeting, scratch)

    def deliver(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        self.events.append(("frame", kind, bytes(meta), bytes(payload)))

    def destination(self, stream: int, attempt: int, offset: int, length: int) -> bytearray | None:
        if stream in self.discard:
            return None
        self.landed.append(bytearray(length))
        return self.landed[-1]

    def arrived(self, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        data = b"" if token is None else bytes(token)
        assert token is None or token is self.landed[-1]
        assert len(data) in {0, length}
        self.events.append(("chunk", stream, attempt, offset, data))

    def feed(self, data: bytes, sizes: Iterable[int] = ()) -> None:
        """Give it the bytes in pieces of these sizes and, when they are used up, as it asks for them."""
        pieces = iter(sizes)
        while data:
            view = self.reader.get_buffer()
            assert len(view) > 0
            self.handed.append(len(view))
            size = min(len(view), len(data), next(pieces, len(data)))
            view[:size] = data[:size]
            data = data[size:]
            self.reader.advance(size)


def payloads(largest: int) -> st.SearchStrategy[bytes]:
    """Short bytes, and long ones that cost hypothesis nothing."""
    return st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda size, seed: (bytes([seed]) + b"abcdefg") * (size // 8 + 1), st.integers(0, largest), st.just(7)
        ),
    ).map(lambda data: data[:largest])


FRAMES = st.one_of(
    st.builds(
        reference.frame, st.integers(1, KIND_MAX).filter(lambda kind: kind != 5), st.binary(max_size=60), payloads(200)
    ),
    st.builds(
        reference.chunk,
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, BODY_BYTES_MAX - CHUNK_BYTES_MAX),
        payloads(300).filter(bool),
    ),
)


def told(data: bytes, sizes: Iterable[int] = (), *, greeting: bool = False) -> list[tuple[Any, ...]]:
    """Return what a reader tells of these bytes."""
    peer = Peer(greeting=greeting)
    try:
        peer.feed(data, sizes)
    except FrameError:
        peer.events.append(("wrong",))
    return peer.events


# -- every split point ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=5), st.binary(max_size=15), st.data())
def test_frames_are_told_as_by_the_reference_however_they_are_cut(frames, tail, data):
    stream = b"".join(frames) + b"SC\x01\x00"[: len(tail)]
    expected = reference.read(stream)
    assert len(expected) == len(frames)
    assert told(stream) == expected
    assert told(stream, itertools.repeat(1)) == expected
    assert told(stream, data.draw(st.lists(st.integers(1, 80), max_size=60))) == expected


def test_three_frames_are_told_alike_at_every_two_split_points():
    stream = reference.frame(4) + reference.chunk(9, 1, 8, b"chunk data") + reference.frame(33, b"meta", b"payload")
    expected = reference.read(stream)
    for first in range(1, len(stream)):
        for second in range(1, len(stream) - first + 1):
            assert told(stream, [first, second]) == expected


@pytest.mark.parametrize("piece", [1 << 12, SCRATCH_BYTES - 1, SCRATCH_BYTES, SCRATCH_BYTES + 1, 1 << 22])
def test_large_frames_between_small_ones_are_told_alike(piece):
    meta, payload = os.urandom(FRAME_META_BYTES_MAX), os.urandom(FRAME_PAYLOAD_BYTES_MAX)
    data = os.urandom(CHUNK_BYTES_MAX)
    stream = b"".join(
        [
            reference.frame(4),
            reference.frame(16, meta, payload),
            reference.chunk(1, 0, 0, data),
            reference.chunk(1, 0, len(data), data[:1]),
            reference.frame(16, b"", payload[: SCRATCH_BYTES - 16]),
            reference.frame(16, b"", payload[: SCRATCH_BYTES - 15]),
            reference.frame(4),
        ]
    )
    assert told(stream, itertools.repeat(piece)) == reference.read(stream)


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=3), st.integers(0, 45), st.integers(0, 7), st.booleans())
def test_frames_with_a_bit_flipped_are_judged_as_by_the_reference(frames, at, bit, greeting):
    stream = bytearray(b"".join([*frames, reference.chunk(1, 2, 3, b"0123456789")]))
    stream[min(at, len(stream) - 1)] ^= 1 << bit
    expected = reference.read(bytes(stream), greeting=greeting)
    assert told(bytes(stream), greeting=greeting) == expected
    assert told(bytes(stream), itertools.repeat(7), greeting=greeting) == expected


# -- chunks --------------------------------------------------------------------------------------------------


def test_chunk_data_is_received_into_its_destination_itself():
    peer = Peer()
    data = os.urandom(CHUNK_BYTES_MAX)
    peer.feed(reference.chunk(1, 0, 0, data)[:50])
    view = peer.reader.get_buffer()
    assert len(view) == CHUNK_BYTES_MAX - 10
    view[:3] = b"new"
    assert peer.landed[0][10:13] == b"new"
    peer.reader.advance(3)
    assert len(peer.reader.get_buffer()) == CHUNK_BYTES_MAX - 13


def test_between_chunks_no_more_than_a_chunk_header_is_asked_for():
    peer = Peer()
    whole = reference.chunk(1, 0, 0, bytes(1000))
    peer.feed(whole * 3, itertools.chain([500], itertools.repeat(1 << 20)))
    assert peer.handed == [SCRATCH_BYTES, 540, 40, 1000, 40, 1000]
    peer.feed(reference.frame(4)[:8])
    assert peer.handed[-1] == 40
    peer.feed(reference.frame(4)[8:])
    assert peer.handed[-1] == 32
    assert len(peer.reader.get_buffer()) == SCRATCH_BYTES


def test_chunk_that_nobody_wants_is_thrown_away():
    peer = Peer(discard=[1])
    stream = reference.chunk(1, 0, 0, bytes(CHUNK_BYTES_MAX)) + reference.chunk(2, 0, 0, b"kept") + reference.frame(4)
    peer.feed(stream, itertools.repeat(70_000))
    assert peer.events == [("chunk", 1, 0, 0, b""), ("chunk", 2, 0, 0, b"kept"), ("frame", 4, b"", b"")]


def test_destination_may_be_any_writable_memory_without_gaps():
    target = np.zeros((2, 4), np.float32, order="F")
    reader = FrameReader(lambda *_: None, lambda *_: target, lambda *_: None, False)
    stream = reference.chunk(1, 0, 0, np.arange(8, dtype=np.float32).tobytes())
    view = reader.get_buffer()
    view[: len(stream)] = stream
    reader.advance(len(stream))
    assert target.ravel(order="F").tolist() == list(range(8))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (bytearray(9), ValueError),
        (bytes(10), ValueError),
        (memoryview(bytearray(20))[::2], ValueError),
        (7, TypeError),
    ],
    ids=["short", "read-only", "gaps", "number"],
)
def test_destination_of_the_wrong_size_or_kind_is_refused(target, error):
    reader = FrameReader(lambda *_: None, lambda *_: target, lambda *_: None, False)
    stream = reference.chunk(1, 0, 0, b"0123456789")
    view = reader.get_buffer()
    view[: len(stream)] = stream
    with pytest.raises(error):
        reader.advance(len(stream))


def test_destination_is_nobodys_but_its_owners_when_the_chunk_has_arrived():
    fd = os.memfd_create("segment")
    os.ftruncate(fd, 4096)
    segment = Segment(fd, 4096)
    os.close(fd)
    views = []
    target = memoryview(segment)[:10]
    reader = FrameReader(lambda *_: None, lambda *_: target, lambda *_: views.append(segment.views), False)
    stream = reference.chunk(1, 0, 0, b"0123456789")
    for size in (45, 5):
        view = reader.get_buffer()  # kept alive during advance, as uvloop does
        view[:size], stream = stream[:size], stream[size:]
        reader.advance(size)
    assert views == [1]
    assert bytes(target) == b"0123456789"
    target.release()
    segment.close()


def test_closed_reader_lets_go_of_its_destination():
    peer = Peer()
    peer.feed(reference.chunk(1, 0, 0, b"0123456789")[:45])
    view = peer.reader.get_buffer()
    peer.reader.close()
    with pytest.raises(ValueError, match="released"):
        view[0]
    peer.landed[0].clear()  # a bytearray refuses while anybody looks at it
    assert len(peer.reader.get_buffer()) > 0
    assert peer.reader.idle
    with pytest.raises(FrameError):
        peer.reader.advance(1)


def test_reader_closed_by_its_own_callback_tells_nothing_more():
    events = []

    def deliver(kind: int, meta: memoryview, payload: memoryview) -> None:
        events.append((kind, bytes(payload)))
        reader.close()

    reader = FrameReader(deliver, lambda *_: None, lambda *_: None)
    stream = reference.frame(3, b"", b"bye") + reference.frame(4)
    reader.get_buffer()[: len(stream)] = stream
    reader.advance(len(stream))
    assert events == [(3, b"bye")]


# -- violations ----------------------------------------------------------------------------------------------


def header(kind: int, meta: int, payload: int) -> bytes:
    """Return a header alone."""
    return b"SC" + struct.pack("<BBIQ", kind, 0, meta, payload)


@pytest.mark.parametrize(
    "stream",
    [
        reference.frame(4, magic=b"GE"),
        reference.frame(4, flags=1),
        reference.frame(0),
        reference.frame(KIND_MAX + 1),
        header(16, FRAME_META_BYTES_MAX + 1, 0),
        header(16, 0, FRAME_PAYLOAD_BYTES_MAX + 1),
        header(16, 0, (1 << 64) - 1),
        header(5, 23, 10),
        header(5, 25, 10),
        header(5, 24, 0),
        header(5, 24, CHUNK_BYTES_MAX + 1),
        reference.chunk(1, 0, 0, b"x", reserved=1),
        reference.chunk(1, 0, BODY_BYTES_MAX, b"x"),
        reference.chunk(1, 0, (1 << 64) - 1, b"x"),
    ],
)
@pytest.mark.parametrize("before", [b"", reference.frame(4), reference.chunk(1, 0, 0, b"abc")])
def test_frame_that_breaks_the_rules_ends_the_reader(stream, before):
    peer = Peer()
    with pytest.raises(FrameError):
        peer.feed(before + stream)
    assert len(peer.events) == (1 if before else 0)
    with pytest.raises(FrameError):
        peer.feed(reference.frame(4))
    assert len(peer.events) == (1 if before else 0)


@pytest.mark.parametrize(
    "stream",
    [
        header(16, FRAME_META_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX),
        header(5, 24, CHUNK_BYTES_MAX),
        reference.chunk(1, 0, BODY_BYTES_MAX - 1, b"x"),
        reference.frame(KIND_MAX),
    ],
)
def test_frame_at_a_limit_is_taken(stream):
    Peer().feed(stream)


def test_greeting_is_bounded_and_has_no_chunks():
    largest = reference.frame(1, b"", bytes(GREETING_BYTES_MAX - 16))
    peer = Peer(greeting=True)
    peer.feed(largest)
    assert len(peer.events) == 1
    for stream in (header(1, 1, GREETING_BYTES_MAX - 16), header(5, 24, 1)):
        with pytest.raises(FrameError):
            Peer(greeting=True).feed(stream)
    peer.reader.greeted()
    peer.feed(reference.chunk(1, 0, 0, b"x") + reference.frame(1, b"", bytes(GREETING_BYTES_MAX)))
    assert len(peer.events) == 3


def test_callback_may_greet_before_the_next_frame_of_the_same_bytes():
    kinds = []

    def deliver(kind: int, meta: memoryview, payload: memoryview) -> None:
        kinds.append(kind)
        reader.greeted()

    reader = FrameReader(deliver, lambda *_: None, lambda *chunk: kinds.append(5))
    stream = reference.frame(1) + reference.chunk(1, 0, 0, b"x")
    reader.get_buffer()[: len(stream)] = stream
    reader.advance(len(stream))
    assert kinds == [1, 5]


def test_callbacks_exception_passes_and_ends_the_reader():
    def deliver(*_: Any) -> None:
        raise KeyError("from the callback")

    reader = FrameReader(deliver, lambda *_: None, lambda *_: None)
    stream = reference.frame(4)
    reader.get_buffer()[:16] = stream
    with pytest.raises(KeyError, match="from the callback"):
        reader.advance(16)
    reader.get_buffer()
    with pytest.raises(FrameError):
        reader.advance(1)


def test_reader_refuses_to_be_entered_from_its_callback():
    faults = []

    def deliver(*_: Any) -> None:
        for call in (reader.get_buffer, lambda: reader.advance(0)):
            with pytest.raises(RuntimeError) as fault:
                call()
            faults.append(fault.value)

    reader = FrameReader(deliver, lambda *_: None, lambda *_: None)
    reader.get_buffer()[:16] = reference.frame(4)
    reader.advance(16)
    assert len(faults) == 2


@pytest.mark.parametrize("count", [-1, SCRATCH_BYTES + 1])
def test_more_than_was_handed_out_cannot_have_come(count):
    reader = Peer().reader
    reader.get_buffer()
    with pytest.raises(ValueError, match="bytes written"):
        reader.advance(count)


def test_views_are_released_after_the_call():
    kept: list[memoryview] = []
    reader = FrameReader(lambda _, meta, payload: kept.extend((meta, payload)), lambda *_: None, lambda *_: None)
    reader.get_buffer()[:20] = reference.frame(4, b"ab", b"cd")
    reader.advance(20)
    for view in kept:
        with pytest.raises(ValueError, match="released"):
            bytes(view)


def test_view_cut_from_a_delivered_one_outlives_the_memory_safely():
    kept: list[memoryview] = []
    reader = FrameReader(lambda _, meta, payload: kept.append(payload[1:]), lambda *_: None, lambda *_: None, False)
    stream = reference.frame(16, b"", bytes(1 << 20))
    while stream:
        view = reader.get_buffer()
        size = min(len(view), len(stream))
        view[:size], stream = stream[:size], stream[size:]
        reader.advance(size)
    del reader
    assert len(bytes(kept[0])) == (1 << 20) - 1


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 90_000))
@settings(max_examples=60, deadline=None)
def test_readers_that_share_their_scratch_do_not_disturb_each_other(turns, piece):
    scratch = Region()
    streams = [
        reference.frame(16, b"one", bytes(40_000)) + reference.chunk(1, 1, 0, b"data") + reference.frame(4, b"end"),
        reference.frame(17, b"two", b"\x02" * 200_000) + reference.frame(4, b"x") * 5 + reference.frame(18, b"", b"y"),
    ]
    shared = [Peer(scratch=scratch), Peer(scratch=scratch)]
    alone = [Peer(), Peer()]
    rest = list(streams)
    for turn in [*turns, *itertools.islice(itertools.cycle((False, True)), 2 * max(map(len, streams)) // piece + 4)]:
        data, rest[turn] = rest[turn][:piece], rest[turn][piece:]
        if data:
            shared[turn].feed(data)
    for peer, reader, stream in zip(shared, alone, streams, strict=True):
        reader.feed(stream)
        assert peer.events == reader.events
        assert peer.reader.idle


def test_scratch_lent_to_another_reader_is_not_taken_for_ones_own():
    scratch = Region()
    first, second = Peer(scratch=scratch), Peer(scratch=scratch)
    view = first.reader.get_buffer()
    second.reader.get_buffer()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    with pytest.raises(ValueError, match="bytes written"):
        first.reader.advance(1)


def test_scratch_that_a_loop_still_holds_is_left_to_it():
    scratch = Region()
    first, second = Peer(scratch=scratch), Peer(scratch=scratch)
    held = memory(first.reader.get_buffer(), writable=True)
    view = second.reader.get_buffer()
    view[:8] = b"\xff" * 8
    held[:8] = bytes(8)
    assert bytes(view[:8]) == b"\xff" * 8


def test_scratch_holds_at_least_what_a_reader_asks_for():
    assert len(memoryview(Region())) == SCRATCH_BYTES
    with pytest.raises(ValueError, match="are needed"):
        Region(SCRATCH_BYTES - 1)


def test_idle_says_whether_a_frame_is_under_way():
    peer = Peer()
    stream = reference.frame(4) + reference.chunk(1, 0, 0, b"ab")
    states = []
    for byte in stream:
        peer.feed(bytes([byte]))
        states.append(peer.reader.idle)
    assert [at + 1 for at, idle in enumerate(states) if idle] == [16, len(stream)]


# -- headers and columns -------------------------------------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, BODY_BYTES_MAX - 5))
def test_chunk_header_is_the_references(stream, attempt, offset):
    assert chunk_header(stream, attempt, offset, 5) + b"01234" == reference.chunk(stream, attempt, offset, b"01234")


@pytest.mark.parametrize("numbers", [(1, 0, 0, 0), (1, 0, 0, CHUNK_BYTES_MAX + 1), (1, 0, BODY_BYTES_MAX, 1)])
def test_chunk_header_that_nobody_would_take_is_refused(numbers):
    with pytest.raises(ValueError, match="chunk"):
        chunk_header(*numbers)


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 1), (1 << 64, 0, 0, 1), (1, 1 << 32, 0, 1)])
def test_chunk_header_that_does_not_fit_is_refused(numbers):
    with pytest.raises(OverflowError):
        chunk_header(*numbers)


def test_constants_are_those_of_the_wire():
    assert (_framing.HEADER_BYTES, _framing.CHUNK_META_BYTES, _framing.CHUNK_KIND) == (16, 24, 5)


@pytest.mark.parametrize(("first", "count"), [(0, 0), (5, 3), ((1 << 32) - 2, 2)])
def test_index_range_counts_up(first, count):
    assert index_range(first, count) == array("I", range(first, first + count))


@pytest.mark.parametrize(("first", "count"), [((1 << 32) - 2, 3), ((1 << 64) - 1, 2)])
def test_index_range_beyond_32_bits_is_refused(first, count):
    with pytest.raises(ValueError, match="32 bits"):
        index_range(first, count)


# -- memory --------------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12).reshape(3, 4)[:, 1:2],
    np.array(3.5),
    np.zeros((0, 3)),
    np.zeros((2, 2), ">f8"),
    np.arange(3).astype("M8[ns]"),
    np.asfortranarray(np.arange(6).astype("m8[s]").reshape(2, 3)),
    np.zeros(0, "M8[s]"),
    np.zeros(2, [("when", "M8[s]"), ("value", "f4")]),
    np.zeros(2, [("a", "i1"), ("b", "f8")]),
    np.array(["ab", "c"]),
    np.zeros(2, np.complex128),
    np.zeros(2, np.float16),
    np.zeros(2, np.longdouble),
    np.ones(3, bool),
]


@pytest.mark.parametrize("array_", ARRAYS, ids=str)
def test_memory_of_an_array_is_its_own_memory(array_):
    if not (array_.flags.c_contiguous or array_.flags.f_contiguous):
        with pytest.raises(ValueError, match="contiguous"):
            memory(array_)
        return
    view = memory(array_, writable=True)
    assert (view.format, view.ndim, view.readonly, view.nbytes) == ("B", 1, False, array_.nbytes)
    assert bytes(view) == array_.tobytes(order="A")
    if view.nbytes:
        view[0] ^= 1
        assert bytes(memory(array_)) == array_.tobytes(order="A") == bytes(view)
        view[0] ^= 1
    assert memory(array_).readonly


@pytest.mark.parametrize(
    "source", [b"abc", bytearray(b"abc"), memoryview(b"abc"), array("I", [1]), b"", bytearray()],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_memory_of_a_buffer_is_its_bytes(source):
    assert bytes(memory(source)) == bytes(source)


def test_memory_keeps_the_array_alive():
    view = memory(np.arange(1000).astype("M8[s]"))
    other = memory(np.arange(1000))
    assert view[8] == other[8] == 1


@pytest.mark.parametrize(
    "source",
    [
        np.arange(6)[::2],
        np.arange(6).astype("M8[s]")[::2],
        memoryview(b"abcd")[::2],
        np.array([object()]),
        np.zeros(2, [("a", "O")]),
    ],
    ids=["strided", "datetimes", "view", "objects", "fields"],
)
def test_memory_with_gaps_or_objects_is_refused(source):
    with pytest.raises(ValueError, match=r"contiguous|objects"):
        memory(source)


@pytest.mark.parametrize("kind", ["f8", "M8[s]", "bytes"])
def test_read_only_memory_is_not_handed_out_for_writing(kind):
    source: Any = b"abc"
    if kind != "bytes":
        source = np.zeros(3, kind)
        source.flags.writeable = False
    assert memory(source).readonly
    with pytest.raises(ValueError, match=r"read-only|writable"):
        memory(source, writable=True)


def test_memory_of_what_is_no_buffer_is_refused():
    with pytest.raises(TypeError):
        memory(3)


# -- segments ------------------------------------------------------------------------------------------------


@pytest.fixture
def descriptor():
    fd = os.memfd_create("segment")
    os.ftruncate(fd, 8192)
    yield fd
    os.close(fd)


def test_segment_counts_its_views(descriptor):
    segment = Segment(descriptor, 8192)
    assert (segment.views, segment.size) == (0, 8192)
    assert segment.address
    values = np.frombuffer(segment, np.float64)
    assert values.flags.writeable
    part = values[3:7].reshape(2, 2)
    view = memory(part)
    del values
    assert segment.views == 1
    with pytest.raises(BufferError, match="1 view"):
        segment.close()
    del part
    assert segment.views == 1
    other = memoryview(segment)[:10]
    assert segment.views == 2
    view.release()
    other.release()
    del view, other
    assert segment.views == 0
    segment.close()
    segment.close()
    assert segment.address == 0
    with pytest.raises(ValueError, match="closed"):
        memoryview(segment)


def test_segment_is_shared_with_every_mapping_of_its_file(descriptor):
    first, second = Segment(descriptor, 8192), Segment(descriptor, 4096, writable=False)
    np.frombuffer(first, np.uint8)[:5] = list(b"hello")
    assert bytes(second)[:5] == b"hello"
    assert memoryview(second).readonly
    assert not np.frombuffer(second, np.uint8).flags.writeable


def test_segment_lives_as_long_as_its_views(descriptor):
    values = np.frombuffer(Segment(descriptor, 8192), np.uint8)
    values[:] = 7
    assert values.sum() == 7 * 8192


@pytest.mark.parametrize(("fd", "size", "error"), [(-1, 4096, OSError), (0, 0, ValueError), (0, -1, ValueError)])
def test_segment_that_cannot_be_mapped_is_refused(fd, size, error):
    with pytest.raises(error):
        Segment(fd, size)


def test_segment_is_mapped_once(descriptor):
    segment = Segment(descriptor, 4096)
    with pytest.raises(ValueError, match="is mapped"):
        segment.__init__(descriptor, 4096)
