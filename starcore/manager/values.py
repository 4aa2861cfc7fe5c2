"""The values that clients share among their tasks: announced, pulled through to workers, never stored. Pure.

::

    client ── SHARE ─▶ Value ── SHARE ─▶ each worker that is given a task which needs it
           ══ CHUNK ═▶ a spread flow ══▶ readers: the workers whose arenas have room

Its bytes cross this process within a window, once for all workers that want them at the time; for one that comes
later they are asked of the client again, who holds them as long as a task may need them. So a value costs the
manager its head, however large it is. Its name is known to its client's session alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starcore.errors import Code, OverrunError, UnexpectedError
from starcore.manager.flows import FIRST_ATTEMPT, Flow
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Relay
from starcore.manager.state import BLOB_OVERHEAD_BYTES, Client, Job, Value, Worker
from starcore.messages import BLOB_STREAM, SHARE_NAME_BYTES, Buffer, Share, Want, share_names

STREAMS = 1 << 31
"""Numbers of streams from here on, in an epoch, carry values; those below carry functions."""


class Values:
    """Every value that a job needs, or that was announced for one."""

    def __init__(self, epoch: int, outbox: Outbox, relay: Relay, limits: Limits) -> None:
        self._outbox = outbox
        self._relay = relay
        self._limits = limits
        self._values: dict[bytes, Value] = {}
        self._stream = BLOB_STREAM | epoch << 32 | STREAMS

    # -- clients ---------------------------------------------------------------------------------------------

    def pin(self, job: Job, shares: Buffer) -> None:
        """Keep what a job needs, as long as there is the job."""
        if len(shares) % SHARE_NAME_BYTES:
            raise UnexpectedError(f"names of values in {len(shares)} bytes")
        job.values = tuple(self._find(job.client, name) for name in dict.fromkeys(share_names(shares)))
        for value in job.values:
            value.jobs[job] = None

    def unpin(self, job: Job) -> None:
        """A job is over."""
        for value in job.values:
            value.jobs.pop(job, None)
            if not value.jobs:
                self._drop(value)

    def ask(self, job: Job) -> None:
        """Have its client announce what is missing."""
        for value in job.values:
            if job.client.link and (value.size < 0 or (value.flow is not None and not value.flow.source)):
                self._outbox.send(job.client.link, Want(value.name))

    def offered(self, client: Client, message: Share) -> Value | None:
        """Take a SHARE. Returns the value if jobs may have waited for it."""
        if not message.stream & BLOB_STREAM and message.body_bytes:
            raise UnexpectedError(f"a value on stream {message.stream}, which is not a blob's")
        value = self._find(client, message.name)
        if value.size < 0:
            self._charge(client, len(message.head))
            value.size, value.head = message.body_bytes, message.head
            if value.size:
                value.flow = Flow(value.size, spread=True)
        elif (value.size, value.head) != (message.body_bytes, message.head):
            raise UnexpectedError("a value that is not what it was")
        if value.flow is not None:
            if self._relay.inbound(client.link, message.stream) not in (None, value.flow):
                raise UnexpectedError(f"two values on stream {message.stream}")
            self._relay.close_source(value.flow)
            value.flow.source_stream, value.flow.source_attempt = message.stream, FIRST_ATTEMPT
            self._relay.expect(value.flow, client.link, window=False)
        return value if value.jobs else None

    def aborted(self, client: Client, stream: int) -> None:
        """The client ends a stream; it opens another one where the value is still needed."""
        flow = self._relay.inbound(client.link, stream)
        if flow is not None and flow.spread:
            self._relay.close_source(flow)

    def left(self, client: Client) -> None:
        """A client's session is over, and so are its jobs: what it announced for none goes as well."""
        for value in [value for value in self._values.values() if value.client is client]:
            self._drop(value)

    # -- workers ---------------------------------------------------------------------------------------------

    @staticmethod
    def has(worker: Worker, value: Value) -> bool:
        """Whether all of it was sent to this worker."""
        if value.name not in worker.values:
            return False
        flow = worker.values[value.name]
        return flow is None or flow.forwarded

    def supply(self, worker: Worker, values: Iterable[Value]) -> None:
        """Offer a worker what it was not offered yet."""
        for value in values:
            if value.name not in worker.values and value.size >= 0:
                self._offer(worker, value)

    def wanted(self, worker: Worker, name: bytes) -> Value | None:
        """A worker lacks a value that it had, or was offered: offer it once more. Returns it if that was done.

        Not where FORGET crossed the question: the worker would keep what no job of its own ever lets go.
        """
        value = self._values.get(name)
        if value is not None and value.size >= 0 and any(job.number in worker.jobs for job in value.jobs):
            if name in worker.values:
                self._retire(worker, name)
            self._offer(worker, value)
            return value
        return None

    def refused(self, worker: Worker, flow: Flow, code: int) -> None:
        """A worker ends a value's stream: it is there, or not wanted."""
        for name in [name for name, reader in worker.values.items() if reader is flow]:
            self._retire(worker, name)
            if code == Code.NORMAL and name in self._values:
                worker.values[name] = None
                self._values[name].workers[worker] = None

    def absent(self, worker: Worker) -> None:
        """A worker's link is gone. What it cut off goes on under the same stream, when the worker asks for it."""
        worker.halted.clear()
        for name, flow in list(worker.values.items()):
            if flow is not None and not flow.forwarded:
                self._retire(worker, name)
                worker.halted[name] = flow.sink_stream

    def lose(self, worker: Worker) -> None:
        """A worker is gone for good."""
        for name in list(worker.values):
            self._retire(worker, name)

    # -- looking on ------------------------------------------------------------------------------------------

    def flows(self) -> Iterator[Flow]:
        """Every flow of a value, from its client and to workers."""
        for value in self._values.values():
            if value.flow is not None:
                yield value.flow
                yield from value.flow.readers

    @property
    def held_bytes(self) -> int:
        """Bytes of heads; those of bodies are the relay's."""
        return sum(len(value.head) for value in self._values.values())

    def check(self) -> None:
        """Assert the invariants."""
        charged: dict[Client, int] = {}
        for name, value in self._values.items():
            assert value.name == name
            assert all(any(value is needed for needed in job.values) for job in value.jobs)
            assert all(name in worker.values for worker in value.workers)
            assert value.flow is None or not value.flow.kept
            charged[value.client] = charged.get(value.client, 0) + value.cost
            readers = {worker.values[name] for worker in value.workers} - {None}
            assert value.flow is None or value.flow.readers.keys() <= readers, "a reader of nobody's"
        assert all(client.value_bytes == cost for client, cost in charged.items()), "what values cost their clients"

    # -- private ---------------------------------------------------------------------------------------------

    def _find(self, client: Client, name: bytes) -> Value:
        value = self._values.get(name)
        if value is None:
            self._charge(client, BLOB_OVERHEAD_BYTES)
            value = self._values[name] = Value(name, client)
        if value.client is not client:
            raise UnexpectedError("a value of another session's")
        return value

    def _charge(self, client: Client, size: int) -> None:
        """Hold what a session's values cost within its bound."""
        if client.value_bytes + size > self._limits.value_bytes:
            raise OverrunError(f"more than {self._limits.value_bytes} bytes of values")
        client.value_bytes += size

    def _offer(self, worker: Worker, value: Value) -> None:
        stream = worker.halted.pop(value.name, 0)
        if not stream:
            self._stream += 1
            stream = self._stream
        self._outbox.send(worker.link, Share(value.name, stream, value.size, value.head))
        reader = None if value.flow is None else self._relay.read(value.flow, worker.link, stream)
        worker.values[value.name] = reader
        value.workers[worker] = None

    def _retire(self, worker: Worker, name: bytes) -> None:
        """Take it that the worker has not got the value."""
        worker.halted.pop(name, None)
        flow = worker.values.pop(name, None)
        if flow is not None:
            self._relay.end(flow)
        value = self._values.get(name)
        if value is not None:
            value.workers.pop(worker, None)

    def _drop(self, value: Value) -> None:
        """Nobody needs it any more."""
        del self._values[value.name]
        value.client.value_bytes -= value.cost
        for worker in value.workers:
            flow = worker.values.pop(value.name, None)
            worker.halted.pop(value.name, None)
            if flow is not None and not flow.forwarded:
                self._relay.abort(flow, Code.GONE, "no job needs this value any more")
        value.workers.clear()
        if value.flow is not None:
            self._relay.end(value.flow)
