"""Heads and bodies: how a text and its segments become a payload, and again what they were.

A payload is a *head* (at most `HEAD_BYTES_MAX`, inside the message) and a *body* (streamed; mostly none)::

    head    u8 tag, u8 place, then
    BARE    text                                             no segments
    INLINE  u32 meta bytes, meta, the segments one after another
    BODY    meta                                             the body holds the segments
    SPILLED u64 meta bytes                                   the body holds meta, then the segments
    meta    u32 count, that many u64 sizes, text

In a body every segment begins at a multiple of 64 bytes. A payload is inline whenever it fits; there the
segments are copied, so that a small array may be changed by its owner right after the call. The tag is
`pickling.py`'s; this file knows sizes and places alone, and believes neither before it has compared them with
the bytes that are there.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence

from starcore.errors import FrameError
from starcore.layouts import Segments, Strided
from starcore.messages import HEAD_BYTES_MAX, Buffer
from starcore.references import Ref

ALIGNMENT = 64

BARE, INLINE, BODY, SPILLED = 0, 1, 2, 3
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Packed:
    """A payload that is ready to be sent.

    Attributes
    ----------
    head : bytes
        What travels inside the message.
    segments : list
        The memory of the body, borrowed from its owners; without the padding between.
    body_bytes : int
        The length of the body, padding included.
    refs : sequence of Ref
        The put values that it refers to.
    """

    __slots__ = ("_starts", "body_bytes", "head", "refs", "segments")

    def __init__(self, head: bytes, segments: Segments | None = None, refs: Sequence[Ref] = ()) -> None:
        self.head = head
        self.refs = refs
        if segments:
            self.segments: Segments = segments
            self._starts, self.body_bytes = _lay_out([segment.nbytes for segment in segments])
        else:
            self.segments, self._starts, self.body_bytes = [], [], 0

    def read(self, offset: int, length: int) -> Buffer:
        """Return these bytes of the body: a view where they lie within one segment, else a joined copy."""
        if offset < 0 or length < 0 or offset + length > self.body_bytes:
            raise ValueError(f"[{offset}, {offset + length}) of a body of {self.body_bytes} bytes")
        index = bisect_right(self._starts, offset) - 1
        if index >= 0:
            segment, start = self.segments[index], offset - self._starts[index]
            if start + length <= segment.nbytes:
                return piece_of(segment, start, length)
        joined = bytearray(length)
        end = offset + length
        while index >= 0 and index < len(self.segments) and self._starts[index] < end:
            segment, start = self.segments[index], self._starts[index]
            first, last = max(offset, start), min(end, start + segment.nbytes)
            if first < last:
                joined[first - offset : last - offset] = piece_of(segment, first - start, last - first)
            index += 1
        return joined

    def copy_into(self, destination: Buffer) -> None:
        """Write the whole body into writable memory of `body_bytes` bytes; padding is left as it is there."""
        view = memoryview(destination)
        for segment, start in zip(self.segments, self._starts, strict=True):
            target = view[start : start + segment.nbytes]
            if isinstance(segment, Strided):
                segment.copy_into(target)
            else:
                target[:] = segment


def seal(tag: int, text: bytes, segments: Segments, refs: Sequence[Ref] = ()) -> Packed:
    if not segments and len(text) + 2 <= HEAD_BYTES_MAX:
        return Packed(bytes((tag, BARE)) + text, refs=refs)
    sizes = [segment.nbytes for segment in segments]
    meta = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes) + text
    if 6 + len(meta) + sum(sizes) <= HEAD_BYTES_MAX:
        inline = [piece_of(segment, 0, segment.nbytes) for segment in segments]
        return Packed(b"".join((bytes((tag, INLINE)), _U32.pack(len(meta)), meta, *inline)), refs=refs)
    if 2 + len(meta) <= HEAD_BYTES_MAX:
        return Packed(bytes((tag, BODY)) + meta, segments, refs)
    return Packed(bytes((tag, SPILLED)) + _U64.pack(len(meta)), [memoryview(meta), *segments], refs)


def tag_of(head: Buffer) -> tuple[int, int]:
    if len(head) < 2:
        raise FrameError("a payload without a tag")
    return head[0], head[1]


def unseal(head: Buffer, body: memoryview | None) -> tuple[int, memoryview, list[memoryview]]:
    """Return tag, text and segments; those of the body are views into it, those of the head writable copies."""
    tag, place = tag_of(head)
    rest = memoryview(head)[2:]
    body = memoryview(b"") if body is None else body
    inline = place in (BARE, INLINE)
    if inline and len(body):
        raise FrameError("a payload that needs no body has one")
    if place == BARE:
        return tag, rest, []
    if place == INLINE:
        size = _U32.unpack(rest[:4])[0] if len(rest) >= 4 else len(rest)
        if 4 + size > len(rest):
            raise FrameError("a payload that is cut off")
        sizes, text = read_meta(rest[4 : 4 + size])
        data, starts, total = rest[4 + size :], _running(sizes), sum(sizes)
    elif place == BODY:
        sizes, text = read_meta(rest)
        data, (starts, total) = body, _lay_out(sizes)
    elif place == SPILLED and len(rest) == 8:
        (size,) = _U64.unpack(rest)
        sizes, text = read_meta(body[:size])
        starts, total = _lay_out([size, *sizes])
        data, starts = body, starts[1:]
    else:
        raise FrameError(f"a payload in place {place}")
    if total != len(data):
        raise FrameError(f"a payload of {total} bytes in {len(data)}")
    pieces = [data[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return tag, text, [memoryview(bytearray(piece)) for piece in pieces] if inline else pieces


def read_meta(meta: memoryview) -> tuple[list[int], memoryview]:
    if len(meta) >= 4:
        (count,) = _U32.unpack(meta[:4])
        end = 4 + 8 * count
        if end <= len(meta):
            return list(struct.unpack(f"<{count}Q", meta[4:end])), meta[end:]
    raise FrameError("a payload that is cut off")


def _lay_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return where each segment of a body begins, and where the last one ends."""
    starts: list[int] = []
    end = 0
    for size in sizes:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + size
    return starts, end


def _running(sizes: Sequence[int]) -> list[int]:
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += size
    return starts


def piece_of(segment: memoryview | Strided, start: int, length: int) -> memoryview:
    if isinstance(segment, Strided):
        return segment.read(start, length)
    return segment[start : start + length]
