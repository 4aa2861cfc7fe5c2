"""What the core asks for in one turn, and when it last spoke on each link. Pure.

The one event that only a manager knows stands here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starcore.events import Action, Close, Drop, Finished, Log, Send, SendChunk, Spill, Spooled, Token
from starcore.messages import Message
from starcore.texts import plain


@dataclass(slots=True)
class Drain:
    """Event: finish what runs, take nothing new, then ask for `Finished`."""


@dataclass(slots=True)
class SpoolFailed:
    """Event: no more can be written to the spool. What could not be, is still in memory."""

    reason: str


@dataclass(slots=True)
class SpoolWorks:
    """Event, with a journal: what could not be written is written now."""


@dataclass(slots=True)
class Synced:
    """Event, with a journal: these bodies are on disk, whole."""

    bodies: list[int]


class Outbox:
    """Collects actions until `take`."""

    journaled = False
    """Whether what `record` is told is kept; asked first, so that without a journal nothing is spent on one."""
    failure = ""
    """Why nothing new can be taken in; see `journaled.py`."""
    made = durable = 0
    """Facts so far, and how many of them are on disk."""
    wall_seconds = 0.0
    """What `now` lacks to count from 1970, for facts that outlive this machine's clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.spoken_at: dict[int, float] = {}
        """When something was last sent on each link that stands."""
        self._actions: list[Action] = []

    def take(self) -> list[Action]:
        """Hand over what was asked for."""
        actions, self._actions = self._actions, []
        return actions

    def send(self, link: int, message: Message, *, hurry: bool = True) -> None:
        """Queue a message; without `hurry` it may wait a moment for company."""
        self._actions.append(Send(link, message, hurry))
        self.spoken_at[link] = self.now

    def hold(self, link: int, message: Message) -> None:
        """Queue a message that promises what was recorded before."""
        self.send(link, message)

    def revoke(self, link: int, job: int) -> None:
        """Take back what is held of this job: what it promises cannot be kept."""

    def chunk(
        self, link: int, stream: int, attempt: int, offset: int, length: int, token: Token, start: int = 0
    ) -> None:
        """Write a chunk: the token's bytes from `start` on."""
        self._actions.append(SendChunk(link, stream, attempt, offset, length, token, start))
        self.spoken_at[link] = self.now

    def record(self, fact: Any) -> None:
        """Have a fact (see records.py) outlive this process."""

    def drop(self, token: Token) -> None:
        """Give a token back."""
        if token is not None:
            self._actions.append(Drop(token))

    def spill(self, token: Token, spooled: Spooled, *, copy: bool = False) -> None:
        """Move a token's bytes to a file, or a copy of them."""
        self._actions.append(Spill(token, spooled, copy))

    def close(self, link: int, code: int, reason: str) -> None:
        """Close a link."""
        self._actions.append(Close(link, code, reason))

    def log(self, level: str, text: str) -> None:
        """Say something in the log."""
        self._actions.append(Log(level, plain(text)))

    def finish(self) -> None:
        """Say that the drain is complete."""
        self._actions.append(Finished())
