"""Bugs planted in the cores, one at a time: the simulator has to find each of them within some tens of seeds."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest

from starcore.client.answers import Answers, _resolve
from starcore.client.state import DONE
from starcore.errors import Status
from starcore.events import Drop
from starcore.manager.delivery import Deliveries
from starcore.manager.leases import Leases
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Relay
from starcore.manager.state import Task
from starcore.manager.workers import Workforce
from starcore.worker.runs import Shelf
from starcore.worker.slots import Remains

from .star import simulate

SEEDS = 60

Plant = Callable[[pytest.MonkeyPatch], None]


def manager_forgets_to_requeue(patch: pytest.MonkeyPatch) -> None:
    """A lease that was lost is closed, and its task stays LEASED for ever."""
    give_back = Leases.give_back

    def forget(self: Leases, leased: Any, low: int, high: int, *, moved: bool = False) -> None:
        if moved:
            give_back(self, leased, low, high, moved=moved)

    patch.setattr(Leases, "give_back", forget)


def client_does_not_dedup(patch: pytest.MonkeyPatch) -> None:
    """An outcome that is told again resolves its task again."""
    outcome = Answers.outcome

    def again(self: Answers, entry: Any, message: Any) -> None:
        for position, index in enumerate(message.indices):
            run = self._ledger.find(entry, index)
            if run is not None and run.states[index - run.first] == DONE and not any(message.body_sizes):
                self._outbox.ask(_resolve(message, [position]))
        outcome(self, entry, message)

    patch.setattr(Answers, "outcome", again)


def client_acknowledges_before_the_body_is_whole(patch: pytest.MonkeyPatch) -> None:
    """The manager lets go of an answer whose bytes are still on their way."""
    land = Answers._land

    def too_early(self: Answers, landing: Any, message: Any, position: int) -> None:
        land(self, landing, message, position)
        self.acknowledge(message.sequence)

    patch.setattr(Answers, "_land", too_early)


def manager_loses_a_token(patch: pytest.MonkeyPatch) -> None:
    """A chunk that was sent on is never given back."""
    patch.setattr(Outbox, "drop", lambda self, token: None)


def manager_drops_a_token_twice(patch: pytest.MonkeyPatch) -> None:
    """A buffer is given back while it is still in use elsewhere."""

    def twice(self: Outbox, token: Any) -> None:
        self._actions += [Drop(token), Drop(token)] if token is not None else []

    patch.setattr(Outbox, "drop", twice)


def relay_forgets_where_it_was(patch: pytest.MonkeyPatch) -> None:
    """A sink that comes back and asks for what was sent gets what is there instead."""

    def stay(self: Relay, flow: Any, offset: int) -> None:
        self._discard(flow, flow.end)

    patch.setattr(Relay, "_rewind", stay)


def manager_does_not_resend_outcomes(patch: pytest.MonkeyPatch) -> None:
    """What was not acknowledged is not told to a client that comes back."""
    patch.setattr(Deliveries, "resend", lambda self, client: None)


def worker_confirms_to_itself(patch: pytest.MonkeyPatch) -> None:
    """An answer is forgotten when it was sent, not when it is in safe hands."""
    patch.setattr(Shelf, "put", lambda self, answers: None)


def worker_does_not_blame(patch: pytest.MonkeyPatch) -> None:
    """A task that kills its slot is simply run again, for ever."""
    judge = Remains.judge

    def acquit(self: Remains, end: Any, cause: str) -> Any:
        verdict = judge(self, end, cause)
        if verdict.answered is not None and verdict.status is Status.CRASHED:
            verdict.again.insert(0, verdict.answered)
            verdict.answered = None
        return verdict

    patch.setattr(Remains, "judge", acquit)


def manager_does_not_count_what_returns(patch: pytest.MonkeyPatch) -> None:
    """A worker that comes back is believed to hold all that it was given."""
    resume = Workforce.resume

    def believe(self: Workforce, worker: Any, leases: Any) -> int:
        every = [leased.first + offset for leased in worker.leases for offset in range(len(leased.marks))]
        return resume(self, worker, array("Q", sorted({*leases, *every})))

    patch.setattr(Workforce, "resume", believe)


def retries_are_one_too_few(patch: pytest.MonkeyPatch) -> None:
    """An exception is final though the caller asked for one more try."""
    made = Task.__init__

    def older(self: Task, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.raised = 1

    patch.setattr(Task, "__init__", older)


PLANTS: dict[Plant, int] = {
    manager_forgets_to_requeue: 1,
    client_does_not_dedup: 28,
    client_acknowledges_before_the_body_is_whole: 0,
    manager_loses_a_token: 0,
    manager_drops_a_token_twice: 0,
    relay_forgets_where_it_was: 12,
    manager_does_not_resend_outcomes: 6,
    worker_confirms_to_itself: 0,
    worker_does_not_blame: 3,
    manager_does_not_count_what_returns: 2,
    retries_are_one_too_few: 3,
}
"""Each with the first seed that caught it when it was planted; there the search begins, to save time."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(PLANTS[plant], PLANTS[plant] + SEEDS):
        try:
            simulate(seed)
        except AssertionError:
            return
    pytest.fail(f"{plant.__name__} lived through {SEEDS} seeds")


