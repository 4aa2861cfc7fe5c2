"""The benchmark of sizes runs small, from the smallest array to the largest."""

from __future__ import annotations

from benchmarks import sizes


def test_sizes_are_measured_side_by_side() -> None:
    made = sizes.run(names=("star", "limit"), sizes=(1 << 10, 1 << 20), share=0.01, repeats=1)
    assert [(row.measure, row.contender) for row in made] == [
        (f"by size: {size} arrays", name) for size in ("1 KiB", "1 MiB") for name in ("star", "limit")
    ]
    assert all(row.unit == "MB/s" and row.value > 0 for row in made)


def test_sizes_go_from_1_kib_to_64_mib_within_bytes_in_flight() -> None:
    assert (sizes.SIZES[0], sizes.SIZES[-1]) == (1 << 10, 64 << 20)
    for size in sizes.SIZES:
        case = sizes.case(size)
        assert 1 <= case.depth <= sizes.DEPTH_MAX
        assert case.depth == 1 or case.depth * size <= sizes.IN_FLIGHT_BYTES
        assert case.count >= 2
    assert set(sizes.QUICK_SIZES) <= set(sizes.SIZES)
