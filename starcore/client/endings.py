"""How sessions end with their process: Ctrl-C, the interpreter's end, a fork.

*Waiting* is what happens inside `Future.result` and `exception`, `wait` and `as_completed` of the standard library,
the iterator of `map`, `run`, and `shutdown(wait=True)`, which leaving a ``with`` block is. What a Ctrl-C does::

    while waiting        all that the session has outstanding is cancelled, also what runs; then KeyboardInterrupt
    once more meanwhile  KeyboardInterrupt at once; nobody waits for this session any more, not even at the end
    anywhere else        nothing to the tasks, until the block, or the interpreter, is left with it
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from starcore.client.futures import kill_all

JOIN_SECONDS = 2.0
"""How long the interpreter's end waits for the goodbyes."""
CANCEL_SECONDS_MAX = 0.5
"""How long a Ctrl-C waits for its cancels to leave this machine."""
CANCEL_ROUNDS = 2
"""What cuts an array or feeds a `map` may send one more batch while it is cancelled: the second round finds that."""


class Ends(Protocol):
    """A session, as far as it is known here."""

    forsaken: bool

    def pending(self) -> Sequence[Any]:
        """The futures that are not done yet."""

    def end(self, *, abandon: bool) -> None:
        """Take no more calls."""

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end."""

    def flush(self, seconds: float) -> None:
        """Wait until what was said has left this machine."""

    def after_fork(self) -> None:
        """Be dead in the child."""


_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(session: Ends) -> None:
    """Have a session end with this process."""
    _sessions.add(session)


def interrupt(session: Ends) -> None:
    """Cancel all that is outstanding, also what runs: Ctrl-C came while somebody waited for some of it."""
    try:
        for _ in range(CANCEL_ROUNDS):
            kill_all(session.pending())
        session.flush(CANCEL_SECONDS_MAX)
    except KeyboardInterrupt:
        session.forsaken = True
        raise


def wait_for_end(session: Ends) -> None:
    """Wait until a session that takes no more calls is over; a Ctrl-C cancels what it still waits for."""
    try:
        session.join()
    except KeyboardInterrupt:
        if session.pending():
            interrupt(session)
        else:
            session.forsaken = True
        raise


def _end_at_exit() -> None:
    """Outstanding work ends with the interpreter; who wants its results waits for them."""
    sessions = list(_sessions)
    try:
        for session in sessions:
            session.end(abandon=True)
        for session in sessions:
            if not session.forsaken:
                session.join(JOIN_SECONDS)
    except KeyboardInterrupt:
        return  # said twice: the sessions' threads end with the process


def _after_fork() -> None:
    sessions = list(_sessions)
    _sessions.clear()
    for session in sessions:
        session.after_fork()


atexit.register(_end_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
