"""A manager with a journal is killed, and comes back: real processes, real disks, one of them full."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.errors import UnrunnableError
from tests.disks import mounted

from .processes import Place
from .stars import tried_star, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")
SECONDS = 60.0
DISK_BYTES = 1 << 20
HEAD_BYTES = 30_000


def marked(number: int, path: str) -> int:
    """A task that leaves a mark when it has run."""
    time.sleep(0.005)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    return number * number


def doubled(array: Any, number: int, path: str) -> Any:
    marked(number, path)
    return array * 2


def results(futures: list[Future[Any]]) -> list[Any]:
    _, late = wait(futures, SECONDS)
    assert not late, f"{len(late)} of {len(futures)} futures never ended"
    return [future.result() for future in futures]


@pytest.mark.parametrize("more", [(), ("--shards", "2")], ids=["one process", "two shards"])
def test_killed_manager_goes_on_and_nothing_that_finished_runs_again(tmp_path: Path, more: tuple[str, ...]) -> None:
    marks = str(tmp_path / "marks")
    array = np.arange(300_000.0)
    options = ["--journal", str(tmp_path / "journal"), *more]
    with tried_star(tmp_path, workers=2, slots=1, manager_options=options) as star:
        client = star.client()
        small = [client.submit(marked, number, marks) for number in range(600)]
        arrays = [client.submit(doubled, array, 1000 + number, marks) for number in range(6)]
        for done in (50, 300):
            until(lambda done=done: sum(future.done() for future in small) > done, f"{done} results", SECONDS)
            star.kill_manager()
            star.restart_manager()
        assert results(small) == [number * number for number in range(600)]
        assert all((found == array * 2).all() for found in results(arrays))
        ran = Counter(map(int, Path(marks).read_text().split()))
        assert sorted(ran) == [*range(600), *range(1000, 1006)]
        assert set(ran.values()) == {1}, [number for number, times in ran.items() if times > 1]
        assert client.status()["journal"]["failure"] == ""


def test_tasks_that_waited_are_there_after_a_kill_with_their_client_away(tmp_path: Path) -> None:
    """The client is stopped dead while the manager dies; the tasks run before it is back."""
    marks = str(tmp_path / "marks")
    with tried_star(tmp_path, workers=0, manager_options=["--journal", str(tmp_path / "journal")]) as star:
        client = star.client(wait=False)
        futures = [client.submit(marked, number, marks) for number in range(50)]
        with star.client(wait=False) as observer:
            until(lambda: sum(each["queued"] for each in observer.status()["clients"]) == 50, "all queued")
        star.kill_manager()
        star.start_worker()
        star.restart_manager()
        assert results(futures) == [number * number for number in range(50)]
        assert Counter(Path(marks).read_text().split()).most_common(1)[0][1] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    with mounted(tmp_path / "disk", DISK_BYTES) as disk:
        yield disk


def test_full_disk_refuses_new_tasks_keeps_the_accepted_and_is_left_behind(tmp_path: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES * 3 // 4))
    options = ["--journal", str(small_disk / "journal")]
    with tried_star(tmp_path, workers=0, manager_options=options) as star:
        client = star.client(wait=False)
        futures: list[Future[Any]] = []

        def refused() -> list[BaseException]:
            futures.append(client.submit(len, os.urandom(HEAD_BYTES)))
            time.sleep(0.01)
            return [error for future in futures if future.done() and (error := future.exception())]

        error = until(refused, "the disk is full", SECONDS)[0]
        assert isinstance(error, UnrunnableError)
        assert "the manager's journal cannot be written: No space left on device" in str(error)
        waiting = [future for future in futures if not future.done()]
        assert len(waiting) > 5
        ballast.unlink()
        until(lambda: not client.status()["journal"]["failure"], "written again", SECONDS)
        futures = [*waiting, client.submit(len, os.urandom(HEAD_BYTES))]
        until(lambda: sum(each["queued"] for each in client.status()["clients"]) == len(futures), "all queued")
        star.kill_manager()
        star.restart_manager()
        star.start_worker()
        assert results(futures) == [HEAD_BYTES] * len(futures)
        assert "new tasks are taken" in star.log()


def test_second_manager_of_one_journal_is_turned_away(place: Place, tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    place.manager("--journal", journal)
    second = place.manager(ready=False, variables={"STARCORE_JOURNAL": journal})
    assert second.wait() == 2
    assert "another manager writes its journal" in second.log


def test_journal_that_the_star_names_needs_no_option(place: Place, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert place.starcore("certs", "init", "--journal", str(journal)).returncode == 0
    manager = place.manager()
    manager.wait_for(f"the journal is in {journal} .says {place.star / 'star.json'}")
    with place.client(manager) as client:
        client.detached("scan-7").submit(abs, -1)
    manager.kill()
    manager = place.manager()
    with place.client(manager) as client:
        assert [job.name for job in client.jobs()] == ["scan-7"]
    manager.terminate()
    without = place.manager("--journal", "none")
    with place.client(without) as client:
        assert client.jobs() == []
