"""The bench: who is given what, who is started again and when, who is looked at."""

from __future__ import annotations

from array import array
from collections import deque

import pytest

from starcore.events import Log
from starcore.messages import FunctionKind, Job
from starcore.worker.bench import RESTART_SECONDS_MAX, Bench
from starcore.worker.library import Library
from starcore.worker.orders import (
    Inspect,
    Inspected,
    KillSlot,
    Recall,
    RunBatch,
    SlotDied,
    SlotDone,
    StartSlot,
    Swollen,
    Teach,
    Unteach,
)
from starcore.worker.runs import Run
from starcore.worker.slots import SlotState, Why


def run(lease: int, count: int = 1, job: int = 1) -> Run:
    return Run(lease, job, lease, 1, array("I", [1] * count), b"x" * count)


@pytest.fixture
def bench() -> Bench:
    """Two slots that are ready, and job 1 whose tasks take a millisecond."""
    library = Library()
    library.add_job(Job(1, FunctionKind.REGISTERED, bytes(32), "lab:fit"))
    library.jobs[1].mean_seconds = 1e-3
    found = Bench(2, library)
    assert found.start(0.0) == [StartSlot(0), StartSlot(1)]
    found.ready(0, 100)
    found.ready(1, 101)
    return found


def batches(actions: list[object]) -> list[tuple[int, int]]:
    return [(action.slot, len(action.run)) for action in actions if isinstance(action, RunBatch)]


def test_work_is_shared_equally(bench: Bench) -> None:
    actions = bench.feed(deque([run(10, 4)]), 0.0)
    assert batches(actions) == [(0, 2), (1, 1), (1, 1)]
    assert sum(isinstance(action, Teach) for action in actions) == 2
    bench.check()


def test_a_slot_that_dies_at_once_again_and_again_is_started_less_and_less_often(bench: Bench) -> None:
    pauses = []
    now = 0.0
    for _ in range(10):
        _, actions = bench.died(SlotDied(0, "SIGKILL"), now)
        before = now
        while StartSlot(0) not in actions:
            at = bench.deadline()
            assert at is not None
            now = at
            actions = bench.tick(now)
        pauses.append(round(now - before, 6))
        bench.check()
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses[-1] == RESTART_SECONDS_MAX


def test_work_done_is_a_reason_to_trust_a_slot_again(bench: Bench) -> None:
    for _ in range(3):
        bench.died(SlotDied(0, "SIGKILL"), 0.0)
        bench.tick(100.0)
        bench.ready(0, 100)
        (give,) = [a for a in bench.feed(deque([run(10)]), 0.0) if isinstance(a, RunBatch)]
        slot = bench.slots[give.slot]
        batch = slot.batch(give.batch)
        assert batch is not None
        done = SlotDone(give.slot, give.batch, 0, b"\0", array("d", [1e-3]), array("I", [0]), b"")
        bench.done(slot, batch, done, 0.0)
    assert bench.slots[0].failures <= 1


def test_a_closed_bench_starts_nobody(bench: Bench) -> None:
    bench.close()
    _, actions = bench.died(SlotDied(0, "SIGKILL"), 0.0)
    assert [type(action) for action in actions] == [Log]
    assert bench.slots[0].state is SlotState.DOWN


def test_a_busy_slot_is_looked_at_after_a_while(bench: Bench) -> None:
    bench.feed(deque([run(10)]), 5.0)
    assert bench.deadline() == 5.05
    assert bench.tick(5.04) == []
    assert bench.tick(5.05) == [Inspect(0)]


def test_a_slot_is_recalled_once_at_a_time(bench: Bench) -> None:
    bench.feed(deque([run(10, 4)]), 0.0)
    slot = bench.slots[0]
    assert bench.recall(slot) == [Recall(0, 1)]
    assert bench.recall(slot) == []
    assert not slot.usable
    found = bench.inspected(slot, Inspected(0, 1, 1, True, 0.0, 1), 0.0)
    assert [list(one.leases) for one in found.back] == [[11]]
    assert slot.usable


def test_a_killed_slot_has_one_reason_and_dropping_overrides_nothing_later(bench: Bench) -> None:
    slot = bench.slots[0]
    bench.feed(deque([run(10)]), 0.0)
    assert bench.kill(slot, Why.DROPPED, text="dropped") == [KillSlot(0, "dropped")]
    assert bench.kill(slot, Why.TIMEOUT, 10, "late") == []
    assert bench.dropped() == {10}
    assert list(bench.leases()) == []
    _, (log, start) = bench.died(SlotDied(0, "SIGKILL", 1, 1, True), 0.0)
    assert log == Log("info", "slot 0 (pid 100) was ended: dropped")
    assert start == StartSlot(0)


def test_an_obituary_names_the_task(bench: Bench) -> None:
    bench.feed(deque([run(10)]), 0.0)
    _, (log, _) = bench.died(SlotDied(0, "SIGSEGV", 1, 1, True), 0.0)
    assert log.text == "slot 0 (pid 100) ended by SIGSEGV while it ran task m1/10; another one starts"


def test_an_obituary_ends_with_the_last_stack(bench: Bench) -> None:
    bench.feed(deque([run(10)]), 0.0)
    _, (log, _) = bench.died(SlotDied(0, "SIGSEGV", 1, 1, True, "9 MiB", "  File f"), 0.0)
    assert log.text.endswith("; peak memory of its slot 9 MiB\nlast stack, most recent call first:\n  File f")


def test_a_slot_that_is_idle_and_has_too_much_memory_is_started_anew_at_nobodys_cost(bench: Bench) -> None:
    slot = bench.slots[0]
    assert bench.swollen(Swollen(0, 5 << 30, 4 << 30)) == []  # it began like this: another one would too
    bench.feed(deque([run(10)]), 0.0)
    slot.batches.clear()
    (kill,) = bench.swollen(Swollen(0, 5 << 30, 4 << 30))
    assert kill == KillSlot(0, "its tasks left 5.0 GiB behind, more than its 4.0 GiB")
    assert bench.swollen(Swollen(0, 5 << 30, 4 << 30)) == []


def test_only_slots_that_know_a_job_forget_it(bench: Bench) -> None:
    bench.feed(deque([run(10)]), 0.0)
    assert bench.unteach(job=1) == [Unteach(0, 1)]
    assert bench.unteach(job=1) == []
