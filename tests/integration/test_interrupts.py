"""Ctrl-C: what it cancels, how soon, and what it leaves alone. A script is interrupted while its tasks run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from starcore import Client

from .proxy import Proxy
from .stars import TriedStar, is_alive, tried_star, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
GONE_SECONDS_MAX = 2.0
"""A second is promised; this machine may be busy."""
LEAVE_SECONDS_MAX = 2.0
"""For a process that leaves at once: what the interpreter takes for its end on a busy machine."""

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
import starcore
from concurrent.futures import as_completed, wait

def sleeps(*arguments):
    note_in(arguments[-1] if isinstance(arguments[-1], str) else DIRECTORY)
    time.sleep(60)

def spins(directory):
    note_in(directory)
    while True:
        pass

def note_in(directory):
    open(os.path.join(directory, str(os.getpid())), "w").close()

DIRECTORY = sys.argv[3]
array = np.zeros(200_000)
client = starcore.Client(sys.argv[1], join=sys.argv[2])
"""

WAITS = {
    "result": "client.submit(sleeps, DIRECTORY).result()",
    "result of one that spins": "client.submit(spins, DIRECTORY).result()",
    "exception": "client.submit(sleeps, DIRECTORY).exception()",
    "result of one among many": "fs = [client.submit(sleeps, DIRECTORY) for _ in range(9)]; fs[-1].result()",
    "result of one among very many": "fs = [client.submit(sleeps, DIRECTORY) for _ in range(20_000)]; fs[-1].result()",
    "wait": "wait([client.submit(sleeps, DIRECTORY) for _ in range(9)])",
    "as_completed": "list(as_completed([client.submit(sleeps, DIRECTORY) for _ in range(9)]))",
    "map": "list(client.map(sleeps, [DIRECTORY] * 9))",
    "map of single calls": "list(client.map(sleeps, [DIRECTORY] * 9, chunksize=1, buffersize=4))",
    "run": "client.run([array] * 3, sleeps)",
    "array": "client.submit_array(sleeps, array).result()",
    "blocks": "client.submit_array(sleeps, array, chunks=50_000).result()",
    "blocks that are cut as it goes": "client.submit_array(sleeps, array, chunks='auto').result()",
    "leaving a block": "with client: client.submit(sleeps, DIRECTORY)",
    "inside a block": "with client: client.submit(sleeps, DIRECTORY).result()",
    "user code inside a block": "with client:\n    client.submit(sleeps, DIRECTORY)\n    time.sleep(60)",
    "shutdown": "client.submit(sleeps, DIRECTORY); client.shutdown()",
    "a view of it": "with client.options(priority=1) as view: view.submit(sleeps, DIRECTORY)",
}


class Script:
    """A script that was started, and what its tasks noted."""

    def __init__(self, star: TriedStar, directory: Path, code: str, address: str = "") -> None:
        self.notes = directory / "notes"
        self.notes.mkdir()
        command = [sys.executable, "-c", SCRIPT + code, address or star.address, str(star.join_file("client"))]
        self.process = subprocess.Popen(
            [*command, str(self.notes)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def running(self) -> list[int]:
        """Wait until a task runs; return the slots that did."""
        return until(lambda: [int(note.name) for note in self.notes.iterdir()], "a task that runs")

    def interrupt(self) -> float:
        self.process.send_signal(signal.SIGINT)
        return time.monotonic()

    def end(self) -> tuple[int, str]:
        """Wait for its end; return the code and what it wrote to stderr."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def lasting_star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedStar]:
    with tried_star(tmp_path_factory.mktemp("interrupts"), workers=1, slots=1) as star:
        yield star


@pytest.fixture
def star(lasting_star: TriedStar) -> Iterator[TriedStar]:
    yield lasting_star
    lasting_star.check_quiet()


@pytest.fixture
def observer(star: TriedStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


@pytest.fixture
def script(star: TriedStar, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    started: list[Script] = []

    def start(code: str, **options: Any) -> Script:
        started.append(Script(star, tmp_path, code, **options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("how", WAITS)
def test_ctrl_c_while_waiting_frees_the_slots_and_ends_the_script(
    observer: Client, script: Callable[..., Script], how: str
) -> None:
    caller = script(WAITS[how])
    (slot,) = caller.running()
    left = caller.interrupt() + GONE_SECONDS_MAX - time.monotonic()
    until(lambda: not is_alive(slot), "the task's end", left)
    until(lambda: not observer.status()["workers"][0]["leased"], "a free slot", left)
    code, said = caller.end()
    assert code == -signal.SIGINT, said
    assert said.rstrip().endswith("KeyboardInterrupt"), said
    assert said.count("Traceback (most recent call last)") == said.count("During handling of the above") + 1, said
    assert len(list(caller.notes.iterdir())) == 1, "a task began after the Ctrl-C"


def test_caught_ctrl_c_leaves_a_client_that_works(observer: Client, script: Callable[..., Script]) -> None:
    caller = script("""
others = [client.submit(sleeps, DIRECTORY) for _ in range(3)]
try:
    others[0].result()
except KeyboardInterrupt:
    print([other.cancelled() for other in others], client.submit(pow, 3, 3).result(20), flush=True)
    time.sleep(0.5)
""")
    (slot,) = caller.running()
    caller.interrupt()
    until(lambda: not is_alive(slot), "the task's end", GONE_SECONDS_MAX)
    out, said = caller.process.communicate(timeout=20)
    assert (caller.process.returncode, out) == (0, "[True, True, True] 27\n"), said


def test_ctrl_c_in_other_code_does_nothing_to_the_tasks(observer: Client, script: Callable[..., Script]) -> None:
    caller = script("""
def slow():
    note_in(DIRECTORY)
    time.sleep(1.0)
    return 5
future = client.submit(slow)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print(future.result(20))
""")
    caller.running()
    caller.interrupt()
    out, said = caller.process.communicate(timeout=20)
    assert (caller.process.returncode, out) == (0, "5\n"), said


def test_uncaught_ctrl_c_in_other_code_ends_the_tasks_with_the_interpreter(
    observer: Client, script: Callable[..., Script]
) -> None:
    caller = script("client.submit(sleeps, DIRECTORY); time.sleep(60)")
    (slot,) = caller.running()
    caller.interrupt()
    until(lambda: not is_alive(slot), "the task's end", GONE_SECONDS_MAX)
    assert caller.end()[0] == -signal.SIGINT


@pytest.mark.parametrize("how", ["result", "inside a block", "leaving a block", "wait"])
def test_second_ctrl_c_leaves_at_once_even_from_a_manager_that_is_cut_off(tmp_path: Path, how: str) -> None:
    grace = ("--session-grace-seconds", "1", "--silence-seconds", "2")
    with tried_star(tmp_path, workers=1, slots=1, manager_options=grace) as star, Proxy(star.client_port) as proxy:
        caller = Script(star, tmp_path, WAITS[how], proxy.address)
        try:
            (slot,) = caller.running()
            proxy.closed = True
            proxy.half_open()
            caller.interrupt()
            time.sleep(0.2)
            at = caller.interrupt()
            code, said = caller.end()
            assert time.monotonic() - at < LEAVE_SECONDS_MAX, said
        finally:
            caller.process.kill()
        assert code == -signal.SIGINT, said
        assert "KeyboardInterrupt" in said
        assert is_alive(slot), "it could not be told"
        until(lambda: not is_alive(slot), "the end of a session that nobody came back to")


def test_terminals_ctrl_c_reaches_nobody_below_before_the_cancels_are_out(tmp_path: Path) -> None:
    """The embedded star: its children are of another group, and the task is ended by its worker."""
    code = """
import os, sys, time, starcore
def sleeps(path):
    open(path, "w").close()
    time.sleep(60)
future = starcore.submit(sleeps, sys.argv[1])
try:
    future.result()
except KeyboardInterrupt:
    print(future.cancelled(), starcore.submit(pow, 3, 3).result(20), flush=True)
"""
    note = tmp_path / "note"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("STARCORE_", "STARCOMPUTE_"))}
    environment |= {"STARCORE_CONFIG_DIR": str(tmp_path), "STARCORE_RUNTIME_DIR": str(tmp_path / "run")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(note)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        until(note.exists, "a task that runs", 30)
        os.killpg(process.pid, signal.SIGINT)
        out, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "True 27\n"), said
    assert "slot" not in said.partition("\n")[2], said


def test_cancelled_task_cleans_up_and_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    def works(directory: str, listens: bool) -> None:
        import pathlib  # noqa: PLC0415 - pickled by value

        here = pathlib.Path(directory)
        (here / str(os.getpid())).touch()
        try:
            time.sleep(60) if listens else sum(range(1 << 50))
        finally:
            (here / "cleaned").touch()

    with tried_star(tmp_path, workers=1) as star, star.client() as client:
        for listens in (True, False):
            directory = tmp_path / str(listens)
            directory.mkdir()
            future = client.submit(works, str(directory), listens)
            until(lambda: list(directory.iterdir()) and future.running(), "it runs")  # noqa: B023
            pid = int(next(directory.iterdir()).name)
            begun = time.monotonic()
            assert client.cancel(future)
            until(lambda: not is_alive(pid), "its process has ended")  # noqa: B023
            assert time.monotonic() - begun < GONE_SECONDS_MAX
            assert (directory / "cleaned").exists() == listens
        assert client.submit(abs, -1).result(20) == 1
