"""The client on asyncio's own loop, where there is no uvloop: one smoke test of everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from starcore import Client, LocalStar, TaskTimeoutError

from .processes import eventually

SECONDS = 30.0


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalStar(workers=2, slots=1) as star, star.client(loop="asyncio") as client:
        assert type(client._live()._loop).__module__.startswith("asyncio")
        yield client


@pytest.mark.parametrize("size", [10, 300_000])
def test_arrays_there_and_back(client: Client, size: int) -> None:
    array, out = np.arange(float(size)), np.empty(size)
    assert np.array_equal(client.submit_array(np.negative, array).result(SECONDS), -array)
    assert np.array_equal(client.submit_array(np.negative, array[::-2]).result(SECONDS), -array[::-2])
    assert client.submit_array(np.negative, array, chunks=size // 4, out=out).result(SECONDS) is out
    assert np.array_equal(out, -array)
    parts = client.submit_array(lambda a: {"left": a[: size // 2], "right": a[size // 2 :]}, array).result(SECONDS)
    assert np.array_equal(np.concatenate([parts["left"], parts["right"]]), array)


def test_calls_maps_cancels_and_failures(client: Client) -> None:
    futures = [client.submit(pow, 2, i) for i in range(2000)]
    assert [future.result(SECONDS) for future in futures] == [2**i for i in range(2000)]
    assert list(client.map(abs, range(-5000, 0))) == list(range(5000, 0, -1))
    with pytest.raises(ZeroDivisionError):
        client.submit(divmod, 1, 0).result(SECONDS)
    with pytest.raises(TaskTimeoutError):
        client.options(timeout=0.2).submit(time.sleep, 60).result(SECONDS)
    running = client.submit(time.sleep, 60)
    eventually(running.running, "it runs")
    assert client.cancel(running)
    assert client.status()


def test_function_of_20_megabytes(client: Client) -> None:
    weights: Any = np.arange(2_500_000.0)
    assert client.submit(lambda i: weights[i], 77).result(SECONDS) == 77.0
