"""``chunks="auto"``: an array sent in blocks whose size follows from what is measured while they travel.

What to do with the measures is `pace.py`'s; here they are taken, and here the next block is cut::

    rows not sent ──fill()──▶ blocks under way, a few a slot ──▶ answers, into one array (`arrays.Joiner`)
         ▲                        │ done: the next block, of the size that is right by now
         └────────────────────────┘

A block is cut only when there is room for it, so every later one profits from what the earlier ones taught. The clock
is read where the session asks for a block's bytes (`_Journey`) and where its answer comes (`_Block`): the session and
its core know nothing of this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from starcore.client import arrays
from starcore.client.arrays import Array, Joiner
from starcore.client.futures import BlockFuture, TaskFuture
from starcore.client.pace import BLOCK_BYTES_MAX, SMALL_BYTES, Pace, probe_bytes
from starcore.messages import Buffer
from starcore.pickling import Landing, Packed

SCRATCH_BYTES_MAX = 16 << 20
"""Answers that cannot land in their place are received beside it and copied: so many bytes are under way at a time."""
SCRATCH_BLOCK_BYTES_MAX = SCRATCH_BYTES_MAX // 8

_log = logging.getLogger("starcore.client")


class Sends(Protocol):
    """The session, as far as it is known here."""

    slots: int

    def submit_many(self, record: Any, packs: Sequence[Any], futures: Sequence[TaskFuture]) -> None:
        """Send calls of one job on their way together."""

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        """Nobody waits for this task any more."""

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        """Nobody waits for these tasks any more, running or not."""

    def interrupt(self) -> None:
        """Nobody waits for any task any more."""

    def task(self, record: Any, index: int) -> str:
        """What people call this task."""


class _Place(Enum):
    """How far a block has come."""

    HERE = 0
    LEAVING = 1
    AWAY = 2
    BACK = 3
    """Its answer is announced, and may be on its way still."""
    OVER = 4


class AutoFuture(BlockFuture):
    """The future of an array in blocks that are cut one after the other; `begin` sends the first of them.

    Parameters
    ----------
    session : Session
        Sends the blocks.
    record : JobRecord
        The function.
    array : ndarray
        Is borrowed until the future is done.
    pack : callable
        Makes a call's payload of a block.
    axis : int
        Which axis is cut; not negative.
    out : ndarray, optional
        Where the answers go.
    trust : bool
        Whether pickled answers are unpickled.

    Attributes
    ----------
    chunks : int
        Rows of a block, as the latest measures say; the last blocks are smaller.
    rows : int
        The length of the axis that is cut.
    """

    def __init__(
        self,
        session: Sends,
        record: Any,
        array: Array,
        pack: Callable[[Array], Packed],
        *,
        axis: int = 0,
        out: Array | None = None,
        trust: bool = True,
    ) -> None:
        self.rows: int = array.shape[axis]
        self._pieces: list[slice] = []
        super().__init__([], Joiner(self._pieces, axis, out=out, trust=trust, length=self.rows))
        self._session: Sends = session
        self._record = record
        self._cut: Callable[[slice], Packed] | None = lambda piece: pack(arrays.block(array, piece, axis))
        self._bytes = array.nbytes
        self._row_bytes: int = max(1, array.nbytes // max(1, self.rows))
        self._scratch = not _lies_together(array if out is None else out, axis)
        probe = probe_bytes(array.nbytes, self._slots)
        self._pace = Pace(probe, SCRATCH_BLOCK_BYTES_MAX if self._scratch else BLOCK_BYTES_MAX)
        self._told = False
        self._sent_rows = 0
        self._under_way = 0
        self._left = 1  # the rows that are not sent yet count as one block more
        self._cutting = True
        self._filling = False
        self._rushing = False
        self.chunks = self.rows if array.nbytes <= SMALL_BYTES else self._rows_in(probe)
        self._watch: Callable[[TaskFuture, int], None] | None = None

    def begin(self, watch: Callable[[TaskFuture, int], None] | None = None) -> None:
        """Send the first blocks; `watch` is told of every block, and of its rows, before it leaves.

        Raises
        ------
        SessionLostError, ArgumentTypeError
            They could not be sent.
        """
        self._watch = watch
        self._fill()
        if self._error is not None and not self._under_way:
            raise self._error

    def rush(self) -> None:
        """Send all that is left, in blocks of the present size: the session is about to take no more."""
        self._rushing = True
        self._fill()

    # -- cutting ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Send blocks until enough are under way. In any thread: who comes first does it for the others too."""
        with self._condition:
            if self._filling:
                return
            self._filling = True
        while True:
            with self._condition:
                piece = self._next()
                if piece is None:
                    self._filling = False
                    last = self._stop_cutting()
                    break
            try:
                self._send(piece)
            except Exception as error:
                self._refuse(error)
        if last:
            self._conclude()

    def _next(self) -> slice | None:
        """The rows of the next block; None where there is no room for one, or nothing left."""
        left = self.rows - self._sent_rows
        if self._doomed or not self._cutting or (not left and self._pieces):
            return None
        now = time.monotonic()
        rows = min(left, self._choose(left, now))
        if not self._rushing and self._under_way >= self._depth(rows, now):
            return None
        piece = slice(self._sent_rows, self._sent_rows + rows)
        self._sent_rows = piece.stop
        self._pieces.append(piece)
        self._under_way += 1
        self._left += 1
        return piece

    def _choose(self, left: int, now: float) -> int:
        """How many rows the next block gets."""
        if self._bytes <= SMALL_BYTES or self._rushing:
            return self.chunks
        pace, slots = self._pace, self._slots
        self.chunks = self._rows_in(pace.block_bytes(self._bytes, slots, now))
        if pace.settled and not self._told:
            self._told = True
            size = self.chunks * self._row_bytes / 2**20
            _log.info("starcore: %d rows (%.3g MiB) a block: %s", self.chunks, size, pace.describe(now))
        return min(self.chunks, self._rows_in(pace.block_bytes(left * self._row_bytes, slots, now)))

    def _depth(self, rows: int, now: float) -> int:
        slots, size = self._slots, max(1, rows * self._row_bytes)
        depth = self._pace.depth(size, slots, now)
        return min(depth, max(1, SCRATCH_BYTES_MAX // size)) if self._scratch else depth

    def _rows_in(self, size: int) -> int:
        return max(1, min(size // self._row_bytes, self.rows))

    @property
    def _slots(self) -> int:
        return max(1, self._session.slots)

    def _stop_cutting(self) -> bool:
        """Whether nothing more will be sent, and nothing is awaited either; said once."""
        if not self._cutting or not (self._doomed or self._sent_rows == self.rows):
            return False
        self._cutting = False
        self._left -= 1
        return self._left == 0

    # -- sending ---------------------------------------------------------------------------------------------

    def _send(self, piece: slice) -> None:
        """Send one block. It joins the others once it is on its way: before that, a cancel could not reach it."""
        assert self._cut is not None
        journey = _Journey(self._pace, self._cut(piece), (piece.stop - piece.start) * self._row_bytes)
        part = _Block(self._session, self._record, journey)
        part.become_block(self, len(self._pieces) - 1)
        if self._watch is not None:
            self._watch(part, piece.stop - piece.start)
        self._session.submit_many(self._record, [journey], [part])
        with self._condition:
            self.parts.append(part)
            doomed = self._doomed
        part.add_done_callback(self._part_done)
        if doomed:
            part.kill()

    def _refuse(self, error: Exception) -> None:
        """A block could not be sent: so fails the whole, when the blocks that were have ended."""
        with self._condition:
            self._under_way -= 1
            self._left -= 1
            if not self._doomed:
                self._error = error
                self._doomed = True
        self._kill_parts()

    def _part_done(self, part: Any) -> None:
        part.journey.end()
        with self._condition:
            self._under_way -= 1
        super()._part_done(part)
        self._fill()

    def _conclude(self) -> None:
        self._cut = None
        super()._conclude()


class _Journey:
    """A block's payload on its way: it hands its bytes out to the session, and takes the times."""

    __slots__ = ("_at", "_count", "_left_at", "_pace", "_packed", "body_bytes", "head")

    def __init__(self, pace: Pace, packed: Packed, count: int) -> None:
        self._pace = pace
        self._packed = packed
        self._count = count
        self._at = _Place.HERE
        self._left_at = 0.0
        self.head = packed.head
        self.body_bytes = packed.body_bytes
        if not packed.body_bytes:
            self._leave(time.monotonic(), last=True)

    def read(self, offset: int, length: int) -> Buffer:
        """Bytes of the body, as the session sends them."""
        self._leave(time.monotonic(), last=offset + length >= self.body_bytes)
        return self._packed.read(offset, length)

    def answer(self) -> None:
        """The answer is announced; once more where the first one was lost, and the times of that say nothing."""
        if self._at is _Place.AWAY:
            now = time.monotonic()
            self._pace.called(self._count, now - self._left_at)
            self._pace.download.begin(now)
            self._at = _Place.BACK

    def end(self) -> None:
        """The block is done, one way or another."""
        now = time.monotonic()
        if self._at is _Place.LEAVING:
            self._pace.upload.end(now, 0)
        elif self._at is _Place.BACK:
            self._pace.download.end(now, self._count)
        self._at = _Place.OVER

    def _leave(self, now: float, *, last: bool) -> None:
        if self._at is _Place.HERE:
            self._pace.upload.begin(now)
            self._at = _Place.LEAVING
        if last and self._at is _Place.LEAVING:
            self._pace.upload.end(now, self._count)
            self._left_at = now
            self._at = _Place.AWAY


class _Block(TaskFuture):
    """The future of one block, which knows when its answer comes."""

    def __init__(self, session: Sends, record: Any, journey: _Journey) -> None:
        super().__init__(session, record)
        self.journey = journey

    def place(self, head: Buffer, body_bytes: int, trust: bool) -> Landing:
        self.journey.answer()
        return super().place(head, body_bytes, trust)

    def unpack(self, head: Buffer, trust: bool) -> Any:
        self.journey.answer()
        return super().unpack(head, trust)


def _lies_together(array: Array, axis: int) -> bool:
    """Whether a block of several rows, but not all, is one piece of memory."""
    part = arrays.block(array, slice(0, max(1, array.shape[axis] - 1)), axis)
    return bool(part.flags.forc)
