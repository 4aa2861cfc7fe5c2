"""The memory that chunks lie in on their way through a manager of several processes.

A shard receives chunks into *cells*: pieces of a memory that is its own to write to, and that all shards have mapped,
so that a neighbour can send what lies there. A chunk is known by its cell's name, the number of the memory and where
the cell begins; nothing but the name ever passes the process that decides::

    shard 1: Cells.take ─▶ the chunk is decrypted into cell 7 ─▶ "(memory 1, cell 7) came"
    shard 2: "send (memory 1, cell 7)" ─▶ Loan ─▶ encrypted straight from there ─▶ "done" ─▶ shard 1: Cells.give

How many cells are in use is not decided here: it follows from what the core has granted. Their addresses are reserved
at once and cost nothing; the pages of a cell are allocated before a chunk is let in, since writing to a page that
cannot be had would end the process (SIGBUS). Some cells stay warm, the pages of the others go back to the system.

A memory is a memfd: it has no name that could be left behind, and ends with the last process that has it.
"""

from __future__ import annotations

import mmap
import os

from starcore._framing import Segment, memory
from starcore.manager.budget import IDLE_BYTES_MAX

MEMORY_BYTES = 256 << 30
"""Addresses of one memory."""
CELL_BYTES_MIN = 16 << 10


def create() -> int:
    """Make a memory, and return its descriptor."""
    descriptor = os.memfd_create("starcore-cells", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, MEMORY_BYTES)
    return descriptor


def cell_bytes(length: int) -> int:
    """Return how much a cell for so many bytes measures: four sizes an octave, so a fifth at most is wasted."""
    step = max(CELL_BYTES_MIN // 4, 1 << max(0, (length - 1).bit_length() - 3))
    return max(CELL_BYTES_MIN, -(-length // step) * step)


class Cells:
    """A shard's own memory.

    Parameters
    ----------
    descriptor : int
        As `create` made it; it is closed with `close`.
    idle_bytes_max : int, optional
        What free cells keep of their pages: a fresh page costs as much as receiving into it.
    """

    def __init__(self, descriptor: int, idle_bytes_max: int = IDLE_BYTES_MAX) -> None:
        self._idle_bytes_max = idle_bytes_max
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, MEMORY_BYTES)
        self._view = memoryview(self._map)
        self._taken: dict[int, int] = {}
        self._warm: dict[int, list[int]] = {}
        self._bare: dict[int, list[int]] = {}
        self._idle_bytes = 0
        self._end = 0

    @property
    def used(self) -> int:
        """How many cells are taken."""
        return len(self._taken)

    def take(self, length: int) -> int:
        """Give out a cell for so many bytes, whose pages are there: its name is where it begins.

        Raises
        ------
        OSError
            The system has no memory left for it.
        """
        size = cell_bytes(length)
        if warm := self._warm.get(size):
            cell = warm.pop()
            self._idle_bytes -= size
        else:
            bare = self._bare.get(size)
            cell = bare[-1] if bare else self._end
            os.posix_fallocate(self._descriptor, cell, size)
            if bare:
                bare.pop()
            else:
                self._end += size
        self._taken[cell] = size
        return cell

    def room(self, cell: int, length: int) -> memoryview:
        """Return the first bytes of a cell, to write to."""
        return self._view[cell : cell + length]

    def give(self, cell: int) -> None:
        """Take a cell back."""
        size = self._taken.pop(cell)
        if self._idle_bytes + size <= self._idle_bytes_max:
            self._idle_bytes += size
            self._warm.setdefault(size, []).append(cell)
        else:
            self._map.madvise(mmap.MADV_REMOVE, cell, size)
            self._bare.setdefault(size, []).append(cell)

    def close(self) -> None:
        """Let go of the memory; nobody may look at a cell any more."""
        self._view.release()
        self._map.close()
        os.close(self._descriptor)


class Loan:
    """A memory as every shard reads it, its own too.

    Parameters
    ----------
    descriptor : int
        The memory's; it stays the caller's and may be closed at once.
    """

    def __init__(self, descriptor: int) -> None:
        self._segment = Segment(descriptor, MEMORY_BYTES, writable=False)

    def piece(self, cell: int, start: int, length: int) -> memoryview:
        """Return a cell's bytes [start, start + length), whose `obj` goes with the last view of this piece."""
        return memory(memoryview(self._segment)[cell + start : cell + start + length])

    def close(self) -> None:
        """Let go of the memory; BufferError while somebody looks at it."""
        self._segment.close()
