"""Three minutes of chaos in every test run; its seed is printed, and `STARCORE_CHAOS_SEED` runs it again.

The same seed gives the same faults at the same times and the same work; what they meet depends on the machine.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from .run import run

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
SECONDS = float(os.environ.get("STARCORE_CHAOS_SECONDS", "180"))
SEED = int(os.environ.get("STARCORE_CHAOS_SEED", "0")) or secrets.randbits(31)
FAULTS_MIN = 100
ANSWERS_MIN = 10_000


@pytest.mark.timeout(SECONDS * 4 + 600)
def test_every_answer_is_right_and_nothing_is_left_after_three_minutes_of_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print(f"chaos: STARCORE_CHAOS_SEED={SEED}")  # a failure shows it, wherever this runs
    with capsys.disabled():
        print(f"\nchaos: STARCORE_CHAOS_SEED={SEED}")
    report = run(tmp_path, SEED, SECONDS, answers_min=ANSWERS_MIN, faults_min=int(FAULTS_MIN * min(1.0, SECONDS / 180)))
    with capsys.disabled():
        print(report)
