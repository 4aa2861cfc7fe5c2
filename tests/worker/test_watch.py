"""What a slot has for itself, and who is told when that is too much."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starcore._framing import Segment
from starcore.worker.arena import memory_file
from starcore.worker.orders import Swollen
from starcore.worker.watch import MemoryWatch, own_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="run on Linux: reads /proc")
SIZE = 200 << 20


def test_touched_memory_counts_and_shared_memory_does_not() -> None:
    before = own_bytes(os.getpid())
    descriptor = memory_file("test", SIZE)
    shared = Segment(descriptor, SIZE)
    os.close(descriptor)
    memoryview(shared)[::4096] = bytes(len(range(0, SIZE, 4096)))
    assert own_bytes(os.getpid()) - before < SIZE // 2
    own = bytearray(SIZE)
    assert own_bytes(os.getpid()) - before > SIZE * 0.9
    del own


def test_a_process_that_is_gone_has_nothing() -> None:
    assert own_bytes(2**22 + 1) == 0


@pytest.mark.parametrize(("limit", "told"), [(1, True), (1 << 40, False)])
def test_only_who_has_too_much_is_told_of(limit: int, told: bool) -> None:
    events: list[Any] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        process: Any = SimpleNamespace(number=3, pid=os.getpid())
        looks = 0

        def processes() -> list[Any]:
            nonlocal looks
            looks += 1
            if looks == 3:
                enough.set()
            return [process]

        enough = asyncio.Event()
        watch = MemoryWatch(limit, loop, processes, events.append)
        await asyncio.wait_for(enough.wait(), 20)
        watch.close()

    asyncio.run(test())
    assert bool(events) == told
    assert all(isinstance(event, Swollen) and (event.slot, event.limit) == (3, limit) for event in events)
