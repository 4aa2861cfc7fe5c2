"""`starcore COMMAND`: which there are, and what they answer."""

from __future__ import annotations

from importlib import import_module

import pytest

import starcore
from starcore.__main__ import COMMANDS, main


def test_every_command_is_a_module_with_a_main_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (module, _) in COMMANDS.items():
        assert callable(import_module(module).main)
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        assert "exit codes" in capsys.readouterr().out


def test_help_names_every_command_and_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert not [name for name in COMMANDS if f"\n  {name} " not in said]
    assert main([]) == 2
    assert capsys.readouterr().out == said


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"starcore {starcore.__version__}\n"


def test_ctrl_c_while_a_command_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("starcore.__main__.import_module", interrupted)
    assert main(["jobs"]) == 130


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense", "--port", "3"]) == 2
    said = capsys.readouterr().err
    assert said == "starcore: no command 'nonsense'; there are manager, worker, certs, jobs, status, story, drain\n"
