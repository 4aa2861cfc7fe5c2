"""Every pair of a task's state and an event: reached by the fixed seeds, or listed here with the reason why not.

`IMPOSSIBLE` pairs cannot come about while all peers are honest; one that is reached is a bug, or its reason wrong.
`SELDOM` pairs can, but need moments that a thousand seeds may miss (many were reached, see the words). Whatever is in
neither list has to be reached.
"""

from __future__ import annotations

import pytest

from .campaign import Tally
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
        ("CHUNK of an argument",): {"CANCELLED": ORDERED},
        ("RESULT OK", "RESULT OK with a body"): {"FAILED": "a task whose function returned does not fail"},
        ("RESULT OK",): {"QUEUED": FINAL},
        ("RESULT TIMEOUT", "RESULT MEMORY", "RESULT UNSENDABLE", "RESULT UNRUNNABLE"): {"QUEUED DONE": FINAL},
        ("RESULT UNLOADABLE",): {
            "UNKNOWN QUEUED LEASED DONE FAILED CANCELLED": "the simulated slots can load every function"
        },
        ("RETRACTED", "STARTED", "worker GRANT"): {"QUEUED DONE FAILED": LIVE},
        ("CHUNK of an answer",): {"FAILED": "an answer with a body is of a task whose function returned"},
    },
    "client": {
        ("LOST", "WELCOME", "WELCOME again", "GOODBYE"): {UNKNOWN: OF_SESSION},
        ("OUTCOME CANCELLED",): {"WAITING SENT LANDING": "only what this client cancelled is told as cancelled"},
        ("CHUNK of an answer",): {"WAITING SENT": "an OUTCOME that announces the body came before it on its link"},
        ("ABORT",): {"WAITING SENT": "an argument is never aborted: a later attempt's GRANT asks for it anew"},
        ("CancelCall", "CancelCall kill"): {"CANCELLING": "the simulated callers cancel a task once"},
        ("RUNNING",): {"LANDING": "an answer is taken back, by ABORT, before its task runs again"},
    },
}

SELDOM: dict[str, Rows] = {
    "manager": {
        ("CANCEL",): {"CANCELLED": "it is said again on a new link"},
        ("client GRANT",): {"QUEUED FAILED": "it crosses the ABORT of an answer whose worker is gone"},
        ("CHUNK of an argument",): {
            "UNKNOWN DONE FAILED": "its task failed without it, as when its worker died for the third time"
        },
        ("client EXPIRED", "client GOODBYE"): {"LEASED": "few clients go with work outstanding"},
        ("client GOODBYE",): {"DONE FAILED CANCELLED": "few clients leave of their own will with work outstanding"},
        ("RESULT OK", "RESULT OK with a body"): {"DONE": REPEATED},
        ("RESULT OK with a body",): {"QUEUED": REPEATED},
        ("RESULT RAISED", "RESULT CRASHED"): {"UNKNOWN QUEUED DONE FAILED": REPEATED, "CANCELLED": "it crosses CANCEL"},
        ("RESULT TIMEOUT", "RESULT MEMORY", "RESULT UNSENDABLE", "RESULT UNRUNNABLE"): {"UNKNOWN FAILED": REPEATED},
        ("RESULT MEMORY", "RESULT UNSENDABLE", "RESULT UNRUNNABLE"): {"CANCELLED": "it crosses CANCEL"},
        ("RETRACTED", "STARTED", "worker GRANT"): {
            UNKNOWN: "a lease that was over when its worker came back with it",
        },
        ("RETRACTED declined",): {"QUEUED DONE FAILED": "it was answered when it was asked back"},
        ("CHUNK of an answer",): {
            "CANCELLED": "it crosses the CANCEL of its task",
            "QUEUED DONE": "its answer was taken back, and another one may have come",
        },
        ("worker LOST", "worker EXPIRED"): {"QUEUED": "a part of a batch was given back, and the rest was not"},
        ("worker DRAINING", "worker GOODBYE"): {
            "QUEUED DONE FAILED CANCELLED": "a part of a batch was over, or cancelled, and the rest was not"
        },
        ("worker HELLO lacks",): {"QUEUED FAILED": "a part of a batch was over, and its worker was not told"},
        ("worker HELLO holds",): {"QUEUED DONE FAILED": "its answer is not confirmed"},
    },
    "client": {
        ("OUTCOME whole", "OUTCOME with a body"): {
            "WAITING": "told again before the credit let its task be said again",
            "LANDING": "an answer was taken back, and another one came",
        },
        ("OUTCOME with a body", "OUTCOME CANCELLED"): {UNKNOWN: "told again after a reconnection"},
        ("CHUNK of an answer", "ABORT"): {UNKNOWN: "it crosses the cancel of its task"},
        ("ABORT",): {"LANDING": "an answer's worker is lost in mid-answer"},
        ("RUNNING",): {"UNKNOWN WAITING DONE": "of a task that a new link was not told of yet, or that is over"},
        ("GRANT",): {
            "UNKNOWN DONE": "it crosses a cancel",
            "WAITING LANDING": "of an attempt that an earlier link began",
        },
        ("CancelCall", "CancelCall kill"): {"UNKNOWN DONE": "it crosses the outcome"},
        ("GOODBYE",): {"WAITING LANDING CANCELLING": "few managers drain with work outstanding"},
        ("WELCOME",): {"LANDING": "this state lasts a round trip, and few managers begin anew"},
    },
}


def _pairs(tables: dict[str, Rows]) -> dict[Pair, str]:
    return {
        (core, state, event): reason
        for core, rows in tables.items()
        for events, states_of in rows.items()
        for event in events
        for states, reason in states_of.items()
        for state in states.split()
    }


ALL = [(core, state, event) for core, (states, events) in TABLES.items() for event in events for state in states]


def test_lists_name_pairs_that_there_are_and_none_twice() -> None:
    impossible, seldom = _pairs(IMPOSSIBLE), _pairs(SELDOM)
    assert impossible.keys() <= set(ALL)
    assert seldom.keys() <= set(ALL)
    assert not impossible.keys() & seldom.keys()
    assert all(impossible.values()) and all(seldom.values())


@pytest.mark.timeout(1200)
def test_every_pair_is_reached_or_listed_and_no_impossible_one_is_reached(fixed: Tally, fresh: Tally) -> None:
    reached = fixed.reached.keys() | fresh.reached.keys()
    assert reached <= set(ALL), "an event or a state that the table does not have"
    impossible = _pairs(IMPOSSIBLE)
    wrong = {pair: (fixed.reached | fresh.reached)[pair] for pair in impossible if pair in reached}
    assert not wrong, "reached, though listed as impossible (with the seed)"
    missing = [pair for pair in ALL if pair not in reached and pair not in impossible and pair not in _pairs(SELDOM)]
    assert not missing, "neither reached nor listed"
