"""The slot: a process that runs one task at a time. ``python -m starcore.worker.slot`` is the supervisor's to call.

::

    channel ──▶ Work ──▶ for each task: board.begin ─▶ load_call ─▶ run ─▶ pack_answer ─▶ board.end ──▶ Done
                              │                            │                     │
                              └ recalled: Stopped          └ views into a segment └ in the argument's own memory,
                                                                                    in a segment of the pool where
                                                                                    numpy made it, or copied to one

User code runs in this process and nowhere else; whatever it does to it costs one attempt of one task: also while a
function is loaded, which is user code already, and therefore part of the first task that calls it. Nothing
here talks to the network. A slot ends when its channel does, and with its supervisor: the kernel sees to that on
Linux (PR_SET_PDEATHSIG), a thread that reads the lifeline elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from starcore import references
from starcore._framing import Segment, place_arrays
from starcore.errors import LoadError, ResultError, Status
from starcore.messages import HEAD_BYTES_MAX, Buffer, FunctionKind
from starcore.pickling import (
    Packed,
    load_call,
    load_function,
    load_value,
    pack_answer,
    pack_failure,
    small_answer,
    small_arguments,
)
from starcore.worker.arena import Piece, Pool
from starcore.worker.blackbox import CANCEL_SIGNAL, STACK_SIGNAL, be_the_first_to_go, keep_stacks
from starcore.worker.board import Board
from starcore.worker.channel import (
    IN_ARGUMENT,
    IN_OWN,
    NOWHERE,
    Attach,
    Broken,
    Detach,
    Done,
    Free,
    Inlet,
    Learn,
    Lend,
    Ready,
    Setup,
    Stopped,
    TakeBack,
    Unlearn,
    Work,
)
from starcore.worker.held import Held
from starcore.worker.prints import JSON_VARIABLE, TaskStream

MAPPED_BYTES_MIN = 4 << 20
"""From this size on, malloc gives memory back as soon as it is free; numpy asks for huge pages there."""
KEPT_BYTES_MAX = 32 << 20
"""Of smaller pieces it keeps so much at the end of the heap."""
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

Function = Callable[..., Any]


@dataclass(slots=True)
class Lesson:
    """A function, or the bytes that it is loaded from, or why there is none. Jobs of one digest have one lesson."""

    function: Function | None = None
    fault: str = ""
    blob: Buffer = b""
    digest: bytes = b""

    def load(self) -> Function | None:
        """Return the function. Its first task loads it: whatever that does to this process is that task's doing."""
        if self.function is None and not self.fault:
            try:
                if hashlib.sha256(self.blob).digest() != self.digest:
                    raise LoadError("the function's bytes are not what its digest says")
                self.function = load_function(self.blob)
            except LoadError as error:
                self.fault = str(error)
            except BaseException as error:
                self.fault = f"the function cannot be loaded: {type(error).__name__}: {error}"
            self.blob = b""
        return self.function


@dataclass(slots=True)
class Known:
    """A job: what a human calls its function, and that."""

    name: str
    lesson: Lesson


class Slot:
    """The child's end of the channel, and all it knows."""

    def __init__(self, sock: socket.socket, board: Board, stream: TaskStream) -> None:
        self._held = Held(sock)
        self._board = board
        self._stream = stream
        self._inlet = Inlet(sock)
        self._waiting: deque[Work] = deque()
        self._segments: dict[int, Segment] = {}
        self._pool = Pool(0)
        self._attached: set[int] = set()
        self._jobs: dict[int, Known] = {}
        self._functions: dict[bytes, Lesson] = {}
        self._registered: dict[str, Function] = {}
        self._cancelled = False
        self._records: dict[type, Callable[[Any], None]] = {
            Setup: self._on_setup,
            Attach: self._on_attach,
            Detach: self._on_detach,
            Free: self._on_free,
            Learn: self._on_learn,
            Unlearn: self._on_unlearn,
            Lend: self._on_lend,
            TakeBack: lambda record: references.take_back(record.name),
            Work: self._waiting.append,
        }

    def cancel(self, *_: Any) -> None:
        """Its supervisor wants it to end: let the task that runs clean up, as after a Ctrl-C."""
        self._cancelled = True
        raise KeyboardInterrupt

    def _leave_if_cancelled(self) -> None:
        """Whatever came of the task: nobody waits for it, and this process is killed in a moment."""
        if self._cancelled:
            self._stream.end_task()
            os._exit(1)

    def serve(self) -> None:
        """Take records and run batches until the channel ends."""
        while self._inlet.pull():
            self._take()
            while self._waiting:
                self._run_batch(self._waiting.popleft())

    def _take(self) -> None:
        for record in self._inlet:
            self._records[type(record)](record)

    # -- what it is told -------------------------------------------------------------------------------------

    def _on_setup(self, setup: Setup) -> None:
        self._pool = Pool(setup.pool_bytes)
        place_arrays(_numpy_table(), HEAD_BYTES_MAX, setup.pool_bytes)
        try:
            if setup.shipped_bytes:
                blob = self._blob(setup.shipped, setup.segment, setup.shipped_bytes)
                self._registered[""] = load_function(blob)
            for name in setup.functions:
                if not (setup.shipped_bytes and name == setup.functions[0]):
                    self._registered[name] = find_function(name)
                else:
                    self._registered[name] = self._registered[""]
            if setup.functions:
                self._registered.setdefault("", self._registered[setup.functions[0]])
            if setup.initializer:
                find_function(setup.initializer)()
        except BaseException as error:
            text = str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
            what = f"the initializer {setup.initializer}: " if setup.initializer else ""
            self._held.send(Broken(f"{what}{text}"[:1000]))
            sys.exit(1)
        self._stream.end_task()
        self._held.send(Ready(os.getpid()))

    def _on_attach(self, record: Attach) -> None:
        descriptor = self._inlet.descriptor()
        try:
            self._segments[record.number] = Segment(descriptor, record.size)
        finally:
            os.close(descriptor)

    def _on_detach(self, record: Detach) -> None:
        self._segments.pop(record.number, None)  # and unmapped as soon as no array lies in it

    def _on_free(self, record: Free) -> None:
        for number in self._pool.free(record.number, time.monotonic()):
            self._attached.discard(number)
            self._held.send(Detach(number))

    def _on_learn(self, record: Learn) -> None:
        if record.kind is FunctionKind.REGISTERED:
            function = self._registered.get(record.function)
            fault = "" if function else f"this worker has no function {record.function!r}"
            self._jobs[record.job] = Known(record.function or "registered", Lesson(function, fault))
            return
        lesson = self._functions.get(record.digest)
        if lesson is None:
            lesson = self._functions[record.digest] = Lesson(digest=record.digest)
            try:
                lesson.blob = bytes(self._blob(record.blob, record.segment, record.blob_bytes))
            except Exception as error:  # no memory for it
                lesson.fault = f"the function cannot be loaded: {type(error).__name__}: {error}"
        self._jobs[record.job] = Known(record.function, lesson)

    def _on_unlearn(self, record: Unlearn) -> None:
        if record.has_job:
            self._jobs.pop(record.job, None)
        else:
            self._functions.pop(record.digest, None)

    def _on_lend(self, record: Lend) -> None:
        segment = None
        if record.body_bytes:
            descriptor = self._inlet.descriptor()
            try:
                # Every slot looks at the same pages: none may write to them.
                segment = Segment(descriptor, record.size, writable=False)
            finally:
                os.close(descriptor)
        body, head = (None if segment is None else memoryview(segment)[: record.body_bytes]), record.head
        references.lend(record.name, lambda writable: load_value(head, body, writable=writable))

    def _blob(self, inside: Buffer, segment: int, size: int) -> Buffer:
        return bytes(memoryview(self._segments[segment])[:size]) if segment else inside

    # -- what it does ----------------------------------------------------------------------------------------

    def _run_batch(self, work: Work) -> None:
        known = self._jobs.get(work.job)
        if known is None:
            known = Known("?", Lesson(fault=f"job {work.job} was not announced to this slot"))
        batch, heads, at = work.batch, bytes(work.heads), 0
        for index, size in enumerate(work.head_sizes):
            begun = time.monotonic()
            if not self._board.begin(batch, index + 1, begun):
                self._held.flush()
                self._held.send(Stopped(batch, index))
                return
            head = heads[at : at + size]
            at += size
            self._stream.task = (work.job, work.first + index, known.name)
            if work.body_bytes:
                self._run_with_body(work, known, head, begun)
                continue
            status, answer = self._run_small(known, head)
            self._leave_if_cancelled()
            self._stream.end_task()
            if isinstance(answer, bytes):
                self._held.keep(batch, index, status, answer, begun)
            else:
                self._answer(work, index, status, answer, begun)
            self._board.end(batch, index + 1)
            del answer
        self._held.flush()

    def _run_small(self, known: Known, head: bytes) -> tuple[Status, Packed | bytes]:
        """Run a task; a call of scalars that returns one takes a short way, without an object in between."""
        function = known.lesson.load()
        args = None if function is None else small_arguments(head)
        if args is None:
            return self._run_one(known, head, None)
        try:
            value = function(*args)  # type: ignore[misc]  # there is one, or there were no arguments
        except BaseException as error:
            return Status.RAISED, pack_failure(_without_us(error))
        answer = small_answer(value)
        return (Status.OK, answer) if answer is not None else self._pack(value)

    def _run_one(self, known: Known, head: Buffer, body: memoryview | None) -> tuple[Status, Packed]:
        """Run a task; never raises."""
        function = known.lesson.load()
        if function is None:
            return Status.UNLOADABLE, _text(known.lesson.fault)
        try:
            call = load_call(head, body)
        except LoadError as error:
            return Status.UNLOADABLE, _text(str(error))
        except BaseException as error:
            return Status.UNLOADABLE, _text(f"the arguments cannot be loaded: {type(error).__name__}: {error}")
        try:
            value = call.run(function)
        except BaseException as error:
            return Status.RAISED, pack_failure(_without_us(error))
        return self._pack(value)

    def _pack(self, value: Any) -> tuple[Status, Packed]:
        try:
            return Status.OK, pack_answer(value)
        except ResultError as error:
            return Status.UNSENDABLE, _text(str(error))
        except BaseException as error:
            return Status.UNSENDABLE, _text(f"the result cannot be packed: {type(error).__name__}: {error}")

    def _run_with_body(self, work: Work, known: Known, head: bytes, begun: float) -> None:
        """Run a task whose argument lies in a segment, and see who still looks at it afterwards."""
        segment = self._segments[work.segment]
        references = sys.getrefcount(segment)
        status, packed = self._run_one(known, head, memoryview(segment)[: work.body_bytes])
        self._leave_if_cancelled()
        self._stream.end_task()
        size = packed.body_bytes
        head_out: Buffer = packed.head
        offset = _offset_in(segment, packed) if size else None
        piece, where = None, 0
        if size and offset is None:
            status, head_out, piece, where = self._lay_out(packed, status)
        del packed
        # An array made over a buffer holds a reference to the segment and not always a view of it.
        kept = segment.views > 0 or sys.getrefcount(segment) > references
        if kept:
            gc.collect()  # cycles of garbage do not count
            kept = segment.views > 0 or sys.getrefcount(segment) > references
        if offset is not None and kept:  # somebody may yet write to it: what lies there now is the answer
            status, head_out, piece = self._copy_out(_Region(head_out, segment, offset, size), status)
            offset = None
        if kept:
            self._segments.pop(work.segment)
        if offset is not None:
            region = (IN_ARGUMENT, work.segment, offset, size)
        else:
            region = (IN_OWN, piece.number, where, size) if piece is not None else (NOWHERE, 0, 0, 0)
        self._done(work.batch, 0, (status, head_out), begun, where=region, kept=kept)
        self._board.end(work.batch, 1)

    def _answer(self, work: Work, index: int, status: Status, packed: Packed, begun: float) -> None:
        """Let a small answer wait for others; send one with a body at once."""
        if not packed.body_bytes:
            self._held.keep(work.batch, index, status, packed.head, begun)
            return
        self._held.flush()
        size = packed.body_bytes
        status, head, piece, offset = self._lay_out(packed, status)
        where = (IN_OWN, piece.number, offset, size) if piece is not None else (NOWHERE, 0, 0, 0)
        self._done(work.batch, index, (status, head), begun, where=where)

    def _done(
        self,
        batch: int,
        index: int,
        answer: tuple[Status, Buffer],
        begun: float,
        *,
        where: tuple[int, int, int, int] = (NOWHERE, 0, 0, 0),
        kept: bool = False,
    ) -> None:
        status, head = answer
        seconds = array("d", [time.monotonic() - begun])
        sizes = array("I", [len(head)])
        self._held.send(Done(batch, index, *where, kept, bytes([status]), seconds, sizes, head))

    def _lay_out(self, packed: Packed, status: Status) -> tuple[Status, Buffer, Piece | None, int]:
        """Have an answer's body in a segment of our own: where numpy has made it, or else as a copy."""
        address, size = _address_of(packed), packed.body_bytes
        head: Buffer = packed.head
        piece = self._pool.claim(address, size) if address else None
        if piece is None:
            return (*self._copy_out(packed, status), 0)
        offset = address - piece.segment.address
        packed.segments.clear()
        if not piece.segment.views:  # the array is gone, and every view of it: nobody can write there any more
            return status, head, piece, offset
        status, head, copy = self._copy_out(_Region(head, piece.segment, offset, size), status)
        self._pool.give(piece, time.monotonic())
        return status, head, copy, 0

    def _copy_out(self, packed: Packed | _Region, status: Status) -> tuple[Status, Buffer, Piece | None]:
        """Copy an answer's body to a segment of our own."""
        try:
            piece = self._pool.take(packed.body_bytes)
        except OSError as error:
            return (
                Status.UNSENDABLE,
                _text(f"no memory for a result of {packed.body_bytes} bytes: {error.strerror}").head,
                None,
            )
        try:
            with piece.view(0, packed.body_bytes) as target:
                packed.copy_into(target)
        except BaseException as error:
            self._pool.free(piece.number, time.monotonic())
            return Status.UNSENDABLE, _text(f"the result cannot be copied: {type(error).__name__}: {error}").head, None
        if piece.number not in self._attached:
            self._attached.add(piece.number)
            self._held.send(Attach(piece.number, piece.size), piece.descriptor)
        return status, packed.head, piece


class _Region:
    """An answer that is a part of a segment."""

    __slots__ = ("_offset", "_segment", "body_bytes", "head")

    def __init__(self, head: Buffer, segment: Segment, offset: int, size: int) -> None:
        self.head = head
        self.body_bytes = size
        self._segment = segment
        self._offset = offset

    def copy_into(self, destination: memoryview) -> None:
        destination[:] = memoryview(self._segment)[self._offset : self._offset + self.body_bytes]


def _offset_in(segment: Segment, packed: Packed) -> int | None:
    """Where an answer lies in its argument's segment, if it is one contiguous piece of it."""
    offset = _address_of(packed) - segment.address
    return offset if 0 <= offset <= segment.size - packed.body_bytes else None


def _address_of(packed: Packed) -> int:
    """Where a body lies that is one contiguous piece of memory; 0 for any other."""
    if len(packed.segments) != 1 or not isinstance(packed.segments[0], memoryview):
        return 0
    return int(np.frombuffer(packed.segments[0], np.uint8).__array_interface__["data"][0])


def _numpy_table() -> object:
    """Return what numpy offers to C."""
    package = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"
    return importlib.import_module(f"{package}._multiarray_umath")._ARRAY_API


def _text(text: str) -> Packed:
    return Packed(text.encode("utf-8", "backslashreplace")[:HEAD_BYTES_MAX])


def _without_us(error: BaseException) -> BaseException:
    """Cut our own frames off a traceback: the user's function is where it begins."""
    trace = error.__traceback__
    inner = trace
    while inner is not None and inner.tb_frame.f_globals.get("__name__") in (__name__, "starcore.pickling", "__main__"):
        inner = inner.tb_next
    return error.with_traceback(inner if inner is not None else trace)


def find_function(name: str) -> Function:
    """Return the function of "package.module:name".

    Raises
    ------
    LoadError
        There is none.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise LoadError(f"{name!r} is not there: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise LoadError(f"{name!r} is not callable")
    function: Function = found
    return function


# -- the process ---------------------------------------------------------------------------------------------


def keep_freed_memory() -> None:
    """Have malloc keep what a task frees for the next one: a fresh page costs as much as filling it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not everybody's C library knows it
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)


def die_with(parent: int, lifeline: int | None) -> None:
    """See to it that this process ends when its supervisor does, however that happens."""
    bound = False
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            bound = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0
    if os.getppid() != parent:
        os._exit(1)
    if bound or lifeline is None:
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, name="starcore-lifeline", daemon=True).start()


def leave_signals_to_the_supervisor() -> None:
    """Let Ctrl-C, SIGTERM and what else a batch system sends to all of a worker's processes pass.

    With handlers that do nothing, since SIG_IGN would be inherited by the programs that a task starts. A process that
    a task forks inherits handlers, too, and has its own again: `multiprocessing` ends its processes by SIGTERM.
    """
    ours = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} - {STACK_SIGNAL, CANCEL_SIGNAL}

    def hear() -> None:
        signal.signal(CANCEL_SIGNAL, signal.SIG_DFL)
        for number in ours:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in ours:
        signal.signal(number, lambda *_: None)
    os.register_at_fork(after_in_child=hear)


def main(arguments: list[str]) -> int:
    """Be a slot: channel, board, black box and lifeline are descriptors, the last argument the supervisor's pid."""
    channel, board, box, lifeline, parent = (int(argument) for argument in arguments)
    for descriptor in (channel, board, box, lifeline):
        os.set_inheritable(descriptor, False)
    die_with(parent, lifeline)
    keep_freed_memory()
    be_the_first_to_go()
    leave_signals_to_the_supervisor()
    keep_stacks(box)
    stream = TaskStream(os.dup(2), as_json=bool(os.environ.pop(JSON_VARIABLE, "")))
    sys.stdout = sys.stderr = stream
    page = Board(board)
    os.close(board)
    sock = socket.socket(fileno=channel)
    sock.setblocking(True)
    slot = Slot(sock, page, stream)
    signal.signal(CANCEL_SIGNAL, slot.cancel)
    try:
        slot.serve()
    except ConnectionError:
        pass
    except KeyboardInterrupt:  # it came between two tasks
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
