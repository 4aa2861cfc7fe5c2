"""Where rows go: the files of results, the table on the screen, the table of the README.

Every figure in the documentation comes from a line of benchmarks/results/; the tables of README.md and
docs/PERFORMANCE.md are written by `python -m benchmarks --readme` from the latest whole run there, and a test compares
them.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import CONTENDERS, ROOT, Ratio, Row, left_out
from benchmarks.targets import TARGETS, Target

RESULTS = Path(__file__).resolve().parent / "results"
WHOLE_RUN = "python -m benchmarks"
"""The command of the runs that the README shows."""
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "PERFORMANCE.md"
MARKS = ("<!-- benchmarks: written by python -m benchmarks --readme -->", "<!-- end of benchmarks -->")
TITLES = {
    "star": "StarCore",
    "limit": "the limit",
    "dask": "dask.distributed",
    "pool": "ProcessPool",
    "loky": "loky",
    "scaler": "opengris-scaler",
    "ray": "Ray",
}
ROLES = ("client", "manager", "worker")
VERDICTS = {True: "met", False: "NOT MET", None: "not said"}


# -- where, when, what -----------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe the machine, without its name: what a figure needs to be compared with another one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = models[0] if models else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "openssl": ssl.OPENSSL_VERSION,
        "load": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit measured, with a + where the package or the benchmarks differ from it."""

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "starcore", "setup.py", "benchmarks", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# -- the files -------------------------------------------------------------------------------------------------------


def record(made: Sequence[Row], command: str, directory: Path = RESULTS) -> None:
    """Append each row, as a line of JSON, to the file of its benchmark."""
    directory.mkdir(parents=True, exist_ok=True)
    where = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "machine": machine(),
        "left_out": dict(left_out),
    }
    for row in made:
        with (directory / f"{row.benchmark}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row) | where) + "\n")


def latest_run(directory: Path = RESULTS, benchmark: str = "") -> tuple[list[Row], dict[str, Any]]:
    """The rows of the latest whole run, and when, where and at which commit it was; nothing where there is none.

    A whole run is what each benchmark last found at the newest commit that had one.

    With a `benchmark`, the latest rows of it alone, whatever command took them.
    """
    runs: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for line in _lines(directory):
        if "left_out" in line and (line["benchmark"] == benchmark if benchmark else line["command"] == WHOLE_RUN):
            # What each benchmark finds is recorded at once: a run has as many times as benchmarks.
            one = (line["commit"], line["benchmark"])
            runs.setdefault(one, {}).setdefault(line["time"], []).append(line)
    if not runs:
        return [], {}
    newest = max(runs, key=lambda one: max(runs[one]))[0]
    lines = [line for (made, _), times in runs.items() if made == newest for line in times[max(times)]]
    return [_row(line) for line in lines], lines[0]


def _lines(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _row(line: dict[str, Any]) -> Row:
    own = {field.name: line[field.name] for field in fields(Row)}
    return Row(**own | {"ratios": {name: Ratio(**ratio) for name, ratio in line["ratios"].items()}})


# -- words and figures -----------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(row: Row | None) -> str:
    """The median."""
    return "" if row is None else figure(row.value)


def promise(target: Target, unit: str) -> str:
    """A target in a few characters."""
    sign = "≥" if target.more_is_better else "≤"
    return f"{sign} {figure(target.figure)} " + (f"of {target.of}" if target.of else unit)


def result(target: Target | None, own: dict[str, Row]) -> str:
    """The figure that a target is about, with its interval; without one, the ratio to the limit where it ran."""
    star = own.get("star")
    if star is None:
        return ""
    of = target.of if target else "limit" * ("limit" in star.ratios)
    if not of:
        return f"{figure(star.value)} [{figure(star.low)}, {figure(star.high)}]"
    if of not in star.ratios:
        return ""
    ratio = star.ratios[of]
    return f"{figure(ratio.median)} [{figure(ratio.low)}, {figure(ratio.high)}] of {of}"


# -- the table -------------------------------------------------------------------------------------------------------


def by_measure(made: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows by measure and contender: the measures with targets in the order of these, then the others."""
    found: dict[str, dict[str, Row]] = {}
    for row in made:
        found.setdefault(row.measure, {})[row.contender] = row
    promised = [target.measure for target in TARGETS if target.measure in found]
    return {measure: found[measure] for measure in dict.fromkeys([*promised, *found])}


def summary_lines(made: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """A line a measure and target: everyone's median, the figure that counts, the target, met or not."""
    lines = []
    for measure, own in by_measure(made).items():
        unit = next(iter(own.values())).unit
        promised = [target for target in TARGETS if target.measure == measure]
        first = [f"{measure} ({unit})", *(cell(own.get(name)) for name in names)]
        if not promised:
            lines.append([*first, result(None, own), "", ""])
        for target in promised:
            lines.append([*first, result(target, own), promise(target, unit), VERDICTS[target.met(made)]])
            first = ["", *("" for _ in names)]
    return lines


def shown(made: Sequence[Row]) -> list[str]:
    """The contenders that have a row, in the usual order."""
    return [name for name in CONTENDERS if any(row.contender == name for row in made)]


def summary(made: Sequence[Row]) -> str:
    """The one table of a run."""
    names = shown(made)
    return table(["measure", *names, "result", "target", ""], summary_lines(made, names))


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]

    def lay(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    return "\n".join([lay(heads), "  ".join("-" * width for width in widths), *map(lay, lines)])


def rows_table(made: Sequence[Row]) -> str:
    """Every row with its interval, the star's ratios, and its CPU."""
    lines = [
        [
            row.measure,
            row.contender,
            f"{figure(row.value)} {row.unit}",
            f"{figure(row.low)} to {figure(row.high)}",
            ", ".join(f"{figure(ratio.median)} of {name}" for name, ratio in row.ratios.items()),
            ", ".join(f"{role} {figure(cpu)}" for role, cpu in row.cpu.items()) + f" {row.cpu_per}",
        ]
        for row in made
    ]
    return table(["measure", "contender", "median", "interval", "ratios", "CPU"], lines)


def answer_lines(made: Sequence[Row]) -> list[str]:
    """A line a measure: the hashes of the answers, and who gave them."""
    lines = []
    for measure, own in by_measure(made).items():
        givers: dict[str, list[str]] = {}
        for name, row in own.items():
            if row.answers:
                givers.setdefault(row.answers, []).append(name)
        if givers:
            said = "; ".join(f"{hashed} from {', '.join(names)}" for hashed, names in givers.items())
            lines.append(f"{measure}: {said}")
    return lines


# -- the documents ---------------------------------------------------------------------------------------------------


def readme_table(run: Sequence[Row], where: dict[str, Any]) -> str:
    """What has targets in a run, as a table in Markdown, with what was measured when and where."""
    made = [row for row in run if any(target.measure == row.measure for target in TARGETS)]
    names = shown(made)
    heads = ["", *(TITLES[name] for name in names), "result", "target", ""]
    about = where["machine"]
    openssl = " ".join(about["openssl"].split()[:2])
    words = [
        f"`{where['command']}` at commit {where['commit']}, {where['time'][:10]}: {about['cpu']}, "
        f"{about['cores']} cores, {about['system']}, Python {about['python']}, {openssl}.",
        *(f"{TITLES[name]} is not in it: {reason}." for name, reason in where["left_out"].items()),
    ]
    return "\n".join([_markdown(heads, summary_lines(made, names)), "", *words])


def cpu_table(made: Sequence[Row], where: dict[str, Any]) -> str:
    """The CPU of each role in a run, of the star and of the limit, as a table in Markdown."""
    lines = [
        [
            row.measure,
            TITLES[row.contender],
            *(figure(row.cpu[role]) if role in row.cpu else "" for role in ROLES),
            figure(sum(row.cpu.values())),
            row.cpu_per,
        ]
        for row in made
        if row.cpu and row.contender in {"star", "limit"}
    ]
    return "\n".join([_markdown(["", "", *ROLES, "all", "in"], lines), "", f"Commit {where['commit']}."])


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 2), "---"]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *lines])


DOCUMENTS: dict[Path, Callable[[Sequence[Row], dict[str, Any]], str]] = {README: readme_table, PERFORMANCE: cpu_table}


def with_table(
    text: str, lay: Callable[[Sequence[Row], dict[str, Any]], str] = readme_table, directory: Path = RESULTS
) -> str:
    """A document with the latest whole run's table between the marks; as it is where nothing is recorded."""
    made, where = latest_run(directory)
    if not made:
        return text
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{lay(made, where)}\n\n{MARKS[1]}{after}"
