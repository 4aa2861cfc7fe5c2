"""A process that can be stopped and killed, and the driver that turns its core upon the simulated network.

`SimDriver` keeps to the contract of `starcore/driver.py` to the letter: one event at a time, a bounded part of
chunks a link and turn, Writable after each, Lost at once for a link that the core closes. What the real one logs is a
violation here: an exception of a core's, and the blame of a peer, for all peers are honest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from starcore import codec
from starcore.errors import Code, ProtocolError
from starcore.events import Blocked, Close, Core, Drop, Lost, Opened, Peer, Send, SendChunk, Tick, Writable
from starcore.messages import CHUNK_BYTES_MAX, Goodbye

from .world import Violation, World

if TYPE_CHECKING:
    from .network import End

GRAIN_SECONDS = 0.0015
"""A coarse clock and a rounded timer are no further apart."""
QUIET_SECONDS = 20.0
"""So long after the last trouble every silence was noticed; one that is noticed later is a false alarm."""
INNOCENT = frozenset({Code.NORMAL, Code.SILENT, Code.DRAINING, Code.SUPERSEDED, Code.GONE, Code.CANCELLED})
"""Why an honest peer may be closed."""


class Shell(Protocol):
    """What a role adds to the driver."""

    def perform(self, action: Any) -> None:
        """Carry out an action that only this role knows."""

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """Where an incoming chunk goes; None throws it away."""

    def landed(self, place: Any, offset: int, length: int, payload: Any) -> Any:
        """The chunk's bytes are in that place; returns the token."""

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """The bytes of an outgoing chunk that has no token."""

    def leaves(self, token: Any) -> Any:
        """A token is written; returns its bytes."""

    def release(self, token: Any) -> None:
        """A token that nobody needs any more."""


class Process:
    """Something that runs and can be stopped, continued and killed."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.frozen = False
        self.coarse = world.chance(0.5)
        """Its loop counts in whole milliseconds, as uvloop's does."""
        self._backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._asleep_at: float | None = None
        self._slept = 0.0
        self.woken_at = 0.0
        """When it last went on after it had been stopped, by its own clock."""

    @property
    def clock(self) -> float:
        """What the process's loop takes the time to be."""
        now = self.world.now - self._slept
        return int(now * 1000.0) / 1000.0 if self.coarse else now

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Let the process do something: now, when it goes on, or never."""
        if self.frozen:
            self._backlog.append((callback, args))
        elif self.alive:
            callback(*args)

    def freeze(self, *, asleep: bool = False) -> None:
        """SIGSTOP; or the machine is `asleep`, and its monotonic clock stands still meanwhile."""
        self.frozen = True
        self._asleep_at = self.world.now if asleep else None

    def thaw(self) -> None:
        """SIGCONT: everything that waited happens; timers first, as with libuv, or last, as with asyncio."""
        self.frozen = False
        self.world.troubled_at = self.world.now
        if self._asleep_at is not None:
            self._slept += self.world.now - self._asleep_at
            self._asleep_at = None
        self.woken_at = self.clock
        backlog, self._backlog = self._backlog, []
        timers_first = self.coarse
        for callback, args in sorted(backlog, key=lambda entry: (entry[0].__name__ == "tick") != timers_first):
            if self.alive:
                callback(*args)

    def die(self) -> None:
        """SIGKILL."""
        self.alive = self.frozen = False
        self._backlog.clear()


class SimDriver:
    """Turns one core: `starcore/driver.py` without a loop."""

    def __init__(
        self,
        process: Process,
        core: Core,
        shell: Shell,
        *,
        watch: Callable[[Any, Any, float], None],
    ) -> None:
        self.process = process
        self.core = core
        self.ends: dict[int, End] = {}
        self._world = process.world
        self._shell = shell
        self._watch = watch
        self._links = 0
        self._events: deque[Any] = deque()
        self._marks: deque[str] = deque()
        self._turning = False
        self._now = 0.0
        self._timer_at: float | None = None
        self._timer = 0
        self._unflushed: list[End] = []

    def number(self) -> int:
        """Number a new link."""
        self._links += 1
        return self._links

    def feed(self, event: Any, mark: str = "") -> None:
        """Put an event in line, and turn the core until the line is empty."""
        self._events.append(event)
        self._marks.append(mark)
        if self._turning:
            return
        self._turning = True
        try:
            while self._events:
                self._turn(self._events.popleft(), self._marks.popleft())
        finally:
            self._turning = False
        self._flush()
        self._arm()

    def perform(self, actions: list[Any]) -> None:
        """Carry out what a core asked for outside of `handle` (its first actions)."""
        for action in actions:
            self._perform(action, {})
        self._flush()
        self._arm()

    # -- the connections' owner ------------------------------------------------------------------------------

    def opened(self, end: End, peer: Peer) -> None:
        """Take in a link."""
        self.ends[end.link] = end
        self.feed(Opened(end.link, peer), f"{end.link} {peer.name}")

    def lost(self, end: End, reason: str) -> None:
        """Forget a link."""
        if self.ends.pop(end.link, None) is not None:
            self.feed(Lost(end.link, reason), f"{end.link} {reason}")

    def writable(self, end: End, writable: bool) -> None:
        """Pass the state of the write buffer on."""
        if end.link in self.ends:
            self.feed(Writable(end.link) if writable else Blocked(end.link), str(end.link))

    def tick(self, timer: int) -> None:
        """The one timer."""
        if timer != self._timer or self._timer_at is None:
            return
        early = self._timer_at - self.process.clock
        if early > GRAIN_SECONDS:  # the clock stood still meanwhile
            self._world.later(early, self.process.post, self.tick, timer)
        else:
            self._now = max(self._now, self._timer_at)  # a timer may be early by a grain of the clock
            self._timer_at = None
            self.feed(Tick())

    # -- private ---------------------------------------------------------------------------------------------

    def _turn(self, event: Any, mark: str) -> None:
        kind = type(event)
        self._world.note(self.process.name, f"{kind.__name__} {mark}", event)
        if kind in (Blocked, Writable) and event.link in self.ends:
            self.ends[event.link].told_blocked = kind is Blocked
        self._now = max(self._now, self.process.clock)
        self._watch(self.core, event, self._now)
        try:
            actions = self.core.handle(event, self._now)
        except ProtocolError as error:
            raise Violation(f"{self.process.name} blames an honest peer: {type(error).__name__}: {error}") from error
        self._world.steps += 1
        self.core.check()
        chunks: dict[int, int] = {}
        for action in actions:
            self._perform(action, chunks)

    def _perform(self, action: Any, chunks: dict[int, int]) -> None:
        kind = type(action)
        if kind is Send:
            end = self.ends.get(action.link)
            if end is not None:
                end.outbox.append(codec.encode(action.message))
                self._unflushed.append(end)
        elif kind is SendChunk:
            chunks[action.link] = written = chunks.get(action.link, 0) + action.length
            if written > CHUNK_BYTES_MAX:
                raise Violation(f"{self.process.name} writes {written} bytes of chunks to link {action.link} at once")
            self._send_chunk(action)
        elif kind is Drop:
            self._shell.release(action.token)
        elif kind is Close:
            self._close(action)
        else:
            self._shell.perform(action)

    def _send_chunk(self, action: SendChunk) -> None:
        end, token = self.ends.get(action.link), action.token
        if end is None:
            return
        if end.told_blocked:
            raise Violation(f"{self.process.name} writes a chunk to link {action.link}, which is blocked")
        if token is None:
            payload = self._shell.source(action.link, action.stream, action.attempt, action.offset, action.length)
        else:
            payload = self._shell.leaves(token)[action.start : action.start + action.length]
        if len(payload) != action.length:
            raise Violation(f"{self.process.name} sends {len(payload)} bytes as {action}")
        end.flush()
        end.out.push(action.length + 40, (action.stream, action.attempt, action.offset, action.length, payload))
        if not end.blocked and not end.pumping:
            end.pumping = True
            self._world.later(0.0, self.process.post, self._pump, end)

    def _pump(self, end: End) -> None:
        end.pumping = False
        if not end.blocked and self.ends.get(end.link) is end:
            self.feed(Writable(end.link), str(end.link))

    def _close(self, action: Close) -> None:
        if action.code not in INNOCENT:
            raise Violation(f"{self.process.name} closes an honest peer: {action}")
        if action.code == Code.SILENT and self._world.now > self._world.troubled_at + QUIET_SECONDS:
            raise Violation(f"{self.process.name} takes a living peer for dead: {action}")
        end = self.ends.pop(action.link, None)
        if end is not None:
            end.close(Goodbye(action.code, action.reason))
            self.feed(Lost(action.link, action.reason), f"{action.link} {action.reason}")

    def close_all(self, code: int, reason: str) -> None:
        """Close every link with a GOODBYE; the core hears nothing of it."""
        for end in list(self.ends.values()):
            end.close(Goodbye(code, reason))
        self.ends.clear()

    def _flush(self) -> None:
        while self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            for end in unflushed:
                end.flush()

    def _arm(self) -> None:
        deadline = self.core.deadline()
        if deadline is None or (self._timer_at is not None and self._timer_at <= deadline):
            return
        self._timer += 1
        self._timer_at = deadline
        delay = max(0.0, deadline - self.process.clock)
        if self.process.coarse:  # uvloop rounds, so a timer may be early
            delay = round(delay * 1000.0) / 1000.0
        self._world.later(delay, self.process.post, self.tick, self._timer)
