"""What a dead slot leaves: its last stack, the most memory it had, whether the kernel was short of it.

::

    slot:        faulthandler ──write(2)──▶ an anonymous file ◀──pread── the supervisor, after the slot's death
                     ▲ SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL: by itself
                     └ STACK_SIGNAL: when the supervisor wants it to end

faulthandler's dumps are made in C, inside the signal: a task that holds the interpreter's lock, or that has just
broken the heap, is in the way of neither. The process ends inside the signal as well: a system call that it
interrupted would fail, and what the task made of that would pass for its answer.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path

from starcore.worker.arena import memory_file
from starcore.worker.reports import last_stack, size_text

STACK_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
CANCEL_SIGNAL = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR1
"""From the supervisor alone: what a batch system or a terminal sends to everybody is not meant for a task."""
"""One that no batch system sends; macOS has none to spare."""
STACK_BYTES_MAX = 64 << 10
"""As much of a dump is looked at: some hundred frames of every thread, that of the task among the first."""
OOM_SCORE = 500
"""Of 1000: to the kernel, a slot uses half of the machine's memory more than it does."""
_BOX_BYTES = 4096
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


class BlackBox:
    """The supervisor's end of one slot's file, and the marks that tell the slot's memory from our own."""

    def __init__(self) -> None:
        self.descriptor = memory_file("starcore-blackbox", _BOX_BYTES)
        self._own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._killings = kernel_killings()

    def dump(self) -> str:
        """Return what faulthandler has written so far."""
        written = os.pread(self.descriptor, STACK_BYTES_MAX, 0).rstrip(b"\0")
        return written.decode("utf-8", "replace")

    def stack(self) -> str:
        """Return the last stack of the task, as lines; empty where nothing was written."""
        return last_stack(self.dump())

    def peak(self, usage: resource.struct_rusage) -> str:
        """Say the most memory that the process had, from what the kernel kept of it.

        A child counts from before its exec, when it was a copy of ourselves: below that, only so much is known.
        """
        size = size_text(usage.ru_maxrss * _MAXRSS_BYTES)
        return size if usage.ru_maxrss > self._own_peak else f"below {size}"

    def peak_bytes(self, usage: resource.struct_rusage) -> int:
        """Return the same as a number, 0 where only so much is known that it was below our own."""
        return usage.ru_maxrss * _MAXRSS_BYTES if usage.ru_maxrss > self._own_peak else 0

    def short_of_memory(self) -> bool:
        """Whether the kernel has ended processes of this machine for lack of memory since the slot began."""
        return kernel_killings() > self._killings

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


def kernel_killings() -> int:
    """Return how many processes the kernel has ended for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def keep_stacks(descriptor: int) -> None:
    """In the slot: from now on write the stack there when it dies of a fault, and when it is told to end."""
    faulthandler.enable(descriptor)
    faulthandler.register(STACK_SIGNAL, descriptor, chain=True)  # on to the default, which is the end


def be_the_first_to_go() -> None:
    """In the slot: where memory runs out, the kernel shall end a task rather than the supervisor of them all."""
    with contextlib.suppress(OSError, ValueError):
        place = Path("/proc/self/oom_score_adj")
        place.write_text(str(max(OOM_SCORE, int(place.read_text(encoding="ascii")))), encoding="ascii")

