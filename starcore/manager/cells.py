"""The memory that chunks lie in on their way through a manager of several processes.

A shard receives chunks into *cells*: pieces of CHUNK_BYTES_MAX of a memory that is its own to write to, and that all
shards have mapped, so that a neighbour can send what lies there. A chunk is known by its cell's name, the number of
the memory and of the cell; nothing but the name ever passes the process that decides::

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

from starcore._framing import Segment
from starcore.messages import CHUNK_BYTES_MAX

CELLS_MAX = 1 << 18
"""Of one memory: 64 GiB of addresses."""
IDLE_CELLS_MAX = 64
"""Free cells that keep their pages: a fresh page costs as much as receiving into it."""
MEMORY_BYTES = CELLS_MAX * CHUNK_BYTES_MAX


def create() -> int:
    """Make a memory, and return its descriptor."""
    descriptor = os.memfd_create("starcore-cells", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, MEMORY_BYTES)
    return descriptor


class Cells:
    """A shard's own memory.

    Parameters
    ----------
    descriptor : int
        As `create` made it; it is closed with `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, MEMORY_BYTES)
        self._view = memoryview(self._map)
        self._warm: list[int] = []
        self._bare: list[int] = []
        self._next = 0

    @property
    def used(self) -> int:
        """How many cells are taken."""
        return self._next - len(self._warm) - len(self._bare)

    def take(self) -> int:
        """Give out a cell, whose pages are there.

        Raises
        ------
        OSError
            The system has no memory left for it.
        """
        if self._warm:
            return self._warm.pop()
        cell = self._bare[-1] if self._bare else self._next
        os.posix_fallocate(self._descriptor, cell * CHUNK_BYTES_MAX, CHUNK_BYTES_MAX)
        if self._bare:
            self._bare.pop()
        else:
            self._next += 1
        return cell

    def room(self, cell: int, length: int) -> memoryview:
        """Return the first bytes of a cell, to write to."""
        start = cell * CHUNK_BYTES_MAX
        return self._view[start : start + length]

    def give(self, cell: int) -> None:
        """Take a cell back."""
        if len(self._warm) < IDLE_CELLS_MAX:
            self._warm.append(cell)
        else:
            self._map.madvise(mmap.MADV_REMOVE, cell * CHUNK_BYTES_MAX, CHUNK_BYTES_MAX)
            self._bare.append(cell)

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

    @property
    def read(self) -> bool:
        """Whether nobody looks at any cell: what was to be sent has been encrypted."""
        return not self._segment.views

    def piece(self, cell: int, start: int, length: int) -> memoryview:
        """Return a cell's bytes [start, start + length)."""
        start += cell * CHUNK_BYTES_MAX
        return memoryview(self._segment)[start : start + length]

    def close(self) -> None:
        """Let go of the memory; BufferError while somebody looks at it."""
        self._segment.close()
