"""The wire, slowly: plain Python and `struct`, written from docs/PROTOCOL.md and not from `_framing.pyx`.

The oracle of the codec's and the framing's tests. It says what is right; it never says why something is wrong.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import Any

Event = tuple[Any, ...]


class WrongError(Exception):
    """The bytes, or the record, break the rules."""


def require(condition: bool) -> None:
    """Raise unless it holds."""
    if not condition:
        raise WrongError


# -- frames --------------------------------------------------------------------------------------------------


def frame(kind: int, meta: bytes = b"", payload: bytes = b"", *, magic: bytes = b"SC", flags: int = 0) -> bytes:
    """Return one frame."""
    return magic + struct.pack("<BBIQ", kind, flags, len(meta), len(payload)) + meta + payload


def chunk(stream: int, attempt: int, offset: int, data: bytes, *, reserved: int = 0) -> bytes:
    """Return one CHUNK."""
    return frame(5, struct.pack("<QIIQ", stream, attempt, reserved, offset), data)


def read(data: bytes, *, greeting: bool = False) -> list[Event]:
    """Return ("frame", kind, meta, payload) and ("chunk", stream, attempt, offset, data) events, as far as they go.

    A frame that breaks the rules ends the list with ("wrong",).
    """
    events: list[Event] = []
    try:
        while len(data) >= 16:
            magic, kind, flags, meta_bytes, payload_bytes = struct.unpack_from("<2sBBIQ", data)
            require(magic == b"SC" and flags == 0 and 1 <= kind <= 127)
            require(meta_bytes <= 1 << 20 and payload_bytes <= 1 << 20)
            require(kind != 5 or (meta_bytes == 24 and 1 <= payload_bytes <= 1 << 20))
            require(not greeting or (kind != 5 and 16 + meta_bytes + payload_bytes <= 1 << 16))
            if kind == 5 and len(data) >= 40:
                stream, attempt, reserved, offset = struct.unpack_from("<QIIQ", data, 16)
                require(reserved == 0 and offset + payload_bytes <= 1 << 46)
            end = 16 + meta_bytes + payload_bytes
            if len(data) < end:
                break
            if kind == 5:
                events.append(("chunk", stream, attempt, offset, data[40:end]))
            else:
                events.append(("frame", kind, data[16 : 16 + meta_bytes], data[16 + meta_bytes : end]))
            data = data[end:]
    except WrongError:
        events.append(("wrong",))
    return events


# -- fields --------------------------------------------------------------------------------------------------

NUMBERS = {
    # type: struct code, largest
    "u16": ("H", (1 << 16) - 1),
    "u32": ("I", (1 << 32) - 1),
    "i32": ("i", (1 << 31) - 1),
    "u64": ("Q", (1 << 64) - 1),
    "flag": ("B", 1),
    "role": ("B", 2),
    "function kind": ("B", 1),
    "job": ("I", (1 << 31) - 1),
    "first index": ("I", (1 << 32) - 1),
    "first lease": ("Q", (1 << 64) - 1),
    "body bytes": ("Q", 1 << 46),
    "blob bytes": ("Q", 1 << 32),
    "seconds": ("d", math.inf),
}
FIXED = {"session": 16, "digest": 32}
TEXTS = {"text": 1 << 16, "long text": 512 << 10}
COLUMNS = {
    "u32[]": ("I", (1 << 32) - 1),
    "u64[]": ("Q", (1 << 64) - 1),
    "seconds[]": ("d", math.inf),
    "u8[]": ("B", 255),
    "status[]": ("B", 8),
    "head bytes[]": ("I", 128 << 10),
    "body bytes[]": ("Q", 1 << 46),
}


def _number(code: str, largest: float, value: Any) -> None:
    require(value <= largest and (code == "i" or value >= 0))
    require(code != "d" or math.isfinite(value))


def _check(kind: str, value: Any) -> None:
    if kind in NUMBERS:
        _number(*NUMBERS[kind], value)
    elif kind in FIXED:
        require(len(value) == FIXED[kind])
    elif kind in TEXTS:
        require(len(value.encode()) <= TEXTS[kind])
    else:
        require(len(value) <= 4096)
        for item in value:
            if kind == "texts":
                _check("text", item)
            else:
                _number(*COLUMNS[kind], item)


def _pack(kind: str, value: Any) -> bytes:
    if kind in NUMBERS:
        return struct.pack("<" + NUMBERS[kind][0], value)
    if kind in FIXED:
        return bytes(value)
    if kind in TEXTS:
        return struct.pack("<I", len(value.encode())) + value.encode()
    if kind == "texts":
        return struct.pack("<I", len(value)) + b"".join(_pack("text", text) for text in value)
    return struct.pack(f"<I{len(value)}{COLUMNS[kind][0]}", len(value), *value)


class _Meta:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        require(len(self.data) >= size)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def unpack(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def field(self, kind: str) -> Any:
        if kind in NUMBERS:
            code, largest = NUMBERS[kind]
            value = self.unpack(code)
            _number(code, largest, value)
            return value == 1 if kind == "flag" else value
        if kind in FIXED:
            return self.take(FIXED[kind])
        count = self.unpack("I")
        if kind in TEXTS:
            require(count <= TEXTS[kind])
            try:
                return self.take(count).decode()
            except UnicodeDecodeError:
                raise WrongError from None
        require(count <= 4096)
        if kind == "texts":
            return [self.field("text") for _ in range(count)]
        code, largest = COLUMNS[kind]
        items = [self.unpack(code) for _ in range(count)]
        for item in items:
            _number(code, largest, item)
        return bytes(items) if code == "B" else array(code, items)


def _agree(fields: tuple[tuple[str, str], ...], values: dict[str, Any], payload: bytes | None, sent: bytes) -> None:
    """Hold the fields of one message against each other."""
    types = dict(fields)
    if payload is None:
        require(sent == b"")
    if "digest" in types and payload is not None:
        require(len(sent) <= 128 << 10)
    if types.get("head_sizes") != "head bytes[]":
        return
    rows = len(values["head_sizes"])
    require(rows >= 1)
    require(all(len(values[name]) == rows for name, kind in fields if kind.endswith("[]") and name != "body_sizes"))
    require(len(values["body_sizes"]) in {0, rows})
    require(sum(values["head_sizes"]) == len(sent))
    require(values.get("first", 0) + rows <= 1 << 32)
    require(values.get("lease", 0) + rows <= 1 << 63)


def encode(row: Any, message: Any, *, strict: bool = True) -> bytes:
    """Return a record's frame by a row of the codec's table; without `strict` whatever it says."""
    kind, _, fields, payload = row
    values = {name: getattr(message, name) for name, _ in fields}
    meta = b"".join(_pack(type_, values[name]) for name, type_ in fields)
    sent = bytes(getattr(message, payload)) if payload else b""
    if strict:
        for name, type_ in fields:
            _check(type_, values[name])
        require(len(meta) <= 1 << 20 and len(sent) <= 1 << 20)
        _agree(fields, values, payload, sent)
    return frame(kind, meta, sent)


def decode(row: Any, meta: bytes, payload: bytes) -> Any:
    """Return the record of a frame by a row of the codec's table."""
    _, record, fields, payload_field = row
    rest = _Meta(meta)
    values = {name: rest.field(type_) for name, type_ in fields}
    require(rest.data == b"")
    _agree(fields, values, payload_field, payload)
    if payload_field:
        values[payload_field] = payload
    return record(**values)
