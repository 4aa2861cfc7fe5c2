"""`starcore drain`: what it asks, what it makes of the answer. What workers do then is in tests/integration/."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from starcore import certificates, drain


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"STARCORE_{name}_DIR", str(tmp_path / name))
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER", "STARCOMPUTE_CLIENT_KEY", "STARCOMPUTE_CLIENT_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_manager_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert drain.main(["node7"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("starcore drain: no manager is configured")
    assert (said.err.count("\n"), said.out) == (1, "")


def test_a_manager_that_is_not_there_is_exit_code_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star, _ = certificates.create_star(tmp_path / "star", host="127.0.0.1", worker_port=1, client_port=2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert drain.main(["*", "--join", str(star.client_join), "--manager", f"127.0.0.1:{port}"]) == 5
    assert f"nobody listens at 127.0.0.1:{port}" in capsys.readouterr().err


def test_pattern_that_is_no_text_is_a_wrong_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star, _ = certificates.create_star(tmp_path / "star", host="127.0.0.1", worker_port=1, client_port=2)
    assert drain.main(["n\udc80de", "--join", str(star.client_join)]) == 2
    assert capsys.readouterr().err == "starcore drain: n\\udc80de fits no worker: it is no text\n"


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        drain.main(["--help"])
    assert "starcore drain node7" in capsys.readouterr().out
