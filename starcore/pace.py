"""How much a link is given at a time: what it takes in a few milliseconds, in one chunk or in several. Pure.

A chunk costs each process on its way about a tenth of a millisecond, whatever its size, so a fast link wants large
ones: of 1 MiB instead of 256 KiB, arrays cost a sixth less CPU. Of small bodies it wants several at a time, since
a turn of the loop costs as much again. But a message stands behind what was written before it, so a slow link wants
little. Which of the two a link is shows when it takes more::

    chunks are written ─▶ (the write buffer fills, and drains) ─▶ the link takes more
        begin(now) └───────────────── seconds ─────────────────────┘ end(now)

Quick, and the size doubles; slow, and it halves. The clock may have whole milliseconds, so nothing is divided by it.

While messages that somebody waits for travel *among* the chunks, these stay small on a fast link as well: every
process on the way takes a chunk in whole before it looks at what came behind.
"""

from __future__ import annotations

from starcore.messages import CHUNK_BYTES_MAX

CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_FIRST = 256 << 10
QUICK_SECONDS = 0.005
SLOW_SECONDS = 0.02
CHUNK_BYTES_AMONG = 256 << 10
"""What a chunk measures at most while small tasks pass: of 1 MiB, their round trip takes twice as long."""
AMONG_SECONDS = 5.0
"""How long after a small task the next one is expected."""
WHOLE_SHARE = 0.75
"""Less than this part of what the link may be given proves nothing when it is taken quickly."""


class Pace:
    """What one link is given at a time, always a power of two.

    Attributes
    ----------
    chunk_bytes : int
        What the next chunks may measure together.
    """

    __slots__ = ("_among_until", "_begun", "_whole", "chunk_bytes")

    def __init__(self) -> None:
        self.chunk_bytes = CHUNK_BYTES_FIRST
        self._begun: float | None = None
        self._whole = False
        self._among_until = 0.0

    def among(self, now: float) -> None:
        """Note that a message that somebody waits for leaves among the chunks."""
        self._among_until = now + AMONG_SECONDS
        self.chunk_bytes = min(self.chunk_bytes, CHUNK_BYTES_AMONG)

    def begin(self, length: int, now: float) -> None:
        """Note that so many bytes of chunks are written at the monotonic time `now` (s)."""
        self._begun = now
        self._whole = length >= WHOLE_SHARE * self.chunk_bytes

    def end(self, now: float) -> None:
        """Note that the link takes more; heard without a `begin`, it says nothing."""
        if self._begun is None:
            return
        seconds, self._begun = now - self._begun, None
        if seconds > SLOW_SECONDS:
            self.chunk_bytes = max(CHUNK_BYTES_MIN, self.chunk_bytes // 2)
        elif seconds < QUICK_SECONDS and self._whole:
            most = CHUNK_BYTES_AMONG if now < self._among_until else CHUNK_BYTES_MAX
            self.chunk_bytes = max(self.chunk_bytes, min(most, self.chunk_bytes * 2))
