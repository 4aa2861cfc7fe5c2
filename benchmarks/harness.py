"""What all benchmarks share: rounds, rows, CPU accounts, the machine's description, the file of results, a table.

A *contender* is the star, the limit or a rival, with the whole of its processes running. Contenders of one run
live at the same time and take turns, round by round, forwards and backwards, so that a drift of the machine meets
all of them alike. A row is one contender's median over the rounds, with its range, and, where the limit ran too,
the median of the ratios to the limit of the same round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from benchmarks.tasks import Array

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


class Contender(Protocol):
    """One way to have functions run elsewhere; some can do only a part of this."""

    name: str

    def pids(self) -> dict[str, list[int]]:
        """Give the processes other than this one, by role: manager, worker."""
        ...

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        """`plus_one` of each, with at most `depth` in flight."""
        ...

    def submit(self, values: Sequence[Any]) -> list[Any]:
        """`nothing` of each, submitted one by one, then gathered."""
        ...

    def map(self, values: Sequence[Any]) -> list[Any]:
        """`nothing` of each by the batch call."""
        ...

    def round_trip(self, value: Any) -> Any:
        """`nothing` of one value, waited for."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's one round: what was measured, and the CPU seconds of each role meanwhile."""

    value: float
    cpu: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender made of one measure."""

    benchmark: str
    measure: str
    contender: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None
    """Median over the rounds of this value to the limit's in the same round."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Median CPU seconds of each role, per `cpu_per`."""
    cpu_per: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


# -- CPU ---------------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, without its children; 0 when it has gone."""
    try:
        if pid == os.getpid():
            return time.process_time()
        if sys.platform == "linux":
            # clock_getcpuclockid(3): nanoseconds, where /proc and psutil count ticks of 10 ms.
            return time.clock_gettime((~pid << 3) | 2)
        times = psutil.Process(pid).cpu_times()
    except (OSError, psutil.Error):
        return 0.0
    return float(times.user + times.system)


def family(pids: dict[str, list[int]]) -> dict[str, list[int]]:
    """Add to each role the descendants of its processes (a worker's slots), once each, and this process as client."""
    whole: dict[str, list[int]] = {"client": [os.getpid()]}
    for role, members in pids.items():
        found = list(members)
        for pid in members:
            try:
                found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
            except psutil.Error:
                continue
        whole[role] = list(dict.fromkeys(found))
    return whole


def measured(contender: Contender, work: Callable[[], Any], amount: float) -> tuple[float, dict[str, float], Any]:
    """Do the work: seconds, the CPU seconds of each role per `amount`, and what the work gave."""
    members = family(contender.pids())
    before = {role: sum(map(cpu_seconds, pids)) for role, pids in members.items()}
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    spent = {role: sum(map(cpu_seconds, pids)) - before[role] for role, pids in members.items()}
    return seconds, {role: cpu / amount for role, cpu in spent.items()}, answer


# -- rounds and rows -----------------------------------------------------------------------------------------------


def rounds(
    contenders: Sequence[Contender], measure: Callable[[Contender], Sample], count: int
) -> dict[str, list[Sample]]:
    """Let each contender warm up, then take `count` turns, every second round in the opposite order."""
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        measure(contender)
    for number in range(count):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            samples[contender.name].append(measure(contender))
    return samples


def rows(
    samples: dict[str, list[Sample]],
    *,
    benchmark: str,
    measure: str,
    unit: str,
    cpu_per: str = "",
    parameters: dict[str, Any] | None = None,
) -> list[Row]:
    """One row a contender: the median of its rounds, their range, and the ratio to the limit, round by round."""
    made = []
    for name, own in samples.items():
        values = [sample.value for sample in own]
        limits = [sample.value for sample in samples.get("limit", ())]
        ratio = statistics.median(v / lim for v, lim in zip(values, limits, strict=True)) if limits else None
        cpu = {role: statistics.median(sample.cpu[role] for sample in own) for role in own[0].cpu}
        made.append(
            Row(
                benchmark=benchmark,
                measure=measure,
                contender=name,
                unit=unit,
                value=statistics.median(values),
                low=min(values),
                high=max(values),
                rounds=len(values),
                ratio=ratio,
                cpu=cpu,
                cpu_per=cpu_per if cpu else "",
                parameters=parameters or {},
            )
        )
    return made


# -- contenders ----------------------------------------------------------------------------------------------------


MAKERS = {
    "star": ("benchmarks.star", "Star"),
    "limit": ("benchmarks.limit", "LimitStar"),
    "dask": ("benchmarks.rivals.dask_star", "DaskStar"),
    "pool": ("benchmarks.rivals.pool", "Pool"),
}
"""Loaded only when asked for: a rival that is not installed is left out."""
OPTIONAL = frozenset({"distributed"})


def child_environment(**more: str) -> dict[str, str]:
    """Give this process's environment to one that is to find the benchmarks, with one BLAS thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | more


@contextmanager
def contenders(names: Sequence[str], *, workers: int) -> Iterator[list[Contender]]:
    """Start those that are asked for and installed; say which are not."""
    with ExitStack() as stack:
        made = []
        for name in names:
            try:
                module, maker = MAKERS[name]
                made.append(stack.enter_context(getattr(import_module(module), maker)(workers=workers)))
            except ModuleNotFoundError as error:
                if error.name not in OPTIONAL:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
        yield made


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


def record(made: Sequence[Row], command: str, directory: Path = RESULTS) -> None:
    """Append each row, as a line of JSON, to the file of its benchmark."""
    directory.mkdir(parents=True, exist_ok=True)
    where = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command,
        "machine": machine(),
    }
    for row in made:
        with (directory / f"{row.benchmark}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row) | where) + "\n")


# -- on the screen ---------------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]

    def lay(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    return "\n".join([lay(heads), "  ".join("-" * width for width in widths), *map(lay, lines)])


def rows_table(made: Sequence[Row]) -> str:
    """Every row with its range, its ratio and its CPU."""
    lines = [
        [
            row.measure,
            row.contender,
            f"{figure(row.value)} {row.unit}",
            f"{figure(row.low)} to {figure(row.high)}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            ", ".join(f"{role} {figure(cpu)}" for role, cpu in row.cpu.items()) + f" {row.cpu_per}",
        ]
        for row in made
    ]
    return table(["measure", "contender", "median", "range", "of limit", "CPU"], lines)


def command_line(
    module: str,
    run: Callable[..., list[Row]],
    *,
    names: Sequence[str] = ("star", "limit", "dask", "pool"),
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one benchmark as a program: options, run, record, table."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=sys.modules[run.__module__].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small inputs, few rounds; nothing is recorded")
    parser.add_argument("--only", default=",".join(names), help="the contenders, with commas (default: %(default)s)")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results/")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    made = run(quick=options.quick, names=options.only.split(","))
    if not (options.quick or options.no_record):
        record(made, " ".join([f"python -m {module}", *given]))
    print(rows_table(made))
    return 0
