"""Records come to tasks: also where some of them are lost."""

from __future__ import annotations

from array import array

import pytest

from starcore.errors import Status
from starcore.manager.records import (
    LEASE_BITS,
    Accepted,
    Acknowledged,
    ClientKnown,
    ClientOver,
    Delivered,
    Ended,
    Epoch,
    Fact,
    JobForgotten,
    JobKnown,
    Leased,
    Requeued,
    WorkerKnown,
    WorkerOver,
)
from starcore.manager.recovery import Recovery
from starcore.manager.state import RUN_TASKS_MAX, State
from starcore.messages import FunctionKind

CLIENT, WORKER = b"c" * 16, b"w" * 16
BEGUN: list[Fact] = [
    Epoch(7, 9, 0),
    ClientKnown(CLIENT, "ff", "cert", "c", "192.0.2.1:1", 1 << 20, 1 << 32),
    WorkerKnown(WORKER, "ff", "cert", "w", "node", "192.0.2.1:2", "3.11", 2, 1 << 30, True),
    JobKnown(3, CLIENT, 1, FunctionKind.REGISTERED, bytes(32), "f", "", 0, 0.0, 0),
]


def accepted(first: int, count: int, bodies: tuple[int, ...] = ()) -> Accepted:
    return Accepted(3, first, array("I", [1]) * count, array("Q", bodies), b"x" * count)


def ended(sequence: int, *indices: int, status: Status = Status.OK) -> Ended:
    count = len(indices)
    return Ended(
        3, sequence, 1, False, array("I", indices), bytes((status,)) * count, array("I", [1]) * count, b"y" * count
    )


def recovery(*facts: Fact, begun: list[Fact] = BEGUN) -> Recovery:
    made = Recovery()
    for fact in (*begun, *facts):
        made.apply(fact)
    return made


def states(made: Recovery) -> list[State]:
    return [State(state) for run in made.jobs[3].runs for state in run.states]


def test_epoch_generation_and_numbers_are_those_of_the_segment() -> None:
    made = recovery()
    assert (made.epoch, made.generation, made.last_job) == (7, 9, 3)


def test_generation_is_that_of_the_last_lease_however_many_there_were() -> None:
    """A lease of the next manager must not have the number of one that a worker still holds."""
    made = recovery(accepted(0, 2), Leased(WORKER, 11 << LEASE_BITS, 3, 0, 1, 1), Leased(WORKER, 5, 3, 1, 1, 1))
    assert made.generation == 11


def test_small_runs_that_follow_each_other_are_joined_up_to_a_bound() -> None:
    made = recovery(*(accepted(index, 1) for index in range(RUN_TASKS_MAX + 1)))
    assert [len(run.states) for run in made.jobs[3].runs] == [RUN_TASKS_MAX, 1]
    assert made.open_tasks == RUN_TASKS_MAX + 1


def test_outcome_ends_its_tasks_and_its_acknowledgement_lets_them_go() -> None:
    made = recovery(accepted(0, 3), ended(5, 0, 2, status=Status.RAISED))
    assert states(made) == [State.FAILED, State.QUEUED, State.FAILED]
    assert made.unread_outcomes == 1
    made.apply(Acknowledged(CLIENT, array("Q", [5])))
    assert made.unread_outcomes == 0 and made.open_tasks == 1
    made.apply(ended(6, 1))
    made.apply(Acknowledged(CLIENT, array("Q", [6])))
    assert not made.jobs[3].runs


def test_forgotten_job_goes_with_its_last_unread_outcome() -> None:
    made = recovery(accepted(0, 1), JobForgotten(3), ended(5, 0))
    assert 3 in made.jobs
    made.apply(Acknowledged(CLIENT, array("Q", [5])))
    assert not made.jobs and not made.clients[CLIENT].jobs


def test_lease_of_a_task_is_the_last_one_that_was_told() -> None:
    made = recovery(
        accepted(0, 4), Leased(WORKER, 100, 3, 0, 4, 1), Requeued(3, 1, 2, 2), Leased(WORKER, 200, 3, 2, 1, 2)
    )
    run = made.jobs[3].runs[0]
    assert list(run.leases) == [100, 0, 200, 103]
    assert list(run.attempts) == [1, 2, 2, 1]


def test_answer_that_was_delivered_leaves_nothing() -> None:
    made = recovery(accepted(0, 1, (9,)), Leased(WORKER, 100, 3, 0, 1, 1), Delivered(3, array("I", [0]), b"\0"))
    assert not made.jobs[3].runs


def test_client_that_is_over_takes_its_jobs_along_and_a_worker_only_itself() -> None:
    made = recovery(accepted(0, 1), WorkerOver(WORKER), ClientOver(CLIENT))
    assert not made.jobs and not made.clients and not made.workers


def test_segment_that_begins_anew_forgets_what_was_before() -> None:
    made = recovery(accepted(0, 5), *BEGUN)
    assert made.open_tasks == 0


FACTS: list[Fact] = [
    *BEGUN,
    accepted(0, 3),
    accepted(3, 2, (5, 6)),
    Leased(WORKER, 100, 3, 0, 3, 1),
    Requeued(3, 1, 1, 2),
    ended(5, 0, 2),
    Acknowledged(CLIENT, array("Q", [5])),
    Delivered(3, array("I", [3]), b"\0"),
    JobForgotten(3),
]


@pytest.mark.parametrize("lost", range(len(FACTS)))
@pytest.mark.parametrize("length", [1, 2, 4])
def test_whatever_is_lost_the_rest_is_taken(lost: int, length: int) -> None:
    made = recovery(begun=FACTS[:lost] + FACTS[lost + length :])
    assert made.open_tasks <= 5
    for number, job in made.jobs.items():
        assert made.clients[job.known.session].jobs[number] is job
        assert all(run.states for run in job.runs)


def test_session_that_begins_again_leaves_no_jobs_of_its_first_life() -> None:
    made = recovery(accepted(0, 2), BEGUN[1])
    assert made.jobs == {} and made.clients[CLIENT].jobs == {}
