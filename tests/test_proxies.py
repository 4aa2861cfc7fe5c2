"""proxies.py: which proxy, if any, and all that one may answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from starcore import tls
from starcore.errors import AddressError, UnreachableError
from starcore.messages import Role
from starcore.proxies import REPLY_BYTES_MAX, Proxy, proxy_for, tunnel
from starcore.tls import DialerIdentity, Target

SECONDS = 10.0
HOST = "star.example.org"
PROXY = Proxy("p.example", 3128, "HTTPS_PROXY")


# -- which one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p.example:3128"}, PROXY),
        ({"HTTPS_PROXY": "p.example:3128"}, PROXY),
        ({"HTTPS_PROXY": "http://p.example:3128/"}, PROXY),
        ({"https_proxy": "http://p.example:3128", "HTTPS_PROXY": "http://q"}, Proxy("p.example", 3128, "https_proxy")),
        ({"https_proxy": " ", "ALL_PROXY": "http://p.example"}, Proxy("p.example", 80, "ALL_PROXY")),
        ({"HTTP_PROXY": "http://p.example:3128"}, None),
        ({"ALL_PROXY": "socks5h://p.example:1080"}, None),
        ({"all_proxy": "socks5://p.example:1080", "ALL_PROXY": "p.example"}, Proxy("p.example", 80, "ALL_PROXY")),
        ({"ALL_PROXY": "HTTP://p.example"}, Proxy("p.example", 80, "ALL_PROXY")),
        ({"STARCORE_PROXY": "http://[::1]:8080", "HTTPS_PROXY": "x"}, Proxy("::1", 8080, "STARCORE_PROXY")),
        ({"STARCORE_PROXY": "none", "HTTPS_PROXY": "http://p.example:3128"}, None),
        ({"STARCORE_PROXY": "", "HTTPS_PROXY": "http://p.example:3128"}, PROXY),
        ({"STARCORE_PROXY": "http://p.example", "NO_PROXY": "*"}, Proxy("p.example", 80, "STARCORE_PROXY")),
        ({"HTTPS_PROXY": "http://p.example:3128", "NO_PROXY": "other.org, example.org"}, None),
        ({"HTTPS_PROXY": "http://p.example:3128", "no_proxy": "*.example.org"}, None),
        ({"HTTPS_PROXY": "http://p.example:3128", "NO_PROXY": "Star.Example.ORG:444"}, None),
        ({"HTTPS_PROXY": "http://p.example:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p.example:3128", "NO_PROXY": "ample.org,10.0.0.0/8,,sub.star.example.org"}, PROXY),
    ],
)
def test_environment_names_a_proxy_as_it_does_for_others(variables: dict[str, str], found: Proxy | None) -> None:
    assert proxy_for(HOST, variables) == found


@pytest.mark.parametrize(
    ("host", "exceptions", "direct"),
    [
        ("127.0.0.1", "", True),
        ("127.9.9.9", "", True),
        ("::1", "", True),
        ("LocalHost", "", True),
        ("10.1.2.3", "", False),
        ("10.1.2.3", "192.168.0.0/16 10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.0/30", True),
        ("10.1.2.4", "10.1.2.0/30", False),
        ("fd00::5", "fd00::/8", True),
        ("fd00::5", "10.0.0.0/8", False),
    ],
)
def test_this_machine_and_exempt_networks_are_dialed_without(host: str, exceptions: str, direct: bool) -> None:
    found = proxy_for(host, {"HTTPS_PROXY": "http://p.example:3128", "NO_PROXY": exceptions})
    assert found == (None if direct else PROXY)


def test_user_and_password_are_shown_to_the_proxy_and_to_nobody_else() -> None:
    found = proxy_for(HOST, {"HTTPS_PROXY": "http://me:s%40cret@p.example:3128"})
    assert found is not None
    assert base64.b64decode(found.credentials) == b"me:s@cret"
    assert "s@cret" not in f"{found} {found!r}" and found.credentials not in f"{found} {found!r}"


@pytest.mark.parametrize(
    "url", ["https://p.example", "socks5://p.example:1080", "http://", "http://p:0", "http://p:99999", "http://[::1"]
)
@pytest.mark.parametrize("variable", ["STARCORE_PROXY", "HTTPS_PROXY"])
def test_what_is_no_http_proxy_is_refused_without_its_password(variable: str, url: str) -> None:
    with pytest.raises(AddressError) as caught:
        proxy_for(HOST, {variable: url.replace("://", "://me:secret@")})
    said = str(caught.value)
    assert said.startswith(f"${variable} is no http://")
    assert "secret" not in said and "\n" not in said


# -- asking it -----------------------------------------------------------------------------------------------

Ask = Callable[..., str]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Ask a proxy that answers with these pieces and then, unless it waits, ends; return what it was asked."""
    loop = request.param()

    def ask(*pieces: bytes, proxy: Proxy = PROXY, address: str = f"{HOST}:444", waits: bool = False) -> str:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)

            async def answer() -> bytes:
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    asked += await loop.sock_recv(far, 4096)
                with contextlib.suppress(OSError):  # it may have heard enough
                    for piece in pieces:
                        await loop.sock_sendall(far, piece)
                        await asyncio.sleep(0.001)
                    if not waits:
                        far.shutdown(socket.SHUT_WR)
                return asked

            async def both() -> bytes:
                answering = loop.create_task(answer())
                await asyncio.wait_for(tunnel(loop, near, proxy, address), SECONDS)
                return await answering

            run: Coroutine[Any, Any, bytes] = both()
            return loop.run_until_complete(run).decode()

    yield ask
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_request_names_the_manager_and_shows_the_credentials(ask: Ask) -> None:
    assert ask(b"HTTP/1.1 200 OK\r\n\r\n") == f"CONNECT {HOST}:444 HTTP/1.1\r\nHost: {HOST}:444\r\n\r\n"
    asked = ask(b"HTTP/1.1 200 OK\r\n\r\n", proxy=Proxy("p", 1, "x", "bWU6cw=="), address="[fd00::5]:444")
    assert asked.splitlines()[0] == "CONNECT [fd00::5]:444 HTTP/1.1"
    assert asked.splitlines()[2] == "Proxy-Authorization: Basic bWU6cw=="
    assert ask(b"HTTP/1.1 200 OK\r\n\r\n", address="bücher.org:444").startswith("CONNECT xn--bcher-kva.org:444 ")


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n",),
        (b"HTTP/1.0 200\r\nVia: x\r\nContent-Length: 0\r\n\r\n",),
        (b"HT", b"TP/1.1 2", b"04 Fine\r", b"\nVia: x\r\n", b"\r", b"\n"),
        (b"HTTP/1.1 200 OK\n\n",),
    ],
)
def test_way_that_is_made_is_the_managers(ask: Ask, pieces: tuple[bytes, ...]) -> None:
    ask(*pieces, waits=True)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>", ["does not connect", f"{HOST}:444 (403 Forbidden)", "port 443"]),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ["found no way", "(502 Bad Gateway)", "is the manager running"]),
        (b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\n\r\n", ["asks for a user", "http://USER:PASSWORD@"]),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", ["no HTTP proxy"]),
        (b"HTTP/1.1 twohundred\r\n\r\n", ["no HTTP proxy"]),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ["no HTTP proxy"]),
        (b"\x15\x03\x01", ["no HTTP proxy"]),
        (b"", ["closed the connection without an answer", "port 444"]),
        (b"HTTP/1.1 20", ["closed the connection without an answer"]),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (REPLY_BYTES_MAX // 6 + 1), ["no HTTP proxy"]),
    ],
)
def test_whatever_else_it_answers_is_one_sentence(ask: Ask, reply: bytes, words: list[str]) -> None:
    with pytest.raises(UnreachableError) as caught:
        ask(reply)
    said = str(caught.value)
    assert "the proxy at p.example:3128 ($HTTPS_PROXY)" in said and "\n" not in said
    assert not [word for word in words if word not in said], said


def test_refused_password_is_told_from_a_missing_one(ask: Ask) -> None:
    with pytest.raises(UnreachableError, match="does not accept this user and password"):
        ask(b"HTTP/1.1 407 Who?\r\n\r\n", proxy=Proxy("p", 1, "x", "bWU6cw=="))


def test_what_fails_behind_the_proxy_names_both() -> None:
    identity = DialerIdentity(Role.CLIENT, "", "", "", "laptop.join")
    said = tls.explain(ConnectionResetError(), Target(HOST, 444, identity, "a test", PROXY))
    assert f"{HOST}:444 (through the proxy at p.example:3128 ($HTTPS_PROXY))" in said


def test_way_that_ends_before_the_proxy_says_so() -> None:
    said = str(PROXY.unreachable(ConnectionRefusedError(111, "Connection refused")))
    assert said.startswith("no way to the proxy at p.example:3128 ($HTTPS_PROXY): Connection refused; ")
    assert "NO_PROXY" in said and "STARCORE_PROXY=none" in said
    own = Proxy("p", 1, "STARCORE_PROXY")
    assert "NO_PROXY" not in str(own.unreachable(OSError("x")))
