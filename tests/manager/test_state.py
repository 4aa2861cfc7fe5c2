"""The manager's records: every step of a task, runs cut into spans, leases found by number."""

from __future__ import annotations

from array import array
from itertools import product

import pytest

from starcore.errors import Status
from starcore.manager.limits import Limits
from starcore.manager.state import (
    TRANSITIONS,
    Client,
    IllegalStepError,
    Job,
    Leased,
    Run,
    Span,
    State,
    Step,
    Worker,
    python_capability,
)
from starcore.messages import FunctionKind
from starcore.messages import Job as JobMessage

LEGAL = {
    (State.QUEUED, Step.LEASE): State.LEASED,
    (State.QUEUED, Step.FAIL): State.FAILED,
    (State.QUEUED, Step.CANCEL): State.CANCELLED,
    (State.LEASED, Step.REQUEUE): State.QUEUED,
    (State.LEASED, Step.FINISH): State.DONE,
    (State.LEASED, Step.FAIL): State.FAILED,
    (State.LEASED, Step.CANCEL): State.CANCELLED,
}


def job() -> Job:
    client = Client(bytes(16), "print", "client", "address", 0)
    message = JobMessage(1, FunctionKind.SHIPPED, bytes(32), "f", "3.11")
    return Job(1, client, message, 1, python_capability("3.11"), None)


def run(count: int, first: int = 0, owner: Job | None = None) -> Run:
    sizes = array("I", range(1, count + 1))
    heads = b"".join(bytes([index]) * size for index, size in enumerate(sizes))
    return Run(owner or job(), 0, first, sizes, array("Q"), memoryview(heads), bytearray(count), count, count)


def worker() -> Worker:
    return Worker(bytes(16), "print", "worker", "host", "address", "3.11", 1, 0, ())


# -- steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)))
def test_every_step_from_every_state_is_in_the_table_or_raises(state, step):
    assert TRANSITIONS == LEGAL
    tasks = run(3)
    tasks.states[1] = state
    if (state, step) in LEGAL:
        tasks.step(1, 2, step)
        assert tasks.states[1] == LEGAL[state, step]
    else:
        with pytest.raises(IllegalStepError, match=state.name):
            tasks.step(1, 2, step)
        assert tasks.states[1] == state


def test_step_of_tasks_that_do_not_stand_alike_raises_and_changes_nothing():
    tasks = run(3)
    tasks.step(1, 2, Step.LEASE)
    with pytest.raises(IllegalStepError, match="QUEUED, LEASED"):
        tasks.step(0, 3, Step.LEASE)
    assert list(tasks.states) == [State.QUEUED, State.LEASED, State.QUEUED]


def test_heartbeats_are_quicker_than_the_silence_they_fill():
    assert Limits().heartbeat_seconds == 2.0
    assert Limits(silence_seconds=1.0).heartbeat_seconds == 0.25
    assert Limits(silence_seconds=60.0, heartbeat_seconds=5.0).heartbeat_seconds == 5.0


def test_tasks_end_each_by_its_status():
    tasks = run(4)
    tasks.step(0, 4, Step.LEASE)
    assert tasks.end(1, 4, bytes([Status.OK, Status.RAISED, Status.TIMEOUT])) == 2
    assert list(tasks.states) == [State.LEASED, State.DONE, State.FAILED, State.FAILED]
    with pytest.raises(IllegalStepError):
        tasks.end(0, 2, bytes(2))


# -- spans ---------------------------------------------------------------------------------------------------


def heads_of(span: Span) -> bytes:
    sizes = span.run.head_sizes[span.start : span.stop]
    return bytes(span.run.heads[span.at : span.at + sum(sizes)])


def test_span_is_taken_from_its_front_with_the_right_heads():
    whole = run(5).span(0, 5, 1)
    first, second = whole.take(2, 1000), whole.take(9, 1000)
    assert (first.start, first.stop, second.start, second.stop) == (0, 2, 2, 5)
    assert heads_of(first) == b"\x00\x01\x01"
    assert heads_of(second) == b"\x02" * 3 + b"\x03" * 4 + b"\x04" * 5
    assert not whole.skip()


def test_span_takes_no_more_than_the_bytes_allowed_but_always_one():
    whole = run(5).span(0, 5, 1)
    assert whole.take(5, 6).stop == 3
    assert whole.take(5, 1).stop == 4


def test_span_leaves_out_what_was_cancelled():
    tasks = run(5)
    whole = tasks.span(0, 5, 1)
    for position in (0, 1, 3):
        tasks.step(position, position + 1, Step.CANCEL)
    assert whole.skip()
    piece = whole.take(5, 1000)
    assert (piece.start, piece.stop, heads_of(piece)) == (2, 3, b"\x02" * 3)
    tasks.step(2, 3, Step.LEASE)
    assert whole.skip()
    assert whole.take(5, 1000).start == 4


def test_span_from_the_middle_of_a_run_begins_at_the_right_head():
    assert heads_of(run(5).span(3, 4, 2)) == b"\x03" * 4


# -- tables --------------------------------------------------------------------------------------------------


def test_runs_of_a_job_are_found_by_index_in_whatever_order_they_came():
    owner = job()
    late, early = run(3, first=10, owner=owner), run(4, first=2, owner=owner)
    owner.add(late)
    owner.add(early)
    assert [owner.find(index) for index in (1, 2, 5, 6, 10, 12, 13)] == [None, early, early, None, late, late, None]
    assert owner.overlapping(0, 2) == []
    assert owner.overlapping(5, 11) == [early, late]
    owner.remove(early)
    assert owner.runs == [late]


def test_leases_of_a_worker_are_found_by_number():
    holder = worker()
    for first in (100, 104):
        holder.leases.append(Leased(first, run(2), 0, 1, holder, bytearray(2), 2, 0.0, 0.0))
    assert [holder.find(lease) and holder.find(lease).first for lease in (99, 100, 101, 102, 104, 105, 106)] == [
        None,
        100,
        100,
        None,
        104,
        104,
        None,
    ]


def test_mean_of_a_job_follows_its_late_tasks():
    owner = job()
    assert owner.mean_seconds is None
    owner.time(300, 300.0)
    assert owner.mean_seconds == 1.0
    for _ in range(10):
        owner.time(300, 3.0)
    assert owner.mean_seconds < 0.02
