"""A story as callers see it, and what a failure says about it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from starcore.client.story import read_story, signed
from starcore.errors import ArgumentValueError, CrashError, FrameError

RECORDS = [
    {"seconds_ago": 3.25, "what": "queued", "attempt": 0, "worker": "", "text": ""},
    {"seconds_ago": 2.25, "what": "leased", "attempt": 1, "worker": "node7", "text": ""},
    {"seconds_ago": 1.25, "what": "queued again", "attempt": 1, "worker": "", "text": "killed by SIGSEGV"},
    {"seconds_ago": 0.25, "what": "returned", "attempt": 2, "worker": "node8", "text": ""},
]
TOLD = {"task": "3fa9c1d2/1/0", "function": "fit", "manager_job": 17, "whole": True, "records": RECORDS}


def test_story_reads_as_lines_with_the_time_of_this_machine() -> None:
    now = time.mktime((2031, 5, 4, 12, 0, 10, 0, 0, -1))
    story = read_story(json.dumps(TOLD), now)
    assert str(story).splitlines() == [
        "task 3fa9c1d2/1/0 (fit)",
        "  2031-05-04 12:00:06.750  queued",
        "  2031-05-04 12:00:07.750  leased to node7, attempt 1",
        "  2031-05-04 12:00:08.750  queued again, attempt 1: killed by SIGSEGV",
        "  2031-05-04 12:00:09.750  returned on node8, attempt 2",
    ]
    assert [record.time for record in story] == [now - 3.25, now - 2.25, now - 1.25, now - 0.25]


def test_cause_of_several_lines_is_told_in_lines_of_its_own() -> None:
    cause = "killed by SIGSEGV\nlast stack, most recent call first:\n  File \"fit.py\", line 3 in f\x1b[2J"
    story = read_story(json.dumps({**TOLD, "records": [{**RECORDS[2], "text": cause}]}), 100.0)
    assert str(story).splitlines()[1].endswith("queued again, attempt 1: killed by SIGSEGV")
    assert str(story).splitlines()[2:] == [
        "      last stack, most recent call first:",
        '        File "fit.py", line 3 in f\\x1b[2J',
    ]


def test_story_with_a_forgotten_beginning_says_so() -> None:
    assert "forgotten" in str(read_story(json.dumps({**TOLD, "whole": False, "function": ""}), 0.0))


def test_story_is_plain_values_for_json() -> None:
    story = read_story(json.dumps(TOLD), 10.0)
    plain = json.loads(json.dumps(story.to_json()))
    assert plain["records"][1] == {"time": 7.75, "what": "leased", "attempt": 1, "worker": "node7", "text": ""}
    assert (plain["task"], plain["function"], plain["whole"]) == ("3fa9c1d2/1/0", "fit", True)


def test_story_that_there_is_none_of_is_an_error_of_the_callers() -> None:
    with pytest.raises(ArgumentValueError, match="no task"):
        read_story('{"error": "no task 3fa9c1d2/1/0 is known"}', 0.0)


@pytest.mark.parametrize(
    "told",
    ["", "7", "[]", "{}", json.dumps({**TOLD, "records": [{}]}), json.dumps({**TOLD, "records": 5})],
)
def test_story_that_is_none_is_a_fault_of_the_managers(told: str) -> None:
    with pytest.raises(FrameError):
        read_story(told, 0.0)


def test_escapes_in_a_story_reach_no_terminal() -> None:
    ugly: dict[str, Any] = {**RECORDS[1], "worker": "\x1b[2J", "text": "a\nb"}
    assert "\x1b" not in str(read_story(json.dumps({**TOLD, "function": "\x1b[2J", "records": [ugly]}), 0.0))


def test_failure_says_how_to_learn_more_and_a_functions_own_exception_stays_as_it_is() -> None:
    crash, own = signed(CrashError("killed"), "3fa9c1d2/1/0"), signed(ValueError("mine"), "3fa9c1d2/1/0")
    assert "starcore story 3fa9c1d2/1/0" in vars(crash)["__notes__"][0]
    assert str(crash) == "killed"
    assert not hasattr(own, "__notes__")
