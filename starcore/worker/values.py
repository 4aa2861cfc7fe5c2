"""The shared values at a worker: which have memory, which must go for others, which tasks wait for them. Pure.

::

    ABSENT ──WANT──▶ WANTED ──SHARE──▶ OFFERED ──memory for all that the job needs──▶ COMING ──last chunk──▶ WHOLE
       ▲                                  │                                             │                      │
       └──────────── the link is lost ────┴── (what came is kept, and goes on) ─────────┘◀── evicted ──────────┘

A job's tasks are *parked* until all its values are whole, before memory is asked for their arguments: so whatever
fills the arena can run and be gone. Jobs that need memory stand in line, and the first gets it for all its values at
once: two jobs that each wait for what the other one has cannot be. Who needs memory takes it from the values that
nobody here uses now, the longest unused first; such a value is asked for again when a task needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starcore.messages import BLOB_STREAM, Share
from starcore.worker.library import Entry, Library, Presence, Value
from starcore.worker.memory import Memory
from starcore.worker.runs import Run, segment_bytes


@dataclass(slots=True)
class Evicted:
    """A value that had to go, and where it lay; `coming`: its stream goes on unless it is aborted."""

    value: Value
    key: int
    coming: bool


@dataclass(slots=True)
class Admission:
    """What the line came to."""

    wanted: list[bytes] = field(default_factory=list)
    """Names to be asked for."""
    evicted: list[Evicted] = field(default_factory=list)
    begun: list[Value] = field(default_factory=list)
    """Values that have been promised memory."""
    refused: list[tuple[Run, str]] = field(default_factory=list)


class Values:
    """The decisions; the records are the library's."""

    def __init__(self, library: Library, memory: Memory) -> None:
        self._jobs = library.jobs
        self._values = library.values
        self._memory = memory
        self.line: dict[int, None] = {}
        """Jobs with parked runs whose values have no memory yet."""

    @property
    def waiting(self) -> bool:
        """Whether anybody stands in line."""
        return bool(self.line)

    # -- jobs and their runs ---------------------------------------------------------------------------------

    def add_job(self, entry: Entry) -> None:
        """A job was announced."""
        for name in entry.names:
            value = self._values.pop(name, None) or Value(name)
            value.jobs.add(entry.job.job)
            self._values[name] = value

    def forget_job(self, entry: Entry) -> list[Value]:
        """A job is over; return the values that no other one needs, all of which go."""
        gone = []
        for name in entry.names:
            value = self._values[name]
            value.jobs.discard(entry.job.job)
            if not value.jobs:
                gone.append(self._values.pop(name))
        self.line.pop(entry.job.job, None)
        return gone

    def park(self, entry: Entry, run: Run) -> bool:
        """Let a run wait if a value of its job is not whole; False where it need not."""
        for name in entry.names:
            self._values[name] = self._values.pop(name)  # the latest used stands last
        if not self._lacks(entry):
            return False
        if not entry.parked:
            self.line[entry.job.job] = None
        entry.parked.append(run)
        return True

    # -- values ----------------------------------------------------------------------------------------------

    def get(self, key: int) -> Value | None:
        """Return the value whose bytes come, or lie, under this key."""
        if not key & BLOB_STREAM:
            return None
        return next((value for value in self._values.values() if value.key == key), None)

    def offer(self, value: Value, message: Share) -> None:
        """It can be pulled; what was known of it before is void."""
        value.size, value.head, value.kept_bytes = message.body_bytes, message.head, 0
        value.key = message.stream if message.body_bytes else 0
        value.presence = Presence.OFFERED
        self._line_up(value)

    def resume(self, value: Value) -> int:
        """Its bytes go on coming where they stopped; return how many are here."""
        at, value.kept_bytes = value.kept_bytes, 0
        value.presence = Presence.COMING
        return at

    def complete(self, value: Value) -> list[Run]:
        """It is whole; return the runs that waited for nothing else."""
        value.presence = Presence.WHOLE
        freed: list[Run] = []
        for number in sorted(value.jobs):
            entry = self._jobs[number]
            if entry.parked and not self._lacks(entry):
                freed += entry.parked
                entry.parked = []
                self.line.pop(number, None)
        return freed

    def halt(self, value: Value, position: int) -> bool:
        """The link is lost: it has to be asked for anew. Whether its memory, with what has come, is kept."""
        if value.presence is Presence.COMING:
            value.kept_bytes = position
        if value.presence is not Presence.WHOLE:
            value.presence = Presence.ABSENT
            self._line_up(value)
        return value.kept_bytes > 0

    def lose(self, value: Value) -> None:
        """Its memory and its stream are gone."""
        value.presence, value.kept_bytes, value.key = Presence.ABSENT, 0, 0
        self._line_up(value)

    def refuse(self, value: Value) -> list[Run]:
        """Take out the runs that wait for it in vain."""
        self.lose(value)
        runs: list[Run] = []
        for number in sorted(value.jobs):
            entry = self._jobs[number]
            runs += entry.parked
            entry.parked = []
            self.line.pop(number, None)
        return runs

    # -- memory ----------------------------------------------------------------------------------------------

    def admit(self, in_use: Callable[[], set[int]]) -> Admission:
        """Let the line advance as far as there is memory. `in_use`: the jobs whose runs may run now."""
        result = Admission()
        while self.line:
            number = next(iter(self.line))
            entry = self._jobs[number]
            if entry.parked and not self._advance(entry, in_use, result):
                break
            del self.line[number]
        return result

    def give_way(self, size: int, in_use: Callable[[], set[int]]) -> list[Evicted]:
        """Evict what nobody uses, as far as an argument needs these bytes."""
        return self._evict(self._victims((), in_use), size) if size > 0 and self._values else []

    def _advance(self, entry: Entry, in_use: Callable[[], set[int]], result: Admission) -> bool:
        """Take the first of the line; False where it has to wait."""
        needs = [self._values[name] for name in entry.names]
        for value in needs:
            if value.presence is Presence.ABSENT:
                value.presence = Presence.WANTED
                result.wanted.append(value.name)
        if any(value.presence is Presence.WANTED for value in needs):
            return False
        total = sum(value.size for value in needs)
        if total > self._memory.capacity:
            text = f"its put values of {total} bytes are larger than this worker's arena"
            result.refused += [(run, text) for run in entry.parked]
            entry.parked = []
            return True
        missing = [value for value in needs if value.presence is Presence.OFFERED]
        if missing and not self._make_room(missing, needs, in_use, result):
            return False
        for value in missing:
            value.presence = Presence.COMING
            self._memory.promise(value.key, value.size)
        result.begun += missing
        return True

    def _make_room(
        self, missing: list[Value], needs: list[Value], in_use: Callable[[], set[int]], result: Admission
    ) -> bool:
        excess = self._memory.used + sum(segment_bytes(value.size) for value in missing) - self._memory.capacity
        if excess <= 0:
            return True
        victims = self._victims(needs, in_use)
        spare = sum(self._memory.size(value.key) for value in victims)
        if excess > spare and not self._alone(needs, victims):
            return False
        result.evicted += self._evict(victims, excess)
        return True

    def _evict(self, victims: list[Value], size: int) -> list[Evicted]:
        """Take memory from as many of these as make up for so many bytes."""
        gone: list[Evicted] = []
        for value in victims:
            if size <= 0:
                break
            size -= self._memory.size(value.key)
            self._memory.expel(value.key)
            gone.append(Evicted(value, value.key, value.presence is Presence.COMING))
            self.lose(value)
        return gone

    def _victims(self, needs: Iterable[Value], in_use: Callable[[], set[int]]) -> list[Value]:
        """The values with memory that no run needs now, the longest unused first."""
        jobs = in_use()
        jobs.update(number for number, entry in self._jobs.items() if entry.parked and number not in self.line)
        protected = {name for number in jobs if number in self._jobs for name in self._jobs[number].names}
        protected.update(value.name for value in needs)
        return [
            value
            for value in self._values.values()
            if value.name not in protected and self._memory.size(value.key) and self._memory.holds(value.key)
        ]

    def _alone(self, needs: Iterable[Value], victims: Iterable[Value]) -> bool:
        """Whether nothing would be left in memory but functions, and what these jobs need."""
        counted = {value.name for value in (*needs, *victims)}
        others = any(self._memory.size(value.key) for value in self._values.values() if value.name not in counted)
        return not others and not self._memory.busy

    def _lacks(self, entry: Entry) -> bool:
        return any(self._values[name].presence is not Presence.WHOLE for name in entry.names)

    def _line_up(self, value: Value) -> None:
        for number in sorted(value.jobs):
            if self._jobs[number].parked:
                self.line[number] = None

    def check(self) -> None:
        """Assert the invariants."""
        for name, value in self._values.items():
            assert value.name == name
            assert value.jobs <= self._jobs.keys(), value.jobs
            held = self._memory.size(value.key) if value.key else 0
            coming = value.presence is Presence.COMING or value.kept_bytes > 0
            assert bool(held) == (bool(value.size) and (coming or value.presence is Presence.WHOLE)), value
        for number, entry in self._jobs.items():
            assert not entry.parked or self._lacks(entry), number

