"""What the client's core asks for in one turn, and when it last said something to the manager. Pure."""

from __future__ import annotations

from starcore.events import Action, Send
from starcore.messages import Message


class Outbox:
    """The actions of one turn."""

    __slots__ = ("actions", "link", "now", "sent_at")

    def __init__(self) -> None:
        self.link = 0
        self.now = 0.0
        self.sent_at = 0.0
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
        self.sent_at = self.now
        self.actions.append(Send(self.link, message))
