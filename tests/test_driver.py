"""driver.py and connection.py on a real loop, over real mutual TLS on loopback, with toy cores at both ends."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from starcore import certificates, connecting, tls
from starcore.driver import Driver
from starcore.errors import Code, UnexpectedError
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Close,
    Event,
    Finished,
    Lost,
    Opened,
    Received,
    Send,
    SendChunk,
    Spooled,
    Tick,
    Unreadable,
    Writable,
)
from starcore.messages import CHUNK_BYTES_MAX, Goodbye, Heartbeat, Hello, Notice, Role, Welcome

HELLO = Hello(version=1, role=Role.CLIENT, session=bytes(16))
WELCOME = Welcome(version=1, epoch=1, resumed=False)


class ToyCore:
    """Records every event and answers with what the test told it to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.answers: dict[type, Callable[[Any], list[Action]]] = {}
        self.wake: float | None = None

    def handle(self, event: Event, now: float) -> list[Action]:
        self.events.append(event)
        if isinstance(event, Tick):
            self.wake = None
        answer = self.answers.get(type(event))
        return answer(event) if answer else []

    def deadline(self) -> float | None:
        return self.wake

    def check(self) -> None:
        pass

    def seen(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


class ToyShell:
    """Memory for chunks in, a body to send out, and a list of actions nobody else knows."""

    def __init__(self, body: bytes = b"", room: int = 0) -> None:
        self.body = memoryview(body)
        self.room = bytearray(room)
        self.performed: list[Action] = []

    def perform(self, action: Action) -> None:
        self.performed.append(action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> memoryview | None:
        return memoryview(self.room)[offset : offset + length] if self.room else None

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> memoryview:
        return self.body[offset : offset + length]

    def release(self, token: Any) -> None:
        pass


class End:
    """A core, its shell and its driver."""

    def __init__(self, body: bytes = b"", room: int = 0) -> None:
        self.core = ToyCore()
        self.shell = ToyShell(body, room)
        logger = logging.getLogger("starcore.test")
        self.driver = Driver(self.core, asyncio.get_running_loop(), self.shell, logger)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else _NoTimeout():
            while not condition():
                await asyncio.sleep(0)


class _NoTimeout:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("star") / "star", host="127.0.0.1")[0]


Pair = Callable[..., Coroutine[Any, Any, None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest, star: certificates.Star) -> Callable[[Callable[[End, End], Any]], None]:
    """Run a test between a listening End and a dialing one, on uvloop and on asyncio's own loop."""

    def runner(test: Callable[..., Any], *, listener: dict[str, Any] | None = None, role: Role = Role.CLIENT) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            identity = certificates.manager_identity(star)
            join = star.client_join if role is Role.CLIENT else star.worker_join
            own = certificates.read_join(join).identity
            here, there = End(**(listener or {})), End()
            server = socket.create_server(("127.0.0.1", 0))
            dialed = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
            await asyncio.gather(
                connecting.secure(
                    loop,
                    lambda: here.driver.connection(functools.partial(tls.identify, identity, Role.CLIENT)),
                    accepted,
                    tls.listen_context(identity, Role.CLIENT),
                ),
                connecting.secure(
                    loop,
                    lambda: there.driver.connection(functools.partial(tls.identify, own, Role.MANAGER)),
                    dialed,
                    tls.dial_context(own),
                    server_hostname=own.server_name,
                ),
            )
            try:
                await test(here, there)
            finally:
                here.driver.close_all()
                there.driver.close_all()
                server.close()

        loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()

    return runner


async def say(here: End, there: End, message: Any) -> None:
    """Send one message from the dialer, once both ends stand."""
    await here.until(lambda: here.core.seen(Opened) and there.core.seen(Opened))
    link = there.core.seen(Opened)[0].link
    there.core.answers[Tick] = lambda e: [Send(link, message)]
    there.driver.feed(Tick())
    del there.core.answers[Tick]


async def greet(here: End, there: End) -> None:
    """HELLO and WELCOME, so that both readers take frames of every size."""
    here.core.answers[Received] = lambda e: [Send(e.link, WELCOME)] if isinstance(e.message, Hello) else []
    await say(here, there, HELLO)
    await there.until(lambda: any(isinstance(e.message, Welcome) for e in there.core.seen(Received)))


def test_both_ends_learn_who_the_other_is(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await here.until(lambda: here.core.seen(Opened) and there.core.seen(Opened))
        assert here.core.seen(Opened)[0].peer.role is Role.CLIENT
        assert there.core.seen(Opened)[0].peer.role is Role.MANAGER
        assert here.core.seen(Opened)[0].peer.address.startswith("127.0.0.1:")

    run(test)


def test_a_peer_of_the_wrong_role_is_told_before_anything_is_read(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: End, there: End) -> None:
        await there.until(lambda: there.core.seen(Received))
        goodbye = there.core.seen(Received)[0].message
        assert isinstance(goodbye, Goodbye)
        assert goodbye.code == Code.ROLE
        assert "worker" in goodbye.reason
        assert not here.core.seen(Opened)
        await there.until(lambda: there.core.seen(Lost))
        (line,) = (record.getMessage() for record in caplog.records if "refused" in record.getMessage())
        address = line.split()[1].rstrip(":")
        assert line.startswith(f"refused {address}: shows the certificate of") and line.count(address) == 1

    run(test, role=Role.WORKER)


def test_messages_of_one_turn_arrive_in_order(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link = there.core.seen(Opened)[0].link
        texts = [f"{i}" * (i % 50) for i in range(500)]
        there.core.answers[Tick] = lambda e: [Send(link, Notice(i, text)) for i, text in enumerate(texts)]
        there.driver.feed(Tick())
        await here.until(lambda: len(here.core.seen(Received)) == 501)
        assert [e.message.text for e in here.core.seen(Received)[1:]] == texts

    run(test)


def test_a_body_flows_into_its_destination_one_chunk_for_each_writable(run: Any) -> None:
    body = bytes(range(256)) * (16 << 10)

    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link = there.core.seen(Opened)[0].link
        there.shell.body = memoryview(body)
        position = 0

        def chunk(event: Any) -> list[Action]:
            nonlocal position
            offset, length = position, min(CHUNK_BYTES_MAX, len(body) - position)
            position += length
            return [SendChunk(link, 7, 1, offset, length)] if length else []

        there.core.answers[Writable] = chunk
        there.driver.feed(Writable(link))
        await here.until(lambda: sum(e.length for e in here.core.seen(ChunkReceived)) == len(body))
        assert bytes(here.shell.room) == body
        assert all((e.stream, e.attempt) == (7, 1) for e in here.core.seen(ChunkReceived))

    run(test, listener={"room": len(body)})


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, 0])
def test_a_file_that_cannot_be_read_is_told_to_the_core_and_costs_no_link(run: Any, number: int) -> None:
    def unreadable(start: int, length: int) -> bytes:
        raise OSError(number, "Input/output error") if number else OSError("it was cut short")

    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link = there.core.seen(Opened)[0].link
        lost, kept = Spooled(3, 0, 8, unreadable), Spooled(4, 0, 8, lambda start, length: bytes(length))
        chunks = [SendChunk(link, 7, 1, 0, 8, lost), SendChunk(link, 9, 1, 0, 8, kept)]
        there.core.answers[Writable] = lambda event: [chunks.pop(0)] if chunks else []
        there.driver.feed(Writable(link))
        await here.until(lambda: here.core.seen(ChunkReceived))
        assert [event.stream for event in here.core.seen(ChunkReceived)] == [9]
        said = "Input/output error" if number else "it was cut short"
        assert there.core.seen(Unreadable) == [Unreadable(3, said)]
        assert there.core.seen(Lost) == []

    run(test, listener={"room": 8})


def test_a_want_of_descriptors_is_no_fault_of_a_file(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    def unreadable(start: int, length: int) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link = there.core.seen(Opened)[0].link
        there.core.answers[Tick] = lambda event: [SendChunk(link, 7, 1, 0, 8, Spooled(3, 0, 8, unreadable))]
        there.driver.feed(Tick())
        assert there.core.seen(Unreadable) == []
        assert [lost.link for lost in there.core.seen(Lost)] == [link]

    run(test)
    assert "Too many open files" in caplog.text


def test_a_reader_that_stops_blocks_the_link_and_messages_still_pass(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link, behind = there.core.seen(Opened)[0].link, here.core.seen(Opened)[0].link
        there.shell.body = memoryview(bytes(CHUNK_BYTES_MAX))
        transport = here.driver._links[behind]._transport
        transport.pause_reading()
        there.core.answers[Writable] = lambda e: [SendChunk(link, 7, 1, 0, CHUNK_BYTES_MAX)]
        there.driver.feed(Writable(link))
        await there.until(lambda: there.core.seen(Blocked))
        sent = len(there.core.seen(Writable))
        assert sent < 64, "the write buffer is bounded"
        there.core.answers[Tick] = lambda e: [Send(link, Heartbeat())]
        there.driver.feed(Tick())
        there.core.answers.pop(Writable)
        transport.resume_reading()
        await here.until(lambda: any(isinstance(e.message, Heartbeat) for e in here.core.seen(Received)))
        await there.until(lambda: len(there.core.seen(Writable)) > sent)

    run(test)


def test_garbage_closes_the_link_with_a_goodbye(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await here.until(lambda: here.core.seen(Opened) and there.core.seen(Opened))
        connection = next(iter(there.driver._links.values()))
        connection._transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await here.until(lambda: here.core.seen(Lost))
        await there.until(lambda: there.core.seen(Received))
        assert there.core.seen(Received)[0].message.code == Code.FRAME

    run(test)


def test_a_protocol_error_of_the_core_closes_the_link_that_it_concerns(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        def refuse(event: Any) -> list[Action]:
            raise UnexpectedError("not now")

        here.core.answers[Received] = refuse
        await say(here, there, HELLO)
        await there.until(lambda: there.core.seen(Received))
        assert there.core.seen(Received)[0].message.code == Code.UNEXPECTED
        assert here.core.seen(Lost)

    run(test)


def test_a_fault_of_our_own_costs_one_link_and_is_logged(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: End, there: End) -> None:
        here.core.answers[Received] = lambda e: [e.link // 0]
        await say(here, there, HELLO)
        await there.until(lambda: there.core.seen(Received))
        assert there.core.seen(Received)[0].message.code == Code.INTERNAL
        here.driver.feed(Tick())
        assert isinstance(here.core.events[-1], Tick), "the driver still turns"

    run(test)
    assert "ZeroDivisionError" in caplog.text


def test_after_a_fault_of_our_own_an_asked_for_shutdown_still_passes(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        here.core.answers[Received] = lambda e: [e.link // 0]
        await say(here, there, HELLO)
        await there.until(lambda: there.core.seen(Received))
        here.core.answers[Tick] = lambda e: [Finished()]
        here.driver.feed(Tick())
        assert here.shell.performed == [Finished()]

    run(test)


def test_an_action_that_fails_takes_no_other_one_along(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: End, there: End) -> None:
        link = (await here.until(lambda: here.core.seen(Opened))) or here.core.seen(Opened)[0].link
        unsendable = Notice(1, "\udc80")
        here.core.answers[Tick] = lambda e: [Send(link, unsendable), "another action"]
        here.driver.feed(Tick())
        assert here.shell.performed == ["another action"]
        assert [lost.link for lost in here.core.seen(Lost)] == [link], "what could not be said is missing there"

    run(test)
    assert "UnicodeEncodeError" in caplog.text


def test_close_says_goodbye_and_the_core_hears_lost_once(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await here.until(lambda: here.core.seen(Opened) and there.core.seen(Opened))
        link = here.core.seen(Opened)[0].link
        here.core.answers[Tick] = lambda e: [Close(link, Code.SILENT, "too quiet")]
        here.driver.feed(Tick())
        await there.until(lambda: there.core.seen(Lost))
        assert there.core.seen(Received)[0].message == Goodbye(Code.SILENT, "too quiet")
        assert len(here.core.seen(Lost)) == 1
        assert here.driver.links == 0

    run(test)


def test_an_action_of_the_role_goes_to_the_shell_and_the_timer_ticks(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await here.until(lambda: here.core.seen(Opened))
        here.core.answers[Tick] = lambda e: ["something of its own"]
        here.core.wake = asyncio.get_running_loop().time() + 0.01
        here.driver.feed(Blocked(99))
        await here.until(lambda: here.core.seen(Tick))
        assert here.shell.performed == ["something of its own"]

    run(test)


def test_what_falls_due_within_a_turn_is_done_at_its_end_once(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link, before = here.core.seen(Opened)[0].link, len(there.core.seen(Received))
        here.core.answers[Blocked] = lambda e: [Send(link, Notice(e.link, "an event"))]
        here.core.answers[Tick] = lambda e: [Send(link, Notice(0, "what they came to"))]
        for number in (1, 2, 3):
            here.core.wake = asyncio.get_running_loop().time()
            here.driver.feed(Blocked(number))
        assert not here.core.seen(Tick)
        await asyncio.sleep(0)
        assert len(here.core.seen(Tick)) == 1, "at the end of the very turn"
        await there.until(lambda: len(there.core.seen(Received)) == before + 4)
        assert [event.message.job for event in there.core.seen(Received)[before:]] == [1, 2, 3, 0]

    run(test)


def test_a_turn_can_be_ended_by_who_knows_that_nothing_more_comes_in_it(run: Any) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link, before = here.core.seen(Opened)[0].link, len(there.core.seen(Received))
        here.core.answers[Tick] = lambda e: [Send(link, Notice(0, "at once"))]
        here.core.wake = asyncio.get_running_loop().time()
        here.driver.feed(Blocked(1))
        here.driver.end_turn()
        assert len(here.core.seen(Tick)) == 1
        here.driver.end_turn()
        await there.until(lambda: len(there.core.seen(Received)) == before + 1)
        assert len(here.core.seen(Tick)) == 1, "the turn was over"

    run(test)


def test_what_is_sent_in_a_held_turn_leaves_when_that_is_ended_and_the_loop_has_nothing_to_come_back_for(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        link, before = here.core.seen(Opened)[0].link, len(there.core.seen(Received))
        here.core.answers[Blocked] = lambda e: [Send(link, Notice(e.link, "in a row"))]
        coming_back: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(Driver, "_end_soon", coming_back.append)
            here.driver.hold()
            here.driver.feed(Blocked(1))
            here.driver.feed(Blocked(2))
            here.driver.end_turn()
        assert not coming_back
        await there.until(lambda: len(there.core.seen(Received)) == before + 2)
        here.driver.feed(Blocked(3))
        await there.until(lambda: len(there.core.seen(Received)) == before + 3)

    run(test)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_tick_is_never_too_early_for_the_core_that_asked_for_it(loop: str) -> None:
    """The clock of uvloop has whole milliseconds: a sum of the core's may lie a hair above the one it wakes at."""
    delays = [0.0013, 0.002, 0.002, 0.002, 0.0037, 0.002]

    class Sleeper(ToyCore):
        early = 0

        def handle(self, event: Event, now: float) -> list[Action]:
            if self.wake is not None and now < self.wake:
                self.early += 1
            elif delays:
                self.wake = now + delays.pop()
            else:
                self.wake = None
            return []

    async def main() -> int:
        core = Sleeper()
        driver = Driver(core, asyncio.get_running_loop(), ToyShell(), logging.getLogger("starcore.test"))
        driver.feed(Tick())
        while core.wake is not None:
            await asyncio.sleep(0.001)
        return core.early

    made = uvloop.new_event_loop() if loop == "uvloop" else asyncio.new_event_loop()
    try:
        assert made.run_until_complete(main()) == 0
    finally:
        made.close()


def test_a_part_of_a_chunk_that_is_no_event_does_not_turn_the_core(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        (line,) = here.driver._links.values()
        line.alone = True  # type: ignore[attr-defined]
        asked: list[Any] = []
        deadline = here.core.deadline
        monkeypatch.setattr(here.core, "deadline", lambda: asked.append(1) or deadline())
        await asyncio.sleep(0.01)  # the turn that the greeting was in is over
        asked.clear()
        here.driver.hold()
        here.driver.end_turn()
        assert not asked
        await say(here, there, Heartbeat())
        await here.until(lambda: asked)  # an event again

    run(test)


def test_what_the_one_link_of_a_driver_brings_is_answered_within_its_read(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(here: End, there: End) -> None:
        await greet(here, there)
        (line,) = here.driver._links.values()
        line.alone = True  # type: ignore[attr-defined]
        here.core.answers[Received] = lambda e: [Send(e.link, Notice(0, "at once"))]
        before = len(there.core.seen(Received))
        coming_back: list[Any] = []
        monkeypatch.setattr(here.driver, "_end_soon", lambda: coming_back.append(1))
        await say(here, there, Heartbeat())
        await there.until(lambda: len(there.core.seen(Received)) == before + 1)
        assert not coming_back

    run(test)
