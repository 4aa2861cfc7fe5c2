"""The star that a process starts for itself: it works, says so once, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import pytest

import starcore
from starcore import LocalStar
from starcore.errors import ArgumentValueError, SessionLostError, SetupError

from .processes import Place, alive, children, eventually

GONE_SECONDS_MAX = 5.0
SAID = "starcore: no manager is configured and none runs on this machine, so a local star with "

EMBEDDED = """
import json, os, signal, sys, threading, time
import numpy as np, starcore

def work(a):
    return a * 2

a = np.arange(300_000.0)
assert np.array_equal(starcore.submit_array(work, a).result(), a * 2)
assert starcore.submit(pow, 2, 5).result() == 32
from starcore import local
star = local._default
with open("star.json", "w") as file:
    json.dump({"directory": str(star.directory), "pids": star.pids}, file)
print("worked", flush=True)
sys.stdin.readline()
"""


class Caller:
    """A script in a process of its own, with a directory for temporary files that must be empty after it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.temporary = place.directory / "tmp"
        self.temporary.mkdir()

    def start(self, code: str) -> subprocess.Popen[str]:
        environment = {**self.place.environment, "TMPDIR": str(self.temporary)}
        command = [sys.executable, "-c", EMBEDDED + code]
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=self.place.directory,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "worked\n", process.communicate()[1]
        self.below = children(process.pid)
        assert len(self.below) >= 3  # manager, worker, slots
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        return process

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        process = self.start(code)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(code, process.returncode, out, err)

    def assert_nothing_left(self) -> None:
        eventually(lambda: not any(map(alive, self.below)), "every child is gone", GONE_SECONDS_MAX)
        eventually(lambda: not list(self.temporary.iterdir()), "the directory is gone", GONE_SECONDS_MAX)
        assert not self.place.config.exists()
        assert not list((self.place.directory / "run").glob("*"))
        assert not [name for name in os.listdir("/dev/shm") if "starcore" in name]


@pytest.fixture
def caller(place: Place) -> Caller:
    return Caller(place)


# -- how it ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("print('end')", 0),
        ("raise ValueError('mine')", 1),
        ("starcore.submit(time.sleep, 60); sys.exit(7)", 7),
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("[starcore.submit(time.sleep, 60) for _ in range(5)]; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
    ids=["end", "exception", "sys.exit at work", "os._exit", "SIGTERM", "kill -9 at work"],
)
def test_nothing_is_left_however_the_caller_ends(caller: Caller, ending: str, code: int) -> None:
    ran = caller.run(ending)
    assert ran.returncode == code, ran.stderr
    caller.assert_nothing_left()
    assert ran.stderr.count(SAID) == 1
    if code != 1:
        assert ran.stderr.count("\n") == 1, ran.stderr
    else:
        assert ran.stderr.rstrip().endswith("ValueError: mine")


def test_ctrl_c_while_waiting_interrupts_the_caller_alone_and_quietly(caller: Caller) -> None:
    process = caller.start("print('waiting', flush=True); starcore.submit(time.sleep, 60).result()")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the foreground's whole group
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt"), said
    assert said.count("Traceback") == 1, said
    assert "manager" not in said.replace(SAID, "")
    caller.assert_nothing_left()


def test_caught_ctrl_c_leaves_the_star_at_work(caller: Caller) -> None:
    code = """
threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
try:
    starcore.submit(time.sleep, 60).result()
except KeyboardInterrupt:
    print(starcore.submit(pow, 3, 3).result(20))
"""
    ran = caller.run(code)
    assert ran.returncode == 0, ran.stderr
    assert "27" in ran.stdout
    caller.assert_nothing_left()


def test_forked_child_neither_ends_the_star_nor_keeps_it(caller: Caller) -> None:
    code = """
child = os.fork()
if child == 0:
    print("child", starcore.submit(pow, 2, 3).result(20), flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", starcore.submit(pow, 2, 4).result(20), flush=True)
if os.fork() == 0:
    time.sleep(20)  # longer than the parent, and longer than anybody waits
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = caller.start(code)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["child 8\n", "parent 16\n"]
        process.wait(20)
        caller.assert_nothing_left()
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_it_says_so_once_in_a_process_and_not_at_all_where_a_manager_runs(caller: Caller, place: Place) -> None:
    ran = caller.run("starcore.Client().shutdown(); starcore.connect().shutdown(); starcore.submit(abs, -1).result()")
    assert ran.stderr.count(SAID) == ran.stderr.count("\n") == 1
    place.manager()
    place.worker()
    ran = place.python("import starcore; print(starcore.submit(abs, -1).result())")
    assert (ran.stdout, ran.stderr) == ("1\n", "")


def test_environment_that_names_another_star_does_not_lead_its_children_astray(place: Place) -> None:
    code = (
        "import starcore\nwith starcore.LocalStar(workers=1) as s, s.client() as c: print(c.submit(abs, -1).result())"
    )
    variables = {"STARCORE_MANAGER": "203.0.113.1:1", "STARCORE_JOIN": "/no/such.join", "STARCOMPUTE_WORKER_KEY": "/no"}
    ran = place.python(code, **variables)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


# -- as a context manager ------------------------------------------------------------------------------------


@pytest.fixture
def own_directories(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STARCORE_CONFIG_DIR", "STARCORE_RUNTIME_DIR"):
        monkeypatch.setenv(name, place.environment[name])


@pytest.mark.usefixtures("own_directories")
def test_local_star_serves_its_clients_until_it_is_closed() -> None:
    before = set(children(os.getpid()))
    with LocalStar(workers=2, slots=1) as star:
        assert star.address == f"127.0.0.1:{star.client_port}"
        below = set(children(os.getpid())) - before
        assert {star.pids["manager"], *star.pids["workers"]} <= below
        with star.client() as client:
            assert client.slots == 2
            assert client.address == star.address
            assert list(client.map(abs, range(-3, 0))) == [3, 2, 1]
        late = star.client()
        with starcore.Client(star.address, join=star.join_file("client")) as other:
            assert other.submit(abs, -4).result(20) == 4
        waiting = late.submit(time.sleep, 60)
        directory = star.directory
        assert directory.stat().st_mode & 0o777 == 0o700
    assert not directory.exists()
    assert not below & set(children(os.getpid()))
    with pytest.raises((SessionLostError, CancelledError)):
        waiting.result(5)
    star.close()
    for use in (star.client, star.start_worker):
        with pytest.raises(SetupError, match="closed"):
            use()
    assert json.dumps(star.pids)  # still says who they were


@pytest.mark.usefixtures("own_directories")
def test_local_star_with_wrong_options_leaves_nothing() -> None:
    before = children(os.getpid())
    with pytest.raises(ArgumentValueError, match="slots >= 1"):
        LocalStar(slots=0)
    with pytest.raises(SetupError, match="the local manager ended with exit code 2"):
        LocalStar(manager_options=["--bogus"])
    refused = pytest.raises(SetupError, match="a local worker ended with 2")
    with LocalStar(workers=1, worker_options=["--bogus"]) as star, refused:
        star.client()
    assert children(os.getpid()) == before


@pytest.mark.usefixtures("own_directories")
def test_worker_that_is_killed_leaves_a_star_that_goes_on() -> None:
    with LocalStar(workers=1) as star, star.client() as client:
        star.start_worker("--name", "second")
        eventually(lambda: client.slots == 2, "the second worker's slot")
        os.kill(star.pids["workers"][0], signal.SIGKILL)
        assert list(client.map(abs, range(100))) == list(range(100))
        eventually(lambda: client.slots == 1, "the first one's slot is gone")
