"""How long one waits at the beginning: for the import, for a star of one's own, for a worker that joins.

*import*: in a fresh interpreter, which must not have loaded numpy afterwards. *The first result*: in a fresh
interpreter, from before the import to the answer of a first small task, everything that is started on the way
included; a rival starts what it starts in benchmarks/rivals/. *Ready*: from the start of a worker's process, which
joins a star that runs, to the moment a client of that star has heard of its slot. Bytecode is cached, as it is for
everybody who starts anything twice: each first round is a warm-up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import starcore
from benchmarks.harness import CONTENDERS, MAKERS, RIVALS, ROOT, Row, Sample, digest, leave_out, rows

BENCHMARK = "start"
IMPORT, FIRST, READY = "import starcore", "start to the first result", "worker start to ready"
MEASURES = (IMPORT, FIRST, READY)
ROUNDS, ROUNDS_QUICK = 5, 1
CHILD_SECONDS_MAX = 120
NAMES = {"star": "starcore", "dask": "distributed", "loky": "loky", "scaler": "scaler", "ray": "ray"}
"""What is imported; the pool is a part of Python."""

IMPORT_PROGRAM = """
import sys, time
start = time.perf_counter()
import {name}
print((time.perf_counter() - start) * 1e3)
assert {name!r} != "starcore" or "numpy" not in sys.modules, "numpy was imported"
"""
STAR_PROGRAM = """
import time
start = time.perf_counter()
import starcore
with starcore.LocalStar(workers=1, slots=1) as star, star.client(wait=False) as client:
    assert client.submit(abs, -7).result() == 7
    print(time.perf_counter() - start)
"""
RIVAL_PROGRAM = """
import time
from importlib import import_module
if __name__ == "__main__":
    start = time.perf_counter()
    with getattr(import_module({module!r}), {maker!r})(workers=1) as rival:
        assert rival.round_trip(7) == 7
        print(time.perf_counter() - start)
"""


def ask(program: str) -> float:
    """Run a program in a fresh interpreter, and return the figure that it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=CHILD_SECONDS_MAX, check=False
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}")
    return float(ran.stdout.split()[-1])


def first_result_program(name: str) -> str:
    """What a fresh interpreter runs to have a first result."""
    if name == "star":
        return STAR_PROGRAM
    module, maker = MAKERS[name]
    return RIVAL_PROGRAM.format(module=module, maker=maker)


def ready_seconds() -> float:
    """Start a worker beside the one of a running star, and wait for its slot."""
    with starcore.LocalStar(workers=1, slots=1) as star, star.client() as client:
        start = time.perf_counter()
        star.start_worker()
        while client.slots < 2:
            time.sleep(0.001)
        seconds = time.perf_counter() - start
        assert client.submit(abs, -7).result() == 7, "a wrong answer"
        return seconds


def take_turns(questions: dict[str, Callable[[], float]], count: int) -> dict[str, list[Sample]]:
    """Ask each in turn, after a warm-up; a rival that fails is left out."""
    samples: dict[str, list[Sample]] = {name: [] for name in questions}
    for number in range(-1, count):
        for name in list(samples):
            try:
                sample = Sample(questions[name](), {}, digest(7))
            except Exception as error:
                if name not in RIVALS:
                    raise
                leave_out(name, f"failed: {error}")
                del samples[name]
                continue
            if number >= 0:
                samples[name].append(sample)
    return samples


def run(*, quick: bool = False, names: Sequence[str] = CONTENDERS, repeats: int | None = None) -> list[Row]:
    """Measure all three, everyone in turn."""
    count = repeats or (ROUNDS_QUICK if quick else ROUNDS)
    imports: dict[str, Callable[[], float]] = {
        name: lambda name=name: ask(IMPORT_PROGRAM.format(name=NAMES[name]))  # type: ignore[misc]
        for name in names
        if name in NAMES
    }
    firsts: dict[str, Callable[[], float]] = {
        name: lambda name=name: ask(first_result_program(name))  # type: ignore[misc]
        for name in names
        if name != "limit"
    }
    readies = {"star": ready_seconds} if "star" in names else {}
    made = rows(take_turns(imports, count), benchmark=BENCHMARK, measure=IMPORT, unit="ms")
    made += rows(take_turns(firsts, count), benchmark=BENCHMARK, measure=FIRST, unit="s")
    return made + rows(take_turns(readies, count), benchmark=BENCHMARK, measure=READY, unit="s")
