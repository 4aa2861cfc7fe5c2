"""Messages that a peer with a certificate might say, if it meant harm or were broken.

A generator remembers what it has heard and said (leases, jobs, streams, sequences, digests), and mixes the true
numbers with wrong ones. All of it can be said on the wire: what cannot, `codec.py` refuses before a core sees it.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from typing import Any

from starcore.errors import Status
from starcore.messages import (
    BLOB_STREAM,
    BODY_BYTES_MAX,
    JOB_MAX,
    PROTOCOL_VERSION,
    Abort,
    Ack,
    Assign,
    Attach,
    Blob,
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
    Submit,
    Want,
    Welcome,
)

UGLY = "\x1b[2J\r\n2031-01-01 00:00:00 manager: all is well\x00\u202e"
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1


class Liar:
    """One peer's imagination.

    Parameters
    ----------
    rng : random.Random
        Chance, seeded.
    others : sequence of int
        Numbers that belong to somebody else: jobs, leases, streams.
    sessions, digests : sequence of bytes
        What belongs to somebody else.
    """

    def __init__(
        self,
        rng: random.Random,
        role: Role,
        others: Sequence[int] = (),
        sessions: Sequence[bytes] = (),
        digests: Sequence[bytes] = (),
    ) -> None:
        self.rng = rng
        self.role = role
        self.others = list(others)
        self.sessions = list(sessions)
        self.digests = list(digests)
        self.numbers: list[int] = [0, 1, 2, 3]
        """Jobs, leases, sequences: whatever was a number, for one is as good as another."""
        self.blobs: list[bytes] = [b"", b"x", b"function of a liar"]
        self.streams: list[int] = [BLOB_STREAM, BLOB_STREAM | 1]
        self.replay: list[Message] = []
        self.next_index = 0
        self.next_lease = 1 << 32

    # -- what it knows ---------------------------------------------------------------------------------------

    def heard(self, message: Message) -> None:
        """Remember what can be misused."""
        if isinstance(message, Assign):
            leases = range(message.lease, message.lease + len(message.head_sizes))
            self.note(*leases, message.job)
            self.streams += leases
        elif isinstance(message, Outcome):
            self.note(message.sequence)
            self.streams += [message.job << 32 | index for index in message.indices]
        elif isinstance(message, Grant):
            self.streams.append(message.stream)
        elif isinstance(message, Blob):
            self.digests.append(message.digest)
            self.streams.append(message.stream)
        elif isinstance(message, Submit):
            self.note(message.job, message.first)
            self.streams += [message.job << 32 | (message.first + at) for at in range(len(message.head_sizes))]
        elif isinstance(message, Result):
            self.note(*message.leases)
            self.streams += message.leases
        elif isinstance(message, Job):
            self.note(message.job)
            self.digests.append(message.digest)
        del self.numbers[:-200], self.streams[:-100], self.digests[:-20], self.replay[:-50]

    def note(self, *numbers: int) -> None:
        """Remember numbers."""
        self.numbers += numbers

    # -- pieces ----------------------------------------------------------------------------------------------

    def number(self, most: int = U32) -> int:
        """A number that means something, or one that does not."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.6:
            found = rng.choice(self.numbers)
        elif kind < 0.75 and self.others:
            found = rng.choice(self.others)
        elif kind < 0.9:
            found = rng.randrange(8)
        else:
            found = rng.choice((0, 1, most, most - 1, rng.randrange(most)))
        return found if 0 <= found <= most else found % (most + 1)

    def job(self) -> int:
        """A job's number."""
        return self.rng.randrange(1, 5) if self.rng.random() < 0.8 else self.number(JOB_MAX)

    def some(self, most: int = U32) -> list[int]:
        """Numbers, perhaps the same ones twice, perhaps in order."""
        rng = self.rng
        if rng.random() < 0.3:
            first = self.number(most - 300)
            return list(range(first, first + rng.choice((0, 1, 3, 40, 200))))
        return [self.number(most) for _ in range(rng.choice((0, 1, 1, 2, 3, 8)))]

    def stream(self) -> int:
        """A stream's name."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.6:
            return rng.choice(self.streams)
        if kind < 0.8:
            return self.job() << 32 | self.number()
        return rng.choice((0, U64, BLOB_STREAM | self.number(), self.number(U64)))

    def size(self, most: int = BODY_BYTES_MAX) -> int:
        """A body's size."""
        rng = self.rng
        return min(most, rng.choice((0, 0, 1, 1, 5000, 70_000, 300_000, 1 << 23, 1 << 33, most)))

    def digest(self) -> bytes:
        """A digest: of something said, of somebody else's, of nothing."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5 or not self.digests:
            return hashlib.sha256(rng.choice(self.blobs)).digest()
        return rng.choice(self.digests) if kind < 0.9 else rng.randbytes(32)

    def text(self) -> str:
        """A text that would look well on somebody's terminal."""
        return self.rng.choice(("", "f", "pkg:fn", UGLY, UGLY * 50, "ü" * 32_000, "x" * 65_536))

    def attempt(self) -> int:
        """The number of a try."""
        return self.rng.choice((0, 1, 1, 1, 2, 3, U32))

    def heads(self, tasks: int) -> tuple[array[int], bytes]:
        """Columns of heads."""
        sizes = [self.rng.choice((0, 1, 9, 64 << 10 if tasks < 4 else 20)) for _ in range(tasks)]
        return array("I", sizes), bytes(sum(sizes))

    def bodies(self, tasks: int) -> array[int]:
        """A column of bodies."""
        if self.rng.random() < 0.5:
            return array("Q")
        return array("Q", [self.size() if self.rng.random() < 0.7 else 0 for _ in range(tasks)])

    # -- messages --------------------------------------------------------------------------------------------

    def say(self) -> Message:
        """Say anything, or something again."""
        rng = self.rng
        if self.replay and rng.random() < 0.1:
            return rng.choice(self.replay)
        own = {Role.CLIENT: self.CLIENT, Role.WORKER: self.WORKER, Role.MANAGER: self.MANAGER}[self.role]
        table = own if rng.random() < 0.93 else (*self.CLIENT, *self.WORKER, *self.MANAGER)
        message: Message = rng.choice(table)(self)
        self.replay.append(message)
        self.heard(message)
        return message

    def chunk(self) -> tuple[int, int, int, bytes]:
        """A chunk: stream, attempt, offset, bytes."""
        rng = self.rng
        offset = rng.choice((0, 0, 0, 1, 5000, 65_536, self.number()))
        return self.stream(), self.attempt(), offset, bytes(rng.choice((1, 10, 5000, 65_536, 262_144)))

    def hello(self) -> Hello:
        rng = self.rng
        return Hello(
            PROTOCOL_VERSION if rng.random() < 0.95 else 2,
            self.role if rng.random() < 0.95 else rng.choice(list(Role)),
            rng.choice([*self.sessions, rng.randbytes(16)]) if rng.random() < 0.5 else bytes(16),
            name=rng.choice(("liar", UGLY, "y" * 9000)),
            host=rng.choice(("host", UGLY)),
            python=rng.choice(("3.11", "3.11", "3.11", "", UGLY, "9" * 9000)),
            slots=rng.choice((1, 1, 2, 64, U32)),
            arena_bytes=rng.choice((0, 1 << 20, 1 << 24, 1 << 30, U64)),
            first_window_bytes=rng.choice((0, 1 << 20, U64)),
            result_bytes=rng.choice((0, 1 << 16, 1 << 26, U64)),
            only_registered=rng.random() < 0.1,
            functions=["pkg:fn", "", UGLY][: rng.randrange(4)],
            leases=array("Q", self.some(U64)),
        )

    def grant(self) -> Grant:
        offset = self.rng.choice((0, 0, 1, 4096, self.number(BODY_BYTES_MAX), BODY_BYTES_MAX))
        count = self.rng.choice((0, 1, 70_000, 1 << 30, BODY_BYTES_MAX))
        return Grant(self.stream(), self.attempt(), offset, count)

    def abort(self) -> Abort:
        return Abort(self.stream(), self.attempt(), self.rng.choice((0, 3, 11, 65_535)), self.text())

    def blob(self) -> Blob:
        rng = self.rng
        stream = rng.choice((self.stream(), BLOB_STREAM | rng.randrange(20)))
        if rng.random() < 0.6:
            head = rng.choice(self.blobs)
            digest = hashlib.sha256(head).digest() if rng.random() < 0.7 else self.digest()
            return Blob(digest, stream, self.size(1 << 32) if rng.random() < 0.1 else 0, head)
        return Blob(self.digest(), stream, self.size(1 << 32))

    def share(self) -> Share:
        rng = self.rng
        stream = rng.choice((self.stream(), BLOB_STREAM | rng.randrange(20)))
        return Share(self.name(), stream, rng.choice((0, self.size(1 << 32))), rng.choice((b"", b"head", bytes(2000))))

    def name(self) -> bytes:
        """Name a value: one of a few, or one that nobody else names."""
        return bytes([self.rng.randrange(4)]) * 32 if self.rng.random() < 0.9 else self.rng.randbytes(32)

    def define(self) -> Job:
        rng = self.rng
        kind = rng.choice(list(FunctionKind))
        return Job(
            self.job(),
            kind,
            self.digest(),
            self.text() if rng.random() < 0.3 else "pkg:fn",
            rng.choice(("3.11", "3.11", "3.11", "2.7", UGLY)),
            rng.choice((0, 0, 1, U32)),
            rng.choice((0.0, 0.0, 1e-300, 1.0, 1e308)),
            rng.choice((0, 0, -1, (1 << 31) - 1, -(1 << 31))),
            b"".join(self.name() for _ in range(rng.choice((0, 0, 0, 1, 2)))) + b"x" * (rng.random() < 0.02),
        )

    def detach(self) -> Detach:
        rng = self.rng
        size = rng.choice((0, 200, 1 << 20, 1 << 20, U64))
        keep = rng.choice((0.0, 0.0, 1e-9, 1.0, 1e308))
        return Detach(self.job(), self.stored_name(), self.tasks(), size, keep, rng.choice((b"", b"note")))

    def stored_name(self) -> str:
        """Name a stored job: one of a few, none, or one that is refused."""
        return self.rng.choice(("a", "a", "b", "c", "", UGLY, "x" * 9000))

    def tasks(self) -> int:
        """Count tasks: few that may all come, or many that never will."""
        return self.rng.choice((0, 1, 1, 2, 3, 30, 5000))

    def submit(self) -> Submit:
        rng = self.rng
        tasks = rng.choice((1, 1, 2, 3, 30, 200))
        first = self.next_index if rng.random() < 0.6 else min(self.number(), U32 - tasks)
        self.next_index = (first + tasks) % (U32 - 1000)
        sizes, heads = self.heads(tasks)
        return Submit(self.job(), first, rng.random() < 0.5, sizes, self.bodies(tasks), heads)

    def outcome(self) -> Outcome:
        indices = array("I", self.some() or [self.number()])
        tasks = len(indices)
        sizes, heads = self.heads(tasks)
        statuses = bytes(self.rng.choice(list(Status)) for _ in indices)
        bodies = self.bodies(tasks)
        return Outcome(self.number(U64), self.job(), self.attempt(), indices, statuses, sizes, bodies, heads)

    def assign(self) -> Assign:
        rng = self.rng
        tasks = rng.choice((1, 1, 2, 3, 30, 200))
        lease = self.next_lease if rng.random() < 0.8 else self.number((1 << 63) - 300)
        self.next_lease = min(lease + tasks, (1 << 63) - 300)
        sizes, heads = self.heads(tasks)
        first = min(self.number(), U32 - tasks)
        return Assign(lease, self.job(), first, self.attempt(), sizes, self.bodies(tasks), heads)

    def result(self) -> Result:
        rng = self.rng
        leases = array("Q", self.some(U64) or [self.number(U64)])
        tasks = len(leases)
        sizes, heads = self.heads(tasks)
        statuses = bytes(rng.choice((0, 0, *Status)) for _ in leases)
        seconds = array("d", [rng.choice((0.0, 1e-9, 1.0, 1e9, 1.7e308)) for _ in leases])
        return Result(leases, statuses, seconds, sizes, self.bodies(tasks), heads)

    def welcome(self) -> Welcome:
        rng = self.rng
        return Welcome(
            PROTOCOL_VERSION,
            self.number(),
            rng.random() < 0.5,
            self.text(),
            rng.choice((0, 1 << 20, U64)),
            rng.choice((0, 1000, 1 << 25, U64)),
            rng.choice((0.0, 1e-9, 2.0, 1e308)),
            rng.choice((0.0, 1e-9, 8.0, 1e308)),
            rng.choice((0.0, 300.0, 1e308)),
            self.number(),
            self.number(),
        )

    def goodbye(self) -> Message:
        return Goodbye(self.rng.choice((0, 4, 8, 65_535)), self.text()) if self.rng.random() < 0.05 else Heartbeat()

    def draining(self) -> Message:
        return Draining() if self.rng.random() < 0.05 else Heartbeat()

    def drain(self) -> Message:
        """Send a worker away: it obeys, and is gone, so this is said rarely."""
        return Drain(self.text()) if self.rng.random() < 0.02 else Heartbeat()

    def drain_request(self) -> Message:
        """Ask for what fits nobody, "" and "?" too: any client may send honest workers away."""
        return DrainRequest(self.rng.choice(("", "?", "[", "[!", "*a" * 30_000, UGLY, "nobody*")))

    def column(self) -> Any:
        return array("Q", self.some(U64))

    BOTH: tuple[Any, ...] = (grant, abort, goodbye)
    CLIENT: tuple[Any, ...] = (
        *BOTH,
        blob,
        blob,
        share,
        define,
        define,
        submit,
        submit,
        submit,
        submit,
        lambda self: Forget(self.job()),
        lambda self: Cancel(self.job(), self.rng.random() < 0.5, array("I", self.some())),
        lambda self: Cancel(self.job(), self.rng.random() < 0.5, array("I", self.some())),
        lambda self: Ack(self.column()),
        lambda self: Ack(self.column()),
        lambda self: StatusRequest(),
        detach,
        detach,
        lambda self: Attach(self.job(), self.stored_name(), self.rng.random() < 0.5),
        drain_request,
        lambda self: Inquire(self.number(), self.rng.choice((0, 0, 1, 2, 65_535)), self.stored_name()),
    )
    WORKER: tuple[Any, ...] = (
        *BOTH,
        result,
        result,
        result,
        result,
        draining,
        lambda self: Retracted(self.column(), self.column()),
        lambda self: Started(self.column()),
        lambda self: Want(self.digest()),
        lambda self: Want(self.name()),
    )
    MANAGER: tuple[Any, ...] = (
        *BOTH,
        blob,
        blob,
        share,
        define,
        define,
        assign,
        assign,
        assign,
        outcome,
        outcome,
        outcome,
        lambda self: Forget(self.job()) if self.rng.random() < 0.3 else Heartbeat(),
        lambda self: Retract(self.rng.random() < 0.5, self.column()),
        lambda self: Confirm(self.column()),
        lambda self: Want(self.digest()),
        lambda self: Want(self.name()),
        lambda self: Running(self.job(), array("I", self.some())),
        lambda self: Notice(self.job(), self.text()),
        lambda self: Slots(self.number(), self.number()),
        lambda self: StatusReply(self.text()),
        lambda self: Stored(
            self.job(), self.rng.choice((0, 0, 4, 65_535)), self.text(), self.rng.random() < 0.5, self.tasks(), b"note"
        ),
        lambda self: Inventory(self.number(), self.text()),
        drain,
        lambda self: DrainReply([self.text()]),
    )
