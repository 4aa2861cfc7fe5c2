"""Questions about the star and its tasks: asked on every link, until they are answered."""

from __future__ import annotations

from client.test_core import Client
from starcore.client import orders
from starcore.messages import StatusRequest, StoryReply, StoryRequest


def test_story_is_asked_for_until_it_is_told() -> None:
    client = Client()
    client.feed(orders.AskStory(7, "00010203/1/0"))
    client.join()
    client.expect(StoryRequest(7, "00010203/1/0"))
    client.feed(orders.AskStory(8, "00010203/1/1"))
    client.expect(StoryRequest(8, "00010203/1/1"))
    client.say(StoryReply(8, "second"))
    client.expect(orders.StoryTold(8, "second"))
    client.lose()
    client.join(resumed=True)
    client.expect(StoryRequest(7, "00010203/1/0"))
    for _ in range(2):
        client.say(StoryReply(7, "first"))
    client.expect(orders.StoryTold(7, "first"))
    client.quiet()


def test_question_asked_without_a_link_is_put_on_the_next_one() -> None:
    client = Client()
    client.feed(orders.Ask())
    client.join()
    client.expect(StatusRequest())
    client.quiet()
