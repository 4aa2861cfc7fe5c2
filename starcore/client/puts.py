"""The values that the calling threads have put: their names, and how they are let go. A part of the session's shell.

A name may be given to calls from `put` on until the loop's thread hears that its `Ref` is gone. That news comes from
anywhere, the garbage collector included, which may interrupt a thread that holds the session's lock: so `let_go`
takes no lock, and what is done about it is done in the loop's thread, behind the calls that were made before.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from starcore.client import orders
from starcore.errors import ArgumentValueError
from starcore.messages import SHARE_NAME_BYTES, Job, share_names
from starcore.pickling import Packed, Shipped

HEAVY_BYTES = 8 << 20
"""A function that carries so much is pickled, and hashed, for a noticeable time at every call."""
_advised: set[str] = set()


class Puts:
    """The values of one session.

    Parameters
    ----------
    tell : callable
        Feeds an event to the core, behind the calls that were made before it.
    soon : callable
        Has something done in the loop's thread; may be called in any thread, at any time.
    """

    def __init__(self, tell: Callable[[Any], None], soon: Callable[[Callable[[], None]], None]) -> None:
        self._tell = tell
        self._soon = soon
        self._names: set[bytes] = set()
        self._going: list[bytes] = []

    def put(self, packed: Packed) -> bytes:
        """Take in a value; return the name that jobs give it."""
        name = os.urandom(SHARE_NAME_BYTES)
        self._names.add(name)
        self._tell(orders.Put(name, packed))
        return name

    def let_go(self, name: bytes) -> None:
        """No further call names this value."""
        self._going.append(name)
        self._soon(self._release)

    def require(self, job: Job) -> None:
        """Refuse a job whose values were let go since it was packed, by another thread.

        Raises
        ------
        ArgumentValueError
            One was.
        """
        if not self._names.issuperset(share_names(job.shares)):
            raise ArgumentValueError("a value of this call was released meanwhile: put it once more")

    def _release(self) -> None:
        while self._going:
            name = self._going.pop()
            self._names.discard(name)
            self._tell(orders.Release(name))


def advise(shipped: Shipped) -> Shipped:
    """Say once of a function that it carries much: it travels once to each worker, but is pickled at every call."""
    if len(shipped.blob) > HEAVY_BYTES and shipped.name not in _advised:
        _advised.add(shipped.name)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no stderr, or a closed one
            sys.stderr.write(
                f"starcore: {shipped.name} carries {len(shipped.blob) / 1e6:.0f} MB of its own (in its closure or its "
                "globals), which every call pickles anew: put(value) it once, and give the function the Ref\n"
            )
    return shipped
