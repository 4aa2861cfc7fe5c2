"""The worker's shell: its one connection, its slots' processes, its arena. It decides nothing; `core.py` does.

::

    manager ◀══TLS══▶ Driver ◀──▶ WorkerCore
                                      │ actions               ▲ events
                        Dial ─────────┼─▶ Dialer ─────────────┤ Opened, Lost, Refused
                        Allocate ─────┼─▶ Arena ──────────────┤ Allocated        chunks land in its segments
                        RunBatch ─────┼─▶ SlotProcess ────────┤ SlotDone         answers are read where they lie
                        Inspect ──────┴─▶ its Board ──────────┘ Inspected

User code never runs in this process, so whatever a task does, the heartbeats go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
import os
import platform
import re
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starcore import __version__, logs, settings, tls
from starcore.dialing import Dialer
from starcore.driver import Driver
from starcore.errors import ArgumentValueError, CredentialsError, SetupError, StarCoreError, UnreachableError
from starcore.events import Action, Dial, Event, Finished, Log, Shaken
from starcore.messages import HEAD_BYTES_MAX, PROTOCOL_VERSION, Buffer, Hello, Role
from starcore.texts import counted
from starcore.vigil import Vigil
from starcore.worker import orders
from starcore.worker.arena import Arena, Piece, default_arena_bytes
from starcore.worker.board import SETTLE_SECONDS
from starcore.worker.channel import (
    IN_ARGUMENT,
    Detach,
    Done,
    Learn,
    Lend,
    Ready,
    Record,
    Setup,
    Stopped,
    TakeBack,
    Unlearn,
    Work,
)
from starcore.worker.core import WorkerCore
from starcore.worker.departure import Lifetime
from starcore.worker.orders import (
    Allocate,
    Drain,
    Inspect,
    Inspected,
    KillSlot,
    Recall,
    Refused,
    Release,
    ReleaseAnswer,
    RunBatch,
    SlotDied,
    SlotDone,
    SlotReady,
    SlotStopped,
    StartSlot,
    Stop,
    Teach,
    Unteach,
)
from starcore.worker.prints import JSON_VARIABLE
from starcore.worker.process import SlotProcess, slot_environment
from starcore.worker.stock import Stock
from starcore.worker.waiting import wait_for_star
from starcore.worker.watch import MemoryWatch

TRIM_SECONDS = 10.0
LEAVE_SECONDS_MAX = 0.5
"""How long slots may take to end by themselves when the worker leaves."""

_log = logging.getLogger("starcore.worker")


@dataclass(slots=True)
class WorkerOptions:
    """What a worker is and may do.

    Attributes
    ----------
    resolve : callable
        Says where the manager is and as whom to join; asked before every attempt to reach it.
    slots, arena_bytes : int
        0: the cores and a quarter of the memory that this process may use.
    slot_bytes : int
        Memory of its own that a slot may have; 0: as much as there is.
    shipped : bytes, optional
        The blob of this worker's own function object; its name stands first in `functions`.
    lifeline : int, optional
        A descriptor; the worker leaves when it can be read (its other end is gone).
    """

    resolve: Callable[[], tls.Target]
    slots: int = 0
    name: str = ""
    functions: list[str] = field(default_factory=list)
    shipped: bytes = b""
    only_registered: bool = False
    initializer: str = ""
    arena_bytes: int = 0
    slot_bytes: int = 0
    reconnect: bool = True
    lifetime: Lifetime | None = None
    lifeline: int | None = None
    json_logs: bool = False


class Supervisor:
    """The running worker."""

    def __init__(self, options: WorkerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.exit_code = 0
        self.reason = ""
        self._options = options
        self._loop = loop
        self._cores = settings.usable_cores()
        self._slots = options.slots or self._cores
        self._arena = Arena(options.arena_bytes or default_arena_bytes())
        self._processes: dict[int, SlotProcess] = {}
        self._stock = Stock(self._arena, loop, self._feed, lambda: list(self._processes.values()))
        self._shipped: Piece | None = None
        self._finished = asyncio.Event()
        self._stops = 0
        self._lifeline, self._lifeline_end = os.pipe()
        own_code = bool(options.initializer or options.functions)
        self._core = WorkerCore(
            self._hello(), reconnect=options.reconnect, dial_when_ready=own_code, lifetime=options.lifetime
        )
        self._driver = Driver(self._core, loop, self, _log)
        self._dialer = Dialer(options.resolve, self._driver, loop, self._troubled, _log)
        self._vigil = Vigil(loop, self._driver.descriptors, lambda reason: self._feed(Shaken(reason)))
        self._actions: dict[type, Callable[[Any], None]] = {
            Dial: lambda action: self._dialer.dial(action.delay_seconds, action.reason),
            Allocate: self._stock.allocate,
            Release: self._stock.release,
            ReleaseAnswer: lambda action: self._stock.release_answer(action.lease),
            RunBatch: self._run_batch,
            Teach: self._teach,
            Unteach: self._unteach,
            orders.Lend: self._lend,
            orders.TakeBack: lambda action: self._processes[action.slot].send(TakeBack(action.name)),
            Inspect: lambda action: self._inspect(self._processes[action.slot], 0),
            Recall: self._recall,
            StartSlot: self._start_slot,
            KillSlot: lambda action: self._processes[action.slot].kill(stack=action.stack, kindly=action.kindly),
            Log: lambda action: _log.log(logging.getLevelName(action.level.upper()), "%s", action.text),
            Finished: self._finish,
        }

    def _hello(self) -> Hello:
        options = self._options
        host = socket.gethostname()
        functions = ["", *options.functions] if options.functions else []
        return Hello(
            PROTOCOL_VERSION,
            Role.WORKER,
            secrets.token_bytes(16),
            name=options.name or f"{host}-{os.getpid()}",
            host=host,
            pid=os.getpid(),
            software=f"starcore {__version__}",
            python="{}.{}".format(*sys.version_info),
            numpy=_numpy_version(),
            slots=self._slots,
            arena_bytes=self._arena.capacity,
            only_registered=options.only_registered,
            functions=functions,
        )

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Work until told to leave; return the exit code."""
        self._say_hello()
        self._watch_signals()
        self._trim()
        self._vigil.begin()
        size = self._options.slot_bytes
        watch = MemoryWatch(size, self._loop, self._processes.values, self._feed) if size else None
        try:
            if self._options.shipped and len(self._options.shipped) > HEAD_BYTES_MAX:
                self._shipped = self._arena.take(len(self._options.shipped))[0]
                self._shipped.view(0, len(self._options.shipped))[:] = self._options.shipped
            for action in self._core.start(self._loop.time()):
                self.perform(action)
            await self._finished.wait()
        finally:
            if watch is not None:
                watch.close()
            await self._leave()
        return self.exit_code

    def interrupt(self) -> None:
        """Ctrl-C: give everything back and leave within a moment; the second time at once."""
        self._stops += 1
        self._driver.feed(Stop())

    def drain(self, *, insist: bool = True) -> None:
        """SIGTERM: finish what runs and leave; the second time give everything back. SIGUSR1 does not `insist`."""
        self._driver.feed(Drain(insist))

    def _say_hello(self) -> None:
        mib = self._arena.capacity >> 20
        threads = max(1, self._cores // self._slots)
        slots, each = counted(self._slots, "slot"), counted(threads, "thread")
        _log.info("%s with %s each, an arena of %s MiB", slots, each, mib)

    def _watch_signals(self) -> None:
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: nobody sends us any
            if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # inherited: no slot would have an exit code
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._loop.add_signal_handler(signal.SIGTERM, self.drain)
            self._loop.add_signal_handler(signal.SIGUSR1, functools.partial(self.drain, insist=False))
            self._loop.add_signal_handler(signal.SIGINT, self.interrupt)
        lifeline = self._options.lifeline
        if lifeline is not None:
            self._loop.add_reader(lifeline, self._orphaned, lifeline)

    def _orphaned(self, lifeline: int) -> None:
        self._loop.remove_reader(lifeline)
        _log.debug("the process that started this worker is gone")
        self._finish(Finished(0))

    async def _leave(self) -> None:
        """Let go of everything, whatever fails on the way."""
        self._driver.close_all()
        self._vigil.stop()
        await self._dialer.leave()
        processes = list(self._processes.values())
        for process in processes:
            process.leave()
        deadline = self._loop.time() + LEAVE_SECONDS_MAX
        while any(process.alive for process in processes) and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        for process in processes:
            process.kill()
        deadline = self._loop.time() + LEAVE_SECONDS_MAX
        while any(process.alive for process in processes):
            if self._loop.time() > deadline:  # the kernel does not let it die: asleep in a file system, say
                _log.warning("a slot does not end even when killed; leaving without it")
                break
            await asyncio.sleep(0.005)
        self._stock.close()
        os.close(self._lifeline)
        os.close(self._lifeline_end)
        await asyncio.sleep(0)

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        """Carry out what only the worker's core asks for."""
        self._actions[type(action)](action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Where a chunk goes: into the segment that was allocated for its stream."""
        return self._stock.destination(stream, attempt, offset, length)

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer:
        """Where an answer's bytes lie."""
        return self._stock.source(stream, offset, length)

    def release(self, token: Any) -> None:
        """Chunks have no tokens here."""

    def _feed(self, event: Event) -> None:
        if not self._finished.is_set():
            self._driver.feed(event)

    def _finish(self, action: Finished) -> None:
        self.exit_code, self.reason = action.exit_code, action.reason
        if action.exit_code == 3 and "ALERT" in action.reason.upper():
            self.reason = tls.explain(ssl.SSLError(1, action.reason), self._dialer.target)
        self._finished.set()

    # -- the connection --------------------------------------------------------------------------------------

    def _troubled(self, error: StarCoreError) -> None:
        """Hear why there is no connection: of credentials that were never welcome the core makes an end."""
        if isinstance(error, CredentialsError):
            self._feed(Refused(str(error)))

    def _trim(self) -> None:
        self._stock.trim()
        if not self._finished.is_set():
            self._loop.call_later(TRIM_SECONDS, self._trim)

    # -- slots -----------------------------------------------------------------------------------------------

    def _start_slot(self, action: StartSlot) -> None:
        environment = slot_environment(os.environ, self._cores, self._slots)
        if self._options.json_logs:
            environment[JSON_VARIABLE] = "1"
        try:
            process = SlotProcess(action.slot, self, self._loop, self._lifeline, environment)
        except OSError as error:
            self._feed(SlotDied(action.slot, f"no process: {error}"))
            return
        self._processes[action.slot] = process
        options = self._options
        setup = Setup(action.slot, options.initializer, options.functions, self._arena.capacity // (2 * self._slots))
        setup.shipped_bytes = len(options.shipped)
        if self._shipped is not None:
            process.attach(self._shipped)
            setup.segment = self._shipped.number
        else:
            setup.shipped = options.shipped
        process.send(setup)

    def _teach(self, action: Teach) -> None:
        process, job = self._processes[action.slot], action.job
        lesson = Learn(job.job, job.kind, job.digest, job.function)
        if action.blob is not None:
            lesson.blob_bytes, lesson.blob = len(action.blob), action.blob
        elif action.key:
            piece = self._stock.piece(action.key)
            process.attach(piece)
            lesson.segment, lesson.blob_bytes = piece.number, self._stock.size(action.key)
        process.send(lesson)

    def _unteach(self, action: Unteach) -> None:
        digest = action.digest or bytes(32)
        self._processes[action.slot].send(Unlearn(action.job is not None, action.job or 0, digest))

    def _lend(self, action: orders.Lend) -> None:
        piece = self._stock.piece(action.key) if action.size else None
        lent = Lend(action.name, piece.size if piece is not None else 0, action.size, action.head)
        self._processes[action.slot].send(lent, piece.descriptor if piece is not None else None)

    def _run_batch(self, action: RunBatch) -> None:
        process, run = self._processes[action.slot], action.run
        segment = 0
        if run.body_bytes:
            piece = self._stock.piece(run.lease)
            process.attach(piece)
            segment = piece.number
        process.runs[action.batch] = run
        process.send(Work(action.batch, run.job, run.first, segment, run.body_bytes, run.head_sizes, run.heads))

    def _recall(self, action: Recall) -> None:
        process = self._processes[action.slot]
        process.board.recall(action.batch)
        self._loop.call_later(SETTLE_SECONDS, self._inspect, process, action.batch)

    def _inspect(self, process: SlotProcess, recalled: int) -> None:
        if not process.gone and self._processes.get(process.number) is process:
            batch, started, running, since = process.board.read()
            self._feed(Inspected(process.number, batch, started, running, since, recalled))

    def said(self, process: SlotProcess, record: Record) -> None:
        """Pass on what a slot said."""
        if type(record) is Done:
            self._done(process, record)
        elif type(record) is Ready:
            self._feed(SlotReady(process.number, record.pid))
        elif type(record) is Stopped:
            self._feed(SlotStopped(process.number, record.batch, record.started))
        elif type(record) is Detach:
            process.own.pop(record.number, None)

    def _done(self, process: SlotProcess, record: Done) -> None:
        runs = process.runs
        while (oldest := next(iter(runs))) < record.batch:  # recalled before its last task
            del runs[oldest]
        run = runs[record.batch]
        lease = run.lease + record.first
        self._stock.put_answer(lease, process, record)
        if record.kept:
            process.attached.discard(self._stock.piece(lease))  # the slot has let go of the number itself
        if record.first + len(record.statuses) == len(run):
            del runs[record.batch]
        self._feed(
            SlotDone(
                process.number,
                record.batch,
                record.first,
                record.statuses,
                record.seconds,
                record.head_sizes,
                record.heads,
                record.body_bytes,
                record.place == IN_ARGUMENT,
                record.kept,
            )
        )

    def said_all(self, process: SlotProcess) -> None:
        """Answer the manager at once where no slot is at work, whose answers could travel along."""
        if not any(other.runs for other in self._processes.values()):
            self._driver.end_turn()

    def ended(self, process: SlotProcess, cause: str) -> None:
        """Pass on that a slot's process is gone."""
        if self._processes.get(process.number) is process:
            del self._processes[process.number]
        batch, started, running, _ = process.board.read()
        self._feed(SlotDied(process.number, cause, batch, started, running, *process.left))


def _numpy_version() -> str:
    """What a slot would import, mostly found without the library that reads metadata: 15 ms of every start."""
    found = importlib.util.find_spec("numpy")
    for place in (found and found.submodule_search_locations) or ():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = Path(place, "version.py").read_text(encoding="utf-8")
            if named := re.search(r'^version = "([^"]+)"', text, re.MULTILINE):
                return named[1]
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version("numpy")
    except metadata.PackageNotFoundError:
        return ""


def run_worker(options: WorkerOptions) -> tuple[int, str]:
    """Run a worker in this thread until it leaves; return its exit code and the reason, if there is one.

    Raises
    ------
    SetupError
        This machine is not ready for a worker, or nothing says where the manager is.
    """
    if platform.system() == "Windows":
        raise SetupError("a worker needs Linux or macOS")
    there, options.lifetime = wait_for_star(options.resolve, options.reconnect, options.lifetime, options.lifeline)
    if not there:
        return 0, ""

    async def main() -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        logs.watch(loop, _log)
        supervisor = Supervisor(options, loop)
        return await supervisor.run(), supervisor.reason

    loop = _new_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Worker:
    """A worker of this machine, as an object: for scripts that serve one function.

    Parameters
    ----------
    port : int, optional
        The manager's port for workers.
    function : callable, optional
        The one function that this worker offers, under its module's and its own name. It is pickled by value, so
        it may stand in the script that makes the worker.
    manager_ip, host : str, optional
        Where the manager is, as ``HOST``, ``HOST:PORT`` or ``https://HOST``; two names for the same.
    join : path, optional
        The worker's join file.
    slots : int, optional
        How many tasks run at a time; the cores that this process may use where it is not given.
    functions : sequence of str
        More functions to offer, as ``"package.module:name"``.
    only_registered : bool, optional
        Take no code from clients; where it is not given, true for a worker with a `function`.
    initializer : str, optional
        ``"package.module:function"``, called once in each slot before its first task.
    name : str, optional
        What logs call this worker.
    arena : int, optional
        Bytes of shared memory for arrays; a quarter of the memory where it is not given.
    reconnect : bool, default True
        Look for an absent or lost manager for ever.

    Examples
    --------
    >>> def process(array):
    ...     return array**2
    >>> starcore.Worker(port=443, manager_ip="203.0.113.7", function=process).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        function: Callable[..., Any] | None = None,
        manager_ip: str | None = None,
        host: str | None = None,
        join: str | os.PathLike[str] | None = None,
        slots: int = 0,
        functions: list[str] | tuple[str, ...] = (),
        only_registered: bool | None = None,
        initializer: str = "",
        name: str = "",
        arena: int = 0,
        reconnect: bool = True,
    ) -> None:
        if manager_ip and host and manager_ip != host:
            raise ArgumentValueError("manager_ip and host are two names for one thing; give one of them")
        if slots < 0 or arena < 0:
            raise ArgumentValueError(f"slots and arena cannot be negative, as in slots={slots}, arena={arena}")
        names, shipped = list(functions), b""
        if function is not None:
            from starcore.pickling import ship  # noqa: PLC0415 - numpy, which a worker without a function spares

            shipped = ship(function).blob
            module = getattr(function, "__module__", None) or "__main__"
            names.insert(0, f"{module}:{getattr(function, '__qualname__', type(function).__name__)}")
        self._options = WorkerOptions(
            resolve=lambda: settings.dialer(Role.WORKER, join=join, address=manager_ip or host, port=port),
            slots=slots,
            name=name,
            functions=names,
            shipped=shipped,
            only_registered=function is not None if only_registered is None else only_registered,
            initializer=initializer,
            arena_bytes=arena,
            reconnect=reconnect,
        )

    def run(self) -> int:
        """Work until SIGTERM or Ctrl-C; return the exit code.

        Raises
        ------
        StarCoreError
            Nothing says where the manager is, or it refuses this worker for good.
        """
        if not logging.getLogger("starcore").handlers:
            logs.setup()
        code, reason = run_worker(self._options)
        if reason:
            raise next((kind for kind in _KINDS if kind.exit_code == code), StarCoreError)(reason)
        return code


_KINDS: tuple[type[StarCoreError], ...] = (CredentialsError, UnreachableError, SetupError)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - absent where it was not built
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
