"""What the client's core is told by its shell, and what it asks of it: a record each. Pure.

What it shares with the other roles stands in `starcore/events.py`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from starcore.events import Action, Dial, Finished, Log  # noqa: F401 - Dial and the like are orders too
from starcore.messages import Attach, Buffer, Column, Detach, Job, Message
from starcore.uplink import Uplink

# -- events of the client's own --------------------------------------------------------------------------------


@dataclass(slots=True)
class Connect:
    """Begin to dial."""


@dataclass(slots=True)
class Begin:
    """A job; `blob` is its function, empty where the worker has it registered. With `detach` it is to be stored."""

    job: Job
    blob: bytes = b""
    detach: Detach | None = None


@dataclass(slots=True)
class Read:
    """The stored job of this name is to be read as a job of this number."""

    attach: Attach


@dataclass(slots=True)
class GiveUp:
    """Nobody wants to store, or to read, this job any more."""

    job: int


@dataclass(slots=True)
class Question:
    """How do stored jobs stand, after that deed? Answered by `Listed`. No deed: nobody waits for that any more."""

    number: int
    deed: int | None
    name: str


@dataclass(slots=True)
class Call:
    """Tasks `first`, `first + 1`, ... of a job; an empty `body_sizes` says that none has a body."""

    job: int
    first: int
    heads: list[bytes]
    body_sizes: Column = field(default_factory=lambda: array("Q"))


@dataclass(slots=True)
class Put:
    """A value for many tasks: `source` has a head and a body that can be read; jobs that need it name it."""

    name: bytes
    source: Any


@dataclass(slots=True)
class Release:
    """No job that begins from now on needs this value."""

    name: bytes


@dataclass(slots=True)
class CancelCall:
    """Nobody waits for these tasks any more; `kill` ends those that run."""

    job: int
    indices: list[int]
    kill: bool = False


@dataclass(slots=True)
class Ask:
    """What is going on in the star? Answered by `Told`, once there is a connection."""


@dataclass(slots=True)
class AskStory:
    """What happened to this task? Answered by `StoryTold`, once there is a connection."""

    question: int
    task: str


@dataclass(slots=True)
class Shutdown:
    """End the session when its work is done, or at once (`abandon`)."""

    abandon: bool = False


# -- actions of the client's own -------------------------------------------------------------------------------


@dataclass(slots=True)
class Connected:
    """The session stands; said after every WELCOME."""

    resumed: bool
    workers: int
    slots: int


@dataclass(slots=True)
class Refused:
    """The manager will not have this client, now or later: the session is over."""

    code: int
    reason: str


@dataclass(slots=True)
class Resolve:
    """Outcomes without a body, in columns as in `Outcome`."""

    job: int
    indices: Column
    statuses: Buffer
    head_sizes: Column
    heads: Buffer


@dataclass(slots=True)
class Receive:
    """An answer's body is about to come: make its landing now; a former one of this task is void."""

    job: int
    index: int
    attempt: int
    status: int
    head: bytes
    body_bytes: int


@dataclass(slots=True)
class Landed:
    """The body is whole."""

    job: int
    index: int
    status: int


@dataclass(slots=True)
class Discard:
    """The landing is void: its worker or its connection was lost in the middle. The task is still outstanding."""

    job: int
    index: int


@dataclass(slots=True)
class Released:
    """The arguments of these tasks are not needed any more."""

    job: int
    indices: list[int]


@dataclass(slots=True)
class MarkRunning:
    """These tasks run."""

    job: int
    indices: Column


@dataclass(slots=True)
class Forgotten:
    """The core has struck an idle job; one more call needs another `Begin`."""

    job: int


@dataclass(slots=True)
class Resized:
    """The star has so many workers and slots now."""

    workers: int
    slots: int


@dataclass(slots=True)
class Told:
    """The star's state, as a JSON object."""

    text: str


@dataclass(slots=True)
class StoredTold:
    """What became of a job that is to be stored or read; a code ends it. The tasks of one that is read come next."""

    job: int
    code: int
    reason: str
    whole: bool
    tasks: int
    note: bytes


@dataclass(slots=True)
class Listed:
    """How stored jobs stand, as a JSON array."""

    question: int
    text: str


@dataclass(slots=True)
class StoryTold:
    """A task's story, as a JSON object."""

    question: int
    text: str


@dataclass(slots=True)
class Say:
    """A sentence for the user's eyes."""

    text: str


class Outbox:
    """The actions of one turn."""

    __slots__ = ("_uplink", "actions", "now")

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self.now = 0.0
        self.actions: list[Action] = []

    def turn(self, now: float) -> list[Action]:
        """Begin a turn: a new list, which fills as the turn goes on."""
        self.now = now
        self.actions = []
        return self.actions

    def ask(self, action: Action) -> None:
        """Ask the driver or the shell for something."""
        self.actions.append(action)

    def send(self, message: Message) -> None:
        """Say something to the manager."""
        self.actions.append(self._uplink.send(message, self.now))
