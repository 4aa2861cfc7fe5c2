"""The size of blocks, on pipelines whose paces the test makes up."""

from __future__ import annotations

import pytest

from starcore.client.pace import (
    BLOCK_BYTES_MAX,
    BLOCK_BYTES_MIN,
    DEPTH_PER_SLOT_MAX,
    DEPTH_SPARE_MAX,
    PROBE_BYTES_MAX,
    PROBE_GROWTH,
    Pace,
    Stage,
    probe_bytes,
)

MIB = 1 << 20
PROBE = PROBE_BYTES_MAX


def measured(up: float, fixed: float, each: float, down: float, block_bytes_max: int = BLOCK_BYTES_MAX) -> Pace:
    """A pace that has seen one probe and one larger block of such a pipeline (seconds, and seconds per MiB)."""
    pace = Pace(PROBE, block_bytes_max)
    now = 0.0
    for size in (PROBE, PROBE_GROWTH * PROBE):
        for stage, speed in ((pace.upload, up), (pace.download, down)):
            stage.begin(now)
            now += speed * size / MIB
            stage.end(now, size)
        pace.called(size, fixed + each * size / MIB)
    return pace


def test_a_stage_counts_the_time_in_which_anything_is_under_way() -> None:
    stage = Stage()
    assert stage.pace(0.0) == 0.0
    stage.begin(1.0)
    stage.begin(2.0)
    stage.end(3.0, 100)
    stage.end(5.0, 100)
    assert stage.pace(9.0) == 4.0 / 200
    stage.begin(10.0)
    assert stage.pace(12.0) == 6.0 / 200


def test_two_sizes_tell_what_a_call_takes_from_what_its_bytes_take() -> None:
    fixed, each = measured(0.1, 0.02, 0.3, 0.1).call()
    assert fixed == pytest.approx(0.02)
    assert each * MIB == pytest.approx(0.3)


def test_calls_that_waited_in_line_count_for_nothing() -> None:
    pace = measured(0.1, 0.02, 0.3, 0.1)
    before = pace.call()
    pace.called(MIB, 5.0)
    pace.called(PROBE, 5.0)
    assert pace.call() == before


def test_nothing_is_chosen_before_a_probe_and_a_larger_block_are_back() -> None:
    pace = Pace(PROBE)
    assert pace.block_bytes(64 * MIB, 2, 0.0) == PROBE
    pace.upload.begin(0.0)
    pace.upload.end(0.1, PROBE)
    pace.called(PROBE, 0.1)
    assert not pace.settled
    assert pace.block_bytes(64 * MIB, 2, 0.1) == PROBE_GROWTH * PROBE
    pace.called(PROBE_GROWTH * PROBE, 0.1)
    assert pace.settled


@pytest.mark.parametrize("slots", [1, 4, 64])
@pytest.mark.parametrize(
    ("up", "fixed", "each", "down"),
    [
        (0.04, 0.002, 0.001, 0.04),  # a slow wire both ways
        (0.04, 0.1, 0.001, 0.001),  # a far one
        (0.004, 0.002, 0.5, 0.004),  # long calls
        (0.004, 0.3, 0.0, 0.004),  # calls that take their time whatever the size
        (0.001, 0.0, 0.0, 0.0),
    ],
)
def test_the_chosen_size_is_within_its_bounds_and_near_the_best(
    up: float, fixed: float, each: float, down: float, slots: int
) -> None:
    total = 512 * MIB
    pace = measured(up, fixed, each, down)
    size = pace.block_bytes(total, slots, 0.0)
    assert BLOCK_BYTES_MIN <= size <= BLOCK_BYTES_MAX
    most = min(total // slots, BLOCK_BYTES_MAX)
    best = min(pace.seconds(total, other, slots, 0.0) for other in range(BLOCK_BYTES_MIN, most, MIB))
    assert pace.seconds(total, size, slots, 0.0) <= 1.25 * best
    alone = max(total / MIB * up, total / MIB * down, total / MIB * each / slots)
    if slots <= 4 and fixed < 0.01:
        assert pace.seconds(total, size, slots, 0.0) <= 1.2 * alone + 2 * fixed


def test_blocks_grow_with_what_a_call_costs_and_shrink_with_what_is_left() -> None:
    cheap, dear = measured(0.004, 0.001, 0.05, 0.004), measured(0.004, 0.2, 0.05, 0.004)
    assert cheap.block_bytes(256 * MIB, 2, 0.0) < dear.block_bytes(256 * MIB, 2, 0.0)
    sizes = [cheap.block_bytes(left * MIB, 2, 0.0) for left in (256, 64, 16, 4, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_no_block_is_larger_than_it_may_be() -> None:
    assert measured(1e-4, 1.0, 0.0, 1e-4, MIB).block_bytes(1 << 34, 1, 0.0) == MIB


@pytest.mark.parametrize("slots", [1, 8])
def test_so_many_blocks_are_under_way_that_no_stage_waits_and_never_too_many(slots: int) -> None:
    quick = measured(0.04, 0.001, 0.001, 0.04)
    far = measured(0.004, 2.0, 0.001, 0.004)
    assert slots + 2 <= quick.depth(MIB, slots, 0.0) <= 2 * slots + 4
    assert slots + 2 <= far.depth(MIB, slots, 0.0) <= DEPTH_PER_SLOT_MAX * slots + DEPTH_SPARE_MAX


def test_probes_are_a_small_part_of_the_whole() -> None:
    assert probe_bytes(1 << 32, 4) == PROBE_BYTES_MAX
    assert probe_bytes(8 * MIB, 1) == 128 << 10
    assert probe_bytes(MIB, 64) == BLOCK_BYTES_MIN


def test_what_was_measured_can_be_said() -> None:
    words = measured(0.04, 0.002, 0.1, 0.0).describe(0.0)
    assert words == "upload 26.2 MB/s, a call 2 ms and 10.5 MB/s, download at once"
