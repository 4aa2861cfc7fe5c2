"""The whole star, simulated: every seed keeps its promises, and says the same thing twice."""

from __future__ import annotations

import pytest

from .campaign import Tally
from .conftest import FIXED_SEEDS, FRESH_SEEDS
from .star import Report, SimStar, simulate
from .world import Violation

STEPS_MIN = 2_000_000
CAMPAIGN_SECONDS_MAX = 1200
"""A thousand seeds take less than a minute where the machine has two cores to itself."""
pytestmark = [pytest.mark.alone, pytest.mark.timeout(CAMPAIGN_SECONDS_MAX)]
EVERY_FAULT = frozenset(
    {
        *("cut", "cut before CONFIRM", "cut in mid-flow", "cut at a message", "half-open", "storm", "partition"),
        *("slow", "stop reading", "freeze", "sleep", "kill a slot", "kill a worker", "power loss", "drain a worker"),
        *("kill the manager", "drain the manager", "a client goes"),
        *("a late HELLO", "a swollen slot", "lose an answer"),
    }
)
EVERY_OUTCOME = frozenset({"OK", "RAISED", "CRASHED", "TIMEOUT", "UNSENDABLE", "UNRUNNABLE", "MEMORY"})


def _require_none_failed(tally: Tally) -> None:
    if tally.failed:
        pytest.fail(f"{next(iter(tally.failed.values()))}\nfailed: {', '.join(map(str, tally.failed))}", pytrace=False)


def test_fixed_seeds_keep_every_promise(fixed: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"[fixed: {fixed.line()}]", end=" ", flush=True)
    _require_none_failed(fixed)
    assert fixed.seeds == FIXED_SEEDS


def test_fixed_seeds_meet_every_fault_and_every_kind_of_outcome(fixed: Tally) -> None:
    assert fixed.faults.keys() == EVERY_FAULT
    assert fixed.outcomes.keys() == EVERY_OUTCOME


def test_fresh_seeds_keep_every_promise(fresh: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"[fresh: {fresh.line()}]", end=" ", flush=True)
    _require_none_failed(fresh)
    assert fresh.seeds == FRESH_SEEDS


def test_fixed_and_fresh_seeds_come_to_two_million_checked_steps(fixed: Tally, fresh: Tally) -> None:
    assert fixed.steps + fresh.steps >= STEPS_MIN


def test_failing_seed_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(star: SimStar) -> Report:
        star.world.note("somebody", "does something")
        raise AssertionError("something is wrong")

    monkeypatch.setattr(SimStar, "run", fail)
    with pytest.raises(Violation, match=r"(?s)does something.*something is wrong.*replay: .* --seed 5 --trace"):
        simulate(5)
