"""A real slot process at the other end of a real socketpair, for tests: what it is told, and what it says."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from starcore import pickling
from starcore._framing import Segment
from starcore.messages import FunctionKind
from starcore.worker.arena import Arena, Piece
from starcore.worker.blackbox import BlackBox
from starcore.worker.board import Board
from starcore.worker.channel import Attach, Broken, Done, Inlet, Learn, Ready, Setup, Work, send_all
from starcore.worker.process import slot_environment

T = TypeVar("T")
SECONDS_MAX = 20.0


class Child:
    """One slot, started and set up."""

    def __init__(self, tmp_path: Any, **setup: Any) -> None:
        self.log_path = tmp_path / "slot.log"
        self.arena = Arena(1 << 30)
        self.own: dict[int, Segment] = {}
        self._jobs = 0
        self._batches = 0
        self.socket, child = socket.socketpair()
        self.socket.settimeout(SECONDS_MAX)
        self.board, board = Board.create()
        self.box = BlackBox()
        self._lifeline = os.pipe()
        fds = (child.fileno(), board, self.box.descriptor, self._lifeline[0])
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "starcore.worker.slot", *map(str, fds), str(os.getpid())],
                pass_fds=fds,
                env=slot_environment(os.environ, 2, 2),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child.close()
        os.close(board)
        self._inlet = Inlet(self.socket)
        send_all(self.socket, Setup(0, setup.get("initializer", ""), setup.get("functions", []), 1 << 28))
        self.setup = self.next(Ready, Broken)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._inlet.close()
        self.socket.close()
        self.own.clear()
        self.arena.close()
        self.box.close()
        for end in self._lifeline:
            os.close(end)

    def next(self, *kinds: type[T]) -> T:
        """Wait for a record; segments that come with it are mapped."""
        while True:
            for record in self._inlet:
                if isinstance(record, Attach):
                    descriptor = self._inlet.descriptor()
                    self.own[record.number] = Segment(descriptor, record.size, writable=False)
                    os.close(descriptor)
                    continue
                assert isinstance(record, kinds), record
                return record
            if not self._inlet.pull():
                raise EOFError

    def ended(self) -> int:
        """Wait until it says no more, and return its exit code."""
        try:
            while self._inlet.pull():
                pass
        except ConnectionError:
            pass
        return self.process.wait(SECONDS_MAX)

    def learn(self, function: Callable[..., Any]) -> int:
        self._jobs += 1
        shipped = pickling.ship(function)
        lesson = Learn(self._jobs, FunctionKind.SHIPPED, shipped.digest, shipped.name)
        lesson.blob, lesson.blob_bytes = shipped.blob, len(shipped.blob)
        send_all(self.socket, lesson)
        return self._jobs

    def work(self, job: int, heads: list[bytes], piece: Piece | None = None, body_bytes: int = 0) -> int:
        """Give it a batch; return its number."""
        self._batches += 1
        number = 0 if piece is None else piece.number
        sizes = array("I", map(len, heads))
        send_all(self.socket, Work(self._batches, job, 0, number, body_bytes, sizes, b"".join(heads)))
        return self._batches

    def call(self, function: Callable[..., Any], *args: Any) -> Done:
        """Run one small call."""
        self.work(self.learn(function), [pickling.pack_call(args, {}).head])
        return self.next(Done)

    def call_array(self, function: Callable[..., Any], values: np.ndarray[Any, Any]) -> tuple[Done, Piece]:
        """Run one call whose argument lies in a segment."""
        packed = pickling.pack_array_call(values, (), {})
        piece, _ = self.arena.take(packed.body_bytes)
        packed.copy_into(piece.view(0, packed.body_bytes))
        send_all(self.socket, Attach(piece.number, piece.size), piece.descriptor)
        self.work(self.learn(function), [packed.head], piece, packed.body_bytes)
        return self.next(Done), piece

    def answer(self, done: Done, piece: Piece | None = None) -> Any:
        """Unpack an answer, from wherever its body lies."""
        if not done.body_bytes:
            return pickling.unpack_answer(done.heads)
        memory = memoryview(piece.segment if done.place == 1 and piece is not None else self.own[done.segment])
        landing = pickling.landing(bytes(done.heads), done.body_bytes)
        landing.buffer[:] = memory[done.offset : done.offset + done.body_bytes]
        return landing.finish()

    def log(self) -> str:
        return str(self.log_path.read_text())

    def silent(self) -> bool:
        """Whether it has nothing to say just now."""
        return not select.select([self.socket], [], [], 0)[0]
