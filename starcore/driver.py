"""Turns one core: connection -> event -> actions -> connection. It decides nothing.

Each role has a pure core and a shell. The driver stands between them::

    Connection ──events──▶ core.handle(event, now) ──actions──▶ Send, SendChunk, Close, Drop: done here
    shell ─────events──▶                                     └▶ anything else: shell.perform(action)
    the one timer ─Tick─▶                                       core.deadline() sets it

Events that arise while an action is performed (a write that fills the buffer, a slot that answers at once)
wait in line: `handle` is never entered twice. What all events of one turn of the loop came to leaves at its end:
a Tick that has fallen due, one joined write a link, the timer set once. This is also the one place where a remote
fault closes a connection, and where an exception of our own costs one link and not the process.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import weakref
from collections import deque
from typing import Any, Protocol

from starcore._framing import Region
from starcore.connection import UNREAD_BYTES_MAX, Connection, Identify
from starcore.errors import Code, CredentialsError, ProtocolError
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Close,
    Core,
    Drop,
    Event,
    Lost,
    Opened,
    Peer,
    Received,
    Send,
    SendChunk,
    Spooled,
    Tick,
    Unreadable,
    Writable,
)
from starcore.messages import Buffer, Goodbye, Message

NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is wrong with this process, or machine, where a file cannot be read; with the file there is nothing wrong."""


class Shell(Protocol):
    """What a role adds to the driver: its own actions, and where chunks live."""

    def perform(self, action: Action) -> None:
        """Carry out an action that only this role knows."""

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Memory for an incoming chunk; None throws it away."""

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer:
        """The bytes of an outgoing chunk that has no token."""

    def release(self, token: Any) -> None:
        """A token that nobody needs any more."""


class Line(Protocol):
    """A link as the driver sees it: a `Connection`, or one that another process of the manager's holds."""

    @property
    def link(self) -> int:
        """Its number."""

    @property
    def address(self) -> str:
        """Where the peer is."""

    @property
    def blocked(self) -> bool:
        """Whether it takes no chunk now; `Driver.writable` is called when it does again."""

    def send(self, message: Message, *, hurry: bool = True) -> None:
        """Queue a message."""

    def send_chunk(self, stream: int, attempt: int, offset: int, view: Buffer) -> None:
        """Write a chunk."""

    def send_token(self, stream: int, attempt: int, offset: int, length: int, token: Any, start: int) -> None:
        """Write a chunk of a token's bytes."""

    def close(self, last: Message | None = None) -> None:
        """Send what is queued, then `last`, and close."""

    def descriptor(self) -> int | None:
        """The socket's descriptor, where this process has it."""


class Driver:
    """One core, its links and its timer.

    Parameters
    ----------
    core : Core
        The pure part of the role.
    loop : asyncio.AbstractEventLoop
        Everything here happens in this loop's thread.
    shell : Shell
        The impure part of the role.
    logger : logging.Logger
        Where faults of peers, and our own, are told.
    unread_bytes_max : int, optional
        What may wait for a peer that asks and asks, and does not read.
    alone : bool, default False
        Whether there is one link only, so that nothing else comes in the turn in which it was read.
    """

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        shell: Shell,
        logger: logging.Logger,
        unread_bytes_max: int = UNREAD_BYTES_MAX,
        *,
        alone: bool = False,
    ) -> None:
        self._alone = alone
        self._core = core
        self._loop = loop
        self._shell = shell
        self._log = logger
        self._unread_bytes_max = unread_bytes_max
        self._links: dict[int, Line] = {}
        self._leaving: weakref.WeakSet[Line] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._events: deque[Event] = deque()
        self._turning = False
        self._ending = False
        self._quiet = False
        """Whether nothing came of what was announced by `hold`, so far."""
        self._unsent: list[Connection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._now = 0.0
        self._pumps: set[int] = set()
        self._scratch = Region()

    @property
    def links(self) -> int:
        """How many connections stand."""
        return len(self._links)

    @property
    def leaving(self) -> bool:
        """Whether a link that was closed is still sending what had been said on it."""
        return any(isinstance(connection, Connection) and not connection.gone for connection in self._leaving)

    def connection(self, identify: Identify) -> Connection:
        """Make the protocol of a new connection; `identify` says who the peer is, or raises."""
        made = Connection(self.number(), self, identify, self._loop, self._scratch, self._unread_bytes_max)
        made.alone = self._alone
        return made

    def number(self) -> int:
        """Number a link; whose link is younger has the larger number."""
        return next(self._numbers)

    def feed(self, event: Event) -> None:
        """Put an event in line, and turn the core until the line is empty."""
        self._quiet = False
        if self._turning:
            self._events.append(event)
            return
        self._turning = True
        try:
            self._turn(event)
            while self._events:
                self._turn(self._events.popleft())
        finally:
            self._turning = False
        if not self._ending:
            self._end_soon()

    def hold(self) -> None:
        """Announce several events, and `end_turn` right after them: the loop need not come back for it."""
        self._quiet = not self._ending
        self._ending = True

    def close_all(self, code: int = Code.NORMAL, reason: str = "") -> None:
        """Close every link with a GOODBYE; the core hears nothing of it."""
        for connection in list(self._links.values()):
            connection.close(Goodbye(code, reason))
        self._links.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def descriptors(self) -> list[int]:
        """The sockets, for a forked child."""
        found = (connection.descriptor() for connection in self._links.values())
        return [descriptor for descriptor in found if descriptor is not None and descriptor >= 0]

    # -- the connections' owner ------------------------------------------------------------------------------

    def opened(self, connection: Line, peer: Peer) -> None:
        """Take in a link."""
        self._links[connection.link] = connection
        self.feed(Opened(connection.link, peer))

    def refused(self, connection: Line, error: CredentialsError) -> None:
        """Turn away a peer with the wrong certificate, and tell it why."""
        self._log.warning("refused %s: %s", connection.address, str(error).removeprefix(f"{connection.address} "))
        connection.close(Goodbye(Code.ROLE, str(error)))
        self.feed(Lost(connection.link, str(error)))

    def received(self, link: int, message: Message) -> None:
        """Pass a message on."""
        self.feed(Received(link, message))

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Ask the shell."""
        return self._shell.destination(link, stream, attempt, offset, length)

    def arrived(self, link: int, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        """Pass a chunk on."""
        self.feed(ChunkReceived(link, stream, attempt, offset, length, token))

    def fault(self, connection: Line, error: ProtocolError) -> None:
        """Close the link of a peer that broke the rules."""
        self._log.warning("closing %s: %s: %s", connection.address, type(error).__name__, error)
        self._drop_link(connection.link, error.code, str(error))

    def queued(self, connection: Connection) -> None:
        """Have what a link has to say leave at the end of this turn."""
        self._unsent.append(connection)
        self._quiet = False
        if not self._ending and not self._turning:  # else somebody ends this turn anyway
            self._end_soon()

    def writable(self, link: int, writable: bool) -> None:
        """Pass the state of the write buffer on."""
        self.feed(Writable(link) if writable else Blocked(link))

    def lost(self, connection: Line, reason: str) -> None:
        """Forget a link, also one that never came to be."""
        self._links.pop(connection.link, None)
        self.feed(Lost(connection.link, reason))

    # -- private ---------------------------------------------------------------------------------------------

    def _turn(self, event: Event) -> None:
        self._now = max(self._now, self._loop.time())
        try:
            actions = self._core.handle(event, self._now)
        except Exception as error:
            self._blame(event, event, error)
            return
        for action in actions:  # one that fails takes none of the others along
            try:
                self._perform(action)
            except Exception as error:
                self._blame(action if hasattr(action, "link") else event, event, error)

    def _perform(self, action: Action) -> None:
        kind = type(action)
        if kind is Send:
            connection = self._links.get(action.link)
            if connection is not None:
                connection.send(action.message, hurry=action.hurry)
        elif kind is SendChunk:
            self._send_chunk(action)
        elif kind is Drop:
            self._shell.release(action.token)
        elif kind is Close:
            self._drop_link(action.link, action.code, action.reason)
        else:
            self._shell.perform(action)

    def _send_chunk(self, action: SendChunk) -> None:
        link = action.link
        connection = self._links.get(link)
        if connection is not None:
            stream, attempt, offset, length = action.stream, action.attempt, action.offset, action.length
            if type(action.token) is Spooled:
                self._send_spooled(connection, action)
            elif action.token is None:
                view = self._shell.source(link, stream, attempt, offset, length)
                connection.send_chunk(stream, attempt, offset, view)
            else:
                connection.send_token(stream, attempt, offset, length, action.token, action.start)
            # More only in the next turn of the loop: other links shall have theirs in between.
            if not connection.blocked and link not in self._pumps:
                self._pumps.add(link)
                self._loop.call_soon(self._pump, link)

    def _send_spooled(self, connection: Line, action: SendChunk) -> None:
        """Send what lies in a file, or tell the core that it does not any more: that is no fault of the link's."""
        spooled: Spooled = action.token
        assert spooled.read is not None, "spilled before it is sent"
        try:
            view = spooled.read(action.start, action.length)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            self.feed(Unreadable(spooled.body, error.strerror or str(error)))
        else:
            connection.send_chunk(action.stream, action.attempt, action.offset, view)

    def _pump(self, link: int) -> None:
        self._pumps.discard(link)
        connection = self._links.get(link)
        if connection is not None and not connection.blocked:
            self.feed(Writable(link))

    def _drop_link(self, link: int, code: int, reason: str) -> None:
        connection = self._links.pop(link, None)
        if connection is None:
            return
        connection.close(Goodbye(code, reason))
        self._leaving.add(connection)
        self.feed(Lost(link, reason))

    def _blame(self, culprit: Any, event: Event, error: Exception) -> None:
        """Close the link that an error concerns: for its peer's fault with a line, for ours with a traceback."""
        code, reason = Code.INTERNAL, "internal error; see the other side's log"
        if isinstance(error, ProtocolError):
            code, reason = error.code, f"{type(error).__name__}: {error}"
        else:
            self._log.error("a fault of our own while handling %s", type(event).__name__, exc_info=error)
        connection = self._links.get(getattr(culprit, "link", 0))
        if connection is not None:
            self._log.warning("closing %s: %s", connection.address, reason)
            self._drop_link(connection.link, code, reason)

    def _end_soon(self) -> None:
        self._ending = True
        self._loop.call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Finish one turn of the loop, however many events it had.

        The loop calls it before it sleeps. A shell that knows that no other event comes in this turn may call it
        sooner, and spares a lone task a look at every socket.
        """
        if not self._ending:
            return
        if self._quiet:  # a part of a chunk came, as mostly
            self._ending = self._quiet = False
            return
        deadline = self._core.deadline()
        if deadline is not None and deadline <= max(self._now, self._loop.time()):
            self.feed(Tick())  # sooner than a timer, which would cost a lone task another turn of the loop
            deadline = self._core.deadline()
        self._ending = False
        if deadline is not None and (self._timer is None or deadline < self._timer_at):
            self._arm(deadline)
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            connection.flush()

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        # A loop counts in its own grains (uvloop's clock has whole milliseconds) and may be a hair early. The core
        # would find nothing due and ask again at once, until the grain is over: the loop would spin.
        self._now = max(self._now, self._timer_at)
        self.feed(Tick())
