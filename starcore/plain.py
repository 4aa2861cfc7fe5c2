"""Values as bytes without pickle: numbers, text, bytes, tuples, lists, dicts, numpy scalars and arrays.

What arrives from a worker may be decoded here whoever sent it: every length is checked against the bytes that
are present before anything is allocated, the depth is bounded, no name is looked up and no code is run. What is
no plain value raises `NotPlainError` in `encode`; the caller then pickles it. This file knows nothing of heads,
bodies and messages (`pickling.py` does).

A value is one letter and what the letter says (all numbers little-endian)::

    N T F              None, True, False          l t D    u32 count, then the items (D: key, value, ...)
    i i64  I sized     int                        L U      u32 count, doubles     a list / tuple of floats
    f f64  c 2*f64     float, complex             M V      u32 count, i64s        a list / tuple of ints
    s sized  b sized   str, bytes                 n        dtype text, bytes      a numpy scalar
    B u32              bytes that are a segment   w x      sized                  numpy.str_, numpy.bytes_
    r u32              the value numbered so far  a u32    array header           an array that is a segment

Arrays and long bytes objects are segments (`layouts.py`): memory beside the text, never copied here. Lists,
dicts, arrays, tuples and long texts are numbered in the order of their appearance, and met again they become a
reference, so shared and recursive structure survives. Inside a dict's key nothing is numbered: hashing a tuple
of shared tuples takes exponential time, and a stranger could send one.
"""

from __future__ import annotations

import struct
from array import array as column
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from starcore.errors import FrameError
from starcore.layouts import NotPlainError, Segments, describe, get_array, parse_dtype, put_array
from starcore.messages import Buffer

DEPTH_MAX = 64
SHARED_TEXT_BYTES = 64
"""Texts and bytes of at least so many bytes are numbered, so that a repeated one travels once."""
SEGMENT_BYTES = 16 << 10
"""Bytes objects of at least so many bytes travel as a segment instead of being copied into the text."""
UNIFORM_COUNT = 8

_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")
_C128 = struct.Struct("<dd")
_OPEN: Any = object()


def encode(value: Any, segments: Segments) -> bytes:
    """Return the text of a plain value; the memory of its arrays is appended to `segments`.

    Raises
    ------
    NotPlainError
        Something in it is of another type (an exact match is asked for, so a subclass is another type).
        `segments` is then as it was.
    """
    before = len(segments)
    encoder = _Encoder(segments)
    try:
        encoder.put(value, DEPTH_MAX)
    except NotPlainError:
        del segments[before:]
        raise
    return b"".join(encoder.out)


def decode(text: Buffer, segments: Sequence[memoryview]) -> Any:
    """Return the value of `text`; its arrays are views into `segments`.

    Raises
    ------
    FrameError
        The bytes are no such text, or do not agree with the segments.
    """
    decoder = _Decoder(memoryview(text), segments)
    try:
        value = decoder.get(DEPTH_MAX)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FrameError(f"an answer that cannot be read: {error}") from None
    decoder.end()
    return value


# -- writing -------------------------------------------------------------------------------------------------


class _Encoder:
    __slots__ = ("keyed", "numbers", "open", "out", "segments")

    def __init__(self, segments: Segments) -> None:
        self.out: list[bytes] = []
        self.segments = segments
        self.numbers: dict[int, int] = {}
        self.open: set[int] = set()
        self.keyed = False

    def put(self, value: Any, depth: int) -> None:
        writer = _WRITERS.get(type(value))
        if writer is not None:
            writer(self, value, depth)
        elif isinstance(value, np.generic):
            self.scalar(value)
        else:
            raise NotPlainError(type(value))

    def known(self, value: Any) -> bool:
        """Write a reference where this very object was written before; number it where not."""
        if self.keyed:
            return False
        number = self.numbers.get(id(value))
        if number is None:
            self.numbers[id(value)] = len(self.numbers)
            return False
        if id(value) in self.open:
            raise NotPlainError("a tuple that holds itself")
        self.out.append(b"r" + _U32.pack(number))
        return True

    def constant(self, value: Any, depth: int) -> None:
        self.out.append(b"N" if value is None else b"T" if value else b"F")

    def integer(self, value: int, depth: int) -> None:
        try:
            self.out.append(b"i" + _I64.pack(value))
        except struct.error:
            octets = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.sized(b"I", octets)

    def real(self, value: float, depth: int) -> None:
        self.out.append(b"f" + _F64.pack(value))

    def a_complex(self, value: complex, depth: int) -> None:
        self.out.append(b"c" + _C128.pack(value.real, value.imag))

    def sized(self, letter: bytes, octets: bytes) -> None:
        if len(octets) >= 1 << 32:
            raise NotPlainError("more than 4 GiB in one text")
        self.out += (letter + _U32.pack(len(octets)), octets)

    def text(self, value: str, depth: int) -> None:
        if len(value) < SHARED_TEXT_BYTES or not self.known(value):
            self.sized(b"s", value.encode("utf-8", "surrogatepass"))

    def octets(self, value: bytes, depth: int) -> None:
        if len(value) >= SHARED_TEXT_BYTES and self.known(value):
            return
        if len(value) < SEGMENT_BYTES:
            self.sized(b"b", value)
        else:
            self.out.append(b"B" + _U32.pack(len(self.segments)))
            self.segments.append(memoryview(value))

    def a_array(self, value: np.ndarray[Any, Any], depth: int) -> None:
        if not self.known(value):
            self.out.append(b"a" + put_array(value, self.segments))

    def scalar(self, value: np.generic) -> None:
        kind = type(value)
        # Through the base classes: numpy's own str() and bytes() drop trailing NULs.
        if isinstance(value, np.str_) and kind is np.str_:
            self.sized(b"w", str.encode(value, "utf-8", "surrogatepass"))
        elif isinstance(value, np.bytes_) and kind is np.bytes_:
            self.sized(b"x", b"".join((b"", value)))
        elif value.dtype.type is kind:
            text = describe(value.dtype)
            self.out.append(b"n" + _U32.pack(len(text)) + text + value.tobytes())
        else:
            raise NotPlainError(kind)

    def sequence(self, value: list[Any] | tuple[Any, ...], depth: int) -> None:
        listed = type(value) is list
        if not value and not listed:
            self.out.append(b"t" + _U32.pack(0))
            return
        if depth == 0 or len(value) >= 1 << 32:
            raise NotPlainError("nested too deeply")
        if self.known(value):
            return
        count = len(value)
        if count >= UNIFORM_COUNT and (packed := _uniform(value)):
            letter, octets = packed
            self.out += ((letter if listed else _TUPLES[letter]) + _U32.pack(count), octets)
            return
        self.out.append((b"l" if listed else b"t") + _U32.pack(count))
        if not listed:
            self.open.add(id(value))
        for item in value:
            self.put(item, depth - 1)
        self.open.discard(id(value))

    def mapping(self, value: dict[Any, Any], depth: int) -> None:
        if depth == 0 or len(value) >= 1 << 32:
            raise NotPlainError("nested too deeply")
        if self.known(value):
            return
        self.out.append(b"D" + _U32.pack(len(value)))
        for key, item in value.items():
            outer, self.keyed = self.keyed, True
            self.put(key, depth - 1)
            self.keyed = outer
            self.put(item, depth - 1)


def _uniform(value: list[Any] | tuple[Any, ...]) -> tuple[bytes, bytes] | None:
    """Pack a sequence of nothing but floats, or nothing but 64-bit ints, a hundred times faster than one by one."""
    kind = type(value[0])
    if (kind is not float and kind is not int) or set(map(type, value)) != {kind}:
        return None
    try:
        return (b"L", column("d", value).tobytes()) if kind is float else (b"M", column("q", value).tobytes())
    except OverflowError:
        return None


_TUPLES = {b"L": b"U", b"M": b"V"}
_WRITERS: dict[type, Callable[[_Encoder, Any, int], None]] = {
    type(None): _Encoder.constant,
    bool: _Encoder.constant,
    int: _Encoder.integer,
    float: _Encoder.real,
    complex: _Encoder.a_complex,
    str: _Encoder.text,
    bytes: _Encoder.octets,
    list: _Encoder.sequence,
    tuple: _Encoder.sequence,
    dict: _Encoder.mapping,
    np.ndarray: _Encoder.a_array,
    np.memmap: _Encoder.a_array,
}


# -- reading -------------------------------------------------------------------------------------------------


class _Decoder:
    __slots__ = ("keyed", "position", "segments", "text", "used", "values")

    def __init__(self, text: memoryview, segments: Sequence[memoryview]) -> None:
        self.text = text
        self.position = 0
        self.segments = segments
        self.used: set[int] = set()
        self.values: list[Any] = []
        self.keyed = False

    def get(self, depth: int) -> Any:
        reader = _READERS.get(self.take(1)[0])
        if reader is None:
            raise FrameError("an answer with a letter that this version does not know")
        return reader(self, depth)

    def end(self) -> None:
        if self.position != len(self.text):
            raise FrameError(f"an answer with {len(self.text) - self.position} bytes too many")

    def take(self, count: int) -> memoryview:
        start, self.position = self.position, self.position + count
        if self.position > len(self.text):
            raise FrameError("an answer that is cut off")
        return self.text[start : self.position]

    def u32(self) -> int:
        count: int = _U32.unpack(self.take(4))[0]
        return count

    def sized(self) -> memoryview:
        return self.take(self.u32())

    def count(self) -> int:
        """Return the number of items that follow; each takes a byte at least, so a lie shows before the list grows."""
        count = self.u32()
        if count > len(self.text) - self.position:
            raise FrameError("an answer that is cut off")
        return count

    def number(self, value: Any) -> int:
        if not self.keyed:
            self.values.append(value)
        return len(self.values) - 1

    def numbered(self, value: Any) -> Any:
        self.number(value)
        return value

    def segment(self, index: int, size: int | None = None) -> memoryview:
        if index >= len(self.segments) or index in self.used:
            # Each at most once: or a small answer could name a large segment a million times.
            raise FrameError(f"an answer that names segment {index} of {len(self.segments)} again or in vain")
        self.used.add(index)
        segment = self.segments[index]
        if size is not None and size != len(segment):
            raise FrameError(f"an array of {size} bytes in a segment of {len(segment)}")
        return segment

    def reference(self, depth: int) -> Any:
        number = self.u32()
        if self.keyed or number >= len(self.values) or self.values[number] is _OPEN:
            raise FrameError("an answer that refers to what it does not hold")
        return self.values[number]

    def string(self, depth: int) -> str:
        octets = bytes(self.sized())
        value = octets.decode("utf-8", "surrogatepass")
        return value if len(value) < SHARED_TEXT_BYTES else self.numbered(value)

    def octets(self, depth: int) -> bytes:
        value = bytes(self.sized())
        return value if len(value) < SHARED_TEXT_BYTES else self.numbered(value)

    def long_octets(self, depth: int) -> Any:
        # A bytes object owns its memory: the one copy that cannot be saved.
        return self.numbered(bytes(self.segment(self.u32())))

    def a_array(self, depth: int) -> Any:
        spec, self.position = get_array(self.text, self.position)
        return self.numbered(spec.view(self.segment(spec.segment, spec.nbytes)))

    def scalar(self, depth: int) -> Any:
        dtype = parse_dtype(bytes(self.sized()))
        return np.ndarray((), dtype, bytearray(self.take(dtype.itemsize)))[()]

    def a_list(self, depth: int) -> list[Any]:
        count = self.count()
        self.descend(depth)
        items: list[Any] = []
        self.number(items)
        for _ in range(count):
            items.append(self.get(depth - 1))
        return items

    def a_tuple(self, depth: int) -> tuple[Any, ...]:
        count = self.count()
        if not count:
            return ()
        self.descend(depth)
        number = self.number(_OPEN)
        value = tuple([self.get(depth - 1) for _ in range(count)])
        if not self.keyed:
            self.values[number] = value
        return value

    def a_dict(self, depth: int) -> dict[Any, Any]:
        count = self.count()
        self.descend(depth)
        items: dict[Any, Any] = {}
        self.number(items)
        for _ in range(count):
            outer, self.keyed = self.keyed, True
            key = self.get(depth - 1)
            self.keyed = outer
            items[key] = self.get(depth - 1)
        return items

    def uniform(self, typecode: str) -> list[Any]:
        items = column(typecode)
        items.frombytes(self.take(8 * self.u32()))
        return items.tolist()

    @staticmethod
    def descend(depth: int) -> None:
        if depth == 0:
            raise FrameError("an answer nested too deeply")


_READERS: dict[int, Callable[[_Decoder, int], Any]] = {
    ord("N"): lambda self, depth: None,
    ord("T"): lambda self, depth: True,
    ord("F"): lambda self, depth: False,
    ord("i"): lambda self, depth: _I64.unpack(self.take(8))[0],
    ord("I"): lambda self, depth: int.from_bytes(self.sized(), "little", signed=True),
    ord("f"): lambda self, depth: _F64.unpack(self.take(8))[0],
    ord("c"): lambda self, depth: complex(*_C128.unpack(self.take(16))),
    ord("s"): _Decoder.string,
    ord("b"): _Decoder.octets,
    ord("B"): _Decoder.long_octets,
    ord("a"): _Decoder.a_array,
    ord("n"): _Decoder.scalar,
    ord("w"): lambda self, depth: np.str_(bytes(self.sized()).decode("utf-8", "surrogatepass")),
    ord("x"): lambda self, depth: np.bytes_(bytes(self.sized())),
    ord("l"): _Decoder.a_list,
    ord("t"): _Decoder.a_tuple,
    ord("D"): _Decoder.a_dict,
    ord("L"): lambda self, depth: self.numbered(self.uniform("d")),
    ord("U"): lambda self, depth: self.numbered(tuple(self.uniform("d"))),
    ord("M"): lambda self, depth: self.numbered(self.uniform("q")),
    ord("V"): lambda self, depth: self.numbered(tuple(self.uniform("q"))),
    ord("r"): _Decoder.reference,
}
