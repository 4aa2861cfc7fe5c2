"""The journal's bytes: facts to records and back, records in envelopes, and how they are found again among damage.

A record is a fact (`records.py`), framed by the codec of the wire with a table of its own. A segment is a header, and
then envelopes, each with one record, little-endian::

    header     twice, in a block of 4,096 bytes each: SCJOURNL │ version u32 │ salt u32 │ CRC-32 u32 │ zeros
    envelope   SCJR │ record bytes u32 │ number u64 │ CRC-32 u32 │ record

Records are numbered without gaps. The sum covers the size, the number and the record, and begins with the segment's
salt: whoever chooses the bytes inside a record cannot plant something there that passes for an envelope when the
one around it is broken.

What cannot be read is skipped up to the next envelope that is whole, and told as `Damage`; at the end of a segment
that is a *torn tail*, what a power cut leaves of the last write.

Not here: files; those are `ledger.py`'s.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from starcore._framing import HEADER_BYTES as FRAME_HEADER_BYTES
from starcore._framing import RecordCodec
from starcore.codec import TYPES
from starcore.errors import FrameError
from starcore.manager.records import (
    Accepted,
    Acknowledged,
    Answered,
    ArgumentKept,
    BlobKnown,
    ClientKnown,
    ClientOver,
    Delivered,
    Ended,
    Epoch,
    Fact,
    Fetched,
    FunctionKept,
    Gone,
    JobForgotten,
    JobKnown,
    JobsHeld,
    Leased,
    Renamed,
    Requeued,
    StoredKnown,
    StoredWhole,
    Touched,
    Troubled,
    WorkerKnown,
    WorkerOver,
)
from starcore.messages import FRAME_META_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, Buffer

VERSION = 3
VERSIONS_READ = (1, 2, 3)
"""Version 1 had no kinds beyond 16; up to 2 an identity was the fingerprint of a certificate."""
HEADER_MAGIC = b"SCJOURNL"
ENVELOPE_MAGIC = b"SCJR"
RECORD_BYTES_MAX = FRAME_META_BYTES_MAX + FRAME_PAYLOAD_BYTES_MAX + 64

_HEADER = struct.Struct("<8sIII")
_ENVELOPE = struct.Struct("<4sIQI")
_SUMMED = struct.Struct("<IQ")
BLOCK_BYTES = 4096
HEADER_BYTES = 2 * BLOCK_BYTES
"""A lost sector takes one copy of the header along, not both."""
ENVELOPE_BYTES = _ENVELOPE.size


Fields: TypeAlias = tuple[tuple[str, str], ...]

TABLE: tuple[tuple[int, type[Any], Fields, str | None], ...] = (
    (1, Epoch, (("epoch", "u32"), ("generation", "u32"), ("jobs", "u32")), None),
    (
        2,
        ClientKnown,
        (
            ("session", "session"),
            ("identity", "text"),
            ("certificate", "text"),
            ("name", "text"),
            ("address", "text"),
            ("result_bytes", "u64"),
            ("sequence", "u64"),
        ),
        None,
    ),
    (3, ClientOver, (("session", "session"),), None),
    (
        4,
        WorkerKnown,
        (
            ("session", "session"),
            ("identity", "text"),
            ("certificate", "text"),
            ("name", "text"),
            ("host", "text"),
            ("address", "text"),
            ("python", "text"),
            ("slots", "u32"),
            ("arena_bytes", "u64"),
            ("shipped", "flag"),
            ("functions", "texts"),
        ),
        None,
    ),
    (5, WorkerOver, (("session", "session"),), None),
    (6, JobsHeld, (("session", "session"), ("jobs", "u32[]")), None),
    (
        7,
        JobKnown,
        (
            ("job", "job"),
            ("session", "session"),
            ("number", "job"),
            ("kind", "function kind"),
            ("digest", "digest"),
            ("function", "text"),
            ("python", "text"),
            ("retries", "u32"),
            ("timeout_seconds", "seconds"),
            ("priority", "i32"),
            ("shares", "u8[]"),
        ),
        None,
    ),
    (8, JobForgotten, (("job", "job"),), None),
    (9, BlobKnown, (("digest", "digest"),), "head"),
    (
        10,
        Accepted,
        (("job", "job"), ("first", "first index"), ("head_sizes", "head bytes[]"), ("body_sizes", "body bytes[]")),
        "heads",
    ),
    (
        11,
        Leased,
        (
            ("session", "session"),
            ("lease", "u64"),
            ("job", "job"),
            ("first", "u32"),
            ("count", "u32"),
            ("attempt", "u32"),
        ),
        None,
    ),
    (12, Requeued, (("job", "job"), ("first", "u32"), ("count", "u32"), ("attempt", "u32")), None),
    (
        13,
        Troubled,
        (
            ("job", "job"),
            ("index", "u32"),
            ("losses", "u32"),
            ("raised", "u32"),
            ("settled", "flag"),
            ("deaths", "text"),
        ),
        None,
    ),
    (
        14,
        Ended,
        (
            ("job", "job"),
            ("sequence", "u64"),
            ("attempt", "u32"),
            ("settled", "flag"),
            ("indices", "u32[]"),
            ("statuses", "status[]"),
            ("head_sizes", "head bytes[]"),
        ),
        "heads",
    ),
    (15, Acknowledged, (("session", "session"), ("sequences", "u64[]")), None),
    (16, Delivered, (("job", "job"), ("indices", "u32[]"), ("statuses", "status[]")), None),
    (
        17,
        StoredKnown,
        (
            ("job", "job"),
            ("source", "job"),
            ("identity", "text"),
            ("owner", "text"),
            ("address", "text"),
            ("name", "text"),
            ("tasks", "u32"),
            ("size", "u64"),
            ("keep_seconds", "seconds"),
            ("begun_at", "seconds"),
            ("changed_at", "seconds"),
            ("kind", "function kind"),
            ("digest", "digest"),
            ("function", "text"),
            ("python", "text"),
            ("retries", "u32"),
            ("timeout_seconds", "seconds"),
            ("priority", "i32"),
        ),
        "note",
    ),
    (18, StoredWhole, (("job", "job"),), None),
    (19, Touched, (("job", "job"), ("changed_at", "seconds")), None),
    (20, ArgumentKept, (("job", "job"), ("index", "u32"), ("body", "u64"), ("size", "body bytes")), None),
    (21, FunctionKept, (("digest", "digest"), ("body", "u64"), ("size", "body bytes")), None),
    (
        22,
        Answered,
        (
            ("job", "job"),
            ("sequence", "u64"),
            ("attempt", "u32"),
            ("index", "u32"),
            ("status", "u32"),
            ("body", "u64"),
            ("size", "body bytes"),
        ),
        "head",
    ),
    (23, Fetched, (("job", "job"), ("sequences", "u64[]")), None),
    (24, Gone, (("job", "job"), ("sequence", "u64"), ("indices", "u32[]"), ("statuses", "status[]")), None),
    (25, Renamed, (("former", "text"), ("identity", "text")), None),
)
"""(kind, record, ((field, type), ...), the field that is the frame's payload): as in `codec.py`."""

_CODECS = [
    RecordCodec(kind, record, [(name, *TYPES[shape]) for name, shape in fields], payload)
    for kind, record, fields, payload in TABLE
]
_ENCODE: dict[type[Any], Callable[[Any], bytes]] = {
    row[1]: codec.encode for row, codec in zip(TABLE, _CODECS, strict=True)
}
_DECODE: dict[int, Callable[[Buffer, Buffer], Any]] = {
    row[0]: codec.decode for row, codec in zip(TABLE, _CODECS, strict=True)
}


class VersionError(ValueError):
    """A segment of another version than this one."""


@dataclass(slots=True)
class Damage:
    """Bytes of a segment that could not be read."""

    offset: int
    length: int
    lost: int
    """How many records stood there, where the next one's number says so."""
    torn: bool = False
    """Nothing follows: the last write did not come to its end."""

    def __str__(self) -> str:
        what = "torn tail" if self.torn else "damage"
        lost = f", {self.lost} records lost" if self.lost else ""
        return f"{what} at byte {self.offset}: {self.length} bytes skipped{lost}"


def encode(fact: Fact) -> bytes:
    """Return the record as one whole frame."""
    return _ENCODE[type(fact)](fact)


def decode(frame: Buffer) -> Fact:
    """Return a frame's record.

    Raises
    ------
    FrameError
        It is of no kind that is known here, or its fields are not what they should be.
    """
    view = memoryview(frame)
    if len(view) < FRAME_HEADER_BYTES:
        raise FrameError("a record shorter than its header")
    read = _DECODE.get(view[2])
    if read is None:
        raise FrameError(f"no record has the kind {view[2]}")
    meta = FRAME_HEADER_BYTES + int.from_bytes(view[4:8], "little")
    return cast("Fact", read(view[FRAME_HEADER_BYTES:meta], view[meta:]))


def header(salt: int) -> bytes:
    """Begin a segment."""
    octets = struct.pack("<8sII", HEADER_MAGIC, VERSION, salt)
    return 2 * (octets + struct.pack("<I", zlib.crc32(octets))).ljust(BLOCK_BYTES, b"\0")


def envelope(frames: Iterable[bytes], number: int, salt: int) -> bytes:
    """Return records, the first of which has this number, as they stand in a segment."""
    parts = []
    for frame in frames:
        parts += [_ENVELOPE.pack(ENVELOPE_MAGIC, len(frame), number, _sum(frame, number, salt)), frame]
        number += 1
    return b"".join(parts)


def read(segment: Buffer) -> Iterator[memoryview | Damage]:
    """Yield a segment's records in order, and what could not be read between them.

    Raises
    ------
    VersionError
        It was written in another version of the format.
    """
    view, octets = memoryview(segment), bytes(segment)
    if len(view) < HEADER_BYTES:
        if view:
            yield Damage(0, len(view), 0, torn=True)
        return
    salt = _salt(view)
    if salt is None:  # without it no record can be told from what only looks like one
        yield Damage(0, len(view), 0)
        return
    at, expected = HEADER_BYTES, None
    while at < len(view):
        size, number = _look(view, at, salt)
        start = at
        while size < 0:
            at = octets.find(ENVELOPE_MAGIC, at + 1)
            if at < 0:
                yield Damage(start, len(view) - start, 0, torn=True)
                return
            size, number = _look(view, at, salt)
        lost = 0 if expected is None else max(0, number - expected)
        if at > start or lost:
            yield Damage(start, at - start, lost)
        at += ENVELOPE_BYTES
        yield view[at : at + size]
        at, expected = at + size, number + 1


def _salt(view: memoryview) -> int | None:
    """Return what the first whole copy of the header says."""
    for at in (0, BLOCK_BYTES):
        magic, version, salt, told = _HEADER.unpack_from(view, at)
        if zlib.crc32(view[at : at + _HEADER.size - 4]) == told and magic == HEADER_MAGIC:
            if version not in VERSIONS_READ:
                raise VersionError(f"it has version {version}, and this manager reads versions up to {VERSION}")
            return int(salt)
    return None


def _look(view: memoryview, at: int, salt: int) -> tuple[int, int]:
    """Size and number of the record whose envelope begins here; a size of -1 where none does."""
    start = at + ENVELOPE_BYTES
    if start > len(view):
        return -1, 0
    magic, size, number, told = _ENVELOPE.unpack_from(view, at)
    if magic != ENVELOPE_MAGIC or size > RECORD_BYTES_MAX or start + size > len(view):
        return -1, 0
    return (size, number) if _sum(view[start : start + size], number, salt) == told else (-1, 0)


def _sum(frame: Buffer, number: int, salt: int) -> int:
    return zlib.crc32(frame, zlib.crc32(_SUMMED.pack(len(frame), number), salt))
