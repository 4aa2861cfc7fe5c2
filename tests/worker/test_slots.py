"""A slot's states, its batches, what it leaves when it dies, and how much it is given ahead."""

from __future__ import annotations

import math
from array import array
from itertools import product

import pytest

from starcore.errors import Status
from starcore.worker.runs import Run
from starcore.worker.slots import FATAL, TRANSITIONS, End, Remains, Slot, SlotState, Turn, Why, batch_tasks


def run(lease: int, count: int = 1, body: int = 0) -> Run:
    return Run(lease, 1, lease, 1, array("I", [1] * count), b"x" * count, body)


def leases(runs: list[Run]) -> list[list[int]]:
    return [list(one.leases) for one in runs]


@pytest.mark.parametrize(("state", "turn"), list(product(SlotState, Turn)))
def test_the_table_says_all(state: SlotState, turn: Turn) -> None:
    slot = Slot(0, state)
    if (state, turn) in TRANSITIONS:
        slot.turn(turn)
        assert slot.state is TRANSITIONS[state, turn]
    else:
        with pytest.raises(KeyError):
            slot.turn(turn)


def test_a_recall_takes_back_what_the_board_does_not_show() -> None:
    slot = Slot(0)
    slot.give(run(10, 4))
    slot.give(run(20, 2))
    slot.batches[0].done = 1
    assert leases(slot.take_back(1, 2, 2)) == [[12, 13], [20, 21]]
    assert list(slot.leases) == [11]


def test_a_recall_of_a_batch_that_was_not_begun_takes_all_of_it() -> None:
    slot = Slot(0)
    slot.give(run(10, 2))
    assert leases(slot.take_back(0, 0, 1)) == [[10, 11]]
    assert not slot.batches


def test_what_was_given_after_the_recall_stays() -> None:
    slot = Slot(0)
    slot.give(run(10, 2))
    slot.give(run(20, 2))
    assert leases(slot.take_back(0, 0, 1)) == [[10, 11]]
    assert list(slot.leases) == [20, 21]


def test_a_withdrawn_task_is_cut_off() -> None:
    slot = Slot(0)
    slot.give(run(10, 3))
    slot.wanted = {12: True, 99: False}
    back, asked = slot.withdraw(1, 1)
    assert leases(back) == [[11, 12]]
    assert asked == {12}
    assert slot.wanted == {99: False}
    assert slot.withdraw(1, 1) == ([], set())
    assert slot.withdraw(9, 0) == ([], set())


def test_the_dead_leave_what_ran_what_may_have_run_and_what_did_not() -> None:
    slot = Slot(0)
    for batch in (run(10, 2), run(20, 4), run(30, 2)):
        slot.give(batch)
    slot.batches[0].done = 1
    remains = slot.died(2, 2, True)
    assert remains.running is not None
    assert list(remains.running.leases) == [21]
    assert leases(remains.touched) == [[11], [20]]
    assert leases(remains.untouched) == [[22, 23], [30, 31]]
    assert (slot.tasks, slot.last_batch) == (0, 0)


@pytest.mark.parametrize(
    ("end", "body", "fate"),
    [
        (None, 0, "answered"),
        (None, 9, "answered"),
        (End(Why.TIMEOUT, 10, "late"), 0, "answered"),
        (End(Why.TIMEOUT, 99, "late"), 0, "again"),
        (End(Why.TIMEOUT, 99, "late"), 9, "given"),
        (End(Why.MEMORY, 0, "large"), 0, "answered"),
        (End(Why.MEMORY, 0, "large"), 9, "answered"),
        (End(Why.CANCELLED, 10), 0, "given"),
        (End(Why.CANCELLED, 99), 0, "again"),
        (End(Why.STOPPED), 0, "given"),
    ],
)
def test_the_verdict_on_what_ran(end: End | None, body: int, fate: str) -> None:
    running = run(10, body=body)
    verdict = Remains(running).judge(end, "SIGSEGV")
    found = {"answered": [verdict.answered], "given": verdict.given, "again": verdict.again}
    assert found.pop(fate) == [running]
    assert list(found.values()) in ([[None], []], [[], []])
    if fate == "answered":
        assert verdict.status == (Status.CRASHED if end is None else FATAL[end.why])


@pytest.mark.parametrize(
    ("expected", "mean", "batches", "share", "tasks"),
    [
        (0.0, None, 0, 100, 1),
        (0.0, None, 1, 100, 0),
        (0.0, 1e-6, 0, 1000, 256),
        (0.0, 1e-6, 0, 10, 10),
        (0.0, 1e-3, 0, 1000, 5),
        (0.004, 1e-3, 1, 1000, 1),
        (0.0, 10.0, 0, 1000, 1),
        (10.0, 10.0, 1, 1000, 0),
        (math.inf, 1e-6, 1, 1000, 0),
        (0.001, 1e-6, 2, 1000, 0),
    ],
)
def test_how_much_is_given_ahead(expected: float, mean: float | None, batches: int, share: int, tasks: int) -> None:
    assert batch_tasks(expected, mean, batches, share) == tasks
