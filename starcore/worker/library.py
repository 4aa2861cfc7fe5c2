"""The jobs that a worker was told of, the blobs that their functions came in, the values that they share. Pure.

The manager sends each blob and each job once in a worker's session, so both are kept: a job until FORGET, a blob
while a job needs it and then for as long as the cache has room. What was evicted is asked for again with WANT.
What becomes of the values is decided in `values.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from starcore.messages import BLOB_STREAM, Buffer, FunctionKind, Job, share_names
from starcore.worker.runs import Run

IDLE_BLOBS_MAX = 256
IDLE_BLOB_BYTES_MAX = 64 << 20
MEAN_WEIGHT = 0.5
"""How much the newest measurement counts in a job's mean seconds."""


@dataclass(slots=True)
class Entry:
    """A job, how long its tasks take, and the runs that wait for its blob."""

    job: Job
    mean_seconds: float | None = None
    waiting: list[Run] = field(default_factory=list)
    starved: bool = False
    """Its blob came and found no memory: the next task that waits for it asks again."""
    names: tuple[bytes, ...] = ()
    """Of the values that its tasks need."""
    parked: list[Run] = field(default_factory=list)
    """Runs that wait for these; nothing was asked for their arguments yet."""

    @property
    def registered(self) -> bool:
        """Whether the function lies on this machine, and in no blob."""
        return self.job.kind is FunctionKind.REGISTERED

    def measured(self, seconds: float) -> None:
        """Learn from what a task took."""
        old = self.mean_seconds
        self.mean_seconds = seconds if old is None else old + MEAN_WEIGHT * (seconds - old)


@dataclass(slots=True)
class Volume:
    """A blob: whole in `data`, or `size` bytes in the arena under `key`."""

    digest: bytes
    size: int
    data: Buffer | None = None
    key: int = 0
    complete: bool = False
    jobs: set[int] = field(default_factory=set)


class Presence(Enum):
    """How much of a value is here; the way from one to the next stands in `values.py`."""

    ABSENT = auto()
    WANTED = auto()
    OFFERED = auto()
    COMING = auto()
    WHOLE = auto()


@dataclass(slots=True, eq=False)
class Value:
    """A shared value: its head here, its body of `size` bytes in the arena under `key`."""

    name: bytes
    size: int = 0
    head: Buffer = b""
    key: int = 0
    presence: Presence = Presence.ABSENT
    kept_bytes: int = 0
    """What came of it over a link that was lost."""
    jobs: set[int] = field(default_factory=set)


class Library:
    """Jobs by number, blobs by digest, values by name."""

    def __init__(self) -> None:
        self.jobs: dict[int, Entry] = {}
        self.volumes: dict[bytes, Volume] = {}
        self.values: dict[bytes, Value] = {}
        """The longest unused first."""
        self.doubted: set[int] = set()
        """Jobs from before this link, which the manager has not named over it yet."""

    def lacks(self, entry: Entry) -> bool:
        """Whether the job's function is not here (yet)."""
        if entry.registered:
            return False
        volume = self.volumes.get(entry.job.digest)
        return volume is None or not volume.complete

    def named(self, job: Job) -> bool:
        """The manager names a job. Whether it is known: under this number, and as the same.

        Another one has the number of one that an earlier manager told of, and had not written down when it died.
        """
        self.doubted.discard(job.job)
        known = self.jobs.get(job.job)
        return known is not None and known.job == job

    def add_job(self, job: Job) -> bool:
        """Take in a job. True where its blob is neither here nor on its way."""
        known = self.jobs.get(job.job)
        entry = self.jobs[job.job] = Entry(job, names=tuple(dict.fromkeys(share_names(job.shares))))
        if known is not None:
            entry.waiting, entry.parked = known.waiting, known.parked
        if job.kind is FunctionKind.REGISTERED:
            return False
        volume = self.volumes.pop(job.digest, None)
        if volume is None:
            return True
        self.volumes[job.digest] = volume  # the newest used stands last
        volume.jobs.add(job.job)
        return False

    def add_volume(self, volume: Volume) -> None:
        """Take in a blob, or the announcement of one."""
        volume.jobs = {number for number, entry in self.jobs.items() if entry.job.digest == volume.digest}
        self.volumes[volume.digest] = volume

    def complete(self, digest: bytes) -> list[Run]:
        """Note that a blob is whole; return the runs that waited for it."""
        volume = self.volumes[digest]
        volume.complete = True
        freed: list[Run] = []
        for number in sorted(volume.jobs):
            entry = self.jobs[number]
            freed += entry.waiting
            entry.waiting = []
        return freed

    def forget(self, number: int) -> Entry | None:
        """Forget a job."""
        entry = self.jobs.pop(number, None)
        if entry is not None and (volume := self.volumes.get(entry.job.digest)) is not None:
            volume.jobs.discard(number)
        return entry

    def evict(self) -> list[Volume]:
        """Throw out blobs that no job needs, the longest unused first, until the rest fits."""
        idle = [volume for volume in self.volumes.values() if volume.complete and not volume.jobs]
        count, size = len(idle), sum(volume.size for volume in idle)
        gone: list[Volume] = []
        for volume in idle:
            if count <= IDLE_BLOBS_MAX and size <= IDLE_BLOB_BYTES_MAX:
                break
            del self.volumes[volume.digest]
            gone.append(volume)
            count, size = count - 1, size - volume.size
        return gone

    def missing(self) -> list[bytes]:
        """Return the digests that jobs need and that are neither here nor on their way."""
        needed = {entry.job.digest for entry in self.jobs.values() if not entry.registered}
        return sorted(needed - self.volumes.keys())

    def incomplete(self, key: int = 0) -> list[Volume]:
        """Take out the blobs that will not arrive whole: the one under this key, or all where the link is gone."""
        broken = [volume for volume in self.volumes.values() if not volume.complete and key in (0, volume.key)]
        for volume in broken:
            del self.volumes[volume.digest]
        return broken

    def lose(self, key: int) -> list[Run]:
        """Take out the blob that finds no memory under this key, and the runs that wait for it."""
        runs: list[Run] = []
        for volume in self.incomplete(key):
            for number in sorted(volume.jobs):
                entry = self.jobs[number]
                runs += entry.waiting
                entry.waiting = []
                entry.starved = True
        return runs

    def check(self) -> None:
        """Assert the invariants."""
        for digest, volume in self.volumes.items():
            assert volume.digest == digest, volume
            assert volume.jobs <= self.jobs.keys(), volume
            assert volume.data is not None or volume.key & BLOB_STREAM, volume
        assert self.doubted <= self.jobs.keys(), self.doubted
        for entry in self.jobs.values():
            assert not entry.waiting or self.lacks(entry), entry
