"""Leaving: told by a signal, by the manager, or by the clock of a batch system; never at a task's cost."""

from __future__ import annotations

from starcore.events import Close
from starcore.messages import Drain as DrainMessage
from starcore.messages import Draining, Heartbeat, Retracted
from starcore.worker.departure import HAND_BACK_SECONDS, Lifetime
from starcore.worker.orders import Drain, Finished, KillSlot, RunBatch

from .desk import Desk


def busy(**options: object) -> tuple[Desk, RunBatch]:
    """A worker whose one slot runs lease 10."""
    desk = Desk(**options)  # type: ignore[arg-type]
    desk.assign(desk.job(), lease=10)
    return desk, desk.batch()


def live_on(desk: Desk, seconds: float) -> None:
    """Let time pass at a manager that lives."""
    for _ in range(int(2 * seconds)):
        desk.receive(Heartbeat())
        desk.wait(0.5)


def finish(desk: Desk, batch: RunBatch) -> None:
    desk.asked.clear()
    desk.done(batch)
    desk.result([10])
    desk.confirm(10)
    desk.take(Close)
    assert desk.take(Finished).exit_code == 0


def test_the_manager_may_ask_for_a_drain_twice_and_nothing_is_killed() -> None:
    desk, batch = busy()
    desk.receive(DrainMessage("asked by client laptop"))
    desk.said(Draining)
    assert "asked by client laptop" in desk.lines[-1].text
    desk.receive(DrainMessage())
    assert not any(isinstance(action, (KillSlot, Draining)) for action in desk.asked)
    finish(desk, batch)
    desk.quiet()


def test_a_signal_that_does_not_insist_never_kills_however_often_it_comes() -> None:
    desk, batch = busy()
    for _ in range(3):
        desk.feed(Drain(insist=False))
    desk.said(Draining)
    assert not any(isinstance(action, KillSlot) for action in desk.asked)
    finish(desk, batch)


def test_the_first_signal_that_insists_finishes_what_runs_though_a_drain_had_begun() -> None:
    """Slurm's SIGTERM comes when the worker has drained for a while: that is no impatience of anybody's."""
    desk, batch = busy()
    desk.feed(Drain(insist=False))
    desk.feed(Drain())
    assert not any(isinstance(action, KillSlot) for action in desk.asked)
    desk.feed(Drain())
    desk.take(KillSlot)
    desk.die(batch, 1, "SIGKILL")
    assert list(desk.said(Retracted).leases) == [10]


def test_before_its_end_a_worker_takes_nothing_more_and_what_runs_is_finished() -> None:
    desk, batch = busy(lifetime=Lifetime(100.0, 30.0))
    live_on(desk, 69.0)
    assert not any(type(getattr(action, "message", None)) is Draining for action in desk.asked)
    live_on(desk, 2.0)
    desk.said(Draining)
    assert "its time is almost up" in desk.lines[-1].text
    finish(desk, batch)


def test_what_cannot_finish_before_the_end_is_handed_back() -> None:
    desk, batch = busy(lifetime=Lifetime(100.0, 30.0))
    live_on(desk, 100.0 - HAND_BACK_SECONDS - 1.0)
    assert not any(isinstance(action, KillSlot) for action in desk.asked)
    live_on(desk, 1.5)
    desk.take(KillSlot)
    desk.die(batch, 1, "SIGKILL")
    assert list(desk.said(Retracted).leases) == [10]
    desk.take(Finished)
    desk.asked.clear()
    desk.wait(20.0)
    desk.quiet()


def test_a_worker_whose_slot_does_not_die_leaves_in_time_all_the_same() -> None:
    desk, _ = busy(lifetime=Lifetime(100.0, 30.0))
    desk.wait(100.0)
    desk.take(Finished)


def test_in_a_short_life_half_of_it_is_for_work() -> None:
    desk, _ = busy(lifetime=Lifetime(4.0, 4.0))
    desk.wait(0.1)
    desk.said(Draining)
    desk.wait(1.8)
    assert not any(isinstance(action, KillSlot) for action in desk.asked)
    desk.wait(0.2)
    desk.take(KillSlot)


def test_a_worker_without_an_end_stays() -> None:
    desk = Desk()
    desk.wait(0.0)
    assert desk.core._departure.deadline() is None
