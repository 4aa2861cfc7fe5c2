"""Detached jobs from the shell: the table, what is refused. The file: client/test_npy.py; stars: integration/."""

from __future__ import annotations

import argparse
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from starcore import jobs
from starcore.errors import RemoteTraceback, UnreachableError

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


def test_job_that_waits_for_room_is_named_below_the_table() -> None:
    last = jobs.render([ROW, ROW | {"name": "b", "waits_for_room": True}]).splitlines()[-1]
    assert last.startswith("b: the manager has no room for more answers (--stored-memory, --spool): fetch or forget")


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


class Troubled:
    """A client, and its job, of which everything ends with this error."""

    slots = 1

    def __init__(self, error: Exception) -> None:
        self.error = error

    def job(self, name: str) -> Troubled:
        return self

    def jobs(self) -> list[Any]:
        raise self.error

    def save(self, *_: object, **__: object) -> None:
        raise self.error

    def status(self) -> dict[str, Any]:
        return ROW


class Kept(Troubled):
    """A job that is fetched, and cannot be forgotten."""

    def save(self, *_: object, **__: object) -> None:
        """It is written."""

    def forget(self) -> None:
        raise self.error


OPTIONS = {"name": "scan-7", "out": Path("x.npy"), "timeout": 60.0, "keep": False, "json": False}


def obey(error: Exception, command: str, name: str | None = None) -> int:
    options = argparse.Namespace(**{**OPTIONS, "command": command, "name": name})
    return jobs._obey(Troubled(error), options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, CancelledError, BrokenPipeError])
def test_error_of_the_function_is_told_as_a_failed_task_whatever_its_class(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("why")
    error.__cause__ = RemoteTraceback("Traceback")
    assert obey(error, "fetch", "scan-7") == 1
    said = f"starcore jobs: a task of scan-7 failed: {kind.__name__}: why; the job is still there\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "code", "complaint"),
    [
        (TimeoutError(), jobs.NOT_DONE, "scan-7 is not done yet: 2 of 4 tasks have ended"),
        (CancelledError(), 1, "scan-7 was cancelled"),
        (ModuleNotFoundError("no fits"), 1, "scan-7 cannot be fetched: ModuleNotFoundError: no fits; the job is still"),
    ],
)
def test_other_errors_of_a_fetch_are_no_failed_task(
    error: Exception, code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert obey(error, "fetch", "scan-7") == code
    said = capsys.readouterr().err
    assert complaint in said and "failed" not in said.split("tasks have ended")[0]
    assert said.count("\n") == 1


def test_file_that_was_fetched_is_not_denied_where_the_manager_does_not_answer_any_more() -> None:
    kept: Any = Kept(TimeoutError("the manager did not answer"))
    with pytest.raises(UnreachableError, match=r"scan-7 is written to x\.npy, .* did not answer; later: starcore jobs"):
        jobs._obey(kept, argparse.Namespace(**OPTIONS, command="fetch"))


def test_fetch_without_a_timeout_that_gets_no_answer_is_not_told_as_a_job_that_is_not_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = argparse.Namespace(**{**OPTIONS, "command": "fetch", "timeout": None})
    assert jobs._obey(Troubled(TimeoutError()), options) == 5  # type: ignore[arg-type]
    assert "the manager is there, but does not answer" in capsys.readouterr().err


def test_error_of_a_list_is_no_failed_task_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a fault of ours"):
        obey(ValueError("a fault of ours"), "list")
    assert obey(TimeoutError(), "list") == 5
    assert capsys.readouterr().err == "starcore jobs: the manager is there, but does not answer: look at its log\n"
