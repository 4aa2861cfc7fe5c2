"""What a dead slot leaves, where no slot is needed to see it; the rest is in `test_process.py`."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from starcore.worker import blackbox
from starcore.worker.blackbox import OOM_SCORE, BlackBox

from .child import Child


def test_an_empty_box_holds_no_stack() -> None:
    box = BlackBox()
    assert (box.dump(), box.stack()) == ("", "")
    box.close()


def test_what_was_written_is_read_without_moving_the_writers_place() -> None:
    box = BlackBox()
    text = b'Current thread 0x1 (most recent call first):\n  File "a.py", line 1 in f\n'
    os.write(box.descriptor, text[:20])
    assert box.stack() == ""
    os.write(box.descriptor, text[20:])
    assert box.stack() == '  File "a.py", line 1 in f'
    box.close()


def test_a_peak_below_our_own_is_only_a_bound() -> None:
    own = resource.getrusage(resource.RUSAGE_SELF)
    box = BlackBox()
    assert box.peak(own).startswith("below ")
    larger = resource.struct_rusage([*own[:2], own.ru_maxrss * 2, *own[3:]])
    assert not box.peak(larger).startswith("below")
    box.close()


def test_killings_of_the_kernel_are_those_since_the_slot_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "kernel_killings", lambda: 3)
    box = BlackBox()
    assert not box.short_of_memory()
    monkeypatch.setattr(blackbox, "kernel_killings", lambda: 4)
    assert box.short_of_memory()
    box.close()


@pytest.mark.skipif(not Path("/proc/vmstat").exists(), reason="run on Linux: it keeps the count in /proc/vmstat")
def test_the_kernels_count_is_read() -> None:
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert blackbox.kernel_killings() >= int(lines.get("oom_kill", 0))


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="run on Linux: for oom_score_adj")
def test_slots_go_before_their_supervisor_where_memory_runs_out(tmp_path: Path) -> None:
    child = Child(tmp_path)
    try:
        assert int(Path(f"/proc/{child.process.pid}/oom_score_adj").read_text()) >= OOM_SCORE
    finally:
        child.close()
