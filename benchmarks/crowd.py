"""A thousand workers out of a few processes: what the manager sees is real, the slots are not processes.

Each member of the crowd is a `WorkerCore` on a `Driver` of its own, over a TLS connection of its own, so it greets,
keeps silence and comes back exactly as a worker does. Its slot is this process: a task is run as soon as it is
there. A member costs some 100 KB here, where a worker with its slot costs 60 MB::

    Crowd ──starts──▶ this module as a program ─┬─ Member ─▶ WorkerCore ◀─▶ Driver ══TLS══▶ manager
      ▲                                         ├─ Member ...
      └── a line of JSON each time all are up ──┘

Tasks with a body are beyond it: its members have no arena.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import platform
import secrets
import select
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import uvloop

from benchmarks.harness import ROOT, child_environment
from starcore import LocalStar, tls
from starcore.driver import Driver
from starcore.errors import Status
from starcore.events import Dial, Event, Lost, Received
from starcore.messages import PROTOCOL_VERSION, Hello, Role, Welcome
from starcore.pickling import load_call, load_function, pack_answer
from starcore.settings import dialer
from starcore.worker.core import WorkerCore
from starcore.worker.orders import (
    Inspect,
    Inspected,
    KillSlot,
    Recall,
    RunBatch,
    SlotDied,
    SlotDone,
    SlotReady,
    StartSlot,
    Teach,
)
from starcore.worker.runs import Run

DIAL_SECONDS_MAX = 10.0
WAIT_SECONDS_MAX = 60.0

_log = logging.getLogger("starcore.crowd")


# -- in the program ------------------------------------------------------------------------------------------------


class Hall:
    """What the members of one process share: the way to the manager, the functions, and the count of who is up."""

    def __init__(self, target: tls.Target, members: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.target = target
        self.context = tls.dial_context(target.identity)
        self.functions: dict[bytes, Callable[..., Any]] = {}
        self.up: set[int] = set()
        self._members = [Member(self, number) for number in range(members)]

    def start(self) -> None:
        """Let everybody dial."""
        for member in self._members:
            member.start()

    def welcomed(self, number: int) -> None:
        """Say when the last one is in."""
        self.up.add(number)
        if len(self.up) == len(self._members):
            print(json.dumps({"all_up_at": time.monotonic()}), flush=True)

    def close(self) -> None:
        """Say goodbye."""
        for member in self._members:
            member.leave()


class Watched(WorkerCore):
    """A worker's core that tells when its link stands."""

    hall: Hall
    number: int

    def handle(self, event: Event, now: float) -> list[Any]:
        """Take an event, as the worker's core does."""
        kind = type(event)
        if kind is Received and type(event.message) is Welcome:
            self.hall.welcomed(self.number)
        elif kind is Lost:
            self.hall.up.discard(self.number)
        return super().handle(event, now)


class Member:
    """One worker: the shell of its core."""

    def __init__(self, hall: Hall, number: int) -> None:
        hello = Hello(
            PROTOCOL_VERSION,
            Role.WORKER,
            secrets.token_bytes(16),
            name=f"crowd-{os.getpid()}-{number}",
            host=platform.node(),
            pid=os.getpid(),
            software="starcore crowd",
            python="{}.{}".format(*sys.version_info),
            slots=1,
        )
        self.core = Watched(hello)
        self.core.hall, self.core.number = hall, number
        self.driver = Driver(self.core, hall.loop, self, _log)
        self._hall = hall
        self._jobs: dict[int, Callable[..., Any]] = {}
        self._dialling: asyncio.Task[None] | None = None
        self._board = (0, 0)
        """The last batch, and how many of its tasks were begun."""

    def start(self) -> None:
        """Begin as a worker does."""
        for action in self.core.start(self._hall.loop.time()):
            self.perform(action)

    def leave(self) -> None:
        """Say goodbye, and dial no more."""
        if self._dialling is not None:
            self._dialling.cancel()
        self.driver.close_all()

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Any) -> None:
        """Carry out an action; there is no memory to be asked for."""
        kind, loop = type(action), self._hall.loop
        if kind is RunBatch:
            loop.call_soon(self._run, action.slot, action.batch, action.run)
        elif kind is Dial:
            self._dialling = loop.create_task(self._dial(action.delay_seconds))
        elif kind is StartSlot:
            loop.call_soon(self.driver.feed, SlotReady(action.slot, os.getpid()))
        elif kind is KillSlot:
            loop.call_soon(self.driver.feed, SlotDied(action.slot, "it was asked to end"))
        elif kind is Teach:
            self._learn(action)
        elif kind is Inspect or kind is Recall:
            loop.call_soon(self._inspected, action.slot, action.batch if kind is Recall else 0)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> None:
        """Nothing comes in chunks."""

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> bytes:
        """Nothing leaves in chunks."""
        raise TypeError("a crowd has no bodies")

    def release(self, token: Any) -> None:
        """Nothing to give back."""

    # -- private ---------------------------------------------------------------------------------------------

    async def _dial(self, delay: float) -> None:
        await asyncio.sleep(delay)
        hall = self._hall
        target = hall.target
        identify = functools.partial(tls.identify, target.identity, Role.MANAGER)
        try:
            connecting = hall.loop.create_connection(
                lambda: self.driver.connection(identify),
                target.host,
                target.port,
                ssl=hall.context,
                server_hostname=target.identity.server_name,
            )
            await asyncio.wait_for(connecting, DIAL_SECONDS_MAX)
        except (OSError, asyncio.TimeoutError) as error:
            self.driver.feed(Lost(0, str(error)))

    def _learn(self, lesson: Teach) -> None:
        functions, digest = self._hall.functions, lesson.job.digest
        if digest not in functions:
            assert lesson.blob is not None, "a function that this process has not seen comes with its bytes"
            functions[digest] = load_function(bytes(lesson.blob))
        self._jobs[lesson.job.job] = functions[digest]

    def _inspected(self, slot: int, recalled: int) -> None:
        """Say what a slot's board would: nothing runs, and what was given to it has ended."""
        self.driver.feed(Inspected(slot, *self._board, False, self._hall.loop.time(), recalled))

    def _run(self, slot: int, batch: int, run: Run) -> None:
        """Run a batch in this very process, and answer at once."""
        function, heads = self._jobs[run.job], memoryview(run.heads)
        self._board = (batch, len(run))
        answers, seconds = [], array("d")
        at, begun = 0, time.monotonic()
        for size in run.head_sizes:
            answers.append(pack_answer(load_call(heads[at : at + size], None).run(function)).head)
            at += size
            now = time.monotonic()
            seconds.append(now - begun)
            begun = now
        sizes = array("I", map(len, answers))
        statuses = bytes((Status.OK,)) * len(answers)
        self.driver.feed(SlotDone(slot, batch, 0, statuses, seconds, sizes, b"".join(answers)))


# -- who starts it -------------------------------------------------------------------------------------------------


class Crowd:
    """So many members, in so many processes that dial a star.

    Parameters
    ----------
    star : LocalStar
        Whose manager they dial.
    members : int
        How many workers of one slot.
    processes : int
        How many programs they live in.
    """

    def __init__(self, star: LocalStar, members: int, processes: int = 2) -> None:
        processes = min(processes, members)
        shares = [members // processes + (number < members % processes) for number in range(processes)]
        command = [sys.executable, "-m", "benchmarks.crowd", "--join", str(star.join_file("worker"))]
        command += ["--manager", star.worker_address, "--members"]
        self._programs = [
            subprocess.Popen(
                [*command, str(share)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(),
                cwd=ROOT,
            )
            for share in shares
        ]

    @property
    def pids(self) -> list[int]:
        """The programs."""
        return [program.pid for program in self._programs]

    def wait(self) -> float:
        """Wait until all are welcome, once more at each call; return the monotonic time of the last one's WELCOME."""
        times = []
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        for program in self._programs:
            assert program.stdout is not None
            waiting = select.poll()
            waiting.register(program.stdout, select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"the crowd was not complete within {WAIT_SECONDS_MAX:g} s")
            times.append(float(json.loads(program.stdout.readline())["all_up_at"]))
        return max(times)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for program in self._programs:
            program.communicate()  # closes its stdin, which ends it


class FragileStar(LocalStar):
    """A local star whose manager can be killed and started again on the same ports, as after a crash."""

    def __init__(self, workers: int = 2, slots: int = 1, **options: Any) -> None:
        self._manager_options = list(options.get("manager_options", ()))
        super().__init__(workers, slots, **options)

    def kill_manager(self) -> None:
        """Kill -9."""
        self._manager.kill()
        self._manager.wait()

    def restart_manager(self) -> None:
        """Start a manager where the last one was; return when it listens."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "starcore.manager", "--star", str(self.directory), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--client-port", str(self.client_port), "--log-level", self._log_level]
        command += self._manager_options
        command += ["--ephemeral", "--lifeline", str(self._lifeline), "--ready-fd", str(writing)]
        with open(reading, "rb") as ready:
            try:
                self._manager = subprocess.Popen(command, pass_fds=(self._lifeline, writing), start_new_session=True)
            finally:
                os.close(writing)
            self._wait_for_manager(ready)


# -- the program ---------------------------------------------------------------------------------------------------


async def _gather(options: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> None:
    hall = Hall(dialer(Role.WORKER, join=options.join, address=options.manager), options.members, loop)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    hall.start()
    await over.wait()
    hall.close()
    await asyncio.sleep(0)


def main(arguments: list[str] | None = None) -> int:
    """Be a part of a crowd until stdin is closed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--join", required=True, type=Path, help="a worker's join file")
    parser.add_argument("--manager", required=True, help="HOST:PORT")
    parser.add_argument("--members", type=int, default=100, help="default: %(default)s")
    options = parser.parse_args(arguments)
    loop = uvloop.new_event_loop()
    loop.run_until_complete(_gather(options, loop))
    loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
