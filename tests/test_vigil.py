"""What TCP does not tell: a machine that slept, an address that is gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from starcore.vigil import SLEPT_SECONDS_MIN, Vigil, address_is_gone, slept_seconds


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        yield ours


def test_machine_that_did_not_sleep_is_quiet(loop: asyncio.AbstractEventLoop, connected: socket.socket) -> None:
    told: list[str] = []
    vigil = Vigil(loop, lambda: [connected.fileno()], told.append)
    vigil.look()
    vigil.begin()
    vigil.stop()
    assert told == []
    assert connected.getsockname()[0] == "127.0.0.1", "the socket is still the owner's"


def test_sleep_is_told_once(loop: asyncio.AbstractEventLoop) -> None:
    slept, told = [100.0], list[str]()
    vigil = Vigil(loop, lambda: [], told.append, lambda: slept[0])
    slept[0] += SLEPT_SECONDS_MIN - 1
    vigil.look()
    slept[0] += 3600
    vigil.look()
    vigil.look()
    assert told == ["this machine slept for 3600 s"]


def test_clocks_agree_about_a_machine_that_is_awake() -> None:
    before = slept_seconds()
    assert abs(slept_seconds() - before) < SLEPT_SECONDS_MIN


def test_descriptor_that_is_closed_is_nobodys_loss(loop: asyncio.AbstractEventLoop, connected: socket.socket) -> None:
    told: list[str] = []
    number = os.dup(connected.fileno())
    os.close(number)
    Vigil(loop, lambda: [number], told.append).look()
    assert told == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_address_that_stands_is_not_gone(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here: enable IPv6")
    with listener, socket.create_connection(listener.getsockname()[:2]) as ours:
        assert not address_is_gone(ours.fileno())


ADDRESS = """
import socket, subprocess, sys
from starcore.vigil import address_is_gone
def ip(*arguments): subprocess.run(["ip", *arguments], check=True)
ip("link", "set", "lo", "up")
ip("address", "add", "10.214.7.1/32", "dev", "lo")
listener = socket.create_server(("127.0.0.1", 0))
ours = socket.create_connection(listener.getsockname(), source_address=("10.214.7.1", 0))
before = address_is_gone(ours.fileno())
ip("address", "del", "10.214.7.1/32", "dev", "lo")
print(before, address_is_gone(ours.fileno()))
"""


def test_address_that_was_taken_away_is_gone() -> None:
    """In a network namespace of its own, which ends with the process."""
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, unshare and ip: run as root, install util-linux and iproute2")
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ADDRESS], capture_output=True, text=True, check=False, timeout=60
    )
    if "unshare failed" in ran.stderr:
        pytest.skip(f"no network namespaces here (they need CAP_SYS_ADMIN): {ran.stderr.strip()}")
    assert ran.stdout == "False True\n", ran.stderr
