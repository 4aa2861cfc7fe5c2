"""Ten thousand connects and disconnects of every kind leave the manager as it was: descriptors, tables, memory."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from starcore import settings, tls
from starcore.messages import Goodbye, Role
from tests.integration.stars import TriedStar, tried_star, until
from tests.integration.test_garbage import Stranger

from .checkers import descriptors, rss_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="run on Linux: looks into /proc")
ROLES = (Role.CLIENT, Role.WORKER)
AT_ONCE = 8
WARM = 0.1
"""This part of it comes before the first look: a heap that was used once is what a manager of weeks has."""
RSS_SPARE_BYTES = 8 << 20
SECONDS = 30.0
ANYBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE


@pytest.fixture
def star(tmp_path: Path) -> Iterator[TriedStar]:
    options = ("--session-grace-seconds", "2", "--greeting-seconds", "5", "--log-level", "error")
    with tried_star(tmp_path, workers=1, slots=1, manager_options=options) as star:
        yield star


def bare(star: TriedStar, number: int) -> None:
    """TCP, and nothing said."""
    port = (star.port, star.client_port)[number % 2]
    socket.create_connection(("127.0.0.1", port), SECONDS).close()


def anonymous(star: TriedStar, number: int) -> None:
    """TLS without a certificate."""
    port = (star.port, star.client_port)[number % 2]
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        ANYBODY.wrap_socket(plain).close()


def halfway(star: TriedStar, number: int) -> None:
    """A part of a handshake, then gone."""
    port = (star.port, star.client_port)[number % 2]
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(number % 200))


def speechless(star: TriedStar, number: int) -> None:
    """A whole handshake, and no HELLO."""
    role = ROLES[number % 2]
    target = settings.dialer(
        role,
        join=star.join_file(role.name.lower()),
        address=star.address if role is Role.CLIENT else star.worker_address,
    )
    plain = socket.create_connection((target.host, target.port), SECONDS)
    tls.dial_context(target.identity).wrap_socket(plain, server_hostname=target.identity.server_name).close()


def session(star: TriedStar, number: int) -> None:
    """A session; half of them end it, the others are waited for."""
    role = ROLES[number // 2 % 2]
    with Stranger(star, role, f"n{number}") as stranger:
        stranger.greet(role)
        if number % 2:
            stranger.say(Goodbye(0, "done"))


KINDS: tuple[tuple[Callable[[TriedStar, int], None], int], ...] = (
    (bare, 5000),
    (anonymous, 2000),
    (halfway, 1500),
    (speechless, 800),
    (session, 700),
)
"""A whole handshake costs both sides some milliseconds, so there are fewer of these."""


def crowd(star: TriedStar, part: float) -> int:
    """Let a part of all connections come and go, several at a time; return how many there were."""
    turns = [(kind, number) for kind, count in KINDS for number in range(int(count * part))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda turn: turn[0](star, turn[1]), turns))
    return len(turns)


def settled(star: TriedStar) -> tuple[int, int]:
    """The manager's descriptors and memory, once nobody is left but one client."""
    with star.client() as client:
        until(lambda: len(client.status()["clients"]) == 1, "the end of all other clients", SECONDS)
        until(lambda: len(client.status()["workers"]) == 1, "the end of all other workers", SECONDS)
        assert client.submit(pow, 2, 3).result(SECONDS) == 8
        pid = star.pids["manager"]
        sizes = [rss_bytes(pid)]

        def steady() -> bool:  # handshakes left halfway are given up after a while, their memory a little later
            sizes.append(rss_bytes(pid))
            return len(sizes) > 600 and max(sizes[-300:]) == min(sizes[-300:])

        with contextlib.suppress(AssertionError):
            until(steady, "memory that changes no more", 15)
        return len(descriptors(pid)), rss_bytes(pid)


@pytest.mark.timeout(600)
def test_ten_thousand_connects_and_disconnects_leave_descriptors_tables_and_memory_where_they_were(
    star: TriedStar,
) -> None:
    crowd(star, WARM)
    descriptors_before, memory_before = settled(star)
    assert crowd(star, 1.0) == 10_000
    descriptors_after, memory_after = settled(star)
    assert descriptors_after <= descriptors_before, (descriptors_before, descriptors_after)
    assert memory_after <= memory_before + RSS_SPARE_BYTES, (memory_before >> 20, memory_after >> 20)
