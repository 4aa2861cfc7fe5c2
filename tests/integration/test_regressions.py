"""How other star schedulers died: twelve regression tests worth having from the start, each by name.

Some stand where the thing itself is tested; the table says where. The others stand here, on a real star.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from starcore import codec
from starcore.messages import FunctionKind, Job, Role, StatusRequest, Submit

from .processes import Place
from .processes import children as descendants
from .proxy import Proxy
from .stars import TriedStar, is_alive, tried_star, until
from .test_delivery import SECONDS, through
from .test_garbage import Stranger, hello

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
TESTS = Path(__file__).resolve().parents[1]
HERE = "integration/test_regressions.py"
QUICK = ("--silence-seconds", "1", "--session-grace-seconds", "2")

TWELVE: dict[int, tuple[str, ...]] = {
    1: (f"{HERE}::test_send_that_races_the_departure_of_its_peer_raises_nothing_into_the_loop",),
    2: (
        "test_driver.py::test_a_fault_of_our_own_costs_one_link_and_is_logged",
        "test_driver.py::test_after_a_fault_of_our_own_an_asked_for_shutdown_still_passes",
    ),
    3: (f"{HERE}::test_send_to_a_half_dead_peer_does_not_block_the_others",),
    4: (f"{HERE}::test_reconnect_under_the_same_identity_does_not_meet_its_own_half_written_request",),
    5: (
        "manager/test_clients.py::test_late_words_about_a_finished_job_are_dropped",
        "manager/test_delivery.py::test_late_result_of_a_cancelled_task_is_dropped",
        "integration/test_delivery.py::test_late_result_of_a_cancelled_task_is_counted_as_stale",
    ),
    6: ("manager/test_delivery.py::test_cancel_aimed_at_a_worker_that_dies_meanwhile_gives_one_outcome",),
    7: ("manager/test_scheduling.py::test_work_that_is_being_moved_is_not_moved_again_at_every_tick",),
    8: (
        "manager/test_workers.py::test_tables_of_workers_are_empty_after_many_joins_and_leaves",
        "chaos/test_churn.py::"
        "test_ten_thousand_connects_and_disconnects_leave_descriptors_tables_and_memory_where_they_were",
    ),
    9: (
        "manager/test_leases.py::test_task_that_kills_its_slot_three_times_fails_with_signal_worker_and_attempts",
        "worker/test_process.py::test_a_death_is_told_by_its_signal_and_the_board_outlives_it",
        "integration/test_slots.py::test_task_that_always_kills_its_slot_fails_and_is_named_with_its_signal",
    ),
    10: (
        f"{HERE}::test_teardown_releases_everything_even_if_a_part_of_it_is_frozen",
        f"{HERE}::test_start_that_fails_half_way_leaves_nothing_and_a_non_zero_exit_code",
    ),
    11: (
        "worker/test_core.py::test_answers_wait_for_a_new_link_and_are_sent_again_until_confirmed",
        "integration/test_delivery.py::test_worker_that_comes_back_within_its_grace_keeps_its_leases",
    ),
    12: (
        f"{HERE}::test_slow_manager_does_not_make_workers_give_up",
        "worker/test_supervisor.py::test_a_manager_of_another_star_is_refused_for_good",
    ),
}
"""Number in the list of how others died: the tests that meet it."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TriedStar]]:
    """Start a star that must be quiet in the end."""
    contexts = []

    def start(workers: int, *options: str) -> TriedStar:
        contexts.append(tried_star(tmp_path, workers=workers, slots=1, manager_options=options))
        return contexts[-1].__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("number", TWELVE)
def test_every_one_of_the_twelve_is_there(number: int) -> None:
    for place in TWELVE[number]:
        path, _, name = place.partition("::")
        text = (TESTS / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), place


def test_send_that_races_the_departure_of_its_peer_raises_nothing_into_the_loop(
    start: Callable[..., TriedStar],
) -> None:
    star = start(1, *QUICK)
    client = star.client()
    linger = struct.pack("ii", 1, 0)  # a RST instead of a FIN
    for number in range(60):
        with Stranger(star, Role.CLIENT, f"s{number}") as stranger:
            stranger.greet(Role.CLIENT)
            stranger.say(codec.encode(StatusRequest()) * (1 + number % 20))
            stranger._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert client.submit(pow, 2, 3).result(SECONDS) == 8


def test_send_to_a_half_dead_peer_does_not_block_the_others(start: Callable[..., TriedStar]) -> None:
    star = start(1)
    array_there = np.arange(4 << 20)
    with Proxy(star.client_port) as wire, Proxy(star.port) as far:
        half_dead, client = through(star, wire), star.client()
        star.start_worker("--manager", far.address, "--name", "far")
        until(lambda: client.slots == 2, "both workers")
        stuck = [half_dead.submit_array(np.negative, array_there) for _ in range(3)]
        until(lambda: client.status()["held_bytes"] or any(future.done() for future in stuck), "bodies on their way")
        wire.pause()
        far.pause()
        begun = time.monotonic()
        done, late = wait([client.submit(pow, number, 2) for number in range(200)], 8.0)
        assert len(done) >= 100, f"{len(late)} tasks of another client hang, {time.monotonic() - begun:.1f} s"
        far.resume()
        wire.resume()
        assert not wait(late, SECONDS).not_done
        for future in stuck:
            assert np.array_equal(future.result(SECONDS), -array_there)
        half_dead.shutdown()


def test_reconnect_under_the_same_identity_does_not_meet_its_own_half_written_request(
    start: Callable[..., TriedStar],
) -> None:
    star = start(0, *QUICK)
    observer = star.client(wait=False)
    words = codec.encode(Job(1, FunctionKind.REGISTERED, bytes(32), "no.such:function", "", 0, 0.0, 0))
    words += codec.encode(Submit(1, 0, False, array("I", [4] * 10), array("Q"), b"head" * 10))
    for cut in (len(words) // 2, len(words) - 1, 20, 3):
        identity = secrets.token_bytes(16)
        with Stranger(star, Role.CLIENT) as first, Stranger(star, Role.CLIENT) as second:
            first.say(hello(Role.CLIENT, "twice", session=identity))
            first._sock.recv(1 << 16)
            first.say(words[:cut])
            second.say(hello(Role.CLIENT, "twice", session=identity))
            second._sock.recv(1 << 16)
            second.say(words)
            until(lambda: 10 in [each["queued"] for each in observer.status()["clients"]], "all tasks, once")
            assert not second.lines()
            second.hang_up()
        until(lambda: len(observer.status()["clients"]) == 1, "the end of the session")


def test_teardown_releases_everything_even_if_a_part_of_it_is_frozen(tmp_path: Path) -> None:
    star = TriedStar(tmp_path, workers=2, slots=1)
    star.client()
    pids = star.processes()
    slots = [slot for pid in star.worker_pids for slot in descendants(pid)]
    for frozen in (slots[0], star.worker_pids[1], star.pids["manager"]):
        os.kill(frozen, signal.SIGSTOP)
    star.close()
    until(lambda: not any(map(is_alive, pids)), "the end of every process", 10)
    assert not star.directory.exists()
    for port in (star.port, star.client_port):
        socket.create_server(("127.0.0.1", port)).close()


def test_start_that_fails_half_way_leaves_nothing_and_a_non_zero_exit_code(place: Place) -> None:
    manager = place.manager("--shards", "2", "--ready-fd", "99", ready=False)
    shards: set[int] = set()

    def look() -> None:
        while manager.running:
            shards.update(descendants(manager.pid))

    looking = threading.Thread(target=look)
    looking.start()
    code = manager.wait()
    looking.join()
    assert code not in (0, None)
    assert len(shards) >= 2
    until(lambda: not any(map(is_alive, shards)), "the end of the shards")
    assert not place.runtime_files()


def test_slow_manager_does_not_make_workers_give_up(start: Callable[..., TriedStar]) -> None:
    star = start(2, *QUICK)
    client = star.client()
    assert client.submit(pow, 2, 3).result(SECONDS) == 8
    workers = star.worker_pids
    os.kill(star.pids["manager"], signal.SIGSTOP)
    try:
        time.sleep(4.0)  # four times as long as anybody keeps silent
        assert all(map(is_alive, workers))
    finally:
        os.kill(star.pids["manager"], signal.SIGCONT)
    assert [future.result(SECONDS) for future in [client.submit(pow, n, 2) for n in range(50)]] == [
        number * number for number in range(50)
    ]
    until(lambda: sum(worker["connected"] for worker in client.status()["workers"]) == 2, "both workers")
    assert star.worker_pids == workers
