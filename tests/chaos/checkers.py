"""I1 to I10 of the star after (and while) it is hurt; none of this knows the workload.

==  =====================================================  =========================================================
I1  one outcome each                                       callers: every future ends once (`caller.Ends`)
I2  none is lost                                           callers: every future ends, and they leave with 0
I3  one RESULT a task and connection                       callers: `caller.WireTap`
I4  the very bytes                                         callers: compared with the function run there
I5  the manager's memory is back near idle                 `memory_is_back`
I6  no process, memory, descriptor or file is left         `descriptors_are_back`, `nothing_is_left`
I7  free + running == slots                                `slots_add_up` on every status, `every_slot_is_free`
I8  no unhandled exception                                 `log_is_clean`
I9  failures carry cause, worker and attempts              callers: `caller.CRASH`, the remote traceback
I10 the queue shrinks once nothing is wrong                `run.py`: callers end within `CALM_SECONDS_MAX`
==  =====================================================  =========================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Any

from starcore.worker.arena import FREE_SECONDS_MAX
from tests.integration.stars import children, until

from . import tasks
from .star import SLOTS, HurtStar

RSS_SPARE_BYTES = 64 << 20
"""Beyond idle: the pool of chunks (16 MiB), what the allocator keeps in pieces, function blobs that may come again."""
LEFT_SECONDS = 5.0
FULL_SECONDS = 2.0
"""How long every slot is kept busy at once."""
STATUS_SECONDS = 1.0
COLD_SECONDS_MAX = FREE_SECONDS_MAX + 20.0
"""A worker keeps memory warm for a while, then gives it back."""
SOCKETS_MAX = 2 + 2 * SLOTS
"""Of a supervisor: the wire, the loop's own pair, and at most two a slot."""
DESCRIPTORS_SPARE = 2
FAULTS_OF_OURS = re.compile(
    r"Traceback|fault of our own|Task exception was never|coroutine .* was never|AssertionError"
)


def rss_bytes(pid: int) -> int:
    """What a process has in memory; 0 where there is none."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(entry))
    return sorted(found)


def slots_add_up(status: dict[str, Any]) -> None:
    """I7, as `starcore status` says it."""
    for worker in status["workers"]:
        assert worker["slots"] == SLOTS, worker
        assert 0 <= worker["running"] <= SLOTS and worker["running"] <= worker["leased"], worker
    for client in status["clients"]:
        assert client["queued"] >= 0 and client["leased"] >= 0 and client["unread"] >= 0, client


def every_slot_is_free(star: HurtStar) -> None:
    """I7: as many tasks as there are slots run at the same time, so none was forgotten as busy."""
    slots = SLOTS * len(star.workers)
    with star.star.client() as client:
        futures = [client.submit(tasks.linger, FULL_SECONDS, number) for number in range(slots)]
        until(lambda: sum(worker["running"] for worker in client.status()["workers"]) == slots, "all slots busy", 10)
        assert [future.result(60) for future in futures] == list(range(slots))


def log_is_clean(star: HurtStar) -> None:
    """I8."""
    log = star.star.log()
    found = FAULTS_OF_OURS.search(log)
    assert found is None, log[max(0, found.start() - 2000) : found.end() + 6000]


def memory_is_back(star: HurtStar, idle_bytes: int) -> int:
    """I5: return what the manager has now."""
    with contextlib.suppress(AssertionError):
        until(lambda: rss_bytes(star.manager_pid) <= idle_bytes + RSS_SPARE_BYTES, "memory", 15)
    now = rss_bytes(star.manager_pid)
    assert now <= idle_bytes + RSS_SPARE_BYTES, f"{now >> 20} MiB, {idle_bytes >> 20} when idle"
    return now


def descriptors_are_back(star: HurtStar, manager_idle: int) -> None:
    """I6: what the manager holds is what an idle one does, and no supervisor keeps a wire, a slot or memory."""
    with contextlib.suppress(AssertionError):
        until(lambda: len(descriptors(star.manager_pid)) <= manager_idle + DESCRIPTORS_SPARE, "descriptors", 10)
    held = descriptors(star.manager_pid)
    assert len(held) <= manager_idle + DESCRIPTORS_SPARE, (manager_idle, held)
    with contextlib.suppress(AssertionError):
        until(lambda: not any(map(_segments, star.workers)), "the end of what was kept warm", COLD_SECONDS_MAX)
    kept = {pid: _segments(pid) for pid in star.workers if _segments(pid)}
    assert not kept, f"memory that workers keep: {kept}"
    for pid in star.workers:
        sockets = [each for each in descriptors(pid) if each.startswith("socket")]
        assert len(children(pid)) == SLOTS, children(pid)
        assert len(sockets) <= SOCKETS_MAX, sockets


def _segments(pid: int) -> list[int]:
    """The sizes of what a supervisor's arena has, used or free."""
    sizes = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if "starcore-arena" in os.readlink(entry):
                    sizes.append(entry.stat().st_size)
    return sizes


def nothing_is_left(star: HurtStar) -> None:
    """I6, once the star has been closed: processes, shared memory, files."""
    until(lambda: not star.star.processes(), "the end of every process", LEFT_SECONDS)
    assert not [name for name in os.listdir("/dev/shm") if "starcore" in name]  # other programs have theirs there
    assert not star.star.directory.exists()
    left = [str(path.relative_to(star.scratch)) for path in star.scratch.rglob("*")]
    assert not left, left


class Watcher:
    """Looks at the star while it is hurt: its status, the manager's memory."""

    def __init__(self, star: HurtStar) -> None:
        self.rss_bytes_max = 0
        self.statuses = 0
        self.fault: BaseException | None = None
        self._star = star
        self._over = threading.Event()
        self._client = star.star.client(wait=False)
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self._thread.start()

    def close(self) -> None:
        """End it, and raise what it found."""
        self._over.set()
        self._thread.join()
        self._client.shutdown()
        if self.fault is not None:
            raise self.fault

    def _watch(self) -> None:
        while not self._over.wait(STATUS_SECONDS):
            self.rss_bytes_max = max(self.rss_bytes_max, rss_bytes(self._star.manager_pid))
            try:
                slots_add_up(self._client.status())
                self.statuses += 1
            except TimeoutError:
                pass  # the manager is away, or frozen
            except BaseException as error:
                self.fault = error
                return
