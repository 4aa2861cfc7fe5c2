"""Arrays as a header and their own memory: dtype, shape and order as text that needs no pickle.

A *segment* is memory that travels beside a text: an array's own, uncopied, or (`Strided`) made contiguous piece
by piece while it is sent. What a header says is checked before it is believed: anybody may have written it.

    header   u32 segment, C or F, u8 dimensions, u64 each, u16 length of the dtype's text, the text

A dtype's text is `dtype.str` or, where there is more to say (fields, offsets, titles, subarrays), JSON.
"""

from __future__ import annotations

import json
import re
import struct
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from starcore._framing import memory
from starcore.errors import FrameError

DTYPE_DEPTH_MAX = 16

_ARRAY = struct.Struct("<IcB")
_SIMPLE = re.compile(r"[<>|](?:b1|[iufc]\d{1,2}|[qQ]|[SUV]\d{1,10}|[mM]8(?:\[\d{0,10}[a-zA-Zμ]{1,7}\])?)")


class NotPlainError(Exception):
    """The value needs pickle; never leaves this package."""


class Strided:
    """The memory of a non-contiguous array as one segment, made contiguous piece by piece while it is read."""

    __slots__ = ("array", "nbytes")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = whole_items(array)
        self.nbytes = array.nbytes

    def read(self, offset: int, length: int) -> memoryview:
        """Return a copy of these bytes of the array in C order."""
        size = self.array.itemsize
        first = offset // size
        piece = self.array.flat[first : -(-(offset + length) // size)]
        return memory(piece)[offset - first * size :][:length]

    def copy_into(self, destination: memoryview) -> None:
        """Write all of it at once into memory of that many bytes."""
        np.copyto(np.ndarray(self.array.shape, self.array.dtype, destination), self.array)


Segments = list[memoryview | Strided]


def whole_items(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a view whose items are copied whole.

    numpy copies structured items field by field, and what lies between would be whatever memory held before.
    """
    return array if array.dtype.names is None else np.asarray(array).view(f"V{array.itemsize}")


def copy_items(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Copy an array into one of the same dtype and shape, padding included."""
    np.copyto(whole_items(target), whole_items(source))


def describe(dtype: np.dtype[Any]) -> bytes:
    """Return the text of a dtype; `NotPlainError` where only pickle can carry it (objects, metadata, user dtypes)."""
    if dtype.metadata is None and dtype.names is None and dtype.subdtype is None:
        text = _describe_simple(dtype.char, dtype)
        if text is not None:
            return text
    elif not dtype.hasobject and dtype.itemsize:
        text = json.dumps(_tree(dtype), separators=(",", ":")).encode()
        try:
            if parse_dtype(text) == dtype:
                return text
        except FrameError:
            pass
    raise NotPlainError(dtype)


@lru_cache(1024)
def _describe_simple(char: str, dtype: np.dtype[Any]) -> bytes | None:
    """`char` stands in the key because two integer dtypes of one size compare equal."""
    if dtype.hasobject or not dtype.itemsize or dtype.isbuiltin == 2:
        return None
    for text in (dtype.str, dtype.str[0] + char):
        if not _SIMPLE.fullmatch(text):
            continue
        again = np.dtype(text)
        if again == dtype and again.char == char and again.type is dtype.type:
            return text.encode()
    return None


def _tree(dtype: np.dtype[Any]) -> Any:
    if dtype.metadata is not None:
        raise NotPlainError(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _tree(base), "shape": list(shape)}
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    if dtype.type not in (np.void, np.record):
        raise NotPlainError(dtype)
    fields = [dtype.fields[name] for name in dtype.names]
    titles = [field[2] if len(field) == 3 else None for field in fields]
    if any(type(title) not in (str, type(None)) for title in titles):
        raise NotPlainError(dtype)
    return {
        "names": list(dtype.names),
        "formats": [_tree(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
        "record": dtype.type is np.record,
    }


def parse_dtype(text: bytes) -> np.dtype[Any]:
    """Return the dtype of a text that anybody may have written."""
    try:
        dtype = _parse_simple(text) if text[:1] in b"<>|" else _plant(json.loads(text), DTYPE_DEPTH_MAX)
    except FrameError:
        raise
    except Exception as error:
        # numpy says no in many ways (TypeError, ValueError, SyntaxError, ...): each means the same here.
        raise FrameError(f"no dtype: {text[:80]!r}") from error
    if dtype.hasobject:
        raise FrameError("a dtype of objects in a plain answer")
    return dtype


@lru_cache(256)
def _parse_simple(text: bytes) -> np.dtype[Any]:
    decoded = text.decode()
    if not _SIMPLE.fullmatch(decoded):
        raise FrameError(f"no dtype: {text[:80]!r}")
    return np.dtype(decoded)


def _plant(tree: Any, depth: int) -> np.dtype[Any]:
    if depth == 0:
        raise FrameError("a dtype nested too deeply")
    if isinstance(tree, str):
        return _parse_simple(tree.encode())
    if "base" in tree:
        _check_types(tree["shape"], int)
        return np.dtype((_plant(tree["base"], depth - 1), tuple(tree["shape"])))
    _check_types(tree["names"], str)
    _check_types(tree["offsets"], int)
    spec: Any = {
        "names": tree["names"],
        "formats": [_plant(format, depth - 1) for format in tree["formats"]],
        "offsets": tree["offsets"],
        "itemsize": tree["itemsize"],
        "aligned": bool(tree["aligned"]),
    }
    if any(title is not None for title in tree["titles"]):
        spec["titles"] = tree["titles"]
    dtype = np.dtype(spec)
    return np.dtype((np.record, dtype)) if tree["record"] else dtype


def _check_types(items: Any, kind: type) -> None:
    """Numpy reads more into other types than a header may say."""
    if type(items) is not list or not all(type(item) is kind for item in items):
        raise FrameError("a dtype's text with items of another type")


class Spec:
    """What an array header says: how to look at a segment."""

    __slots__ = ("dtype", "nbytes", "order", "segment", "shape")

    def __init__(self, segment: int, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> None:
        self.segment = segment
        self.dtype = dtype
        self.shape = shape
        self.order = order
        self.nbytes = prod(shape) * dtype.itemsize

    def view(self, segment: memoryview | None) -> np.ndarray[Any, Any]:
        """Return the array over that memory, or over new memory where there is none to look at."""
        try:
            if segment is None or not self.nbytes:
                return np.empty(self.shape, self.dtype, self.order)
            return np.ndarray(self.shape, self.dtype, segment, order=self.order)
        except (ValueError, TypeError, OverflowError) as error:
            raise FrameError(f"an array that cannot be: {error}") from None

    def matches(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether the bytes can be received straight into that array."""
        contiguous = array.flags.c_contiguous if self.order == "C" else array.flags.f_contiguous
        return contiguous and array.dtype == self.dtype and array.shape == self.shape


def contiguous(array: np.ndarray[Any, Any]) -> tuple[str, memoryview | Strided]:
    """Return an array's order and its memory in that order, uncopied."""
    flags = array.flags
    if not array.nbytes:
        return ("F" if flags.f_contiguous and not flags.c_contiguous else "C"), memoryview(b"")
    if flags.c_contiguous:
        return "C", memory(array)
    if flags.f_contiguous:
        return "F", memory(array.T)
    return "C", Strided(array)


def put_array(array: np.ndarray[Any, Any], segments: Segments) -> bytes:
    """Append an array's memory to `segments`, uncopied, and return its header."""
    text = describe(array.dtype)
    order, segment = contiguous(array)
    segments.append(segment)
    shape = struct.pack(f"<{array.ndim}QH", *array.shape, len(text))
    return _ARRAY.pack(len(segments) - 1, order.encode(), array.ndim) + shape + text


def get_array(text: memoryview, position: int) -> tuple[Spec, int]:
    """Read an array header and say where it ends; sizes are not yet compared with anything."""
    try:
        segment, order, ndim = _ARRAY.unpack_from(text, position)
        position += _ARRAY.size
        *shape, count = struct.unpack_from(f"<{ndim}QH", text, position)
    except struct.error:
        raise FrameError("an array header that is cut off") from None
    position += 8 * ndim + 2
    if order not in (b"C", b"F") or position + count > len(text):
        raise FrameError("an array header that cannot be")
    dtype = parse_dtype(bytes(text[position : position + count]))
    if not dtype.itemsize:
        raise FrameError("an array of nothing")
    return Spec(segment, dtype, tuple(shape), order.decode()), position + count


def is_plain_array(value: Any) -> bool:
    """Whether this travels as an array: a numpy array or memmap (no other subclass) with a dtype of plain items."""
    if type(value) is not np.ndarray and type(value) is not np.memmap:
        return False
    try:
        describe(value.dtype)
    except NotPlainError:
        return False
    return True
