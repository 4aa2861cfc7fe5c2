"""What each fault does to the star, and what undoes it.

A `Surgeon` strikes now and heals later: whatever lasts is undone when its time has come, or all at once at the end.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from tests.integration.proxy import Proxy, To
from tests.integration.stars import is_alive

from .schedule import Blow, Fault
from .star import HurtStar

DELAY_SECONDS = 0.05
TRICKLE_BYTES = 64 << 10
"""A second, each way: half a Mbit/s."""

T = TypeVar("T")


class Surgeon:
    """Does what the schedule says."""

    def __init__(self, star: HurtStar) -> None:
        self.star = star
        self.dealt: Counter[Fault] = Counter()
        """Faults that met a victim."""
        self.away = False
        """The manager is dead or frozen."""
        self._healing: list[tuple[float, int, Callable[[], object]]] = []

    def strike(self, blow: Blow) -> None:
        """Do it; who is hurt already by something that lasts may be hurt again."""
        if self._STRIKES[blow.fault](self, blow):
            self.dealt[blow.fault] += 1

    def heal(self, now: float) -> None:
        """Undo what has lasted long enough."""
        while self._healing and self._healing[0][0] <= now:
            heapq.heappop(self._healing)[2]()

    def heal_at(self) -> float | None:
        """When something is to be undone next."""
        return self._healing[0][0] if self._healing else None

    def heal_all(self) -> None:
        """Undo everything."""
        self.heal(float("inf"))

    # -- private ---------------------------------------------------------------------------------------------

    def _later(self, blow: Blow, undo: Callable[[], object]) -> None:
        heapq.heappush(self._healing, (blow.at + blow.seconds, sum(self.dealt.values()) << 16 | blow.rank, undo))

    def _kill_slot(self, blow: Blow) -> bool:
        pid = _pick(self.star.slots(), blow)
        return pid is not None and _send(pid, signal.SIGKILL)

    def _kill_supervisor(self, blow: Blow) -> bool:
        place = blow.rank % len(self.star.workers)
        if sum(map(bool, self.star.workers)) < 2 or not self.star.kill_worker(place):
            return False  # one worker stays alive
        self._later(blow, lambda: self.star.return_worker(place))
        return True

    def _kill_manager(self, blow: Blow) -> bool:
        if self.away:
            return False
        self.away = True
        self.star.star.kill_manager()
        self._later(blow, self._return_manager)
        return True

    def _return_manager(self) -> None:
        self.star.star.restart_manager()
        self.away = False

    def _kill_caller(self, blow: Blow) -> bool:
        place = blow.rank % len(self.star.callers)
        if not self.star.kill_caller(place):
            return False
        self._later(blow, lambda: self.star.return_caller(place))
        return True

    def _freeze_manager(self, blow: Blow) -> bool:
        if self.away:
            return False
        self.away = True
        pid = self.star.manager_pid
        _send(pid, signal.SIGSTOP)

        def thaw() -> None:
            _send(pid, signal.SIGCONT)
            self.away = False

        self._later(blow, thaw)
        return True

    def _freeze_slot(self, blow: Blow) -> bool:
        return self._freeze(blow, _pick(self.star.slots(), blow))

    def _freeze_supervisor(self, blow: Blow) -> bool:
        return self._freeze(blow, _pick([pid for pid in self.star.workers if pid], blow))

    def _freeze_caller(self, blow: Blow) -> bool:
        return self._freeze(blow, _pick([caller.pid for caller in self.star.callers if caller.poll() is None], blow))

    def _freeze(self, blow: Blow, pid: int | None) -> bool:
        if pid is None or not _send(pid, signal.SIGSTOP):
            return False
        self._later(blow, lambda: _send(pid, signal.SIGCONT))
        return True

    def _wire(self, blow: Blow) -> Proxy:
        wires = self.star.wires
        return wires[blow.rank % len(wires)]

    def _cut(self, blow: Blow) -> bool:
        return bool(self._wire(blow).cut())

    def _cut_all(self, blow: Blow) -> bool:
        return bool(sum(wire.cut() for wire in self.star.wires))

    def _half_open(self, blow: Blow) -> bool:
        self._wire(blow).half_open()
        return True

    def _close(self, blow: Blow) -> bool:
        wire = self._wire(blow)
        wire.closed = True
        wire.cut()
        self._later(blow, lambda: setattr(wire, "closed", False))
        return True

    def _pause(self, blow: Blow) -> bool:
        wire = self._wire(blow)
        wire.pause((To.MANAGER, To.PEER, None)[blow.rank % 3])
        self._later(blow, wire.resume)
        return True

    def _delay(self, blow: Blow) -> bool:
        wire = self._wire(blow)
        wire.delay = DELAY_SECONDS
        self._later(blow, lambda: setattr(wire, "delay", 0.0))
        return True

    def _trickle(self, blow: Blow) -> bool:
        wire = self._wire(blow)
        wire.trickle = TRICKLE_BYTES
        self._later(blow, lambda: setattr(wire, "trickle", 0))
        return True

    def _flip(self, blow: Blow) -> bool:
        self._wire(blow).flip()
        return True

    def _duplicate(self, blow: Blow) -> bool:
        self._wire(blow).duplicate()
        return True

    _STRIKES: ClassVar[dict[Fault, Callable[[Surgeon, Blow], bool]]] = {
        Fault.KILL_SLOT: _kill_slot,
        Fault.KILL_SUPERVISOR: _kill_supervisor,
        Fault.KILL_MANAGER: _kill_manager,
        Fault.KILL_CALLER: _kill_caller,
        Fault.FREEZE_SLOT: _freeze_slot,
        Fault.FREEZE_SUPERVISOR: _freeze_supervisor,
        Fault.FREEZE_MANAGER: _freeze_manager,
        Fault.FREEZE_CALLER: _freeze_caller,
        Fault.CUT: _cut,
        Fault.CUT_ALL: _cut_all,
        Fault.HALF_OPEN: _half_open,
        Fault.CLOSE: _close,
        Fault.PAUSE: _pause,
        Fault.DELAY: _delay,
        Fault.TRICKLE: _trickle,
        Fault.FLIP: _flip,
        Fault.DUPLICATE: _duplicate,
    }


def _pick(all_of_them: Sequence[T], blow: Blow) -> T | None:
    return all_of_them[blow.rank % len(all_of_them)] if all_of_them else None


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        if is_alive(pid):
            os.kill(pid, number)
            return True
    return False
