"""What a manager may not say to this worker, however well it is framed. Pure.

The core acts on what the guard lets pass, and so need not doubt: every lease is new, every stream of a blob is one,
and no table grows beyond its bound. Whoever breaks that has its link closed.
"""

from __future__ import annotations

from collections.abc import Iterable

from starcore.errors import OverrunError, UnexpectedError
from starcore.messages import (
    BATCH_TASKS_MAX,
    BLOB_STREAM,
    SHARE_NAME_BYTES,
    Assign,
    Blob,
    Job,
    Message,
    Share,
    Welcome,
)
from starcore.worker.library import Library
from starcore.worker.memory import Memory
from starcore.worker.runs import Run

LEASES_MAX = 16 * BATCH_TASKS_MAX
"""Leases that wait here for a slot or a body; a manager of ours gives out 2048."""
JOBS_MAX = 1 << 20
BLOBS_MAX = 1 << 20
BLOBS_ARRIVING_MAX = 4096
VALUES_MAX = 1 << 20


class Guard:
    """Looks at each message before it is acted upon.

    Parameters
    ----------
    library, memory
        The worker's.
    waiting : iterable of Run
        Every run that is in no slot.
    """

    def __init__(self, library: Library, memory: Memory, waiting: Iterable[Run]) -> None:
        self._library = library
        self._memory = memory
        self._waiting = waiting
        self._next_lease = 0

    def look(self, message: Message) -> None:
        """Let a message pass.

        Raises
        ------
        UnexpectedError, OverrunError
            It must not be acted upon.
        """
        kind = type(message)
        if kind is Assign:
            self._assign(message)  # type: ignore[arg-type]
        elif kind is Blob:
            self._blob(message)  # type: ignore[arg-type]
        elif kind is Job:
            if len(self._library.jobs) >= JOBS_MAX:
                raise OverrunError(f"more than {JOBS_MAX} jobs")
            if len(message.shares) % SHARE_NAME_BYTES:  # type: ignore[union-attr]
                raise UnexpectedError("a job with half a name of a value")
        elif kind is Share:
            self._share(message)  # type: ignore[arg-type]
        elif isinstance(message, Welcome) and not message.resumed:
            self._next_lease = 0

    def _assign(self, message: Assign) -> None:
        """Leases are never used twice, and a session's only grow."""
        if message.lease < self._next_lease:
            raise UnexpectedError(f"lease {message.lease} after {self._next_lease - 1}")
        if message.body_sizes:
            held = self._memory.keys()
            for at, size in enumerate(message.body_sizes):
                if size and message.lease + at in held:  # of a slot that is about to die
                    raise UnexpectedError(f"lease {message.lease + at} is still here")
        if sum(map(len, self._waiting)) + len(message.head_sizes) > LEASES_MAX:
            raise OverrunError(f"more than {LEASES_MAX} leases wait")
        self._next_lease = message.lease + len(message.head_sizes)

    def _blob(self, message: Blob) -> None:
        volumes = self._library.volumes
        if len(volumes) >= BLOBS_MAX:
            raise OverrunError(f"more than {BLOBS_MAX} blobs")
        if not message.body_bytes:
            return
        if not message.stream & BLOB_STREAM:
            raise UnexpectedError(f"a blob on stream {message.stream}, which is not a blob's")
        if message.stream in self._taken():
            raise UnexpectedError(f"two blobs on stream {message.stream}")
        if sum(not volume.complete for volume in volumes.values()) >= BLOBS_ARRIVING_MAX:
            raise OverrunError(f"more than {BLOBS_ARRIVING_MAX} blobs on their way")

    def _share(self, message: Share) -> None:
        values = self._library.values
        known = values.get(message.name)
        if known is None and len(values) >= VALUES_MAX:
            raise OverrunError(f"more than {VALUES_MAX} values")
        if not message.body_bytes:
            return
        if not message.stream & BLOB_STREAM:
            raise UnexpectedError(f"a value on stream {message.stream}, which is not a blob's")
        own = known.key if known is not None else 0
        if message.stream != own and message.stream in self._taken():
            raise UnexpectedError(f"two values on stream {message.stream}")

    def _taken(self) -> set[int]:
        """The streams that have a use."""
        library = self._library
        streams = {volume.key for volume in library.volumes.values()} | {value.key for value in library.values.values()}
        return streams | self._memory.keys()
