"""The vocabulary of the wire: one slotted record a message, and the limits that every peer keeps.

A record holds what the frame says and nothing else. How it becomes bytes is `codec.py`'s table; what it means
is the business of the cores. Columns (one value a task, in the order of the run) are `array.array`s of a fixed
type code, so a run of a thousand tasks is one record, never a thousand:

    I   u32 column        Q   u64 column        d   f64 column        bytes   u8 column

A task's payload is a *head* (at most `HEAD_BYTES_MAX`, carried inside the message) and a *body* (streamed in
CHUNKs against GRANTs; 0 for most). `heads` is all the heads of a run, one after the other. An empty
`body_sizes` means that no task of the run has a body. A CHUNK has no record: its bytes go straight to where they live.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
if TYPE_CHECKING:
    Column: TypeAlias = array[Any]  # of int or float, by its type code
else:
    Column = array  # not subscriptable before Python 3.12

PROTOCOL_VERSION = 1
ALPN = "starcore/1"

FRAME_MAGIC = 0x4353
"""Little-endian on the wire, so a frame begins with the letters SC."""
KIND_MAX = 127
FRAME_META_BYTES_MAX = 1 << 20
FRAME_PAYLOAD_BYTES_MAX = 1 << 20
GREETING_BYTES_MAX = 1 << 16
"""All that a frame may measure before the peer's HELLO was accepted."""
CHUNK_BYTES_MAX = 1 << 20
HEAD_BYTES_MAX = 128 << 10
"""Also the border: a payload that fits travels inside its message, a larger one is pulled. An array of 64 KiB fits with
all that describes it; beyond this the copies would cost more than a stream does."""
BATCH_TASKS_MAX = 4096
BATCH_BYTES_MAX = 256 << 10
BODY_BYTES_MAX = 1 << 46
BLOB_BYTES_MAX = 1 << 32
SHARE_NAME_BYTES = 32
SHARES_MAX = 128
"""Shared values that one job may need: their names fill a column of octets."""
TEXT_BYTES_MAX = 1 << 16
STATUS_BYTES_MAX = 512 << 10
"""The text of a STATUS_REPLY, a STORY_REPLY or an INVENTORY; no other may be long."""
JOB_MAX = (1 << 31) - 1
"""A job's number is the upper half of its streams' names, below the bit of `BLOB_STREAM`."""
BLOB_STREAM = 1 << 63
"""Streams with this bit carry blobs; the others carry a task's argument or answer."""


class Role(IntEnum):
    """Who speaks; also in the certificate and in the port."""

    MANAGER = 0
    WORKER = 1
    CLIENT = 2


class FunctionKind(IntEnum):
    """Where a job's function comes from."""

    SHIPPED = 0
    REGISTERED = 1


class Deed(IntEnum):
    """What INQUIRE wants done with stored jobs before it is told of them."""

    LIST = 0
    CANCEL = 1
    FORGET = 2


def share_names(shares: Buffer) -> tuple[bytes, ...]:
    """Return the names in a JOB's column of them; what is left over is none."""
    octets, size = bytes(shares), SHARE_NAME_BYTES
    return tuple(octets[at : at + size] for at in range(0, len(octets) - size + 1, size))


def _u32() -> Column:
    return array("I")


def _u64() -> Column:
    return array("Q")


def _f64() -> Column:
    return array("d")


# -- both ways -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Hello:
    """The dialer's first message: who it is and, for a worker, what it can run and still holds."""

    version: int
    role: Role
    session: bytes
    name: str = ""
    host: str = ""
    pid: int = 0
    software: str = ""
    python: str = ""
    numpy: str = ""
    slots: int = 0
    arena_bytes: int = 0
    first_window_bytes: int = 0
    result_bytes: int = 0
    only_registered: bool = False
    functions: list[str] = field(default_factory=list)
    leases: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Welcome:
    """The manager's answer: the session goes on (`resumed`) or begins anew, within these limits."""

    version: int
    epoch: int
    resumed: bool
    software: str = ""
    first_window_bytes: int = 0
    submit_bytes: int = 0
    heartbeat_seconds: float = 2.0
    silence_seconds: float = 8.0
    session_grace_seconds: float = 300.0
    workers: int = 0
    slots: int = 0


@dataclass(slots=True)
class Goodbye:
    """The sender closes the connection, and says why."""

    code: int
    reason: str = ""


@dataclass(slots=True)
class Heartbeat:
    """Fills a silence."""


@dataclass(slots=True)
class Grant:
    """The receiver takes bytes [offset, offset + count) of a stream; an offset that is not the old end seeks."""

    stream: int
    attempt: int
    offset: int
    count: int


@dataclass(slots=True)
class Abort:
    """Either side ends a stream."""

    stream: int
    attempt: int
    code: int
    reason: str = ""


@dataclass(slots=True)
class Blob:
    """Bytes known by their SHA-256: whole in `head`, or `body_bytes` to be pulled from `stream`."""

    digest: bytes
    stream: int
    body_bytes: int
    head: Buffer = b""


@dataclass(slots=True)
class Share:
    """A value that many tasks use, under a name that its client made: a payload, its body pulled from `stream`."""

    name: bytes
    stream: int
    body_bytes: int
    head: Buffer = b""


@dataclass(slots=True)
class Want:
    """The receiver of a JOB lacks its blob, or a shared value."""

    digest: bytes


@dataclass(slots=True)
class Job:
    """One function, one set of options, and the shared values that its tasks need: their names, one after the other.

    Numbered by the client; renumbered by the manager for its workers.
    """

    job: int
    kind: FunctionKind
    digest: bytes
    function: str
    python: str = ""
    retries: int = 0
    timeout_seconds: float = 0.0
    priority: int = 0
    shares: Buffer = b""


@dataclass(slots=True)
class Forget:
    """No task of this job will come any more."""

    job: int


# -- client to manager ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Submit:
    """Tasks `first`, `first + 1`, ... of a job. `again` marks what was sent before on a lost connection."""

    job: int
    first: int
    again: bool = False
    head_sizes: Column = field(default_factory=_u32)
    body_sizes: Column = field(default_factory=_u64)
    heads: Buffer = b""


@dataclass(slots=True)
class Cancel:
    """The caller wants no outcome of these tasks; `kill` ends those that run."""

    job: int
    kill: bool
    indices: Column = field(default_factory=_u32)


@dataclass(slots=True)
class Ack:
    """These OUTCOMEs arrived whole, bodies included."""

    sequences: Column = field(default_factory=_u64)


@dataclass(slots=True)
class StatusRequest:
    """Ask what is going on in the star."""


@dataclass(slots=True)
class Detach:
    """The tasks of this job, so many and of so many bytes, are to be stored under a name: they outlive this session."""

    job: int
    name: str
    tasks: int
    size: int
    keep_seconds: float
    note: Buffer = b""


@dataclass(slots=True)
class Attach:
    """Tell the outcomes of the stored job of this name as those of `job`; `take`: what is acknowledged may go."""

    job: int
    name: str
    take: bool = False


@dataclass(slots=True)
class Inquire:
    """Do this with the stored job of this name, and say how it stands; or, without a name, how all do."""

    question: int
    deed: int
    name: str = ""


@dataclass(slots=True)
class StoryRequest:
    """Ask what happened to one task, by its name; `question` comes back with the answer."""

    question: int
    task: str


@dataclass(slots=True)
class DrainRequest:
    """Let the workers whose name or host is this, or matches this pattern, finish what they run and leave."""

    pattern: str


# -- manager to client ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """How tasks of a job ended; kept by the manager until its `sequence` is acknowledged."""

    sequence: int
    job: int
    attempt: int
    indices: Column = field(default_factory=_u32)
    statuses: Buffer = b""
    head_sizes: Column = field(default_factory=_u32)
    body_sizes: Column = field(default_factory=_u64)
    heads: Buffer = b""


@dataclass(slots=True)
class Running:
    """These tasks run, and have for a while: a future that says so can no longer be cancelled for free."""

    job: int
    indices: Column = field(default_factory=_u32)


@dataclass(slots=True)
class Notice:
    """A sentence for the caller's eyes, said once."""

    job: int
    text: str


@dataclass(slots=True)
class Slots:
    """How large the star is now."""

    workers: int
    slots: int


@dataclass(slots=True)
class StatusReply:
    """The star's state as a JSON object."""

    text: str


@dataclass(slots=True)
class Stored:
    """What became of DETACH or ATTACH: refused (`code`), begun, or all is stored (`whole`). Said again later."""

    job: int
    code: int
    reason: str
    whole: bool
    tasks: int
    note: Buffer = b""


@dataclass(slots=True)
class Inventory:
    """How stored jobs of the asking certificate stand: a JSON array."""

    question: int
    text: str


@dataclass(slots=True)
class StoryReply:
    """A task's story as a JSON object, or the error that there is none."""

    question: int
    text: str


@dataclass(slots=True)
class DrainReply:
    """The workers that were told to leave, by their names."""

    workers: list[str] = field(default_factory=list)


# -- manager to worker ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Assign:
    """Leases `lease`, `lease + 1`, ... for tasks `first`, `first + 1`, ... of a job (the manager's number)."""

    lease: int
    job: int
    first: int
    attempt: int
    head_sizes: Column = field(default_factory=_u32)
    body_sizes: Column = field(default_factory=_u64)
    heads: Buffer = b""


@dataclass(slots=True)
class Retract:
    """Give these back: unstarted ones at once; running ones only with `kill`, which ends their slot."""

    kill: bool
    leases: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Confirm:
    """These answers are in safe hands: the worker may free them."""

    leases: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Drain:
    """Take nothing more, finish what runs, and leave."""

    reason: str = ""


# -- worker to manager ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """How leases ended, with the seconds that each ran."""

    leases: Column = field(default_factory=_u64)
    statuses: Buffer = b""
    seconds: Column = field(default_factory=_f64)
    head_sizes: Column = field(default_factory=_u32)
    body_sizes: Column = field(default_factory=_u64)
    heads: Buffer = b""


@dataclass(slots=True)
class Retracted:
    """The answer to RETRACT: given back, and declined since they had started or were not there."""

    leases: Column = field(default_factory=_u64)
    declined: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Started:
    """These leases have been running for a while."""

    leases: Column = field(default_factory=_u64)


@dataclass(slots=True)
class Draining:
    """Assign nothing more to this worker: it finishes what runs, and leaves."""


Message: TypeAlias = (
    Hello | Welcome | Goodbye | Heartbeat | Grant | Abort | Blob | Share | Want | Job | Forget
    | Submit | Cancel | Ack | StatusRequest | StoryRequest | DrainRequest | Detach | Attach | Inquire
    | Outcome | Running | Notice | Slots | StatusReply | StoryReply | DrainReply | Stored | Inventory
    | Assign | Retract | Confirm | Drain
    | Result | Retracted | Started | Draining
)  # fmt: skip
"""All but CHUNK, whose bytes bypass the records."""
