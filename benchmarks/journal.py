"""What a journal gives and costs: how soon a killed manager works on, and how many tasks a second it lets through.

*Dispatching again*: tasks wait at a manager with a journal, which is killed. Two workers (a crowd of two) dial in vain.
The time is taken from the start of the next manager's process to the first answer at the client, so it holds the
interpreter's start, reading and writing the journal, and both peers' way back. *Tasks a second* are no-ops submitted
one by one and gathered, rounds with and without a journal taking turns, on two stars side by side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from benchmarks.crowd import Crowd, FragileStar
from benchmarks.harness import Row, Sample, cpu_seconds, digest, rows
from benchmarks.queue import wait_until_queued
from benchmarks.tasks import nothing
from starcore import Client

BENCHMARK = "journal"
MEASURES = (
    "dispatching again, 100,000 open",
    "small tasks with a journal",
    "small tasks, with a journal to without",
    "manager CPU of a small task, with a journal",
    "round trip with a journal, median",
)
OPEN = 100_000
WORKERS = 2
LONE = 200
ANSWER_SECONDS_MAX = 60.0


def seconds_to_dispatch(count: int, directory: Path) -> Sample:
    """From the start of a manager to the first answer, with so many tasks open."""
    options = ["--journal", str(directory)]
    with (
        FragileStar(workers=0, log_level="error", manager_options=options) as star,
        star.client(wait=False) as client,
    ):
        futures = [client.submit(nothing, value) for value in range(count)]
        wait_until_queued(client, count)
        star.kill_manager()
        with Crowd(star, WORKERS):
            start = time.monotonic()
            star.restart_manager()
            wait(futures, ANSWER_SECONDS_MAX, FIRST_COMPLETED)
            taken = time.monotonic() - start
            answers = [future.result() for future in futures]
    assert answers == list(range(count)), "a wrong answer"
    return Sample(taken, {}, digest(len(answers), answers[:: max(count // 1000, 1)]))


def burst(client: Client, pid: int, count: int) -> tuple[float, float, str]:
    """Tasks a second, the manager's CPU of one (µs), and a hash of the answers."""
    cpu, start = cpu_seconds(pid), time.perf_counter()
    answers = [future.result() for future in [client.submit(nothing, value) for value in range(count)]]
    seconds = time.perf_counter() - start
    assert answers == list(range(count)), "a wrong answer"
    return count / seconds, (cpu_seconds(pid) - cpu) / count * 1e6, digest(answers)


def round_trip_ms(client: Client, count: int) -> float:
    """The median time of a lone task."""
    times = []
    for value in range(count):
        start = time.perf_counter()
        client.submit(nothing, value).result()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def throughput(count: int, rounds: int, directory: Path) -> dict[str, list[Sample]]:
    """The samples of every measure but the first."""
    options = ["--journal", str(directory)]
    taken: dict[str, list[Sample]] = {measure: [] for measure in MEASURES[1:]}
    with (
        FragileStar(workers=WORKERS, log_level="error", manager_options=options) as kept,
        FragileStar(workers=WORKERS, log_level="error") as plain,
        kept.client() as one,
        plain.client() as other,
    ):
        burst(one, kept.pids["manager"], count)
        burst(other, plain.pids["manager"], count)
        for _ in range(rounds):
            rate, cost, hashed = burst(one, kept.pids["manager"], count)
            without, _, _ = burst(other, plain.pids["manager"], count)
            lone = round_trip_ms(one, LONE)
            for measure, value in zip(MEASURES[1:], (rate, rate / without, cost, lone), strict=True):
                taken[measure].append(Sample(value, {}, hashed))
    return taken


def run(
    *, quick: bool = False, names: Sequence[str] = ("star",), count: int | None = None, rounds: int | None = None
) -> list[Row]:
    """Measure the star alone."""
    if "star" not in names:
        return []
    number, times = count or (20_000 if quick else OPEN), rounds or (2 if quick else 5)
    with tempfile.TemporaryDirectory(prefix="starcore-journal-") as place:
        samples = {MEASURES[0]: [seconds_to_dispatch(number, Path(place, str(turn))) for turn in range(times)]}
        samples |= throughput(number, times, Path(place, "throughput"))
    units = dict(zip(MEASURES, ("s", "1/s", "x", "µs", "ms"), strict=True))
    parameters = {"tasks": number, "workers": WORKERS}
    return [
        row
        for measure, own in samples.items()
        for row in rows({"star": own}, benchmark=BENCHMARK, measure=measure, unit=units[measure], parameters=parameters)
    ]
