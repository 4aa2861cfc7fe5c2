"""What tasks of this worker have in common, on its way in and out: functions' blobs, and shared values. Pure.

`Library` knows what there is, `values.py` decides which values have memory; this is the traffic that comes of it,
between manager, arena, slots and runs::

    BLOB ──▶ announced ─┬─Allocate─▶ GRANT, CHUNKs ─▶ whole ─▶ the runs that waited go on ─▶ Teach, Lend: see Bench
    SHARE ─▶ offered ───┘                              │
                                                       └─▶ evicted, or forgotten ─▶ Unteach, TakeBack, Release

The segment of a value is never used for anything else afterwards: a task's own references may outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starcore.errors import Code
from starcore.events import Action, ChunkReceived
from starcore.messages import BLOB_STREAM, Abort, Blob, Job, Message, Share, Want
from starcore.streams import Receiving
from starcore.uplink import Uplink
from starcore.worker.bench import Bench
from starcore.worker.inbox import Inbox
from starcore.worker.library import Entry, Library, Presence, Value, Volume
from starcore.worker.memory import Demand, Memory
from starcore.worker.orders import Allocate, Allocated, Release
from starcore.worker.runs import Run
from starcore.worker.values import Evicted, Values

ATTEMPT = 1
"""On one link none of these streams is tried again under its number."""


class Custody:
    """Every blob and every shared value of this worker.

    Parameters
    ----------
    library, memory, bench, inbox, uplink
        The worker's.
    act, send, go_on, refuse : callable
        Take an action, a message to the manager, a run whose values are whole, and one that gets none, with the reason.
    """

    def __init__(
        self,
        library: Library,
        memory: Memory,
        bench: Bench,
        inbox: Inbox,
        uplink: Uplink,
        *,
        act: Callable[[Action], None],
        send: Callable[[Message], None],
        go_on: Callable[[Run], None],
        refuse: Callable[[Run, str], None],
    ) -> None:
        self._library = library
        self._memory = memory
        self._bench = bench
        self._inbox = inbox
        self._uplink = uplink
        self._act = act
        self._send = send
        self._go_on = go_on
        self._refuse = refuse
        self._values = Values(library, memory)
        self.line = self._values.line
        """Jobs with runs that wait for memory for a value."""
        self._receiving = Receiving()

    # -- jobs and runs ---------------------------------------------------------------------------------------

    def add_job(self, job: Job) -> None:
        """A job was announced."""
        if self._library.add_job(job):
            self._send(Want(job.digest))
        self._values.add_job(self._library.jobs[job.job])

    def forget_job(self, number: int) -> None:
        """A job is over, and with it the values that no other one needs, and functions beyond the cache."""
        entry = self._library.forget(number)
        if entry is None:
            return
        for value in self._values.forget_job(entry):
            self._take_back(value, (entry,))
            self._drop(value)
        self._act_all(self._bench.unteach(job=number))
        for volume in self._library.evict():
            self._act_all(self._bench.unteach(digest=volume.digest))
            self._act_all(self._memory.release(volume.key))

    def park(self, entry: Entry, run: Run) -> bool:
        """Let a run wait for its values; False where all are here."""
        return bool(entry.names) and self._values.park(entry, run)

    def admit(self) -> None:
        """Give memory to values; and where an argument lacks some, take it from those that nobody uses."""
        if self._values.waiting and self._uplink.up:
            result = self._values.admit(self._in_use)
            for name in result.wanted:
                self._send(Want(name))
            self._evict(result.evicted)
            for value in result.begun:
                self._act(Allocate(value.key, ATTEMPT, value.size))
            for run, text in result.refused:
                self._refuse(run, text)
        if self._memory.lack > 0:
            self._evict(self._values.give_way(self._memory.lack, self._in_use))

    # -- what comes in ---------------------------------------------------------------------------------------

    def announced(self, message: Blob) -> None:
        """The manager has a function."""
        known = self._library.volumes.get(message.digest)
        if known is not None and known.complete:
            if message.body_bytes:
                self._send(Abort(message.stream, ATTEMPT, Code.NORMAL, "this blob is here"))
            return
        if known is not None:  # announced anew, so the old stream will bring nothing more
            self._lose([known])
        if not message.body_bytes:
            self._library.add_volume(Volume(message.digest, len(message.head), bytes(message.head)))
            self._inbox.ready.extend(self._library.complete(message.digest))
            return
        self._library.add_volume(Volume(message.digest, message.body_bytes, key=message.stream))
        self._receiving.open(message.stream, ATTEMPT, message.body_bytes)
        self._memory.demand(Demand(message.stream, ATTEMPT, message.body_bytes), first=True)

    def offered(self, message: Share) -> None:
        """The manager has a value, or can have it."""
        value = self._library.values.setdefault(message.name, Value(message.name))
        if value.presence is Presence.WHOLE:
            if message.body_bytes:
                self._send(Abort(message.stream, ATTEMPT, Code.NORMAL, "this value is here"))
            return
        if value.kept_bytes and (value.key, value.size) == (message.stream, message.body_bytes):
            self._receiving.resume(value.key, ATTEMPT, value.size, self._values.resume(value))
            self._grant(value.key)
            return
        self._drop(value)
        self._values.offer(value, message)
        if message.body_bytes:
            self._receiving.open(message.stream, ATTEMPT, message.body_bytes)
        else:
            self._complete(value)

    def allocated(self, event: Allocated) -> bool:
        """Memory was made, or not. False where it was for an argument."""
        key = event.key
        if not key & BLOB_STREAM:
            return False
        if not event.reason:
            if self._uplink.up and key in self._receiving:
                self._grant(key)
            return True
        if self._uplink.up and key in self._receiving:  # else the manager takes it to be on its way for ever
            self._send(Abort(key, ATTEMPT, Code.GONE, f"no memory for it: {event.reason}"))
        self._receiving.close(key)
        value = self._values.get(key)
        runs = self._library.lose(key) if value is None else self._values.refuse(value)
        for run in runs:
            self._act_all(self._memory.release(run.lease))
            self._refuse(run, f"no memory for its {'function' if value is None else 'put values'}: {event.reason}")
        return True

    def chunk(self, event: ChunkReceived) -> None:
        """A piece came."""
        key = event.stream
        taken = self._receiving.take(key, event.attempt, event.offset, event.length)
        if not taken or not self._receiving.complete(key):
            return
        self._receiving.close(key)
        value = self._values.get(key)
        if value is not None:
            self._complete(value)
        else:
            volume = next(volume for volume in self._library.volumes.values() if volume.key == key)
            self._inbox.ready.extend(self._library.complete(volume.digest))

    def aborted(self, stream: int) -> None:
        """The manager has let go of it; a job that comes later asks for it anew."""
        value = self._values.get(stream)
        if value is None:
            self._lose(self._library.incomplete(stream))
        elif value.presence is not Presence.WHOLE:
            self._drop(value)

    def open_link(self) -> None:
        """A new link stands: functions that are missing are asked for; values when their turn in the line comes."""
        for digest in self._library.missing():
            self._send(Want(digest))

    def leave_link(self) -> None:
        """The link is lost. What has come of a value is kept, and goes on over the next one."""
        self._lose(self._library.incomplete())
        for value in self._library.values.values():
            position = self._receiving.position(value.key) if value.key in self._receiving else 0
            self._receiving.close(value.key)
            if not self._values.halt(value, position) and value.presence is not Presence.WHOLE:
                self._drop(value)

    def clear(self) -> None:
        """A manager that does not know this session: what it has not named in a job goes, too."""
        for value in list(self._library.values.values()):
            del self._library.values[value.name]
            self._drop(value)

    @property
    def keys(self) -> set[int]:
        """Under which memory is accounted to blobs and values."""
        volumes = {volume.key for volume in self._library.volumes.values()}
        return volumes | {value.key for value in self._library.values.values()}

    def check(self) -> None:
        """Assert the invariants."""
        self._values.check()
        self._receiving.check()
        assert all(self._values.get(value.key) is value for value in self._library.values.values() if value.key)

    # -- private ---------------------------------------------------------------------------------------------

    def _in_use(self) -> set[int]:
        return self._inbox.jobs() | self._bench.jobs()

    def _grant(self, key: int) -> None:
        if self._memory.holds(key) and (grant := self._receiving.grant(key, self._memory.size(key))) is not None:
            self._send(grant)

    def _lose(self, volumes: Iterable[Volume]) -> None:
        for volume in volumes:
            self._receiving.close(volume.key)
            self._act_all(self._memory.release(volume.key))

    def _complete(self, value: Value) -> None:
        for run in self._values.complete(value):
            self._go_on(run)

    def _drop(self, value: Value) -> None:
        """Nothing of it stays, wherever it was."""
        if value.key:
            self._receiving.close(value.key)
            self._act_all(self._memory.release(value.key, kept=True))
        self._values.lose(value)

    def _evict(self, gone: Iterable[Evicted]) -> None:
        for one in gone:
            self._take_back(one.value, (self._library.jobs[number] for number in sorted(one.value.jobs)))
            self._receiving.close(one.key)
            if one.coming and self._uplink.up:
                self._send(Abort(one.key, ATTEMPT, Code.GONE, "its memory is needed for another one"))
            self._act(Release(one.key, kept=True))

    def _take_back(self, value: Value, entries: Iterable[Entry]) -> None:
        self._act_all(self._bench.take_back(value.name, [entry.job for entry in entries]))

    def _act_all(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._act(action)
