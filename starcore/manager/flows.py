"""The records of one body on its way between two links, and of a link's bodies; what happens is `relay.py`'s. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starcore.events import Token
from starcore.streams import Receiving, Sending

FIRST_ATTEMPT = 1

Piece: TypeAlias = tuple[int, int, Token]
"""Offset, length and token of a chunk."""


@dataclass(slots=True, eq=False)
class Flow:
    """One body on its way between two links, either of which may be absent for a while (0); see relay.py."""

    size: int
    source_stream: int = 0
    source_attempt: int = FIRST_ATTEMPT
    source: int = 0
    sink: int = 0
    sink_stream: int = 0
    sink_attempt: int = 0
    placed: bool = False
    """The sink has said from where it takes bytes."""
    asked: bool = False
    """The sink has asked for them; before that it has at most a window of them that leaves unasked."""
    begin: int = 0
    end: int = 0
    held: deque[Piece] = field(default_factory=deque)
    kept: bool = False
    shared: bool = False
    spread: bool = False
    """It has no sink but *readers*, flows of their own that take its chunks as they come."""
    readers: dict[Flow, None] = field(default_factory=dict)
    origin: Flow | None = None
    """What a reader reads."""
    lender: Flow | None = None
    """The kept flow whose bytes it sends, as often as they are asked for."""
    owner: Any = None
    """Of a kept flow: the stored argument or answer that it brings."""
    number: int = 0
    """Of a stored flow: the name of its file in the spool."""
    joined: bool = False
    """A reader that gets every chunk; another one waits for the bytes that it needs to come by again."""
    promised: int = 0
    """Counted against the sink's link (against the source's, where many read): granted and not forwarded."""
    promised_placed: int = 0
    """The same while it is `placed`, else 0."""
    leased: Any = None
    """The lease whose argument it is, once it is on its way to a worker."""

    @property
    def forwarded(self) -> bool:
        """Whether the sink's link got all of it."""
        return self.begin == self.size

    @property
    def kept_whole(self) -> bool:
        """Whether all of it was kept here: its source is needed no more."""
        return self.kept and self.end == self.size


@dataclass(slots=True, eq=False)
class Port:
    """One link's streams."""

    sending: Sending
    receiving: Receiving
    window: int
    """What it may send unasked."""
    inbound: dict[int, Flow] = field(default_factory=dict)
    outbound: dict[int, Flow] = field(default_factory=dict)
    open: bool = True
    """It can take chunks now; after that it waits to be told so again."""
    promised: int = 0
    placed: int = 0
    """Of it, what was promised to flows whose sink has said from where it takes bytes."""
    thirsty: dict[Flow, None] = field(default_factory=dict)
    reading: int = 0
    """What the spread flows from this link were promised, together."""
    dry: dict[Flow, None] = field(default_factory=dict)
    """Spread flows that wait until others from this link have passed."""
