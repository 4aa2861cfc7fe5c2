"""What is told one by one comes to what is told at once: in every turn of every test that has a manager's star."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from starcore.events import Event, Spooled
from starcore.manager import journal
from starcore.manager.journaled import JournaledCore
from starcore.manager.limits import Limits
from tests.manager import (
    test_clients,
    test_core,
    test_delivery,
    test_leases,
    test_results,
    test_scheduling,
    test_sessions,
    test_store,
    test_values,
    test_workers,
)
from tests.manager.journals import JournaledStar, comes_to, recovered

MODULES: list[ModuleType] = [
    test_clients,
    test_core,
    test_delivery,
    test_leases,
    test_results,
    test_scheduling,
    test_sessions,
    test_store,
    test_values,
    test_workers,
]


FRAMES_MAX = 60
"""A longer journal is not compared after every turn: that would take minutes."""
LEFT_OUT = {
    "test_outcomes_are_numbered_one_after_the_other": "an outcome with a body is not held, and overtakes",
    "test_short_tasks_come_in_large_batches_and_long_ones_one_ahead_of_each_slot": "a run longer than a message can be",
    "test_worker_of_many_slots_holds_no_more_than_its_hello_can_list": "a run longer than a message can be",
    "test_equal_clients_get_equal_shares_of_the_slots_time_whatever_their_tasks_last": "takes minutes",
    "test_status_fits_its_message_whatever_there_is_to_tell": "takes minutes",
    "test_cancelled_tasks_leave_nothing_in_line_where_no_worker_empties_it": "takes minutes",
    "test_tasks_that_were_cancelled_before_they_came_are_found_without_a_look_at_all_outcomes": "the comparison looks",
    **dict.fromkeys(
        (
            "test_argument_is_pulled_whole_and_lent_to_every_attempt",
            "test_answer_with_a_body_is_pulled_here_and_only_then_its_worker_may_free_it",
            "test_client_that_dies_on_the_way_leaves_nothing",
            "test_forgotten_job_ends_what_runs_and_breaks_off_what_is_read",
            "test_what_is_beyond_memory_lies_in_the_spool",
            "test_spool_that_fails_leaves_room_in_memory_only",
            "test_manager_that_leaves_says_what_it_takes_along",
        ),
        "without a journal bodies lie in memory, and end with the manager: see test_journaled.py",
    ),
}


class ComparedStar(JournaledStar):
    """A star that compares the two after each turn, and is rebuilt from its records."""

    def feed(self, event: Event) -> None:
        super().feed(event)
        if len(self.frames) <= FRAMES_MAX:
            told = recovered(self.frames)
            whole = recovered([journal.encode(fact) for fact in self.core.everything()])
            assert comes_to(told) == comes_to(whole)
            bodies = {number: Spooled(number, 0, size) for number, size in told.files().items()}
            rebuilt = JournaledCore(told, 1, self.now, limits=Limits(), bodies=bodies)
            rebuilt.check()
            again = recovered([journal.encode(fact) for fact in rebuilt.everything()])
            for what in ("unread", "tasks", "stored", "files"):
                assert comes_to(again)[what] == comes_to(told)[what], what


def cases() -> list[Any]:
    """Every test that makes a star of its own and asks for no fixture."""
    return [
        pytest.param(module, test, id=f"{module.__name__.rpartition('.')[2]}-{name}")
        for module in MODULES
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and test.__module__ == module.__name__ and name not in LEFT_OUT
        if "Star(" in inspect.getsource(test) and not inspect.signature(test).parameters
    ]


@pytest.mark.parametrize(("module", "test"), cases())
def test_the_facts_of_every_turn_come_to_all_that_is_so(
    module: ModuleType, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Star", ComparedStar)
    test()


def test_there_are_tests_to_run_with_a_journal() -> None:
    assert len(cases()) > 100
