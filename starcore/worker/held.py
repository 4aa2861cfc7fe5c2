"""Small answers that wait a moment for each other: one message to the supervisor takes several.

::

    keep() ── the last task was short, of the same batch ──▶ held
                                                              ├─ it is enough, or the batch ends ──▶ flush()
                                                              └─ the next task takes its time ─────▶ the thread does it

How long the next task runs nobody knows, and an answer that is here must not wait for it. So a thread looks after
what is held. It is started with the first answer that waits, looks every `LATE_SECONDS` for as long as there are
some, and sleeps by a lock when there are none: a slot of long tasks has no such thread, and it costs a resting one
nothing. It needs the interpreter's lock as every thread does: a task that holds that, in one long call into C, delays
the answers before it until it lets go.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from array import array
from dataclasses import dataclass, field

from starcore.errors import Status
from starcore.messages import BATCH_BYTES_MAX
from starcore.worker.channel import NOWHERE, Done, Record, send_all

FLUSH_SECONDS = 0.0005
"""Answers wait for each other no longer than this, while tasks end."""
SHORT_TASK_SECONDS = 250e-6
"""A task that took longer is worth a message of its own. Those cost about as much, over all the processes on its way:
for arrays of 16 KiB, waiting saves a quarter of the CPU."""
LATE_SECONDS = 0.02
"""And where no task ends, no longer than twice this."""
ROUNDS_MAX = 50
"""So many looks that find nothing new end the watch."""


@dataclass(slots=True)
class Pending:
    """Answers that were not sent yet: tasks `first`, `first + 1`, ... of a batch."""

    batch: int = 0
    first: int = 0
    statuses: bytearray = field(default_factory=bytearray)
    seconds: list[float] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    bytes: int = 0
    since: float = 0.0


class Held:
    """What a slot says, and the answers that it has not said yet."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        """Whoever holds it may write to the socket, and look at what is pending."""
        self._pending = Pending()
        self._thread: threading.Thread | None = None
        self._bell = threading.Lock()
        self._bell.acquire()
        self._asleep = False

    def send(self, record: Record, descriptor: int | None = None) -> None:
        """Send a record now."""
        with self._lock:
            send_all(self._socket, record, descriptor)

    def keep(self, batch: int, index: int, status: Status, head: bytes, begun: float) -> None:
        """Take the answer of a task that began then (s, monotonic), the next one of its batch."""
        with self._lock:
            pending = self._pending
            now = time.monotonic()
            if not pending.heads:
                pending.batch, pending.first, pending.since = batch, index, begun
            pending.statuses.append(status)
            pending.seconds.append(now - begun)
            pending.heads.append(head)
            pending.bytes += len(head)
            if (
                now - begun > SHORT_TASK_SECONDS
                or now - pending.since > FLUSH_SECONDS
                or pending.bytes > BATCH_BYTES_MAX
            ):
                self._flush()
            elif self._thread is None:
                self._start()
            elif self._asleep:
                self._asleep = False
                self._bell.release()

    def _start(self) -> None:
        """Start the thread; where a task has taken what one needs, nothing is held."""
        thread = threading.Thread(target=self._watch, name="starcore-held", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._flush()
        else:
            self._thread = thread

    def flush(self) -> None:
        """Send what is held."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        pending = self._pending
        if not pending.heads:
            return
        self._pending = Pending()
        record = Done(
            pending.batch,
            pending.first,
            NOWHERE,
            0,
            0,
            0,
            False,
            pending.statuses,
            array("d", pending.seconds),
            array("I", map(len, pending.heads)),
            b"".join(pending.heads),
        )
        send_all(self._socket, record)

    def _watch(self) -> None:
        """Look after what is held, until the supervisor is gone."""
        seen, rounds = self._pending, 0
        with contextlib.suppress(OSError):
            while True:
                time.sleep(LATE_SECONDS)
                with self._lock:
                    if self._pending is not seen:
                        seen, rounds = self._pending, 0
                    elif seen.heads:
                        self._flush()
                        seen = self._pending
                    else:
                        rounds += 1
                    rests = self._asleep = rounds > ROUNDS_MAX
                if rests:
                    self._bell.acquire()
                    rounds = 0
