"""The records of stored jobs: what they weigh, and how they describe themselves."""

from __future__ import annotations

from array import array

from manager.star import Star
from starcore.manager.flows import Flow
from starcore.manager.state import TASK_OVERHEAD_BYTES, Delivery, Run
from starcore.manager.stored import Keeper, StoredJob, StoreLimits, answer_weight, row, weight
from starcore.messages import Detach, Outcome


def keeper_of(star: Star) -> Keeper:
    """Detach a job that was announced with 100 bytes."""
    client = star.client(identity="mine")
    client.say(Detach(client.job().number, "scan", 2, 100, 0.0))
    return star.core._store.keepers["mine"]


def test_store_has_room_in_memory_and_in_files():
    assert StoreLimits(memory_bytes=10, spool_bytes=5).bytes == 15


def test_tasks_weigh_their_heads_their_bodies_and_an_overhead_each():
    stored = keeper_of(Star()).names["scan"]
    run = Run(stored, 1, 0, array("I", [3, 4]), array("Q", [0, 1000]), memoryview(b""), bytearray(2), 2, 2)
    assert weight(run, 0, 1) == 3 + TASK_OVERHEAD_BYTES
    assert weight(run, 0, 2) == 1007 + 2 * TASK_OVERHEAD_BYTES


def test_outcomes_weigh_as_tasks_do():
    outcome = Outcome(1, 1, 1, array("I", [0, 1]), b"\0\0", array("I", [2, 3]), array("Q"), b"abcde")
    delivery = Delivery(outcome, [], 0)
    assert answer_weight(delivery, None) == 5 + 2 * TASK_OVERHEAD_BYTES
    assert answer_weight(delivery, Flow(1000)) == 1005 + 2 * TASK_OVERHEAD_BYTES


def test_keeper_has_grown_when_it_takes_more_than_it_was_let_in_with():
    keeper = keeper_of(Star())
    stored: StoredJob = keeper.names["scan"]
    assert (keeper.stored_bytes, keeper.grown) == (100, False)
    stored.argument_bytes, stored.answer_bytes = 50, 51
    assert (keeper.stored_bytes, keeper.grown) == (101, True)


def test_row_counts_every_task_once():
    stored = keeper_of(Star()).names["scan"]
    stored.done, stored.failed = 1, 1
    described = row(stored, 5.0)
    assert described["tasks"] == 2
    assert sum(described[name] for name in ("queued", "running", "done", "failed", "cancelled")) == 2
    assert (described["accepted"], described["age_seconds"]) == (False, 5.0)
