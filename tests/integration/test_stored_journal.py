"""A manager with a journal is killed while it has detached jobs: real processes, clients gone, arrays in files."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.errors import StoredJobError, UnrunnableError
from tests.disks import mounted

from .processes import Manager, Place, eventually, free_ports

SECONDS = 60.0
BLOCKS = 12
MAKE = """
import os, signal, sys, time
import numpy, starcore

def double(block, marks, seconds, gate):
    while gate and not os.path.exists(gate) and os.path.exists(marks) and os.path.getsize(marks) >= 8:
        time.sleep(0.01)  # until it is opened, those wait that come when some four have run
    time.sleep(seconds)
    descriptor = os.open(marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b"%d\\n" % (block[0, 0] // 131072))
    os.close(descriptor)
    return block * 2

with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    array = numpy.arange({blocks} * 131072.0).reshape({blocks}, 131072)  # a block is a MiB
    arguments = (sys.argv[3], {seconds}, {gate!r})
    client.detached("scan-7").submit_array(double, array, args=arguments, chunks=1)
    print("accepted", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
FETCH = """
import sys
import numpy, starcore
with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    numpy.save(sys.argv[3], client.job("scan-7").result(60))
"""


class Killed:
    """A manager with a journal that is killed and comes back, on the same ports."""

    def __init__(self, place: Place, *options: str) -> None:
        self.place = place
        port, client_port = free_ports()
        self.journal = place.directory / "journal"
        self._options = ("--port", str(port), "--client-port", str(client_port), "--journal", str(self.journal))
        self._more = options
        self.manager = self.start()

    def start(self, *more: str) -> Manager:
        self.manager = self.place.manager(*self._options, *self._more, *more)
        return self.manager

    def again(self, *more: str) -> None:
        """Kill -9 it, and start it again."""
        self.manager.kill()
        self.start(*more)

    @property
    def marks(self) -> Path:
        return self.place.directory / "marks"

    def make(self, *, seconds: float = 0.0, gate: str = "", blocks: int = BLOCKS) -> None:
        """Have a process of its own detach "scan-7", and be killed."""
        code = MAKE.format(blocks=blocks, seconds=seconds, gate=gate)
        ran = self.place.run(*self._python(code), str(self.marks))
        assert (ran.stdout, ran.returncode) == ("accepted\n", -signal.SIGKILL), ran.stderr

    def fetch(self) -> Any:
        """Have another process fetch it."""
        out = self.place.directory / "fetched.npy"
        ran = self.place.run(*self._python(FETCH), str(out))
        assert ran.returncode == 0, ran.stderr
        return np.load(out)

    def _python(self, code: str) -> tuple[str, ...]:
        return sys.executable, "-c", code, self.manager.address, str(self.place.star / "client.join")

    def ran(self) -> Counter[int]:
        """How often each block was worked on."""
        return Counter(map(int, self.marks.read_text().split())) if self.marks.exists() else Counter()

    def files(self, directory: Path | None = None) -> list[Path]:
        return sorted((directory or self.journal / "bodies").glob("*.stored"))

    def row(self) -> dict[str, Any]:
        with self.place.client(self.manager) as client:
            return client.job("scan-7").status()


def expected(blocks: int = BLOCKS) -> Any:
    return np.arange(blocks * 131072.0).reshape(blocks, 131072) * 2


@pytest.fixture
def star(place: Place) -> Iterator[Killed]:
    killed = Killed(place)
    yield killed
    for program in place.programs:
        assert "Traceback" not in program.log, program.log


@pytest.mark.parametrize("shards", ["1", "2"])
def test_manager_killed_in_the_middle_goes_on_and_nothing_that_finished_runs_again(place: Place, shards: str) -> None:
    star = Killed(place, "--shards", shards)
    gate = str(place.directory / "gate")
    star.make(gate=gate)
    assert len(star.files()) == BLOCKS
    place.worker("--slots", "2")
    eventually(lambda: star.row()["done"] >= 3, "some blocks are done", SECONDS)
    star.again()
    eventually(lambda: star.row()["running"] >= 1, "the worker is back", SECONDS)
    row = star.row()
    assert row["accepted"] and row["tasks"] == BLOCKS and 3 <= row["done"] < BLOCKS, row
    listed = place.starcore("jobs").stdout
    assert re.search(r"scan-7 +double +12 ", listed), listed
    Path(gate).touch()
    eventually(lambda: star.row()["done"] >= 7, "more blocks are done", SECONDS)
    star.again()
    assert np.array_equal(star.fetch(), expected())
    assert star.ran() == Counter(range(BLOCKS))
    eventually(lambda: not star.files(), "the files are gone")
    star.again()
    with place.client(star.manager) as client:
        assert client.jobs() == []
        assert client.status()["held_bytes"] < 1 << 16  # the function, for the session that was killed
    for program in place.programs:
        assert "Traceback" not in program.log, program.log


def test_manager_killed_before_anything_ran_has_it_all(place: Place, star: Killed) -> None:
    star.make()
    star.again()
    star.again()
    assert star.row()["queued"] == BLOCKS
    place.worker("--slots", "2")
    assert np.array_equal(star.fetch(), expected())
    assert star.ran() == Counter(range(BLOCKS))


def test_manager_killed_after_all_has_finished_has_the_answers_without_a_worker(place: Place, star: Killed) -> None:
    star.make()
    worker = place.worker("--slots", "2")
    eventually(lambda: star.row()["done"] == BLOCKS, "all is done", SECONDS)
    worker.terminate()
    star.again()
    row = star.row()
    assert (row["done"], row["running"], row["queued"], row["bytes"] > BLOCKS << 20) == (BLOCKS, 0, 0, True)
    assert np.array_equal(star.fetch(), expected())
    assert star.ran() == Counter(range(BLOCKS))


def test_manager_killed_after_a_part_was_fetched_has_the_rest_and_the_part(place: Place, star: Killed) -> None:
    gate = str(place.directory / "gate")
    star.make(gate=gate)
    place.worker("--slots", "2")
    eventually(lambda: star.row()["done"] >= 4, "the first blocks are done", SECONDS)
    with place.client(star.manager) as client:
        part = dict(client.job("scan-7").results(SECONDS, wait=False))
    assert 4 <= len(part) < BLOCKS
    star.again()
    Path(gate).touch()
    with place.client(star.manager) as client:
        found = dict(client.job("scan-7").results(SECONDS))
        assert all(np.array_equal(found[index], part[index]) for index in part)
        assert np.array_equal(np.concatenate([found[index] for index in range(BLOCKS)]), expected())
    assert star.ran() == Counter(range(BLOCKS))


def test_reader_that_stays_reads_on_under_the_next_manager(place: Place, star: Killed) -> None:
    gate = str(place.directory / "gate")
    star.make(gate=gate)
    place.worker("--slots", "2")
    with place.client(star.manager) as client:
        results = client.job("scan-7").results(SECONDS)
        found = dict([next(results)])
        star.again()
        Path(gate).touch()
        for index, block in results:
            assert index not in found
            found[index] = block
    assert np.array_equal(np.concatenate([found[index] for index in range(BLOCKS)]), expected())
    assert star.ran() == Counter(range(BLOCKS))


def test_cancelled_job_stays_cancelled_and_forgotten_one_forgotten(place: Place, star: Killed) -> None:
    star.make()
    with place.client(star.manager) as client:
        client.job("scan-7").cancel()
    star.again()
    assert star.row()["cancelled"] == BLOCKS
    assert star.files() == []
    with place.client(star.manager) as client:
        client.job("scan-7").forget()
    star.again()
    with place.client(star.manager) as client, pytest.raises(StoredJobError):
        client.job("scan-7")


def test_time_goes_on_while_the_manager_is_down(place: Place) -> None:
    star = Killed(place, "--keep-seconds", "4")
    star.make()
    left = star.row()["expires_in_seconds"]
    star.manager.kill()
    time.sleep(1.0)
    star.start()
    assert star.row()["expires_in_seconds"] < left - 0.9
    star.manager.wait_for("stored job scan-7 of .* goes: kept for 4 s")
    eventually(lambda: not star.files(), "its files have gone")


def test_files_lie_in_the_spool_that_is_named_and_another_one_is_refused(place: Place) -> None:
    spool = place.directory / "spool"
    star = Killed(place)
    options = ("--spool", str(spool), "--stored-memory", "1M", "--spool-size", "64M")
    star.again(*options)
    star.make()
    assert len(star.files(spool)) == BLOCKS and not star.files()
    (spool / "left.stored").write_bytes(b"of nobody")
    star.manager.kill()
    elsewhere = place.manager(*star._options, "--spool", str(place.directory / "another"), ready=False)
    assert elsewhere.wait() == 2
    assert f"the manager before had them in {spool}" in elsewhere.log
    star.start(*options)
    assert len(star.files(spool)) == BLOCKS
    row = star.row()
    with place.client(star.manager) as client:
        waiting = client.detached("second")
        assert row["bytes"] > BLOCKS << 20
        with pytest.raises(ValueError, match="stores 68157440"):
            waiting.submit_array(abs, np.zeros(70 << 17))
    place.worker("--slots", "2")
    assert np.array_equal(star.fetch(), expected())


def test_wrong_journal_for_a_spool_is_refused_and_costs_nothing(place: Place) -> None:
    spool = place.directory / "spool"
    star = Killed(place, "--spool", str(spool), "--spool-size", "64M")
    star.make()
    star.manager.kill()
    wrong = place.manager(*star._options, *star._more, "--journal", str(place.directory / "jornal"), ready=False)
    assert wrong.wait() == 2
    assert f"{BLOCKS} files of detached jobs in {spool} belong to another journal" in wrong.log
    star.start()
    place.worker("--slots", "2")
    assert np.array_equal(star.fetch(), expected())


def test_file_that_is_missing_or_damaged_fails_its_task_alone_and_is_told(place: Place, star: Killed) -> None:
    star.make()
    files = star.files()
    star.manager.kill()
    files[0].unlink()
    os.truncate(files[1], 1000)
    with files[2].open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    star.start()
    assert star.row()["failed"] == 3
    place.worker("--slots", "2")
    with place.client(star.manager) as client:
        found = dict(client.job("scan-7").results(SECONDS))
    lost = {index: str(value) for index, value in found.items() if isinstance(value, UnrunnableError)}
    assert sorted(lost) == [0, 1, 2]
    assert all("its argument, which the manager kept, is lost" in text for text in lost.values())
    assert all(np.array_equal(found[index], expected()[index : index + 1]) for index in range(3, BLOCKS))
    for reason in ("No such file", "it has 1000 bytes", "it is damaged"):
        assert f"{reason}" in star.manager.log
    assert "3 tasks of detached jobs fail" in star.manager.log


def test_large_function_outlives_the_manager(place: Place, star: Killed) -> None:
    code = """
import os, sys
import starcore
table = os.urandom(1 << 20)
with starcore.Client(sys.argv[1], join=sys.argv[2]) as client:
    client.detached("scan-7").submit(lambda place: (place, len(table)), 7)
"""
    ran = place.run(sys.executable, "-c", code, star.manager.address, str(place.star / "client.join"))
    assert ran.returncode == 0, ran.stderr
    star.again()
    place.worker()
    with place.client(star.manager) as client:
        assert client.job("scan-7").result(SECONDS) == (7, 1 << 20)
    eventually(lambda: len(star.files()) <= 1, "the argument is gone")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    with mounted(tmp_path / "disk", 24 << 20) as disk:
        yield disk


def test_full_disk_refuses_a_new_job_and_keeps_the_accepted_one(place: Place, small_disk: Path) -> None:
    star = Killed(place, "--spool", str(small_disk / "spool"), "--spool-size", "1G")
    star.make()
    with place.client(star.manager) as client:
        with pytest.raises(StoredJobError, match="cannot be written: No space left on device"):
            client.detached("second").submit_array(abs, np.ones(16 << 17))
        assert [job.name for job in client.jobs()] == ["scan-7"]
        eventually(lambda: len(star.files(small_disk / "spool")) == BLOCKS, "what came of the second one is gone")
        star.manager.wait_for("is written again")
        client.detached("third").submit_array(abs, np.ones(1 << 17))
    star.again()
    place.worker("--slots", "2")
    assert np.array_equal(star.fetch(), expected())
    with place.client(star.manager) as client:
        assert np.array_equal(client.job("third").result(SECONDS), np.ones(1 << 17))


@pytest.mark.parametrize("shards", ["1", "2"])
def test_file_that_goes_while_the_manager_runs_costs_what_needs_it_and_no_connection(place: Place, shards: str) -> None:
    star = Killed(place, "--shards", shards)
    star.make(blocks=4)
    star.files()[1].unlink()
    place.worker("--slots", "1")
    eventually(lambda: star.row()["done"] == 3, "the others are done", SECONDS)
    assert star.row()["failed"] == 1
    for path in star.files():  # the answers
        path.unlink()
    with place.client(star.manager) as client:
        results = dict(client.job("scan-7").results(SECONDS))
        assert [type(results[index]) for index in range(4)] == [UnrunnableError] * 4
        assert "its argument" in str(results[1]) and "its answer" in str(results[0])
        assert "No such file" in str(results[0])
        assert star.row()["failed"] == 4
        client.job("scan-7").forget()
    log = "".join(program.log for program in place.programs)
    assert log.count("is lost: 00000000000000") == 4 and "Traceback" not in log and "came back" not in log, log
