"""The limit carries arrays of every size there and back, and leaves no process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import psutil
import pytest

from benchmarks.limit import JOINED_BYTES_MAX, PIECE_BYTES, LimitStar, variants
from benchmarks.tasks import check, inputs


@pytest.fixture(scope="module")
def limit() -> Iterator[LimitStar]:
    with LimitStar() as running:
        yield running


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    "payload_bytes",
    [8, 8192, JOINED_BYTES_MAX, JOINED_BYTES_MAX + 8, PIECE_BYTES - 8, PIECE_BYTES, 3 * PIECE_BYTES + 8],
)
def test_arrays_go_there_and_back(limit: LimitStar, payload_bytes: int, depth: int) -> None:
    arrays = inputs(5, payload_bytes)
    check(arrays, limit.arrays(arrays, depth))


def test_a_round_trip_gives_the_value_back(limit: LimitStar) -> None:
    assert [limit.round_trip(value) for value in range(5)] == [0, 1, 2, 3, 4]


def test_the_limit_is_three_processes_that_end_with_it() -> None:
    with LimitStar() as running:
        pids = running.pids()
        assert pids.keys() == {"manager", "worker"}
        assert all(psutil.pid_exists(pid) for role in pids.values() for pid in role)
    assert not any(psutil.pid_exists(pid) for role in pids.values() for pid in role)


def test_the_variants_are_compared_by_rows() -> None:
    made = variants(payload_bytes=8192, depth=2, repeats=1, count=4)
    assert {row.contender for row in made} == {f"2 wires, pieces of {size} KiB" for size in (16, 256, 1024)}
    for row in made:
        assert asdict(row)["unit"] == "MB/s"
        assert row.value > 0
        assert row.cpu.keys() == {"client", "manager", "worker"}
