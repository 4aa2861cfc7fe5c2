"""Detached jobs from the shell: the table, what is refused. The file: client/test_npy.py; stars: integration/."""

from __future__ import annotations

from pathlib import Path

import pytest

from starcore import jobs

ROW = {
    "name": "scan-7", "number": 17, "function": "fit", "tasks": 4, "accepted": True, "arrived": 4,
    "queued": 1, "running": 1,
    "done": 2, "failed": 0, "cancelled": 0, "fetched": 0, "bytes": 1000, "age_seconds": 5.0,
    "expires_in_seconds": 600_000.0,
}  # fmt: skip


def test_table_has_a_line_for_each_job() -> None:
    assert jobs.render([ROW, ROW | {"name": "b", "expires_in_seconds": 59.6}]).splitlines() == [
        "NAME    FUNCTION  TASKS  QUEUED  AT WORKERS  DONE  FAILED  CANCELLED  BYTES  EXPIRES  STORY",
        "scan-7  fit       4      1       1           2     0       0          1000   7 d      m17/0",
        "b       fit       4      1       1           2     0       0          1000   60 s     m17/0",
    ]
    assert jobs.render([]) == "no detached jobs"


@pytest.mark.parametrize(
    "argv", [["cancel"], ["fetch", "a"], ["fetch", "--out", "x"], ["list", "--out", "x"], ["burn", "a"]], ids=" ".join
)
def test_wrong_command_line_is_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        jobs.main(argv)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_jobs_start_no_star_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"STARCORE_{name}_DIR", str(tmp_path / name))
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER", "STARCOMPUTE_CLIENT_KEY", "STARCOMPUTE_CLIENT_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert jobs.main([]) == 2
    assert capsys.readouterr().err.startswith("starcore jobs: no manager is configured")
