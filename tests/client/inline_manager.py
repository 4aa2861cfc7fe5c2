"""A manager and its workers in one pure core: it runs each call where it stands, in order, and answers.

What the client is tested against while the real star is tested elsewhere: real TLS on loopback, the real driver and
codec, the real pickles. Only the star's inside is missing. `hold()` keeps tasks waiting until `let_go()`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from starcore import certificates, tls
from starcore.driver import Driver
from starcore.errors import Status
from starcore.events import Blocked, ChunkReceived, Close, Lost, Opened, Received, Send, SendChunk, Tick, Writable
from starcore.messages import (
    Abort,
    Ack,
    Blob,
    Cancel,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Outcome,
    Role,
    Running,
    StatusReply,
    StatusRequest,
    Submit,
    Welcome,
)
from starcore.pickling import Packed, load_call, load_function, pack_answer, pack_failure
from starcore.streams import Receiving, Sending


class InlineManager:
    """The core: one client at a time, resumed where it comes back."""

    def __init__(self, registered: dict[str, Callable[..., Any]]) -> None:
        self.registered = registered
        self.seen: list[Any] = []
        self.acknowledged: list[int] = []
        self.held = False
        self.resumes = True
        self.mute = False
        self.refusal: Goodbye | None = None
        self.link = 0
        self.forget_all()

    def forget_all(self) -> None:
        self.session = b""
        self.jobs: dict[int, Job] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.waiting: dict[tuple[int, int], tuple[bytes, bytearray | None]] = {}
        self.arriving: dict[int, tuple[bytes, bytearray]] = {}
        self.known: set[tuple[int, int]] = set()
        self.unacknowledged: dict[int, Outcome] = {}
        self.bodies: dict[int, Packed] = {}
        self.sequence = 0

    def deadline(self) -> None:
        return None

    def check(self) -> None:
        pass

    def handle(self, event: Any, now: float) -> list[Any]:
        self.out: list[Any] = []
        if isinstance(event, Opened):
            self.link, self.sending, self.receiving = event.link, Sending(), Receiving()
        elif isinstance(event, Received) and event.link == self.link:
            self.seen.append(event.message)
            getattr(self, "on_" + type(event.message).__name__.lower())(event.message)
        elif isinstance(event, ChunkReceived) and event.link == self.link:
            self.on_chunk(event)
        elif isinstance(event, Lost) and event.link == self.link:
            self.link = 0
            self.arriving.clear()
        elif isinstance(event, LetGo):
            self.run_waiting()
        if not isinstance(event, (Blocked, Lost, Tick)) or isinstance(event, Writable):
            self.pump()
        return self.out

    def send(self, message: Any) -> None:
        if self.link:
            self.out.append(Send(self.link, message))

    def pump(self) -> None:
        if self.link and (chunk := self.sending.next()) is not None:
            stream, attempt, offset, length = chunk
            token = self.bodies[stream].read(offset, length)
            self.out.append(SendChunk(self.link, stream, attempt, offset, length, token))

    # -- messages ------------------------------------------------------------------------------------------------

    def on_hello(self, message: Hello) -> None:
        if self.mute:
            return
        if self.refusal is not None:
            self.out += [Send(self.link, self.refusal), Close(self.link, self.refusal.code, self.refusal.reason)]
            return
        resumed = self.resumes and self.session == message.session
        if not resumed:
            self.forget_all()
        self.session = message.session
        self.send(Welcome(1, 1, resumed, submit_bytes=1 << 20, workers=1, slots=2))
        for outcome in self.unacknowledged.values():
            self.announce(outcome)

    def on_goodbye(self, message: Goodbye) -> None:
        self.forget_all()

    def on_heartbeat(self, message: Heartbeat) -> None:
        pass

    def on_blob(self, message: Blob) -> None:
        if message.body_bytes:
            self.expect(message.stream, message.digest, message.body_bytes)
        else:
            self.blobs[message.digest] = bytes(message.head)

    def on_job(self, message: Job) -> None:
        self.jobs[message.job] = message

    def on_forget(self, message: Forget) -> None:
        del self.jobs[message.job]

    def on_submit(self, message: Submit) -> None:
        ends = list(accumulate(message.head_sizes))
        for at, (end, size) in enumerate(zip(ends, message.head_sizes, strict=True)):
            name = (message.job, message.first + at)
            head = bytes(message.heads[end - size : end])
            body = message.body_sizes[at] if message.body_sizes else 0
            if name in self.known:
                continue
            if body:
                self.expect(message.job << 32 | message.first + at, head, body)
            else:
                self.known.add(name)
                self.waiting[name] = (head, None)
        if not self.held:
            self.run_waiting()

    def on_cancel(self, message: Cancel) -> None:
        for index in message.indices:
            if self.waiting.pop((message.job, index), None) is not None:
                self.answer(message.job, index, Status.CANCELLED, Packed(b"cancelled"))

    def on_grant(self, message: Grant) -> None:
        self.sending.grant(message)

    def on_abort(self, message: Abort) -> None:
        self.sending.close(message.stream)

    def on_ack(self, message: Ack) -> None:
        self.acknowledged.extend(message.sequences)
        for sequence in message.sequences:
            outcome = self.unacknowledged.pop(sequence, None)
            if outcome is not None:
                self.sending.close(outcome.job << 32 | outcome.indices[0])

    def on_statusrequest(self, message: StatusRequest) -> None:
        self.send(StatusReply(json.dumps({"workers": 1, "waiting": len(self.waiting)})))

    # -- bodies --------------------------------------------------------------------------------------------------

    def expect(self, stream: int, head: bytes, size: int) -> None:
        self.arriving[stream] = (head, bytearray(size))
        self.receiving.open(stream, 1, size, window=False)
        self.send(self.receiving.grant(stream, size))

    def on_chunk(self, event: ChunkReceived) -> None:
        if not self.receiving.take(event.stream, event.attempt, event.offset, event.length):
            return
        head, body = self.arriving[event.stream]
        body[event.offset : event.offset + event.length] = event.token
        if self.receiving.complete(event.stream):
            self.receiving.close(event.stream)
            del self.arriving[event.stream]
            if event.stream >> 63:
                self.blobs[head] = bytes(body)
            else:
                name = (event.stream >> 32, event.stream & 0xFFFFFFFF)
                self.known.add(name)
                self.waiting[name] = (head, body)
            if not self.held:
                self.run_waiting()

    # -- the workers ---------------------------------------------------------------------------------------------

    def run_waiting(self) -> None:
        for job, index in list(self.waiting):
            function = self.jobs[job]
            if function.kind == FunctionKind.SHIPPED and function.digest not in self.blobs:
                continue
            head, body = self.waiting.pop((job, index))
            status, packed = self.run(function, head, body)
            self.answer(job, index, status, packed)

    def run(self, job: Job, head: bytes, body: bytearray | None) -> tuple[Status, Packed]:
        shipped = job.kind == FunctionKind.SHIPPED
        fn = load_function(self.blobs[job.digest]) if shipped else self.registered[job.function]
        try:
            return Status.OK, pack_answer(load_call(head, body).run(fn))
        except Exception as error:
            return Status.RAISED, pack_failure(error)

    def answer(self, job: int, index: int, status: Status, packed: Packed) -> None:
        self.sequence += 1
        sizes = array("Q", [packed.body_bytes] if packed.body_bytes else [])
        heads = array("I", [len(packed.head)])
        outcome = Outcome(self.sequence, job, 1, array("I", [index]), bytes([status]), heads, sizes, packed.head)
        self.unacknowledged[self.sequence] = outcome
        self.bodies[job << 32 | index] = packed
        self.announce(outcome)

    def announce(self, outcome: Outcome) -> None:
        stream = outcome.job << 32 | outcome.indices[0]
        if self.link and outcome.body_sizes:
            self.sending.open(stream, 1, outcome.body_sizes[0], window=False)
        self.send(outcome)


class LetGo:
    """Run what was held."""


class _Shell:
    """Memory for what comes in, and nothing else."""

    def perform(self, action: Any) -> None:
        raise AssertionError(action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> bytearray:
        return bytearray(length)

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> bytes:
        raise AssertionError("every chunk of this manager has its token")

    def release(self, token: Any) -> None:
        pass


class InlineStar:
    """The inline manager behind a port, in a thread of its own."""

    def __init__(self, directory: Path, registered: dict[str, Callable[..., Any]]) -> None:
        self.star = certificates.create_star(directory / "star", host="127.0.0.1")[0]
        self.join = self.star.client_join
        self.core = InlineManager(registered)
        self.loop = asyncio.new_event_loop()
        self.driver = Driver(self.core, self.loop, _Shell(), logging.getLogger("inline"))
        identity = certificates.manager_identity(self.star)
        self.server = self.loop.run_until_complete(
            self.loop.create_server(
                lambda: self.driver.connection(lambda ssl, at: tls.identify(identity, Role.CLIENT, ssl, at)),
                "127.0.0.1",
                0,
                ssl=tls.listen_context(identity, Role.CLIENT),
            )
        )
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run something in the manager's thread and wait for it."""

        async def inside() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(inside(), self.loop).result(10)

    def hold(self) -> None:
        self.core.held = True

    def let_go(self) -> None:
        self.core.held = False
        self.call(lambda: self.driver.feed(LetGo()))

    def say_running(self, job: int, *indices: int) -> None:
        self.call(lambda: self.driver._perform(Send(self.core.link, Running(job, array("I", indices)))))

    def cut(self) -> None:
        """Lose the connection without a word."""

        def lose() -> None:
            connection = self.driver._links[self.core.link]
            connection.abort()
            self.driver.lost(connection, "cut")

        self.call(lose)

    def close(self) -> None:
        def stop() -> None:
            self.driver.close_all()
            self.server.close()
            self.loop.call_later(0.05, self.loop.stop)

        self.loop.call_soon_threadsafe(stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def inline_star(directory: Path, registered: dict[str, Callable[..., Any]] | None = None) -> Iterator[InlineStar]:
    star = InlineStar(directory, registered or {})
    try:
        yield star
    finally:
        star.close()
