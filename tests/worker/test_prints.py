"""What tasks print."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from starcore.worker.prints import LINE_CHARACTERS_MAX, TaskStream


def written(*texts: str, end: bool = False) -> str:
    with tempfile.TemporaryFile() as log:
        stream = TaskStream(log.fileno())
        stream.task = "1/2 fit"
        stream.writelines(texts)
        stream.flush()
        if end:
            stream.end_task()
        log.seek(0)
        return log.read().decode()


def test_each_whole_line_has_the_tasks_name() -> None:
    assert written("a\nb", "c\n") == "[1/2 fit] a\n[1/2 fit] bc\n"


def test_a_line_without_end_waits_for_the_end_of_the_task() -> None:
    assert written("half") == ""
    assert written("half", end=True) == "[1/2 fit] half\n"


def test_an_endless_line_is_written_in_parts() -> None:
    assert len(written("x" * (LINE_CHARACTERS_MAX + 1)).splitlines()) == 1


def test_what_is_no_text_is_refused_and_a_closed_log_is_nobodys_fault() -> None:
    with open(os.devnull, "rb") as readonly:
        stream = TaskStream(readonly.fileno())
        with pytest.raises(TypeError):
            stream.write(b"bytes")  # type: ignore[arg-type]
        assert stream.write("lost\n") == 5
        assert (stream.writable(), stream.encoding, stream.errors) == (True, "utf-8", "backslashreplace")
        assert stream.fileno() == readonly.fileno()


def test_what_cannot_be_encoded_is_escaped() -> None:
    assert written("\udc80\n") == "[1/2 fit] \\udc80\n"


def test_lines_are_json_objects_where_the_log_is_json(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        stream = TaskStream(log.fileno(), as_json=True)
        stream.task = "1/0 fit"
        print('two "quoted"\nlines', file=stream)
    said = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["text"] for line in said] == ['two "quoted"', "lines"]
    assert {(line["task"], line["room"], line["level"]) for line in said} == {("1/0 fit", "worker.slot", "info")}
