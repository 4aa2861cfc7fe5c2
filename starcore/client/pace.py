"""How large a block should be: what was measured of the first blocks, and what follows from it. Pure.

With ``chunks="auto"`` an array travels as a pipeline of three stages, each at a pace of its own, in seconds per byte
of the argument::

    upload u ──▶ a slot's call: f + w for each byte, on S slots ──▶ download d

`B` bytes in blocks of `b` then take about ::

    T(b) = max(B u, (B w + B/b f) / S, B d)  +  B/b c  +  b (u + w + d) + f

the slowest stage, what every block costs beside it (`c`, `BLOCK_SECONDS`), and one block's way through all three,
during which the stages fill and run empty. Small blocks pay the second term, large ones the third. `Pace.block_bytes`
is the power of two with the least `T`, for the bytes that are left: so blocks shrink towards the end, where a slot that
ends late keeps everybody waiting.

What is measured, and when::

    first byte handed out ── last byte ── answer announced ── answer whole
         └──── u ─────────────┘└─── f + b w ───┘└───── d ──────────┘

`u` and `d` count the time in which at least one block was under way there. The way there and back and whatever waits
in buffers is part of `f`: it holds a slot's place as a call does. Of the calls' times the least of each size count, as
others have waited in line; two sizes tell `f` from `w`. So every slot first gets a *probe* of `probe_bytes`, and then
blocks of `PROBE_GROWTH` times as much until one of them is back.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_BYTES = 64 << 10
"""An array up to this size is one block: it travels inside a message."""
BLOCK_BYTES_MIN = 64 << 10
BLOCK_BYTES_MAX = 16 << 20
"""Beyond this a block saves nothing more, and takes room in the workers' arenas."""
PROBE_BYTES_MAX = 256 << 10
PROBE_GROWTH = 4
PROBE_SHARES = 64
"""The probes together are at most so small a part of the whole, where BLOCK_BYTES_MIN allows."""
BLOCK_SECONDS = 0.001
"""What a block costs the busiest process, whatever its size."""
DEPTH_PER_SLOT_MAX = 4
DEPTH_SPARE_MAX = 16
"""Blocks under way are at most DEPTH_PER_SLOT_MAX for each slot and so many more."""


@dataclass(slots=True)
class Stage:
    """A stage of the pipeline: bytes that went through, and the seconds in which some were on their way."""

    bytes: int = 0
    _busy_seconds: float = 0.0
    _under_way: int = 0
    _since: float = 0.0

    def begin(self, now: float) -> None:
        """A block enters."""
        if not self._under_way:
            self._since = now
        self._under_way += 1

    def end(self, now: float, count: int) -> None:
        """A block of so many bytes leaves, or will not come."""
        self.bytes += count
        self._under_way -= 1
        if not self._under_way:
            self._busy_seconds += now - self._since

    def pace(self, now: float) -> float:
        """Seconds for a byte; 0 before any went through."""
        busy = self._busy_seconds + (now - self._since if self._under_way else 0.0)
        return busy / self.bytes if self.bytes else 0.0


class Pace:
    """The measures of one array's blocks.

    Parameters
    ----------
    probe_bytes : int
        Of the first blocks.
    block_bytes_max : int
        No block is larger.
    """

    def __init__(self, probe_bytes: int, block_bytes_max: int = BLOCK_BYTES_MAX) -> None:
        self.upload = Stage()
        self.download = Stage()
        self.probe_bytes = probe_bytes
        self._block_bytes_max = block_bytes_max
        self._probe = _Least()
        self._large = _Least()

    @property
    def settled(self) -> bool:
        """Whether a probe and a larger block are back, so that a size can be chosen."""
        return self._probe.bytes > 0 and self._large.bytes > 0

    def called(self, count: int, seconds: float) -> None:
        """The last byte of a block of `count` bytes left so long before its answer was announced."""
        least = self._large if count >= 2 * self.probe_bytes else self._probe
        least.take(count, seconds)

    def call(self) -> tuple[float, float]:
        """What a call takes: seconds whatever its size, and seconds for each byte."""
        small, large = self._probe, self._large
        if not self.settled:
            return small.seconds, 0.0
        slope = max(0.0, (large.seconds - small.seconds) / max(1, large.bytes - small.bytes))
        return max(0.0, small.seconds - slope * small.bytes), slope

    def block_bytes(self, left_bytes: int, slots: int, now: float) -> int:
        """The size that has `left_bytes` done soonest."""
        if not self.settled:
            return self.probe_bytes if not self.upload.bytes else PROBE_GROWTH * self.probe_bytes
        sizes = [BLOCK_BYTES_MIN]
        while 2 * sizes[-1] <= min(self._block_bytes_max, max(BLOCK_BYTES_MIN, left_bytes // slots)):
            sizes.append(2 * sizes[-1])
        return min(sizes, key=lambda size: self.seconds(left_bytes, size, slots, now))

    def seconds(self, left_bytes: int, block_bytes: int, slots: int, now: float) -> float:
        """How long `left_bytes` take in blocks of this size: T(b)."""
        up, down = self.upload.pace(now), self.download.pace(now)
        fixed, each = self.call()
        blocks = left_bytes / block_bytes
        slowest = max(left_bytes * up, (left_bytes * each + blocks * fixed) / slots, left_bytes * down)
        return slowest + blocks * BLOCK_SECONDS + block_bytes * (up + each + down) + fixed

    def depth(self, block_bytes: int, slots: int, now: float) -> int:
        """How many blocks must be under way for no stage to wait: what one takes, by how often one is done."""
        up, down = self.upload.pace(now), self.download.pace(now)
        fixed, each = self.call()
        way = block_bytes * (up + each + down) + fixed
        beat = max(block_bytes * up, (block_bytes * each + fixed) / slots, block_bytes * down, BLOCK_SECONDS)
        return min(slots + 1 + max(slots, int(way / beat) + 1), DEPTH_PER_SLOT_MAX * slots + DEPTH_SPARE_MAX)

    def describe(self, now: float) -> str:
        """What was measured, in words."""
        fixed, each = self.call()
        up, down = self.upload.pace(now), self.download.pace(now)
        return f"upload {_speed(up)}, a call {fixed * 1e3:.3g} ms and {_speed(each)}, download {_speed(down)}"


def probe_bytes(total_bytes: int, slots: int) -> int:
    """How large the first blocks are."""
    return min(max(total_bytes // (PROBE_SHARES * slots), BLOCK_BYTES_MIN), PROBE_BYTES_MAX)


@dataclass(slots=True)
class _Least:
    """The call that took the least time for its size."""

    bytes: int = 0
    seconds: float = 0.0

    def take(self, count: int, seconds: float) -> None:
        if not self.bytes or seconds * self.bytes < self.seconds * count:
            self.bytes, self.seconds = count, seconds


def _speed(pace: float) -> str:
    return f"{1e-6 / pace:.3g} MB/s" if pace > 1e-12 else "at once"
