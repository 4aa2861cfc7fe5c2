"""Frames and descriptors from end to end of a cable, in their order, and what an end hears when the other is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from starcore.manager import cable
from starcore.manager.cable import CHOKING_BYTES, FIRST_KIND, Cable, Order, Told
from starcore.messages import KIND_MAX


class End:
    """One end, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[tuple[int, bytes, bytes]] = []
        self.descriptors: list[int] = []
        self.cuts = 0
        self.chokes: list[bool] = []
        self.cable = Cable(sock, asyncio.get_running_loop(), self._hear, self._cut, self.chokes.append)

    def _hear(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        self.heard.append((kind, bytes(meta), bytes(payload)))
        if kind == Order.MEMORY:
            self.descriptors.append(self.cable.descriptor())

    def _cut(self) -> None:
        self.cuts += 1

    async def until(self, condition: Callable[[], Any]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0)

        await asyncio.wait_for(wait(), 10)


def run(test: Callable[[End, End], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        here, there = (End(sock) for sock in socket.socketpair())
        try:
            await test(here, there)
        finally:
            here.cable.close()
            there.cable.close()

    asyncio.run(main())


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_nothing_is_lost_where_the_system_has_no_room_for_a_moment(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, refusals = Cable._send, [number] * 3

    def sometimes(end: Cable, data: memoryview, descriptor: int | None) -> int:
        if refusals:
            raise OSError(refusals.pop(), "no room")
        return send(end, data, descriptor)

    monkeypatch.setattr(Cable, "_send", sometimes)

    async def test(here: End, there: End) -> None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        here.cable.hand(Order.MEMORY, b"1", b"", descriptor)
        here.cable.say(Order.WRITE, b"2", b"behind it")
        await there.until(lambda: len(there.heard) == 2)
        assert there.heard == [(Order.MEMORY, b"1", b""), (Order.WRITE, b"2", b"behind it")]
        os.close(there.descriptors.pop())

    run(test)


def test_frames_arrive_whole_and_in_order_whatever_their_size() -> None:
    said = [(Order.WRITE, bytes([i]), bytes([i]) * (i * 3001)) for i in range(200)]

    async def test(here: End, there: End) -> None:
        for frame in said:
            here.cable.say(*frame)
        await there.until(lambda: len(there.heard) == len(said))
        assert there.heard == said

    run(test)


def test_what_is_in_no_hurry_is_not_overtaken_and_leaves_alone_in_the_end() -> None:
    async def test(here: End, there: End) -> None:
        here.cable.say(Order.FREE, b"1", hurry=False)
        here.cable.say(Order.CLOSE, b"2")
        here.cable.say(Order.FREE, b"3", hurry=False)
        await there.until(lambda: len(there.heard) == 3)
        assert [meta for _, meta, _ in there.heard] == [b"1", b"2", b"3"]

    run(test)


def test_descriptors_come_with_their_frames_and_are_closed_here() -> None:
    async def test(here: End, there: End) -> None:
        for number in range(100):
            reading, writing = os.pipe()
            os.write(writing, bytes([number]))
            os.close(writing)
            here.cable.say(Order.WRITE, b"before", bytes(5000))
            here.cable.hand(Order.MEMORY, b"", b"", reading)
        await there.until(lambda: len(there.descriptors) == 100)
        assert [os.read(each, 1)[0] for each in there.descriptors] == list(range(100))
        assert not any(os.get_inheritable(each) for each in there.descriptors)
        for each in there.descriptors:
            os.close(each)

    run(test)


def test_end_is_heard_once_and_what_is_said_then_goes_nowhere() -> None:
    async def test(here: End, there: End) -> None:
        there.cable.say(Told.READY)
        there.cable.flush()
        there.cable.close()
        await here.until(lambda: here.cuts)
        assert here.heard == [(Told.READY, b"", b"")]
        here.cable.say(Order.LEAVE)
        here.cable.flush()
        reading, writing = os.pipe()
        here.cable.hand(Order.MEMORY, b"", b"", reading)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reading)
        os.close(writing)
        assert (here.cuts, there.cuts) == (1, 0)

    run(test)


def test_end_that_reads_nothing_chokes_the_other_one_until_it_does() -> None:
    async def test(here: End, there: End) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(there.cable._socket)
        reading, writing = os.pipe()
        count = CHOKING_BYTES // 100_000 + 30
        for _ in range(count):
            here.cable.say(Order.WRITE, b"", bytes(100_000))
            here.cable.flush()
        here.cable.hand(Order.MEMORY, b"", b"", reading)
        assert here.chokes == [True]
        loop.add_reader(there.cable._socket, there.cable._readable)
        await there.until(lambda: len(there.heard) == count + 1)
        assert here.chokes == [True, False]
        os.close(there.descriptors.pop())
        os.close(writing)

    run(test)


def test_descriptors_that_never_left_are_closed_with_the_cable() -> None:
    async def test(here: End, there: End) -> None:
        asyncio.get_running_loop().remove_reader(there.cable._socket)
        here.cable.say(Order.WRITE, b"", bytes(1 << 20))
        here.cable.say(Order.WRITE, b"", bytes(1 << 20))
        reading, writing = os.pipe()
        here.cable.hand(Order.MEMORY, b"", b"", reading)
        here.cable.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reading)
        os.close(writing)

    run(test)


def test_kinds_are_beyond_those_of_the_wire() -> None:
    assert all(FIRST_KIND <= kind <= KIND_MAX for kind in (*Told, *Order))
    assert cable.NUMBER.size == 8
