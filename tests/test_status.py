"""The status as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from starcore import status

WORKER = {"name": "node7", "address": "192.0.2.7:5", "python": "3.12", "slots": 8, "running": 3, "arena_bytes": 1}
CLIENT = {"name": "laptop", "address": "192.0.2.8:6", "queued": 2, "leased": 3}
JOB = {"function": "fit", "client": "laptop", "queued": 2, "leased": 3, "done": 4, "failed": 0, "mean_seconds": 1.23456}


def test_text_has_a_summary_and_a_table_for_whatever_there_is() -> None:
    text = status.render({"workers": [WORKER, WORKER], "clients": [CLIENT], "jobs": [JOB]})
    assert text.splitlines() == [
        "2 workers, 16 slots, 6 tasks on workers, 1 client",
        "",
        "WORKER  ADDRESS      PYTHON  SLOTS  RUNNING",
        "node7   192.0.2.7:5  3.12    8      3",
        "node7   192.0.2.7:5  3.12    8      3",
        "",
        "CLIENT  ADDRESS      QUEUED  LEASED",
        "laptop  192.0.2.8:6  2       3",
        "",
        "JOB  CLIENT  QUEUED  LEASED  DONE  FAILED  MEAN SECONDS",
        "fit  laptop  2       3       4     0       1.23",
    ]


def test_who_lost_its_connection_is_away_and_not_counted_among_those_connected() -> None:
    here, away = {"connected": True}, {"connected": False}
    text = status.render({"workers": [WORKER | here, WORKER | away], "clients": [CLIENT | away, CLIENT | here]})
    assert text.splitlines() == [
        "1 worker and 1 away, 8 slots, 6 tasks on workers, 1 client and 1 away",
        "",
        "WORKER  ADDRESS      PYTHON  SLOTS  RUNNING  STATE",
        "node7   192.0.2.7:5  3.12    8      3        connected",
        "node7   192.0.2.7:5  3.12    8      3        away",
        "",
        "CLIENT  ADDRESS      QUEUED  LEASED  STATE",
        "laptop  192.0.2.8:6  2       3       away",
        "laptop  192.0.2.8:6  2       3       connected",
    ]
    assert "STATE" not in status.render({"workers": [WORKER | here], "clients": [CLIENT | here]})


def test_star_whose_only_worker_is_away_says_what_it_lacks() -> None:
    lines = status.render({"workers": [WORKER | {"connected": False}]}).splitlines()
    assert lines[0] == "0 workers and 1 away, 0 slots, 3 tasks on workers, 0 clients"
    assert lines[-1].startswith("no worker is connected")


def test_journal_is_told_where_there_is_one_and_why_it_fails() -> None:
    journal = {"bytes": 9000, "records": 12, "fsync_ms": 0.5, "waiting": 0, "failure": ""}
    last = "journal: 9000 bytes, 12 records, last fsync 0.5 ms"
    assert status.render({"journal": journal}).splitlines()[-1] == last
    text = status.render({"journal": {**journal, "failure": "the manager's journal cannot be written: no space"}})
    assert text.splitlines()[-2:] == [last, "the manager's journal cannot be written: no space"]


def test_empty_star_says_what_it_lacks() -> None:
    assert status.render({"workers": [], "clients": [], "jobs": []}).splitlines() == [
        "0 workers, 0 slots, 0 tasks on workers, 0 clients",
        "no worker is connected: nothing runs until one is (python -m starcore.worker)",
    ]


def test_budget_of_the_manager_stands_below_the_summary() -> None:
    text = status.render({"workers": [], "memory_used_bytes": 70 << 20, "memory_bytes": 6 << 30})
    assert text.splitlines()[1] == "manager: 70 of 6144 MiB"


def test_column_that_a_manager_does_not_tell_is_left_out_and_a_missing_value_is_a_dash() -> None:
    text = status.render({"workers": [{"name": "a", "slots": 1, "running": 0}], "jobs": [JOB, {**JOB, "done": None}]})
    assert "WORKER  SLOTS  RUNNING" in text
    assert text.splitlines()[-1].split()[4] == "-"


def test_status_starts_no_star_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"STARCORE_{name}_DIR", str(tmp_path / name))
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER", "STARCOMPUTE_CLIENT_KEY", "STARCOMPUTE_CLIENT_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert status.main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("starcore status: no manager is configured")
    assert (said.err.count("\n"), said.out) == (1, "")


def test_names_that_would_rule_the_terminal_are_escaped() -> None:
    text = status.render({"clients": [CLIENT | {"name": "liar\n\x1b[2J"}]})
    assert "liar\\n\\x1b[2J" in text and "\x1b" not in text
