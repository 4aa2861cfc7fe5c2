"""What a big object costs that is put once and used by a thousand tasks: bytes on each wire, memory, time.

`total` of one float64 array that was put, by a worker of four slots. The bytes are the kernel's: what the manager's
sockets received from the client and sent to the worker (TCP_INFO), TLS and everything else included. The memory is
the worker machine's, all its processes' pages shared out (PSS), above what they had before. All three are in
multiples of the array's bytes; so is the time, in seconds.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

import starcore
from benchmarks.harness import CONTENDERS, Row, Sample, digest, rows

BENCHMARK = "put"
UP, DOWN = "put, bytes on the client's wire", "put, bytes on the worker's wire"
MEMORY, SECONDS = "put, memory of the worker machine", "put, seconds for all tasks"
MEASURES = (UP, DOWN, MEMORY, SECONDS)
VALUE_BYTES, VALUE_BYTES_QUICK = 1 << 30, 64 << 20
MEMORY_SHARE = 4
"""The array takes at most one part of so many of the memory that is free; the star holds it twice."""
TASKS, TASKS_QUICK = 1000, 100
SLOTS = 4
ROUNDS, ROUNDS_QUICK = 3, 1
PIDFD_GETFD = 438
BYTES_ACKED, BYTES_RECEIVED = 120, 128
"""Where these stand in Linux's struct tcp_info."""
TCP_INFO_BYTES = 192


def total(values: Any, number: int) -> tuple[int, float]:
    """The task: a look at a part of the array, which is another one for each number."""
    part = values[number % 64 :: 64]
    return number, float(part[:: 1 + number % 7].sum())


def wires(pid: int, port: int) -> tuple[int, int]:
    """What the sockets of a process at one of its ports received and sent, in bytes."""
    received = sent = 0
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
                descriptor = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
                if descriptor < 0:
                    continue
                with socket.socket(fileno=descriptor) as twin:
                    if twin.family != socket.AF_INET or twin.getsockname()[1] != port:
                        continue
                    info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    sent += struct.unpack_from("<Q", info, BYTES_ACKED)[0]
                    received += struct.unpack_from("<Q", info, BYTES_RECEIVED)[0]
    finally:
        os.close(pidfd)
    return received, sent


def machine_bytes(pids: Sequence[int]) -> int:
    """The memory of processes and all their children, what they share counted once."""
    found = 0
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            found += one.memory_full_info().pss
    return found


def ask(size: int, tasks: int) -> dict[str, Sample]:
    """One round: put an array, use it so often, look what it cost."""
    values = np.arange(size // 8, dtype=np.float64)
    with starcore.LocalStar(workers=1, slots=SLOTS, worker_options=["--arena", str(2 * size)]) as star:
        client = star.client()
        assert client.submit(abs, -7).result() == 7
        manager, worker = star.pids["manager"], star.pids["workers"][0]
        before = machine_bytes([worker])
        start = time.perf_counter()
        with client.put(values) as ref:
            futures = [client.submit(total, ref, number) for number in range(tasks)]
            answers = [future.result() for future in futures]
            seconds = time.perf_counter() - start
            grown = machine_bytes([worker]) - before
            up, _ = wires(manager, star.client_port)
            _, down = wires(manager, star.port)
    assert answers[-1] == total(values, tasks - 1), "a wrong answer"
    assert [number for number, _ in answers] == list(range(tasks)), "answers out of order"
    said = digest(*answers)
    return {
        UP: Sample(up / size, answers=said),
        DOWN: Sample(down / size, answers=said),
        MEMORY: Sample(grown / size, answers=said),
        SECONDS: Sample(seconds, answers=said),
    }


def run(
    *,
    quick: bool = False,
    names: Sequence[str] = CONTENDERS,
    size: int | None = None,
    tasks: int | None = None,
    repeats: int | None = None,
) -> list[Row]:
    """Ask the star; nobody else has a counterpart that the wires could be read of."""
    if "star" not in names:
        return []
    size = size or min(VALUE_BYTES_QUICK if quick else VALUE_BYTES, psutil.virtual_memory().available // MEMORY_SHARE)
    tasks = tasks or (TASKS_QUICK if quick else TASKS)
    made = [ask(size, tasks) for _ in range(repeats or (ROUNDS_QUICK if quick else ROUNDS))]
    parameters = {"value_bytes": size, "tasks": tasks, "slots": SLOTS}
    found: list[Row] = []
    for measure in MEASURES:
        unit = "s" if measure == SECONDS else "x"
        samples = {"star": [one[measure] for one in made]}
        found += rows(samples, benchmark=BENCHMARK, measure=measure, unit=unit, parameters=parameters)
    return found
