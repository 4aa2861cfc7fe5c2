"""How much less the busiest process of the manager has to do when two hold the connections.

Four clients and four workers of one slot send 16 MiB arrays back and forth through a manager of one process, and
through one of two shards (and the process that decides); both run at the same time and take turns. What is compared
is the CPU of whichever of the manager's processes has spent the most: on a machine with cores enough, that one says
how fast the star can be.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import psutil

import starcore
from benchmarks.harness import CONTENDERS, Row, Sample, cpu_seconds, rows
from benchmarks.tasks import Array, check, inputs, plus_one

BENCHMARK = "shards"
RATIO = "busiest manager process, CPU of 1 to 2"
ONE, TWO = "busiest manager process, 1 process", "busiest manager process, 2 shards"
DECIDER = "deciding manager process, 2 shards"
MEASURES = (RATIO, ONE, TWO, DECIDER)
PAIRS = 4
"""Of a client and a worker."""
DEPTH = 2


class Pairs:
    """A local star with several clients, and the CPU of each of its manager's processes."""

    def __init__(self, stack: ExitStack, shards: int) -> None:
        options = ("--shards", str(shards))
        self._star = stack.enter_context(starcore.LocalStar(workers=PAIRS, slots=1, manager_options=options))
        self._clients = [stack.enter_context(self._star.client()) for _ in range(PAIRS)]
        manager = self._star.pids["manager"]
        self._pids = [manager, *(child.pid for child in psutil.Process(manager).children())]

    def arrays(self, arrays: Sequence[Array]) -> tuple[list[float], str]:
        """Have every client send all arrays: CPU seconds per GB of each process, the deciding one first, and a hash."""
        before = [cpu_seconds(pid) for pid in self._pids]
        answers: list[list[Array]] = [[] for _ in self._clients]
        threads = [
            threading.Thread(target=_send, args=(client.submit_array, arrays, own))
            for client, own in zip(self._clients, answers, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = [cpu_seconds(pid) - start for pid, start in zip(self._pids, before, strict=True)]
        (hashed,) = {check(arrays, own) for own in answers}
        gigabytes = sum(array.nbytes for array in arrays) * PAIRS / 1e9
        return [seconds / gigabytes for seconds in spent], hashed


def _send(submit_array: Callable[..., Future[Any]], arrays: Sequence[Array], answers: list[Array]) -> None:
    running: deque[Future[Array]] = deque()
    for array in arrays:
        if len(running) == DEPTH:
            answers.append(running.popleft().result())
        running.append(submit_array(plus_one, array))
    answers += [future.result() for future in running]


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    payload_bytes: int = 16 << 20,
    count: int | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Measure both managers in turns; a row each, the ratio round by round, and the process that decides."""
    if "star" not in names:
        return []
    count = count or (2 if quick else 6)
    arrays = inputs(count, payload_bytes)
    samples: dict[str, list[Sample]] = {measure: [] for measure in MEASURES}
    with ExitStack() as stack:
        one, two = Pairs(stack, 1), Pairs(stack, 2)
        one.arrays(arrays[:1])
        two.arrays(arrays[:1])
        for number in range(repeats or (2 if quick else 7)):
            for pairs in (one, two) if number % 2 == 0 else (two, one):
                spent, hashed = pairs.arrays(arrays)
                samples[ONE if pairs is one else TWO].append(Sample(max(spent), {}, hashed))
                if pairs is two:
                    samples[DECIDER].append(Sample(spent[0], {}, hashed))
            first, second = samples[ONE][-1], samples[TWO][-1]
            samples[RATIO].append(Sample(first.value / second.value, {}, second.answers))
    parameters = {"payload_bytes": payload_bytes, "count": count, "pairs": PAIRS, "depth": DEPTH}
    return [
        row
        for measure in MEASURES
        for row in rows(
            {"star": samples[measure]},
            benchmark=BENCHMARK,
            measure=measure,
            unit="x" if measure == RATIO else "s/GB",
            parameters=parameters,
        )
    ]
