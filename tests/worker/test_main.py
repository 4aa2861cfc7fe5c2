"""The command: what it refuses, and with which exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from starcore.worker.__main__ import _parser, main


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
