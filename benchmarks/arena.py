"""What the way from a supervisor to its slot and back adds to a task whose argument has 64 MiB.

A supervisor's end of a slot and a real slot, no network: the argument lies in a segment of the arena, as when its
last chunk has landed, and is used again for every task, as a warm segment is. The function reads a number of every
page. What its task takes beyond the same function called in this process, on an array of its own, is what is added:
two messages, two wake-ups, and the mapping.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from array import array as column
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import CONTENDERS, Row, Sample, digest, rows
from starcore import pickling
from starcore.errors import Status
from starcore.messages import FunctionKind
from starcore.worker.arena import Arena, Piece
from starcore.worker.channel import Done, Learn, Ready, Record, Setup, Work
from starcore.worker.process import SlotProcess, slot_environment

BENCHMARK = "arena"
ADDED = "supervisor to slot, 64 MiB argument"
MEASURES = (ADDED,)
PAYLOAD_BYTES = 64 << 20
ROUNDS, ROUNDS_QUICK, TASKS = 15, 3, 20
SECONDS_MAX = 30.0
JOB = 1


def look(array: np.ndarray[Any, Any]) -> float:
    """Read a number of every page."""
    return float(array[:: 4096 // array.itemsize].sum())


class Bench:
    """One slot, and what it says."""

    def __init__(self, lifeline: int) -> None:
        self.said_last: asyncio.Queue[Record | str] = asyncio.Queue()
        self.process = SlotProcess(0, self, asyncio.get_running_loop(), lifeline, slot_environment(os.environ, 2, 1))
        self._batches = 0

    def said(self, process: SlotProcess, record: Record) -> None:
        """Keep a record for whoever waits."""
        self.said_last.put_nowait(record)

    def said_all(self, process: SlotProcess) -> None:
        """Nothing waits for the end of a turn here."""

    def ended(self, process: SlotProcess, cause: str) -> None:
        """Keep the end, which nobody has asked for."""
        self.said_last.put_nowait(cause)

    async def next(self, kind: type[Any]) -> Any:
        """Return what the slot says next, which has to be of this kind."""
        record = await asyncio.wait_for(self.said_last.get(), SECONDS_MAX)
        assert type(record) is kind, record
        return record

    async def begin(self) -> None:
        """Have the slot set up, and teach it the function."""
        self.process.send(Setup(0, "", [], PAYLOAD_BYTES))
        await self.next(Ready)
        shipped = pickling.ship(look)
        blob = (shipped.digest, shipped.name, 0, len(shipped.blob), shipped.blob)
        self.process.send(Learn(JOB, FunctionKind.SHIPPED, *blob))

    async def run(self, head: bytes, piece: Piece, body_bytes: int) -> Any:
        """Run one task and return its answer."""
        self._batches += 1
        self.process.attach(piece)
        self.process.send(Work(self._batches, JOB, 0, piece.number, body_bytes, column("I", [len(head)]), head))
        done = await self.next(Done)
        assert done.statuses[0] == Status.OK, pickling.unpack_failure(done.statuses[0], done.heads)
        assert not done.kept, "the slot has let go of the argument"
        return pickling.unpack_answer(done.heads)


async def added_ms(array: np.ndarray[Any, Any], rounds: int, tasks: int) -> list[Sample]:
    """Milliseconds that a task takes beyond its function, in rounds in which both take turns."""
    lifeline = os.pipe()
    arena = Arena(4 * array.nbytes)
    packed = pickling.pack_array_call(array, (), {})
    piece, _ = arena.take(packed.body_bytes)
    with piece.view(0, packed.body_bytes) as room:
        packed.copy_into(room)
    bench = Bench(lifeline[0])
    samples = []
    try:
        await bench.begin()
        expected = look(array)
        for _ in range(rounds):
            here, there = [], []
            for _ in range(tasks):
                start = time.perf_counter()
                look(array)
                middle = time.perf_counter()
                answer = await bench.run(packed.head, piece, packed.body_bytes)
                there.append(time.perf_counter() - middle)
                here.append(middle - start)
                assert answer == expected, "a wrong answer"
            samples.append(Sample((statistics.median(there) - statistics.median(here)) * 1e3, {}, digest([expected])))
    finally:
        bench.process.kill()
        await bench.next(str)
        for end in lifeline:
            os.close(end)
        piece.close()
    return samples


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    payload_bytes: int = PAYLOAD_BYTES,
    tasks: int = TASKS,
) -> list[Row]:
    """Measure the star's worker alone; nobody else has a slot."""
    if "star" not in names:
        return []
    array = np.random.default_rng(1).integers(0, 1000, payload_bytes // 8).astype(np.float64)
    samples = asyncio.run(added_ms(array, ROUNDS_QUICK if quick else ROUNDS, tasks))
    parameters = {"payload_bytes": payload_bytes, "tasks": tasks}
    return rows({"star": samples}, benchmark=BENCHMARK, measure=ADDED, unit="ms", parameters=parameters)
