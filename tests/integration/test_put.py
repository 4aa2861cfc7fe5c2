"""`client.put` on a real star: the right bytes in every shape, once in memory, and through every kind of death."""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import ArgumentTypeError, ArgumentValueError, Client, LoadError, Ref, SessionLostError, UnrunnableError

from .proxy import Proxy
from .stars import TriedStar, children, tried_star, until
from .test_delivery import leave, through

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
SECONDS = 30.0
LARGE = 1 << 18


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    with tried_star(tmp_path_factory.mktemp("put"), workers=2, slots=2) as star:
        yield star


@pytest.fixture
def client(star: TriedStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


def describe(value: Any) -> tuple[Any, ...]:
    return value.dtype.str, value.shape, value.flags.writeable, value.tobytes()


def mapped(pids: list[int], least: int = 8 << 20) -> dict[int, int]:
    """By process: how many bytes of the arena's segments of such a size it has mapped; smaller ones wait to be used."""
    found = {}
    for pid in pids:
        size = 0
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            size += high - low if "starcore-arena" in line and high - low >= least else 0
        found[pid] = size
    return found


@pytest.mark.parametrize(
    "value",
    [
        np.arange(LARGE, dtype=float),
        np.asfortranarray(np.arange(LARGE, dtype="<i4").reshape(512, -1)),
        np.arange(LARGE, dtype=np.int16).reshape(256, -1)[::3, ::2],
        np.arange(5).astype("datetime64[s]"),
        np.zeros((0, 7), dtype=np.complex64),
        np.array(3.5),
        np.arange(LARGE, dtype=float)[: LARGE // 2].view([("a", "<f4"), ("b", "<u4")]),
    ],
    ids=["float", "fortran", "strided", "small", "empty", "scalar", "fields"],
)
def test_array_is_the_same_in_every_task_and_cannot_be_written_to(client: Client, value: Any) -> None:
    with client.put(value) as ref:
        got = [future.result(SECONDS) for future in [client.submit(describe, ref) for _ in range(5)]]
    expected = value.dtype.str, value.shape, value.size == 0, value.tobytes()
    assert got == [expected] * 5


def test_ref_may_stand_anywhere_in_a_call(client: Client) -> None:
    table = np.arange(LARGE, dtype=float)
    ref = client.put(table)
    inner = client.put({"table": ref, "name": "outer"})

    def closure(at: int) -> float:
        return float(ref[at])  # type: ignore[index]

    assert client.submit(lambda nested: float(nested["a"][0].sum()), {"a": [ref]}).result(SECONDS) == table.sum()
    assert client.submit(lambda at, values: float(values[at]), 7, values=ref).result(SECONDS) == 7.0
    assert client.submit(closure, 9).result(SECONDS) == 9.0
    assert client.submit(lambda outer: (outer["name"], float(outer["table"][3])), inner).result(SECONDS) == ("outer", 3)
    assert list(client.map(lambda values, at: float(values[at]), [ref] * 300, range(300))) == list(range(300))
    assert client.submit_array(lambda a, b: a + b[:3], np.ones(3), args=(ref,)).result(SECONDS).tolist() == [1, 2, 3]
    assert client.submit_array(np.sum, ref).result(SECONDS) == table.sum()
    out = np.empty(LARGE)
    blocks = client.submit_array(lambda a, b: a + b[0], table, args=(ref,), chunks=LARGE // 4, out=out)
    assert blocks.result(SECONDS) is out and (out == table).all()
    assert (client.submit(lambda values: values, ref).result(SECONDS) == table).all()


def test_task_cannot_write_unless_it_gets_a_copy_of_its_own(client: Client) -> None:
    def write(values: Any) -> float:
        values[0] += 1
        return float(values[0])

    zeros = np.zeros(LARGE)
    with client.put(zeros) as ref, client.put(zeros, writable=True) as own:
        with pytest.raises(ValueError, match="read-only"):
            client.submit(write, ref).result(SECONDS)
        assert [client.submit(write, own).result(SECONDS) for _ in range(4)] == [1.0] * 4


def test_all_slots_of_a_worker_map_one_copy_and_let_it_go(star: TriedStar, client: Client) -> None:
    slots = [slot for pid in star.worker_pids for slot in children(pid)]
    value = np.random.default_rng(0).random(1 << 20)
    ref = client.put(value)
    futures = [client.submit(lambda a, _: (time.sleep(0.02), float(a.sum())), ref, at) for at in range(40)]
    assert {future.result(SECONDS)[1] for future in futures} == {float(value.sum())}
    assert all(size >= value.nbytes for size in mapped(slots).values())
    assert all(value.nbytes <= size < 2 * value.nbytes for size in mapped(star.worker_pids).values())
    del futures
    ref.release()
    until(lambda: not any(mapped([*slots, *star.worker_pids]).values()), "the value is gone from every process")


def test_value_goes_with_the_last_ref_by_garbage_collection(star: TriedStar, client: Client) -> None:
    ref = client.put(np.ones(1 << 20))
    future = client.submit(lambda a: (time.sleep(0.2), float(a.sum()))[1], ref)
    del ref
    gc.collect()
    assert future.result(SECONDS) == 1 << 20
    until(lambda: not client.status()["jobs"], "the manager has forgotten it")
    until(lambda: not any(mapped(star.worker_pids).values()), "and the workers too")


def test_wrong_use_is_one_line_where_it_happens(star: TriedStar, client: Client) -> None:
    ref = client.put(np.ones(3))
    with star.client() as other, pytest.raises(ArgumentValueError, match="by another client"):
        other.submit(np.sum, ref)
    with pytest.raises(ArgumentTypeError, match="cannot be pickled"):
        client.put(os.scandir("/"))
    with pytest.raises(ArgumentValueError, match="neither cut nor copied"):
        client.submit_array(np.sum, ref, chunks=2)
    with pytest.raises(LoadError, match="only in the calls"):
        pickle.loads(pickle.dumps(ref))
    ref.release()
    with pytest.raises(ArgumentValueError, match="was released"):
        client.submit(np.sum, ref)
    done = star.client()
    done.shutdown()
    with pytest.raises(SessionLostError, match="was shut down"):
        done.put(1)


def test_value_that_fits_no_arena_fails_its_tasks_with_the_sizes(tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=1, slots=1, worker_options=["--arena", "64M"]) as star, star.client() as client:
        ref = client.put(np.zeros(9 << 20))
        with pytest.raises(UnrunnableError, match=r"put values of 75497472 bytes fit no worker: .* 67108864 bytes"):
            client.submit(np.sum, ref).result(SECONDS)
        assert client.submit(np.sum, client.put(np.ones(1 << 20))).result(SECONDS) == 1 << 20


def test_values_beyond_the_arena_take_turns(tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=1, slots=2, worker_options=["--arena", "64M"]) as star, star.client() as client:
        refs = [client.put(np.full(3 << 20, number, float)) for number in range(4)]
        for _ in range(2):
            got = [client.submit(lambda a: float(a[-1]), ref) for ref in refs]
            assert [future.result(SECONDS) for future in got] == [0, 1, 2, 3]


def test_values_live_through_the_death_of_slots_workers_and_the_manager(tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=2, slots=2) as star, star.client() as client:
        value = np.random.default_rng(1).random(1 << 20)
        ref = client.put(value)

        def slow(values: Any, at: int) -> float:
            time.sleep(0.01)
            return float(values[at])

        futures = [client.submit(slow, ref, at) for at in range(400)]
        until(lambda: sum(future.done() for future in futures) > 20, "some are done")
        os.kill(children(star.worker_pids[0])[0], 9)
        star.kill_worker(star.worker_pids[1])
        star.start_worker()  # one that joins late
        until(lambda: sum(future.done() for future in futures) > 120, "more are done")
        star.kill_manager()
        star.restart_manager()
        assert [future.result(SECONDS) for future in futures] == value[:400].tolist()
        ref.release()


def test_value_on_its_way_survives_cuts_of_the_clients_connection(star: TriedStar) -> None:
    with Proxy(star.client_port) as proxy:
        client = through(star, proxy)
        value = np.random.default_rng(2).random(1 << 22)
        futures = [client.submit(lambda a, at: float(a[at]), client.put(value), at) for at in range(8)]
        for _ in range(3):
            time.sleep(0.03)
            proxy.cut()
        assert [future.result(SECONDS) for future in futures] == value[:8].tolist()
        leave(client)


def test_ref_says_what_it_is(client: Client) -> None:
    ref = client.put(np.ones(LARGE))
    assert type(ref) is Ref
    assert ref.nbytes == 8 * LARGE
    assert repr(ref).startswith("<starcore.Ref ") and repr(ref).endswith(f"{8 * LARGE} bytes>")
