"""The manager's memory as one sum: what it is divided into, what a session or a link gets of it. Pure.

::

    --memory ─┬─ the process itself (BASE_BYTES): interpreter, TLS, the pool of chunks
              ├─ each shard: the same again, without what it shares with the first (SHARD_BYTES), and its idle cells
              └─ the rest, in sixteenths
                   6  bodies on their way (`relay.py`): granted and not forwarded, over all links together
                   1  what links may send unasked: their first windows
                   3  heads of unfinished tasks: the submit credits
                   3  unread outcomes, which lie here twice: as records, and encrypted before a peer that does not read
                   1  functions
                   2  nobody's: what an allocator wastes

Nobody is refused because others were greedy: who comes gets a part of what is left, so the sum holds, whoever comes
and however slow they are. For bodies the part moves with every chunk: a link may have as much as is left for all
(dynamic thresholds, A. Choudhury and E. Hahne, IEEE/ACM Transactions on Networking 6, 1998), so a link that stands
still keeps less than half, and two of them a third each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from starcore.manager.limits import Limits

BASE_BYTES = 64 << 20
"""A manager without work has some 40 MiB, and keeps 16 MiB of chunks for the next ones."""
MEMORY_BYTES_MIN = 128 << 20
"""With less there is no room for a body and its neighbours."""
SHARD_BYTES = 24 << 20
"""A shard without work has 18 MiB that are its own alone, and a cable."""
IDLE_PART = 32
"""All shards together keep so great a part of the memory in cells that nothing lies in."""
IDLE_BYTES_MIN, IDLE_BYTES_MAX = 2 << 20, 16 << 20
"""Of one shard."""
PARTS = 16
RELAY_PARTS, WINDOW_PARTS, SUBMIT_PARTS, UNREAD_PARTS, BLOB_PARTS = 6, 1, 3, 3, 1
SHARE = 4
"""Who comes gets so great a part of what is left."""
WINDOWS_MIN = 64
"""So many bodies at least are on their way at the same time before one has to wait for another."""
SUBMIT_BYTES_MIN = 64 << 10
"""A session gets that much though nothing be left: some hundred small tasks."""
RESULT_BYTES_MIN = 64 << 10
WINDOW_BYTES_MIN = 4 << 10


def least_bytes(shards: int = 1) -> int:
    """Return what a manager of so many shards needs at least."""
    return MEMORY_BYTES_MIN + (shards * (SHARD_BYTES + IDLE_BYTES_MIN) if shards > 1 else 0)


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of memory, for everything and for each kind of thing."""

    memory_bytes: int = 1 << 50
    relay_bytes: int = 1 << 50
    window_bytes: int = 1 << 50
    submit_bytes: int = 1 << 50
    result_bytes: int = 1 << 50
    blob_bytes: int = 1 << 50
    base_bytes: int = BASE_BYTES
    """What the processes have without anything to do."""
    idle_bytes: int = IDLE_BYTES_MAX
    """What a shard may keep in cells that nothing lies in."""

    @classmethod
    def of(cls, memory_bytes: int, shards: int = 1) -> Budget:
        """Divide what a manager may have; one shard is the process itself."""
        spare_bytes = memory_bytes - BASE_BYTES - shards * SHARD_BYTES
        idle_bytes = min(IDLE_BYTES_MAX, max(IDLE_BYTES_MIN, spare_bytes // (IDLE_PART * shards)))
        base_bytes = BASE_BYTES + (shards * (SHARD_BYTES + idle_bytes) if shards > 1 else 0)
        part = max(memory_bytes - base_bytes, MEMORY_BYTES_MIN - BASE_BYTES) // PARTS
        return cls(
            memory_bytes,
            base_bytes=base_bytes,
            idle_bytes=idle_bytes,
            relay_bytes=RELAY_PARTS * part,
            window_bytes=WINDOW_PARTS * part,
            submit_bytes=SUBMIT_PARTS * part,
            result_bytes=UNREAD_PARTS * part // 2,
            blob_bytes=BLOB_PARTS * part,
        )

    def limits(self, limits: Limits) -> Limits:
        """What one session, link or body may have: what it ever could, or less where the whole is small."""
        return replace(
            limits,
            submit_bytes=min(limits.submit_bytes, self.submit_bytes // 2),
            result_bytes=min(limits.result_bytes, self.result_bytes // 2),
            settled_bytes=min(limits.settled_bytes, self.result_bytes // 2),
            relay_window_bytes=min(limits.relay_window_bytes, self.relay_bytes // WINDOWS_MIN),
            value_window_bytes=min(limits.value_window_bytes, self.relay_bytes // 8),
            blob_bytes=min(limits.blob_bytes, self.blob_bytes),
            blob_idle_bytes=min(limits.blob_idle_bytes, self.blob_bytes // 4),
            job_bytes=min(limits.job_bytes, self.submit_bytes // 2),
            value_bytes=min(limits.value_bytes, self.submit_bytes // 2),
        )

    @property
    def unread_bytes(self) -> int:
        """What may wait, encrypted, for one peer that asks and does not read."""
        return max(self.result_bytes, 1 << 20)


class Shares:
    """A sum that is given out in parts; each is given back when its owner goes."""

    def __init__(self, total_bytes: int, least_bytes: int) -> None:
        self.left_bytes = total_bytes
        self._least_bytes = least_bytes

    def take(self, wanted_bytes: int) -> int:
        """Give a quarter of what is left, or what is wanted if that is less."""
        share = min(wanted_bytes, max(self.left_bytes // SHARE, self._least_bytes))
        self.left_bytes -= share
        return share

    def give(self, share_bytes: int) -> None:
        """Take a part back."""
        self.left_bytes += share_bytes


class Credits:
    """What each client's session may have here: heads of unfinished tasks, unread answers."""

    def __init__(self, budget: Budget, limits: Limits) -> None:
        self._limits = limits
        self._submit = Shares(budget.submit_bytes, SUBMIT_BYTES_MIN)
        self._result = Shares(budget.result_bytes, RESULT_BYTES_MIN)
        self._held: dict[bytes, tuple[int, int]] = {}

    def open(self, session: bytes) -> tuple[int, int]:
        """Return a session's credits, in bytes: for tasks, for answers. They are the same as long as it lasts."""
        held = self._held.get(session)
        if held is None:
            limits = self._limits
            held = self._submit.take(limits.submit_bytes), self._result.take(limits.result_bytes)
            self._held[session] = held
        return held

    def close(self, session: bytes) -> None:
        """A session is over."""
        submit, result = self._held.pop(session, (0, 0))
        self._submit.give(submit)
        self._result.give(result)

    def submit_bytes(self, session: bytes) -> int:
        """Bytes of unfinished tasks that a client's session was granted, or any could be."""
        return self._held[session][0] if session in self._held else self._limits.submit_bytes

    def __len__(self) -> int:
        return len(self._held)
