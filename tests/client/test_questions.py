"""Questions: each is answered once, whoever asks when."""

from __future__ import annotations

from typing import Any

import pytest

from starcore.client.orders import Ask, AskStory
from starcore.client.questions import Questions, answer_of
from starcore.errors import SessionLostError


def test_status_is_told_to_everybody_who_asked() -> None:
    told: list[Any] = []
    questions = Questions(told.append)
    first, second = questions.status(), questions.status()
    assert told == [Ask(), Ask()]
    questions.status_told("{}")
    questions.status_told("late")
    assert (first.result(0), second.result(0)) == ("{}", "{}")


def test_story_goes_to_its_own_question() -> None:
    told: list[Any] = []
    questions = Questions(told.append)
    first, second = questions.story("a/1/0"), questions.story("a/1/1")
    assert told == [AskStory(1, "a/1/0"), AskStory(2, "a/1/1")]
    questions.story_told(2, "second")
    questions.story_told(2, "late")
    assert not first.done()
    questions.story_told(1, "first")
    assert (first.result(0), second.result(0)) == ("first", "second")


def test_answer_that_does_not_come_in_time_is_told_in_a_sentence() -> None:
    with pytest.raises(TimeoutError, match=r"the manager did not answer within 0\.01 s: is it running"):
        answer_of(Questions(lambda _: None).status(), 0.01)


def test_end_of_the_session_answers_every_question() -> None:
    questions = Questions(lambda _: None)
    for answer in (questions.status(), questions.story("a/1/0")):
        questions.fail(SessionLostError("over"))
        with pytest.raises(SessionLostError):
            answer.result(0)
