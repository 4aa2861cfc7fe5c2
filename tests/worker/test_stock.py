"""What lies in the arena for whom."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import pytest

from starcore.events import Event
from starcore.worker import stock as stock_module
from starcore.worker.arena import Arena
from starcore.worker.channel import IN_ARGUMENT, Done
from starcore.worker.orders import Allocate, Allocated, Release
from starcore.worker.stock import Stock

MIB = 1 << 20


class World:
    """A stock on a loop of its own, and the events that came of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.loop = asyncio.new_event_loop()
        self.arena = Arena(64 * MIB)
        self.stock = Stock(self.arena, self.loop, self.events.append, list)


@pytest.fixture
def world() -> Any:
    found = World()
    yield found
    found.stock.close()
    found.loop.run_until_complete(found.loop.shutdown_default_executor())
    found.loop.close()


def test_chunks_land_where_memory_was_made_for_their_stream_and_attempt(world: World) -> None:
    world.stock.allocate(Allocate(7, 2, 100))
    assert world.events == [Allocated(7)]
    landing = world.stock.destination(7, 2, 90, 10)
    assert landing is not None
    landing[:] = b"0123456789"
    assert bytes(world.stock.piece(7).view(90, 10)) == b"0123456789"
    assert world.stock.destination(7, 1, 90, 10) is None
    assert world.stock.destination(7, 2, 91, 10) is None
    assert world.stock.destination(8, 2, 0, 10) is None


def test_released_memory_is_used_again(world: World) -> None:
    world.stock.allocate(Allocate(7, 1, MIB))
    piece = world.stock.piece(7)
    world.stock.release(Release(7))
    world.stock.allocate(Allocate(8, 1, MIB))
    assert world.stock.piece(8) is piece


def test_kept_memory_is_let_go(world: World) -> None:
    world.stock.allocate(Allocate(7, 1, MIB))
    world.stock.release(Release(7, kept=True))
    assert world.arena.total_bytes == 0


def test_an_answer_in_its_argument_goes_with_it(world: World) -> None:
    world.stock.allocate(Allocate(7, 1, 100))
    world.stock.piece(7).view(10, 5)[:] = b"hello"
    done = Done(1, 0, IN_ARGUMENT, 1, 10, 5, False, b"\0", array("d", [0]), array("I", [0]), b"")
    world.stock.put_answer(7, None, done)  # type: ignore[arg-type]
    assert bytes(world.stock.source(7, 1, 3)) == b"ell"
    world.stock.release(Release(7))
    with pytest.raises(KeyError):
        world.stock.source(7, 0, 1)


def test_large_memory_is_made_in_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_module, "THREAD_BYTES_MIN", MIB)

    async def made() -> None:
        world.stock.allocate(Allocate(7, 1, MIB))
        world.stock.allocate(Allocate(8, 1, MIB))
        world.stock.release(Release(8))
        assert world.events == []
        await asyncio.gather(*world.stock._tasks)

    world.loop.run_until_complete(made())
    assert world.events == [Allocated(7)]
    assert world.arena.free_bytes == MIB


def test_memory_that_cannot_be_had_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.arena, "create", none)
    world.stock.allocate(Allocate(7, 1, 100))
    assert world.events == [Allocated(7, "No space left on device")]
