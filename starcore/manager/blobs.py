"""The blobs that jobs need: pulled whole from a client, kept by digest, lent to each worker once. Pure.

::

    client ── BLOB ─▶ [small: whole at once | large: a kept flow, pulled] ─▶ jobs wake ─▶ BLOB ─▶ worker

A blob stays while a job needs it, and a while longer if there is room (`blob_idle_bytes`): the next job of the
same function costs nothing. Its bytes are checked against the digest, so that no client can slip its own function
under the name of another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice

from starcore.errors import Code, OverrunError, UnexpectedError
from starcore.events import Token
from starcore.manager.flows import FIRST_ATTEMPT, Flow
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.records import BlobKnown
from starcore.manager.relay import Relay
from starcore.manager.state import BLOB_OVERHEAD_BYTES, Blob, Client, Job, Worker
from starcore.messages import BLOB_STREAM, Abort, Buffer, Want
from starcore.messages import Blob as BlobMessage

WORKER_BLOBS_MAX = 4096
"""So many functions a worker is known to have; most are gone there as well when so many others have come."""


class Blobs:
    """Every blob that is here, or on its way here."""

    def __init__(
        self,
        epoch: int,
        outbox: Outbox,
        relay: Relay,
        limits: Limits,
        read: Callable[[Token], Buffer] = memoryview,
        budget_bytes: int = 1 << 50,
    ) -> None:
        self._epoch = epoch
        self._outbox = outbox
        self._relay = relay
        self._limits = limits
        self._read = read
        self._budget_bytes = budget_bytes
        self._blobs: dict[bytes, Blob] = {}
        self._bytes = 0
        """What they measure together, those that are on their way in full."""
        self._idle: dict[Blob, None] = {}
        self.idle_bytes = 0
        """Bytes of blobs that no job needs, kept in case one will."""
        self._streams = 0

    def pin(self, digest: bytes, job: Job) -> Blob:
        """Keep a blob for a job, whether it is here or not."""
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._blobs[digest] = Blob(digest)
        blob.jobs[job] = None
        self._wake(blob)
        return blob

    def unpin(self, job: Job) -> None:
        """A job is over."""
        blob = job.blob
        if blob is not None and blob.jobs.pop(job, job) is None and not blob.jobs:
            self._rest(blob)

    def ask(self, blob: Blob, client: Client) -> None:
        """Have a client send what is missing, unless it comes already."""
        if not blob.whole and (blob.flow is None or not blob.flow.source) and client.link:
            self._outbox.send(client.link, Want(blob.digest))

    def offered(self, client: Client, message: BlobMessage) -> Blob | None:
        """Take a BLOB. Returns the blob if that made it whole."""
        if not message.stream & BLOB_STREAM and message.body_bytes:
            raise UnexpectedError(f"a blob on stream {message.stream}, which is not a blob's")
        blob = self._blobs.get(message.digest) or Blob(message.digest)
        if blob.whole or (blob.flow is not None and blob.flow.source):
            if message.body_bytes:
                self._outbox.send(client.link, Abort(message.stream, FIRST_ATTEMPT, Code.NORMAL, "it is here"))
            return None
        if message.body_bytes and self._relay.inbound(client.link, message.stream) is not None:
            raise UnexpectedError(f"a blob on stream {message.stream}, which is another one's, or a value's")
        self._charge(client, message.body_bytes or len(message.head))
        if message.body_bytes == 0 and hashlib.sha256(message.head).digest() != message.digest:
            raise UnexpectedError("a blob that is not what its digest says")
        size = message.body_bytes or len(message.head)
        room = max(0, min(self._limits.blob_bytes, self._room(blob, size)))
        if size > room:
            reason = (
                f"a function of {size} bytes, where the manager has room for {room}: send what it carries by "
                f"client.put, or give the manager more --memory"
            )
            if message.body_bytes:
                self._outbox.send(client.link, Abort(message.stream, FIRST_ATTEMPT, Code.OVERRUN, reason))
            blob.refusals[client] = reason  # what one client cannot send may still come from another
            return blob if blob.jobs else None
        if message.body_bytes == 0:
            blob.head = message.head
            self._register(blob, size)
            return self._arrived(blob)
        self._register(blob, size)
        blob.refusals.clear()
        blob.flow = Flow(message.body_bytes, source_stream=message.stream)
        client.blobs[message.stream] = blob
        self._relay.expect(blob.flow, client.link)
        self._relay.keep(blob.flow)
        return None

    def grown(self, client: Client, stream: int) -> Blob | None:
        """A chunk of a blob arrived. Returns the blob if that was its last one."""
        blob = client.blobs.get(stream)
        if blob is None or blob.flow is None or blob.flow.end < blob.size:
            return None
        del client.blobs[stream]
        self._relay.close_source(blob.flow)
        tokens = [token for _, _, token in blob.flow.held]
        if None not in tokens:
            digest = hashlib.sha256()
            for _, length, token in blob.flow.held:
                digest.update(self._read(token)[:length])
            if digest.digest() != blob.digest:
                self._discard(blob)
                raise UnexpectedError("a blob that is not what its digest says")
        return self._arrived(blob)

    def aborted(self, client: Client, stream: int) -> Blob | None:
        """The client stopped sending a blob. Returns it if jobs need it still."""
        blob = client.blobs.pop(stream, None)
        if blob is None or blob.whole:
            return None
        self._discard(blob)
        return blob if blob.jobs else None

    def left(self, client: Client) -> Iterator[Blob]:
        """The client's link is gone: what it was sending is incomplete. Yields those that jobs still need."""
        blobs = list(client.blobs.values())
        client.blobs.clear()
        for blob in blobs:
            self._discard(blob)
            if blob.jobs:
                yield blob

    def supply(self, worker: Worker, blob: Blob) -> None:
        """Send a blob to a worker that has not got it."""
        if blob.digest in worker.blobs or not blob.whole:
            return
        self._streams += 1
        stream = BLOB_STREAM | self._epoch << 32 | self._streams  # a worker may keep blobs of an earlier manager
        if blob.flow is None:
            self._outbox.send(worker.link, BlobMessage(blob.digest, stream, 0, blob.head))
            worker.blobs[blob.digest] = None
        else:
            self._outbox.send(worker.link, BlobMessage(blob.digest, stream, blob.size))
            worker.blobs[blob.digest] = blob.lent[worker] = self._relay.lend(blob.flow, worker.link, stream)
        if (excess := len(worker.blobs) - WORKER_BLOBS_MAX) > 0:
            self._unlearn(worker, 2 * excess)

    def _unlearn(self, worker: Worker, looks: int) -> None:
        """Forget that a worker has the functions that it got first: for a job to come they are sent once more."""
        for digest, flow in list(islice(worker.blobs.items(), looks)):
            if flow is None or flow.forwarded:
                self.retire(worker, digest)
            else:
                worker.blobs[digest] = worker.blobs.pop(digest)

    def wanted(self, worker: Worker, digest: bytes) -> None:
        """A worker lacks a blob: send it, once more if need be."""
        self.retire(worker, digest)
        blob = self._blobs.get(digest)
        if blob is not None:
            self.supply(worker, blob)

    def retire(self, worker: Worker, digest: bytes) -> None:
        """Take it that the worker has not got the blob."""
        flow = worker.blobs.pop(digest, None)
        if flow is not None:
            self._relay.end(flow)
            blob = self._blobs.get(digest)
            if blob is not None:
                blob.lent.pop(worker, None)

    def restore(self, digest: bytes, head: Buffer, flow: Flow | None = None) -> None:
        """A function of an earlier manager's is here, which is pinned: in a head, or kept in a file."""
        blob = self._blobs[digest]
        blob.head, blob.flow = head, flow
        self._register(blob, len(head) if flow is None else flow.size)
        if flow is not None:
            blob.body = flow.number
        blob.whole = True

    def kept_in(self, number: int) -> Blob | None:
        """Return the blob whose bytes lie in this file alone."""
        found = (blob for blob in self._blobs.values() if blob.flow is not None and blob.flow.number == number)
        return next(found, None)

    def lose(self, blob: Blob) -> None:
        """What is here of a blob cannot be read any more: where jobs need it, it has to come again."""
        if not blob.jobs:
            self._forget(blob)
            return
        for worker, flow in blob.lent.items():
            worker.blobs.pop(blob.digest, None)
            self._relay.abort(flow, Code.GONE, "this blob is not here any more")
        blob.lent.clear()
        blob.whole, blob.body = False, 0
        self._discard(blob)

    def flows(self) -> Iterator[Flow]:
        """Every flow that brings or keeps a blob."""
        return (blob.flow for blob in self._blobs.values() if blob.flow is not None)

    def facts(self) -> Iterator[BlobKnown]:
        """Every small blob that is here."""
        return (BlobKnown(blob.digest, blob.head) for blob in self._blobs.values() if blob.whole and blob.flow is None)

    @property
    def held_bytes(self) -> int:
        """Bytes of small blobs; those of large ones are the relay's."""
        return sum(len(blob.head) for blob in self._blobs.values())

    def check(self) -> None:
        """Assert the invariants."""
        for digest, blob in self._blobs.items():
            assert blob.digest == digest
            assert (not blob.jobs and blob.whole) == (blob in self._idle), "idle blobs"
            assert all(job.blob is blob for job in blob.jobs)
        assert all(self._blobs.get(blob.digest) is blob for blob in self._idle)
        assert self.idle_bytes == sum(blob.size for blob in self._idle)
        assert self._bytes == sum(blob.size for blob in self._blobs.values())

    def _charge(self, client: Client, size: int) -> None:
        """Hold what a session's blobs measure within its bound."""
        client.blob_bytes += size + BLOB_OVERHEAD_BYTES
        if client.blob_bytes > self._limits.session_blob_bytes:
            blobs = {job.blob for job in client.jobs.values() if job.blob is not None} | {*client.blobs.values()}
            client.blob_bytes = sum(blob.size + BLOB_OVERHEAD_BYTES for blob in blobs) + size + BLOB_OVERHEAD_BYTES
            if client.blob_bytes > self._limits.session_blob_bytes:
                most = self._limits.session_blob_bytes
                raise OverrunError(f"{client.blob_bytes} bytes of functions, where {most} are granted")

    def _room(self, blob: Blob, wanted: int) -> int:
        """How large this blob may be beside the others; what nobody needs goes for it."""
        own = blob.size if blob.digest in self._blobs else 0
        while (left := self._budget_bytes - (self._bytes - own)) < wanted and self._idle:
            self._forget(next(iter(self._idle)))
        return left

    def _register(self, blob: Blob, size: int) -> None:
        """A blob, known or new, measures so much."""
        known = self._blobs.setdefault(blob.digest, blob)
        assert known is blob
        self._bytes += size - blob.size
        blob.size = size

    def _remove(self, blob: Blob) -> None:
        if self._blobs.pop(blob.digest, None) is not None:
            self._bytes -= blob.size

    def _arrived(self, blob: Blob) -> Blob:
        blob.whole = True
        if self._outbox.journaled and blob.flow is None:
            self._outbox.record(BlobKnown(blob.digest, blob.head))
        blob.refusals.clear()
        if not blob.jobs:
            self._rest(blob)
        return blob

    def _rest(self, blob: Blob) -> None:
        """Keep an unneeded blob while there is room, the latest ones longest."""
        if not blob.whole:
            if blob.flow is None or not blob.flow.source:
                self._forget(blob)
            return
        self._idle[blob] = None
        self.idle_bytes += blob.size
        while self.idle_bytes > self._limits.blob_idle_bytes or len(self._idle) > self._limits.blobs_idle_max:
            self._forget(next(iter(self._idle)))

    def _wake(self, blob: Blob) -> None:
        """Take a blob out of the idle ones, if it is one."""
        if self._idle.pop(blob, blob) is None:
            self.idle_bytes -= blob.size

    def _forget(self, blob: Blob) -> None:
        self._wake(blob)
        self._remove(blob)
        for worker, flow in blob.lent.items():
            if flow.forwarded:
                worker.blobs[blob.digest] = None
                self._relay.end(flow)
            else:  # it lives on bytes that are about to go
                del worker.blobs[blob.digest]
                self._relay.abort(flow, Code.GONE, "no job needs this blob any more")
        blob.lent.clear()
        if blob.flow is not None:
            self._relay.end(blob.flow)

    def _discard(self, blob: Blob) -> None:
        """Let go of an incomplete blob's bytes."""
        if blob.flow is not None:
            self._relay.end(blob.flow)
            blob.flow = None
        if self._blobs.get(blob.digest) is blob:
            self._register(blob, 0)
        if not blob.jobs:
            self._remove(blob)
