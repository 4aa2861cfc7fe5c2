"""The functions of a client's jobs: bytes known by their digest, said once a link, and again when wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from starcore.client.orders import Outbox
from starcore.errors import Code
from starcore.messages import BLOB_STREAM, HEAD_BYTES_MAX, Abort, Blob
from starcore.streams import Sending

ATTEMPT = 1
"""A blob's stream has one: who wants it again gets another stream."""


@dataclass(slots=True)
class _Function:
    blob: bytes
    jobs: int = 0
    told: bool = False


class Blobs:
    """Every function that a job of this session uses."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._functions: dict[bytes, _Function] = {}
        self._streams: dict[int, bytes] = {}
        self._number = 0
        self._sending = Sending()

    def open_link(self, sending: Sending) -> None:
        """Begin on a new link, whose manager may know nothing."""
        self._sending = sending
        self._streams.clear()
        for function in self._functions.values():
            function.told = False

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

    def tell(self, digest: bytes, *, again: bool = False) -> None:
        """Say BLOB, unless this link's manager was told; `again` where it wants it."""
        function = self._functions.get(digest)
        if function is None or (function.told and not again):
            return
        function.told = True
        self._withdraw(digest, "it is announced anew")
        self._number += 1
        stream = BLOB_STREAM | self._number
        if len(function.blob) <= HEAD_BYTES_MAX:
            self._outbox.send(Blob(digest, stream, 0, function.blob))
            return
        self._outbox.send(Blob(digest, stream, len(function.blob)))
        self._sending.open(stream, ATTEMPT, len(function.blob), window=False)
        self._streams[stream] = digest

    def aborted(self, stream: int) -> None:
        """The manager has these bytes, or takes them from somebody else."""
        self._streams.pop(stream, None)

    def piece(self, stream: int, offset: int, length: int) -> memoryview:
        """The bytes of a chunk."""
        return memoryview(self._functions[self._streams[stream]].blob)[offset : offset + length]

    def _withdraw(self, digest: bytes, reason: str) -> None:
        """End the streams of these bytes."""
        for stream in [stream for stream, used in self._streams.items() if used == digest]:
            del self._streams[stream]
            if self._sending.close(stream):
                self._outbox.send(Abort(stream, ATTEMPT, Code.GONE, reason))

    def check(self, digests: list[bytes]) -> None:
        """Assert that these are the functions of the jobs, one each."""
        assert {digest: digests.count(digest) for digest in digests} == {
            digest: function.jobs for digest, function in self._functions.items()
        }
        assert all(stream in self._sending for stream in self._streams)
