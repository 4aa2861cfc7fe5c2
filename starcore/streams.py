"""The accounts of a link's streams: what may be sent, what was taken. Pure; the bytes are elsewhere.

A stream is a payload's body on its way over one link, named by a number that the message announcing it gave
(SUBMIT, ASSIGN, RESULT, OUTCOME, BLOB). The receiver pulls::

    sender                                   receiver
    Sending.open                             Receiving.open
      announces size ─────────────────────────▶ (SUBMIT, ASSIGN, RESULT, OUTCOME, BLOB)
    Sending.next ═══ first window: CHUNK ═════▶ Receiving.take
    Sending.grant ◀──── GRANT(offset, count) ── Receiving.grant     position = max(position, offset)
    Sending.next ═══════ CHUNK ═══════════════▶ Receiving.take      limit    = max(limit, offset + count)

Why max: on one link bytes are never sent twice, so a grant only ever moves forward; a retry is another attempt
and a reconnection is another link, and both begin with a fresh account.

The *first window* is one pool of bytes a link, which the receiver takes without having asked. Both sides count
what it is used for, as the bytes beyond a stream's grants: the sender those that it may push, set aside when it
opens the stream; the receiver those that have come, so it need not know what the sender set aside. A grant that
covers them gives them back, and so does the end of the stream (`close`). That all bytes arrived gives nothing
back: they lie at the receiver until it has asked for them or is done with them, and the pool bounds what lies
there. The sender never believes in more than the receiver does, since each such step is taken by the receiver
first, or comes to it in wire order. So a receiver closes a stream no later than it says what ends it for the
sender (ABORT, OUTCOME, ACK, CONFIRM), and a sender that closes one of its own accord says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from starcore.errors import OverrunError
from starcore.messages import CHUNK_BYTES_MAX, Grant
from starcore.pace import CHUNK_BYTES_MIN, Pace

TURNS = 4
"""One chunk in so many goes to the body that has waited longest."""
STALE_MAX = 32


@dataclass(slots=True)
class _Outgoing:
    attempt: int
    size: int
    position: int
    limit: int
    unasked: int
    """Up to which offset the first window lets bytes go."""
    offered: int

    @property
    def granted(self) -> int:
        return max(self.limit, self.unasked)

    @property
    def bound(self) -> int:
        return min(self.granted, self.offered)

    @property
    def set_aside(self) -> int:
        return max(0, self.unasked - self.limit)


@dataclass(slots=True)
class _Incoming:
    attempt: int
    size: int
    position: int
    limit: int
    window: bool
    asked: bool = False

    @property
    def granted(self) -> int:
        return max(self.limit, self.position)

    @property
    def excess(self) -> int:
        return max(0, self.position - self.limit)


class Sending:
    """The bodies that one link sends, a chunk at a time.

    The body with the fewest bytes to go comes first: of equal ones that is the one that has begun, so the first is
    whole when half of two that took turns would be here, and a small one does not wait for a large one. One chunk in
    `turns` is that of the body that has waited longest, so that a large one is not starved by small ones; with 1 all
    take turns, as is right where they are not the same peer's.
    """

    def __init__(self, first_window_bytes: int = 0, *, turns: int = TURNS) -> None:
        self._turns = turns
        self._pool = first_window_bytes
        self._pace = Pace()
        self._streams: dict[int, _Outgoing] = {}
        self._ready: OrderedDict[int, None] = OrderedDict()
        """Streams with something to send, the one that has waited longest first."""
        self._shortest: list[tuple[int, int, int]] = []
        """A heap of (bytes to go, serial, stream); entries that are out of date are passed over."""
        self._serial = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, stream: int) -> bool:
        return stream in self._streams

    def open(self, stream: int, attempt: int, size: int, *, window: bool = True, offered: int | None = None) -> None:
        """Announce a body; with `window` its first bytes may leave unasked. `offered`: how many are here to send."""
        self.close(stream)
        unasked = min(size, self._pool) if window else 0
        self._pool -= unasked
        self._streams[stream] = _Outgoing(attempt, size, 0, 0, unasked, size if offered is None else offered)
        self._enqueue(stream)

    def offer(self, stream: int, end: int) -> None:
        """Say that the bytes before `end` are here to send: for a relay, which has them bit by bit."""
        self._streams[stream].offered = end
        self._enqueue(stream)

    def position(self, stream: int) -> int:
        """Where the next chunk of the stream begins."""
        return self._streams[stream].position

    def granted(self, stream: int) -> int:
        """Up to which offset the receiver takes bytes."""
        return self._streams[stream].granted

    def grant(self, grant: Grant) -> bool:
        """Take a GRANT. False where it speaks of a stream that is not (or no longer) open here."""
        state = self._streams.get(grant.stream)
        if state is None or grant.attempt < state.attempt:
            return False
        self._pool += state.set_aside
        before = state.position
        if grant.attempt > state.attempt:
            state.attempt, state.position, state.limit, state.unasked = grant.attempt, 0, 0, 0
        state.position = max(state.position, min(grant.offset, state.size))
        state.limit = max(state.limit, min(grant.offset + grant.count, state.size))
        self._pool -= state.set_aside
        if state.position != before and grant.stream in self._ready:
            self._rank(grant.stream)
        self._enqueue(grant.stream)
        return True

    def among(self, now: float) -> None:
        """A message that somebody waits for leaves at the time `now` (s) among the chunks, if there are any."""
        if self._streams:
            self._pace.among(now)

    def chunks(self, now: float) -> Iterator[tuple[int, int, int, int]]:
        """The link takes more at the time `now` (s): account and yield chunks that suit its pace together."""
        self._pace.end(now)
        most = room = self._pace.chunk_bytes
        while room >= CHUNK_BYTES_MIN and (piece := self.next(room)) is not None:
            room -= piece[3]
            yield piece
        if room < most:
            self._pace.begin(most - room, now)

    def next(self, limit: int = CHUNK_BYTES_MAX) -> tuple[int, int, int, int] | None:
        """Account and return one chunk to send: (stream, attempt, offset, length), or None."""
        while self._ready:
            stream = self._take()
            state = self._streams[stream]
            length = min(limit, state.bound - state.position)
            if length <= 0:
                continue
            offset = state.position
            state.position += length
            self._enqueue(stream)
            return stream, state.attempt, offset, length
        return None

    def close(self, stream: int) -> bool:
        """Forget a stream: its receiver has all of it, or either side aborted it."""
        state = self._streams.pop(stream, None)
        if state is None:
            return False
        self._ready.pop(stream, None)
        self._tidy()
        self._pool += state.set_aside
        return True

    def check(self) -> None:
        """Assert the invariants."""
        if not (self._streams or self._ready or self._shortest):
            assert self._pool >= 0
            return
        assert self._ready.keys() <= self._streams.keys()
        for stream, state in self._streams.items():
            assert 0 <= state.position <= state.size, state
            assert max(state.limit, state.unasked) <= state.size, state
            assert stream in self._ready or state.position >= state.bound, state
        assert self._pool >= 0
        assert len(self._shortest) <= 2 * len(self._ready) + STALE_MAX
        current = {stream for _, _, stream in filter(self._is_current, self._shortest)}
        assert current == self._ready.keys()

    def _enqueue(self, stream: int) -> None:
        state = self._streams[stream]
        if state.position < state.bound and stream not in self._ready:
            self._ready[stream] = None
            self._rank(stream)

    def _rank(self, stream: int) -> None:
        """Note how many bytes a stream that is ready has to go."""
        state = self._streams[stream]
        self._serial += 1
        heappush(self._shortest, (state.size - state.position, self._serial, stream))
        self._tidy()

    def _take(self) -> int:
        """Take the stream whose turn it is out of the line."""
        self._turn += 1
        if self._turn % self._turns == 0 or len(self._ready) == 1:
            stream, _ = self._ready.popitem(last=False)
            self._tidy()
            return stream
        while True:
            entry = heappop(self._shortest)
            if self._is_current(entry):
                del self._ready[entry[2]]
                return entry[2]

    def _is_current(self, entry: tuple[int, int, int]) -> bool:
        to_go, _, stream = entry
        if stream not in self._ready:
            return False
        state = self._streams[stream]
        return to_go == state.size - state.position

    def _tidy(self) -> None:
        """Throw out what is out of date before it is more than the rest."""
        if len(self._shortest) > 2 * len(self._ready) + STALE_MAX:
            self._shortest = [entry for entry in self._shortest if self._is_current(entry)]
            heapify(self._shortest)


class Receiving:
    """The bodies that one link receives; whoever overruns its grants is at fault."""

    def __init__(self, first_window_bytes: int = 0) -> None:
        self._pool = first_window_bytes
        self._streams: dict[int, _Incoming] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, stream: int) -> bool:
        return stream in self._streams

    def open(self, stream: int, attempt: int, size: int, *, window: bool = True) -> None:
        """Expect a body of `size` bytes; with `window` some of them may come unasked."""
        self.close(stream)
        self._streams[stream] = _Incoming(attempt, size, 0, 0, window)

    def resume(self, stream: int, attempt: int, size: int, position: int) -> None:
        """Expect the rest of a body whose first `position` bytes came over an earlier link."""
        self.close(stream)
        self._streams[stream] = _Incoming(attempt, size, position, position, window=False)

    def grant(self, stream: int, count: int) -> Grant | None:
        """Take `count` bytes more than `granted`; None where that says nothing new.

        The first grant is always said: it also tells the sender which of the unasked bytes count no longer.
        """
        state = self._streams[stream]
        limit = min(state.size, state.granted + count)
        if state.asked and limit == state.limit:
            return None
        self._pool += state.excess
        state.asked = True
        state.limit = limit
        return Grant(stream, state.attempt, state.position, limit - state.position)

    def take(self, stream: int, attempt: int, offset: int, length: int) -> bool:
        """Account a chunk. False where it is stale (an aborted stream, an older attempt)."""
        state = self._streams.get(stream)
        if state is None or attempt != state.attempt:
            return False
        before = state.excess
        end = min(state.size, state.granted + (self._pool if state.window else 0))
        if offset != state.position or offset + length > end:
            raise OverrunError(f"stream {stream}: [{offset}, {offset + length}) came, of [{state.position}, {end})")
        state.position += length
        self._pool -= state.excess - before
        return True

    def position(self, stream: int) -> int:
        """How many bytes of the stream are here."""
        return self._streams[stream].position

    def granted(self, stream: int) -> int:
        """Up to which offset bytes were asked for, or came."""
        return self._streams[stream].granted

    def complete(self, stream: int) -> bool:
        """Whether the whole body is here."""
        state = self._streams[stream]
        return state.position == state.size

    def close(self, stream: int) -> bool:
        """Forget a stream."""
        state = self._streams.pop(stream, None)
        if state is None:
            return False
        self._pool += state.excess
        return True

    def check(self) -> None:
        """Assert the invariants."""
        for state in self._streams.values():
            assert 0 <= state.granted <= state.size, state
            assert state.window or not state.excess, state
        assert self._pool >= 0
