"""Leases that are in no slot."""

from __future__ import annotations

from array import array

from starcore.messages import FunctionKind, Job
from starcore.worker.inbox import Inbox
from starcore.worker.library import Library
from starcore.worker.runs import Run


def run(lease: int, count: int = 1, job: int = 1) -> Run:
    return Run(lease, job, lease, 1, array("I", [1] * count), b"x" * count)


def inbox() -> Inbox:
    """A ready run, a waiting one and an arriving one."""
    library = Library()
    library.add_job(Job(1, FunctionKind.REGISTERED, bytes(32), ""))
    library.add_job(Job(2, FunctionKind.SHIPPED, b"d" * 32, "fn"))
    found = Inbox(library)
    found.add(run(10, 3))
    found.add(run(20, 2, job=2))
    found.arriving[30] = run(30)
    return found


def leases(found: Inbox) -> list[int]:
    return [lease for one in found for lease in one.leases]


def test_a_run_whose_blob_is_missing_waits() -> None:
    assert [list(one.leases) for one in inbox().ready] == [[10, 11, 12]]


def test_leases_are_picked_from_every_place() -> None:
    found = inbox()
    picked = sorted(lease for one in found.pick({11, 20, 30, 99}) for lease in one.leases)
    assert picked == [11, 20, 30]
    assert leases(found) == [10, 12, 21]


def test_what_comes_back_stands_in_front() -> None:
    found = inbox()
    found.put_back([run(1), run(2)])
    assert leases(found)[:3] == [1, 2, 10]


def test_all_leases_of_a_job() -> None:
    assert inbox().of_job(2) == {20, 21}
    assert inbox().of_job(1) == {10, 11, 12, 30}


def test_everything_can_be_taken() -> None:
    found = inbox()
    assert sum(len(one) for one in found.take_all()) == 6
    assert leases(found) == []
