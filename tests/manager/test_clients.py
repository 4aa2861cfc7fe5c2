"""Clients' jobs and tasks: submitted, submitted again, cancelled, dropped."""

from __future__ import annotations

from array import array

import pytest

from starcore.errors import Code, Status
from starcore.manager.state import RUN_TASKS_MAX
from starcore.messages import (
    Ack,
    Assign,
    Confirm,
    Forget,
    Grant,
    Heartbeat,
    Outcome,
    Retract,
    Slots,
    Started,
    Submit,
)

from .star import Counted, Star, settle


def test_task_of_an_unknown_job_closes_the_link():
    star = Star()
    client = star.client()
    client.say(Submit(9, 0, False, array("I", [0])))
    assert "job 9" in star.closed(client, Code.UNEXPECTED)


def test_task_that_was_submitted_before_closes_the_link():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(3)
    job.submit(1, first=2)
    assert "before" in star.closed(client, Code.UNEXPECTED)


def test_what_a_returning_client_submits_again_is_not_run_twice():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2)
    client.lose()
    client.connect()
    client.say(job.message)
    job.submit(4, first=0, again=True)  # the last two were lost on the way
    new = worker.leased(job, 2, 2)
    worker.finish(lease)
    worker.finish(new)
    client.outcome(job, [0, 1])
    client.outcome(job, [2, 3])
    star.quiet()


def test_tasks_that_were_cancelled_before_they_came_are_found_without_a_look_at_all_outcomes():
    star = Star()
    client = star.client()
    job = client.job()
    for index in range(20):
        client.cancel(job, [index])
    known = star.core._sessions.clients[client.session]
    said = known.unread = Counted(known.unread)
    outcomes = star.all(Outcome, client)
    client.ack(*outcomes[:5])
    looks = said.looks
    with star.in_bulk():
        for index in range(25):
            job.submit(1, first=index, again=True)
        assert said.looks == looks
    (row,) = star.status()["jobs"]
    assert row["queued"] == 10, "those that were not refused, and those whose refusal was read"
    client.ack(*outcomes[5:])
    assert not known.jobs[job.number].refused


def test_gap_between_known_tasks_is_filled():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(2, first=0)
    job.submit(2, first=5)
    job.submit(9, first=0, again=True)
    worker = star.worker(slots=9)
    found = sorted((assign.first, len(assign.head_sizes)) for assign in star.all(Assign, worker))
    assert found == [(0, 2), (2, 3), (5, 2), (7, 2)]


def test_client_of_a_new_manager_begins_its_session_with_what_it_has():
    star = Star()
    worker, client = star.worker(slots=4), star.client()
    job = client.job()
    job.submit(3, first=7, again=True)
    worker.finish(worker.leased(job, 7, 3))
    client.outcome(job, [7, 8, 9])
    star.quiet()


def test_client_that_never_comes_back_loses_its_jobs_and_what_runs_is_killed():
    star = Star(silence_seconds=4000.0, heartbeat_seconds=900.0)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(3)
    running = worker.leased(job, 0, 1)
    waiting = worker.leased(job, 1, 1)
    client.lose()
    star.wait(299.0)
    star.all(Slots, client)
    star.quiet()
    star.wait(2.0)
    assert worker.retracted(kill=True) == [running.lease, waiting.lease]
    star.take(Forget, worker)
    worker.give_back([waiting.lease])
    worker.result([running.lease], Status.CANCELLED)
    star.take(Confirm, worker)
    assert star.status()["clients"] == star.status()["jobs"] == []
    star.quiet()


@pytest.mark.parametrize("cancelled", [True, False])
def test_many_arrays_are_taken_back_in_one_look_at_what_workers_hold(cancelled):
    star = Star()
    worker, client = star.worker(slots=20), star.client()
    job = client.job()
    for _ in range(100):
        job.submit(1, bodies=[1000])
    leases = [assign.lease for assign in star.all(Assign, worker)]
    assert len(leases) >= 20
    (known,) = star.core._sessions.clients[client.session].jobs.values()
    held = known.leased_runs = Counted(known.leased_runs)
    with star.in_bulk():  # to see whether the accounts are in order takes looks as well
        if cancelled:
            client.cancel(job, range(100), kill=True)
        else:
            client.goodbye()
        assert held.looks == 1
    assert worker.retracted(kill=True) == leases


def test_goodbye_of_a_client_ends_its_session_at_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    client.goodbye()
    assert worker.retracted(kill=True) == [lease.lease]
    star.take(Forget, worker)
    worker.finish(lease)
    settle(star)
    star.quiet()


def test_job_is_forgotten_when_its_last_outcome_was_acknowledged():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    client.say(Forget(job.number))
    worker.finish(worker.leased(job, 0, 1))
    outcome = client.outcome(job, [0], ack=False)
    assert len(star.status()["jobs"]) == 1
    client.ack(outcome)
    star.take(Forget, worker)
    assert star.status()["jobs"] == []
    star.quiet()


def test_job_that_is_forgotten_again_with_an_outcome_that_was_not_acknowledged_is_over():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    assign = worker.leased(job, 0, 1)
    client.say(Forget(job.number))
    worker.finish(assign)
    client.outcome(job, [0], ack=False)
    client.say(Forget(job.number))
    assert star.status()["jobs"] == []
    star.expect(Forget(1), worker)
    star.quiet()


def test_late_words_about_a_finished_job_are_dropped():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    worker.finish(lease)
    outcome = client.outcome(job, [0])
    client.say(Forget(job.number))
    star.take(Forget, worker)
    client.cancel(job, [0], kill=True)
    client.say(Ack(array("Q", [outcome.sequence, 999])))
    client.say(Forget(job.number))
    worker.give_back([lease.lease], [lease.lease])
    worker.say(Started(array("Q", [lease.lease])))
    worker.finish(lease)
    star.quiet()


def test_client_that_never_acknowledges_cannot_have_outcomes_kept_without_end():
    star = Star(settled_bytes=10_000)
    client = star.client()
    job = client.job()
    for _ in range(200):
        client.cancel(job, range(5))
    assert star.closed(client, Code.OVERRUN) == "10240 bytes of outcomes are not acknowledged, where 10000 are kept"


def test_jobs_beyond_the_session_s_bound_close_the_link():
    star = Star(job_bytes=5000)
    client = star.client()
    for _ in range(4):
        client.job()
    star.quiet()
    client.job()
    star.closed(client, Code.OVERRUN)


def test_cancelled_tasks_leave_nothing_in_line_where_no_worker_empties_it():
    star = Star(notice_seconds=1e6)
    client = star.client()
    for job in (client.job(), client.job(blob=False, code=b"one that never comes")):
        job.submit(1)
        for _ in range(500):
            client.cancel(job, job.submit(1))
            client.ack(star.all(Outcome, client)[0])
    (lane,) = star.core._scheduler._lanes.values()
    (line,) = lane.lines.values()
    (session,) = star.core._sessions.clients.values()
    assert len(line.plain) < 100
    assert all(len(job.waiting) < 100 for job in session.jobs.values())


def test_workers_do_not_wait_for_the_arguments_of_a_client_that_does_not_come_back():
    star = Star()
    worker, client, other = star.worker(slots=1), star.client(), star.client()
    job = client.job()
    job.submit(2, bodies=[1000, 1000])
    first, second = worker.leased(job, 0, 1).lease, worker.leased(job, 1, 1).lease
    client.lose()
    star.wait(4.0)
    assert not star.all(Retract, worker)
    other.say(Heartbeat())
    worker.say(Heartbeat())
    star.wait(2.0)
    asked = [lease for retract in star.all(Retract, worker) for lease in retract.leases]
    assert asked == [first, second]
    worker.give_back(asked)
    theirs = other.job()
    theirs.submit(1)
    worker.leased(theirs, 0, 1)


def test_worker_that_lost_an_argument_with_its_link_does_not_wait_for_a_client_that_is_away():
    """All of it had left the manager when the client went, so nothing was asked back: then the worker asked anew."""
    star = Star()
    worker, client, other = star.worker(slots=1), star.client(), star.client()
    job = client.job()
    job.submit(1, bodies=[1000])
    lease = worker.leased(job, 0, 1).lease
    worker.say(Grant(lease, 1, 0, 1000))
    star.all(Grant, client)
    client.push(job.stream(0), 0, 1000)
    client.lose()
    star.wait(4.0)
    for side in (worker, other):
        side.say(Heartbeat())
    star.wait(2.0)
    assert not star.all(Retract, worker)
    worker.lose()
    worker.connect(leases=array("Q", [lease]))
    worker.say(Grant(lease, 1, 0, 1000))
    assert [list(retract.leases) for retract in star.all(Retract, worker)] == [[lease]]
    worker.give_back([lease])


# -- tasks that come one by one and wait ------------------------------------------------------------------------


def runs_of(star: Star) -> list[int]:
    """How many tasks each run that is here has."""
    clients = star.core._sessions.clients.values()
    return [run.count for client in clients for job in client.jobs.values() for run in job.runs]


def test_tasks_that_come_one_by_one_and_wait_become_one_run_and_are_given_out_together():
    star = Star()
    client = star.client()
    job = client.job()
    for _ in range(50):
        job.submit(1)
    assert runs_of(star) == [50]
    worker = star.worker(slots=60)
    settle(star)
    worker.finish(worker.leased(job, 0, 50))
    client.outcome(job, range(50))
    star.quiet()
    assert runs_of(star) == []


def test_run_that_is_being_given_out_grows_at_its_end():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(3)
    first = worker.leased(job, 0, 1)
    second = worker.leased(job, 1, 1)
    for _ in range(3):
        job.submit(1)
    assert runs_of(star) == [6]
    star.core.check()
    worker.finish(first)
    client.outcome(job, [0])
    worker.finish(second)
    client.outcome(job, [1])
    worker.finish(worker.leased(job, 2))
    rest = star.all(Outcome, client)
    assert [index for outcome in rest for index in outcome.indices] == [2, 3, 4, 5]
    star.core.check()


def test_task_that_joins_a_run_whose_last_task_was_cancelled_is_run():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(2)
    client.cancel(job, [1])
    client.outcome(job, [1], Status.CANCELLED, head=b"")
    job.submit(1)
    assert runs_of(star) == [3]
    worker = star.worker(slots=2)
    settle(star)
    one, other = worker.leased(job, 0, 1), worker.leased(job, 2, 1)
    worker.finish(one)
    client.outcome(job, [0])
    worker.finish(other)
    client.outcome(job, [2])
    star.quiet()


def test_tasks_that_wait_for_their_function_join_too():
    star = Star()
    client = star.client()
    job = client.job(blob=False)
    for _ in range(4):
        job.submit(1)
    assert runs_of(star) == [4]
    star.core.check()


def test_tasks_of_two_jobs_in_turn_keep_their_order():
    star = Star()
    client = star.client()
    one, other = client.job(), client.job()
    for job in (one, other, one, other):
        job.submit(1)
    assert runs_of(star) == [1, 1, 1, 1]
    worker = star.worker(slots=4)
    settle(star)
    for job, index in ((one, 0), (other, 0), (one, 1), (other, 1)):
        worker.leased(job, index, 1)
    star.quiet()


def test_run_grows_only_so_far():
    star = Star()
    client = star.client()
    job = client.job()
    for _ in range(3):
        job.submit(RUN_TASKS_MAX // 2)
    job.submit(1)
    assert runs_of(star) == [RUN_TASKS_MAX, RUN_TASKS_MAX // 2 + 1]
    job.submit(1, bodies=[70_000])
    job.submit(1)
    assert runs_of(star) == [RUN_TASKS_MAX, RUN_TASKS_MAX // 2 + 1, 1, 1]
    star.core.check()


def test_job_that_is_forgotten_and_begun_again_is_a_new_one_though_an_acknowledgement_was_lost():
    """The ACK went with the link, and FORGET was said again: the tasks that followed closed an honest client's link."""
    star = Star()
    worker, client = star.worker(), star.client()
    settle(star)
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, count=1))
    star.take(Outcome, client)
    client.lose()
    client.connect()
    client.say(Forget(job.number))
    assert not star.core._sessions.clients[client.session].jobs
    star.actions.clear()
    client.say(job.message)
    job.submit(1, first=1)
    worker.leased(job, count=1)
