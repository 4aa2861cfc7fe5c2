"""A task that takes more memory than there is: the kernel ends its slot, and its caller is told that it was that.

The memory that there is, is a cgroup's of the test's own: the machine has enough for everybody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from starcore import CrashError

from .stars import children, is_alive, tried_star, until

ROOT = Path("/sys/fs/cgroup")
LIMIT_BYTES = 256 << 20
GREED_BYTES = 2 << 30
SECONDS = 60.0


def greedy(size: int) -> int:
    return len(b"x" * size)


def _own_groups() -> dict[str, str]:
    """Where this process stands, by controller; version 2 has one place, under the name of none."""
    rows = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return {name: path.lstrip("/") for _, names, path in rows for name in names.split(",")}


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup that holds less than the task takes, without a way out into swap."""
    name = f"starcore-test-{os.getpid()}"
    try:
        own = _own_groups()
        first = "memory" in own
        group = (ROOT / "memory" / own["memory"] if first else ROOT / own[""]) / name
        group.mkdir()
    except (OSError, KeyError) as error:
        pytest.skip(f"no memory cgroup can be made here: run as root, with /sys/fs/cgroup writable: {error}")
    try:
        try:
            (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(LIMIT_BYTES))
            (group / ("memory.swappiness" if first else "memory.swap.max")).write_text("0")
        except OSError as error:
            pytest.skip(f"a cgroup cannot bound memory here: boot with cgroup_enable=memory: {error}")
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the end of all that ran in the cgroup")
        group.rmdir()


def test_kernel_that_is_short_of_memory_ends_the_task_and_not_its_worker(group: Path, tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=1) as star:
        (worker,) = star.worker_pids
        with star.client() as client:
            client.submit(pow, 2, 3).result(SECONDS)
            for pid in (worker, *children(worker)):
                (group / "cgroup.procs").write_text(str(pid))
            with pytest.raises(CrashError, match="the kernel has ended processes for lack of it") as caught:
                client.submit(greedy, GREED_BYTES).result(SECONDS)
            assert (caught.value.signal, caught.value.attempts) == ("SIGKILL", 3)
            assert client.submit(pow, 2, 4).result(SECONDS) == 16
        assert is_alive(worker)
        assert star.worker_pids == [worker]
