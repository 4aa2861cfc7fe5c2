"""What the supervisor and a slot say to each other, and how: frames on a socketpair, descriptors beside them.

::

    supervisor                                          slot
    Setup ────────────────────────────────────────────▶ imports, initializer ──▶ Ready | Broken
    Learn, Lend, Attach (+ descriptor), Work ─────────▶ runs the batch ───▶ Attach (+ descriptor), Done, Stopped
    Detach, Free, Unlearn, TakeBack ──────────────────▶ forgets

The frames are those of the wire with kinds of their own; nothing here ever leaves the machine. Payloads up to
`HEAD_BYTES_MAX` travel inside, larger ones lie in segments that both ends have mapped: a segment's descriptor is
sent once (SCM_RIGHTS), and its number from then on. The supervisor's segments and the slot's are numbered apart.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from starcore._framing import FrameReader, RecordCodec
from starcore.errors import FrameError, Status
from starcore.messages import HEAD_BYTES_MAX, Buffer, Column, FunctionKind

NOWHERE, IN_ARGUMENT, IN_OWN = 0, 1, 2
"""Where an answer's body lies."""
DESCRIPTORS_MAX = 16
JOINED_BYTES_MAX = 16 << 10
"""Records that wait for the socket are copied to one piece up to here."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(slots=True)
class Setup:
    """What a slot needs to know before its first task; `shipped` is the worker's own function object."""

    slot: int
    initializer: str
    functions: list[str]
    pool_bytes: int
    segment: int = 0
    shipped_bytes: int = 0
    shipped: Buffer = b""


@dataclass(slots=True)
class Attach:
    """A segment; its descriptor travels with this frame."""

    number: int
    size: int


@dataclass(slots=True)
class Detach:
    """The segment will not be named again."""

    number: int


@dataclass(slots=True)
class Free:
    """The slot's own segment may be used again."""

    number: int


@dataclass(slots=True)
class Learn:
    """A job. The blob is inside, in a segment, or (neither) known by its digest."""

    job: int
    kind: FunctionKind
    digest: bytes
    function: str
    segment: int = 0
    blob_bytes: int = 0
    blob: Buffer = b""


@dataclass(slots=True)
class Unlearn:
    """A job, or else a digest, that will not be named again."""

    has_job: bool
    job: int
    digest: bytes


@dataclass(slots=True)
class Lend:
    """A shared value. Where it has a body, the segment's descriptor travels with this frame, to be mapped read-only."""

    name: bytes
    size: int
    body_bytes: int
    head: Buffer = b""


@dataclass(slots=True)
class TakeBack:
    """A shared value that will not be named again."""

    name: bytes


@dataclass(slots=True)
class Work:
    """A batch: tasks `first`, `first + 1`, ... of a job. One with a body in a segment is alone."""

    batch: int
    job: int
    first: int
    segment: int
    body_bytes: int
    head_sizes: Column
    heads: Buffer


@dataclass(slots=True)
class Ready:
    """The slot waits for work."""

    pid: int


@dataclass(slots=True)
class Broken:
    """The slot cannot work, and leaves."""

    text: str


@dataclass(slots=True)
class Done:
    """How tasks of a batch ended, from its task `first` on. One whose answer has a body is alone."""

    batch: int
    first: int
    place: int
    segment: int
    offset: int
    body_bytes: int
    kept: bool
    statuses: Buffer
    seconds: Column
    head_sizes: Column
    heads: Buffer


@dataclass(slots=True)
class Stopped:
    """The slot was recalled: of this batch it began only the first `started`."""

    batch: int
    started: int


Record: TypeAlias = (
    Setup | Attach | Detach | Free | Learn | Unlearn | Lend | TakeBack | Work | Ready | Broken | Done | Stopped
)  # fmt: skip

_TABLE: tuple[tuple[type[Any], tuple[tuple[str, str, Any], ...], str | None], ...] = (
    (
        Setup,
        (
            ("slot", "u32", None),
            ("initializer", "text", 1 << 16),
            ("functions", "texts", None),
            ("pool_bytes", "u64", None),
            ("segment", "u64", None),
            ("shipped_bytes", "u64", None),
        ),
        "shipped",
    ),
    (Attach, (("number", "u64", None), ("size", "u64", None)), None),
    (Detach, (("number", "u64", None),), None),
    (Free, (("number", "u64", None),), None),
    (
        Learn,
        (
            ("job", "u32", None),
            ("kind", "enum", tuple(FunctionKind)),
            ("digest", "fixed", 32),
            ("function", "text", 1 << 16),
            ("segment", "u64", None),
            ("blob_bytes", "u64", None),
        ),
        "blob",
    ),
    (Unlearn, (("has_job", "flag", None), ("job", "u32", None), ("digest", "fixed", 32)), None),
    (Lend, (("name", "fixed", 32), ("size", "u64", None), ("body_bytes", "u64", None)), "head"),
    (TakeBack, (("name", "fixed", 32),), None),
    (
        Work,
        (
            ("batch", "u64", None),
            ("job", "u32", None),
            ("first", "u32", None),
            ("segment", "u64", None),
            ("body_bytes", "u64", None),
            ("head_sizes", "heads[]", HEAD_BYTES_MAX),
        ),
        "heads",
    ),
    (Ready, (("pid", "u32", None),), None),
    (Broken, (("text", "text", 1 << 16),), None),
    (
        Done,
        (
            ("batch", "u64", None),
            ("first", "u32", None),
            ("place", "u32", IN_OWN),
            ("segment", "u64", None),
            ("offset", "u64", None),
            ("body_bytes", "u64", None),
            ("kept", "flag", None),
            ("statuses", "u8[]", int(max(Status))),
            ("seconds", "f64[]", None),
            ("head_sizes", "heads[]", HEAD_BYTES_MAX),
        ),
        "heads",
    ),
    (Stopped, (("batch", "u64", None), ("started", "u32", None)), None),
)

_FIRST_KIND = 96
_CODECS = [
    RecordCodec(_FIRST_KIND + at, record, fields, payload) for at, (record, fields, payload) in enumerate(_TABLE)
]
_ENCODERS = {record: codec.encode for (record, _, _), codec in zip(_TABLE, _CODECS, strict=True)}


def encode(record: Record) -> bytes:
    """Return a record's frame."""
    return _ENCODERS[type(record)](record)


def decode(kind: int, meta: Buffer, payload: Buffer) -> Record:
    """Return a frame's record."""
    if not _FIRST_KIND <= kind < _FIRST_KIND + len(_CODECS):
        raise FrameError(f"a frame of kind {kind} on a slot's channel")
    record: Record = _CODECS[kind - _FIRST_KIND].decode(meta, payload)
    return record


class Inlet:
    """The reading half of a channel: records, and the descriptors that came with them, in their order."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._records: deque[Record] = deque()
        self._descriptors: deque[int] = deque()
        self._reader = FrameReader(self._deliver, lambda *chunk: None, lambda *chunk: None, greeting=False)

    def __iter__(self) -> Inlet:
        return self

    def __next__(self) -> Record:
        if not self._records:
            raise StopIteration
        return self._records.popleft()

    def pull(self) -> bool:
        """Read once. False at the end; BlockingIOError where there is nothing to read yet."""
        count, ancillary, _, _ = self._socket.recvmsg_into([self._reader.get_buffer()], _ANCILLARY_BYTES, _CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array("i")
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                    self._descriptors.append(descriptor)
        if not count:
            return False
        self._reader.advance(count)
        return True

    def descriptor(self) -> int:
        """Return the descriptor of the ATTACH or LEND that was read last; the caller closes it."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        self._reader.close()
        self._records.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _deliver(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        self._records.append(decode(kind, meta, payload))


def send_some(sock: socket.socket, data: Buffer, descriptor: int | None) -> int:
    """Send what the socket takes, the descriptor with the first byte."""
    if descriptor is None:
        return sock.send(data)
    rights = array("i", [descriptor])
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


class Outlet:
    """The writing half of the supervisor's end, which never blocks: what does not fit waits here.

    What waits is bounded by the batches that a slot may hold, and by its segments. A write wakes the slot, which costs
    both ends more than all else here; so records leave together where they can. A descriptor waits as a duplicate: its
    owner may close it meanwhile, and then its number is nobody's or another's.
    """

    def __init__(self, sock: socket.socket, wait_writable: Callable[[bool], None]) -> None:
        self._socket = sock
        self._wait_writable = wait_writable
        self._queue: deque[tuple[memoryview, int | None]] = deque()
        self._waiting = False

    def send(self, record: Record, descriptor: int | None = None, *, hurry: bool = True) -> None:
        """Send a record as soon as the socket takes it, or without `hurry` together with the next one that has it.

        ConnectionError where the other end is gone, any other OSError where it will never hear of this record.
        """
        frame = encode(record)
        if hurry and descriptor is None and not self._queue:
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                sent = 0
            if sent == len(frame):
                return
            frame = frame[sent:]
        self._add(frame, descriptor)
        if hurry and not self._waiting:
            self.push()

    def _add(self, frame: bytes, descriptor: int | None) -> None:
        last, beside = self._queue[-1] if self._queue else (None, None)
        if last is None or descriptor is not None or len(last) + len(frame) > JOINED_BYTES_MAX:
            self._queue.append((memoryview(frame), None if descriptor is None else os.dup(descriptor)))
        else:
            self._queue[-1] = (memoryview(b"".join((last, frame))), beside)

    def push(self) -> None:
        """Send what waits."""
        while self._queue:
            data, descriptor = self._queue[0]
            try:
                sent = send_some(self._socket, data, descriptor)
            except BlockingIOError:
                break
            if sent < len(data):
                self._queue[0] = (data[sent:], None)
            else:
                self._queue.popleft()
            if descriptor is not None:
                os.close(descriptor)
        if bool(self._queue) != self._waiting:
            self._waiting = bool(self._queue)
            self._wait_writable(self._waiting)

    def close(self) -> None:
        """Forget what waits, and close the descriptors among it."""
        while self._queue:
            _, descriptor = self._queue.popleft()
            if descriptor is not None:
                os.close(descriptor)


def send_all(sock: socket.socket, record: Record, descriptor: int | None = None) -> None:
    """Send a record over a blocking socket."""
    data = memoryview(encode(record))
    while data:
        sent = send_some(sock, data, descriptor)
        data, descriptor = data[sent:], None
