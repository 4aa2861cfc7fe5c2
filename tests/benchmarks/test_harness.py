"""The harness: turns, rows, CPU accounts, the file of results and the table."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness import (
    Row,
    Sample,
    commit,
    contenders,
    cpu_seconds,
    family,
    figure,
    machine,
    measured,
    record,
    rounds,
    rows,
    rows_table,
    table,
)


def named(name: str) -> Any:
    return SimpleNamespace(name=name, pids=dict)


def test_contenders_take_turns_forwards_and_backwards_after_a_warm_up() -> None:
    turns: list[str] = []

    def measure(contender: Any) -> Sample:
        turns.append(contender.name)
        return Sample(float(len(turns)))

    samples = rounds([named("a"), named("b")], measure, 2)
    assert turns == ["a", "b", "a", "b", "b", "a"]
    assert [sample.value for sample in samples["a"]] == [3.0, 6.0]


def test_a_row_is_the_median_with_its_range_and_the_ratio_round_by_round() -> None:
    samples = {
        "star": [Sample(6.0, {"client": 1.0}), Sample(16.0, {"client": 3.0}), Sample(10.0, {"client": 2.0})],
        "limit": [Sample(10.0), Sample(20.0), Sample(40.0)],
    }
    star, limit = rows(samples, benchmark="b", measure="m", unit="MB/s", cpu_per="s/GB")
    assert (star.value, star.low, star.high, star.rounds) == (10.0, 6.0, 16.0, 3)
    assert star.ratio == pytest.approx(0.6)
    assert star.cpu == {"client": 2.0}
    assert star.cpu_per == "s/GB"
    assert limit.ratio == 1.0
    assert limit.cpu_per == ""


def test_no_limit_no_ratio() -> None:
    (row,) = rows({"star": [Sample(1.0)]}, benchmark="b", measure="m", unit="s")
    assert row.ratio is None


def test_cpu_of_another_process_is_seen_and_a_gone_one_costs_nothing() -> None:
    program = "x = sum(range(2_000_000)); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds(child.pid) > 0.005
        assert {os.getpid(), child.pid} <= set(family({"worker": [os.getpid()]})["worker"])
        child.stdin.close()
    assert cpu_seconds(child.pid) == 0.0


def test_measured_work_is_charged_to_the_client_that_did_it() -> None:
    seconds, cpu, answer = measured(named("a"), lambda: sum(range(1_000_000)), 2.0)
    assert answer == sum(range(1_000_000))
    assert 0 < cpu["client"] <= seconds


def test_results_are_lines_of_json_with_machine_commit_and_command(tmp_path: Path) -> None:
    made = rows({"star": [Sample(1.0)]}, benchmark="arrays", measure="m", unit="MB/s", parameters={"depth": 1})
    record(made, "python -m benchmarks.arrays", tmp_path)
    record(made, "python -m benchmarks.arrays", tmp_path)
    first, second = map(json.loads, (tmp_path / "arrays.jsonl").read_text().splitlines())
    assert first["contender"] == second["contender"] == "star"
    assert first["command"] == "python -m benchmarks.arrays"
    assert first["commit"] == commit()
    assert first["parameters"] == {"depth": 1}
    assert {"cpu", "cores", "memory_gib", "system", "python", "openssl"} <= first["machine"].keys()


def test_results_do_not_name_the_machine() -> None:
    assert socket.gethostname() not in machine().values()


def test_figures_have_three_digits() -> None:
    assert [figure(value) for value in (0.12345, 12.345, 1234.5, 1234567.0)] == ["0.123", "12.3", "1,234", "1,234,567"]


def test_a_table_is_laid_out_in_columns() -> None:
    lines = table(["a", "b"], [["long", "1"], ["x", "22"]]).splitlines()
    assert lines == ["a      b", "----  --", "long   1", "x     22"]


def test_the_table_of_rows_shows_value_range_ratio_and_cpu() -> None:
    row = Row("arrays", "1 MiB", "star", "MB/s", 150.0, 100.0, 200.0, 3, 0.75, {"client": 1.5}, "s/GB")
    line = rows_table([row]).splitlines()[-1]
    for part in ("150 MB/s", "100 to 200", "0.75", "client 1.5 s/GB"):
        assert part in line


def test_a_contender_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with contenders(["dask"], workers=1) as running:
        assert running == []
    assert "dask is left out" in capsys.readouterr().err
