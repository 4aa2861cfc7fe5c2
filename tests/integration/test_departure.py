"""Workers that leave because somebody says so, or because their batch job ends: nothing is lost by it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .processes import Place, children, eventually

SECONDS = 60.0


def sleep_and_tell(seconds: float, directory: str) -> int:
    Path(directory, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(seconds)
    return os.getppid()


def until_told(directory: str, go: str) -> int:
    Path(directory, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    while not os.path.exists(go):
        time.sleep(0.01)
    return os.getppid()


def test_drain_command_lets_the_named_worker_finish_and_leave(place: Place, tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    runs.mkdir()
    manager = place.manager()
    leaving = place.worker("--name", "node7-1")
    with place.client(manager) as client:
        running = client.submit(until_told, str(runs), str(go))
        eventually(lambda: os.listdir(runs), "its start")
        waiting = client.submit(sleep_and_tell, 0.0, str(runs))
        said = place.starcore("drain", "node7*", "--manager", manager.address)
        assert (said.returncode, said.stdout) == (0, "node7-1 drains\n"), said.stderr
        leaving.wait_for("draining .asked by client drain-")
        staying = place.worker("--name", "other")
        assert waiting.result(SECONDS) == staying.pid
        go.touch()
        assert running.result(SECONDS) == leaving.pid
        assert leaving.wait() == 0
        nobody = place.starcore("drain", "node7*", "--manager", manager.address)
        assert (nobody.returncode, nobody.stdout) == (1, "")
        assert "no worker of this name or host: node7*" in nobody.stderr
    assert len(os.listdir(runs)) == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_of_a_batch_system_to_all_processes_drains_and_what_runs_is_finished(
    place: Place, tmp_path: Path, number: signal.Signals
) -> None:
    manager = place.manager()
    worker = place.worker()
    with place.client(manager) as client:
        future = client.submit(sleep_and_tell, 2.0, str(tmp_path))
        eventually(lambda: [name for name in os.listdir(tmp_path) if name[0].isdigit()], "its start")
        for pid in [worker.pid, *children(worker.pid)]:
            os.kill(pid, number)
        assert future.result(SECONDS) == worker.pid
        assert worker.wait() == 0


def sleep_the_first_time(seconds: float, directory: str) -> int:
    return sleep_and_tell(0.0 if os.listdir(directory) else seconds, directory)


def test_end_of_a_slurm_job_hands_back_what_cannot_finish(place: Place, tmp_path: Path) -> None:
    manager = place.manager()
    end = int(time.time()) + 20
    leaving = place.worker("--drain-before", "12", variables={"SLURM_JOB_END_TIME": str(end)})
    leaving.wait_for("SLURM_JOB_END_TIME.*takes nothing more in the last 12 s")
    with place.client(manager) as client:
        runs = tmp_path / "runs"
        runs.mkdir()
        endless = client.submit(sleep_the_first_time, 60.0, str(runs))
        eventually(lambda: os.listdir(runs), "its start")
        leaving.wait_for("draining .its time is almost up", 30)
        staying = place.worker()
        assert leaving.wait(30) == 0
        assert time.time() < end
        assert endless.result(SECONDS) == staying.pid
    assert len(os.listdir(runs)) == 2
