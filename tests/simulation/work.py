"""What the simulated slots compute: a task's whole fate is written in its head.

Bytes are views of one random pattern. A body is named by where in the pattern it begins (`base`) and never copied,
so its first and last bytes tell whose it is and which part of it. The answer of a task is a function of its head,
known to whoever made the head; the slot works it out from the bytes that reached it. An answer with a body is another
one each time that the task runs, as a simulation's with chance in it: its head names its body, so one whose parts are
of two runs is seen.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from .world import Violation

PATTERN = memoryview(random.Random(0).randbytes(12 << 20))
BASES = 6 << 20
"""Bodies begin below this, and are no longer than the rest of the pattern."""
SAMPLE_BYTES = 16
ANSWER_HEAD_BYTES_MIN = 16
"""Of an answer with a body, which it names."""
_HEAD = struct.Struct("<QBIIIIIf")


class Kind(IntEnum):
    """What becomes of a task."""

    ANSWER = 0
    RAISE = 1
    FLAKY = 2
    """Raises at times."""
    CRASH = 3
    FRAIL = 4
    """Kills its slot at times."""
    HANG = 5
    UNSENDABLE = 6
    DOOM = 7
    """Takes its whole worker along."""
    SWELL = 8
    """Takes more memory than its slot may have."""


@dataclass(frozen=True)
class Spec:
    """One task's fate.

    Attributes
    ----------
    micros : int
        How long it runs.
    argument, base : int
        Its body's length, and where in the pattern it begins.
    answer_head, answer_body : int
        Lengths of the answer's parts.
    odds : float
        How often it raises or crashes, where it does so at times.
    """

    serial: int
    kind: Kind = Kind.ANSWER
    micros: int = 1000
    argument: int = 0
    base: int = 0
    answer_head: int = 16
    answer_body: int = 0
    odds: float = 0.5

    def head(self, padding: int = 0) -> bytes:
        """Return the task's head."""
        fields = (self.serial, self.kind, self.micros, self.argument, self.base, self.answer_head, self.answer_body)
        return _HEAD.pack(*fields, self.odds) + self.serial.to_bytes(8, "little") * (padding // 8)

    @staticmethod
    def of(head: Any) -> Spec:
        """Read a head."""
        serial, kind, *rest = _HEAD.unpack_from(head)
        return Spec(serial, Kind(kind), *rest)


@dataclass(frozen=True)
class Answer:
    """What a task returns."""

    head: bytes
    body: int


def answer_of(head: Any, run: int = 0) -> Answer:
    """Return what the function of the simulated slots returns for a head; with a body, the `run` makes a difference."""
    spec = Spec.of(head)
    salt = run.to_bytes(8, "little") if spec.answer_body else b""
    digest = hashlib.blake2b(head, digest_size=16, salt=salt).digest()
    return Answer((digest * (spec.answer_head // 16 + 1))[: spec.answer_head], spec.answer_body)


def base_of(answer_head: bytes) -> int:
    """Where the body begins that belongs to an answer's head."""
    return int.from_bytes(answer_head[:4], "little") % BASES


@dataclass(frozen=True)
class Treasure:
    """A value that was put: a head, and a body from `base` on in the pattern."""

    name: bytes
    base: int
    body_bytes: int

    @property
    def head(self) -> bytes:
        """Where its body begins, and how long it is."""
        return self.base.to_bytes(4, "little") + self.body_bytes.to_bytes(4, "little")

    def read(self, offset: int, length: int) -> Any:
        """Return bytes of the body."""
        return piece(self.base, offset, min(length, self.body_bytes - offset))


def piece(base: int, offset: int, length: int) -> Any:
    """Return bytes of a body."""
    return PATTERN[base + offset : base + offset + length]


def require_body(pieces: Iterable[tuple[int, Any]], base: int, size: int, what: str) -> None:
    """Assert that these pieces, in the order of their coming, are the whole body and nothing else."""
    at = 0
    for offset, payload in pieces:
        if offset != at:
            raise Violation(f"{what}: bytes at {offset} came where those at {at} were due")
        ours = piece(base, offset, len(payload))
        if ours[:SAMPLE_BYTES] != payload[:SAMPLE_BYTES] or ours[-SAMPLE_BYTES:] != payload[-SAMPLE_BYTES:]:
            raise Violation(f"{what}: wrong bytes at {offset} of {size}")
        at += len(payload)
    if at != size:
        raise Violation(f"{what}: {at} bytes came, of {size}")


@lru_cache(maxsize=64)
def function_blob(name: str, size: int) -> tuple[bytes, bytes]:
    """Return a function's blob of this size, and its digest."""
    blob = (name.encode() + b"\0" + PATTERN[:size].tobytes())[: max(size, len(name) + 1)]
    return blob, hashlib.sha256(blob).digest()
