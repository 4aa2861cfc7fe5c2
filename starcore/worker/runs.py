"""Runs of leases on their way in, and of answers on their way out, in columns. Pure.

A `Run` is consecutive tasks of one job under consecutive leases; it is cut, never unpacked, so a thousand small
tasks cost the supervisor a few records. A task with a body is always a run of its own. A `Shelf` keeps the
answers until the manager has confirmed them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from starcore.messages import BATCH_BYTES_MAX, BATCH_TASKS_MAX, Assign, Buffer, Column, Result

SEGMENT_BYTES_MIN = 64 << 10


def segment_bytes(size: int) -> int:
    """Round a body up to its size class: four classes an octave, so that warm segments find new use.

    >>> segment_bytes(1), segment_bytes(5 << 20), segment_bytes((5 << 20) + 1)
    (65536, 5242880, 6291456)
    """
    if size <= SEGMENT_BYTES_MIN:
        return SEGMENT_BYTES_MIN
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


@dataclass(slots=True)
class Run:
    """Leases `lease`, `lease + 1`, ... for tasks `first`, `first + 1`, ... of a job."""

    lease: int
    job: int
    first: int
    attempt: int
    head_sizes: Column
    heads: Buffer
    body_bytes: int = 0

    def __len__(self) -> int:
        return len(self.head_sizes)

    @property
    def leases(self) -> range:
        """The leases of the run."""
        return range(self.lease, self.lease + len(self.head_sizes))

    def cut(self, begin: int, end: int) -> Run:
        """Return tasks [begin, end) of this run, without copying their heads."""
        if begin == 0 and end == len(self.head_sizes):
            return self
        start = sum(self.head_sizes[:begin])
        stop = start + sum(self.head_sizes[begin:end])
        return Run(
            self.lease + begin,
            self.job,
            self.first + begin,
            self.attempt,
            self.head_sizes[begin:end],
            memoryview(self.heads)[start:stop],
            self.body_bytes,
        )

    def without(self, leases: set[int]) -> Iterator[Run]:
        """Yield what is left of this run without some leases."""
        begin = 0
        for at, lease in enumerate(self.leases):
            if lease in leases:
                if at > begin:
                    yield self.cut(begin, at)
                begin = at + 1
        if begin < len(self):
            yield self.cut(begin, len(self))

    def fitting(self, tasks: int, size: int = BATCH_BYTES_MAX) -> int:
        """How many tasks from the front fit into a batch of so many tasks and bytes; at least one."""
        count = 0
        for head in self.head_sizes[:tasks]:
            size -= head
            if size < 0:
                break
            count += 1
        return max(1, count)


def runs_of(message: Assign) -> Iterator[Run]:
    """Cut an ASSIGN into runs, where each task with a body stands alone."""
    whole = Run(message.lease, message.job, message.first, message.attempt, message.head_sizes, message.heads)
    if not message.body_sizes:
        if message.head_sizes:
            yield whole
        return
    begin = 0
    for at, size in enumerate(message.body_sizes):
        if size:
            if at > begin:
                yield whole.cut(begin, at)
            single = whole.cut(at, at + 1)
            yield Run(single.lease, single.job, single.first, single.attempt, single.head_sizes, single.heads, size)
            begin = at + 1
    if begin < len(whole):
        yield whole.cut(begin, len(whole))


@dataclass(slots=True)
class Answers:
    """How leases ended, in columns. `attempts` has an entry for each lease that has a body."""

    leases: Column = field(default_factory=lambda: array("Q"))
    statuses: bytearray = field(default_factory=bytearray)
    seconds: Column = field(default_factory=lambda: array("d"))
    head_sizes: Column = field(default_factory=lambda: array("I"))
    heads: bytearray = field(default_factory=bytearray)
    bodies: dict[int, tuple[int, int]] = field(default_factory=dict)
    """lease -> (attempt, size of the body)"""

    def __len__(self) -> int:
        return len(self.leases)

    def add(self, leases: Iterable[int], statuses: Buffer, seconds: Column, head_sizes: Column, heads: Buffer) -> None:
        """Append columns."""
        self.leases.extend(leases)
        self.statuses += statuses
        self.seconds.extend(seconds)
        self.head_sizes.extend(head_sizes)
        self.heads += heads

    def full(self, tasks: int, size: int) -> bool:
        """Whether so many more tasks with so many bytes would make too large a message."""
        if not self.leases:
            return False
        return len(self.leases) + tasks > BATCH_TASKS_MAX or len(self.heads) + size > BATCH_BYTES_MAX

    def message(self) -> Result:
        """Return the RESULT that says this."""
        sizes = array("Q", [self.bodies.get(lease, (0, 0))[1] for lease in self.leases] if self.bodies else [])
        return Result(self.leases, bytes(self.statuses), self.seconds, self.head_sizes, sizes, bytes(self.heads))

    def without(self, leases: set[int]) -> Answers:
        """Return what is left without some leases."""
        rest, at = Answers(), 0
        for i, lease in enumerate(self.leases):
            size = self.head_sizes[i]
            if lease not in leases:
                rest.add(
                    (lease,),
                    self.statuses[i : i + 1],
                    self.seconds[i : i + 1],
                    self.head_sizes[i : i + 1],
                    self.heads[at : at + size],
                )
                if lease in self.bodies:
                    rest.bodies[lease] = self.bodies[lease]
            at += size
        return rest


class Shelf:
    """Answers that were sent and are not confirmed, oldest first."""

    def __init__(self) -> None:
        self._batches: list[Answers] = []

    def __iter__(self) -> Iterator[Answers]:
        return iter(self._batches)

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __contains__(self, lease: int) -> bool:
        return any(lease in batch.leases for batch in self._batches)

    @property
    def leases(self) -> Iterator[int]:
        """Every lease on the shelf."""
        return (lease for batch in self._batches for lease in batch.leases)

    def put(self, answers: Answers) -> None:
        """Keep answers until they are confirmed."""
        self._batches.append(answers)

    def clear(self) -> list[int]:
        """Forget everything; return the leases whose answers had bodies."""
        freed = [lease for batch in self._batches for lease in batch.bodies]
        self._batches.clear()
        return freed

    def confirm(self, leases: Column) -> list[int]:
        """Take answers off the shelf; return the leases whose answers had bodies."""
        for at, batch in enumerate(self._batches):
            if batch.leases == leases:  # what was sent as one is mostly confirmed as one
                del self._batches[at]
                return list(batch.bodies)
        gone = set(leases)
        freed = [lease for batch in self._batches for lease in batch.bodies if lease in gone]
        rest = (batch if gone.isdisjoint(batch.leases) else batch.without(gone) for batch in self._batches)
        self._batches = [batch for batch in rest if batch]
        return freed
