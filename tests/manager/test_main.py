"""The manager's command line; what it does as a process is in tests/integration/."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from starcore import certificates
from starcore.manager.__main__ import _budget, _compare, _greet, _parser, _spool_room, main
from starcore.manager.budget import least_bytes
from starcore.manager.core import Limits


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"STARCORE_{name}_DIR", str(tmp_path / name))


def test_defaults_are_the_cards_ports_and_the_cores_limits() -> None:
    options = _parser().parse_args([])
    limits = Limits()
    assert (options.port, options.client_port, options.host) == (443, 444, None)
    assert (options.heartbeat_seconds, options.silence_seconds) == (limits.heartbeat_seconds, limits.silence_seconds)
    assert (limits.heartbeat_seconds, limits.silence_seconds) == (2.0, 8.0)
    assert options.greeting_seconds == limits.greeting_seconds
    assert options.session_grace_seconds == limits.session_grace_seconds
    assert options.drain_seconds == limits.drain_seconds


@pytest.mark.parametrize("text", ["0", "-1", "65", "two", "1.5", ""])
def test_number_of_shards_that_cannot_be_is_a_wrong_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _parser().parse_args([]).shards == 1
    assert _parser().parse_args(["--shards", "64"]).shards == 64
    with pytest.raises(SystemExit) as left:
        main(["--shards", text])
    assert left.value.code == 2
    assert "is not a number of shards: 1 to 64 are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "least"), [(["127M"], "128M"), (["128M", "--shards", "2"], "180M"), (["335M", "--shards", "8"], "336M")]
)
def test_memory_that_the_processes_alone_would_take_is_a_wrong_command_line(
    options: list[str], least: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--memory", *options])
    assert left.value.code == 2
    assert f"{least} at least" in capsys.readouterr().err
    shards = int(options[-1]) if len(options) > 1 else 1
    assert _budget(0, shards).memory_bytes >= least_bytes(shards), "what nobody asked for is enough"


@pytest.mark.parametrize("flag", ["--journal", "--spool"])
def test_directory_without_a_name_is_a_wrong_command_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([flag, ""])
    assert left.value.code == 2
    assert f"{flag}: '' names no directory" in capsys.readouterr().err


def test_shards_need_linux(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert main(["--shards", "2", "--port", "0", "--client-port", "0"]) == 2
    assert "more than one shard needs Linux" in capsys.readouterr().err


def test_one_port_for_both_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--port", "8443", "--client-port", "8443"])
    assert left.value.code == 2
    assert "are both 8443" in capsys.readouterr().err


def test_what_is_wrong_is_one_line_and_makes_no_star(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "203.0.113.1", "--port", "0", "--client-port", "0"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("starcore manager: '203.0.113.1' is not an address of this machine")
    assert said.count("\n") == 1
    assert not (tmp_path / "CONFIG").exists()


def test_greeting_is_three_lines_that_name_the_join_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = certificates.Star(tmp_path, "id", "host")
    _greet(star)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert str(star.directory) in lines[0]
    assert str(star.worker_join) in lines[1]
    assert str(star.client_join) in lines[2]


@pytest.mark.parametrize(("port", "lines"), [(443, 0), (8443, 1)])
def test_ports_that_join_files_do_not_say_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, port: int, lines: int
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    with caplog.at_level("INFO", "starcore.manager"):
        for directory in (tmp_path / "CONFIG" / "star", tmp_path / "my star"):
            _compare(certificates.Star(directory, "id", "host"), SimpleNamespace(worker=port, client=444))  # type: ignore[arg-type]
    ends = ["", f" --star '{tmp_path / 'my star'}'"] * lines
    assert [record.getMessage().partition("--port 8443 --client-port 444")[2] for record in caplog.records] == ends


def test_who_waited_for_the_manager_may_be_gone_when_it_listens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while a local star starts: the children are on their way, and end with the lifeline."""
    certificates.create_star(tmp_path / "star", host="127.0.0.1")
    (lifeline, held), (gone, ready) = os.pipe(), os.pipe()
    os.close(gone)
    os.close(held)
    command = [sys.executable, "-m", "starcore.manager", "--star", str(tmp_path / "star"), "--host", "127.0.0.1"]
    command += ["--port", "0", "--client-port", "0", "--ephemeral", "--log-level", "warning"]
    command += ["--lifeline", str(lifeline), "--ready-fd", str(ready)]
    try:
        done = subprocess.run(command, pass_fds=(lifeline, ready), timeout=30, check=False)
    finally:
        os.close(lifeline)
        os.close(ready)
    assert (done.returncode, capfd.readouterr().err) == (0, "")


@pytest.mark.parametrize("where", ["a plain file", "below a plain file", "/proc/x"])
def test_place_of_the_record_is_tried_before_anything_is_said_or_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    place = {"a plain file": file, "below a plain file": file / "run", "/proc/x": Path("/proc/x")}[where]
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(place))
    command = ["--host", "127.0.0.1", "--port", "0", "--client-port", "0", "--star", str(tmp_path / "star")]
    assert main(command) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and str(place) in said and "STARCORE_RUNTIME_DIR" in said, said
    assert not (tmp_path / "star").exists()


def test_size_of_the_spool_counts_where_the_files_lie_in_the_journals_directory(tmp_path: Path) -> None:
    assert _spool_room(None, 5, tmp_path) == _spool_room(tmp_path, 5, None) == 5
    assert _spool_room(None, 5, None) == _spool_room(None, 0, tmp_path) == 0
    assert _spool_room(tmp_path, 0, tmp_path) > 0
