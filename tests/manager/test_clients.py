"""Clients' jobs and tasks: submitted, submitted again, cancelled, dropped."""

from __future__ import annotations

from array import array

from starcore.errors import Code, Status
from starcore.messages import (
    Ack,
    Assign,
    Confirm,
    Forget,
    Slots,
    Started,
    Submit,
)

from .star import Star, settle


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
