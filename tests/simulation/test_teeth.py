"""Bugs planted in the cores, one at a time (`plants.py`): the simulator has to find them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .plants import PLANTS, SEEDS

pytestmark = pytest.mark.alone  # it takes every core

ROOT = Path(__file__).resolve().parents[2]
PLANTS_MIN = 40
CAUGHT_SHARE_MIN = 0.95
"""Of those that break a promise."""
CAUGHT_SHARE_OF_ALL_MIN = 0.92
"""Of every slip that was drafted, those that break nothing included: 0.95 is the aim, and is missed."""
HUNT_SECONDS_MAX = 900
"""Most die within some seeds; the whole takes a minute where the machine has two cores to itself."""

HARMLESS = {
    "a worker that was away is not told which jobs are over": "it finds out itself: the manager names all the others",
    "a link's budget is not given on": "the same event irrigates eight of the links that wait, and no world has more",
    "the budget of a sink that leaves is not given on": "as the one before",
    "a function is believed to be known on every link": "a manager that lacks it asks, and that is always answered",
    "a cancelled task weighs nothing": "its CANCEL travels ahead of later SUBMITs, so the manager lets go of it first",
    "a stale grant is taken": "the relay looks as well, and on one link a manager never grants an earlier attempt",
    "a stale grant is taken by the relay": "the link's account looks as well, and lets no byte go for it",
}
"""Bugs that break no promise, each with the reason."""
OPEN = {
    "a worker that is expected back counts for nothing": "no world has its only capable worker away just then",
    "what a lost manager had begun to tell goes on with the next one": "the next one has to use the very same number",
    "tasks of a job that is over stay in the worker": "they were taken back before, in every world that there was",
    "values of a manager that forgot us are kept": "no link breaks between a SHARE and its JOB, and its manager then",
    "values of a client that is gone are kept": "no client is killed between a SHARE and its JOB",
}
"""Bugs that live through a thousand seeds, though they break something: what is missing."""
ESCAPES = HARMLESS | OPEN


@pytest.fixture(scope="module")
def hunt() -> dict[str, dict[str, Any]]:
    """What became of each planted bug."""
    names = [name for name in PLANTS if name not in ESCAPES]
    command = [sys.executable, "-m", "tests.simulation.plants", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HUNT_SECONDS_MAX, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(names), done.stderr
    return {result["name"]: result for result in results}


def test_enough_bugs_are_planted_and_nearly_all_of_them_are_caught() -> None:
    assert len(PLANTS) >= PLANTS_MIN
    assert ESCAPES.keys() <= PLANTS.keys()
    assert 1 - len(OPEN) / (len(PLANTS) - len(HARMLESS)) >= CAUGHT_SHARE_MIN
    assert 1 - len(ESCAPES) / len(PLANTS) >= CAUGHT_SHARE_OF_ALL_MIN


@pytest.mark.timeout(HUNT_SECONDS_MAX)
@pytest.mark.parametrize("name", [name for name in PLANTS if name not in ESCAPES])
def test_planted_bug_is_caught(name: str, hunt: dict[str, dict[str, Any]]) -> None:
    assert hunt[name]["caught"] is not None, f"{name}: lived through {SEEDS} seeds"
