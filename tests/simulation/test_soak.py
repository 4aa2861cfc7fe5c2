"""The soak goes on where it stopped, and keeps what it came to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import soak
from .campaign import Tally

pytestmark = pytest.mark.alone  # it takes every core


def test_soak_goes_on_where_it_stopped_and_other_code_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "place.json"
    place = soak.load(path, "abc")
    place.add(Tally(seeds=20, steps=900, reached={("client", "SENT", "LOST"): 3}))
    place.add(Tally(seeds=5, steps=100, failed={7: "text"}, reached={("client", "SENT", "LOST"): 8}))
    soak.save(path, place)
    reached = {"client / SENT / LOST": 3}
    assert soak.load(path, "abc") == soak.Place("abc", soak.FIRST_SEED + 25, 25, 1000, [7], reached)
    assert soak.load(path, "def") == soak.Place("def", soak.FIRST_SEED + 25)
    assert [file.name for file in tmp_path.iterdir()] == ["place.json"]


def test_code_is_what_a_simulated_star_runs_and_nothing_beside_it(tmp_path: Path) -> None:
    for part in ("starcore", "tests", "benchmarks"):
        shutil.copytree(soak.ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("results", "__pycache__"))

    def code() -> str:
        command = [sys.executable, "-c", "from tests.simulation.soak import code_here; print(code_here())"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    def touched(name: str) -> str:
        with (tmp_path / name).open("a") as file:
            file.write("# another line\n")
        return code()

    before = code()
    assert touched("starcore/client/session.py") == touched("tests/conftest.py") == before
    codes = [touched(name) for name in ("starcore/uplink.py", "starcore/_records.pxi", "tests/simulation/network.py")]
    assert len({before, *codes}) == 4


def test_sitting_ends_with_its_steps_and_again_at_once(tmp_path: Path) -> None:
    path = tmp_path / "place.json"
    place = soak.load(path, "abc")
    sitting = soak.sit(place, path, steps=1)
    assert sitting.steps == place.steps > 0
    assert not place.failed
    assert soak.load(path, "abc") == place
    assert not soak.sit(place, path, steps=1).seeds


def test_interrupted_sitting_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(first: int, count: int) -> object:
        yield Tally(seeds=25, steps=10)
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "campaign", interrupted)
    path = tmp_path / "place.json"
    place = soak.load(path, "abc")
    assert soak.sit(place, path, steps=1000).seeds == 25
    assert soak.load(path, "abc").next_seed == soak.FIRST_SEED + 25


def test_row_says_what_ran() -> None:
    place = soak.Place("abc", soak.FIRST_SEED + 50, 50, 4000, [])
    made = soak.row(place, Tally(seeds=25, steps=2000, cpu_seconds=2.0), 100)
    assert made.value == 1000
    assert made.parameters["first_seed"] == soak.FIRST_SEED + 25
    assert (made.parameters["steps"], made.parameters["soak_steps"]) == (2000, 4000)
