"""Detached jobs with real processes: made by one, come back for by another, from a star that has little memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.client.jobs import DetachedJob
from starcore.errors import ArgumentValueError, StoredJobError

from .processes import Manager, Place, eventually

SECONDS = 60.0
MAKE = """
import os, signal, sys
import numpy, starcore

def double(block):
    return block * 2

with starcore.Client({address!r}, join={join!r}) as client:
    array = numpy.arange(400_000.0).reshape(200, 2000)
    client.submit_array(double, array, chunks=20, detach=True, name="scan-7")
    print("accepted", flush=True)
    if {die}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def expected() -> Any:
    return np.arange(400_000.0).reshape(200, 2000) * 2


def make(place: Place, manager: Manager, *, die: bool = False) -> None:
    """Have a process of its own detach "scan-7", and be gone."""
    join = str(place.star / "client.join")
    ran = place.python(MAKE.format(address=manager.address, join=join, die=die))
    assert ran.stdout == "accepted\n", ran.stderr
    assert ran.returncode == (-signal.SIGKILL if die else 0), ran.stderr


def held(place: Place, manager: Manager) -> int:
    """How many bytes of payloads the manager has."""
    with place.client(manager) as client:
        return int(client.status()["held_bytes"])


@pytest.mark.parametrize("die", [False, True], ids=["that ends", "that is killed"])
def test_job_of_a_process_is_fetched_by_another(place: Place, die: bool) -> None:
    manager = place.manager("--session-grace-seconds", "1")  # a killed client's session keeps its function so long
    make(place, manager, die=die)
    place.worker("--slots", "2")
    with place.client(manager) as client:
        job = client.job("scan-7")
        assert job.wait(SECONDS)
        assert dict(job.results(SECONDS))[3].shape == (20, 2000)
        assert np.array_equal(job.result(SECONDS), expected())
        assert client.jobs() == []
    eventually(lambda: held(place, manager) == 0, "nothing is left at the manager")
    assert "Traceback" not in manager.log


def test_client_killed_on_its_way_leaves_nothing(place: Place) -> None:
    manager = place.manager("--session-grace-seconds", "0.5")
    script = """
import os, signal, sys, threading, time
import numpy, starcore
client = starcore.Client(sys.argv[1], join=sys.argv[2])
print("begins", flush=True)
array = numpy.zeros((64, 1 << 20))
client.detached("scan-7").submit_array(numpy.sum, array, chunks=1)
"""
    program = place.start(sys.executable, "-c", script, manager.address, str(place.star / "client.join"))
    program.wait_for("begins")
    eventually(lambda: held(place, manager) > 0, "bytes come")
    program.kill()
    eventually(lambda: held(place, manager) == 0, "nothing is left at the manager")
    with place.client(manager) as client:
        assert client.jobs() == []


def test_another_certificate_sees_nothing_of_it(place: Place) -> None:
    manager = place.manager()
    make(place, manager)
    stranger = place.issue("client", "stranger")
    with place.client(manager, join=stranger) as client:
        assert client.jobs() == []
        with pytest.raises(StoredJobError):
            client.job("scan-7")
        DetachedJob(client._live, "scan-7").forget()
    same = place.directory / "elsewhere.join"
    same.write_bytes((place.star / "client.join").read_bytes())
    same.chmod(0o600)
    with place.client(manager, join=same) as client:
        assert [job.name for job in client.jobs()] == ["scan-7"]


def test_job_goes_after_its_time(place: Place) -> None:
    manager = place.manager("--keep-seconds", "1")
    make(place, manager)
    with place.client(manager) as client:
        eventually(lambda: not client.jobs(), "the job has gone")
    manager.wait_for(r"stored job scan-7 of .* goes: kept for 1 s")
    eventually(lambda: held(place, manager) == 0, "its bytes have gone")


def test_job_larger_than_the_store_is_refused_with_what_helps(place: Place) -> None:
    manager = place.manager("--stored-memory", "1M")
    with place.client(manager) as client, pytest.raises(ArgumentValueError, match="--stored-memory, --spool"):
        client.detached().submit_array(abs, np.ones(1 << 20))


def test_job_waits_for_room_until_another_one_is_fetched(place: Place) -> None:
    manager = place.manager("--stored-memory", "4M")
    make(place, manager)
    place.worker()
    script = """
import sys
import numpy, starcore
with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    print("waits", flush=True)
    client.detached("second").submit_array(numpy.negative, numpy.ones(400_000))
    print("accepted", flush=True)
"""
    program = place.start(sys.executable, "-c", script, manager.address, str(place.star / "client.join"))
    with place.client(manager) as client:
        eventually(lambda: len(client.jobs()) == 2, "the second one is announced")
        assert client.job("second").status()["arrived"] == 0
        assert "accepted" not in program.log
        assert np.array_equal(client.job("scan-7").result(SECONDS), expected())
        program.wait_for("accepted")
        assert np.array_equal(client.job("second").result(SECONDS), -np.ones(400_000))


def test_answers_larger_than_the_store_are_fetched_while_they_come(place: Place) -> None:
    manager = place.manager("--stored-memory", "2M")
    place.worker("--slots", "2")
    with place.client(manager) as client:
        job = client.detached("grows").map(np.ones, [125_000] * 12, chunksize=1)  # a million bytes each
        eventually(lambda: job.status()["done"] >= 2, "some are done")
        answers = job.result(SECONDS)
        assert [float(answer.sum()) for answer in answers] == [125_000.0] * 12
        assert client.jobs() == []


@pytest.mark.parametrize("shards", ["1", "2"])
def test_what_memory_has_no_room_for_lies_in_the_spool_until_it_is_fetched(place: Place, shards: str) -> None:
    spool = place.directory / "spool"
    options = ("--stored-memory", "500K", "--spool", str(spool), "--spool-size", "64M", "--shards", shards)
    manager = place.manager(*options)
    make(place, manager)
    assert sum(path.stat().st_size for path in spool.glob("*.body")) > 2_000_000
    place.worker("--slots", "2")
    with place.client(manager) as client:
        assert client.job("scan-7").wait(SECONDS)
        assert list(spool.glob("*.body"))
        assert np.array_equal(client.job("scan-7").result(SECONDS), expected())
    eventually(lambda: not list(spool.glob("*.body")), "the files are gone")
    assert "Traceback" not in manager.log
    manager.terminate()
    assert [path.name for path in spool.iterdir()] == ["lock"]


def test_disk_that_is_full_costs_nothing_that_was_accepted(place: Place) -> None:
    spool = place.directory / "spool"
    spool.mkdir()
    (spool / f"{2:016x}.body").symlink_to("/dev/full")
    options = ("--stored-memory", "100K", "--spool", str(spool), "--spool-size", "64M")
    manager = place.manager(*options)
    (spool / f"{2:016x}.body").symlink_to("/dev/full")  # a manager that starts clears its spool
    make(place, manager)
    manager.wait_for("the spool takes no more")
    place.worker("--slots", "2")
    with place.client(manager) as client:
        with pytest.raises(ArgumentValueError, match="stores 102400"):
            client.detached().submit_array(abs, np.ones(1 << 20))
        assert np.array_equal(client.job("scan-7").result(SECONDS), expected())


def test_commands_list_fetch_and_forget(place: Place) -> None:
    manager = place.manager()
    make(place, manager)
    told = place.starcore("jobs").stdout
    assert re.search(r"scan-7 +double +10 ", told)
    missing = place.starcore("jobs", "fetch", "scan-8", "--out", "x.npy")
    assert (missing.returncode, missing.stderr.count("\n")) == (6, 1)
    assert "no stored job 'scan-8' of this client" in missing.stderr
    assert "'starcore jobs', tells which" in missing.stderr
    wrong = place.starcore("jobs", "scan-7")
    assert (wrong.returncode, "starcore jobs list NAME" in wrong.stderr) == (2, True)
    early = place.starcore("jobs", "fetch", "scan-7", "--out", "x.npy", "--timeout", "0.1")
    assert early.returncode == 7
    assert "0 of 10 tasks have ended, 0 are at workers, 10 wait, and no worker is connected; it goes on" in early.stderr
    assert "no worker is connected" in place.starcore("status").stdout
    place.worker("--slots", "2")
    for keep in (["--keep"], []):
        fetched = place.starcore("jobs", "fetch", "scan-7", "--out", "scan.npy", "--timeout", "60", *keep)
        assert fetched.returncode == 0, fetched.stderr
        assert fetched.stdout == f"scan-7: written to scan.npy; the job is {'still there' if keep else 'forgotten'}\n"
        story = place.starcore("story", told.split()[-1]) if keep else None
        assert story is None or "returned on" in story.stdout, story
        assert np.array_equal(np.load(place.directory / "scan.npy"), expected())
    assert json.loads(place.starcore("jobs", "--json").stdout) == []


def test_commands_tell_failures_from_trouble(place: Place) -> None:
    manager = place.manager()
    place.worker()
    with place.client(manager) as client:
        client.detached("bad").submit(divmod, 1, 0)
        client.detached("words").submit(str.split, "a b")
        client.detached("deadly").submit(os._exit, 3)
        client.detached("dict").submit(dict, a=1)
        slow = client.detached("slow").submit("never:registered")
    bad = place.starcore("jobs", "fetch", "bad", "--out", "x.npy")
    assert (bad.returncode, "ZeroDivisionError" in bad.stderr, bad.stderr.count("\n")) == (1, True, 1)
    deadly = place.starcore("jobs", "fetch", "deadly", "--out", "x.npy")
    assert (deadly.returncode, "a task of deadly failed" in deadly.stderr) == (1, True), deadly
    assert deadly.stderr.endswith("The job is still there.\n")
    strange = place.starcore("jobs", "fetch", "dict", "--out", "x.npy")
    assert (strange.returncode, "starcore.Client().job('dict').result()" in strange.stderr) == (2, True), strange
    nowhere = place.starcore("jobs", "fetch", "words", "--out", str(Path("no", "such", "directory.npy")))
    assert (nowhere.returncode, "still there" in nowhere.stderr) == (2, True)
    said = place.starcore("jobs", "cancel", slow.name)
    assert (said.returncode, "slow: cancelled; 0 of 1 tasks have a result" in said.stdout) == (0, True), said
    cancelled = place.starcore("jobs", "fetch", slow.name, "--out", "x.npy")
    assert (cancelled.returncode, "was cancelled" in cancelled.stderr) == (1, True)
    for name in ("bad", "words", "slow", "deadly", "dict"):
        assert place.starcore("jobs", "forget", name).returncode == 0
    assert place.starcore("jobs").stdout == "no detached jobs\n"
    assert not list(place.directory.glob("*x.npy*"))


BIG = """
import sys
import numpy, starcore

def grow(block, rows):
    return numpy.repeat(block, rows, axis=0)

with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    rows = int(sys.argv[3])
    client.detached("one").submit_array(grow, numpy.arange(16384.0).reshape(1, 16384), args=(16 * rows,))
    array = numpy.arange(rows * 16384.0).reshape(rows, 16384)
    client.detached("blocks").submit_array(numpy.negative, numpy.repeat(array, 16, axis=0), chunks=64)
    client.detached("irregular").submit_array(grow, array, args=(16,), chunks=4)
"""


PEAK = """
import sys
from starcore import jobs
code = jobs.main(sys.argv[1:])
status = open("/proc/self/status").read()
print(code, status.partition("VmHWM:")[2].split()[0])
"""


def peak_bytes(place: Place, *arguments: str) -> int:
    """Run `starcore jobs` to its end; returns the most memory that it had."""
    ran = place.run(sys.executable, "-c", PEAK, *arguments, seconds=120)
    code, peak = ran.stdout.split()[-2:]
    assert code == "0", ran.stderr
    return int(peak) << 10


def test_fetch_needs_memory_for_a_part_of_the_answer_alone(place: Place) -> None:
    manager = place.manager("--memory", "2G", "--stored-memory", "1G")
    for _ in range(2):
        place.worker("--arena", "512M")
    rows = 128  # 256 MiB each
    join = str(place.star / "client.join")
    ran = place.run(sys.executable, "-c", BIG, manager.address, join, str(rows))
    assert ran.returncode == 0, ran.stderr
    least = peak_bytes(place)
    source = np.arange(rows * 16384.0).reshape(rows, 16384)
    for name, wanted in (
        ("one", np.repeat(source[:1], 16 * rows, axis=0)),
        ("blocks", np.repeat(-source, 16, axis=0)),
        ("irregular", np.repeat(source, 16, axis=0)),
    ):
        peak = peak_bytes(place, "fetch", name, "--out", f"{name}.npy")
        found = np.load(place.directory / f"{name}.npy", mmap_mode="r")
        assert found.shape == wanted.shape and np.array_equal(found, wanted), name
        assert peak < least + (128 << 20), (name, peak >> 20, least >> 20)
    assert not list(place.directory.glob(".*.part"))


def test_interrupted_fetch_leaves_no_half_file_and_the_job(place: Place) -> None:
    manager = place.manager()
    make(place, manager)
    fetch = place.start(sys.executable, "-m", "starcore", "jobs", "fetch", "scan-7", "--out", "scan.npy")
    eventually(lambda: list(place.directory.glob(".scan.npy.*.part")), "it waits")
    with place.client(manager) as client:
        eventually(lambda: client.status()["jobs"], "it reads")
        for _ in range(2):
            fetch.signal(signal.SIGINT)
        assert fetch.wait(10) == 130
        assert fetch.log == ""
        assert not list(place.directory.glob("*scan.npy*"))
        assert [job.name for job in client.jobs()] == ["scan-7"]


def test_reader_survives_a_connection_that_breaks(place: Place, sever: Callable[[int], None]) -> None:
    manager = place.manager()
    make(place, manager)
    with place.client(manager) as client:
        results = client.job("scan-7").results(SECONDS)
        place.worker("--slots", "2")
        found = dict([next(results)])
        for descriptor in client._live()._driver.descriptors():
            sever(descriptor)
        found.update(results)
        assert sorted(found) == list(range(10))
        whole = np.concatenate([found[index] for index in range(10)])
        assert np.array_equal(whole, expected())


@pytest.fixture
def sever() -> Callable[[int], None]:
    """Shut a socket of this process down, as a network that goes away does."""
    import socket  # noqa: PLC0415

    def shut(descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    return shut
