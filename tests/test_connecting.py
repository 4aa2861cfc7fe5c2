"""connecting.py alone: handshakes that succeed, and all the ways in which they do not, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from starcore import certificates, connecting, tls
from tests.ends import SECONDS, Heard, Test, World, aside, running, until

MIB = 1 << 20


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("star") / "star", host="127.0.0.1")[0]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest, star: certificates.Star) -> Iterator[Callable[[Test], None]]:
    with running(request.param(), star) as runner:
        yield runner


# -- handshakes ----------------------------------------------------------------------------------------------


async def refused(world: World, near: socket.socket, seconds: float = SECONDS) -> tuple[Heard, BaseException]:
    """Let our end try, and return what it says."""
    heard = Heard()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests look at it
        await connecting.secure(world.loop, lambda: heard, near, world.contexts()[0], seconds=seconds)
    assert heard.told == []
    return heard, caught.value


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", os.urandom(400)])
def test_garbage_instead_of_a_handshake_is_refused(run: Any, said: bytes) -> None:
    async def test(world: World) -> None:
        near, far = world.sockets()
        far.sendall(said)
        far.shutdown(socket.SHUT_WR)
        _, error = await refused(world, near)
        assert isinstance(error, (ssl.SSLError, ConnectionResetError))
        with contextlib.suppress(ConnectionResetError):
            while far.recv(1000):  # an alert at most, and then the end
                pass

    run(test)


def test_end_within_a_handshake_is_a_reset(run: Any) -> None:
    async def test(world: World) -> None:
        near, far = world.sockets()
        far.sendall(b"\x16\x03")
        far.close()
        _, error = await refused(world, near)
        assert isinstance(error, ConnectionResetError)
        near, far = world.sockets()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        time.sleep(0.01)
        _, error = await refused(world, near)
        assert isinstance(error, ConnectionResetError)

    run(test)


def test_silence_within_a_handshake_ends_in_time(run: Any) -> None:
    async def test(world: World) -> None:
        near, far = world.sockets()
        began = time.monotonic()
        _, error = await refused(world, near, seconds=0.1)
        assert isinstance(error, ConnectionAbortedError) and "longer than 0.1 s" in str(error)
        assert 0.09 < time.monotonic() - began < SECONDS / 2
        assert await aside(far.recv, 10) == b""

    run(test)


def test_cancelled_handshake_closes_its_socket(run: Any) -> None:
    async def test(world: World) -> None:
        near, far = world.sockets()
        heard = Heard()
        shaking = asyncio.ensure_future(connecting.secure(world.loop, lambda: heard, near, world.contexts()[0]))
        await asyncio.sleep(0.01)
        shaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shaking
        assert await aside(far.recv, 10) == b""
        assert heard.told == []

    run(test)


def test_peer_that_is_refused_hears_why(run: Any, tmp_path: Path) -> None:
    other, _ = certificates.create_star(tmp_path / "other", host="127.0.0.1")
    stranger = tls.dial_context(certificates.read_join(other.client_join).identity)

    async def test(world: World) -> None:
        near, raw = world.sockets()
        stranger.load_verify_locations(world.star.ca)
        far = world.far_end(raw, stranger)
        (_, error), _ = await asyncio.gather(refused(world, near), aside(far.do_handshake))
        assert getattr(error, "reason", "") == "CERTIFICATE_VERIFY_FAILED"
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            await aside(far.recv, 10)

    run(test)


def test_protocol_that_will_not_have_it_leaves_nothing_open(run: Any) -> None:
    async def test(world: World) -> None:
        near, raw = world.sockets()
        listens, dials = world.contexts()
        far, heard = world.far_end(raw, dials), Heard()

        def fail(transport: Any) -> None:
            raise RuntimeError("not this one")

        heard.connection_made = fail  # type: ignore[method-assign]
        shaking = asyncio.ensure_future(connecting.secure(world.loop, lambda: heard, near, listens))
        await aside(far.do_handshake)
        with pytest.raises(RuntimeError):
            await shaking
        with pytest.raises(ssl.SSLError):
            await aside(far.recv, 10)

    run(test)


# -- dialling ------------------------------------------------------------------------------------------------


def test_dialer_reaches_the_first_address_that_answers(star: certificates.Star) -> None:
    loop = asyncio.SelectorEventLoop()

    async def test(world: World) -> None:
        listens, dials = world.contexts()
        listener = socket.create_server(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()
        world.open.append(listener)

        async def both(*arguments: Any, **keywords: Any) -> list[Any]:
            place = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*place, nobody), (*place, listener.getsockname())]

        loop.getaddrinfo = both  # type: ignore[method-assign]

        def serve() -> bytes:
            taken, _ = listener.accept()
            with listens.wrap_socket(taken, server_side=True) as served:
                return served.recv(10)

        serving = asyncio.ensure_future(aside(serve))
        transport, heard = await connecting.dial(loop, Heard, "star.example", 1, dials, tls.SERVER_NAME)
        assert heard.told == ["made"]
        transport.write(b"here")
        assert await serving == b"here"
        await until(lambda: heard.lost)

    with running(loop, star) as run:
        run(test)


def test_dialer_says_what_kept_it_out(run: Any) -> None:
    async def test(world: World) -> None:
        dials = world.contexts()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await connecting.dial(world.loop, Heard, "127.0.0.1", port, dials, tls.SERVER_NAME)
        with pytest.raises(socket.gaierror):
            await connecting.dial(world.loop, Heard, "no.such.name.invalid", port, dials, tls.SERVER_NAME)

    run(test)


def test_dialer_that_is_called_off_leaves_no_socket(run: Any) -> None:
    async def test(world: World) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        world.open.append(listener)
        dials = world.contexts()[1]
        dialing = asyncio.ensure_future(
            connecting.dial(world.loop, Heard, *listener.getsockname(), dials, tls.SERVER_NAME)
        )
        taken = (await aside(listener.accept))[0]
        world.open.append(taken)
        taken.settimeout(SECONDS)
        assert (await aside(taken.recv, 5)).startswith(b"\x16\x03")  # it has begun to greet
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        while await aside(taken.recv, 1000):
            pass

    run(test)
