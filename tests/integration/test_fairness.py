"""Who gets the slots when there are more tasks than slots: real processes, real seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starcore import Client

from .stars import TriedStar, tried_star

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc"),
]
SECONDS = 30.0


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    with tried_star(tmp_path_factory.mktemp("fairness"), workers=2, slots=2) as star:
        yield star


def nap(seconds: float) -> float:
    """Hold a slot, and say for how long: slots that sleep share two cores as well as any."""
    begun = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - begun


class Endless(threading.Thread):
    """A client that always has `depth` tasks outstanding, and counts the slots' seconds that it got."""

    def __init__(self, client: Client, seconds: float, depth: int) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.got = 0.0
        self._seconds = seconds
        self._free = threading.Semaphore(depth)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            if self._free.acquire(timeout=0.1):
                self.client.submit(nap, self._seconds).add_done_callback(self._done)

    def _done(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            self.got += future.result()
        self._free.release()

    def end(self) -> None:
        self._ended.set()
        self.join()
        self.client.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("first", "second", "seconds"), [(0.02, 0.02, 10.0), (0.01, 0.1, 5.0)], ids=["equal", "one with longer tasks"]
)
def test_two_endless_clients_get_half_of_the_slots_each(
    star: TriedStar, first: float, second: float, seconds: float
) -> None:
    clients = [Endless(star.client(), first, 200), Endless(star.client(), second, 200)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    before = [client.got for client in clients]
    time.sleep(seconds)
    got = [client.got - start for client, start in zip(clients, before, strict=True)]
    for client in clients:
        client.end()
    share = got[0] / sum(got)
    assert 0.45 <= share <= 0.55, got
    assert sum(got) > 0.8 * 4 * seconds, got  # and nobody was fair by leaving slots idle
    star.check_quiet()


def test_a_long_queue_does_not_hold_up_another_clients_task(star: TriedStar) -> None:
    greedy, modest = star.client(), star.client()
    queue = [greedy.submit(nap, 0.002) for _ in range(100_000)]
    try:
        for _ in range(5):
            assert modest.submit(pow, 3, 2).result(SECONDS) == 9
        assert not queue[-1].done()
        assert not queue[len(queue) // 2].done()
    finally:
        greedy.shutdown(cancel_futures=True)
    star.check_quiet()


def test_an_idle_client_does_not_save_up_a_right_to_everything(star: TriedStar) -> None:
    """Who was away for a while gets his half from now on, not all that he did not use."""
    busy = Endless(star.client(), 0.01, 100)
    late = Endless(star.client(), 0.01, 100)
    late.client.submit(pow, 2, 2).result(SECONDS)
    busy.start()
    time.sleep(1.5)
    late.start()
    before = busy.got
    time.sleep(1.5)
    got = [busy.got - before, late.got]
    busy.end()
    late.end()
    assert got[0] > 0.3 * sum(got), got
    star.check_quiet()
