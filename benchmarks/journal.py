"""What a journal gives and costs: how soon a killed manager works on, and how many tasks a second it lets through.

*Dispatching again*: a manager with a journal is killed while tasks wait and two workers (a crowd of two) run them. The
client submits one more, of a higher priority. The time is taken from the start of the next manager's process to the
answer of that one: the interpreter's start, reading and writing the journal, both peers' way back, and a task's way to
a worker and back. *Tasks a second* are no-ops submitted one by one and gathered, rounds with and without a journal
taking turns, on two stars side by side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.crowd import Crowd, FragileStar
from benchmarks.harness import Row, Sample, cpu_seconds, digest, rows
from benchmarks.queue import wait_until_queued
from benchmarks.tasks import nap, nothing
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
    """From the start of a manager to the answer of a task that it gave out, with so many others open."""
    options = ["--journal", str(directory)]
    with (
        FragileStar(workers=0, log_level="error", manager_options=options) as star,
        star.client(wait=False) as client,
        Crowd(star, WORKERS) as crowd,
    ):
        crowd.wait()
        futures = [client.submit(nap, value) for value in range(count)]
        wait_until_queued(client, count - count // 10)
        star.kill_manager()
        urgent = client.options(priority=1).submit(nap, count)
        start = time.monotonic()
        star.restart_manager()
        answer = urgent.result(ANSWER_SECONDS_MAX)
        taken = time.monotonic() - start
        done = [future.result() for future in futures if future.done()]
        assert answer == count and len(done) < count // 2, "not so many were open"
        client.shutdown(wait=False, cancel_futures=True)
    return Sample(taken, {}, digest(answer))


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
