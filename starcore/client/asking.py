"""What a client asked about the star and its tasks, and asks again on each new link until it is answered. Pure."""

from __future__ import annotations

from starcore.client.orders import AskStory, Outbox, StoryTold, Told
from starcore.messages import StatusReply, StatusRequest, StoryReply, StoryRequest


class Asking:
    """Questions that are not answered yet."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._status = False
        self._stories: dict[int, str] = {}
        """Tasks, by the numbers of the questions about them."""

    def __bool__(self) -> bool:
        return self._status or bool(self._stories)

    def status(self, up: bool) -> None:
        """Ask what is going on."""
        self._status = True
        if up:
            self._outbox.send(StatusRequest())

    def story(self, event: AskStory, up: bool) -> None:
        """Ask what happened to a task."""
        self._stories[event.question] = event.task
        if up:
            self._outbox.send(StoryRequest(event.question, event.task))

    def again(self) -> None:
        """Ask on a new link what was not answered."""
        if self._status:
            self._outbox.send(StatusRequest())
        for question, task in self._stories.items():
            self._outbox.send(StoryRequest(question, task))

    def status_told(self, message: StatusReply) -> None:
        """The manager said what is going on."""
        self._status = False
        self._outbox.ask(Told(message.text))

    def story_told(self, message: StoryReply) -> None:
        """The manager told a task's story."""
        if self._stories.pop(message.question, None) is not None:
            self._outbox.ask(StoryTold(message.question, message.text))
