"""A dialler's way to its manager, as client and worker share it: dialling, greeting, heartbeats, silence, backoff.

Pure, and without a word for people: what to log, and whether to go on, is for the role's core to say.

::

    AWAY ──dial──▶ DIALLING ──opened──▶ GREETING ──welcomed──▶ UP
                      ▲ │ Lost             │ Lost                │ Lost
                      │ ▼                  ▼                     ▼        close, silence: CLOSING until Lost follows
                      └─── `lost` says how it ended; the core asks for `again`, or leaves: OVER

One link is enough: what opens while another stands is closed. The session's own random bytes keep a thousand
diallers from coming back in step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from starcore.errors import Code, UnexpectedError
from starcore.events import Action, Close, Dial, Lost, Send
from starcore.messages import Goodbye, Heartbeat, Hello, Message, Welcome

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_DOUBLINGS_MAX = 10
HEARTBEAT_SECONDS_MIN = 0.01
PATIENCE_BEATS = 2.5
"""Whatever a role's own patience: one heartbeat may be late."""


class LinkState(Enum):
    """Where the way to the manager stands."""

    AWAY = auto()
    DIALLING = auto()
    GREETING = auto()
    UP = auto()
    CLOSING = auto()
    OVER = auto()


@dataclass(slots=True)
class Loss:
    """How a link ended, or the attempt at one.

    Attributes
    ----------
    stage : LinkState
        Where it stood: DIALLING, GREETING, UP, or CLOSING where we closed it ourselves.
    was_up : bool
        Whether there had been a WELCOME.
    reason : str
        The manager's own word for it, where it said goodbye.
    verdict : int, optional
        What the goodbye means, where no patience heals it.
    """

    stage: LinkState
    was_up: bool
    reason: str
    verdict: int | None = None


class Uplink:
    """One link at a time, and the clock that watches it.

    Parameters
    ----------
    session : bytes
        The random bytes that name the session.
    greeting_seconds : float
        How long a WELCOME may take.
    backoff_max : callable
        The longest wait before another dial, as things stand; in seconds.
    spread : (float, float)
        A wait is stretched by a factor between these two.
    hopeless : mapping of int to int
        The codes of a GOODBYE that no patience heals, and what each means to the role: `Loss.verdict`.
    patience_seconds : float, optional
        A shorter silence than the manager's that ends a link, where several of its heartbeats fit into that.
    """

    def __init__(
        self,
        session: bytes,
        *,
        greeting_seconds: float,
        backoff_max: Callable[[], float],
        spread: tuple[float, float],
        hopeless: Mapping[int, int],
        patience_seconds: float = math.inf,
    ) -> None:
        self.state = LinkState.AWAY
        self.link = 0
        self.welcome: Welcome | None = None
        self.ever_up = False
        self.failures = 0
        """How often there was no manager since the last WELCOME."""
        self._session = session
        self._greeting_seconds = greeting_seconds
        self._backoff_max = backoff_max
        self._spread = spread
        self._hopeless = hopeless
        self._patience_seconds = patience_seconds
        self.silence_seconds = 0.0
        """How long the manager may be silent, by its last WELCOME."""
        self._newest = 0
        self._epoch: int | None = None
        self._heard = 0.0
        self._spoke = 0.0
        self._dial_at: float | None = None
        self._farewell: Goodbye | None = None

    @property
    def up(self) -> bool:
        """Whether messages may be sent."""
        return self.state is LinkState.UP

    @property
    def standing(self) -> bool:
        """Whether there is a link that is not about to end."""
        return self.state in (LinkState.GREETING, LinkState.UP)

    # -- to the manager --------------------------------------------------------------------------------------

    def dial(self, now: float, delay_seconds: float = 0.0, reason: str = "") -> Dial:
        """Look for the manager, from now on or after a while."""
        self.state = LinkState.DIALLING
        self._dial_at = now + delay_seconds
        return Dial(delay_seconds, reason)

    def again(self, now: float, reason: str = "") -> Dial:
        """Dial after a while, which is longer each time; `reason` is what the last link died of."""
        least, most = self._spread
        delay = min(self._backoff_max(), BACKOFF_SECONDS_MIN * 2 ** min(self.failures, BACKOFF_DOUBLINGS_MAX))
        chance = self._session[self.failures % len(self._session)] / 255
        self.failures += 1
        return self.dial(now, delay * (least + (most - least) * chance), reason)

    def hasten(self, now: float, seconds: float) -> list[Action]:
        """Dial at once where the next attempt is further away than that: there is work."""
        if self.state is LinkState.DIALLING and self._dial_at is not None and self._dial_at > now + seconds:
            return [self.dial(now)]
        return []

    def opened(self, link: int, hello: Hello, now: float) -> list[Action]:
        """Greet the manager; one link is enough."""
        self._newest = max(self._newest, link)
        if self.state is not LinkState.DIALLING:
            return [Close(link, Code.NORMAL, "not needed any more")]
        self.state, self.link = LinkState.GREETING, link
        self._heard, self._dial_at, self._farewell = now, None, None
        return [self.send(hello, now)]

    def send(self, message: Message, now: float) -> Send:
        """Address a message to the manager."""
        self._spoke = now
        return Send(self.link, message)

    def spoke(self, now: float) -> None:
        """Anything sent spares a heartbeat."""
        self._spoke = now

    def close(self, code: Code, reason: str) -> list[Action]:
        """Close the link; Lost follows."""
        if not self.standing:
            return []
        self.state = LinkState.CLOSING
        return [Close(self.link, code, reason)]

    def shaken(self, reason: str, now: float) -> list[Action]:
        """Trust no connection any more, and dial at once: Lost follows where there is one."""
        return self.close(Code.SILENT, reason) or self.hasten(now, 0.0)

    def leave(self, reason: str) -> list[Action]:
        """Close the link, and want no other any more."""
        actions = self.close(Code.NORMAL, reason)
        self.state, self.link, self.welcome = LinkState.OVER, 0, None
        return actions

    # -- from the manager ------------------------------------------------------------------------------------

    def heard(self, link: int, now: float) -> bool:
        """Whether what comes on this link counts; any byte is a sign of life."""
        if link != self.link or self.state is LinkState.CLOSING:
            return False
        self._heard = now
        return True

    def welcomed(self, welcome: Welcome) -> bool:
        """Begin to talk. Whether the session that we know goes on.

        A manager that says `resumed` may have begun the session a moment ago, with a WELCOME that was lost on its
        way; the epoch tells whether it is the manager that knows our jobs by their numbers.

        Raises
        ------
        UnexpectedError
            Nobody could keep the times that it asks for.
        """
        beat, silence = welcome.heartbeat_seconds, welcome.silence_seconds
        if beat < HEARTBEAT_SECONDS_MIN or silence < beat:
            raise UnexpectedError(f"a heartbeat every {beat:g} s, and {silence:g} s of silence")
        resumed = welcome.resumed and self._epoch in (None, welcome.epoch)
        self._epoch = welcome.epoch
        self.silence_seconds = min(silence, max(self._patience_seconds, PATIENCE_BEATS * beat))
        self.state, self.welcome, self.ever_up = LinkState.UP, welcome, True
        self.failures = 0
        return resumed

    def goodbye(self, message: Goodbye) -> int | None:
        """Remember why the manager is about to close; what that means, where it is for good."""
        self._farewell = message
        return self._hopeless.get(message.code)

    def lost(self, event: Lost) -> Loss | None:
        """Say how the link ended, or the attempt at one; None where it is not the one that counts."""
        if self.state is LinkState.DIALLING:
            if event.link and event.link <= self._newest:
                return None  # the end of an older one; a link that never opened has a number of its own
            self._newest = max(self._newest, event.link)
        elif not self.link or event.link != self.link:
            return None
        farewell, self._farewell = self._farewell, None
        loss = Loss(self.state, self.welcome is not None, event.reason)
        if farewell is not None:
            loss.reason = farewell.reason or event.reason
            loss.verdict = self._hopeless.get(farewell.code)
        self.state, self.link, self.welcome = LinkState.AWAY, 0, None
        return loss

    def answer(self, now: float) -> list[Action]:
        """Put our next heartbeat beside the manager's that just came, where ours would be due before its next one.

        It hears the thousand peers that it spoke to in one turn of its loop in one turn, and sleeps in between.
        """
        welcome = self.welcome
        if self.state is LinkState.UP and welcome is not None and now >= self._spoke + welcome.heartbeat_seconds / 2:
            return [self.send(Heartbeat(), now)]
        return []

    # -- the clock -------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> str:
        """Why the link is given up, where the manager has been silent for too long."""
        if self.state is LinkState.GREETING and now >= self._heard + self._greeting_seconds:
            return f"no WELCOME within {self._greeting_seconds:g} s"
        if self.state is LinkState.UP and now >= self._heard + self.silence_seconds:
            return f"not a byte for {self.silence_seconds:g} s"
        return ""

    def tick(self, now: float) -> list[Action]:
        """Fill a silence of ours, or end one of the manager's."""
        if reason := self.overdue(now):
            return self.close(Code.SILENT, reason)
        welcome = self.welcome
        if self.state is LinkState.UP and welcome is not None and now >= self._spoke + welcome.heartbeat_seconds:
            return [self.send(Heartbeat(), now)]
        return []

    def deadline(self) -> float | None:
        """When the silence is to be looked at."""
        if self.state is LinkState.GREETING:
            return self._heard + self._greeting_seconds
        if self.state is not LinkState.UP or self.welcome is None:
            return None
        silent, beat = self._heard + self.silence_seconds, self._spoke + self.welcome.heartbeat_seconds
        return silent if silent < beat else beat

    def check(self) -> None:
        """Assert every invariant."""
        standing = self.state in {LinkState.GREETING, LinkState.UP, LinkState.CLOSING}
        assert (self.link != 0) == standing, (self.state, self.link)
        assert self.welcome is None or self.state in {LinkState.UP, LinkState.CLOSING}, self.state
        assert (self.welcome is not None) or self.state is not LinkState.UP
