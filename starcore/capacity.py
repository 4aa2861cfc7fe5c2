"""How much memory this process may use, and how people write sizes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def memory_limit_bytes() -> int:
    """Return the memory that this process may use: its cgroup's limit, else the machine's."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
        limits += _cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
        return min(limits)
    return 4 << 30


def _cgroup_limits(membership: Path, root: Path) -> list[int]:
    """Read memory.max of this process's cgroup and of all above it (version 2), and version 1's limit."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        found.append(int((root / "memory/memory.limit_in_bytes").read_text(encoding="ascii")))
    with contextlib.suppress(OSError):
        for line in membership.read_text(encoding="ascii", errors="replace").splitlines():
            if not line.startswith("0::"):
                continue
            group = root / line[3:].lstrip("/")
            for directory in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):
                    found.append(int((directory / "memory.max").read_text(encoding="ascii")))
                if directory == root:
                    break
    return found


def parse_bytes(text: str) -> int:
    """Return the bytes of "800M", "4G", "1.5GiB", "65536".

    Raises
    ------
    ValueError
        It says no size.

    >>> parse_bytes("64M"), parse_bytes("1.5GiB"), parse_bytes("4096")
    (67108864, 1610612736, 4096)
    """
    units = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        size = int(float(number.removesuffix(unit)) * (1 << units[unit]))
    except (ValueError, OverflowError):
        size = -1
    if size <= 0:
        raise ValueError(f"{text!r} is no size: write 800M, 4G or a number of bytes")
    return size
