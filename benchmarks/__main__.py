"""Every benchmark in one run, and one table: `python -m benchmarks [--quick]`.

A benchmark is a file of this package that asks one question: it names itself in BENCHMARK, its measures in
MEASURES, and answers with `run(quick=..., names=...)`, a list of rows. What the rows have to reach stands in
targets.py. A whole run takes many minutes and appends its rows to benchmarks/results/; a quick one takes at most
two, is for a look, and records nothing.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import benchmarks
from benchmarks import plot
from benchmarks.harness import CONTENDERS, Row, left_out
from benchmarks.report import (
    DOCUMENTS,
    WHOLE_RUN,
    answer_lines,
    commit,
    machine,
    record,
    rows_table,
    summary,
    with_table,
)
from benchmarks.targets import TARGETS

QUICK_CONTENDERS = ("star", "limit", "dask", "pool", "loky")
"""The other rivals take longer to start than a quick look may last."""


def found() -> dict[str, ModuleType]:
    """The benchmarks there are, in the order of their targets."""
    names = [info.name for info in pkgutil.iter_modules(benchmarks.__path__) if info.name != "__main__"]
    modules = [import_module(f"benchmarks.{name}") for name in names]
    named = {module.BENCHMARK: module for module in modules if hasattr(module, "BENCHMARK")}
    order = dict.fromkeys([*(target.benchmark for target in TARGETS if target.benchmark in named), *named])
    return {name: named[name] for name in order}


def verdicts(made: Sequence[Row]) -> list[bool | None]:
    """Whether each target whose measure was taken is met; None where it cannot be said."""
    taken = {row.measure for row in made}
    return [target.met(made) for target in TARGETS if target.measure in taken]


def run_all(
    asked: dict[str, ModuleType], *, quick: bool, names: Sequence[str], keep: Callable[[Sequence[Row]], object]
) -> list[Row]:
    """Run benchmark after benchmark, saying how long each took; what one found is kept before the next may fail."""
    made: list[Row] = []
    for name, module in asked.items():
        print(f"... {name}", end="", file=sys.stderr, flush=True)
        start = time.monotonic()
        rows = module.run(quick=quick, names=names)
        keep(rows)
        made += rows
        print(f" {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the table; the exit code is 1 if the star missed a target of a whole run."""
    modules = found()
    parser = argparse.ArgumentParser(prog=WHOLE_RUN, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"some of {', '.join(modules)}")
    parser.add_argument("--quick", action="store_true", help="small inputs, few rounds; nothing is recorded")
    parser.add_argument("--only", help=f"the contenders, with commas (default: {','.join(CONTENDERS)})")
    parser.add_argument("--rows", action="store_true", help="show every row with its interval and CPU by role")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results/")
    parser.add_argument(
        "--readme", action="store_true", help="write the latest whole run's tables and picture into the documents"
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.readme:
        for path, lay in DOCUMENTS.items():
            path.write_text(with_table(path.read_text(encoding="utf-8"), lay), encoding="utf-8")
        return plot.main()
    unknown = [name for name in options.benchmarks if name not in modules]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(modules)}")
    asked = {name: modules[name] for name in options.benchmarks or modules}
    names = options.only.split(",") if options.only else QUICK_CONTENDERS if options.quick else CONTENDERS

    def keep(rows: Sequence[Row]) -> None:
        if not (options.quick or options.no_record):
            record(rows, " ".join([WHOLE_RUN, *given]))

    made = run_all(asked, quick=options.quick, names=names, keep=keep)
    show(made, rows_table if options.rows else summary)
    return 1 if False in verdicts(made) and not options.quick else 0


def show(made: Sequence[Row], lay: Callable[[Sequence[Row]], str]) -> None:
    """Print where it was measured, the table, who is not in it, and the hashes of the answers."""
    where = machine()
    print(f"\n{where['cpu']}, {where['cores']} cores, {where['system']}, Python {where['python']}, {where['openssl']}")
    print(f"commit {commit()}; medians of rounds in which all took turns [90 % interval of the median]\n")
    print(lay(made))
    for name, reason in left_out.items():
        print(f"\n{name} is not in it: {reason}")
    print("\nhashes of the answers, which were checked:", *answer_lines(made), sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
