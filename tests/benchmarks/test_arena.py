"""The benchmark of the way to a slot runs small, and leaves nothing behind."""

from __future__ import annotations

import os

import psutil

from benchmarks import arena


def test_what_a_slot_adds_is_measured_and_its_process_ends() -> None:
    descriptors, children = len(os.listdir("/proc/self/fd")), psutil.Process().children()
    (row,) = arena.run(quick=True, payload_bytes=1 << 20, tasks=2)
    assert (row.measure, row.contender, row.unit, row.rounds) == (arena.ADDED, "star", "ms", arena.ROUNDS_QUICK)
    assert row.answers
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children() == children


def test_only_the_star_has_slots() -> None:
    assert arena.run(names=["limit", "pool"]) == []
