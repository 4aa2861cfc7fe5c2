"""What happens to a core, and what a core asks for, as far as the three roles share it.

A *link* is a connection's number, made by the driver and never used twice in a process. What only one role
knows (a slot that died, a call of the user's) stands among that role's own orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from starcore.messages import Buffer, Message, Role

Token: TypeAlias = Any
"""A chunk's bytes, opaque to the cores: a buffer in a real star, None in a simulated one."""


@dataclass(slots=True)
class Spooled:
    """A token whose bytes lie in a file of the shell's: a piece of the body of this number."""

    body: int
    offset: int
    length: int
    read: Callable[[int, int], Buffer] | None = None
    """The shell's: returns `length` bytes from a place in the piece on."""
    size: int = field(default=0, compare=False)
    """Of the whole body."""


@dataclass(slots=True)
class Peer:
    """Who is at the other end, as TLS says."""

    role: Role
    name: str
    address: str
    fingerprint: str
    """SHA-256 (hex) of the certificate that it shows today."""
    identity: str
    """Who it is, also with the certificate that comes after this one (see `tls.identify`)."""


# -- events --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Opened:
    """A connection stands, and its peer has shown a certificate of the right role."""

    link: int
    peer: Peer


@dataclass(slots=True)
class Shaken:
    """Something happened to this machine after which no connection can be trusted; `reason` says what."""

    reason: str


@dataclass(slots=True)
class Received:
    """A message came in."""

    link: int
    message: Message


@dataclass(slots=True)
class ChunkReceived:
    """A chunk came in whole; its bytes lie where the shell was told to put them, or in the token."""

    link: int
    stream: int
    attempt: int
    offset: int
    length: int
    token: Token = None


@dataclass(slots=True)
class Blocked:
    """The link's write buffer is full: no more chunks until Writable. Messages still pass."""

    link: int


@dataclass(slots=True)
class Writable:
    """The link takes chunks; answered with at most CHUNK_BYTES_MAX in SendChunks, and said again after those."""

    link: int


@dataclass(slots=True)
class Lost:
    """The connection is gone, or (link 0) could not be made."""

    link: int
    reason: str


@dataclass(slots=True)
class Unreadable:
    """What lies in the file of this body cannot be read any more; a chunk of it that was to be sent was not."""

    body: int
    reason: str


@dataclass(slots=True)
class Tick:
    """The time that `deadline()` named has come."""


# -- actions -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Send:
    """Queue a message; all that one loop turn queues leaves in one write.

    Without `hurry` it waits a moment for something else to travel with, and is never overtaken.
    """

    link: int
    message: Message
    hurry: bool = True


@dataclass(slots=True)
class SendChunk:
    """Write a chunk: `length` of the token's bytes, or without a token those of the link's own source at `offset`."""

    link: int
    stream: int
    attempt: int
    offset: int
    length: int
    token: Token = None
    start: int = 0
    """Where in the token they begin."""


@dataclass(slots=True)
class Drop:
    """The core has no more use for these bytes."""

    token: Token


@dataclass(slots=True)
class Spill:
    """Move these bytes to a file: from now on `spooled` stands for them, and the token is not needed any more."""

    token: Token
    spooled: Spooled
    copy: bool = False
    """The token is needed on: what the file gets is a copy."""


@dataclass(slots=True)
class Close:
    """Say GOODBYE and close the link; Lost follows as for any other end."""

    link: int
    code: int
    reason: str


@dataclass(slots=True)
class Dial:
    """Make a connection after so many seconds; replaces a dial that has not begun yet. `reason`: why anew.

    Opened follows, or Lost for a link that never opened.
    """

    delay_seconds: float
    reason: str = ""


@dataclass(slots=True)
class Log:
    """Say this in the log; `level` is the name of one of logging's levels, in small letters."""

    level: str
    text: str


@dataclass(slots=True)
class Finished:
    """The role's work is over; a process of its own leaves with this code, and says why where there is a reason."""

    exit_code: int = 0
    reason: str = ""


Event: TypeAlias = Any
"""One of the above or of the role's own; each core's `handle` has the literal table."""
Action: TypeAlias = Any


class Core(Protocol):
    """What the driver, and the simulator, turn."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        ...

    def deadline(self) -> float | None:
        """When the core next wants a Tick, in the time of `handle`."""
        ...

    def check(self) -> None:
        """Assert every invariant."""
        ...
