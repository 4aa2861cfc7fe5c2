"""connection.py alone: what it writes, when, and what it tells its owner, on a transport that records."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from starcore import codec
from starcore._framing import FrameReader
from starcore.connection import UNREAD_BYTES_MAX, WRITE_PIECE_BYTES, Connection
from starcore.errors import CredentialsError, ProtocolError
from starcore.events import Peer
from starcore.messages import Goodbye, Heartbeat, Hello, Message, Notice, Role, Welcome

PEER = Peer(Role.CLIENT, "laptop", "192.0.2.7:5000", "ab" * 32, "star/client/laptop")
HELLO = Hello(version=1, role=Role.CLIENT, session=bytes(16))
WELCOME = Welcome(version=1, epoch=1, resumed=False)


class Loop:
    """The timers of a loop, fired by hand."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any]] = []

    def call_later(self, seconds: float, callback: Any, *arguments: Any) -> None:
        self.later.append((seconds, callback))


class Transport(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self, peername: Any = ("192.0.2.7", 5000)) -> None:
        self.sock = socket.socket()
        super().__init__({"peername": peername, "socket": self.sock, "ssl_object": "the handshake"})
        self.writes: list[bytes] = []
        self.closed = self.aborted = False
        self.high: int | None = None
        self.waiting = 0

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(bytes(data) for data in list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.room: bytearray | None = None
        self.unsent: list[Connection] = []

    def opened(self, connection: Connection, peer: Peer) -> None:
        self.heard.append(("opened", peer.name))

    def refused(self, connection: Connection, error: CredentialsError) -> None:
        self.heard.append(("refused", str(error)))

    def received(self, link: int, message: Message) -> None:
        self.heard.append(("received", link, message))

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        return None if self.room is None else memoryview(self.room)[offset : offset + length]

    def arrived(self, link: int, stream: int, attempt: int, offset: int, length: int, token: Any) -> None:
        self.heard.append(("arrived", stream, attempt, offset, length))

    def fault(self, connection: Connection, error: ProtocolError) -> None:
        self.heard.append(("fault", type(error).__name__))

    def queued(self, connection: Connection) -> None:
        self.unsent.append(connection)

    def end_turn(self) -> None:
        while self.unsent:
            self.unsent.pop().flush()

    def writable(self, link: int, writable: bool) -> None:
        self.heard.append(("writable", writable))

    def lost(self, connection: Connection, reason: str) -> None:
        self.heard.append(("lost", reason))


class Desk:
    """A connection with everything around it."""

    def __init__(self, **transport: Any) -> None:
        self.loop, self.owner, self.transport = Loop(), Owner(), Transport(**transport)
        self.connection = Connection(7, self.owner, lambda ssl_object, address: PEER, self.loop)  # type: ignore[arg-type]
        self.connection.connection_made(self.transport)

    def turn(self) -> None:
        """End one turn of the loop."""
        self.owner.end_turn()

    def feed(self, data: bytes) -> None:
        """Hand bytes over as a loop does: into the memory that it is given, as much as fits."""
        while data:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.connection.buffer_updated(count)
            data = data[count:]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.transport.sock.close()


def written(desk: Desk) -> list[Any]:
    """Every message and chunk in what was written so far."""
    found: list[Any] = []
    reader = FrameReader(
        lambda kind, meta, payload: found.append(codec.decode(kind, meta, payload)),
        lambda stream, attempt, offset, length: None,
        lambda *chunk: found.append(chunk[:4]),
        greeting=False,
    )
    data = b"".join(desk.transport.writes)
    while data:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        reader.advance(count)
        data = data[count:]
    return found


def test_messages_of_one_turn_leave_in_one_write(desk: Desk) -> None:
    for text in "abc":
        desk.connection.send(Notice(1, text))
    assert desk.transport.writes == []
    desk.turn()
    assert len(desk.transport.writes) == 1
    assert [message.text for message in written(desk)] == ["a", "b", "c"]


def test_a_message_without_hurry_travels_with_the_next_one_that_has(desk: Desk) -> None:
    desk.connection.send(Notice(1, "later"), hurry=False)
    desk.turn()
    assert desk.transport.writes == []
    desk.connection.send(Notice(1, "now"))
    desk.turn()
    assert [message.text for message in written(desk)] == ["later", "now"]
    assert len(desk.transport.writes) == 1


def test_a_message_without_hurry_leaves_alone_after_a_moment(desk: Desk) -> None:
    for text in "ab":
        desk.connection.send(Notice(1, text), hurry=False)
    ((seconds, callback),) = desk.loop.later
    assert 0 < seconds <= 0.05
    callback()
    assert [message.text for message in written(desk)] == ["a", "b"]


def test_a_chunk_leaves_at_once_behind_the_messages_before_it(desk: Desk) -> None:
    desk.connection.send(Heartbeat())
    desk.connection.send_chunk(5, 2, 0, b"x" * 100)
    assert written(desk) == [Heartbeat(), (5, 2, 0, 100)]
    desk.turn()
    assert len(desk.transport.writes) == 1, "the queue is empty by then"


def test_a_part_of_a_token_leaves_as_a_chunk(desk: Desk) -> None:
    desk.connection.send_token(5, 2, 100, 3, bytearray(b"abcdefgh"), 4)
    assert written(desk) == [(5, 2, 100, 3)]
    assert desk.transport.writes[-1].endswith(b"efg")


def test_a_large_burst_is_written_in_pieces_that_do_not_hold_the_loop(desk: Desk) -> None:
    for _ in range(20):
        desk.connection.send(Notice(1, "x" * 50_000))
    desk.turn()
    assert max(len(write) for write in desk.transport.writes) == WRITE_PIECE_BYTES
    assert len(written(desk)) == 20


def test_the_owner_learns_of_messages_and_chunks_in_their_order(desk: Desk) -> None:
    desk.owner.room = bytearray(100)
    other = Desk()
    other.connection.send(WELCOME)
    other.connection.send_chunk(5, 2, 0, b"x" * 100)
    other.connection.send(Heartbeat())
    other.turn()
    desk.feed(b"".join(other.transport.writes))
    other.transport.sock.close()
    assert desk.owner.heard == [
        ("opened", "laptop"),
        ("received", 7, WELCOME),
        ("arrived", 5, 2, 0, 100),
        ("received", 7, Heartbeat()),
    ]
    assert desk.owner.room == b"x" * 100


def test_before_the_greeting_no_chunk_is_taken(desk: Desk) -> None:
    other = Desk()
    other.connection.send_chunk(5, 2, 0, b"x" * 100)
    desk.feed(b"".join(other.transport.writes)[:40])
    other.transport.sock.close()
    assert desk.owner.heard[-1] == ("fault", "FrameError")


def test_sending_welcome_lifts_the_greeting(desk: Desk) -> None:
    desk.connection.send(WELCOME)
    other = Desk()
    other.connection.send_chunk(5, 2, 0, b"x" * 100)
    desk.feed(b"".join(other.transport.writes))
    other.transport.sock.close()
    assert desk.owner.heard[-1] == ("arrived", 5, 2, 0, 100)


def test_close_sends_the_last_word_and_the_owner_hears_nothing_more(desk: Desk) -> None:
    desk.connection.send(Heartbeat())
    desk.connection.close(Goodbye(0, "done"))
    assert written(desk) == [Heartbeat(), Goodbye(0, "done")]
    assert desk.transport.closed
    assert desk.loop.later, "one that cannot send its last bytes is aborted"
    desk.connection.send(Heartbeat())
    desk.turn()
    desk.connection.connection_lost(None)
    assert desk.owner.heard == [("opened", "laptop")]


def test_abort_sends_nothing_more(desk: Desk) -> None:
    desk.connection.send(Heartbeat())
    desk.connection.abort()
    desk.turn()
    assert desk.transport.writes == []
    assert desk.transport.aborted


def test_an_end_is_told_once_with_its_reason(desk: Desk) -> None:
    desk.connection.connection_lost(ConnectionResetError("reset by peer\nmore"))
    assert desk.owner.heard[-1] == ("lost", "ConnectionResetError: reset by peer")


def test_a_full_write_buffer_is_told_and_remembered(desk: Desk) -> None:
    desk.connection.pause_writing()
    assert desk.connection.blocked
    desk.connection.resume_writing()
    assert not desk.connection.blocked
    assert desk.owner.heard[-2:] == [("writable", False), ("writable", True)]


def test_a_peer_that_identify_refuses_is_not_opened() -> None:
    desk = Desk.__new__(Desk)
    desk.loop, desk.owner, desk.transport = Loop(), Owner(), Transport()

    def identify(ssl_object: Any, address: str) -> Peer:
        raise CredentialsError(f"{address} is no worker")

    connection = Connection(7, desk.owner, identify, desk.loop)  # type: ignore[arg-type]
    connection.connection_made(desk.transport)
    desk.transport.sock.close()
    assert desk.owner.heard == [("refused", "192.0.2.7:5000 is no worker")]


@pytest.mark.parametrize(
    ("peername", "text"),
    [(("192.0.2.7", 5000), "192.0.2.7:5000"), (("2001:db8::1", 5000, 0, 0), "[2001:db8::1]:5000"), (None, "?")],
)
def test_addresses_are_written_as_people_write_them(peername: Any, text: str) -> None:
    desk = Desk(peername=peername)
    desk.transport.sock.close()
    assert desk.connection.address == text


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="run on Linux: it has TCP_USER_TIMEOUT")
@pytest.mark.parametrize("welcome", [WELCOME, Welcome(version=1, epoch=1, resumed=False, silence_seconds=0.5)])
def test_the_kernel_gives_a_dead_link_up_when_the_cores_would(desk: Desk, welcome: Welcome) -> None:
    sock = desk.transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    desk.connection.send(welcome)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * welcome.silence_seconds
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    idle, interval, probes = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
    assert idle + probes * interval == max(4, welcome.silence_seconds)


def test_a_silence_that_no_kernel_counts_is_left_to_the_cores(desk: Desk) -> None:
    desk.connection.watch(1e9)
    desk.connection.abort()
    desk.connection.connection_lost(None)
    desk.connection.watch(8.0)


def test_the_socket_is_tuned_for_small_frames_and_early_heartbeats(desk: Desk) -> None:
    assert desk.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert desk.transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert desk.transport.high is not None
    assert desk.connection.descriptor() == desk.transport.sock.fileno()


def test_peer_that_asks_and_does_not_read_is_at_fault(desk: Desk) -> None:
    desk.connection.pause_writing()
    desk.transport.waiting = UNREAD_BYTES_MAX
    desk.connection.send(Heartbeat())
    desk.connection.flush()
    assert ("fault", "OverrunError") not in desk.owner.heard
    desk.transport.waiting += 1
    desk.connection.send(Heartbeat())
    desk.connection.flush()
    assert desk.owner.heard[-1] == ("fault", "OverrunError")


def test_answers_to_very_many_questions_of_one_read_do_not_wait_for_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.feed(codec.encode(HELLO))
    answer = Notice(1, "z" * 10_000)
    monkeypatch.setattr(desk.owner, "received", lambda link, message: desk.connection.send(answer))
    desk.feed(codec.encode(Heartbeat()) * 1000)
    assert len(b"".join(desk.transport.writes)) > 8_000_000
    desk.turn()
    assert written(desk) == [answer] * 1000
