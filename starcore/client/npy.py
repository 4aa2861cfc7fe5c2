"""Answers that go into a .npy file as they come, whatever their size: a file takes the place of memory.

::

    answer ── landing_for / add ──▶ Draft: the whole as .npy under another name, mapped ── keep ──▶ the file
                    │ of another length or dtype than was to be expected
                    ▼
                 scratch, a file without a name ── result: into a second draft

The draft's blocks are taken from the disk before a byte goes there, so a full disk is an error of the call and not a
signal in the middle. Whoever waits calls `trim`: what has been written is the disk's, and leaves this process.
`FileJoiner` is a `Joiner`, and runs in the session's thread, as that does.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import numpy as np

from starcore.client.arrays import Joiner
from starcore.errors import ArgumentValueError, SetupError
from starcore.layouts import copy_items
from starcore.messages import Buffer
from starcore.pickling import Failed, Landing, answer_spec, landing

COPY_BYTES = 16 << 20
"""At once from one file to another."""
ALIGNMENT_BYTES = 64
TWICE = " (answers that are put together at the end take it twice)"
ZEROS_BYTES = 1 << 20

Array: TypeAlias = np.ndarray[Any, Any]


class NpyFile:
    """A file that is there whole or not at all, and what it is made of meanwhile.

    Parameters
    ----------
    path : path-like
        Where it is to be; a link is followed. What is there now stays until the new one is whole.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = Path(os.path.realpath(path))
        self._mark = f"{os.getpid()}-{secrets.token_hex(4)}"  # of a process that was killed, one may be left
        self._drafts: list[Draft] = []
        self._rooms: dict[Room, None] = {}
        self._scratch: IO[bytes] | None = None
        self._scratch_bytes = 0
        with self._telling():  # a directory that takes no file is told before anything is fetched
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.path.exists() and not self.path.is_file():  # a pipe, or /dev/null, which root would replace
                raise OSError(errno.EINVAL, "this is no regular file, and would be replaced by one")
            self._draft_path().open("xb").close()

    def __enter__(self) -> NpyFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in range(len(self._drafts) + 1):
            self._draft_path(place).unlink(missing_ok=True)
        if self._scratch is not None:
            self._scratch.close()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any = "C") -> Array:
        """Return an array whose memory is a new draft's. Raises SetupError where the disk has no room for it."""
        size = dtype.itemsize * math.prod(shape)
        with self._telling(f" (the answer takes {size} bytes, and there must be room for it beside what is there)"):
            draft = Draft(self._draft_path(len(self._drafts)), shape, dtype, order)
            self._drafts.append(draft)
        return draft.array

    def put_by(self, array: Array) -> Part:
        """Write an array to the scratch file."""
        part = self._reserve(array.shape, array.dtype, "C")
        if array.nbytes:
            octets: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            flat, at = memoryview(octets), part.offset
            with self._telling(TWICE):
                while flat:
                    done = os.pwrite(self._descriptor(), flat, at)
                    flat, at = flat[done:], at + done
        return part

    def room(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Room:
        """Return an array whose memory is a part of the scratch file, for an answer that is on its way."""
        part = self._reserve(shape, dtype, order)
        with self._telling(TWICE):
            _take(self._descriptor(), part.offset, part.nbytes)
        return self._open(part)

    def copy(self, part: Part, target: Array) -> None:
        """Copy what was put by to where it belongs, a piece at a time."""
        room = self._open(part)
        source = room.array
        rows = max(1, COPY_BYTES // max(1, source.nbytes // max(1, len(source))))
        for at in range(0, len(source), rows):
            target[at : at + rows] = source[at : at + rows]
            self.trim()
        self.leave(room)

    def leave(self, room: Room) -> None:
        """Nobody looks at it any more; what is in it stays."""
        self._rooms.pop(room, None)

    def trim(self) -> None:
        """Let go of memory whose bytes the disk has, or will have."""
        for draft in list(self._drafts):
            draft.trim()
        for room in list(self._rooms):
            room.trim()

    def keep(self) -> None:
        """Give the draft that came last the file's name; it is on the disk when this returns."""
        with self._telling():
            self._drafts[-1].sync()
            self._draft_path(len(self._drafts) - 1).replace(self._target)
        with contextlib.suppress(OSError):  # not every system lets a directory be opened, and the file is there
            directory = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _reserve(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Part:
        part = Part(self._scratch_bytes, shape, dtype, order)
        self._scratch_bytes += part.nbytes + -part.nbytes % ALIGNMENT_BYTES
        return part

    def _open(self, part: Part) -> Room:
        room = Room(self._descriptor(), part)
        self._rooms[room] = None
        return room

    def _descriptor(self) -> int:
        if self._scratch is None:
            with self._telling():
                self._scratch = tempfile.TemporaryFile(dir=self._target.parent)  # noqa: SIM115 - closed by __exit__
        return self._scratch.fileno()

    @contextlib.contextmanager
    def _telling(self, full: str = "") -> Iterator[None]:
        """Say which file cannot be written, and why: an OSError might be the user's function's own."""
        try:
            yield
        except OSError as error:
            more = full if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
            raise SetupError(f"{self.path}: {error.strerror or error}{more}") from error

    def _draft_path(self, number: int = 0) -> Path:
        return self._target.with_name(f".{self._target.name}.{self._mark}.{number}.part")


class Part:
    """An array in the scratch file."""

    __slots__ = ("dtype", "nbytes", "offset", "order", "shape")

    def __init__(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> None:
        self.offset = offset
        self.shape = shape
        self.dtype = dtype
        self.order = order
        self.nbytes = dtype.itemsize * math.prod(shape)


class Room:
    """A part of the scratch file, mapped."""

    def __init__(self, descriptor: int, part: Part) -> None:
        self.part = part
        self._memory: mmap.mmap | None = None
        if not part.nbytes:
            self.array: Array = np.empty(part.shape, part.dtype)
            return
        within = part.offset % mmap.ALLOCATIONGRANULARITY
        self._memory = mmap.mmap(descriptor, within + part.nbytes, offset=part.offset - within)
        self.array = np.ndarray(part.shape, part.dtype, self._memory, within, order=part.order)

    def trim(self) -> None:
        """Unmap what was written."""
        if self._memory is not None:
            _unmap(self._memory)


class Draft:
    """A .npy file that is mapped, all of it on the disk's account."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> None:
        written = np.lib.format.open_memmap(path, "w+", dtype, shape, fortran_order=order == "F")
        offset = int(written.offset)
        del written
        with path.open("r+b") as file:
            _take(file.fileno(), 0, path.stat().st_size)
            self._memory = mmap.mmap(file.fileno(), 0)
        self.array: Array = np.ndarray(shape, dtype, self._memory, offset, order=order)

    def trim(self) -> None:
        """Unmap what was written; the system writes it to the disk when it likes."""
        _unmap(self._memory)

    def sync(self) -> None:
        """Have it on the disk."""
        self._memory.flush()


def _unmap(memory: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)  # of a shared mapping nothing is lost: the file has it


def _take(descriptor: int, offset: int, size: int) -> None:
    """Take a file's bytes from the disk now: a mapping of blocks that are not there ends in a signal."""
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, offset, size)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
        else:
            return
    held = os.pread(descriptor, ZEROS_BYTES, offset).rstrip(b"\0")
    for at in range(offset, offset + size, ZEROS_BYTES):
        os.pwrite(descriptor, bytes(min(ZEROS_BYTES, offset + size - at)), at)
    os.pwrite(descriptor, held[:size], offset)


class FileJoiner(Joiner):
    """As `Joiner`, with a file for memory: the answers of all blocks become one array in it.

    Parameters
    ----------
    file : NpyFile
        Where the whole goes.
    pieces, axis, trust
        As there.
    """

    _alone = False

    def __init__(self, file: NpyFile, pieces: Sequence[slice], axis: int = 0, *, trust: bool = True) -> None:
        super().__init__(pieces, axis, trust=trust)
        self._file = file

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Array:
        return self._file.allocate(shape, dtype, order)

    def landing_for(self, index: int, head: Buffer, body_bytes: int) -> Landing:
        """Return the place for a block's streamed answer: its own in the whole, or one in the scratch file.

        Raises
        ------
        UntrustedError, FrameError, ArgumentValueError
            As from `Joiner.landing_for`.
        SetupError
            The disk has no room for it.
        """
        spec = answer_spec(head)
        if spec is None:
            return super().landing_for(index, head, body_bytes)
        self._check(spec.shape, spec.dtype)
        return self._land(index, head, body_bytes, spec, self._place(index, spec.shape, spec.dtype, spec.order))

    def _land(self, index: int, head: Buffer, body_bytes: int, spec: Any, place: Array | None) -> Landing:
        room = (
            None if place is not None and spec.matches(place) else self._file.room(spec.shape, spec.dtype, spec.order)
        )
        inner = landing(head, body_bytes, out=place if room is None else room.array, trust=self._trust)

        def finish() -> Any:
            inner.finish()
            if room is not None:
                if place is None:
                    self._parts[index] = room.part  # type: ignore[assignment]  # shape and dtype, and no bytes
                else:
                    copy_items(place, room.array)
                self._file.leave(room)
            if place is not None:
                self._placed.add(index)

        return Landing(inner.buffer, finish)

    def add(self, index: int, value: Any) -> Any:
        """Add a block's answer; what does not fit its place waits on the disk."""
        added = super().add(index, as_array(value) if isinstance(value, np.ndarray) else value)
        part = self._parts.get(index)
        if part is None:
            return added
        self._parts[index] = self._file.put_by(part)  # type: ignore[assignment]  # shape and dtype, and no bytes
        return None

    @property
    def arrived(self) -> int:
        """How many blocks' answers are here."""
        return len(self._placed) + len(self._parts)

    def result(self) -> Any:
        """Nothing: the answers are in files. `gather` is the waiting thread's, since it may take long."""

    def gather(self) -> None:
        """Put what waits into a second draft, with all that is in place already."""
        if self._whole is not None and not self._parts:
            return
        axis = self._axis
        parts: list[Any] = [self._parts[i] if i in self._parts else self._view(i) for i in range(len(self._pieces))]
        dtype = np.result_type(*{part.dtype for part in parts})
        if dtype.kind == "f" and all(part.dtype.kind in "iu" for part in parts):
            raise ArgumentValueError("the answers are signed and unsigned integers: fetch them in Python")
        shapes = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts}
        if len(shapes) > 1:
            said = ", ".join(sorted({str(part.shape) for part in parts})[:4])
            raise ArgumentValueError(f"the answers cannot be joined along axis {axis}: {said}; fetch them in Python")
        length, shape = sum(part.shape[axis] for part in parts), parts[0].shape
        whole = self._file.allocate((*shape[:axis], length, *shape[axis + 1 :]), dtype)
        at = 0
        for part in parts:
            place = whole[(slice(None),) * axis + (slice(at, at + part.shape[axis]),)]
            at += part.shape[axis]
            if isinstance(part, Part):
                self._file.copy(part, place)
            else:
                place[...] = part
            self._file.trim()


class BatchJoiner(FileJoiner):
    """The values of a `map`, in the order of its calls: an array of them, as numpy makes it of a list.

    Parameters
    ----------
    file : NpyFile
        Where it goes.
    size, total : int
        Calls in a task, and in all; the last task may have fewer.
    """

    def __init__(self, file: NpyFile, size: int, total: int, *, trust: bool = True) -> None:
        pieces = [slice(at, min(at + size, total)) for at in range(0, total, size)]
        super().__init__(file, pieces, trust=trust)

    def landing_for(self, index: int, head: Buffer, body_bytes: int) -> Landing:
        """Return the place for a batch's answer; the lone array of a lone call goes where it belongs."""
        piece = self._pieces[index]
        spec = answer_spec(head) if piece.stop - piece.start == 1 else None
        if spec is not None:
            place = self._place(index, (1, *spec.shape), spec.dtype, "C")
            if place is not None:
                return self._land(index, head, body_bytes, spec, place[0, ...])  # a view, of a 0-d array too
        inner = landing(head, body_bytes, trust=self._trust)
        return Landing(inner.buffer, lambda: self.add(index, inner.finish()))

    def add(self, index: int, value: Any) -> Any:
        """Add a batch's values. Raises what the first of them raised that failed."""
        piece = self._pieces[index]
        values = [value] if piece.stop - piece.start == 1 else value
        for each in values:
            if type(each) is Failed:
                raise each.error
        super().add(index, as_array(values))


class LoneJoiner(FileJoiner):
    """One answer, of whatever shape."""

    def __init__(self, file: NpyFile, *, trust: bool = True) -> None:
        super().__init__(file, [slice(0, 1)], trust=trust)

    def landing_for(self, index: int, head: Buffer, body_bytes: int) -> Landing:
        """Return the place for the answer: the file, if it is an array."""
        spec = answer_spec(head)
        if spec is None:
            inner = landing(head, body_bytes, trust=self._trust)
            return Landing(inner.buffer, lambda: self.add(index, inner.finish()))
        if self._whole is None:  # else it was cut off, and comes again
            self._whole = self._allocate(spec.shape, spec.dtype, spec.order)
        return landing(head, body_bytes, out=self._whole, trust=self._trust)

    def add(self, index: int, value: Any) -> Any:
        """Add the answer."""
        array = as_array(value)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self._whole = self._allocate(array.shape, array.dtype, "F" if fortran else "C")
        copy_items(self._whole, array)


def as_array(value: Any) -> Array:
    """Return what numpy makes of a value, if .npy can hold it without pickle.

    Raises
    ------
    ArgumentValueError
        It cannot.
    """
    try:
        array: Array = np.asanyarray(value)
    except ValueError as error:
        raise ArgumentValueError(f"the answers make no array ({error}): fetch them in Python") from error
    if array.dtype.hasobject:
        kind = type(value).__name__
        raise ArgumentValueError(f"the answer is {kind} and no array of numbers: fetch it in Python")
    if isinstance(array, np.ma.MaskedArray):
        raise ArgumentValueError("the answer is a masked array, which .npy does not know: fetch it in Python")
    return np.asarray(array)
