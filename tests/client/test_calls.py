"""What calls give back, through a real connection; and what a type checker is told of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import starcore
from starcore.client.api import Client
from starcore.messages import Submit

from .inline_manager import InlineStar

SECONDS = 10.0
A = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("size", [3, 200_000])
@pytest.mark.parametrize("chunks", [None, 1, "auto"])
@pytest.mark.parametrize("use_out", [False, True])
def test_array_comes_back_as_the_function_made_it(client: Client, size: int, chunks: Any, use_out: bool) -> None:
    array = np.arange(3.0 * size).reshape(3, size)
    out = np.empty_like(array) if use_out else None
    answer = client.submit_array(np.negative, array, chunks=chunks, out=out).result(SECONDS)
    assert np.array_equal(answer, -array)
    assert answer.flags.writeable
    assert out is None or answer is out


def test_blocks_are_cut_and_joined_along_the_axis(client: Client) -> None:
    array = np.asfortranarray(np.arange(60.0).reshape(5, 12))
    answer = client.submit_array(np.cumsum, array, args=(0,), chunks=5, axis=-1).result(SECONDS)
    assert np.array_equal(answer, np.cumsum(array, 0))


def test_small_array_is_copied_at_the_call_and_a_large_one_where_it_is_asked_for(
    star: InlineStar, client: Client
) -> None:
    star.hold()
    small, large = np.ones(4), np.ones(100_000)
    futures = [client.submit_array(np.sum, small), client.submit_array(np.sum, large, copy=True)]
    small[:] = large[:] = 0
    star.let_go()
    assert [future.result(SECONDS) for future in futures] == [4.0, 100_000.0]


def test_function_may_write_to_its_argument(client: Client) -> None:
    def wipe(array: Any) -> Any:
        array[:] = 0
        return array

    for size in (5, 100_000):
        array = np.ones(size)
        assert client.submit_array(wipe, array).result(SECONDS).sum() == 0
        assert array.sum() == size


# -- map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", ["auto", 1, 7])
def test_map_is_the_builtin_elsewhere(client: Client, chunksize: Any) -> None:
    numbers = range(1000)
    assert list(client.map(pow, numbers, [2] * 900, chunksize=chunksize)) == [number**2 for number in range(900)]


def test_map_packs_small_calls(star: InlineStar, client: Client) -> None:
    before = star.core.sequence
    list(client.map(abs, range(20_000)))
    assert star.core.sequence - before < 2000


@pytest.mark.parametrize("options", [{"retries": 1}, {"timeout": 5.0}])
def test_map_gives_every_call_the_options_for_itself(star: InlineStar, client: Client, options: Any) -> None:
    before = star.call(lambda: len(star.core.seen))
    assert list(client.options(**options).map(abs, range(-60, 0), chunksize=30)) == list(range(60, 0, -1))
    messages = star.call(lambda: star.core.seen[before:])
    assert sum(len(message.head_sizes) for message in messages if type(message) is Submit) == 60


# -- types -------------------------------------------------------------------------------------------------------

USER = """
import numpy as np
import starcore

def double(block: object) -> object:
    return block

array = np.ones((4, 4))
flag = bool(array.sum())
client = starcore.Client()
view = client.options(retries=1)
reveal_type(client.submit(double, 1))
reveal_type(client.detached("a").submit(double, 1))
"""
CALLS = ("client.submit_array(double, array", "client.map(double, [1, 2]")
OPTIONS = {
    "": "attached",
    ", detach=False": "attached",
    ", detach=True": "detached",
    ', detach=True, name="scan-7"': "detached",
    ', name="scan-7"': "detached",
    ", detach=flag": "either",
}
JOB = "starcore.client.jobs.DetachedJob"


def plain(revealed: str) -> str:
    """A type as it is written, by whichever mypy."""
    text = re.sub(r"(typing|collections\.abc)\.|\*", "", revealed)
    return text.removeprefix("Union[").removesuffix("]").replace(", ", " | ") if text.startswith("Union[") else text


def test_mypy_tells_a_detached_call_from_one_that_is_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="no mypy here: pip install '.[test]'")
    text, wanted = USER, ["concurrent.futures._base.Future[Any]", JOB]
    for call in CALLS:
        for who in ("client", "view", "starcore"):
            attached = "Iterator[Any]" if "map" in call else "concurrent.futures._base.Future[Any]"
            for option, kind in OPTIONS.items():
                text += f"reveal_type({call.replace('client', who)}{option}))\n"
                wanted.append({"attached": attached, "detached": JOB, "either": f"{attached} | {JOB}"}[kind])
    (tmp_path / "user.py").write_text(text + "job: starcore.DetachedJob = client.map(double, [1])\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    source = {**os.environ, "MYPYPATH": str(Path(starcore.__file__).parent.parent)}
    checked = subprocess.run(command, cwd=tmp_path, env=source, capture_output=True, text=True, check=False)
    assert [plain(said) for said in re.findall(r'Revealed type is "(.*)"', checked.stdout)] == wanted, checked.stdout
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and "Incompatible types in assignment" in errors[0], checked.stdout
