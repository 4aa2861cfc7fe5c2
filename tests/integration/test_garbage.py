"""Peers that are let in and talk nonsense, and a manager that does: who hears it survives, nobody else notices."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import struct
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starcore import Client, certificates, codec, settings, tls
from starcore.messages import (
    CHUNK_BYTES_MAX,
    PROTOCOL_VERSION,
    Ack,
    Assign,
    Confirm,
    FunctionKind,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Message,
    Outcome,
    Result,
    Role,
    Submit,
    Welcome,
)

from .proxy import Proxy
from .stars import TriedStar, tried_star, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
SECONDS = 20.0
HEADER = struct.Struct("<HBBIQ")
MAGIC = 0x4353
ROLES = [Role.CLIENT, Role.WORKER]


def frame(
    kind: int, meta: bytes = b"", payload: bytes = b"", *, meta_bytes: int = -1, payload_bytes: int = -1
) -> bytes:
    """A frame whose header says what it likes."""
    says_meta = len(meta) if meta_bytes < 0 else meta_bytes
    says_payload = len(payload) if payload_bytes < 0 else payload_bytes
    return HEADER.pack(MAGIC, kind, 0, says_meta, says_payload) + meta + payload


def chunk(stream: int, offset: int, data: bytes) -> bytes:
    return frame(5, struct.pack("<QIIQ", stream, 1, 0, offset), data)


def hello(role: Role, name: str, **changes: Any) -> Hello:
    session = secrets.token_bytes(16)
    fields: dict[str, Any] = {"version": PROTOCOL_VERSION, "role": role, "session": session, "name": name}
    if role == Role.WORKER:
        fields |= {"slots": 1, "python": "2.7", "only_registered": True}  # nothing will be leased to it
    else:
        fields |= {"result_bytes": 1 << 20}
    return Hello(**(fields | changes))


class Stranger:
    """A peer with a right certificate, over a blocking socket."""

    def __init__(self, star: TriedStar, role: Role, name: str = "stranger") -> None:
        target = settings.dialer(
            role,
            join=star.join_file(role.name.lower()),
            address=star.address if role == Role.CLIENT else star.worker_address,
        )
        plain = socket.create_connection((target.host, target.port), SECONDS)
        self.name = name
        self._log, self._log_from = star.log, len(star.log())  # ports are used again, and with them addresses
        self.address = "{}:{}".format(*plain.getsockname())
        self._sock = tls.dial_context(target.identity).wrap_socket(plain, server_hostname=target.identity.server_name)

    def lines(self) -> list[str]:
        """The warnings about this peer."""
        lines = self._log()[self._log_from :].splitlines()
        return [line for line in lines if self.address in line and "warning" in line]

    def say(self, data: bytes | Message) -> None:
        self._sock.sendall(data if isinstance(data, bytes) else codec.encode(data))

    def hear(self, seconds: float = SECONDS) -> bytes:
        """All that comes until the other side closes."""
        self._sock.settimeout(seconds)
        heard = b""
        while True:
            try:
                piece = self._sock.recv(1 << 16)
            except (ConnectionError, ssl.SSLError):
                return heard
            if not piece:
                return heard
            heard += piece

    def greet(self, role: Role) -> None:
        """Say HELLO and hear a WELCOME."""
        self.say(hello(role, self.name))
        self._sock.settimeout(SECONDS)
        heard = self._sock.recv(1 << 16)
        assert heard[:3] == b"SC\x02", heard

    def hang_up(self) -> None:
        """FIN without a close_notify."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    directory = tmp_path_factory.mktemp("garbage")
    options = ("--silence-seconds", "1.5", "--session-grace-seconds", "1")
    with tried_star(directory, workers=1, slots=1, manager_options=options) as star:
        yield star


@pytest.fixture(scope="module")
def neighbour(star: TriedStar) -> Client:
    """Whom all this is none of his business."""
    return star.client()


@pytest.fixture(scope="module")
def silent(star: TriedStar) -> list[Stranger]:
    """Peers that say nothing, from the first test on: the manager's patience with them is 10 s."""
    return [Stranger(star, role, "silent") for role in ROLES]


BEFORE_HELLO = {
    "noise": secrets.token_bytes(500),
    "http": b"GET / HTTP/1.1\r\nHost: manager\r\n\r\n",
    "heartbeat": codec.encode(Heartbeat()),
    "unknown kind": frame(99),
    "kind beyond all": frame(200),
    "large greeting": frame(1, bytes(100), payload_bytes=1 << 20),
    "hello without its end": frame(1, codec.encode(hello(Role.CLIENT, "x"))[16:60]),
    "hello of no role": frame(1, struct.pack("<HB16s", PROTOCOL_VERSION, 9, bytes(16))),
}

AFTER_HELLO = {
    "unknown kind": frame(99),
    "no magic": b"\x00" * 64,
    "flags": struct.pack("<HBBIQ", MAGIC, 4, 1, 0, 0),
    "heartbeat with a body": frame(4, payload=b"x"),
    "meta beyond the limit": frame(16, meta_bytes=1 << 31),
    "payload beyond the limit": frame(16, payload_bytes=1 << 60),
    "chunk beyond the limit": frame(5, struct.pack("<QIIQ", 1, 1, 0, 0), payload_bytes=CHUNK_BYTES_MAX + 1),
    "empty chunk": frame(5, struct.pack("<QIIQ", 1, 1, 0, 0)),
    "column longer than its frame": frame(18, struct.pack("<I", 4096)),
    "bytes left over": frame(4, b"left over"),
    "text that is none": frame(3, struct.pack("<HI", 0, 3) + b"\xff\xfe\xfd"),
    "hello again": codec.encode(hello(Role.CLIENT, "again")),
    "welcome": codec.encode(Welcome(PROTOCOL_VERSION, 1, False, "", 0, 0, 1.0, 1.0, 1.0, 0, 0)),
}


def expect_closed(star: TriedStar, stranger: Stranger, neighbour: Client) -> None:
    """The stranger is turned out with a reason and one line in the log; the neighbour works on."""
    heard = stranger.hear()
    assert b"SC\x03" in heard, heard
    lines = until(stranger.lines, f"a line about {stranger.address}")
    assert len(lines) == 1, lines
    assert neighbour.submit(pow, 2, 3).result(SECONDS) == 8


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("garbage", BEFORE_HELLO.values(), ids=BEFORE_HELLO)
def test_nonsense_instead_of_a_hello_is_turned_out(
    star: TriedStar, neighbour: Client, silent: list[Stranger], role: Role, garbage: bytes
) -> None:
    with Stranger(star, role) as stranger:
        stranger.say(garbage)
        expect_closed(star, stranger, neighbour)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("garbage", AFTER_HELLO.values(), ids=AFTER_HELLO)
def test_nonsense_after_the_hello_is_turned_out(star: TriedStar, neighbour: Client, role: Role, garbage: bytes) -> None:
    with Stranger(star, role) as stranger:
        stranger.greet(role)
        stranger.say(garbage)
        expect_closed(star, stranger, neighbour)


@pytest.mark.parametrize("role", ROLES)
def test_words_of_the_other_role_are_turned_out(star: TriedStar, neighbour: Client, role: Role) -> None:
    words = {
        Role.CLIENT: Result(array("Q", [1]), b"\0", array("d", [0.0]), array("I", [0]), array("Q"), b""),
        Role.WORKER: Ack(array("Q", [1])),
    }
    with Stranger(star, role) as stranger:
        stranger.greet(role)
        stranger.say(words[role])
        expect_closed(star, stranger, neighbour)


@pytest.mark.parametrize("role", ROLES)
def test_half_a_frame_and_then_silence_is_turned_out(star: TriedStar, neighbour: Client, role: Role) -> None:
    with Stranger(star, role) as stranger:
        stranger.greet(role)
        stranger.say(frame(16, b"half", meta_bytes=1000))
        expect_closed(star, stranger, neighbour)


@pytest.mark.parametrize("role", ROLES)
def test_half_a_frame_and_then_an_end_is_survived(star: TriedStar, neighbour: Client, role: Role) -> None:
    with Stranger(star, role) as stranger:
        stranger.greet(role)
        stranger.say(frame(16, b"half", meta_bytes=1000))
        stranger.hang_up()
    assert neighbour.submit(pow, 2, 3).result(SECONDS) == 8


def test_chunks_that_were_never_granted_are_turned_out(star: TriedStar, neighbour: Client) -> None:
    with Stranger(star, Role.CLIENT) as stranger:
        stranger.greet(Role.CLIENT)
        stranger.say(Job(1, FunctionKind.REGISTERED, bytes(32), "no.such:function", "", 0, 0.0, 0))
        stranger.say(Submit(1, 0, False, array("I", [1]), array("Q", [1 << 30]), b"h"))
        for piece in range(5):  # the first four fit into the window
            stranger.say(chunk(1 << 32, piece * CHUNK_BYTES_MAX, bytes(CHUNK_BYTES_MAX)))
        expect_closed(star, stranger, neighbour)


def test_chunks_of_no_stream_are_thrown_away(star: TriedStar, neighbour: Client) -> None:
    with Stranger(star, Role.CLIENT) as stranger:
        stranger.greet(Role.CLIENT)
        held = neighbour.status()["held_bytes"]
        for piece in range(20):
            stranger.say(chunk(7, piece * CHUNK_BYTES_MAX, bytes(CHUNK_BYTES_MAX)))
        stranger.say(Grant(7, 1, 0, 1 << 40))
        stranger.say(Job(1, FunctionKind.REGISTERED, bytes(32), "no.such:function", "", 0, 0.0, 0))
        assert neighbour.submit(pow, 2, 3).result(SECONDS) == 8
        assert neighbour.status()["held_bytes"] <= held + 1000


def test_submitting_beyond_the_credit_is_turned_out(star: TriedStar, neighbour: Client) -> None:
    with Stranger(star, Role.CLIENT) as stranger:
        stranger.greet(Role.CLIENT)
        stranger.say(Job(1, FunctionKind.REGISTERED, bytes(32), "no.such:function", "", 0, 0.0, 0))
        count, size = 4, 60_000
        heads = array("I", [size] * count)
        with pytest.raises((ConnectionError, ssl.SSLError)):  # noqa: PT012
            for first in range(0, 1000, count):
                stranger.say(Submit(1, first, False, heads, array("Q"), bytes(size * count)))
            raise ConnectionError("everything was swallowed")
        assert neighbour.submit(pow, 2, 3).result(SECONDS) == 8
        assert len(until(stranger.lines, "a line")) == 1


def test_peers_that_never_say_a_word_are_closed(star: TriedStar, neighbour: Client, silent: list[Stranger]) -> None:
    for stranger in silent:
        with stranger:
            expect_closed(star, stranger, neighbour)


def test_plain_bytes_on_a_tls_port_hurt_nobody(star: TriedStar, neighbour: Client) -> None:
    for port in (star.port, star.client_port):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
            sock.sendall(b"SC\x01\x00" + bytes(60))
            sock.settimeout(SECONDS)
            with contextlib.suppress(ConnectionResetError):  # there were bytes that nobody read
                while sock.recv(1 << 16):
                    pass
    assert neighbour.submit(pow, 2, 3).result(SECONDS) == 8


# -- a manager that talks nonsense -------------------------------------------------------------------------------


WELCOME = codec.encode(Welcome(PROTOCOL_VERSION, 1, False, "rogue", 1 << 20, 1 << 20, 1.0, 4.0, 300.0, 1, 1))
FROM_A_MANAGER: dict[str, bytes] = {
    "noise": secrets.token_bytes(500),
    "no welcome but work": codec.encode(Confirm(array("Q", [1]))),
    "half a welcome": WELCOME[:30],
    "welcome twice": WELCOME + WELCOME,
    "unknown kind": WELCOME + frame(99),
    "frame beyond the limit": WELCOME + frame(32, meta_bytes=1 << 31),
    "column longer than its frame": WELCOME + frame(32, struct.pack("<QIII", 1, 1, 1, 4096)),
    "words of a client": WELCOME + codec.encode(Ack(array("Q", [1]))),
    "chunks": WELCOME + chunk(1 << 32, 0, b"x" * 1000) + frame(99),
    "outcome of no job": WELCOME
    + codec.encode(Outcome(1, 99, 1, array("I", [0]), b"\0", array("I", [1]), array("Q"), b"x"))
    + codec.encode(Assign(1, 99, 0, 1, array("I", [1]), array("Q"), b"x"))
    + frame(99),
}


class Rogue:
    """A TLS server with the star's own manager certificate that says one piece of nonsense to each who comes."""

    def __init__(self, star: TriedStar, role: Role, sayings: list[bytes]) -> None:
        identity = certificates.manager_identity(certificates.load_star(star.directory))
        self._context = tls.listen_context(identity, role)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.left = list(sayings)
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            while self.left:
                plain, _ = self._listener.accept()
                plain.settimeout(5)
                try:
                    with self._context.wrap_socket(plain, server_side=True) as sock:
                        if sock.recv(1 << 16)[:3] != b"SC\x01":
                            self.faults.append("no HELLO")
                        saying = self.left.pop(0)
                        sock.sendall(saying)
                        if len(saying) < len(WELCOME):
                            time.sleep(0.1)
                            continue  # an end in the middle of a frame
                        while sock.recv(1 << 16):
                            pass
                except (ConnectionError, ssl.SSLError):
                    continue
                except OSError as error:
                    self.faults.append(f"{error!r}, {len(self.left)} left")

    def join(self) -> None:
        self._thread.join(SECONDS * 2)
        assert not self._thread.is_alive(), f"{len(self.left)} of the sayings were never asked for"
        assert not self.faults


def test_worker_survives_a_manager_that_talks_nonsense(tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=0, slots=1) as star:
        rogue = Rogue(star, Role.WORKER, list(FROM_A_MANAGER.values()))
        pid = star.start_worker("--manager", f"127.0.0.1:{rogue.port}")
        rogue.join()
        with Proxy(star.port, listen=rogue.port), star.client() as client:
            assert star.worker_pids == [pid]
            assert client.submit(pow, 2, 3).result(SECONDS) == 8
            star.check_quiet()


def test_client_survives_a_manager_that_talks_nonsense(star: TriedStar, neighbour: Client) -> None:
    rogue = Rogue(star, Role.CLIENT, list(FROM_A_MANAGER.values()))
    made: list[Client] = []

    def dial() -> None:
        made.append(Client(f"127.0.0.1:{rogue.port}", join=star.join_file("client"), connect_seconds=SECONDS))

    dialling = threading.Thread(target=dial)
    dialling.start()
    until(lambda: made, "the first WELCOME of the rogue")
    dialling.join()
    with made[0] as client:
        future = client.submit(pow, 2, 3)
        rogue.join()
        with Proxy(star.client_port, listen=rogue.port):
            assert future.result(SECONDS) == 8
            client.shutdown()


def test_worker_of_another_manager_is_not_believed(star: TriedStar, neighbour: Client) -> None:
    """A HELLO may claim what it likes: the certificate of a client makes no worker, nor a worker's a client."""
    for role, claimed in ((Role.CLIENT, Role.WORKER), (Role.WORKER, Role.CLIENT)):
        with Stranger(star, role) as stranger:
            stranger.say(hello(claimed, "liar"))
            expect_closed(star, stranger, neighbour)
