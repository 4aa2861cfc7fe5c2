"""The shared memory between supervisor and slots: anonymous files, mapped by both, reused while warm.

A fresh page costs as much as receiving into it, so a segment that nobody looks at any more goes to a free list
and serves the next body of its size class. Memory is allocated before it is promised (`posix_fallocate`), so a
full machine is an error here and never a SIGBUS in a task. The files have no name: when the last process that has
one open is gone, so is the memory.

Who may have how much is decided in `memory.py`; `Arena` is the supervisor's, `Pool` the same for a slot's answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from starcore._framing import Segment
from starcore.capacity import memory_limit_bytes
from starcore.worker.runs import segment_bytes

CHECKED_BYTES = 16 << 20
"""From this size on, memory is asked for only if the machine says that it has it."""
FREE_SECONDS_MAX = 30.0
"""A free segment that found no use for so long is given back to the machine."""


def memory_file(name: str, size: int) -> int:
    """Return the descriptor of an anonymous file whose `size` bytes are really there.

    Raises
    ------
    OSError
        The machine (or the container) has not got that much memory.
    """
    if size > CHECKED_BYTES and size > available_bytes():
        # The kernel would not say no: it would end processes until there is enough.
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix=name)
        os.unlink(path)
    try:
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@dataclass(slots=True, eq=False)
class Piece:
    """A segment with its descriptor; `slots` are those that have it mapped too."""

    number: int
    size: int
    descriptor: int
    segment: Segment
    freed_at: float = 0.0
    slots: set[int] = field(default_factory=set)

    def view(self, offset: int, length: int) -> memoryview:
        """Look at a part of it."""
        return memoryview(self.segment)[offset : offset + length]

    def close(self) -> None:
        """Give it back to the machine, or, where somebody still looks at it, as soon as nobody does."""
        os.close(self.descriptor)
        with contextlib.suppress(BufferError):
            self.segment.close()


class Arena:
    """Segments by size class, in use or free; together at most about `capacity` bytes."""

    def __init__(self, capacity: int, name: str = "starcore-arena") -> None:
        self.capacity = capacity
        self._name = name
        self._last = 0
        self._used: dict[int, Piece] = {}
        self._free: list[Piece] = []

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(piece.size for piece in (*self._used.values(), *self._free))

    @property
    def free_bytes(self) -> int:
        """Bytes of the segments that wait for their next use."""
        return sum(piece.size for piece in self._free)

    def reuse(self, size: int) -> Piece | None:
        """Return a free segment of the right class that nobody looks at, the warmest first."""
        wanted = segment_bytes(size)
        for at in range(len(self._free) - 1, -1, -1):
            piece = self._free[at]
            if piece.size == wanted and not piece.segment.views:
                del self._free[at]
                self._used[piece.number] = piece
                return piece
        return None

    def claim(self, address: int, size: int) -> Piece | None:
        """Take the free segment into which numpy has put an array with these bytes, if that is where they are."""
        for at, piece in enumerate(self._free):
            if piece.segment.taken and 0 <= address - piece.segment.address <= piece.size - size:
                del self._free[at]
                self._used[piece.number] = piece
                return piece
        return None

    def make_room(self, size: int) -> list[Piece]:
        """Close free segments, the coldest first, until a new one of this size fits; return those closed."""
        closed: list[Piece] = []
        excess = self.total_bytes + segment_bytes(size) - self.capacity
        while excess > 0 and self._free:
            closed.append(self.close_coldest())
            excess -= closed[-1].size
        return closed

    def close_coldest(self) -> Piece:
        """Close the free segment that found no use for the longest time."""
        piece = self._free.pop(0)
        piece.close()
        return piece

    def create(self, size: int) -> tuple[int, Segment]:
        """Make fresh memory; may be called in a thread, since it may take a while. `adopt` it afterwards.

        Raises
        ------
        OSError
            There is not that much.
        """
        size = segment_bytes(size)
        descriptor = memory_file(self._name, size)
        try:
            return descriptor, Segment(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    def adopt(self, descriptor: int, segment: Segment) -> Piece:
        """Take in what `create` made."""
        self._last += 1
        piece = self._used[self._last] = Piece(self._last, segment.size, descriptor, segment)
        return piece

    def take(self, size: int) -> tuple[Piece, list[Piece]]:
        """Return a segment for a body of this size, and the free ones that had to be closed for it."""
        piece = self.reuse(size)
        if piece is not None:
            return piece, []
        closed = self.make_room(size)
        return self.adopt(*self.create(size)), closed

    def get(self, number: int) -> Piece | None:
        """Return a segment in use by its number."""
        return self._used.get(number)

    def give(self, piece: Piece, now: float) -> None:
        """Take a segment back for its next use."""
        if self._used.pop(piece.number, None) is not None:
            piece.freed_at = now
            self._free.append(piece)

    def forget(self, piece: Piece) -> None:
        """Let go of a segment that somebody else still looks at."""
        if self._used.pop(piece.number, None) is not None:
            piece.close()

    def trim(self, now: float) -> list[Piece]:
        """Close the free segments that found no use for a while; return them."""
        old = [piece for piece in self._free if now - piece.freed_at > FREE_SECONDS_MAX]
        for piece in old:
            self._free.remove(piece)
            piece.close()
        return old

    def close(self) -> None:
        """Give everything back."""
        for piece in (*self._used.values(), *self._free):
            piece.close()
        self._used.clear()
        self._free.clear()


class Pool:
    """A slot's own segments for answers that lie nowhere else; the supervisor reads them and says when to reuse.

    While a segment is free, numpy may put an array there (`_framing.place_arrays`): an answer that was made in one
    needs no copy. Such a segment counts as looked at until the array is gone.
    """

    def __init__(self, free_bytes_max: int) -> None:
        self._arena = Arena(free_bytes_max, "starcore-answer")
        self._free_bytes_max = free_bytes_max

    def take(self, size: int) -> Piece:
        """Return memory for an answer.

        Raises
        ------
        OSError
            There is not that much.
        """
        while (piece := self._arena.reuse(size)) is not None:
            piece.segment.withdraw()
            if not piece.segment.views:
                return piece
            self.give(piece, piece.freed_at)  # another thread's array came in between
        return self._arena.adopt(*self._arena.create(size))

    def claim(self, address: int, size: int) -> Piece | None:
        """Take the segment that numpy has put this answer into, if it has; numpy gets it no more."""
        piece = self._arena.claim(address, size)
        if piece is not None:
            piece.segment.withdraw()
        return piece

    def give(self, piece: Piece, now: float) -> None:
        """Let a segment be used for another answer, by `take` or by numpy."""
        self._arena.give(piece, now)
        piece.segment.offer()

    def free(self, number: int, now: float) -> list[int]:
        """Take a segment back; return the numbers of those that are too many, and closed."""
        piece = self._arena.get(number)
        if piece is None:
            return []
        self.give(piece, now)
        closed = self._arena.trim(now)
        while self._arena.free_bytes > self._free_bytes_max:
            closed.append(self._arena.close_coldest())
        return [old.number for old in closed]

    def close(self) -> None:
        """Give everything back."""
        self._arena.close()


# -- how much there is ---------------------------------------------------------------------------------------


def available_bytes() -> int:
    """Return how much memory may be taken without pushing somebody else out."""
    limit = memory_limit_bytes()
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(limit, int(line.split()[1]) << 10)
    return limit


def default_arena_bytes() -> int:
    """Return a quarter of the memory that this process may use."""
    return max(64 << 20, memory_limit_bytes() // 4)
