"""What many tasks of a client use: the functions of its jobs, and the values that were put. Pure.

Each is said once a link, before the first job that needs it, and again when wanted. A function lives as long as a
job has it. A value lives as long as a job needs it or its `Ref` does; its bytes are read from the caller's memory
whenever a manager asks, so nothing is copied for it, and a manager need not keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starcore.client.orders import Outbox
from starcore.errors import Code
from starcore.messages import BLOB_STREAM, HEAD_BYTES_MAX, Abort, Blob, Buffer, Share
from starcore.streams import Sending

ATTEMPT = 1
"""A stream's first; who wants the bytes again asks for a later one, or gets another stream."""


class Source(Protocol):
    """A payload: a head, and a body to be read piece by piece."""

    head: bytes
    body_bytes: int

    def read(self, offset: int, length: int) -> Buffer:
        """Return these bytes of the body."""


@dataclass(slots=True)
class _Function:
    blob: bytes
    jobs: int = 0
    told: bool = False


@dataclass(slots=True)
class _Value:
    source: Source
    jobs: int = 0
    told: bool = False
    held: bool = True
    """Its Ref can be passed to more calls."""


class Blobs:
    """Every function that a job of this session uses, and every value that was put."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._functions: dict[bytes, _Function] = {}
        self._values: dict[bytes, _Value] = {}
        self._streams: dict[int, bytes] = {}
        self._number = 0
        self._sending = Sending()

    def open_link(self, sending: Sending) -> None:
        """Begin on a new link, whose manager may know nothing."""
        self._sending = sending
        self._streams.clear()
        for function in self._functions.values():
            function.told = False
        for value in self._values.values():
            value.told = False

    # -- functions -------------------------------------------------------------------------------------------

    def use(self, digest: bytes, blob: bytes) -> None:
        """One more job has this function."""
        self._functions.setdefault(digest, _Function(blob)).jobs += 1

    def drop(self, digest: bytes) -> None:
        """One job less has it; the last one takes the bytes along."""
        function = self._functions.get(digest)
        if function is None:
            return
        function.jobs -= 1
        if not function.jobs:
            del self._functions[digest]
            self._withdraw(digest, "no job needs it any more")

    # -- values ----------------------------------------------------------------------------------------------

    def hold(self, name: bytes, source: Source) -> None:
        """A value was put."""
        self._values[name] = _Value(source)

    def release(self, name: bytes) -> None:
        """No further job will need it."""
        value = self._values.get(name)
        if value is not None:
            value.held = False
            self._settle(name, value)

    def held(self, name: bytes) -> bool:
        """Whether further jobs may need it."""
        return self._values[name].held

    def need(self, name: bytes) -> None:
        """One more job needs this value."""
        self._values[name].jobs += 1

    def spare(self, name: bytes) -> None:
        """One job less needs it; with the last one the manager forgets it."""
        value = self._values[name]
        value.jobs -= 1
        if not value.jobs:
            value.told = False
            self._withdraw(name, "no job needs it any more")
            self._settle(name, value)

    def _settle(self, name: bytes, value: _Value) -> None:
        if not value.jobs and not value.held:
            del self._values[name]

    # -- to the manager --------------------------------------------------------------------------------------

    def tell(self, digest: bytes, *, again: bool = False) -> None:
        """Say BLOB or SHARE, unless this link's manager was told; `again` where it wants it."""
        entry = self._functions.get(digest) or self._values.get(digest)
        if entry is None or (entry.told and not again):
            return
        if isinstance(entry, _Function) and self._comes(digest, len(entry.blob)):
            return  # the manager asked before it heard of this stream: an end of it would make it ask once more
        entry.told = True
        self._withdraw(digest, "it is announced anew")
        self._number += 1
        stream = BLOB_STREAM | self._number
        if isinstance(entry, _Value):
            size = entry.source.body_bytes
            self._outbox.send(Share(digest, stream, size, entry.source.head))
        else:
            whole = len(entry.blob) <= HEAD_BYTES_MAX
            size = 0 if whole else len(entry.blob)
            self._outbox.send(Blob(digest, stream, size, entry.blob if whole else b""))
        if size:
            self._sending.open(stream, ATTEMPT, size, window=False)
            self._streams[stream] = digest

    def aborted(self, stream: int) -> None:
        """The manager has these bytes, or takes them from somebody else."""
        self._streams.pop(stream, None)

    def piece(self, stream: int, offset: int, length: int) -> Buffer:
        """The bytes of a chunk."""
        digest = self._streams[stream]
        value = self._values.get(digest)
        if value is not None:
            return value.source.read(offset, length)
        return memoryview(self._functions[digest].blob)[offset : offset + length]

    def _comes(self, digest: bytes, size: int) -> bool:
        """Whether a stream is open that will bring all of these bytes."""
        streams = (stream for stream, used in self._streams.items() if used == digest)
        return any(stream in self._sending and self._sending.position(stream) < size for stream in streams)

    def _withdraw(self, digest: bytes, reason: str) -> None:
        """End the streams of these bytes."""
        for stream in [stream for stream, used in self._streams.items() if used == digest]:
            del self._streams[stream]
            if self._sending.close(stream):
                self._outbox.send(Abort(stream, ATTEMPT, Code.GONE, reason))

    def check(self, digests: list[bytes], names: list[bytes] | None = None) -> None:
        """Assert that these are the functions of the jobs, one each, and the values that they need."""
        assert {digest: digests.count(digest) for digest in digests} == {
            digest: function.jobs for digest, function in self._functions.items()
        }
        names = names or []
        assert {name: names.count(name) for name in names} == {
            name: value.jobs for name, value in self._values.items() if value.jobs
        }
        assert all(value.jobs or value.held for value in self._values.values())
        assert all(stream in self._sending for stream in self._streams)
