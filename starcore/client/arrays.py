"""Arrays in and out of `submit_array`: what is refused, where to cut, and how the answers become one array.

Pure numpy; nothing here knows sessions or futures. A cut is a view, so cutting costs nothing::

    array ── plan ──▶ slices ── block ──▶ views ── a task each ──▶ answers, in any order
                                                                      │ landing_for (streamed) / add (inline)
                                                                      ▼
                                               Joiner: straight into one array where the blocks keep their length
                                                       along the axis, else concatenated by `result`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from starcore.errors import ArgumentTypeError, ArgumentValueError
from starcore.layouts import copy_items
from starcore.messages import Buffer
from starcore.pickling import Landing, answer_spec, landing

Array: TypeAlias = np.ndarray[Any, Any]


def check_array(value: Any) -> Array:
    """Return the argument where it can travel as an array.

    Raises
    ------
    ArgumentTypeError
        It is no numpy array, or one of Python objects.
    """
    if not isinstance(value, np.ndarray):
        name = type(value).__name__
        raise ArgumentTypeError(f"an array is needed, not {name}: convert it with numpy.asarray, or use submit()")
    if value.dtype.hasobject:
        raise ArgumentTypeError(
            f"an array of {value.dtype} holds Python objects: convert it with numpy.asarray(a, dtype=float) or "
            "another numeric dtype, or use submit()"
        )
    return value


def check_out(out: Any, array: Array) -> Array:
    """Return `out` where answers may be written to it while `array` is read.

    Raises
    ------
    ArgumentTypeError
        It is no plain numpy array or memmap, or one of Python objects.
    ArgumentValueError
        It is read-only, or may share memory with the input.
    """
    if type(out) is not np.ndarray and type(out) is not np.memmap:
        raise ArgumentTypeError(f"`out` must be a numpy array or memmap, not {type(out).__name__}")
    if out.dtype.hasobject:
        raise ArgumentTypeError(f"`out` of {out.dtype} holds Python objects: answers are received as bytes")
    if not out.flags.writeable:
        raise ArgumentValueError("`out` is read-only: give an array that may be written to")
    if np.may_share_memory(out, array) or _same_file(out, array):
        raise ArgumentValueError("`out` may share memory with the input: give another array, or a copy of the input")
    return out


def snapshot(array: Array) -> Array:
    """Return a copy that later changes of the original do not reach, in the same order."""
    copy = np.array(array, order="K", copy=True, subok=True)
    if array.dtype.names is not None and type(copy) in (np.ndarray, np.memmap):
        copy_items(copy, array)
    return copy


def plan(array: Array, chunks: int, axis: int = 0) -> list[slice]:
    """Cut an array's axis into blocks of one size.

    Parameters
    ----------
    array : ndarray
        At least one-dimensional.
    chunks : int
        Rows per block; the last block may be shorter. An empty axis is one empty block, whatever the number.
    axis : int
        Which axis; negative ones count from the last.

    Returns
    -------
    list of slice
        Of that axis, in order, covering it; for `block`.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        The cut cannot be made, and why.
    """
    length = array.shape[check_axis(array, axis)]
    rows = _rows(chunks, length)
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)] or [slice(0, 0)]


def check_axis(array: Array, axis: int) -> int:
    """Return the axis counted from the first.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        There is no such axis.
    """
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ArgumentTypeError(f"axis must be an int, not {type(axis).__name__}")
    if not array.ndim:
        raise ArgumentValueError("a 0-d array has no axis to cut: leave out chunks")
    if not -array.ndim <= axis < array.ndim:
        raise ArgumentValueError(f"axis {axis} of an array of {array.ndim} dimension{'s' * (array.ndim > 1)}")
    return int(axis) % array.ndim


def block(array: Array, piece: slice, axis: int = 0) -> Array:
    """Return one block as a view."""
    view: Array = array[(slice(None),) * (axis % array.ndim) + (piece,)]
    return view


class Joiner:
    """The answers of all blocks, becoming one array.

    Where the first array answer has the length of its block along the axis, the whole is allocated (or `out` is
    taken) and the answers are received straight into it; an answer of another length or dtype is kept, and
    `result` concatenates. One thread at a time.

    Parameters
    ----------
    pieces : sequence of slice
        What `plan` made; it may grow, where the `length` is given.
    axis : int
        Not negative.
    out : ndarray, optional
        Where the result is wanted.
    trust : bool
        Whether pickled answers are unpickled.
    length : int, optional
        Of the axis, where `pieces` does not cover it yet.
    """

    def __init__(
        self,
        pieces: Sequence[slice],
        axis: int = 0,
        *,
        out: Array | None = None,
        trust: bool = True,
        length: int | None = None,
    ) -> None:
        self._pieces = pieces
        self._axis = axis
        self._out = out
        self._trust = trust
        self._length: int = length if length is not None else pieces[-1].stop if pieces else 0
        self._whole: Array | None = None
        self._parts: dict[int, Array] = {}
        self._placed: set[int] = set()
        if out is not None and out.ndim > axis and out.shape[axis] == self._length:
            self._whole = out

    _alone = True
    """The answer of a lone block is the whole as it is, and needs no other memory."""

    @property
    def complete(self) -> bool:
        """Whether every block's answer is here."""
        return len(self._placed) + len(self._parts) == len(self._pieces)

    def landing_for(self, index: int, head: Buffer, body_bytes: int) -> Landing:
        """Return the place for a block's streamed answer; its `finish` adds the answer and returns it.

        The place is the block's own memory in the whole, where that is contiguous; else the answer is copied there.

        Raises
        ------
        UntrustedError, FrameError
            As from `pickling.landing`.
        ArgumentValueError
            The answer cannot be joined, or does not fit `out`.
        """
        spec = answer_spec(head)
        place = None
        if spec is not None:
            self._check(spec.shape, spec.dtype)
            place = self._place(index, spec.shape, spec.dtype, spec.order)
        inner = landing(head, body_bytes, out=place, trust=self._trust)

        def finish() -> Array:
            value = inner.finish()
            if place is None:
                return self.add(index, value)
            self._placed.add(index)
            return place

        return Landing(inner.buffer, finish)

    def add(self, index: int, value: Any) -> Array:
        """Add a block's answer, and return it as it now stands.

        Raises
        ------
        ArgumentValueError
            It cannot be joined, or does not fit `out`.
        """
        if not isinstance(value, np.ndarray):
            raise ArgumentValueError(
                f"with chunks the function must return an array for each block, and it returned {type(value).__name__}"
            )
        self._check(value.shape, value.dtype)
        # A masked array or matrix stays what it is until all are concatenated.
        plain = type(value) is np.ndarray
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        place = self._place(index, value.shape, value.dtype, order) if plain else None
        if place is None:
            self._parts[index] = value
            return value
        copy_items(place, value)
        self._placed.add(index)
        return place

    def result(self) -> Array:
        """Return the joined array (`out`, where one was given), once all answers are here.

        Raises
        ------
        ArgumentValueError
            The blocks do not fit together, or the whole does not fit `out`.
        """
        if self._whole is not None and not self._parts:
            return self._whole
        parts = [self._parts[i] if i in self._parts else self._view(i) for i in range(len(self._pieces))]
        concatenate = (
            np.ma.concatenate if any(isinstance(part, np.ma.MaskedArray) for part in parts) else np.concatenate
        )
        try:
            joined: Array = parts[0] if len(parts) == 1 else concatenate(parts, self._axis)
        except (ValueError, TypeError) as error:
            shapes = ", ".join(sorted({str(part.shape) for part in parts})[:4])
            raise ArgumentValueError(
                f"the blocks' answers cannot be joined along axis {self._axis}: {shapes}"
            ) from error
        if self._out is None:
            return joined
        if joined.shape != self._out.shape or joined.dtype != self._out.dtype:
            raise ArgumentValueError(_misfit(self._out, joined.shape, joined.dtype, "the joined answer"))
        copy_items(self._out, joined)
        return self._out

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse an answer as early as it is known to be wrong: its head is enough."""
        axis, out = self._axis, self._out
        if len(shape) <= axis:
            raise ArgumentValueError(
                f"with chunks along axis {axis} the function must return an array that has this axis, and it returned "
                f"shape {shape}"
            )
        if out is None:
            return
        rest, wanted = shape[:axis] + shape[axis + 1 :], out.shape[:axis] + out.shape[axis + 1 :]
        if dtype != out.dtype or rest != wanted or len(shape) != out.ndim:
            raise ArgumentValueError(_misfit(out, shape, dtype, "a block's answer"))

    def _place(self, index: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Array | None:
        """Return where in the whole the answer belongs, or None where it does not fit there."""
        axis, piece = self._axis, self._pieces[index]
        if shape[axis] != piece.stop - piece.start:
            return None
        if self._whole is None:
            if self._out is not None or (shape[axis] == self._length and self._alone):
                return None
            self._whole = self._allocate((*shape[:axis], self._length, *shape[axis + 1 :]), dtype, order)
        view = self._view(index)
        return view if view.shape == shape and view.dtype == dtype else None

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Array:
        return np.empty(shape, dtype, order)

    def _view(self, index: int) -> Array:
        assert self._whole is not None
        return block(self._whole, self._pieces[index], self._axis)


def _rows(chunks: Any, length: int) -> int:
    if isinstance(chunks, (bool, np.bool_)):
        raise ArgumentValueError(f'chunks is {chunks}: give the rows of a block as an int, or "auto"')
    if not isinstance(chunks, (int, np.integer)):
        raise ArgumentTypeError(f'chunks must be an int or "auto", not {chunks!r:.80}')
    if chunks < 1 or chunks > length > 0:
        needed = f"1 to {length}" if length else "1 or more"
        raise ArgumentValueError(f"chunks is {chunks}, and the axis has {length} rows: give {needed}")
    return int(chunks)


def _misfit(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> str:
    return f"`out` is {out.dtype} of shape {out.shape}, and {what} is {dtype} of shape {shape}"


def _same_file(first: Array, second: Array) -> bool:
    """Whether two memmaps overlap in one file through two mappings, where their addresses say nothing."""
    spans = [span for span in map(_file_span, (first, second)) if span is not None]
    if len(spans) < 2:
        return False
    (name, start, end), (other, begin, stop) = spans
    return name == other and start < stop and begin < end


def _file_span(array: Array) -> tuple[str, int, int] | None:
    root: Any = array
    while isinstance(root, np.ndarray) and isinstance(root.base, np.memmap):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        return None
    low, high = _bounds(array)
    shift = root.offset - _bounds(root)[0]
    return str(root.filename), low + shift, high + shift


def _bounds(array: Array) -> tuple[int, int]:
    """Return the first address and the one after the last."""
    low = high = int(array.__array_interface__["data"][0])
    for size, stride in zip(array.shape, array.strides, strict=True):
        low, high = low + min(0, (size - 1) * stride), high + max(0, (size - 1) * stride)
    return low, high + array.itemsize
