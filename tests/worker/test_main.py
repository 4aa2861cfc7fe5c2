"""The command: what it refuses, and with which exit code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from starcore.worker.__main__ import END_VARIABLE, _lifetime, _parser, main
from starcore.worker.departure import Lifetime


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slots", "0"],
        ["--port", "70000"],
        ["--arena", "much"],
        ["--manager", "a", "--manager-ip", "b"],
        ["--only-registered"],
        ["--function", "no_module"],
        ["--initializer", "lab:"],
        ["--slot-memory", "0"],
        ["--slot-memory", "8"],
        ["--slot-memory", "1M"],
        ["--arena", "8"],
        ["--lifetime", "-3"],
        ["--lifetime", "60", "--drain-before", "60"],
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "--help" in capsys.readouterr().err


def test_options_are_read() -> None:
    options = _parser().parse_args(["--function", "a:f", "--function", "b:g", "--arena", "1G", "--slots", "3"])
    assert (options.function, options.arena, options.slots) == (["a:f", "b:g"], 1 << 30, 3)


def test_a_lifetime_is_given_or_the_batch_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(END_VARIABLE, raising=False)
    assert _lifetime(None, None) is None
    assert _lifetime(300.0, None) == Lifetime(300.0, 30.0)
    assert _lifetime(86_400.0, None) == Lifetime(86_400.0, 60.0)
    assert _lifetime(300.0, 120.0) == Lifetime(300.0, 120.0)
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    monkeypatch.setenv(END_VARIABLE, "1003600")
    assert _lifetime(None, None) == Lifetime(3600.0, 60.0)
    assert _lifetime(None, 7200.0) == Lifetime(3600.0, 3600.0)
    assert _lifetime(300.0, None) == Lifetime(300.0, 30.0)


@pytest.mark.parametrize("end", ["999999", "", "tomorrow", "1e9", "²"])
def test_an_end_that_is_past_or_no_time_is_none(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    monkeypatch.setenv(END_VARIABLE, end)
    assert _lifetime(None, None) is None


def test_a_missing_join_file_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "starcore.worker", "--join", str(tmp_path / "none.join")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 3
    assert len(ran.stderr.splitlines()) == 1
    assert "none.join" in ran.stderr


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "examples:" in capsys.readouterr().out
