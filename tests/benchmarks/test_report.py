"""The files of results, the table on the screen, and the README's table, which is that of the latest whole run."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from benchmarks.harness import Row, Sample, rows
from benchmarks.report import (
    DOCUMENTS,
    MARKS,
    WHOLE_RUN,
    answer_lines,
    commit,
    cpu_table,
    figure,
    latest_run,
    machine,
    record,
    rows_table,
    summary,
    table,
    with_table,
)
from benchmarks.targets import TARGETS

ARRAYS = TARGETS[0].measure


def made(measure: str = ARRAYS, unit: str = "MB/s", **values: float) -> list[Row]:
    samples = {name: [Sample(value, {"client": 1.5}, "abc")] for name, value in values.items()}
    return rows(samples, benchmark="arrays", measure=measure, unit=unit, cpu_per="s/GB", parameters={"depth": 1})


def test_results_are_lines_of_json_with_machine_commit_and_command(tmp_path: Path) -> None:
    record(made(star=1.0), "python -m benchmarks arrays", tmp_path)
    record(made(star=1.0), "python -m benchmarks arrays", tmp_path)
    first, second = map(json.loads, (tmp_path / "arrays.jsonl").read_text().splitlines())
    assert first["contender"] == second["contender"] == "star"
    assert first["command"] == "python -m benchmarks arrays"
    assert first["commit"] == commit()
    assert first["parameters"] == {"depth": 1}
    assert {"cpu", "cores", "memory_gib", "system", "python", "openssl"} <= first["machine"].keys()


def test_the_latest_whole_run_comes_back_as_it_was(tmp_path: Path) -> None:
    whole = made(star=1.0, limit=2.0)
    record(whole, WHOLE_RUN, tmp_path)
    record(made(star=3.0), f"{WHOLE_RUN} arrays", tmp_path)
    back, where = latest_run(tmp_path)
    assert back == whole
    assert where["command"] == WHOLE_RUN


def test_a_whole_run_has_a_time_for_each_of_its_benchmarks(tmp_path: Path) -> None:
    def at(hour: int, commit: str, benchmark: str, value: float) -> list[Row]:
        sample = {"star": [Sample(value, {}, "")]}
        found = rows(sample, benchmark=benchmark, measure=benchmark, unit="s", cpu_per="", parameters={})
        record(found, WHOLE_RUN, tmp_path)
        path = tmp_path / f"{benchmark}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1] |= {"time": f"2026-01-01T{hour:02}:00:00+00:00", "commit": commit}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return found

    at(1, "old", "arrays", 1.0)
    at(2, "old", "gone", 2.0)
    at(3, "new", "arrays", 3.0)
    arrays = at(4, "new", "arrays", 4.0)
    sizes = at(5, "new", "sizes", 5.0)
    back, where = latest_run(tmp_path)
    assert back == arrays + sizes
    assert where["commit"] == "new"


def test_without_a_whole_run_the_readme_stays_as_it_is(tmp_path: Path) -> None:
    assert latest_run(tmp_path) == ([], {})
    assert with_table("before", directory=tmp_path) == "before"


def test_results_do_not_name_the_machine() -> None:
    assert socket.gethostname() not in machine().values()


def test_figures_have_three_digits() -> None:
    assert [figure(value) for value in (0.12345, 12.345, 1234.5, 1234567.0)] == ["0.123", "12.3", "1,234", "1,234,567"]


def test_a_table_is_laid_out_in_columns() -> None:
    lines = table(["a", "b"], [["long", "1"], ["x", "22"]]).splitlines()
    assert lines == ["a      b", "----  --", "long   1", "x     22"]


def test_the_table_has_a_line_a_measure_and_target_in_the_order_of_the_targets() -> None:
    lines = summary(made("memory", "MiB", star=40.0) + made(star=100.0, limit=200.0, dask=50.0)).splitlines()
    head, _, arrays, memory = lines
    assert head.split() == ["measure", "star", "limit", "dask", "result", "target"]
    assert arrays.partition("(MB/s)")[2].split()[:3] == ["100", "200", "50"]
    assert arrays.endswith("0.5 [0.5, 0.5] of limit  ≥ 0.95 of limit  NOT MET")
    assert memory.partition("(MiB)")[2].split() == ["40", "40", "[40,", "40]"]


def test_a_measure_with_two_promises_has_two_lines() -> None:
    lines = summary(made("small tasks by submit", "tasks/s", star=200_000.0, dask=500.0)).splitlines()[2:]
    assert [line.rpartition("  ")[2] for line in lines] == ["met", "met", "not said"]
    assert lines[1].strip().startswith("400 [400, 400] of dask")


def test_the_table_of_rows_shows_value_interval_ratios_and_cpu() -> None:
    line = rows_table(made(star=150.0, limit=200.0)).splitlines()[2]
    for part in ("150 MB/s", "150 to 150", "0.75 of limit", "client 1.5 s/GB"):
        assert part in line


def test_hashes_of_answers_name_who_gave_them() -> None:
    assert answer_lines(made(star=1.0, limit=2.0)) == [f"{ARRAYS}: abc from star, limit"]


def test_the_readme_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    record(made(star=100.0, limit=200.0), WHOLE_RUN, tmp_path)
    text = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter"
    new = with_table(text, directory=tmp_path)
    assert new.startswith(f"before\n{MARKS[0]}")
    assert new.endswith(f"{MARKS[1]}\nafter")
    assert f"| {ARRAYS} (MB/s) | 100 | 200 | 0.5 [0.5, 0.5] of limit | ≥ 0.95 of limit | NOT MET |" in new
    assert "old" not in new
    assert with_table(new, directory=tmp_path) == new


def test_the_table_of_cpu_has_a_line_each_for_star_and_limit(tmp_path: Path) -> None:
    record(made(star=100.0, limit=200.0, dask=1.0), WHOLE_RUN, tmp_path)
    lines = cpu_table(*latest_run(tmp_path)).splitlines()
    assert lines[0] == "|  |  | client | manager | worker | all | in |"
    assert lines[2] == f"| {ARRAYS} | StarCore | 1.5 |  |  | 1.5 | s/GB |"
    assert len([line for line in lines if ARRAYS in line]) == 2


def test_rows_of_one_benchmark_are_the_latest_whatever_command_took_them(tmp_path: Path) -> None:
    record(made(star=1.0), f"{WHOLE_RUN} arrays", tmp_path)
    assert latest_run(tmp_path, "arrays")[0] == made(star=1.0)
    assert latest_run(tmp_path, "sizes") == ([], {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_agree_with_the_results(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert with_table(text, DOCUMENTS[path]) == text, "write it anew: python -m benchmarks --readme"
