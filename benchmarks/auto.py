"""Whether `chunks="auto"` with `out=` keeps upload, computing and download going at once, in little memory.

And whether small tasks stay quick meanwhile.

Each of the three stages is measured alone, with a function that does nothing of the others: `first_row` takes blocks
and gives next to nothing back, `made` gets next to nothing and gives blocks back; the computing is done here. Over a
wire of 200 Mbit/s (`wires.py`) the seconds of all together are held against those of the slowest alone, on loopback the
CPU seconds of all processes against the sum. On loopback small tasks are sent while the array is uploaded.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

import starcore
from benchmarks.harness import Row, Sample, cpu_seconds, digest, family, rows
from benchmarks.memory import watched
from benchmarks.tasks import Array, nothing, plus_one
from benchmarks.wires import Wire, WireError

BENCHMARK = "auto"
WIRE = "auto chunks at 200 Mbit/s, to the slowest stage"
CPU = "auto chunks on loopback, CPU to the stages' sum"
MEMORY = "auto chunks, client memory beyond a and out"
LATENCY = "1 KB task during a 4 GiB upload"
MEASURES = (WIRE, CPU, MEMORY, LATENCY)
BITS_PER_SECOND = 200e6
COLUMNS = 128
MIB = 2**20
POKE_SECONDS = 0.02
MEMORY_SHARE = 5
"""The array takes so small a part of the memory that is free: it is here twice, and at the worker for a while."""


def first_row(block: Array) -> Array:
    """Upload, and nothing else."""
    return block[:1]


def made(block: Array) -> Array:
    """Download, and nothing else."""
    return np.repeat(block, COLUMNS, axis=1)


def array_of(size: int) -> Array:
    """Rows of different numbers."""
    return np.arange(size // 8, dtype=np.float64).reshape(-1, COLUMNS)


class Stages:
    """One array, and what is done with it through one client.

    Parameters
    ----------
    client : Client
    array : ndarray
    """

    def __init__(self, client: starcore.Client, array: Array) -> None:
        self._client = client
        self._array = array
        self._thin = np.ascontiguousarray(array[:, :1])
        self._out = np.zeros_like(array)
        self._client.submit_array(plus_one, array[: len(array) // 8], chunks="auto").result()

    def together(self) -> str:
        """All of it; returns a hash of the answer, which is checked."""
        future = self._client.submit_array(plus_one, self._array, chunks="auto", out=self._out)
        future.result()
        for start in range(0, len(self._array), 1 << 16):
            rows = slice(start, start + (1 << 16))
            assert np.array_equal(self._out[rows], self._array[rows] + 1), "a wrong answer"
        return digest(self._out)

    def run(self) -> Any:
        """All of it, unchecked."""
        return self._client.submit_array(plus_one, self._array, chunks="auto", out=self._out).result()

    def upload(self) -> Any:
        """The first stage alone."""
        return self._client.submit_array(first_row, self._array, chunks="auto").result()

    def compute(self) -> Any:
        """The second alone, here."""
        for start in range(0, len(self._array), 1 << 12):
            plus_one(self._array[start : start + (1 << 12)])

    def download(self) -> Any:
        """The third alone."""
        rows = max(1, (1 << 21) // (8 * COLUMNS))
        return self._client.submit_array(made, self._thin, chunks=min(rows, len(self._thin)), out=self._out).result()


def seconds(work: Callable[[], Any]) -> float:
    """How long that takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def on_the_wire(size: int, repeats: int) -> tuple[list[Sample], dict[str, float]]:
    """The ratios of all together to the slowest stage alone, and the stages' seconds."""
    samples, alone = [], {}
    with Wire(BITS_PER_SECOND) as wire, wire.star(workers=1, slots=1) as star, wire.client(star, 1) as client:
        stages = Stages(client, array_of(size))
        for _ in range(repeats):
            alone = {stage.__name__: seconds(stage) for stage in (stages.upload, stages.compute, stages.download)}
            taken = seconds(stages.run)
            samples.append(Sample(taken / max(alone.values())))
            alone["together"] = taken
        hashed = digest(stages.run())
    return [Sample(sample.value, {}, hashed) for sample in samples], alone


@contextmanager
def loopback(size: int) -> Iterator[tuple[starcore.Client, dict[str, list[int]], Stages]]:
    """A star with one slot, and the array."""
    with starcore.LocalStar(workers=1, slots=1) as star, star.client() as client:
        pids = star.pids
        everyone = {"manager": [pids["manager"]], "worker": list(pids["workers"])}
        yield client, everyone, Stages(client, array_of(size))


def cpu_ratio(pids: dict[str, list[int]], stages: Stages) -> Sample:
    """CPU seconds of all processes for all together, to the stages' sum."""

    def spent(work: Callable[[], Any]) -> dict[str, float]:
        members = family(pids)
        before = {role: sum(map(cpu_seconds, own)) for role, own in members.items()}
        work()
        return {role: sum(map(cpu_seconds, own)) - before[role] for role, own in members.items()}

    alone = [spent(stage) for stage in (stages.upload, stages.compute, stages.download)]
    whole = spent(stages.run)
    return Sample(sum(whole.values()) / sum(sum(each.values()) for each in alone), whole)


def latencies(client: starcore.Client, work: Callable[[], Any], seconds_max: float) -> list[float]:
    """Milliseconds of 1 KB tasks that are sent one after the other while the work is done."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (work(), done.set()), daemon=True)
    found: list[float] = []
    thread.start()
    until = time.perf_counter() + seconds_max
    while not done.wait(POKE_SECONDS) and time.perf_counter() < until:
        value = bytes(1000)
        start = time.perf_counter()
        assert client.submit(nothing, value).result() == value, "a wrong answer"
        found.append((time.perf_counter() - start) * 1e3)
    thread.join()
    return found


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = ("star",),
    loopback_bytes: int | None = None,
    wire_bytes: int | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure the star alone: 4 GiB where memory allows, on the slow wire what passes in half a minute."""
    if "star" not in names:
        return []
    count = repeats or (1 if quick else 3)
    most = psutil.virtual_memory().available // MEMORY_SHARE
    size = loopback_bytes or (128 * MIB if quick else min(4 << 30, most // MIB * MIB))
    made_rows: list[Row] = []

    def add(measure: str, unit: str, samples: list[Sample], **parameters: Any) -> None:
        parameters = {"workers": 1, "slots": 1, **parameters}
        made_rows.extend(
            rows({"star": samples}, benchmark=BENCHMARK, measure=measure, unit=unit, parameters=parameters)
        )

    slow = wire_bytes or (16 * MIB if quick else 256 * MIB)
    try:
        samples, alone = on_the_wire(slow, 1 if quick else min(count, 2))
        add(WIRE, "x", samples, payload_bytes=slow, bits_per_second=BITS_PER_SECOND, seconds=alone)
    except WireError as error:
        print(f"{WIRE} is left out: {error}", file=sys.stderr)
    with loopback(size) as (client, pids, stages):
        hashed = stages.together()
        before = psutil.Process().memory_info().rss / MIB
        with watched({"client": family({})["client"]}) as grown:
            stages.run()
        add(MEMORY, "MiB", [Sample(max(grown["client"] - before, 0.01), {}, hashed)], payload_bytes=size)
        add(CPU, "x", [cpu_ratio(pids, stages) for _ in range(1 if quick else min(count, 2))], payload_bytes=size)
        times = latencies(client, stages.upload, 60.0)
        worst = [Sample(float(np.percentile(times, 50)))] if times else []
        if worst:
            tail = {"p90_ms": float(np.percentile(times, 90)), "worst_ms": max(times), "tasks": len(times)}
            add(LATENCY, "ms", worst, payload_bytes=size, **tail)
    return made_rows
