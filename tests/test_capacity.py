"""How much memory there is, and how sizes are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from starcore.capacity import _cgroup_limits, memory_limit_bytes, parse_bytes

MIB = 1 << 20


def test_the_cgroup_limits_of_all_parents_count(tmp_path: Path) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("1048576\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert _cgroup_limits(membership, tmp_path) == [1048576]


def test_this_machine_has_some_memory() -> None:
    assert memory_limit_bytes() > 0


@pytest.mark.parametrize("text", ["", "0", "-1M", "many", "4X", "infG"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("800M", "4G", "1.5GiB", "10kb", "7")] == [
        800 * MIB,
        4096 * MIB,
        1536 * MIB,
        10240,
        7,
    ]
