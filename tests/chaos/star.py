"""The star that is hurt: a manager, workers and callers, each behind a proxy of its own.

::

    caller 0 ══ wire 0 ══▶ manager ◀══ wire 3 ══ worker 0 ─ slots
    caller 1 ══ wire 1 ══▶         ◀══ wire 4 ══ worker 1 ─ slots
    caller 2 ══ wire 2 ══▶         ◀══ wire 5 ══ worker 2 ─ slots

A worker or caller that was killed comes back behind the same wire; a caller with new work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.proxy import Proxy
from tests.integration.stars import TriedStar, children, until

SILENCE_SECONDS = 3.0
SESSION_GRACE_SECONDS = 12.0
ROOT = Path(__file__).resolve().parents[2]
SLOTS = 2
START_SECONDS_MAX = 60.0


class HurtStar:
    """Everything that can be hurt.

    Parameters
    ----------
    directory : path
        For the log, and what callers note.
    seed : int
        Callers' work follows from it.
    workers, callers : int
        How many of each.
    """

    def __init__(self, directory: Path, seed: int, workers: int = 3, callers: int = 3) -> None:
        self.directory = directory
        self.seed = seed
        grace = ("--silence-seconds", str(SILENCE_SECONDS), "--session-grace-seconds", str(SESSION_GRACE_SECONDS))
        # Nobody leaves a file behind in here; the star's own directory is in it, too.
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self._tempdir, tempfile.tempdir = tempfile.tempdir, str(self.scratch)
        variables = {"TMPDIR": str(self.scratch)}
        self.star = TriedStar(directory, workers=0, slots=SLOTS, manager_options=grace, variables=variables)
        self.caller_wires = [Proxy(self.star.client_port) for _ in range(callers)]
        self.worker_wires = [Proxy(self.star.port) for _ in range(workers)]
        self.callers: list[subprocess.Popen[bytes]] = []
        self.workers: list[int] = []
        self._started = 0
        for place in range(workers):
            self.workers.append(self._start_worker(place))

    def settle(self) -> None:
        """Wait until every worker is in, and nobody else."""
        with self.star.client(wait=False) as client:
            until(lambda: client.slots == SLOTS * len(self.workers), "all workers", START_SECONDS_MAX)

    def forget_absent(self) -> None:
        """Wait until the manager no longer waits for callers that were killed, or whose farewell was cut off."""
        with self.star.client(wait=False) as client:
            seconds = SESSION_GRACE_SECONDS + SILENCE_SECONDS + START_SECONDS_MAX
            until(lambda: len(client.status()["clients"]) == 1, "the end of absent sessions", seconds)

    def start_callers(self) -> None:
        """Start to work."""
        self.callers += [self._start_caller(place) for place in range(len(self.caller_wires))]

    @property
    def wires(self) -> list[Proxy]:
        """All wires, those of callers first."""
        return [*self.caller_wires, *self.worker_wires]

    @property
    def manager_pid(self) -> int:
        """The manager's."""
        return int(self.star.pids["manager"])

    def slots(self) -> list[int]:
        """All slots that run now."""
        return [slot for worker in self.workers if worker for slot in children(worker)]

    def notes(self) -> list[dict[str, int]]:
        """What callers have verified so far: a row for each piece of work."""
        rows = []
        for path in sorted(self.directory.glob("caller-*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows += [json.loads(line) for line in lines if line.endswith("\n")]  # the last one of a killed one is torn
        return rows

    # -- hurting, and healing --------------------------------------------------------------------------------

    def kill_worker(self, place: int) -> bool:
        """Kill -9 a supervisor. False where none runs there now."""
        pid, self.workers[place] = self.workers[place], 0
        if pid:
            self.star.kill_worker(pid)
        return bool(pid)

    def return_worker(self, place: int) -> None:
        """Start a worker in place of one that was killed."""
        if not self.workers[place]:
            self.workers[place] = self._start_worker(place)

    def kill_caller(self, place: int) -> bool:
        """Kill -9 a client. False where it has ended already."""
        running = self.callers[place].poll() is None
        self.callers[place].kill()
        self.callers[place].wait()
        return running

    def return_caller(self, place: int) -> None:
        """Start a client in place of one that was killed."""
        self.callers[place] = self._start_caller(place)

    def dismiss_callers(self) -> None:
        """Let every caller finish what it has begun, and end."""
        for caller in self.callers:
            if caller.stdin is not None:
                caller.stdin.close()

    def close(self) -> None:
        """End everything."""
        tempfile.tempdir = self._tempdir
        for caller in self.callers:
            caller.kill()
            caller.wait()
        self.star.close()
        for wire in self.wires:
            wire.close()

    # -- private ---------------------------------------------------------------------------------------------

    def _start_worker(self, place: int) -> int:
        self._started += 1
        address = self.worker_wires[place].address
        name = f"w{place}-{self._started}"
        return self.star.start_worker("--manager", address, "--name", name, "--arena", "256M")

    def _start_caller(self, place: int) -> subprocess.Popen[bytes]:
        self._started += 1
        notes = self.directory / f"caller-{self._started}.jsonl"
        command = [sys.executable, "-m", "tests.chaos.caller", "--address", self.caller_wires[place].address]
        command += ["--join", str(self.star.join_file("client")), "--notes", str(notes)]
        command += ["--seed", str(self.seed * 1000 + self._started)]
        return self.star.start_program(command, stdin=subprocess.PIPE, cwd=ROOT)
