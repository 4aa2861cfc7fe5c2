"""transport.py alone, on real TLS over real sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from starcore import certificates
from starcore import transport as transports
from starcore.transport import READ_TURN_BYTES, RECORD_BYTES_MAX
from tests.ends import Heard, Test, World, aside, everything, running, until

MIB = 1 << 20


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("star") / "star", host="127.0.0.1")[0]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest, star: certificates.Star) -> Iterator[Callable[[Test], None]]:
    with running(request.param(), star) as runner:
        yield runner


# -- bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_bytes_go_both_ways(run: Any, family: str) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(family=family)
        await aside(far.sendall, b"to you")
        await until(lambda: heard.data == b"to you")
        transport.write(b"and ")
        transport.write(bytearray(b"back"))
        assert transport.get_write_buffer_size() == 0
        assert await aside(everything, far, 8) == b"and back"

    run(test)


def test_protocol_finds_out_about_its_peer(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        ssl_object = transport.get_extra_info("ssl_object")
        assert ssl_object is transport.get_extra_info("socket")
        assert ssl_object.version() == "TLSv1.3"
        assert transport.get_extra_info("peercert") == ssl_object.getpeercert() != {}
        assert transport.get_extra_info("peername") == far.getsockname()
        assert transport.get_extra_info("sockname") == far.getpeername()
        assert transport.get_extra_info("weather", "fine") == "fine"
        assert transport.get_protocol() is heard
        assert (transport.is_reading(), transport.is_closing(), transport.can_write_eof()) == (True, False, False)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)

    run(test)


@pytest.mark.parametrize("room_bytes", [40, 10_000, 1 * MIB])
def test_megabytes_land_in_the_memory_that_was_handed_out(run: Any, room_bytes: int) -> None:
    body = os.urandom(3 * MIB + 17)

    async def test(world: World) -> None:
        heard, _transport, far = await world.meet(Heard(room_bytes))
        sending = asyncio.ensure_future(aside(far.sendall, body))
        await until(lambda: len(heard.data) == len(body))
        await sending
        assert heard.data == body
        await aside(far.sendall, b"!")  # a short one after large ones
        await until(lambda: heard.data[len(body) :] == b"!")

    run(test)


def test_record_that_is_larger_than_the_room_is_read_to_its_end_without_another_poll(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet(Heard(7))
        await aside(far.sendall, b"x" * 16_000)
        await until(lambda: len(heard.data) == 16_000)

    run(test)


def test_one_turn_takes_its_share_and_no_more(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet(Heard(16 << 10))
        turns = [0]

        def count(nbytes: int) -> None:
            turns[-1] += nbytes
            if turns[-1] == nbytes:
                world.loop.call_soon(turns.append, 0)

        heard.on_bytes = count
        await asyncio.gather(aside(far.sendall, bytes(8 * MIB)), until(lambda: len(heard.data) == 8 * MIB))
        assert max(turns) <= READ_TURN_BYTES + RECORD_BYTES_MAX

    run(test)


def test_paused_link_hears_nothing_and_then_what_openssl_had_already(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(Heard(4))
        heard.on_bytes = lambda count: transport.pause_reading() if len(heard.data) == 4 else None
        await aside(far.sendall, b"one record")
        await until(lambda: heard.data)
        await asyncio.sleep(0.05)
        assert heard.data == b"one " and not transport.is_reading()
        transport.resume_reading()
        await until(lambda: heard.data == b"one record")

    run(test)


# -- writing -------------------------------------------------------------------------------------------------


def test_slow_reader_gets_every_byte_and_its_writer_is_told_to_wait(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(small=True)
        body = bytearray(os.urandom(4 * MIB))
        transport.set_write_buffer_limits(high=128 << 10)
        transport.write(memoryview(body)[: 3 * MIB])
        assert heard.told == ["made", "pause"]
        transport.write(memoryview(body)[3 * MIB :])
        words = [b"%d," % number for number in range(1000)]
        for word in words:
            transport.write(word)
        rest = b"".join(words)
        assert transport.get_write_buffer_size() == len(body) + len(rest)
        with pytest.raises(BufferError):
            body.append(0)  # it is looked at, not copied
        got = await aside(everything, far, len(body) + len(rest))
        assert got == bytes(body) + rest
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert heard.told == ["made", "pause", "resume"]
        body.append(0)  # and let go of as soon as it is through

    run(test)


def test_resumed_writer_may_write_at_once(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(small=True)
        more = [bytes([number]) * MIB for number in range(6)]

        def go_on() -> None:  # where the other end keeps pace a write pauses nobody, and nobody is told to go on
            heard.told.append("resume")
            while more and heard.told[-1] != "pause":
                transport.write(more.pop())

        heard.resume_writing = go_on  # type: ignore[method-assign]
        go_on()
        got = await aside(everything, far, 6 * MIB)
        assert got == b"".join(bytes([number]) * MIB for number in (5, 4, 3, 2, 1, 0))

    run(test)


def test_short_piece_travels_in_one_record_with_what_follows(run: Any) -> None:
    body = os.urandom(MIB)

    async def test(world: World) -> None:
        _heard, transport, far = await world.meet()
        transport.writelines([b"header", memoryview(body)])
        first = await aside(far.recv, 65536)
        assert len(first) == RECORD_BYTES_MAX and first.startswith(b"header")
        assert first + await aside(everything, far, len(body) + 6 - len(first)) == b"header" + body
        transport.writelines([b"a", b"b" * 100, bytearray(b"c"), b""])
        assert await aside(far.recv, 65536) == b"a" + b"b" * 100 + b"c"
        transport.writelines([body[:20_000], body[20_000:90_000], b"", body[90_000:]])
        assert await aside(everything, far, len(body)) == body
        transport.write(b"")
        assert transport.get_write_buffer_size() == 0

    run(test)


def test_what_waits_leaves_in_few_records(run: Any) -> None:
    async def test(world: World) -> None:
        _heard, transport, far = await world.meet(small=True)
        transport.write(bytes(2 * MIB))
        for _ in range(500):
            transport.write(b"x" * 20)
        await aside(everything, far, 2 * MIB)
        assert len(await aside(far.recv, 65536)) >= 5_000

    run(test)


# -- ends ----------------------------------------------------------------------------------------------------


def test_peer_that_says_goodbye_ends_the_link_and_hears_ours(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        await aside(far.sendall, b"bye")
        await aside(far.unwrap)  # waits for ours
        await until(lambda: heard.lost)
        assert heard.data == b"bye"
        assert heard.told == ["made", "eof", ("lost", None)]
        transport.write(b"too late")
        transport.close()
        transport.abort()
        assert transport.is_closing()

    run(test)


def test_end_without_goodbye_is_an_end_as_well(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet()
        await aside(far.sendall, b"half a mess")
        os.close(far.detach())
        await until(lambda: heard.lost)
        assert heard.data == b"half a mess" and heard.lost == [None]

    run(test)


def test_reset_is_told_as_one(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        await until(lambda: heard.lost)
        # Before Python 3.13, OpenSSL's word for every end of a socket is EOF.
        assert isinstance(heard.lost[0], ConnectionResetError if sys.version_info >= (3, 13) else (type(None), OSError))

    run(test)


def test_reset_behind_a_message_is_noticed_at_once(run: Any) -> None:
    """Once uvloop has told of a socket's error, it tells no more; but what was said stands before the error."""

    async def test(world: World) -> None:
        heard, transport, far = await world.meet(Heard(100))
        transport.write(b"unread, so that the peer's close is a reset")
        await asyncio.sleep(0.05)
        far.sendall(b"the last message")
        far.close()
        time.sleep(0.05)  # all of it is here before the loop looks
        await until(lambda: heard.lost)
        assert heard.data == b"the last message"

    run(test)


def test_bytes_that_are_no_tls_end_the_link(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet()
        await aside(far.sendall, b"fine")
        socket.socket.sendall(far, b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: heard.lost)
        assert heard.data == b"fine"
        assert isinstance(heard.lost[0], ssl.SSLError) and "MAC" in str(heard.lost[0]).upper()

    run(test)


def test_end_of_a_large_piece_that_never_comes_is_noticed(run: Any) -> None:
    async def test(world: World) -> None:
        heard, _transport, far = await world.meet(Heard(4 * MIB))
        await aside(far.sendall, bytes(40_000))
        await asyncio.sleep(0.05)
        await aside(far.sendall, bytes(1_000))
        os.close(far.detach())
        await until(lambda: heard.lost)
        assert len(heard.data) == 41_000

    run(test)


def test_close_sends_what_waits_and_waits_for_the_peer(run: Any) -> None:
    body = os.urandom(3 * MIB)

    async def test(world: World) -> None:
        heard, transport, far = await world.meet(small=True)
        transport.write(body)
        transport.close()
        transport.close()
        transport.write(b"not any more")
        await aside(far.sendall, b"thrown away")
        assert await aside(everything, far, len(body)) == body
        assert await aside(far.recv, 100) == b""  # a clean end
        await asyncio.sleep(0.02)
        assert heard.told == ["made", "pause"] and transport.is_closing()
        far.close()
        await until(lambda: heard.lost)
        assert heard.lost == [None] and heard.data == b""

    run(test)


def test_last_words_arrive_though_the_peer_is_still_talking(run: Any) -> None:
    """Closing a socket with unread bytes resets the connection, and that would cost the peer our last ones."""

    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        await aside(far.sendall, bytes(100_000))
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0.05)
        await aside(far.sendall, bytes(100_000))
        assert await aside(far.recv, 100) == b"last words"
        far.close()
        await until(lambda: heard.lost)

    run(test)


def test_closed_link_does_not_wait_for_ever(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "CLOSING_SECONDS_MAX", 0.1)

    async def test(world: World) -> None:
        mute, _, _far = await world.meet()
        full, unsent, _ = await world.meet(small=True)
        unsent.write(bytes(4 * MIB))
        for each in (mute, full):
            assert each.transport is not None
            each.transport.close()
        await until(lambda: mute.lost and full.lost)

    run(test)


def test_abort_in_the_middle_of_a_write_lets_go_of_the_memory(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(small=True)
        body = bytearray(4 * MIB)
        transport.write(memoryview(body))
        transport.write(memoryview(body))
        transport.abort()
        body.append(0)
        assert transport.get_write_buffer_size() == 0 and not heard.lost
        await until(lambda: heard.lost)
        assert heard.lost == [None]
        with pytest.raises(ssl.SSLError):
            await aside(everything, far, len(body))

    run(test)


def test_where_writing_fails_the_peers_last_words_are_heard_first(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        transport.write(b"unread, so that the peer's close is a reset")
        await asyncio.sleep(0.05)
        far.sendall(b"goodbye")
        far.close()
        time.sleep(0.05)  # the loop has no look at the socket before it writes
        transport.write(b"hello?")
        transport.write(b"hello?")
        await until(lambda: heard.lost)
        assert heard.data == b"goodbye"

    run(test)


def test_where_writing_fails_all_that_the_peer_said_is_heard(run: Any) -> None:
    body = os.urandom(1_500_000) + b"goodbye"

    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        transport.write(b"unread, so that the peer's close is a reset")
        await asyncio.sleep(0.05)
        far.sendall(body)  # more than one turn takes in, and the loop has no look at the socket before it writes
        time.sleep(0.05)
        far.close()
        time.sleep(0.05)
        transport.write(b"hello?")
        transport.write(b"hello?")
        await until(lambda: heard.lost)
        assert heard.data == body
        assert len(heard.lost) == 1

    run(test)


def test_write_that_fails_costs_its_link_and_raises_nothing(run: Any) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet(small=True)
        transport.write(bytes(4 * MIB))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        time.sleep(0.02)
        transport.pause_reading()
        for _ in range(3):
            transport.write(b"more")
        await until(lambda: heard.lost)
        assert isinstance(heard.lost[0], ConnectionError)

    run(test)


def test_fault_of_the_protocol_costs_one_link_and_is_told(star: certificates.Star) -> None:
    loop = asyncio.SelectorEventLoop()
    world, told = World(loop, star), []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def fail(count: int) -> None:
        raise RuntimeError("a fault of our own")

    async def test() -> None:
        heard, _transport, far = await world.meet()
        heard.on_bytes = fail
        await aside(far.sendall, b"x")
        await until(lambda: heard.lost)
        assert heard.lost == told != []
        far.close()

    loop.run_until_complete(test())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize("how", ["the peer ends", "the peer is gone", "writing fails"])
def test_connection_that_is_over_is_no_circle(run: Any, how: str) -> None:
    async def test(world: World) -> None:
        heard, transport, far = await world.meet()
        transport.write(b"x")
        await aside(far.recv, 1)
        if how != "the peer ends":
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "writing fails":
            transport.pause_reading()
        far.close()
        while not heard.lost:
            if how == "writing fails":
                transport.write(b"y")
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        heard.told.clear()  # the error among it
        left = weakref.ref(transport._sock)
        heard.transport = None
        gc.disable()
        try:
            del transport
            await asyncio.sleep(0.01)
            assert left() is None
        finally:
            gc.enable()

    run(test)
