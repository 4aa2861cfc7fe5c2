"""`starcore story`: usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from starcore import stories


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        stories.main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "starcore story 3fa9c1d2/1/0 --join client.join --json" in said


def test_task_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        stories.main([])
    assert left.value.code == 2
    assert "TASK" in capsys.readouterr().err


def test_without_a_manager_it_starts_no_star_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    assert stories.main(["3fa9c1d2/1/0"]) == 2
    assert capsys.readouterr().err.startswith("starcore story: no manager is configured")
