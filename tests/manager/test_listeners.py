"""Sockets that listen, ports that cannot be had, and who gets through TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from starcore import certificates, tls
from starcore.errors import AddressError
from starcore.manager import listeners
from starcore.messages import Role


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def test_every_address_gets_the_same_free_port_and_listens() -> None:
    sockets = listeners.listen(None, 0, "--port")
    ports = {each.getsockname()[1] for each in sockets}
    assert len(ports) == 1
    socket.create_connection(("127.0.0.1", ports.pop())).close()
    close(sockets)


def test_port_in_use_is_told_with_its_flag_also_by_an_earlier_self() -> None:
    sockets = listeners.listen("127.0.0.1", 0, "--port")
    port = sockets[0].getsockname()[1]
    with pytest.raises(AddressError, match=f"port {port} is in use on this machine: .* with --client-port"):
        listeners.listen("127.0.0.1", port, "--client-port")
    close(sockets)
    close(listeners.listen("127.0.0.1", port, "--port"))


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid", "a" * 70])
def test_foreign_host_is_told_with_the_way_out(host: str) -> None:
    with pytest.raises(AddressError, match="is not an address of this machine: leave --host out"):
        listeners.listen(host, 0, "--port")


def test_missing_rights_and_other_trouble_are_told() -> None:
    denied = listeners._explained(OSError(errno.EACCES, "no"), None, 443, "--port")
    assert "port 443 needs rights" in str(denied)
    assert "ip_unprivileged_port_start=443" in str(denied)
    assert str(listeners._explained(OSError(errno.EIO, ""), "::1", 3, "--port")) == (
        "cannot listen on [::1]:3: Input/output error"
    )


def test_machine_without_one_of_the_families_listens_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one = listeners._listen_one

    def only_four(family: int, address: tuple[object, ...]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return one(family, address)

    monkeypatch.setattr(listeners, "_listen_one", only_four)
    sockets = listeners.listen(None, 0, "--port")
    assert [each.family for each in sockets] == [socket.AF_INET]
    close(sockets)


def test_process_without_a_descriptor_left_says_so_and_listens_again_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    monkeypatch.setattr(listeners, "EXHAUSTED_SECONDS", 0.0)

    class Full:
        """A listening socket of a process that may open no more files."""

        def __init__(self) -> None:
            self.inner, self.asked = socket.create_server(("127.0.0.1", 0)), 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            self.asked += 1
            raise OSError(errno.EMFILE, "Too many open files")

    async def meet() -> int:
        full = Full()
        taken: list[str] = []
        loop = asyncio.get_running_loop()
        acceptor = listeners.Acceptor([full], lambda *peer: taken.append(peer[1]), loop)  # type: ignore[list-item]
        socket.create_connection(full.inner.getsockname()).close()
        while full.asked < 2:
            await asyncio.sleep(0)
        acceptor.close()
        assert not taken
        return full.asked

    with caplog.at_level("ERROR", "starcore.manager"):
        assert asyncio.run(meet()) >= 2
    assert "Too many open files: raise this process's limit of open files" in caplog.text


# -- the door ------------------------------------------------------------------------------------------------


class Opened(asyncio.BufferedProtocol):
    """A protocol that says when TLS stands."""

    def __init__(self, opened: asyncio.Event) -> None:
        self.opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened.set()

    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(64)


@pytest.mark.parametrize("kind", ["good", "garbage", "foreign", "mute", "gone"])
def test_door_lets_in_who_belongs_and_tells_of_everybody_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(logging.getLogger("starcore"), "propagate", True)
    star, _ = certificates.create_star(tmp_path / "star", host="127.0.0.1")
    other, _ = certificates.create_star(tmp_path / "other", host="127.0.0.1")
    identity = certificates.issue(other if kind == "foreign" else star, Role.CLIENT, "x").identity
    sockets = listeners.listen("127.0.0.1", 0, "--port")
    port = sockets[0].getsockname()[1]
    expected = {
        "good": "",
        "garbage": "wrong version number|http request|packet length|record",
        "foreign": "its certificate is not one of this star",
        "mute": "it was not done within 0.2 s",
        "gone": "the other side closed the connection",
    }[kind]

    async def meet() -> bool:
        loop, opened = asyncio.get_running_loop(), asyncio.Event()
        context = tls.listen_context(certificates.manager_identity(star), Role.CLIENT)
        seconds = 0.2 if kind == "mute" else 10.0
        handshakes = listeners.Handshakes(context, seconds, loop)
        failures: list[str] = []

        def take(connection: socket.socket, address: str) -> None:
            handshakes.begin(connection, address, lambda: Opened(opened), failures.append)

        acceptor = listeners.Acceptor(sockets, take, loop)
        try:
            if kind in ("good", "foreign"):
                mine = tls.dial_context(identity)
                mine.load_verify_locations(star.ca)
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=mine, server_hostname=tls.SERVER_NAME
                )
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write({"garbage": b"GET / HTTP/1.1\r\n\r\n", "gone": b"\x16\x03"}.get(kind, b""))
                if kind == "gone":
                    writer.write_eof()
            if kind == "good":
                await asyncio.wait_for(opened.wait(), 10)
            else:
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    await asyncio.wait_for(reader.read(), 10)
            writer.close()
            assert len(failures) == (kind != "good")
            return opened.is_set()
        finally:
            acceptor.close()
            handshakes.close()

    loop = uvloop.new_event_loop()
    with caplog.at_level("WARNING", "starcore.manager"):
        assert loop.run_until_complete(meet()) is (kind == "good")
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (kind != "good"), told
    if told:
        assert told[0].startswith("refused 127.0.0.1:")
        caplog.clear()
        assert re.search(expected, told[0]), told
