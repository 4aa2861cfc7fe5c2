"""A star that is reached by an HTTP proxy only: whoever dials does not even know the manager's address."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import Client
from starcore.errors import UnreachableError

from .proxy import HttpProxy
from .stars import TriedStar, tried_star, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
NAME = "manager.invalid"
"""No name server has it."""
SECONDS = 30.0


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpProxy]:
    with HttpProxy(NAME) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{proxy.address}")
        yield proxy


@pytest.fixture
def star(proxy: HttpProxy, tmp_path: Path) -> Iterator[TriedStar]:
    """One worker, which finds its manager by the proxy."""
    with tried_star(tmp_path, workers=0) as star:
        star.start_worker("--manager", f"{NAME}:{star.port}")
        yield star


def client_of(star: TriedStar) -> Client:
    client = Client(f"{NAME}:{star.client_port}", join=star.join_file("client"), connect_seconds=5)
    star._clients.append(client)
    return client


def test_arrays_travel_by_the_proxy_and_it_reads_none_of_it(star: TriedStar, proxy: HttpProxy) -> None:
    client = client_of(star)
    array = np.arange(1 << 20, dtype=float)
    assert np.array_equal(client.submit_array(np.sqrt, array).result(SECONDS), np.sqrt(array))
    assert {request.splitlines()[0] for request in proxy.requests} == {
        f"CONNECT {NAME}:{port} HTTP/1.1" for port in (star.port, star.client_port)
    }
    shown = {request.splitlines()[2] for request in proxy.requests}
    assert shown == {f"Proxy-Authorization: Basic {base64.b64encode(b'me:secret').decode()}"}
    assert "secret" not in star.log()


def test_proxy_that_was_away_costs_nothing(star: TriedStar, proxy: HttpProxy) -> None:
    client = client_of(star)
    futures: list[Future[Any]] = []
    for number in range(3):
        futures += [client.submit(pow, number, 2) for number in range(500)]
        proxy.refusal = "503 Service Unavailable" if number else ""
        proxy.cut()
        futures += [client.submit(pow, number, 2) for number in range(500)]
        proxy.refusal = ""
    assert [future.result(SECONDS) for future in futures] == [number * number for number in range(500)] * 6
    client.status()  # over a link that stands: the goodbye shall be heard


def test_worker_waits_for_a_proxy_that_lets_it_through(proxy: HttpProxy, tmp_path: Path) -> None:
    proxy.refusal = "407 Proxy Authentication Required"
    with tried_star(tmp_path, workers=0) as star:
        star.start_worker("--manager", f"{NAME}:{star.port}")
        until(lambda: "does not accept this user and password (407 Proxy" in star.log(), "the reason")
        proxy.refusal = ""
        assert star.client().submit(pow, 2, 3).result(SECONDS) == 8
        assert "secret" not in star.log()


def test_client_that_is_not_let_through_says_why(star: TriedStar, proxy: HttpProxy) -> None:
    proxy.refusal = "403 Forbidden"
    with pytest.raises(UnreachableError) as caught:
        client_of(star).status()
    assert f"does not connect anybody to {NAME}:{star.client_port} (403 Forbidden)" in str(caught.value)
    assert "secret" not in str(caught.value)
    proxy.refusal = ""


def test_no_proxy_at_all_says_so(star: TriedStar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCORE_PROXY", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match=r"no way to the proxy at 127.0.0.1:1 \(\$STARCORE_PROXY\): .*refused"):
        client_of(star).status()
    monkeypatch.setenv("STARCORE_PROXY", "none")
    with pytest.raises(UnreachableError, match=f"no machine is known by the name in {NAME}"):
        client_of(star).status()
