"""What a peer calls itself is shown on one line, and on a short one."""

from __future__ import annotations

import pytest

from starcore.texts import (
    FURTHER_CHARS_MAX,
    LINE_CHARS_MAX,
    LINES_MAX,
    TASK_SESSION_DIGITS,
    counted,
    plain,
    plain_lines,
    task_name,
)


def test_a_printable_text_of_moderate_length_stays_what_it_is() -> None:
    assert plain("größe 5 µm") == "größe 5 µm"


@pytest.mark.parametrize("ugly", ["a\nb", "a\r\nb", "\x1b[2J", "\x00", "\u202eabc", "\u2028", "\x9b31m"])
def test_what_cannot_be_printed_is_escaped(ugly: str) -> None:
    assert plain(ugly).isprintable()
    assert plain(ugly) == ugly.encode("unicode_escape").decode()


def test_a_long_text_is_cut_also_where_its_escapes_make_it_long() -> None:
    assert len(plain("x" * 70_000)) == LINE_CHARS_MAX
    assert len(plain("\n" * 70_000, 10)) == 10


def test_a_task_is_called_by_its_session_its_job_and_its_index() -> None:
    assert task_name(bytes.fromhex("3fa9c1d2" + "00" * 12), 1, 20) == "3fa9c1d2/1/20"
    assert len(task_name(bytes(16), 1, 0).split("/")[0]) == TASK_SESSION_DIGITS


def test_lines_of_a_report_are_plain_each_and_bounded_together() -> None:
    assert plain_lines("a\tb\nc\x1b") == ["a\\tb", "c\\x1b"]
    lines = plain_lines(("\N{GRINNING FACE}" * 2000 + "\n") * 100)
    assert len(lines) == LINES_MAX
    assert (len(lines[0]), len(lines[1])) == (LINE_CHARS_MAX, FURTHER_CHARS_MAX)
    assert plain_lines("") == [""]


@pytest.mark.parametrize(("number", "said"), [(0, "0 slots"), (1, "1 slot"), (2, "2 slots")])
def test_one_thing_is_no_plural(number: int, said: str) -> None:
    assert counted(number, "slot") == said
