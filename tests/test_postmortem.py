"""The line of facts under a post-mortem: what is written is read, and nothing that a peer writes there hurts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starcore.postmortem import FACTS_CHARS_MAX, Facts, signal_of, split_facts, stack_in, with_facts
from starcore.texts import NAME_CHARS_MAX, plain

ALL = Facts("SIGSEGV", 300 << 20, "node7", 3)
TEXT = "the slot that ran it ended by SIGSEGV\nlast stack, most recent call first:\n  File f"


def test_what_is_written_is_read_and_the_text_is_as_it_was() -> None:
    assert split_facts(with_facts(TEXT, ALL)) == (TEXT, ALL)
    assert split_facts(with_facts("", ALL)) == ("", ALL)


def test_what_is_not_known_is_not_written() -> None:
    assert with_facts(TEXT, Facts()) == TEXT
    assert with_facts("t", Facts(worker="w")) == 't\nfacts {"worker": "w"}'


def test_line_that_an_older_reader_shows_is_one_line_that_can_be_read() -> None:
    line = with_facts(TEXT, ALL).removeprefix(TEXT)
    assert line == '\nfacts {"signal": "SIGSEGV", "peak_memory_bytes": 314572800, "worker": "node7", "attempts": 3}'


def test_text_of_an_older_peer_says_nothing() -> None:
    assert split_facts(TEXT) == (TEXT, Facts())


@pytest.mark.parametrize(
    ("cause", "signal"),
    [
        ("SIGKILL (from outside; perhaps)", "SIGKILL"),
        ("SIGRTMIN+3", "SIGRTMIN+3"),
        ("signal 45", "signal 45"),
        ("exit code 3", None),
        ("no process: SIGH", None),
        ("", None),
    ],
)
def test_signal_is_what_a_cause_begins_with(cause: str, signal: str | None) -> None:
    assert signal_of(cause) == signal


@pytest.mark.parametrize(
    "line",
    [
        '{"signal": 11, "peak_memory_bytes": "much", "worker": [], "attempts": {}}',
        '{"signal": "SIGSEGV\\u001b[2J", "peak_memory_bytes": -1, "worker": "", "attempts": 0}',
        '{"signal": "' + "SIG" + "A" * 90 + '", "peak_memory_bytes": 1e300, "attempts": true}',
        '{"peak_memory_bytes": ' + "9" * 500 + "}",
        '{"peak_memory_bytes": NaN, "attempts": Infinity}',
        "{}",
    ],
)
def test_field_that_cannot_be_is_not_known(line: str) -> None:
    assert split_facts(f"text\nfacts {line}") == ("text", Facts())


@pytest.mark.parametrize(
    "line", ["{", "{]", '{"a": ' + "[" * 900, '{"signal": "SIGSEGV"' + " " * FACTS_CHARS_MAX + "}"]
)
def test_line_that_is_none_stays_in_the_text(line: str) -> None:
    assert split_facts(f"text\nfacts {line}") == (f"text\nfacts {line}", Facts())


def test_name_of_a_worker_is_made_fit_for_a_terminal() -> None:
    hostile = json.dumps({"worker": "w\n\x1b[2J" + "x" * 500})
    worker = split_facts(f"t\nfacts {hostile}")[1].worker
    assert worker == "w\\n\\x1b[2J" + "x" * 89 + "…"
    for name in ("\U0001f980" * 9000, "\\" * 9000, "\udc80" * 9000, '"' * 9000):
        text, facts = split_facts(with_facts("t", Facts("SIGABRT", 1 << 61, name, 1 << 31)))
        assert (text, facts.worker) == ("t", plain(name, NAME_CHARS_MAX))


@given(st.text())
def test_nothing_that_a_peer_says_hurts(text: str) -> None:
    for told in (text, f"\nfacts {{{text}", f"\nfacts {text}"):
        shown, facts = split_facts(told)
        assert told.startswith(shown)
        assert facts == Facts() or shown != told


def test_stack_is_what_follows_its_title() -> None:
    assert stack_in(TEXT) == "  File f"
    assert stack_in("no stack") is None
    assert stack_in("a\nlast stack, most recent call first:\n") is None
