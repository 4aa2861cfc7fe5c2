"""Every benchmark in one run, and one table: `python -m benchmarks [--quick]`.

The star, the limit and the rivals of one measure take turns in the same minutes; see benchmarks/harness.py. A full
run takes several minutes and appends its rows to benchmarks/results/. A quick one takes about a minute, is for a
look, and records nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import arrays, latency, manager_memory, small_tasks
from benchmarks.harness import Row, commit, figure, machine, record, table

BENCHMARKS: dict[str, Callable[..., list[Row]]] = {
    arrays.BENCHMARK: arrays.run,
    small_tasks.BENCHMARK: small_tasks.run,
    latency.BENCHMARK: latency.run,
    manager_memory.BENCHMARK: manager_memory.run,
}
CONTENDERS = ("star", "limit", "dask", "pool")


@dataclass(frozen=True, slots=True)
class Target:
    """What the star has promised for one measure."""

    text: str
    met: Callable[[Row], bool]


TARGETS = {
    "64 MiB arrays, 1 in flight": Target(">= 0.6 of limit", lambda row: row.ratio is not None and row.ratio >= 0.6),
    "small tasks by submit": Target(">= 10,000 tasks/s", lambda row: row.value >= 10_000),
    "round trip, median": Target("< 1 ms", lambda row: row.value < 1_000),
}


def verdicts(made: Sequence[Row]) -> dict[str, bool | None]:
    """Say for each measure with a target whether the star met it; None where it cannot be said."""
    stars = {row.measure: row for row in made if row.contender == "star"}
    limits = {row.measure for row in made if row.contender == "limit"}
    return {
        measure: target.met(stars[measure])
        if measure in stars and ("limit" not in target.text or measure in limits)
        else None
        for measure, target in TARGETS.items()
    }


def cell(row: Row | None) -> str:
    """The median and half the range in percent of it."""
    if row is None:
        return "-"
    spread = (row.high - row.low) / 2 / row.value if row.value else 0.0
    return figure(row.value) + (f" ±{spread:.0%}" if row.rounds > 1 else "")


def cpu_lines(own: dict[str, Row]) -> list[list[str]]:
    """One line a role: its CPU seconds in every contender that has the role."""
    roles = dict.fromkeys(role for row in own.values() for role in row.cpu)
    per = next((row.cpu_per for row in own.values() if row.cpu_per), "")
    return [
        [
            f"    CPU of the {role} ({per})",
            *(figure(own[name].cpu[role]) if name in own and role in own[name].cpu else "-" for name in CONTENDERS),
            *("", "", ""),
        ]
        for role in roles
    ]


def summary(made: Sequence[Row]) -> str:
    """A line a measure: what everyone made of it, the star's ratio to the limit, the target, met or not; then CPU."""
    by_measure: dict[str, dict[str, Row]] = {}
    for row in made:
        by_measure.setdefault(row.measure, {})[row.contender] = row
    met = verdicts(made)
    words = {True: "met", False: "NOT MET", None: "not said"}
    lines = []
    for measure, own in by_measure.items():
        star = own.get("star")
        lines.append(
            [
                f"{measure} ({next(iter(own.values())).unit})",
                *(cell(own.get(name)) for name in CONTENDERS),
                "-" if star is None or star.ratio is None else f"{star.ratio:.2f}",
                TARGETS[measure].text if measure in TARGETS else "",
                words[met[measure]] if measure in TARGETS else "",
            ]
        )
        lines += cpu_lines(own)
    return table(["measure", *CONTENDERS, "star/limit", "target", ""], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the table; the exit code is 1 if the star missed a target of a full run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"some of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small inputs, few rounds; nothing is recorded")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="the contenders, with commas (%(default)s)")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results/")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    unknown = [name for name in options.benchmarks if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    made: list[Row] = []
    for name in options.benchmarks or BENCHMARKS:
        print(f"... {name}", file=sys.stderr, flush=True)
        made += BENCHMARKS[name](quick=options.quick, names=options.only.split(","))
    if not (options.quick or options.no_record):
        record(made, " ".join(["python -m benchmarks", *given]))
    where = machine()
    print(f"\n{where['cpu']}, {where['cores']} cores, {where['system']}, Python {where['python']}, {where['openssl']}")
    print(f"commit {commit()}; medians ± half the range of rounds in which all took turns\n")
    print(summary(made))
    missed = False in verdicts(made).values()
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
