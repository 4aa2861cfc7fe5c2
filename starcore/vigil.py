"""Notices what TCP does not tell: that this machine slept, or that it has lost the address that it speaks from.

A connection from an address that is gone stays open and silent, and so does one whose manager gave it up while this
machine slept. Without this only silence would tell, seconds later.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence

VIGIL_SECONDS = 1.0
SLEPT_SECONDS_MIN = 3.0
"""A shorter sleep than that no manager takes for a silence."""


def slept_seconds() -> float:
    """Return how long this machine has slept since it started; 0 where no clock tells."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":  # where this clock counts the sleep, and Python's own does not
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()
    return 0.0


def address_is_gone(descriptor: int) -> bool:
    """Return whether the local address of a connected socket is none of this machine's any more."""
    connected = socket.socket(fileno=os.dup(descriptor))
    with connected, socket.socket(connected.family, socket.SOCK_DGRAM) as probe:
        local = connected.getsockname()
        try:
            probe.bind((local[0], 0, *local[2:]))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return False


class Vigil:
    """Looks once a second.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        In whose thread it looks.
    descriptors : callable
        Gives the connected sockets.
    tell : callable
        Is told what happened.
    slept : callable, optional
        Gives the seconds that this machine has slept.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptors: Callable[[], Sequence[int]],
        tell: Callable[[str], None],
        slept: Callable[[], float] = slept_seconds,
    ) -> None:
        self._loop = loop
        self._descriptors = descriptors
        self._tell = tell
        self._slept = slept
        self._slept_before = slept()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Look, now and again."""
        self._timer = self._loop.call_later(VIGIL_SECONDS, self.begin)
        self.look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Tell what happened since the last look."""
        slept, self._slept_before = self._slept() - self._slept_before, self._slept()
        if slept >= SLEPT_SECONDS_MIN:
            self._tell(f"this machine slept for {slept:.0f} s")
        elif any(map(self._is_lost, self._descriptors())):
            self._tell("this machine has another address now")

    @staticmethod
    def _is_lost(descriptor: int) -> bool:
        try:
            return address_is_gone(descriptor)
        except OSError:  # closed a moment ago, or no descriptor is left to look with
            return False
