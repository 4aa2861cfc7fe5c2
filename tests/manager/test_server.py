"""The manager's memory for chunks, its ports, its signals."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest

from starcore import certificates, errors
from starcore.events import Action, Finished, Log, Peer
from starcore.manager import resources
from starcore.manager.core import Limits
from starcore.manager.server import POOL_BYTES_MAX, BufferPool, Server, ServerOptions, adopt, listen
from starcore.messages import CHUNK_BYTES_MAX, Role


def test_buffers_are_reused_and_small_ones_are_not() -> None:
    pool = BufferPool()
    first = pool.take(CHUNK_BYTES_MAX)
    mark = id(first)
    pool.give(first)
    del first
    assert id(pool.take(CHUNK_BYTES_MAX)) == mark
    small = pool.take(10)
    assert len(small) == 10
    pool.give(small)
    assert pool.free_bytes == 0


@pytest.mark.parametrize("length", [100_000, 130_000, 300_001, CHUNK_BYTES_MAX - 1])
def test_chunk_of_an_odd_length_finds_the_memory_of_a_similar_one(length: int) -> None:
    pool = BufferPool()
    first = pool.take(length)
    assert len(first) == length
    assert isinstance(first, memoryview)
    mark = id(first.obj)
    assert len(first.obj) <= length * 1.25 + 1
    pool.give(first)
    del first
    again = pool.take(length - 7)
    assert len(again) == length - 7
    assert id(again.obj) == mark  # type: ignore[union-attr]
    assert pool.free_bytes == 0


def test_buffer_that_somebody_still_looks_at_is_not_reused() -> None:
    pool = BufferPool()
    buffer = pool.take(CHUNK_BYTES_MAX)
    view = memoryview(buffer)
    pool.give(buffer)
    assert pool.take(CHUNK_BYTES_MAX) is not buffer
    assert len(view) == CHUNK_BYTES_MAX


def test_buffer_that_somebody_looks_at_waits_and_its_neighbour_is_taken() -> None:
    """What finds no room in a socket waits as a view of its buffer, under load nearly always."""
    pool = BufferPool()
    lower, upper = pool.take(CHUNK_BYTES_MAX), pool.take(CHUNK_BYTES_MAX)
    marks = id(lower), id(upper)
    view = memoryview(upper)
    pool.give(lower)
    pool.give(upper)
    del lower, upper
    taken = pool.take(CHUNK_BYTES_MAX)
    assert id(taken) == marks[0]
    view.release()
    assert id(pool.take(CHUNK_BYTES_MAX)) == marks[1]
    assert pool.free_bytes == 0


def test_pool_keeps_no_more_than_its_limit() -> None:
    pool = BufferPool()
    lengths = (CHUNK_BYTES_MAX, CHUNK_BYTES_MAX // 4) * (POOL_BYTES_MAX // CHUNK_BYTES_MAX + 5)
    for buffer in [pool.take(length) for length in lengths]:
        pool.give(buffer)
        assert pool.free_bytes <= POOL_BYTES_MAX
    assert pool.free_bytes == POOL_BYTES_MAX


def test_second_port_that_cannot_be_had_gives_the_first_one_back() -> None:
    taken = listen("127.0.0.1", 0, 0)
    with pytest.raises(errors.AddressError, match="--client-port"):
        listen("127.0.0.1", 0, taken.client)
    assert taken.worker != taken.client
    for each in (*taken.workers, *taken.clients):
        each.close()


async def serve(tmp_path: Path, *, stops: int) -> list[str]:
    star, _ = certificates.create_star(tmp_path / "star", host="127.0.0.1")
    loop = asyncio.get_running_loop()
    said: list[str] = []
    ports = listen("127.0.0.1", 0, 0)
    options = ServerOptions(ports, Limits(drain_seconds=5), on_listening=lambda: said.append("listening"))
    server = Server(certificates.manager_identity(star), options, loop)
    loop.call_later(0.01, lambda: [server.stop() for _ in range(stops)])
    await asyncio.wait_for(server.serve(), 10)
    said.append("ended")
    assert all(each.fileno() == -1 for each in (*ports.workers, *ports.clients))
    with pytest.raises(TypeError, match="does not know"):
        server.perform(Action)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="relays"):
        server.source(1, 2, 3, 4, 5)
    server.perform(Log("info", "a line"))
    server.perform(Finished())
    server.release(None)
    return said


@pytest.mark.parametrize("stops", [1, 2])
def test_server_says_when_it_listens_and_ends_when_it_is_stopped(
    tmp_path: Path, stops: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    with caplog.at_level("INFO", "starcore.manager"):
        assert asyncio.run(serve(tmp_path, stops=stops)) == ["listening", "ended"]
    assert ("stopping at once" in caplog.text) is (stops == 2)
    assert "listening: workers on 127.0.0.1:" in caplog.text
    assert re.search(r"room for \d+ peers", caplog.text)


def test_manager_with_room_for_few_peers_warns_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    monkeypatch.setattr(resources, "raise_descriptors", lambda: 224)
    with caplog.at_level("WARNING", "starcore.manager"):
        asyncio.run(serve(tmp_path, stops=1))
    assert "room for 224 peers" in caplog.text
    assert "LimitNOFILE" in caplog.text


def test_memory_goes_back_after_peers_came_or_went_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(resources, "give_back", lambda: given.append(1))

    async def watch() -> None:
        star, _ = certificates.create_star(tmp_path / "star", host="127.0.0.1")
        ports = listen("127.0.0.1", 0, 0)
        server = Server(certificates.manager_identity(star), ServerOptions(ports), asyncio.get_running_loop())
        server._trim()
        assert not given
        server._connection(lambda ssl_object, address: Peer(Role.CLIENT, "c", address, "f", "star/client/c"))
        server._trim()
        server._trim()
        assert len(given) == 1
        for each in (*ports.workers, *ports.clients):
            each.close()

    asyncio.run(watch())


def test_sockets_that_somebody_else_opened_are_adopted_with_their_ports() -> None:
    opened = listen("127.0.0.1", 0, 0)
    ports = adopt("127.0.0.1", opened.workers[0].detach(), opened.clients[0].detach())
    try:
        assert 0 < ports.worker != ports.client > 0
        assert ports.host == "127.0.0.1"
    finally:
        for listener in (*ports.workers, *ports.clients):
            listener.close()
