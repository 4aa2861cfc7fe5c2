"""What a long queue costs the manager: memory of each task that waits, and whether giving out slows down for it.

No-ops are submitted one by one through the public API by clients of this process, first while there is no worker, so
that all of them wait at the manager: what its resident set grew by, each, is *memory*. Then two workers come (a crowd
of two, whose slots are no processes), and the manager's CPU until all answers are here, a task, is the *cost*. It is
compared with the cost where never more than 1,000 wait: bursts of as many, each gathered before the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.crowd import Crowd, FragileStar
from benchmarks.harness import Row, Sample, cpu_seconds, digest, rows
from benchmarks.memory import resident_mib
from benchmarks.tasks import nothing
from starcore import Client

BENCHMARK = "queue"
MEASURES = (
    "manager memory of a queued task",
    "manager memory, 1,000,000 queued",
    "cost of a task, 1,000,000 queued to 1,000",
    "manager CPU of a task, 1,000,000 queued",
)
MILLION = 1_000_000
FEW = 1_000
WORKERS = 2
QUEUED_SECONDS_MAX = 60.0


def wait_until_queued(client: Client, count: int) -> None:
    """Wait until so many tasks wait at the manager."""
    deadline = time.monotonic() + QUEUED_SECONDS_MAX
    while sum(each["queued"] for each in client.status()["clients"]) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} tasks were not queued within {QUEUED_SECONDS_MAX:g} s")
        time.sleep(0.05)


def gathered(client: Client, count: int) -> str:
    """Submit so many no-ops, check their answers, hash them."""
    futures = [client.submit(nothing, value) for value in range(count)]
    answers = [future.result() for future in futures]
    assert answers == list(range(count)), "a wrong answer"
    return digest(len(answers), answers[:: max(count // 1000, 1)])


def burst_cost(count: int) -> float:
    """The manager's CPU (µs) of a task where never more than FEW wait."""
    with FragileStar(workers=0, log_level="error") as star, Crowd(star, WORKERS) as crowd:
        crowd.wait()
        pid = star.pids["manager"]
        with star.client(wait=False) as client:
            gathered(client, FEW)
            before, rounds = cpu_seconds(pid), max(count // FEW, 1)
            for _ in range(rounds):
                gathered(client, FEW)
            return (cpu_seconds(pid) - before) / (rounds * FEW) * 1e6


def queue_cost(count: int) -> tuple[float, float, float, str]:
    """Memory of the manager (MB) with so many queued, what it grew by (bytes a task), the cost of each (µs), a hash."""
    with FragileStar(workers=0, log_level="error") as star:
        pid = star.pids["manager"]
        with star.client(wait=False) as client:
            first = client.submit(nothing, 0)  # the manager has the function, and has taken a first message
            wait_until_queued(client, 1)
            idle, before = resident_mib([pid]), cpu_seconds(pid)
            futures = [client.submit(nothing, value) for value in range(count)]
            wait_until_queued(client, count)
            most = resident_mib([pid])
            with Crowd(star, WORKERS):
                answers = [future.result() for future in futures]
                cost = (cpu_seconds(pid) - before) / count * 1e6
            assert first.result() == 0
            assert answers == list(range(count)), "a wrong answer"
            hashed = digest(len(answers), answers[:: max(count // 1000, 1)])
            return most * 2**20 / 1e6, (most - idle) * 2**20 / count, cost, hashed


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star",),
    count: int | None = None,
    bursts: int | None = None,
) -> list[Row]:
    """Measure the star alone; with fewer than a million queued, the row of their memory is left out."""
    if "star" not in names:
        return []
    number = count or (30_000 if quick else MILLION)
    short = burst_cost(bursts or (10_000 if quick else 100_000))
    whole, each, cost, hashed = queue_cost(number)
    parameters = {"queued": number, "workers": WORKERS, "burst_us": round(short, 2)}
    taken = [
        (MEASURES[0], "B", each),
        (MEASURES[1], "MB", whole),
        (MEASURES[2], "x", cost / short),
        (MEASURES[3], "µs", cost),
    ]
    return [
        row
        for measure, unit, value in taken
        if measure != MEASURES[1] or number >= MILLION
        for row in rows(
            {"star": [Sample(value, {}, hashed)]},
            benchmark=BENCHMARK,
            measure=measure,
            unit=unit,
            parameters=parameters,
        )
    ]
