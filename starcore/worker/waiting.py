"""Before a worker there has to be a star: waits until something says where the manager is.

Who starts a manager and a worker at once, in two terminals, finds the worker first: the manager still makes its star.
So nothing that a manager of this user on this machine would bring is an error here, only late. What is there and wrong
(a join file that is named and missing, a certificate that expired, a key that others may read) is said at once.
"""

from __future__ import annotations

import logging
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from starcore import tls
from starcore.errors import UnconfiguredError
from starcore.settings import config_dir
from starcore.worker.departure import Lifetime

LOOK_SECONDS = 0.25

_log = logging.getLogger("starcore.worker")


class _Left(Exception):  # noqa: N818 - no error: it was told to leave
    pass


def wait_for_star(
    resolve: Callable[[], tls.Target], patient: bool, lifetime: Lifetime | None = None, lifeline: int | None = None
) -> tuple[bool, Lifetime | None]:
    """Return when there is a manager to dial, or no reason to wait for one.

    Parameters
    ----------
    resolve : callable
        Says where the manager is.
    patient : bool
        Whether to wait at all.
    lifetime : Lifetime, optional
        How long this worker may live, the waiting included.
    lifeline : int, optional
        A descriptor; there is nothing to wait for once it can be read.

    Returns
    -------
    there : bool
        False where this worker was told to leave, or its time was up.
    lifetime : Lifetime or None
        What is left of it.

    Raises
    ------
    SetupError
        What says where the manager is, or as whom to join it, is wrong; or nothing does, and it is not waited for.
    KeyboardInterrupt
        Ctrl-C.
    """
    began, said = time.monotonic(), False
    try:
        with _leaving_at_once():
            while True:
                try:
                    resolve()
                except UnconfiguredError as error:
                    if not (patient and error.may_come):
                        raise
                else:
                    break
                if not said:
                    said = True
                    _log.warning(
                        "waiting for a manager that this user starts on this machine; for one elsewhere give --join "
                        "FILE, or put the file at %s (made there with: python -m starcore.certs issue worker NAME)",
                        config_dir() / "worker.join",
                    )
                if _is_over(began, lifetime) or (lifeline is not None and select.select([lifeline], [], [], 0)[0]):
                    return False, lifetime
                time.sleep(LOOK_SECONDS)
    except _Left:
        return False, lifetime
    if said and lifetime is not None:
        left = max(0.0, lifetime.seconds - (time.monotonic() - began))
        lifetime = replace(lifetime, seconds=left, drain_before_seconds=min(left, lifetime.drain_before_seconds))
    return True, lifetime


def _is_over(began: float, lifetime: Lifetime | None) -> bool:
    return lifetime is not None and time.monotonic() - began >= lifetime.seconds


@contextmanager
def _leaving_at_once() -> Iterator[None]:
    """SIGTERM and SIGUSR1 drain a worker, and one that waits has nothing to drain."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise _Left

    if threading.current_thread() is not threading.main_thread():  # nobody sends us any
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
