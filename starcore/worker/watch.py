"""Watches the memory of slots that may have only so much (`--slot-memory`). Part of the shell; it decides nothing.

What counts is what a slot has for itself: its anonymous pages that are resident. Not counted is what it shares, since
`--arena` bounds that: arguments, shared values, the answers that numpy makes in place; nor the pages of files.

Why a look every few milliseconds, and no limit that the kernel would keep: RLIMIT_AS and RLIMIT_DATA count what is
reserved, which for numpy, BLAS and threads is many times what is used, and fail an innocent allocation; RLIMIT_RSS
is kept by no Linux; a memory cgroup needs rights that a batch job or a container seldom gives, moves processes, charges
the arena to whoever touches it first, and kills without a word. The price is that a task may be over its limit by what
it can touch between two looks, and a little longer while it writes its stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable

from starcore.events import Event
from starcore.worker.orders import Swollen
from starcore.worker.process import SlotProcess

LOOK_SECONDS = 0.025
"""A core touches some 50 MB of fresh memory in this time."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Looks at every slot again and again, for as long as the loop runs.

    Parameters
    ----------
    limit : int
        Bytes that a slot may have.
    loop : asyncio.AbstractEventLoop
        Whose thread all this happens in.
    processes : callable
        Returns the slots' living processes.
    feed : callable
        Takes the events.
    """

    def __init__(
        self,
        limit: int,
        loop: asyncio.AbstractEventLoop,
        processes: Callable[[], Iterable[SlotProcess]],
        feed: Callable[[Event], None],
    ) -> None:
        self._limit = limit
        self._loop = loop
        self._processes = processes
        self._feed = feed
        self._timer = loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        for process in list(self._processes()):
            used = own_bytes(process.pid)
            if used > self._limit:
                self._feed(Swollen(process.number, used, self._limit))
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)


def own_bytes(pid: int) -> int:
    """Return how many bytes a process has for itself; 0 for one that is not there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        descriptor = os.open(f"/proc/{pid}/statm", os.O_RDONLY)
        try:
            _, resident, shared = map(int, os.read(descriptor, 256).split()[:3])
        finally:
            os.close(descriptor)
        return (resident - shared) * _PAGE_BYTES
    return 0
