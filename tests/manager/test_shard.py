"""A shard in this process, with the test at the other end of its cable and real peers at the doors."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from starcore import certificates, codec
from starcore.errors import Code
from starcore.events import Lost
from starcore.manager import cable, cells
from starcore.manager.cable import CHOKING_BYTES, FIRST_KIND, NUMBER, Cable, Order, Told
from starcore.manager.cells import Loan
from starcore.manager.shard import FAULTS, Shard, main
from starcore.messages import CHUNK_BYTES_MAX, Goodbye, Heartbeat, Notice, Role, Welcome

from .peers import Caller, caller, connected, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: memfd")
WELCOME = Welcome(version=1, epoch=1, resumed=False)
LARGE = os.urandom(CHUNK_BYTES_MAX)


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("star") / "star", host="127.0.0.1")[0]


class Desk:
    """What the switch does, by hand."""

    shard: Shard

    def __init__(self, star: certificates.Star, sock: socket.socket) -> None:
        self.star = star
        self.told: list[tuple[int, bytes, bytes]] = []
        self.cut = False
        self.cable = Cable(sock, asyncio.get_running_loop(), self._hear, self._cut)
        self.memory = cells.create()
        identity = dataclasses.asdict(certificates.manager_identity(star))
        setup = {"identity": identity, "greeting_seconds": 0.5, "idle_bytes": 16 << 20, "unread_bytes": 1 << 30}
        self.setup = json.dumps(setup).encode()
        self.cable.say(Order.SETUP, b"", self.setup)
        self.cable.hand(Order.MEMORY, cable.MEMORY.pack(1, True), b"", os.dup(self.memory))

    def _hear(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        self.told.append((kind, bytes(meta), bytes(payload)))

    def _cut(self) -> None:
        self.cut = True

    def order(self, kind: Order, link: int, payload: bytes = b"") -> None:
        self.cable.say(kind, NUMBER.pack(link), payload)

    def of(self, kind: int) -> list[tuple[bytes, bytes]]:
        return [(meta, payload) for told, meta, payload in self.told if told == kind]

    def read(self) -> list[int]:
        """The orders to send a cell's bytes that were carried out."""
        return [order for meta, _ in self.of(Told.READ) for (order,) in NUMBER.iter_unpack(meta)]

    async def peer(self, link: int, role: Role = Role.CLIENT, port: Role = Role.CLIENT) -> Caller:
        """Have a peer dial, and hand its connection over."""
        peer = caller(self.star, role)
        dialed, accepted = connected()
        self.cable.hand(Order.ADOPT, cable.ADOPT.pack(link, port), b"192.0.2.7:5000", accepted.detach())
        await peer.dial(dialed)
        await until(lambda: self.of(Told.OPENED) or self.of(Told.LOST))
        return peer

    async def welcomed(self, link: int) -> Caller:
        """A peer whose link takes chunks."""
        count = len(self.of(Told.OPENED))
        peer = await self.peer(link)
        await until(lambda: len(self.of(Told.OPENED)) == count + 1)
        self.cable.say(Order.GREETED, cable.GREETED.pack(link, WELCOME.silence_seconds))
        self.order(Order.WRITE, link, codec.encode(WELCOME))
        await until(peer.core.heard)
        return peer


def maps() -> int:
    """How many memories are mapped in this process."""
    return Path("/proc/self/maps").read_text().count("starcore-cells")


def run(star: certificates.Star, test: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        here, there = socket.socketpair()
        loop = asyncio.get_running_loop()
        shard = Shard(there, loop, logging.getLogger("starcore.manager.shard7"))
        serving = loop.create_task(shard.serve())
        desk = Desk(star, here)
        desk.shard = shard
        try:
            await until(lambda: desk.of(Told.READY))
            await test(desk)
        finally:
            desk.cable.close()
            await asyncio.wait_for(serving, 10)
            os.close(desk.memory)

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(both())
    finally:
        loop.close()


def test_peer_is_named_and_its_messages_go_through_as_they_came(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        first, second = await desk.welcomed(11), await desk.welcomed(12)
        (_, payload), _ = desk.of(Told.OPENED)
        told = json.loads(payload)
        assert told["role"] == Role.CLIENT
        assert told["address"].startswith("127.0.0.1:")
        assert len(told["fingerprint"]) == 64
        del desk.told[:]
        first.say(Notice(1, "a"), Heartbeat())
        await until(lambda: len(desk.told) == 3)
        second.say(Notice(1, "b"))
        await until(lambda: len(desk.told) == 5)
        froms = [NUMBER.unpack(meta)[0] if kind == Told.FROM else None for kind, meta, _ in desk.told]
        assert froms == [11, None, None, 12, None]
        messages = [codec.decode(*frame) for frame in desk.told if frame[0] != Told.FROM]
        assert messages == [Notice(1, "a"), Heartbeat(), Notice(1, "b")]

    run(star, test)


def test_chunk_lies_in_a_cell_and_a_neighbour_sends_it_from_there(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        giver, taker = await desk.welcomed(11), await desk.welcomed(12)
        giver.send(5, LARGE)
        ((meta, _),) = await until(lambda: desk.of(Told.ARRIVED))
        link, stream, attempt, length, offset, cell = cable.ARRIVED.unpack(meta)
        assert (link, stream, attempt, length, offset) == (11, 5, 1, len(LARGE), 0)
        assert bytes(Loan(desk.memory).piece(cell, 0, length)) == LARGE
        desk.cable.say(Order.SEND, cable.SEND.pack(12, 6, 1, 70_000, 0, 1, cell, 1000))
        await until(lambda: taker.got(6))
        assert taker.got(6) == LARGE[1000:71_000]
        await until(lambda: desk.of(Told.ROOM) == [(NUMBER.pack(12), b"")])
        await until(lambda: desk.of(Told.READ) == [(NUMBER.pack(1), b"")])
        desk.order(Order.FREE, cell)
        desk.order(Order.WRITE, 12, codec.encode(Notice(1, "freed")))
        await until(lambda: Notice(1, "freed") in taker.core.heard())
        giver.send(7, LARGE)
        _, (meta, _) = await until(lambda: len(desk.of(Told.ARRIVED)) == 2 and desk.of(Told.ARRIVED))
        assert cable.ARRIVED.unpack(meta)[-1] == cell

    run(star, test)


def test_peer_that_does_not_read_keeps_only_its_own_cells(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        giver, deaf, quick = await desk.welcomed(11), await desk.welcomed(12), await desk.welcomed(13)
        giver.send(5, LARGE)
        ((meta, _),) = await until(lambda: desk.of(Told.ARRIVED))
        cell = cable.ARRIVED.unpack(meta)[-1]
        transport: Any = next(iter(deaf.driver._links.values()))._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        for _ in range(16):  # far more than the kernel takes
            desk.cable.say(Order.SEND, cable.SEND.pack(12, 6, 1, len(LARGE), 0, 1, cell, 0))
        desk.cable.say(Order.SEND, cable.SEND.pack(13, 7, 1, 70_000, 0, 1, cell, 0))
        await until(lambda: quick.got(7))
        await until(lambda: 17 in desk.read())
        assert 16 not in desk.read()
        transport.resume_reading()
        await until(lambda: sorted(desk.read()) == list(range(1, 18)))

    run(star, test)


def test_short_chunks_travel_inside_both_ways(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        peer.send(5, b"short")
        ((meta, payload),) = await until(lambda: desk.of(Told.BROUGHT))
        assert cable.BROUGHT.unpack(meta) == (11, 5, 1, 0)
        assert payload == b"short"
        desk.cable.say(Order.HAND, cable.BROUGHT.pack(11, 6, 1, 0), b"as short")
        assert await until(lambda: peer.got(6)) == b"as short"
        await until(lambda: desk.of(Told.ROOM))

    run(star, test)


def test_neighbours_memory_comes_and_goes(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        mapped = maps()
        other = cells.create()
        os.pwrite(other, b"from elsewhere", 3 << 16)
        desk.cable.hand(Order.MEMORY, cable.MEMORY.pack(2, False), b"", os.dup(other))
        desk.cable.say(Order.SEND, cable.SEND.pack(11, 6, 1, 9, 0, 2, 3 << 16, 5))
        assert await until(lambda: peer.got(6)) == b"elsewhere"
        await until(lambda: desk.of(Told.READ))
        assert maps() == mapped + 1
        desk.order(Order.FORGET, 2)
        desk.order(Order.WRITE, 11, codec.encode(Notice(1, "still here")))
        await until(lambda: Notice(1, "still here") in peer.core.heard())
        assert maps() == mapped
        os.close(other)

    run(star, test)


@pytest.mark.parametrize("kind", [FIRST_KIND, Told.ARRIVED, 127])
def test_peer_cannot_speak_as_a_shard(star: certificates.Star, kind: int) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        del desk.told[:]
        peer.write(cable.HEADER.pack(0x4353, kind, 0, 44, 0) + bytes(44))
        ((told, meta, payload),) = await until(lambda: desk.told)
        assert told == Told.FAULT
        link, which = cable.FAULT.unpack(meta)
        assert (link, FAULTS[which].__name__) == (11, "UnknownMessageError")
        assert payload == b"no message has the kind %d" % kind

    run(star, test)


def test_garbage_is_told_once_and_the_goodbye_still_reaches_its_sender(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        peer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await until(lambda: desk.of(Told.FAULT))
        peer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.02)
        assert len(desk.of(Told.FAULT)) == 1
        desk.order(Order.WRITE, 11, codec.encode(Goodbye(Code.FRAME, "no")))
        desk.order(Order.CLOSE, 11)
        await until(lambda: peer.core.seen(Lost))
        assert peer.core.heard()[-1] == Goodbye(Code.FRAME, "no")
        assert not desk.of(Told.LOST), "who closes a link need not hear of its end"

    run(star, test)


def test_wrong_role_and_broken_handshake_are_told_with_the_shards_number(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)

    async def test(desk: Desk) -> None:
        worker = await desk.peer(11, role=Role.WORKER)
        await until(lambda: any(isinstance(message, Goodbye) for message in worker.core.heard()))
        _, silent = connected()
        desk.cable.hand(Order.ADOPT, cable.ADOPT.pack(12, Role.CLIENT), b"192.0.2.8:1", silent.detach())
        await until(lambda: len(desk.of(Told.LOST)) == 2)
        assert [NUMBER.unpack(meta)[0] for meta, _ in desk.of(Told.LOST)] == [11, 12]

    with caplog.at_level("WARNING"):
        run(star, test)
    assert {record.name for record in caplog.records} == {"starcore.manager.shard7"}
    assert "shows the certificate of a worker" in caplog.text
    assert "refused 192.0.2.8:1: the TLS handshake failed" in caplog.text


def test_connection_that_there_is_no_descriptor_for_is_told_as_lost(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)

    async def test(desk: Desk) -> None:
        desk.cable.say(Order.ADOPT, cable.ADOPT.pack(11, Role.CLIENT), b"192.0.2.7:5000")
        ((meta, reason),) = await until(lambda: desk.of(Told.LOST))
        assert NUMBER.unpack(meta)[0] == 11
        assert b"raise its limit" in reason
        await desk.welcomed(12)

    run(star, test)
    assert "refused 192.0.2.7:5000: this process may have no more files open" in caplog.text
    assert "a fault of our own" not in caplog.text


def test_peer_that_leaves_in_the_middle_of_a_chunk_gives_its_cell_back(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        connection: Any = next(iter(peer.driver._links.values()))
        connection._transport.write(cable.HEADER.pack(0x4353, 5, 0, 24, CHUNK_BYTES_MAX) + bytes(50_000))
        await asyncio.sleep(0.02)
        connection.abort()
        await until(lambda: desk.of(Told.LOST))
        other = await desk.welcomed(12)
        other.send(5, LARGE)
        ((meta, _),) = await until(lambda: desk.of(Told.ARRIVED))
        assert cable.ARRIVED.unpack(meta)[-1] == 0, "the first cell was free again"

    run(star, test)


def test_shard_without_memory_costs_the_connection_and_says_so(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)

    def full(*_: object) -> None:
        raise OSError("no space")

    async def test(desk: Desk) -> None:
        peer, other = await desk.welcomed(11), await desk.welcomed(12)
        monkeypatch.setattr(os, "posix_fallocate", full)
        peer.send(5, LARGE)
        ((meta, payload),) = await until(lambda: desk.of(Told.LOST))
        assert NUMBER.unpack(meta)[0] == 11
        assert b"no memory left" in payload
        other.say(Heartbeat())
        await until(lambda: desk.told[-1][0] == 4)

    with caplog.at_level("ERROR"):
        run(star, test)
    assert "no memory for a chunk of" in caplog.text


def test_order_that_cannot_be_carried_out_costs_one_link(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)

    async def test(desk: Desk) -> None:
        await desk.welcomed(11)
        other = await desk.welcomed(12)
        desk.cable.say(Order.SEND, cable.SEND.pack(11, 6, 1, 9, 0, 99, 0, 0))
        ((meta, _),) = await until(lambda: desk.of(Told.LOST))
        assert NUMBER.unpack(meta)[0] == 11
        other.say(Heartbeat())
        await until(lambda: desk.told[-1][0] == 4)

    run(star, test)
    assert "a fault of our own" in caplog.text


def test_leave_lets_the_last_words_out_and_hangs_up(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        desk.order(Order.WRITE, 11, codec.encode(Goodbye(Code.DRAINING, "bye")))
        desk.cable.say(Order.LEAVE)
        await until(lambda: desk.cut)
        await until(lambda: peer.core.seen(Lost))
        assert peer.core.heard()[-1] == Goodbye(Code.DRAINING, "bye")

    run(star, test)


def test_choked_shard_reads_nothing_until_the_cable_has_room(star: certificates.Star) -> None:
    async def test(desk: Desk) -> None:
        peer = await desk.welcomed(11)
        loop = asyncio.get_running_loop()
        loop.remove_reader(desk.cable._socket)
        text, count = "x" * 60_000, 400
        peer.say(*[Notice(1, text)] * count)
        await until(lambda: desk.shard._choked)
        await asyncio.sleep(0.1)
        waiting = desk.shard._cable._unsent_bytes
        assert desk.shard._choked
        assert 0 < waiting < 2 * CHOKING_BYTES < count * len(text), "TCP held the peer back"
        loop.add_reader(desk.cable._socket, desk.cable._readable)
        await until(lambda: len(desk.of(34)) == count)

    run(star, test)


def test_process_ends_with_its_cable_and_not_by_a_signal(star: certificates.Star) -> None:
    async def ends() -> None:
        here, there = socket.socketpair()
        command = [sys.executable, "-m", "starcore.manager.shard", "--cable", str(there.fileno()), "--number", "3"]
        root = Path(__file__).resolve().parents[2]
        with there, subprocess.Popen(command, pass_fds=(there.fileno(),), cwd=root) as process:
            there.close()
            desk = Desk(star, here)
            await until(lambda: desk.of(Told.READY))
            for number in (signal.SIGTERM, signal.SIGINT):
                process.send_signal(number)
            desk.cable.say(Order.SETUP, b"", desk.setup)
            await until(lambda: len(desk.of(Told.READY)) == 2, "it is still there")
            desk.cable.close()
            assert await asyncio.to_thread(process.wait, 10) == 0

    asyncio.run(ends())


def test_it_is_no_command_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "--cable" in capsys.readouterr().err
