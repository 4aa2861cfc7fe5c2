"""The switch with real shards, a real driver and a core that does what the test says; real peers dial."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from starcore import certificates
from starcore.driver import Driver
from starcore.errors import Code, SetupError
from starcore.events import Action, ChunkReceived, Close, Drop, Lost, Opened, Received, Send, SendChunk, Tick, Writable
from starcore.manager import switch as switches
from starcore.manager.switch import CHUNKS_AHEAD, Cell, RemoteLink, Switch, _cause
from starcore.messages import CHUNK_BYTES_MAX, Goodbye, Hello, Notice, Role, StatusReply, Welcome

from .peers import Caller, Recorder, caller, connected, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: memfd")
LARGE = os.urandom(CHUNK_BYTES_MAX)
HELLO = Hello(version=1, role=Role.CLIENT, session=bytes(16))
WELCOME = Welcome(version=1, epoch=1, resumed=False)


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("star") / "star", host="127.0.0.1")[0]


class Manager:
    """A core that records, its driver, and the shards."""

    def __init__(self, star: certificates.Star) -> None:
        loop = asyncio.get_running_loop()
        self.star = star
        self.core = Recorder()
        self.core.on[Received] = lambda e: [Send(e.link, WELCOME)] if isinstance(e.message, Hello) else []
        log = logging.getLogger("starcore.manager")
        self.driver = Driver(self.core, loop, self, log)
        self.switch = Switch(2, self.driver, certificates.manager_identity(star), 5.0, loop, ("--log-level", "error"))

    async def peer(self, role: Role = Role.CLIENT) -> Caller:
        """A peer that was welcomed."""
        peer = caller(self.star, role)
        dialed, accepted = connected()
        self.switch.adopt(role, accepted, "192.0.2.7:5000")
        await peer.dial(dialed)
        await until(lambda: peer.core.seen(Opened))
        peer.say(HELLO)
        await until(peer.core.heard)
        return peer

    def links(self) -> list[int]:
        return [event.link for event in self.core.seen(Opened)]

    def chunks(self) -> list[ChunkReceived]:
        return self.core.seen(ChunkReceived)

    def do(self, *actions: Action) -> None:
        self.core.says = list(actions)
        self.driver.feed(Tick())

    def shard(self, link: int) -> Any:
        return next(shard for shard in self.switch._shards.values() if link in shard.lines)

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        raise TypeError(action)

    def destination(self, *chunk: int) -> None:
        raise TypeError(chunk)

    def source(self, *chunk: int) -> bytes:
        raise TypeError(chunk)

    def release(self, token: Any) -> None:
        self.switch.give(token)


def run(star: certificates.Star, test: Callable[[Manager], Coroutine[Any, Any, None]]) -> None:
    async def main() -> list[int]:
        manager = Manager(star)
        try:
            await manager.switch.open()
            await test(manager)
        finally:
            pids = manager.switch.pids
            manager.driver.close_all()
            await manager.switch.close()
        return pids

    loop = uvloop.new_event_loop()
    try:
        pids = loop.run_until_complete(main())
    finally:
        loop.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_each_role_is_spread_evenly_and_messages_go_both_ways(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        peers = [await manager.peer(role) for role in [Role.CLIENT] * 2 + [Role.WORKER] * 2]
        assert sorted(manager.links()) == manager.links() == [1, 2, 3, 4]
        for shard in manager.switch._shards.values():
            assert sorted(line.role for line in shard.lines.values()) == [Role.WORKER, Role.CLIENT]
        first = manager.core.seen(Opened)[0].peer
        assert first.role is Role.CLIENT
        assert first.address.startswith("127.0.0.1:")
        for number, peer in enumerate(peers):
            peer.say(Notice(number, "hello"))
        await until(lambda: len(manager.core.seen(Received)) == 8)
        said = {event.link: event.message for event in manager.core.seen(Received)[4:]}
        assert said == {link: Notice(number, "hello") for number, link in enumerate(manager.links())}
        big = StatusReply("x" * 500_000)
        manager.do(Send(3, Notice(1, "later"), hurry=False), Send(3, big), Send(3, Notice(1, "last")))
        await until(lambda: len(peers[2].core.heard()) == 4)
        assert peers[2].core.heard()[1:] == [Notice(1, "later"), big, Notice(1, "last")]

    run(star, test)


def test_chunk_goes_from_one_shard_to_a_peer_of_the_other_and_its_cell_back(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        giver, taker = await manager.peer(), await manager.peer()
        assert manager.shard(1) is not manager.shard(2)
        giver.send(5, LARGE)
        (chunk,) = await until(manager.chunks)
        assert (chunk.link, chunk.stream, chunk.length) == (1, 5, CHUNK_BYTES_MAX)
        assert type(chunk.token) is Cell
        owner = manager.shard(1)
        assert bytes(manager.switch.read(chunk.token)) == LARGE
        manager.do(SendChunk(2, 6, 1, 0, 60_000, chunk.token, 0), SendChunk(2, 7, 1, 0, 100, chunk.token, 60_000))
        manager.do(Drop(chunk.token))
        assert owner.used == 1, "it has not been read yet"
        await until(lambda: taker.got(7))
        assert taker.got(7) == LARGE[60_000:60_100]
        await until(lambda: owner.used == 0)

    run(star, test)


def test_peer_that_does_not_read_keeps_no_cell_of_what_others_are_sent(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        giver, deaf, _, quick = [await manager.peer() for _ in range(4)]
        assert manager.shard(2) is manager.shard(4)
        transport: Any = next(iter(deaf.driver._links.values()))._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        giver.send(5, LARGE)
        (chunk,) = await until(manager.chunks)
        manager.do(*[SendChunk(2, 6, 1, 0, CHUNK_BYTES_MAX, chunk.token)] * 16, Drop(chunk.token))
        owner = manager.shard(1)
        for number in range(3):
            giver.send(7, LARGE)
            token = (await until(lambda number=number: manager.chunks()[1 + number :]))[0].token
            manager.do(SendChunk(4, 10 + number, 1, 0, 70_000, token), Drop(token))
            await until(lambda number=number: quick.got(10 + number))
            await until(lambda: owner.used == 1)
        transport.resume_reading()
        await until(lambda: owner.used == 0)

    run(star, test)


def test_short_chunk_comes_and_goes_inside(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        giver, taker = await manager.peer(), await manager.peer()
        giver.send(5, b"0123456789")
        (chunk,) = await until(manager.chunks)
        assert chunk.token == b"0123456789" == manager.switch.read(chunk.token)
        manager.do(SendChunk(2, 6, 1, 0, 3, chunk.token, 4), Drop(chunk.token))
        assert await until(lambda: taker.got(6)) == b"456"

    run(star, test)


def test_link_takes_some_chunks_ahead_and_the_next_when_there_is_room(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        giver, taker = await manager.peer(), await manager.peer()
        giver.send(5, LARGE)
        (chunk,) = await until(manager.chunks)
        line = manager.shard(2).lines[2]
        transport: Any = next(iter(taker.driver._links.values()))._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        sent = 0

        def another(event: Any) -> list[Action]:
            nonlocal sent
            sent += 1
            return [SendChunk(2, 6, 1, 0, CHUNK_BYTES_MAX, chunk.token)]

        manager.core.on[Writable] = another
        manager.driver.feed(Writable(2))
        await until(lambda: line.blocked)
        for _ in range(100):
            await asyncio.sleep(0.005)
            if line.blocked and sent == (sent_before := sent):
                break
        assert line._ahead == CHUNKS_AHEAD
        await asyncio.sleep(0.1)
        assert line.blocked and sent - sent_before < 64, "what the kernel takes is bounded"
        del manager.core.on[Writable]
        before = len(manager.core.seen(Writable))
        transport.resume_reading()
        await until(lambda: len(manager.core.seen(Writable)) > before)
        await until(lambda: len(taker.core.seen(ChunkReceived)) == sent)
        assert line._ahead == 0

    run(star, test)


def test_link_that_was_given_many_small_chunks_is_free_again_when_few_are_left() -> None:
    cable: Any = SimpleNamespace(say=lambda *order, **options: None)
    line = RemoteLink(1, SimpleNamespace(cable=cable), Role.CLIENT, "192.0.2.1:1")  # type: ignore[arg-type]
    for stream in range(5):
        line.send_chunk(stream, 1, 0, b"x")
    assert line.blocked
    assert [line.room() for _ in range(5)] == [False, False, False, True, False]
    assert not line.blocked


def test_fault_of_a_peer_closes_its_link_here(star: certificates.Star, caplog: pytest.LogCaptureFixture) -> None:
    async def test(manager: Manager) -> None:
        garbage, undecodable, good = [await manager.peer() for _ in range(3)]
        garbage.write(b"GET / HTTP/1.1\r\n\r\n")
        undecodable.write(b"SC\x22\0" + (4).to_bytes(4, "little") + bytes(8) + b"\xff\xff\xff\xff")
        await until(lambda: len(manager.core.seen(Lost)) == 2)
        for peer in (garbage, undecodable):
            await until(lambda peer=peer: peer.core.seen(Lost))  # type: ignore[misc]
            assert isinstance(peer.core.heard()[-1], Goodbye)
            assert peer.core.heard()[-1].code == Code.FRAME
        manager.do(Close(3, Code.SILENT, "too quiet"))
        await until(lambda: good.core.seen(Lost))
        assert good.core.heard()[-1] == Goodbye(Code.SILENT, "too quiet")
        assert manager.driver.links == 0
        assert not any(shard.lines for shard in manager.switch._shards.values())

    run(star, test)


def test_peer_that_hangs_up_is_lost_and_one_that_never_got_in_was_never_there(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        peer = await manager.peer()
        dialed, accepted = connected()
        manager.switch.adopt(Role.CLIENT, accepted, "192.0.2.8:1")
        dialed.close()
        peer.driver.close_all()
        await until(lambda: manager.core.seen(Lost))
        await until(lambda: not any(shard.lines for shard in manager.switch._shards.values()))
        assert manager.links() == [1]
        assert [event.link for event in manager.core.seen(Lost)] == [1]

    run(star, test)


def test_death_of_a_shard_loses_its_links_alone_and_what_it_held_is_still_sent(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    monkeypatch.setattr(switches, "RESTART_SECONDS", 0.01)

    async def test(manager: Manager) -> None:
        giver, taker = await manager.peer(), await manager.peer()
        giver.send(5, LARGE)
        (chunk,) = await until(manager.chunks)
        owner, other = manager.shard(1), manager.shard(2)
        os.kill(owner.process.pid, signal.SIGKILL)
        await until(lambda: manager.core.seen(Lost))
        assert [event.link for event in manager.core.seen(Lost)] == [1]
        await until(lambda: len(manager.switch._shards) == 2)
        assert set(manager.switch._memories) == {1, 2, 3}, "there is a chunk in the memory of the dead"
        manager.do(SendChunk(2, 6, 1, 0, CHUNK_BYTES_MAX, chunk.token), Drop(chunk.token))
        assert await until(lambda: taker.got(6)) == LARGE
        await until(lambda: set(manager.switch._memories) == {2, 3})
        await until(lambda: all(shard.ready for shard in manager.switch._shards.values()))
        again = await manager.peer()
        assert manager.shard(3).number == 3
        again.send(5, LARGE)
        await until(lambda: len(manager.chunks()) == 2)
        late = manager.chunks()[1].token
        manager.do(SendChunk(2, 7, 1, 0, CHUNK_BYTES_MAX, late))
        assert await until(lambda: taker.got(7)) == LARGE
        os.kill(other.process.pid, signal.SIGKILL)  # whoever was to read it is gone
        await until(lambda: len(manager.core.seen(Lost)) == 2)
        manager.do(Drop(late))
        assert manager.shard(3).used == 0

    with caplog.at_level("INFO"):
        run(star, test)
    assert "shard 1 was killed by SIGKILL: another one takes its place" in caplog.text
    assert "shard 3 is ready" in caplog.text


def test_shard_that_could_not_be_started_anew_is_tried_again(
    star: certificates.Star, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    monkeypatch.setattr(switches, "RESTART_SECONDS", 0.01)
    refusals = iter(
        [
            *((switches.cells, "create"), (switches.socket, "socketpair"), (switches.subprocess, "Popen")),
            (switches.os, "dup"),
        ]
    )

    async def test(manager: Manager) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        patched = pytest.MonkeyPatch()

        def exhausted(*_: Any, **__: Any) -> None:
            patched.undo()
            if (refused := next(refusals, None)) is not None:
                patched.setattr(*refused, exhausted)
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

        patched.setattr(*next(refusals), exhausted)
        os.kill(manager.switch.pids[0], signal.SIGKILL)
        await until(lambda: len(manager.switch._shards) == 1)
        said = "no shard can be started: Resource temporarily unavailable"
        await until(lambda: caplog.text.count(said) == 4 and max(manager.switch._shards) == 7)  # 6 lacked a memory
        await until(lambda: all(shard.ready for shard in manager.switch._shards.values()))
        await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)

    run(star, test)


def test_memory_of_a_dead_shard_that_a_thread_still_looks_at_goes_when_that_looks_away(
    star: certificates.Star, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "RESTART_SECONDS", 0.01)

    async def test(manager: Manager) -> None:
        giver = await manager.peer()
        giver.send(5, LARGE)
        (chunk,) = await until(manager.chunks)
        owner, view = manager.shard(1), manager.switch.read(chunk.token)
        os.kill(owner.process.pid, signal.SIGKILL)
        await until(lambda: manager.core.seen(Lost))
        manager.switch.give(chunk.token)  # as the file of a detached job that is not needed any more
        assert owner.number not in manager.switch._memories
        os.fstat(owner.memory)
        del view
        await until(lambda: not Path(f"/proc/self/fd/{owner.memory}").exists())

    run(star, test)


def test_without_a_shard_nobody_is_let_in(star: certificates.Star, caplog: pytest.LogCaptureFixture) -> None:
    async def test(manager: Manager) -> None:
        for shard in manager.switch._shards.values():
            shard.ready = False
        dialed, accepted = connected()
        manager.switch.adopt(Role.CLIENT, accepted, "192.0.2.8:1")
        assert accepted.fileno() == -1
        dialed.close()

    run(star, test)


def test_shard_that_cannot_start_is_an_error_of_the_setup(
    star: certificates.Star, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    async def test(manager: Manager) -> None:
        raise AssertionError("it opened")

    with pytest.raises(SetupError, match="ended at its start"):
        run(star, test)


def test_system_that_has_no_room_for_a_shard_is_an_error_of_the_setup(
    star: certificates.Star, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(switches.cells, "create", exhausted)

    async def test(manager: Manager) -> None:
        raise AssertionError("it opened")

    with pytest.raises(SetupError, match="no shard can be started: Cannot allocate memory"):
        run(star, test)


def test_stopped_shard_is_ended_with_the_manager(star: certificates.Star, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "STOP_SECONDS_MAX", 0.2)

    async def test(manager: Manager) -> None:
        os.kill(manager.switch.pids[0], signal.SIGSTOP)

    run(star, test)


def test_shard_has_nothing_that_could_unpickle_and_no_array(star: certificates.Star) -> None:
    async def test(manager: Manager) -> None:
        await manager.peer()
        for pid in manager.switch.pids:
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "_framing" in mapped
            assert "numpy" not in mapped
            assert "_pickle" not in mapped

    run(star, test)


def test_ends_are_told_in_words() -> None:
    assert _cause(3) == "ended with exit code 3"
    assert _cause(-9) == "was killed by SIGKILL"
    assert _cause(-63) == "was killed by signal 63"
