"""The log: one line an event, as text or as JSON."""

from __future__ import annotations

import io
import json
import logging

from starcore import logs


def said(level: str = "info", *, as_json: bool = False) -> io.StringIO:
    stream = io.StringIO()
    logs.setup(level, json=as_json, stream=stream)
    log = logging.getLogger("starcore.worker")
    log.debug("unheard")
    log.info("connected to %s", "the star")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("a fault")
    return stream


def test_a_line_says_when_who_and_what() -> None:
    first, second, *rest = said().getvalue().splitlines()
    assert first.endswith(" worker: connected to the star")
    assert second.endswith(" worker: error: a fault")
    assert rest[-1] == "ValueError: broken"


def test_json_is_one_object_a_line() -> None:
    first, second = (json.loads(line) for line in said(as_json=True).getvalue().splitlines())
    assert (first["level"], first["room"], first["text"]) == ("info", "worker", "connected to the star")
    assert "ValueError: broken" in second["traceback"]


def test_a_second_set_up_replaces_the_first() -> None:
    first = said()
    second = said("error")
    assert len(first.getvalue().splitlines()) > 4
    assert "connected" not in second.getvalue()


def test_a_name_with_line_breaks_makes_no_line_of_its_own() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logging.getLogger("starcore.manager").info("closing %s", "liar\n2031-01-01 00:00:00 manager: all is well\x1b[2J")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("closing liar\\n2031-01-01 00:00:00 manager: all is well\\x1b[2J")
