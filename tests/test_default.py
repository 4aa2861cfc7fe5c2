"""default.py: whom the module-level calls talk to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from client.inline_manager import InlineStar, inline_star

import starcore
from starcore import LocalStar, default
from starcore.client.api import Client
from starcore.errors import ArgumentValueError, UnconfiguredError

SECONDS = 10.0
A = np.arange(12.0).reshape(4, 3)


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineStar]:
    with inline_star(tmp_path_factory.mktemp("star"), {}) as star:
        yield star


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(default._Default, "client", None)
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(tmp_path / "run"))
    yield
    if default._Default.client is not None:
        default._Default.client.shutdown()


@pytest.mark.usefixtures("no_default")
def test_module_level_calls_use_what_was_connected(star: InlineStar) -> None:
    client = default.connect(star.address, join=star.join)
    assert default.default_client() is client
    assert default.submit(abs, -2).result(SECONDS) == 2
    assert list(default.map(abs, [-1, 2])) == [1, 2]
    assert default.run([A], np.sum) == [66.0]
    assert default.submit_array(np.sum, A, retries=1, timeout=5.0, priority=2).result(SECONDS) == 66.0
    with pytest.raises(ArgumentValueError, match="stands for no task"):
        starcore.story(Future())
    second = default.connect(star.address, join=star.join)
    assert default.default_client() is second
    with pytest.raises(RuntimeError):
        client.submit(abs, 1)


@pytest.mark.usefixtures("no_default")
def test_default_client_is_the_configured_one(star: InlineStar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCORE_JOIN", str(star.join))
    monkeypatch.setenv("STARCORE_MANAGER", star.address)
    found: list[Client] = []
    threads = [threading.Thread(target=lambda: found.append(default.default_client())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0].address == star.address


@pytest.mark.usefixtures("no_default")
def test_nothing_configured_means_a_local_star(monkeypatch: pytest.MonkeyPatch, star: InlineStar) -> None:
    started: list[Client] = []

    def start() -> Client:
        started.append(Client(star.address, join=star.join))
        return started[0]

    monkeypatch.setattr("starcore.local.start_default", start)
    assert default.default_client() is default.default_client() is started[0]
    assert len(started) == 1


@pytest.mark.usefixtures("no_default")
def test_detached_call_needs_a_manager_that_stays(monkeypatch: pytest.MonkeyPatch, star: InlineStar) -> None:
    monkeypatch.setattr("starcore.local.start_default", lambda: Client(star.address, join=star.join))
    assert starcore.submit(abs, -1).result(SECONDS) == 1
    for call in (
        lambda: starcore.submit_array(np.negative, A, detach=True),
        lambda: starcore.map(abs, [1], name="scan-7"),
    ):
        with pytest.raises(UnconfiguredError, match="ends with this process: start one"):
            call()
    client = Client()  # with nothing configured, of a star that was started for it
    for use in (
        lambda: client.detached("scan-7").submit(abs, -1),
        lambda: client.options(retries=1).detached().submit_array(np.negative, A, chunks=2),
        lambda: client.job("scan-7"),
        client.jobs,
    ):
        with pytest.raises(UnconfiguredError, match="ends with this process: start one"):
            use()
    client.shutdown()
    with LocalStar(workers=1) as real:
        monkeypatch.setattr(default._Default, "client", real.client())
        job = starcore.submit_array(np.negative, A, chunks=2, detach=True, name="scan-7", priority=1)
        assert np.array_equal(job.result(SECONDS), -A)
        assert starcore.map(abs, [-2, 3], detach=True).result(SECONDS) == [2, 3]
        default._Default.client.shutdown()
