"""The accounts of the arena."""

from __future__ import annotations

from starcore.messages import BLOB_STREAM
from starcore.worker.memory import PASSED_MAX, Demand, Memory
from starcore.worker.orders import Allocate, Release

MIB = 1 << 20


def memory(*sizes: int, capacity: int = 8 * MIB) -> Memory:
    found = Memory(capacity)
    for key, size in enumerate(sizes, start=1):
        found.demand(Demand(key, 1, size))
    return found


def admitted(found: Memory) -> list[int]:
    keys = [action.key for action in found.admit() if isinstance(action, Allocate)]
    found.check()
    return keys


def test_who_fits_is_admitted_and_small_ones_pass() -> None:
    found = memory(4 * MIB, 6 * MIB, MIB)
    assert admitted(found) == [1, 3]
    assert found.used == 5 * MIB
    assert found.release(1) == [Release(1)]
    assert admitted(found) == [2]


def test_a_large_one_is_not_passed_for_ever() -> None:
    found = memory(MIB, 8 * MIB)
    assert admitted(found) == [1]
    for key in range(10, 10 + PASSED_MAX):
        found.demand(Demand(key, 1, 1))
        assert admitted(found) == [key]
        found.release(key)
    found.demand(Demand(500, 1, 1))
    assert admitted(found) == []
    found.release(1)
    assert admitted(found)[0] == 2


def test_one_that_is_alone_always_fits() -> None:
    found = Memory(MIB)
    found.demand(Demand(BLOB_STREAM | 1, 1, MIB), first=True)
    found.demand(Demand(7, 1, MIB - 1))
    assert admitted(found) == [BLOB_STREAM | 1, 7]


def test_answers_count_until_they_are_released() -> None:
    found = memory(MIB, capacity=2 * MIB)
    found.keep_answer(9, 2 * MIB)
    assert admitted(found) == []
    assert found.release_answer(9)
    assert not found.release_answer(9)
    assert admitted(found) == [1]


def test_a_failed_allocation_is_tried_again_when_something_came_back() -> None:
    found = memory(MIB, MIB)
    assert admitted(found) == [1, 2]
    assert found.allocated(1, failed=False)
    assert not found.allocated(2, failed=True)
    assert admitted(found) == []
    found.release(1)
    assert admitted(found) == [2]
    assert found.allocated(2, failed=True)
    assert found.used == 0


def test_a_function_waits_for_no_argument() -> None:
    """The arguments that fill the arena may wait for just this function."""
    found = memory(8 * MIB, MIB)
    assert admitted(found) == [1]
    found.demand(Demand(BLOB_STREAM | 1, 1, MIB), first=True)
    assert admitted(found) == [BLOB_STREAM | 1]
    assert found.allocated(BLOB_STREAM | 1, failed=True), "and where the machine has none, it is told at once"
    assert found.keys() == {1, 2}


def test_an_allocation_that_fails_beside_nothing_but_functions_has_failed() -> None:
    """They stay as long as their jobs do, so to wait for them would be to wait for ever."""
    found = Memory(8 * MIB)
    found.demand(Demand(BLOB_STREAM | 1, 1, MIB), first=True)
    found.demand(Demand(7, 1, MIB))
    assert admitted(found) == [BLOB_STREAM | 1, 7]
    assert found.allocated(BLOB_STREAM | 1, failed=False)
    assert found.allocated(7, failed=True)
    assert found.keys() == {BLOB_STREAM | 1}


def test_the_last_of_several_that_fail_together_lets_the_others_try() -> None:
    found = memory(MIB, MIB)
    assert admitted(found) == [1, 2]
    assert not found.allocated(2, failed=True), "for the first may come back"
    assert found.allocated(1, failed=True)
    assert admitted(found) == [2]
    assert found.allocated(2, failed=True)
    assert found.keys() == set()


def test_an_allocation_that_nobody_waits_for_any_more_is_passed_over() -> None:
    found = memory(MIB, MIB)
    admitted(found)
    found.release(1)
    assert not found.allocated(1, failed=False)
    assert not found.holds(1)


def test_a_demand_can_be_withdrawn() -> None:
    found = memory(8 * MIB, 8 * MIB)
    admitted(found)
    assert found.release(2) == []
    assert found.keys() == {1}
