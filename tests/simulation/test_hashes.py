"""One seed, one trace: whoever hashes strings, whichever interpreter runs it, and however frames are made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from .star import simulate

pytestmark = pytest.mark.alone  # it takes every core

ROOT = Path(__file__).resolve().parents[2]
FIRST, COUNT = 0, 15
HASHES_SECONDS_MAX = 300
SALTS = ("0", "1", "4711")
INTERPRETERS = ("3.10", "3.11", "3.12", "3.13")
NEEDS = "import sys, array, zlib; sys.exit(sys.version_info[:2] != (3, {minor}))"


def _hashes(python: str, *options: str, salt: str = "random") -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-m", "tests.simulation.hashes", *options, str(FIRST), str(COUNT)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def _interpreter(version: str) -> str | None:
    """Where an interpreter of this version is, if there is one on this machine."""
    shims = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in [*map(str, shims), shutil.which(f"python{version}")]:
        program = NEEDS.format(minor=version.partition(".")[2])
        if python and not subprocess.run([python, "-c", program], capture_output=True, check=False).returncode:
            return python
    return None


@pytest.fixture(scope="module")
def theirs() -> Iterator[dict[str, Future[list[str]]]]:
    """What others come to, by salt and by version: processes of their own, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found: dict[str, Future[list[str]]] = {s: pool.submit(_hashes, sys.executable, salt=s) for s in SALTS}
        for version in INTERPRETERS:
            if python := _interpreter(version):
                found[version] = pool.submit(_hashes, python, "--plain")
        yield found


@pytest.fixture(scope="module")
def ours() -> list[str]:
    """The hashes that this interpreter comes to, in this process."""
    return [f"{seed} {simulate(seed).hash}" for seed in range(FIRST, FIRST + COUNT)]


@pytest.mark.timeout(HASHES_SECONDS_MAX)
def test_seed_gives_the_same_trace_twice_and_another_seed_another(ours: list[str]) -> None:
    assert [f"{seed} {simulate(seed).hash}" for seed in range(FIRST, FIRST + COUNT)] == ours
    assert len({line.split()[1] for line in ours}) == COUNT


@pytest.mark.timeout(HASHES_SECONDS_MAX)
@pytest.mark.parametrize("salt", SALTS)
def test_trace_does_not_depend_on_how_strings_are_hashed(
    salt: str, theirs: dict[str, Future[list[str]]], ours: list[str]
) -> None:
    """Nothing may hang on the order of a set: neither in the simulator nor in the cores."""
    assert theirs[salt].result() == ours


@pytest.mark.timeout(HASHES_SECONDS_MAX)
@pytest.mark.parametrize("version", INTERPRETERS)
def test_trace_is_the_same_on_every_interpreter_and_without_the_extension(
    version: str, theirs: dict[str, Future[list[str]]], ours: list[str]
) -> None:
    if version not in theirs:
        pytest.skip(f"there is no Python {version} here: install python{version}")
    assert theirs[version].result() == ours
