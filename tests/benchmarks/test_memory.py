"""The benchmark of memory runs small, and its meters see what is there."""

from __future__ import annotations

import mmap
import os

import numpy as np

from benchmarks import memory


def test_memory_of_every_role_is_watched_while_arrays_pass() -> None:
    made = memory.run(names=("star", "limit", "pool"), payload_bytes=1 << 20, count=2)
    assert [(row.measure, row.contender) for row in made] == [
        (measure, name) for measure in memory.MEASURES for name in ("star", "limit")
    ]
    assert all(row.unit == "MiB" and row.value >= 0 for row in made)
    assert len({row.answers for row in made}) == 1


def test_the_most_is_seen_while_it_lasts() -> None:
    own = {"client": [os.getpid()]}
    before = memory.resident_mib(own["client"])
    with memory.watched(own) as most:
        # Not from the allocator, which may have as much from earlier tests.
        block = np.frombuffer(mmap.mmap(-1, 32 << 20), np.uint8)
        block[:] = 1
        during = memory.resident_mib(own["client"])
        while most["client"] < during - 1:
            assert block[-1] == 1
        del block
    assert during > before + 24
    assert most["client"] > before + 24


def test_the_proportional_set_is_no_more_than_the_resident_one() -> None:
    own = [os.getpid()]
    assert 0 < memory.proportional_mib(own) <= memory.resident_mib(own) * 1.05
