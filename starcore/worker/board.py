"""A slot's board: a page of shared memory that says what the slot is doing, readable while it is busy or dead.

::

    word 0   u64   ticket: batch << 32 | tasks of it begun << 1 | whether the last of them still runs
    word 1   f64   since when (s, CLOCK_MONOTONIC)                              written by the slot, word 1 first
    word 2   u64   recalled: no task of a batch up to this one may begin        written by the supervisor

A recall is a handshake without a lock. The slot announces a task and then looks at `recalled`; the supervisor
writes `recalled`, waits `SETTLE_SECONDS` (an age for two cores' caches) and then looks at the ticket. So a task
that the ticket does not show will never begin. One that it shows may still be withdrawn by the slot, which then
says so (`channel.Stopped`).
"""

from __future__ import annotations

import os

from starcore._framing import Segment
from starcore.worker.arena import memory_file

BOARD_BYTES = 4096
SETTLE_SECONDS = 0.002


class Board:
    """One slot's page, mapped from a descriptor that stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        memory = memoryview(Segment(descriptor, BOARD_BYTES))
        self._words = memory.cast("Q")
        self._times = memory.cast("d")

    @staticmethod
    def create() -> tuple[Board, int]:
        """Make a page; return it with its descriptor."""
        descriptor = memory_file("starcore-board", BOARD_BYTES)
        try:
            return Board(descriptor), descriptor
        except OSError:
            os.close(descriptor)
            raise

    # -- the slot's side -------------------------------------------------------------------------------------

    def begin(self, batch: int, count: int, now: float) -> bool:
        """Announce the batch's `count`-th task. False where it was recalled, and must not begin."""
        if self._words[2] >= batch:
            return False
        self._times[1] = now
        self._words[0] = batch << 32 | count << 1 | 1
        if self._words[2] >= batch:
            self._words[0] = batch << 32 | (count - 1) << 1
            return False
        return True

    def end(self, batch: int, count: int) -> None:
        """Say that this task has ended."""
        self._words[0] = batch << 32 | count << 1

    # -- the supervisor's side -------------------------------------------------------------------------------

    def recall(self, batch: int) -> None:
        """Forbid batches up to this one to begin any more tasks."""
        self._words[2] = batch

    def read(self) -> tuple[int, int, bool, float]:
        """Return batch, tasks begun, whether the last one runs, and since when."""
        while True:
            ticket = self._words[0]
            since = self._times[1]
            if self._words[0] == ticket:
                return ticket >> 32, (ticket & 0xFFFFFFFF) >> 1, bool(ticket & 1), since
