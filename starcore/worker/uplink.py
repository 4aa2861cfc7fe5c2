"""The worker's way to its manager: dialling, greeting, heartbeats, silence, backoff. Pure.

::

    AWAY ──Dial──▶ DIALLING ──Opened──▶ GREETING ──WELCOME──▶ UP
      ▲               │Lost(0)             │ Lost, silence     │ Lost, silence, GOODBYE
      └── backoff ────┴────────────────────┴───────────────────┘

A worker tries for ever, less and less often; only a refusal that time cannot heal (another protocol version,
the wrong role) or `reconnect=False` ends it. What the link carries is the core's business.
"""

from __future__ import annotations

from enum import Enum, auto

from starcore.errors import Code
from starcore.events import Action, Close, Dial, Finished, Log, Lost, Send
from starcore.messages import Goodbye, Heartbeat, Hello, Message, Welcome

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0
GREETING_SECONDS_MAX = 8.0
HOPELESS = {Code.VERSION: 5, Code.ROLE: 3}
"""Refusals that no patience heals, with the exit code of each."""


class LinkState(Enum):
    """Where the way to the manager stands."""

    AWAY = auto()
    DIALLING = auto()
    GREETING = auto()
    UP = auto()
    CLOSING = auto()


class Uplink:
    """One link at a time, and the clock that watches it."""

    def __init__(self, *, reconnect: bool = True) -> None:
        self.state = LinkState.AWAY
        self.link = 0
        self.welcome: Welcome | None = None
        self.ever_up = False
        self._epoch: int | None = None
        self._reconnect = reconnect
        self._backoff = 0.0
        self._heard = 0.0
        self._spoke = 0.0
        self._said_away = False
        self._farewell: Goodbye | None = None

    @property
    def up(self) -> bool:
        """Whether messages may be sent."""
        return self.state is LinkState.UP

    def start(self) -> list[Action]:
        """Dial for the first time."""
        self.state = LinkState.DIALLING
        return [Dial(0.0)]

    def opened(self, link: int, hello: Hello, now: float) -> list[Action]:
        """Greet the manager; one link is enough."""
        if self.state is not LinkState.DIALLING:
            return [Close(link, Code.NORMAL, "not needed any more")]
        self.state, self.link, self._farewell = LinkState.GREETING, link, None
        self._heard = self._spoke = now
        return [Send(link, hello)]

    def welcomed(self, welcome: Welcome) -> bool:
        """Begin to talk. Whether the session that we know goes on.

        A manager that says `resumed` may have begun the session a moment ago, with a WELCOME that was lost on its
        way; the epoch tells whether it is the manager that knows our jobs by their numbers.
        """
        resumed = welcome.resumed and self._epoch in (None, welcome.epoch)
        self._epoch = welcome.epoch
        self.state, self.welcome, self.ever_up = LinkState.UP, welcome, True
        self._backoff, self._said_away = 0.0, False
        return resumed

    def heard(self, now: float) -> None:
        """Any byte is a sign of life."""
        self._heard = now

    def send(self, message: Message, now: float) -> Send:
        """Address a message to the manager."""
        self._spoke = now
        return Send(self.link, message)

    def spoke(self, now: float) -> None:
        """Anything sent spares a heartbeat."""
        self._spoke = now

    def goodbye(self, message: Goodbye) -> None:
        """Remember why the manager is about to close."""
        self._farewell = message

    def close(self, code: Code, reason: str) -> list[Action]:
        """Close the link; Lost follows."""
        if self.state not in (LinkState.GREETING, LinkState.UP):
            return []
        self.state = LinkState.CLOSING
        return [Close(self.link, code, reason)]

    def lost(self, event: Lost) -> list[Action]:
        """Dial again after a while, or give up."""
        farewell, self._farewell = self._farewell, None
        greeting = self.state is LinkState.GREETING
        was_up = self.welcome is not None and self.state in (LinkState.UP, LinkState.CLOSING)
        self.state, self.link, self.welcome = LinkState.AWAY, 0, None
        reason = farewell.reason if farewell and farewell.reason else event.reason
        if farewell is not None and farewell.code in HOPELESS:
            return [Finished(HOPELESS[Code(farewell.code)], f"the manager refuses this worker: {reason}")]
        if greeting and not self.ever_up and "ALERT" in reason.upper():
            # In TLS 1.3 a refused certificate shows only now, as the reason why the link broke.
            return [Finished(3, reason)]
        if not self._reconnect:
            return [Finished(5, f"no manager any more: {reason}" if was_up else f"no manager: {reason}")]
        self._backoff = min(BACKOFF_SECONDS_MAX, max(BACKOFF_SECONDS_MIN, self._backoff * 2))
        self.state = LinkState.DIALLING
        text = f"no manager yet: {reason}; trying until there is one"
        if was_up:
            text = f"lost the manager: {reason}; trying to reach it again"
        level = "debug" if self._said_away else "warning"
        self._said_away = True
        return [Log(level, text), Dial(self._backoff)]

    def tick(self, now: float) -> list[Action]:
        """Fill a silence, or end one that lasts too long."""
        if self.state is LinkState.GREETING and now >= self._heard + GREETING_SECONDS_MAX:
            return self.close(Code.SILENT, f"no WELCOME within {GREETING_SECONDS_MAX:g} s")
        if self.state is not LinkState.UP or self.welcome is None:
            return []
        if now >= self._heard + self.welcome.silence_seconds:
            return self.close(Code.SILENT, f"not a byte for {self.welcome.silence_seconds:g} s")
        if now >= self._spoke + self.welcome.heartbeat_seconds:
            return [self.send(Heartbeat(), now)]
        return []

    def deadline(self) -> float | None:
        """When the silence is to be looked at."""
        if self.state is LinkState.GREETING:
            return self._heard + GREETING_SECONDS_MAX
        if self.state is not LinkState.UP or self.welcome is None:
            return None
        return min(self._heard + self.welcome.silence_seconds, self._spoke + self.welcome.heartbeat_seconds)
