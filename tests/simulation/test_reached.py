"""Every pair of a task's state and an event: reached by seeds, or by hand, or listed here with the reason why not.

`IMPOSSIBLE` pairs cannot come about while all peers are honest; one that is reached is a bug, or its reason wrong.
Pairs that need moments which two thousand seeds may miss are reached by the scenarios of `directed.py`, each by one
that is for it (`test_seldom.py`). Whatever is neither there nor in the list has to be reached by the seeds.
"""

from __future__ import annotations

import pytest

from . import directed_client, directed_manager  # noqa: F401 - they fill the table
from .campaign import Tally
from .directed import SCENARIOS
from .reached import CLIENT_EVENTS, CLIENT_STATES, MANAGER_EVENTS, MANAGER_STATES, UNKNOWN, Pair

pytestmark = pytest.mark.alone  # it takes every core

Rows = dict[tuple[str, ...], dict[str, str]]
"""Events -> the states, parted by blanks, and why."""

TABLES = {"manager": (MANAGER_STATES, MANAGER_EVENTS), "client": (CLIENT_STATES, CLIENT_EVENTS)}
OF_SESSION = "it concerns the tasks that the manager or the client knows of a session, and no other"
FINAL = "such a result is its task's last one, or finds it cancelled"
REPEATED = "told again after a reconnection, when the lease is over but for others of its batch"
LIVE = "a lease that its worker has not answered is of a task that is leased, or was cancelled"
ORDERED = "the link keeps the order: what ended the task came behind it"
KEPT = "an answer with a body is taken back only from a worker that is gone, or that came back without it"
WHOLE = "what has arrived whole is not asked for again, and what was asked for before came before"
ABORTED = "an answer is taken back, by ABORT, before its task runs again"

_SESSION_EVENTS = tuple(event for event in MANAGER_EVENTS if event.split()[-1] in {"LOST", "EXPIRED", "GOODBYE"})

IMPOSSIBLE: dict[str, Rows] = {
    "manager": {
        _SESSION_EVENTS: {UNKNOWN: OF_SESSION},
        ("client HELLO", "worker DRAINING", "worker HELLO lacks"): {UNKNOWN: OF_SESSION},
        ("SUBMIT",): {"QUEUED LEASED DONE FAILED CANCELLED": "an index is new once; later it is said AGAIN"},
        ("SUBMIT again",): {"CANCELLED": "a client that cancels a task says CANCEL again, and never the task"},
        ("ACK",): {"QUEUED": "an answer is taken back, and its number forgotten, before its task is queued again"},
        ("client ABORT",): {
            "UNKNOWN QUEUED LEASED DONE FAILED CANCELLED": "our client ends streams of functions and values only"
        },
        ("worker ABORT",): {
            "UNKNOWN QUEUED LEASED DONE FAILED CANCELLED": "our worker ends streams of functions and values only"
        },
        ("client GRANT",): {"UNKNOWN DONE CANCELLED": ORDERED},
        ("CHUNK of an argument",): {
            "CANCELLED": ORDERED,
            "DONE": f"its function had the argument: {WHOLE}",
            UNKNOWN: "its client sends none once it has the outcome, which it acknowledges after that; it would be one "
            "of a task that a failed journal refused, but here is no journal (`disk.py`)",
        },
        ("RESULT OK", "RESULT OK with a body"): {"FAILED": "a task whose function returned does not fail"},
        ("RESULT OK",): {"QUEUED": FINAL},
        ("RESULT OK with a body",): {"QUEUED": KEPT},
        ("RESULT TIMEOUT", "RESULT MEMORY", "RESULT UNSENDABLE", "RESULT UNRUNNABLE"): {"QUEUED DONE": FINAL},
        ("RESULT UNLOADABLE",): {
            "UNKNOWN QUEUED LEASED DONE FAILED CANCELLED": "the simulated slots can load every function"
        },
        ("RETRACTED", "STARTED", "worker GRANT"): {"QUEUED DONE FAILED": LIVE},
        ("CHUNK of an answer",): {
            "FAILED": "an answer with a body is of a task whose function returned",
            "QUEUED": KEPT,
            "DONE": f"its client has the answer: {WHOLE}",
        },
    },
    "client": {
        ("LOST", "WELCOME", "WELCOME again", "GOODBYE"): {UNKNOWN: OF_SESSION},
        ("OUTCOME CANCELLED",): {"WAITING SENT LANDING": "only what this client cancelled is told as cancelled"},
        ("CHUNK of an answer",): {"WAITING SENT": "an OUTCOME that announces the body came before it on its link"},
        ("ABORT",): {"WAITING SENT": "an argument is never aborted: a later attempt's GRANT asks for it anew"},
        ("CancelCall", "CancelCall kill"): {"CANCELLING": "the simulated callers cancel a task once"},
        ("RUNNING",): {"LANDING": ABORTED},
        ("OUTCOME whole", "OUTCOME with a body"): {"LANDING": ABORTED},
        ("GRANT",): {
            "WAITING": "a manager asks over a link for what was said over that link only",
            "LANDING": f"its function had the argument; {ABORTED}",
        },
    },
}

def pairs_of(tables: dict[str, Rows]) -> dict[Pair, str]:
    return {
        (core, state, event): reason
        for core, rows in tables.items()
        for events, states_of in rows.items()
        for event in events
        for states, reason in states_of.items()
        for state in states.split()
    }


DIRECTED = {pair for pairs in SCENARIOS.values() for pair in pairs}
ALL = [(core, state, event) for core, (states, events) in TABLES.items() for event in events for state in states]


def test_lists_name_pairs_that_there_are_and_none_twice() -> None:
    impossible = pairs_of(IMPOSSIBLE)
    assert impossible.keys() <= set(ALL)
    assert set(ALL) >= DIRECTED
    assert not impossible.keys() & DIRECTED
    assert all(impossible.values())


@pytest.mark.timeout(1200)
def test_every_pair_is_reached_or_listed_and_no_impossible_one_is_reached(fixed: Tally, fresh: Tally) -> None:
    reached = fixed.reached.keys() | fresh.reached.keys()
    assert reached <= set(ALL), "an event or a state that the table does not have"
    impossible = pairs_of(IMPOSSIBLE)
    wrong = {pair: (fixed.reached | fresh.reached)[pair] for pair in impossible if pair in reached}
    assert not wrong, "reached, though listed as impossible (with the seed)"
    missing = [pair for pair in ALL if pair not in reached and pair not in impossible and pair not in DIRECTED]
    assert not missing, "neither reached nor listed"
