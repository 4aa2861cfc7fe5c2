"""The process behind a slot, as the supervisor sees it: started, spoken to, watched, ended.

::

    SlotProcess ── Popen, a session of its own ──▶ slot.py
        │  channel (socketpair)   ▲ records ─▶ owner.said
        │  board (shared page)    ▲ read while the slot is busy, or dead
        │  black box (file)       ▲ read when it is dead: its last stack
        └─ pidfd                  ▲ readable at its end ─▶ owner.ended, after the last record

It decides nothing; `Bench` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Protocol

from starcore._framing import Segment
from starcore.worker.arena import Piece
from starcore.worker.blackbox import CANCEL_SIGNAL, STACK_SIGNAL, BlackBox
from starcore.worker.board import Board
from starcore.worker.channel import Attach, Broken, Inlet, Outlet, Record
from starcore.worker.runs import Run

CHANNEL_BYTES = 1 << 20
"""What the kernel may hold of a channel: a batch and its answers."""
POLL_SECONDS = 0.02
"""How often to look for the end of a process where the kernel has no pidfd."""
KIND_SECONDS = 0.3
"""How long a cancelled task may clean up: a Ctrl-C ends what runs within a second, the way there included."""
CLOSED_SECONDS = 1.0
"""How long a process whose channel is closed may take to end by itself; its own end says more of the cause."""
STACK_SECONDS_MAX = 0.1
"""How long a process that is to be killed may take to write its stack: one that is stopped never does."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)


class Owner(Protocol):
    """Who is told what a slot's process says and does."""

    def said(self, process: SlotProcess, record: Record) -> None:
        """A record came in."""

    def said_all(self, process: SlotProcess) -> None:
        """All that it said at once was told."""

    def ended(self, process: SlotProcess, cause: str) -> None:
        """The process is gone, and everything it said has been told."""


class SlotProcess:
    """One life of a slot.

    Parameters
    ----------
    number : int
        The slot's.
    owner : Owner
        Hears of it.
    loop : asyncio.AbstractEventLoop
        Whose thread all this happens in.
    lifeline : int
        The reading end of a pipe that closes when the supervisor is gone.
    environment : mapping
        The child's.

    Raises
    ------
    OSError
        No process, descriptor or page is to be had.
    """

    def __init__(
        self,
        number: int,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        lifeline: int,
        environment: Mapping[str, str],
    ) -> None:
        self.number = number
        self.alive = True
        self.runs: dict[int, Run] = {}
        self.attached: set[Piece] = set()
        self.own: dict[int, Segment] = {}
        self.descriptors: list[int] = []
        self.peak = ""
        self.peak_bytes = 0
        """The most memory that it had, once it is dead."""
        self.stack = ""
        """Where it was at its end, if that is known."""
        self._owner = owner
        self._loop = loop
        self._broken = ""
        self._killed = False
        self._left = False
        self._pidfd: int | None = None
        self._box = BlackBox()
        try:
            self._socket, child = socket.socketpair()
        except BaseException:
            self._box.close()
            raise
        board = -1
        try:
            self.board, board = Board.create()
            for end in (self._socket, child):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
            self._socket.setblocking(False)
            self._inlet = Inlet(self._socket)
            self._outlet = Outlet(self._socket, self._wait_writable)
            self._popen = self._start(child.fileno(), board, lifeline, environment)
        except BaseException:
            self._socket.close()
            self._box.close()
            raise
        finally:
            child.close()
            if board >= 0:
                os.close(board)
        loop.add_reader(self._socket.fileno(), self._readable)
        self._watch()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._popen.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended, told or not: of what its board says to run, nothing does any more."""
        if not self.alive:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # as where SIGCHLD is ignored
            return True

    def send(self, record: Record, descriptor: int | None = None, *, hurry: bool = True) -> None:
        """Send a record, without `hurry` with the next one; one that finds the process gone is lost with it."""
        if self.alive:
            try:
                self._outlet.send(record, descriptor, hurry=hurry)
            except ConnectionError:
                pass  # it is gone, which is told otherwise
            except OSError as error:
                self._break(error)

    def attach(self, piece: Piece) -> None:
        """Let the slot map a segment, unless it has it already, before what it is told next."""
        if piece not in self.attached:
            self.attached.add(piece)
            self.send(Attach(piece.number, piece.size), piece.descriptor, hurry=False)

    def kill(self, *, stack: bool = False, kindly: bool = False) -> None:
        """End the process, and those it started, now.

        With `stack` it ends by itself once it has written that; with `kindly` its task is raised a KeyboardInterrupt
        first, and has a moment to clean up.
        """
        if not self.alive or (kindly and self._killed):
            return
        self._killed = True
        if kindly:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, CANCEL_SIGNAL)
            self._loop.call_later(KIND_SECONDS, self.kill)
        elif stack:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)
            self._loop.call_later(STACK_SECONDS_MAX, self.kill)
        else:
            self._kill_group()

    def leave(self) -> None:
        """Close the channel: the slot ends by itself after the task at hand."""
        self._left = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # -- private ---------------------------------------------------------------------------------------------

    def _start(
        self, channel: int, board: int, lifeline: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        descriptors = (channel, board, self._box.descriptor, lifeline)
        command = [sys.executable, "-m", "starcore.worker.slot", *map(str, descriptors), str(os.getpid())]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what C code prints belongs to the log as well
            pass_fds=descriptors,
            env=environment,
            start_new_session=True,
        )

    def _watch(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(self.pid)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._exited)
        else:
            self._loop.call_later(POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        if self.alive:
            if self.gone:
                self._exited()
            else:
                self._loop.call_later(POLL_SECONDS, self._poll)

    def _readable(self) -> None:
        try:
            more = self._inlet.pull()
            self._tell()
        except BlockingIOError:
            return
        except ConnectionError as error:  # it died before it had read all
            self._closed(error)
            return
        except Exception as error:  # also a segment that cannot be mapped: an answer is lost, and somebody waits for it
            self._break(error)
            return
        if not more and self.alive:
            self._closed(EOFError("closed by the slot"))
        self._owner.said_all(self)

    def _closed(self, error: Exception) -> None:
        """Await the exit, which the pidfd reports; a process that only closed its channel is deaf, and is ended."""
        self._loop.remove_reader(self._socket.fileno())
        if not self._left:
            self._loop.call_later(CLOSED_SECONDS, lambda: None if self.gone else self._break(error))

    def _tell(self) -> None:
        for record in self._inlet:
            if isinstance(record, Attach):
                descriptor = self._inlet.descriptor()
                try:
                    self.own[record.number] = Segment(descriptor, record.size, writable=False)
                finally:
                    os.close(descriptor)
            elif isinstance(record, Broken):
                self._broken = record.text
            else:
                self._owner.said(self, record)

    def _wait_writable(self, waiting: bool) -> None:
        if waiting:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _writable(self) -> None:
        try:
            self._outlet.push()
        except OSError as error:
            self._loop.remove_writer(self._socket.fileno())
            if not isinstance(error, ConnectionError):
                self._break(error)

    def _break(self, error: Exception) -> None:
        """End a process that misses something of what it was told, or that said something which nobody understood."""
        self._broken = self._broken or f"a broken channel ({error})"
        self._loop.remove_reader(self._socket.fileno())
        self._kill_group()

    def _exited(self) -> None:
        if not self.alive:
            return
        while not self._broken:
            try:
                more = self._inlet.pull()
                self._tell()
            except Exception:
                break
            if not more:
                break
        self.alive = False
        self._kill_group()  # before its number is free for others: whatever it started goes with it
        code = self._reap()
        self.stack = self._box.stack()
        cause = self._broken or _cause(code, self._killed, self._box.short_of_memory())
        self._close()
        self._owner.ended(self, cause)

    @property
    def left(self) -> tuple[str, str, int]:
        """The most memory that the dead process had, its last stack, and that memory as a number."""
        return self.peak, self.stack, self.peak_bytes

    def _reap(self) -> int | None:
        """Return the exit code, None where others took it; what the process used is known only to who waits for it."""
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:
            self._popen.returncode = 0  # there is nothing left to wait for
            return None
        self.peak, self.peak_bytes = self._box.peak(usage), self._box.peak_bytes(usage)
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        return self._popen.returncode

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._inlet.close()
        self._outlet.close()
        self._socket.close()
        self._box.close()


def _cause(code: int | None, ours: bool, short: bool) -> str:
    if code is None:
        return "an unknown cause (its exit code is lost, as where SIGCHLD is ignored)"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL" and not ours:
        if short:
            return "SIGKILL (from outside; probably out of memory: the kernel has ended processes for lack of it)"
        return "SIGKILL (from outside; perhaps the machine, or the batch job, ran out of memory)"
    return name


def slot_environment(base: Mapping[str, str], cores: int, slots: int) -> dict[str, str]:
    """Return a slot's environment: slots times threads make the cores, unless the user has said otherwise."""
    threads = str(max(1, cores // slots))
    return {**dict.fromkeys(THREAD_VARIABLES, threads), **base}
