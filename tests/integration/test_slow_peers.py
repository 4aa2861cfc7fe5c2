"""One client on a slow link, or one that does not read, takes nothing from the others: real processes, real wires.

What another client's work takes is held against what the same work took before, with nobody slow there. The bound is
wide, since a test's machine has other work; but who waits for a slow client's bytes, or for it to read, waits for as
long as that takes, which is many times as much.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import Client

from .proxy import PIECE_BYTES, Proxy
from .stars import TriedStar, tried_star, until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc"),
]
SECONDS = 100.0
MIB = 1 << 20
SLOW_BYTES_PER_SECOND = 1 << 20
ARENA_MIB = 256
STRETCH, GRACE_SECONDS = 4.0, 5.0
"""How much longer the others' work may take on a machine that is not ours."""

READER_OF_NOTHING = f"""
import sys
import numpy as np
import starcore

def made(number):
    return np.full({2 * MIB}, number, dtype=np.uint8)

with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    assert client.submit(pow, 2, 3).result() == 8
    large = [client.submit(made, number) for number in range(100)]
    small = [client.submit(bytes, 20_000) for _ in range(5_000)]
    print("asked", flush=True)
    for number, future in enumerate(large):
        answer = future.result()
        assert len(answer) == {2 * MIB} and (answer == number).all(), number
    assert {{len(future.result()) for future in small}} == {{20_000}}
    print("right", flush=True)
"""


@pytest.fixture
def star(tmp_path: Path) -> Iterator[TriedStar]:
    """One slot, for which everybody competes, and an arena that the slow ones could fill."""
    options = ("--arena", f"{ARENA_MIB}MiB")
    with tried_star(tmp_path, workers=1, slots=1, worker_options=options) as star:
        yield star


def plus_one(array: Any) -> Any:
    return array + 1


def work(client: Client) -> float:
    """Calls one after the other, calls at once, and arrays; return the seconds that they took."""
    begun = time.monotonic()
    for number in range(50):
        assert client.submit(pow, number, 2).result(SECONDS) == number**2
    assert list(client.map(abs, range(-2000, 0), timeout=SECONDS)) == list(range(2000, 0, -1))
    array = np.arange(MIB, dtype=np.float64)
    for future in [client.submit_array(plus_one, array) for _ in range(8)]:
        assert np.array_equal(future.result(SECONDS), array + 1)
    return time.monotonic() - begun


def takes_nothing_from(others: Client, disturb: Callable[[], None], still_slow: Callable[[], bool]) -> None:
    """Let others work with nobody slow there, and with somebody."""
    alone = max(work(others) for _ in range(2))
    disturb()
    together = max(work(others) for _ in range(2))
    assert still_slow(), "it was not as slow as it was meant to be"
    assert together <= STRETCH * alone + GRACE_SECONDS, (alone, together)


@pytest.mark.parametrize("way", ["up", "down"])
def test_client_on_a_slow_link_takes_nothing_from_the_others(star: TriedStar, way: str) -> None:
    with Proxy(star.client_port) as proxy:
        slow, others = Client(proxy.address, join=star.join_file("client")), star.client()
        futures: list[Future[Any]] = []

        def disturb() -> None:
            proxy.delay = PIECE_BYTES / SLOW_BYTES_PER_SECOND
            array = np.ones(2 * MIB, dtype=np.uint8)
            for _ in range(100):
                future = slow.submit_array(len, array) if way == "up" else slow.submit(np.ones, MIB // 4)
                futures.append(future)

        takes_nothing_from(others, disturb, lambda: not all(future.done() for future in futures))
        until(lambda: any(future.done() for future in futures), "something of the slow one's own", SECONDS)
        proxy.delay = 0.0
        slow.shutdown(cancel_futures=True)


def test_client_that_does_not_read_takes_nothing_from_the_others(star: TriedStar) -> None:
    command = [sys.executable, "-c", READER_OF_NOTHING, star.address, str(star.join_file("client"))]
    others = star.client()
    with contextlib.ExitStack() as stack:
        readers: list[subprocess.Popen[str]] = []

        def disturb() -> None:
            reader = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(reader.kill)
            readers.append(reader)
            assert reader.stdout is not None
            assert reader.stdout.readline() == "asked\n"
            os.kill(reader.pid, signal.SIGSTOP)

        takes_nothing_from(others, disturb, lambda: any(each["unread"] for each in others.status()["clients"]))
        os.kill(readers[0].pid, signal.SIGCONT)
        output, _ = readers[0].communicate(timeout=SECONDS)
        assert output == "right\n", "and nothing of its own was lost meanwhile"
