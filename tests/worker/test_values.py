"""Who gets memory for shared values, in which order, and who has to go for it."""

from __future__ import annotations

from array import array

from starcore.messages import BLOB_STREAM, FunctionKind, Job, Share
from starcore.worker.library import Library, Presence
from starcore.worker.memory import Demand, Memory
from starcore.worker.runs import Run
from starcore.worker.values import Values

MIB = 1 << 20
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


class Hall:
    """A worker's values, whose jobs need what their letters say."""

    def __init__(self, capacity: int = 10 * MIB) -> None:
        self.library, self.memory = Library(), Memory(capacity)
        self.values = Values(self.library, self.memory)
        self.running: set[int] = set()
        self._leases = 0

    def job(self, number: int, *names: bytes) -> None:
        self.library.add_job(Job(number, FunctionKind.REGISTERED, bytes(32), "m:f", shares=b"".join(names)))
        self.values.add_job(self.library.jobs[number])

    def run(self, number: int) -> bool:
        """A task of a job; whether it has to wait."""
        self._leases += 1
        run = Run(self._leases, number, 0, 1, array("I", [0]), b"")
        return self.values.park(self.library.jobs[number], run)

    def offer(self, name: bytes, size: int) -> None:
        key = BLOB_STREAM | name[0]
        self.values.offer(self.library.values[name], Share(name, key, size, b""))

    def admit(self) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """What was asked for, what went, what has memory now."""
        result = self.values.admit(lambda: set(self.running))
        for value in result.begun:
            assert self.memory.allocated(value.key, failed=False)
        self.values.check()
        self.memory.check()
        return result.wanted, [gone.value.name for gone in result.evicted], [value.name for value in result.begun]

    def whole(self, name: bytes) -> list[Run]:
        return self.values.complete(self.library.values[name])


def test_run_waits_until_every_value_of_its_job_is_whole() -> None:
    hall = Hall()
    hall.job(1, A, B)
    hall.offer(A, MIB)
    hall.offer(B, MIB)
    assert hall.run(1)
    assert hall.admit() == ([], [], [A, B])
    assert hall.whole(A) == []
    assert [run.job for run in hall.whole(B)] == [1]
    assert not hall.run(1)


def test_job_gets_memory_for_all_its_values_at_once_or_none() -> None:
    hall = Hall(8 * MIB)
    for number, names in ((1, (A, B)), (2, (B, C))):
        hall.job(number, *names)
    for name in (A, B, C):
        hall.offer(name, 4 * MIB)
    assert hall.run(1) and hall.run(2)
    assert hall.admit() == ([], [], [A, B])
    assert hall.admit() == ([], [], [])
    hall.whole(A), hall.whole(B)
    hall.running = {1}
    assert hall.admit() == ([], [], [])
    hall.running = set()
    assert hall.admit() == ([], [A], [C])


def test_evicted_value_is_asked_for_again_when_a_task_needs_it() -> None:
    hall = Hall(8 * MIB)
    hall.job(1, A)
    hall.job(2, B)
    hall.offer(A, 6 * MIB)
    hall.offer(B, 6 * MIB)
    hall.run(1), hall.admit(), hall.whole(A)
    hall.run(2)
    assert hall.admit() == ([], [A], [B])
    hall.whole(B)
    assert hall.library.values[A].presence is Presence.ABSENT
    assert hall.run(1)
    assert hall.admit() == ([A], [], [])
    assert hall.admit() == ([], [], [])
    hall.offer(A, 6 * MIB)
    assert hall.admit() == ([], [B], [A])


def test_longest_unused_value_goes_first_and_an_argument_has_its_way_too() -> None:
    hall = Hall(10 * MIB)
    for number, name in enumerate((A, B)):
        hall.job(number, name)
        hall.offer(name, 4 * MIB)
        hall.run(number), hall.admit(), hall.whole(name)
    hall.run(0)
    hall.memory.demand(Demand(5, 1, 3 * MIB))
    gone = hall.values.give_way(hall.memory.lack, set)
    assert [one.value.name for one in gone] == [B]
    assert hall.memory.lack <= 0


def test_values_larger_than_the_arena_are_refused_with_the_size() -> None:
    hall = Hall(MIB)
    hall.job(1, A)
    hall.offer(A, 2 * MIB)
    hall.run(1)
    result = hall.values.admit(set)
    ((_, text),) = result.refused
    assert text == "its put values of 2097152 bytes are larger than this worker's arena"
    assert not hall.values.waiting
