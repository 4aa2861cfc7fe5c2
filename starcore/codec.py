"""Messages to frames and back: one table, compiled once.

The table is literal and complete but for CHUNK, whose bytes bypass the records; `docs/PROTOCOL.md` tells the same
for other languages, and a test holds the two together. `_framing.RecordCodec` does the work, a row each: nothing
here runs once a field. What a peer may not say raises ProtocolError; what this process may not say raises
ValueError, OverflowError or TypeError, for that is its own fault.

Not here: which message may come when. That is the business of the cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starcore._framing import RecordCodec
from starcore.errors import Status, UnknownMessageError
from starcore.messages import (
    BLOB_BYTES_MAX,
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    JOB_MAX,
    PROTOCOL_VERSION,
    STATUS_BYTES_MAX,
    TEXT_BYTES_MAX,
    Abort,
    Ack,
    Assign,
    Attach,
    Blob,
    Buffer,
    Cancel,
    Confirm,
    Detach,
    Drain,
    Draining,
    DrainReply,
    DrainRequest,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Inquire,
    Inventory,
    Job,
    Message,
    Notice,
    Outcome,
    Result,
    Retract,
    Retracted,
    Role,
    Running,
    Share,
    Slots,
    Started,
    StatusReply,
    StatusRequest,
    Stored,
    StoryReply,
    StoryRequest,
    Submit,
    Want,
    Welcome,
)

SESSION_BYTES = 16
DIGEST_BYTES = 32

TYPES: dict[str, tuple[str, Any]] = {
    # type: shape on the wire (see RecordCodec), bound
    "u16": ("u16", None),
    "u32": ("u32", None),
    "i32": ("i32", None),
    "u64": ("u64", None),
    "flag": ("flag", None),
    "role": ("enum", tuple(Role)),
    "function kind": ("enum", tuple(FunctionKind)),
    "session": ("fixed", SESSION_BYTES),
    "digest": ("fixed", DIGEST_BYTES),
    "job": ("u32", JOB_MAX),
    "first index": ("first", None),
    "first lease": ("lease", None),
    "body bytes": ("u64", BODY_BYTES_MAX),
    "blob bytes": ("u64", BLOB_BYTES_MAX),
    "seconds": ("f64", None),
    "text": ("text", TEXT_BYTES_MAX),
    "long text": ("text", STATUS_BYTES_MAX),
    "texts": ("texts", None),
    "u32[]": ("u32[]", None),
    "u64[]": ("u64[]", None),
    "seconds[]": ("f64[]", None),
    "u8[]": ("u8[]", None),
    "status[]": ("u8[]", int(max(Status))),
    "head bytes[]": ("heads[]", HEAD_BYTES_MAX),
    "body bytes[]": ("bodies[]", BODY_BYTES_MAX),
}

Fields = tuple[tuple[str, str], ...]
Row = tuple[int, type[Any], Fields, "str | None"]

HELLO = 1

TABLE: tuple[Row, ...] = (
    (
        HELLO,
        Hello,
        (
            ("version", "u16"),
            ("role", "role"),
            ("session", "session"),
            ("name", "text"),
            ("host", "text"),
            ("pid", "u32"),
            ("software", "text"),
            ("python", "text"),
            ("numpy", "text"),
            ("slots", "u32"),
            ("arena_bytes", "u64"),
            ("first_window_bytes", "u64"),
            ("result_bytes", "u64"),
            ("only_registered", "flag"),
            ("functions", "texts"),
            ("leases", "u64[]"),
        ),
        None,
    ),
    (
        2,
        Welcome,
        (
            ("version", "u16"),
            ("epoch", "u32"),
            ("resumed", "flag"),
            ("software", "text"),
            ("first_window_bytes", "u64"),
            ("submit_bytes", "u64"),
            ("heartbeat_seconds", "seconds"),
            ("silence_seconds", "seconds"),
            ("session_grace_seconds", "seconds"),
            ("workers", "u32"),
            ("slots", "u32"),
        ),
        None,
    ),
    (3, Goodbye, (("code", "u16"), ("reason", "text")), None),
    (4, Heartbeat, (), None),
    (6, Grant, (("stream", "u64"), ("attempt", "u32"), ("offset", "body bytes"), ("count", "body bytes")), None),
    (7, Abort, (("stream", "u64"), ("attempt", "u32"), ("code", "u16"), ("reason", "text")), None),
    (8, Blob, (("digest", "digest"), ("stream", "u64"), ("body_bytes", "blob bytes")), "head"),
    (9, Want, (("digest", "digest"),), None),
    (12, Share, (("name", "digest"), ("stream", "u64"), ("body_bytes", "body bytes")), "head"),
    (
        10,
        Job,
        (
            ("job", "job"),
            ("kind", "function kind"),
            ("digest", "digest"),
            ("function", "text"),
            ("python", "text"),
            ("retries", "u32"),
            ("timeout_seconds", "seconds"),
            ("priority", "i32"),
            ("shares", "u8[]"),
        ),
        None,
    ),
    (11, Forget, (("job", "job"),), None),
    (
        16,
        Submit,
        (
            ("job", "job"),
            ("first", "first index"),
            ("again", "flag"),
            ("head_sizes", "head bytes[]"),
            ("body_sizes", "body bytes[]"),
        ),
        "heads",
    ),
    (17, Cancel, (("job", "job"), ("kill", "flag"), ("indices", "u32[]")), None),
    (18, Ack, (("sequences", "u64[]"),), None),
    (19, StatusRequest, (), None),
    (
        32,
        Outcome,
        (
            ("sequence", "u64"),
            ("job", "job"),
            ("attempt", "u32"),
            ("indices", "u32[]"),
            ("statuses", "status[]"),
            ("head_sizes", "head bytes[]"),
            ("body_sizes", "body bytes[]"),
        ),
        "heads",
    ),
    (33, Running, (("job", "job"), ("indices", "u32[]")), None),
    (34, Notice, (("job", "job"), ("text", "text")), None),
    (35, Slots, (("workers", "u32"), ("slots", "u32")), None),
    (36, StatusReply, (("text", "long text"),), None),
    (55, StoryRequest, (("question", "u32"), ("task", "text")), None),
    (56, StoryReply, (("question", "u32"), ("text", "long text")), None),
    (
        40,
        Detach,
        (("job", "job"), ("name", "text"), ("tasks", "u32"), ("size", "u64"), ("keep_seconds", "seconds")),
        "note",
    ),
    (41, Attach, (("job", "job"), ("name", "text"), ("take", "flag")), None),
    (42, Stored, (("job", "job"), ("code", "u16"), ("reason", "text"), ("whole", "flag"), ("tasks", "u32")), "note"),
    (43, Inquire, (("question", "u32"), ("deed", "u16"), ("name", "text")), None),
    (44, Inventory, (("question", "u32"), ("text", "long text")), None),
    (
        48,
        Assign,
        (
            ("lease", "first lease"),
            ("job", "job"),
            ("first", "first index"),
            ("attempt", "u32"),
            ("head_sizes", "head bytes[]"),
            ("body_sizes", "body bytes[]"),
        ),
        "heads",
    ),
    (49, Retract, (("kill", "flag"), ("leases", "u64[]")), None),
    (50, Confirm, (("leases", "u64[]"),), None),
    (51, DrainRequest, (("pattern", "text"),), None),
    (52, DrainReply, (("workers", "texts"),), None),
    (53, Drain, (("reason", "text"),), None),
    (
        64,
        Result,
        (
            ("leases", "u64[]"),
            ("statuses", "status[]"),
            ("seconds", "seconds[]"),
            ("head_sizes", "head bytes[]"),
            ("body_sizes", "body bytes[]"),
        ),
        "heads",
    ),
    (65, Retracted, (("leases", "u64[]"), ("declined", "u64[]")), None),
    (66, Started, (("leases", "u64[]"),), None),
    (67, Draining, (), None),
)
"""(kind, record, ((field, type), ...), the field that is the frame's payload)."""


def _compile(row: Row, *, only: int | None = None) -> RecordCodec:
    kind, record, fields, payload = row
    compiled = [(name, *TYPES[kind_of_field]) for name, kind_of_field in fields[:only]]
    payload_max = HEAD_BYTES_MAX if payload in {"head", "note"} else None
    return RecordCodec(kind, record, compiled, payload, payload_max=payload_max, open_ended=only is not None)


class _Greeting:
    """HELLO of any version: one that is not ours is read as far as no version will change it, to be refused."""

    def __init__(self, row: Row) -> None:
        self._own = _compile(row)
        self._foreign = _compile(row, only=3)

    def decode(self, meta: Buffer, payload: Buffer) -> Any:
        hello = self._foreign.decode(meta, payload)
        return hello if hello.version != PROTOCOL_VERSION else self._own.decode(meta, payload)


_ENCODE: dict[type[Any], Callable[[Any], bytes]] = {row[1]: _compile(row).encode for row in TABLE}
_DECODE: dict[int, Callable[[Buffer, Buffer], Any]] = {
    row[0]: _Greeting(row).decode if row[0] == HELLO else _compile(row).decode for row in TABLE
}


def encode(message: Message) -> bytes:
    """Return the message as one whole frame.

    Raises
    ------
    ValueError, OverflowError, TypeError
        A field holds what no peer would accept.
    """
    write = _ENCODE.get(type(message))
    if write is None:
        raise TypeError(f"{type(message).__name__} is no message")
    return write(message)


def decode(kind: int, meta: Buffer, payload: Buffer) -> Message:
    """Return a frame's record, which keeps nothing of the two buffers.

    Raises
    ------
    UnknownMessageError
        No message has this kind.
    FrameError
        A field is cut off, out of its bounds, or at odds with another one.
    """
    read = _DECODE.get(kind)
    if read is None:
        raise UnknownMessageError(f"no message has the kind {kind}")
    message: Message = read(meta, payload)
    return message
