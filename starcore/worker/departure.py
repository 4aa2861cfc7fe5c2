"""When and how this worker leaves. Pure; part of the worker's core.

::

    drain   SIGTERM, SIGUSR1, DRAIN, the time before its end ─▶ nothing more is taken, what runs is finished ─┐
    stop    Ctrl-C, a second SIGTERM, the very end           ─▶ what runs is killed and given back ───────────┼▶ over
    either  gives back at once what has not begun, so nothing is lost: what cannot finish here runs elsewhere ┘

A batch system says when the machine will be taken away. So that tasks of usual length finish, nothing is taken for a
while before; what still runs in the last moments is handed back, since it would be killed a little later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starcore.events import Action, Finished, Log
from starcore.messages import Draining
from starcore.uplink import Uplink
from starcore.worker.bench import Bench
from starcore.worker.runs import Run
from starcore.worker.slots import Why

STOP_SECONDS_MAX = 1.5
"""How long a stop waits for confirmations."""
HAND_BACK_SECONDS = 5.0
"""So long before the end, what still runs is handed back: the way to the manager may be slow just then."""


@dataclass(slots=True)
class Lifetime:
    """How long this worker may live (s, from its start on), and how long before its end it drains."""

    seconds: float
    drain_before_seconds: float


class Departure:
    """The end of the worker, from the first word of it.

    Parameters
    ----------
    bench, uplink
        The worker's.
    lifetime : Lifetime, optional
        Without one it stays until it is told to leave.
    act : callable
        Takes an action.
    unstarted : callable
        Takes everything that is in no slot out of its place.
    give_back : callable
        Gives runs back to the manager.
    """

    def __init__(
        self,
        bench: Bench,
        uplink: Uplink,
        lifetime: Lifetime | None,
        *,
        act: Callable[[Action], None],
        unstarted: Callable[[], list[Run]],
        give_back: Callable[[list[Run]], None],
    ) -> None:
        self.leaving = False
        self.over = False
        self._bench = bench
        self._uplink = uplink
        self._lifetime = lifetime
        self._drain_at: float | None = None
        self._hand_back_at: float | None = None
        self._stop_at: float | None = None
        self._insisted = False
        self._act = act
        self._unstarted = unstarted
        self._give_back = give_back

    def start(self, now: float) -> None:
        """Begin to count the lifetime."""
        if (life := self._lifetime) is not None:
            self._hand_back_at = now + max(life.seconds - HAND_BACK_SECONDS, life.seconds / 2)
            self._drain_at = min(now + life.seconds - life.drain_before_seconds, self._hand_back_at)

    def drain(self, now: float, why: str = "") -> None:
        """Take nothing more, finish what runs."""
        if not self.leaving:
            self._leave(f"draining{f' ({why})' if why else ''}: nothing more is taken, what runs is finished", now)

    def told(self, now: float, *, insist: bool) -> None:
        """Drain; where somebody insists for the second time, stop."""
        if insist and self._insisted:
            self.stop(now)
        self._insisted = self._insisted or insist
        self.drain(now)

    def stop(self, now: float) -> None:
        """Give everything back within a moment; said twice, at once."""
        if self._stop_at is not None:
            self.finish(0)
            return
        self._stop_at = now + STOP_SECONDS_MAX
        if not self.leaving:
            self._leave("stopping: what is here is given back", now)
        for slot in self._bench.busy():
            self._all(self._bench.kill(slot, Why.STOPPED, text="the worker stops"))

    def finish(self, code: int, reason: str = "") -> None:
        """Leave now."""
        self._all(self._uplink.leave("the worker leaves"))
        self._act(Finished(code, reason))
        self.over = True

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._stop_at is not None:
            if now >= self._stop_at:
                self.finish(0)
            return
        if self._hand_back_at is not None and now >= self._hand_back_at:
            self._act(Log("info", "the end is near: what still runs is given back"))
            self.stop(now)
        elif self._drain_at is not None and now >= self._drain_at:
            self._drain_at = None
            self.drain(now, "its time is almost up")

    def deadline(self) -> float | None:
        """When something is due."""
        if self._stop_at is not None:
            return self._stop_at
        if self._hand_back_at is None:  # nor is there a time to drain at
            return None
        return self._hand_back_at if self._drain_at is None else min(self._drain_at, self._hand_back_at)

    def _leave(self, text: str, now: float) -> None:
        self.leaving = True
        self._bench.close()
        self._act(Log("info", text))
        if self._uplink.up:
            self._act(self._uplink.send(Draining(), now))
        self._give_back(self._unstarted())
        for slot in self._bench.busy():
            self._all(self._bench.recall(slot))

    def _all(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._act(action)
