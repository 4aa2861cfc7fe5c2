"""A star whose manager has two shards: the same promises, whatever dies, and nothing left of it afterwards."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from starcore.messages import CHUNK_BYTES_MAX, Role

from .processes import Place
from .stars import TriedStar, children, is_alive, tried_star, until
from .test_garbage import Stranger, frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: shards share memfds")
SHARDS = ("--shards", "2")
IDLE_BYTES_MAX = 16 << 20


@pytest.fixture
def star(tmp_path: Path) -> Iterator[TriedStar]:
    with tried_star(tmp_path, workers=2, slots=1, manager_options=SHARDS) as star:
        yield star
        until(lambda: len(shards(star)) == 2, "two shards")
        until(lambda: memory_bytes(star) <= 2 * IDLE_BYTES_MAX, "what chunks lay in is given back")


def shards(star: TriedStar) -> list[int]:
    """The shards' processes."""
    return children(star.pids["manager"])


def memory_bytes(star: TriedStar) -> int:
    """What all memories of the manager measure, each counted once."""
    found = {}
    for descriptor in Path(f"/proc/{star.pids['manager']}/fd").iterdir():
        if descriptor.is_symlink() and "starcore-cells" in os.readlink(descriptor):
            told = descriptor.stat()
            found[told.st_ino] = told.st_blocks * 512
    return sum(found.values())


def arrays(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(size, dtype=np.float64) + number for number in range(count)]


def plus_one(a: np.ndarray) -> np.ndarray:
    return a + 1


def slow_plus_one(a: np.ndarray) -> np.ndarray:
    time.sleep(0.05)
    return a + 1


@pytest.mark.parametrize("size", [100, 2_000, 9_000, 50_000, 3_000_001])
def test_arrays_of_every_size_come_back_right_to_every_client(star: TriedStar, size: int) -> None:
    given = arrays(3 if size > 1_000_000 else 20, size)
    with star.client() as one, star.client() as other:
        running = [(a, client.submit_array(plus_one, a)) for a in given for client in (one, other)]
        for a, future in running:
            np.testing.assert_array_equal(future.result(60), a + 1)


def test_small_tasks_functions_and_objects_pass(star: TriedStar) -> None:
    with star.client() as one, star.client() as other:
        table = np.arange(300_000)
        running = [one.submit(lambda i: int(table[i]), i) for i in range(50)]  # a function of 2 MB
        assert [future.result(60) for future in running] == [*range(50)]
        assert list(other.map(lambda x: x * int(table[3]), range(2000))) == [3 * x for x in range(2000)]
        assert other.status()["clients"][0]["connected"]


def test_links_are_spread_over_the_shards(star: TriedStar) -> None:
    with star.client() as one, star.client() as other:
        one.submit(plus_one, 1).result(60)
        other.submit(plus_one, 1).result(60)
        established = {
            pid: sum("socket:" in os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink())
            for pid in shards(star)
        }
        assert len(set(established.values())) == 1, established


@pytest.mark.parametrize("which", [0, 1])
def test_death_of_a_shard_costs_no_task(star: TriedStar, which: int) -> None:
    given = arrays(24, 200_000)
    with star.client() as one, star.client() as other:
        running = [(a, client.submit_array(slow_plus_one, a)) for a in given for client in (one, other)]
        small = [client.submit(pow, number, 2) for number in range(500) for client in (one, other)]
        running[3][1].result(60)
        before = shards(star)
        os.kill(before[which], signal.SIGKILL)
        for a, future in running:
            np.testing.assert_array_equal(future.result(60), a + 1)
        assert [future.result(60) for future in small] == [number**2 for number in range(500) for _ in range(2)]
        until(lambda: "shard 3 is ready" in star.log(), "another shard")
        after = shards(star)
        assert len(set(before) & set(after)) == 1
        for a in given:
            np.testing.assert_array_equal(one.submit_array(plus_one, a).result(60), a + 1)
    assert re.search(rf"error: shard {which + 1} was killed by SIGKILL: another one takes its place", star.log())


def test_death_of_all_shards_costs_no_task(star: TriedStar) -> None:
    given = arrays(10, 200_000)
    with star.client() as client:
        running = [(a, client.submit_array(slow_plus_one, a)) for a in given]
        running[1][1].result(60)
        for pid in shards(star):
            os.kill(pid, signal.SIGKILL)
        for a, future in running:
            np.testing.assert_array_equal(future.result(60), a + 1)
        until(lambda: "shard 3 is ready" in star.log() and "shard 4 is ready" in star.log(), "two others")


def test_death_of_the_manager_ends_its_shards_and_frees_its_ports(star: TriedStar) -> None:
    with star.client() as client:
        running = [(a, client.submit_array(slow_plus_one, a)) for a in arrays(10, 200_000)]
        running[1][1].result(60)
        orphans = shards(star)
        star.kill_manager()
        until(lambda: not any(is_alive(pid) for pid in orphans), "no shard is left", 3)
        star.restart_manager()
        for a, future in running:
            np.testing.assert_array_equal(future.result(60), a + 1)


def test_signals_are_the_managers_business(star: TriedStar) -> None:
    with star.client() as client:
        for pid in shards(star):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert client.submit(pow, 2, 10).result(60) == 1024
        assert len(shards(star)) == 2


def test_sigterm_drains_what_runs_and_says_goodbye(place: Place) -> None:
    manager = place.manager(*SHARDS)
    worker = place.worker()
    pids = children(manager.pid)
    with place.client(manager) as client:
        future = client.submit_array(lambda a: __import__("time").sleep(1) or a + 1, np.zeros(300_000))
        worker_busy = client.submit(int)
        until(lambda: client.status()["workers"][0]["running"], "it runs")
        manager.signal(signal.SIGTERM)
        assert future.result(30).sum() == 300_000
        assert not worker_busy.done() or worker_busy.result() == 0
        assert manager.wait() == 0
    assert not any(is_alive(pid) for pid in pids)
    assert "draining: no new work" in manager.log
    assert "stopped" in manager.log
    worker.wait_for("the manager was stopped")
    assert "Traceback" not in place.logs()


def test_strangers_nonsense_stays_with_its_shard_and_its_link(star: TriedStar) -> None:
    with star.client() as client:
        kinds = [*range(112, 128), 5, 99]
        for role in (Role.CLIENT, Role.WORKER):
            for kind in kinds:
                with Stranger(star, role) as stranger:
                    stranger.greet(role)
                    meta = struct.pack("<QQIIQQ", 1, 1, 1, CHUNK_BYTES_MAX, 0, 0)
                    stranger.say(frame(kind, meta, b"x" * 100))
                    assert b"SC\x03" in stranger.hear(), f"no GOODBYE for a frame of kind {kind}"
                    (line,) = until(stranger.lines, "it is told")
                    assert "closing" in line
        with Stranger(star, Role.WORKER) as half:
            half.greet(Role.WORKER)
            half.say(frame(5, struct.pack("<QIIQ", 1, 1, 0, 0), b"x" * 10_000, payload_bytes=CHUNK_BYTES_MAX))
            half.hang_up()
        for a in arrays(5, 100_000):
            np.testing.assert_array_equal(client.submit_array(plus_one, a).result(60), a + 1)


def test_those_who_do_not_belong_here_are_told_by_the_shard(star: TriedStar) -> None:

    with socket.create_connection(("127.0.0.1", star.client_port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        line = rf"manager\.shard\d: warning: refused 127\.0\.0\.1:{stranger.getsockname()[1]}: the TLS handshake failed"
        until(lambda: re.search(line, star.log()), "a line of the shard's")
