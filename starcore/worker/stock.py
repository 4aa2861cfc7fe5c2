"""What lies in the arena for whom: arguments and blobs by their key, answers by their lease. Part of the shell.

`Memory` (pure) decides who may have how much; here are the segments themselves, where chunks land and whence
answers leave. A segment that a slot has mapped is told to it once, and taken from it when it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starcore.events import Event
from starcore.messages import Buffer
from starcore.worker.arena import Arena, Piece
from starcore.worker.channel import IN_ARGUMENT, NOWHERE, Detach, Done, Free
from starcore.worker.orders import Allocate, Allocated, Release
from starcore.worker.process import SlotProcess
from starcore.worker.runs import segment_bytes

THREAD_BYTES_MIN = 64 << 20
"""Fresh memory of at least so much is made in a thread: the kernel clears it, and heartbeats must go on."""


@dataclass(slots=True)
class _Held:
    """Memory under a key; no piece while it is being made."""

    attempt: int
    size: int
    piece: Piece | None = None


@dataclass(slots=True)
class _Answer:
    """Where an answer's body lies; `process` and `number` where that is a slot's own segment."""

    view: memoryview
    process: SlotProcess | None = None
    number: int = 0


class Stock:
    """The arena's contents.

    Parameters
    ----------
    arena : Arena
        Where memory comes from.
    loop : asyncio.AbstractEventLoop
        Whose thread all this happens in.
    feed : callable
        Takes the events that come of it.
    processes : callable
        Returns the slots' living processes.
    """

    def __init__(
        self,
        arena: Arena,
        loop: asyncio.AbstractEventLoop,
        feed: Callable[[Event], None],
        processes: Callable[[], Iterable[SlotProcess]],
    ) -> None:
        self._arena = arena
        self._loop = loop
        self._feed = feed
        self._processes = processes
        self._held: dict[int, _Held] = {}
        self._answers: dict[int, _Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def allocate(self, action: Allocate) -> None:
        """Make memory for a body; Allocated follows."""
        held = self._held[action.key] = _Held(action.attempt, action.size)
        held.piece = self._arena.reuse(action.size)
        if held.piece is not None:
            self._feed(Allocated(action.key))
            return
        self.detach(self._arena.make_room(action.size))
        if segment_bytes(action.size) >= THREAD_BYTES_MIN:
            task = self._loop.create_task(self._allocate_slowly(action, held))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            held.piece = self._arena.adopt(*self._arena.create(action.size))
        except OSError as error:
            self._failed(action.key, error)
        else:
            self._feed(Allocated(action.key))

    async def _allocate_slowly(self, action: Allocate, held: _Held) -> None:
        try:
            made = await self._loop.run_in_executor(None, self._arena.create, action.size)
        except OSError as error:
            if self._held.get(action.key) is held:
                self._failed(action.key, error)
            return
        piece = self._arena.adopt(*made)
        if self._held.get(action.key) is held:
            held.piece = piece
            self._feed(Allocated(action.key))
        else:  # released in the meantime
            self._arena.give(piece, self._loop.time())

    def _failed(self, key: int, error: OSError) -> None:
        del self._held[key]
        self._feed(Allocated(key, error.strerror or str(error)))

    def piece(self, key: int) -> Piece:
        """Return the memory under a key."""
        piece = self._held[key].piece
        assert piece is not None, "memory that is still being made"
        return piece

    def size(self, key: int) -> int:
        """Return the length of the body under a key."""
        return self._held[key].size

    def destination(self, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Where a chunk goes; None for one that nobody waits for."""
        held = self._held.get(stream)
        if held is None or held.piece is None or held.attempt != attempt or offset + length > held.size:
            return None
        return held.piece.view(offset, length)

    def put_answer(self, lease: int, process: SlotProcess, record: Done) -> None:
        """Note where the body of an answer lies."""
        if record.place == NOWHERE:
            return
        if record.place == IN_ARGUMENT:
            self._answers[lease] = _Answer(self.piece(lease).view(record.offset, record.body_bytes))
            return
        view = memoryview(process.own[record.segment])[record.offset :][: record.body_bytes]
        self._answers[lease] = _Answer(view, process, record.segment)

    def source(self, lease: int, offset: int, length: int) -> Buffer:
        """Return bytes of an answer's body."""
        return self._answers[lease].view[offset : offset + length]

    def release(self, action: Release) -> None:
        """Take memory back, or let go of what a slot still looks at."""
        answer = self._answers.get(action.key)
        if answer is not None and answer.process is None:  # it lies in this very memory
            del self._answers[action.key]
        held = self._held.pop(action.key, None)
        if held is None or held.piece is None:
            return
        if action.kept:
            self.detach([held.piece])
            self._arena.forget(held.piece)
        else:
            self._arena.give(held.piece, self._loop.time())

    def release_answer(self, lease: int) -> None:
        """Let a slot use its own segment again."""
        answer = self._answers.pop(lease, None)
        if answer is not None and answer.process is not None:
            process, number = answer.process, answer.number
            del answer
            process.send(Free(number), hurry=False)  # it matters to the next task at the earliest

    def detach(self, pieces: Iterable[Piece]) -> None:
        """Have slots forget segments."""
        for process in self._processes():
            for piece in process.attached.intersection(pieces):
                process.attached.discard(piece)
                process.send(Detach(piece.number))

    def trim(self) -> None:
        """Give the machine back what found no use for a while."""
        self.detach(self._arena.trim(self._loop.time()))

    def close(self) -> None:
        """Give everything back."""
        for task in self._tasks:
            task.cancel()
        self._answers.clear()
        self._held.clear()
        self._arena.close()
