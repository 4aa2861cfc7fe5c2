"""Outcomes: credits, acknowledgements, cancellations, and answers whose worker is lost."""

from __future__ import annotations

from array import array

import pytest

from starcore.errors import Code, Status
from starcore.messages import Abort, Assign, Confirm, Grant, Outcome, Submit, Want
from starcore.messages import Job as JobMessage

from .star import Star, settle

BODY = 200_000


def answered(star, *, ack=False):
    """A star whose worker announced an answer with a body."""
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1).lease
    worker.result([lease], bodies=[BODY])
    outcome = client.outcome(job, [0], ack=ack)
    return worker, client, job, lease, outcome


def forwarded(star):
    """A star whose worker's answer was written to its client whole."""
    worker, client, job, lease, outcome = answered(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.push(lease, 0, BODY)
    star.chunk(client)
    return worker, client, job, outcome


# -- credit --------------------------------------------------------------------------------------------------


def test_client_that_submits_beyond_its_credit_is_closed():
    star = Star(submit_bytes=3 * 66)
    client = star.client()
    job = client.job()
    job.submit(3)
    star.quiet()
    job.submit(1)
    star.closed(client, Code.OVERRUN)


def test_lone_task_is_taken_however_large():
    star = Star(submit_bytes=10)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1))
    client.outcome(job, [0])
    job.submit(1)
    worker.leased(job, 1, 1)
    star.quiet()


def test_submit_credit_comes_back_with_the_outcome():
    star = Star(submit_bytes=2 * 66)
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    for first in (0, 2, 4):
        job.submit(2)
        worker.finish(worker.leased(job, first, 2))
        client.outcome(job, [first, first + 1], ack=False)
    star.quiet()


def test_nothing_is_dispatched_for_a_client_with_too_many_unread_answers():
    star = Star()
    worker, slow, quick = star.worker(), star.client(result_bytes=100), star.client()
    job, other = slow.job(), quick.job()
    for index in range(2):
        job.submit(1)
        worker.finish(worker.leased(job, index, 1))
    first, second = (slow.outcome(job, [index], ack=False) for index in range(2))
    job.submit(1)
    star.quiet()
    other.submit(1)
    worker.finish(worker.leased(other, 0, 1))
    quick.outcome(other, [0])
    slow.ack(first)
    worker.leased(job, 2, 1)
    slow.ack(second)
    star.quiet()


# -- cancellation --------------------------------------------------------------------------------------------


def test_queued_tasks_are_cancelled_at_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(6)
    running, waiting = worker.leased(job, 0, 1), worker.leased(job, 1, 1)
    client.cancel(job, [2, 4, 5])
    client.outcome(job, [2, 4, 5], Status.CANCELLED, head=b"")
    worker.finish(running)
    worker.finish(waiting)
    client.outcome(job, [0])
    client.outcome(job, [1])
    worker.finish(worker.leased(job, 3, 1))
    client.outcome(job, [3])
    star.quiet()


def test_late_result_of_a_cancelled_task_is_dropped():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    client.cancel(job, [0])
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    assert worker.retracted() == [lease.lease]
    worker.give_back([], declined=[lease.lease])
    worker.finish(lease)
    star.quiet()


def test_running_task_is_killed_where_asked():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 1)
    waiting = worker.leased(job, 1, 1)
    client.cancel(job, [0], kill=True)
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    assert worker.retracted(kill=True) == [lease.lease]
    worker.finish(lease, Status.CANCELLED, head=b"")
    worker.finish(waiting)
    client.outcome(job, [1])
    star.quiet()


def test_cancel_aimed_at_a_worker_that_dies_meanwhile_gives_one_outcome():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    client.cancel(job, [0], kill=True)
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    assert worker.retracted(kill=True) == [lease.lease]
    worker.lose()
    star.wait(1.0)
    star.worker()
    settle(star)
    star.quiet()


def test_cancel_of_what_the_manager_never_had_is_confirmed():
    star = Star()
    client = star.client()
    job = client.job()
    client.cancel(job, [3, 4])
    client.outcome(job, [3, 4], Status.CANCELLED, head=b"")
    star.quiet()


def test_cancel_while_the_job_waits_for_its_blob():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(blob=False)
    star.take(Want, client)
    job.submit(3)
    client.cancel(job, [1])
    client.outcome(job, [1], Status.CANCELLED, head=b"")
    client.job()  # brings the blob
    leased = [worker.leased(job, 0, 1), worker.leased(job, 2, 1)]
    for lease in leased:
        worker.finish(lease)
    client.outcome(job, [0])
    client.outcome(job, [2])
    star.quiet()


def test_cancel_in_mid_answer_stops_the_stream():
    star = Star()
    worker, client, job, lease, _ = answered(star)
    client.cancel(job, [0])
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    assert star.take(Abort, client).stream == job.stream(0)
    star.expect(Confirm(array("Q", [lease])), worker)
    worker.push(lease, 0, 1000, token=b"late")
    assert star.dropped == [b"late"]
    star.quiet()


# -- answers with bodies -------------------------------------------------------------------------------------


def test_worker_keeps_an_answer_until_the_client_has_it():
    star = Star()
    worker, client, job, lease, outcome = answered(star)
    assert list(outcome.body_sizes) == [BODY]
    star.quiet()
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.expect(Grant(lease, 1, 0, BODY), worker)
    worker.push(lease, 0, BODY, token=b"x" * BODY)
    assert star.chunk(client).length == BODY
    star.quiet()
    client.ack(outcome)
    star.expect(Confirm(array("Q", [lease])), worker)
    star.quiet()


def test_answers_that_are_read_together_are_confirmed_together():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    first = worker.leased(job, 0, 2).lease
    worker.result([first, first + 1], bodies=[BODY, BODY])
    outcomes = [client.outcome(job, [index], ack=False) for index in (0, 1)]
    for index in (0, 1):
        client.say(Grant(job.stream(index), 1, 0, BODY))
        star.expect(Grant(first + index, 1, 0, BODY), worker)
        worker.push(first + index, 0, BODY)
        client.writable()
        star.chunk(client)
    client.ack(*outcomes)
    star.expect(Confirm(array("Q", [first, first + 1])), worker)
    star.quiet()


def test_answer_of_a_worker_lost_in_mid_stream_is_aborted_and_runs_again():
    star = Star()
    worker, client, job, lease, _ = answered(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.push(lease, 0, 1000)
    star.chunk(client)
    worker.lose()
    star.wait(1.0)
    abort = star.take(Abort, client)
    assert (abort.stream, abort.attempt, abort.code) == (job.stream(0), 1, Code.GONE)
    second = star.worker()
    again = second.leased(job, 0, 1, attempt=2)
    second.finish(again)
    assert client.outcome(job, [0]).attempt == 2
    settle(star)
    assert star.status()["requeued"] == 1
    star.quiet()


def test_answer_that_was_forwarded_whole_needs_its_worker_no_more():
    star = Star()
    worker, client, _, outcome = forwarded(star)
    worker.goodbye()
    client.ack(outcome)
    star.worker()
    settle(star)
    star.quiet()


def test_client_that_returns_with_an_answer_whose_worker_is_gone_has_only_to_acknowledge_it():
    """It would not send the argument of a task that is done for it, so the task could never run again."""
    star = Star()
    worker, client, *_ = forwarded(star)
    worker.goodbye()
    client.lose()
    client.connect()
    client.ack(star.take(Outcome, client))
    star.worker()
    settle(star)
    star.quiet()


def test_client_that_is_away_when_the_worker_goes_may_have_the_answer_whole():
    star = Star()
    worker, client, *_ = forwarded(star)
    client.lose()
    worker.goodbye()
    star.worker()
    client.connect()
    client.ack(star.take(Outcome, client))
    settle(star)
    star.quiet()


def test_client_that_returns_without_an_answer_whose_worker_is_gone_has_its_task_run_again():
    star = Star()
    worker, client, job, _ = forwarded(star)
    worker.goodbye()
    client.lose()
    client.connect()
    star.take(Outcome, client)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    assert star.take(Abort, client).attempt == 1
    second = star.worker()
    second.finish(second.leased(job, 0, 1, attempt=2))
    client.outcome(job, [0])
    settle(star)
    assert star.status()["requeued"] == 1
    star.quiet()


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("link", ["lost before", "lost after", "alive"])
def test_answer_that_a_client_was_told_of_is_not_taken_back_before_its_word_on_it(link: str, wanted: bool) -> None:
    """It may want none, of a task that it cancelled meanwhile, or have this one; its ACK was lost, or is on its way."""
    star = Star(worker_grace_seconds=1.0)
    worker, client, job, _, outcome = answered(star)
    if link == "lost before":
        client.lose()
    worker.lose()
    star.wait(1.5)
    second = star.worker()
    assert not star.all(Assign, second)
    if link == "lost after":
        client.lose()
    if link != "alive":
        client.connect()
        assert client.outcome(job, [0], ack=False) == outcome
    if wanted:
        client.say(Grant(job.stream(0), 1, 0, BODY))
        star.take(Abort, client)
        second.finish(second.leased(job, 0, 1, attempt=2))
        client.outcome(job, [0])
    else:
        client.ack(outcome)
        assert not star.all(Assign, second)
    settle(star)
    star.quiet()


def test_returning_worker_goes_on_with_its_answer():
    star = Star()
    worker, client, job, lease, outcome = answered(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.push(lease, 0, 1000)
    star.chunk(client)
    worker.lose()
    worker.connect(leases=array("Q", [lease]))
    star.take(JobMessage, worker)
    worker.result([lease], bodies=[BODY])
    star.expect(Grant(lease, 1, 1000, BODY - 1000), worker)
    worker.push(lease, 1000, BODY - 1000)
    client.writable()
    assert star.chunk(client).offset == 1000
    client.ack(outcome)
    star.take(Confirm, worker)
    settle(star)
    star.quiet()


def test_returning_client_takes_up_its_answer_where_it_says():
    star = Star()
    worker, client, job, lease, outcome = answered(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.push(lease, 0, 50_000)
    star.chunk(client)
    client.lose()
    worker.push(lease, 50_000, 50_000)
    client.connect()
    client.outcome(job, [0], ack=False)
    client.say(Grant(job.stream(0), 1, 20_000, BODY - 20_000))
    star.expect(Grant(lease, 2, 20_000, BODY - 20_000), worker)
    worker.push(lease, 100_000, 1000, attempt=1, token=b"stale")
    assert star.dropped == [b"stale"]
    worker.push(lease, 20_000, 30_000, attempt=2)
    assert star.chunk(client).offset == 20_000
    client.ack(outcome)
    star.take(Confirm, worker)
    star.quiet()


def test_client_that_takes_no_answer_ends_it():
    star = Star()
    worker, client, job, lease, _ = answered(star)
    client.say(Abort(job.stream(0), 1, Code.CANCELLED, "no memory"))
    star.expect(Confirm(array("Q", [lease])), worker)
    star.quiet()


def test_worker_that_cannot_send_its_answer_has_the_task_run_again():
    star = Star()
    worker, client, job, lease, _ = answered(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.say(Abort(lease, 1, Code.INTERNAL, "?"))
    star.take(Abort, client)
    worker.finish(worker.leased(job, 0, 1, attempt=2))
    client.outcome(job, [0])
    star.quiet()


# -- arguments with bodies -----------------------------------------------------------------------------------


def test_task_larger_than_every_arena_fails_at_once():
    star = Star()
    star.worker(arena_bytes=BODY)
    client = star.client()
    job = client.job()
    job.submit(2, bodies=[BODY + 1, BODY])
    outcome = client.outcome(job, [0], Status.UNRUNNABLE, head=None)
    assert str(BODY + 1) in bytes(outcome.heads).decode()
    assert str(BODY) in bytes(outcome.heads).decode()


def test_queued_task_that_a_late_worker_is_too_small_for_fails():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(1, bodies=[BODY])
    star.quiet()
    star.worker(arena_bytes=BODY - 1)
    client.outcome(job, [0], Status.UNRUNNABLE, head=None)


def test_bodies_leased_to_a_worker_never_exceed_its_arena():
    star = Star()
    worker, client = star.worker(slots=4, arena_bytes=2 * BODY), star.client()
    job = client.job()
    job.submit(4, bodies=[BODY] * 4)
    first = worker.leased(job, 0, 1)
    worker.leased(job, 1, 1)
    star.quiet()
    worker.finish(first)
    worker.leased(job, 2, 1)
    assert not star.all(Assign, worker)
    client.outcome(job, [0])
    star.quiet()


def test_client_that_takes_its_argument_back_has_the_task_fail():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1, bodies=[BODY])
    lease = worker.leased(job, 0, 1)
    client.say(Abort(job.stream(0), 1, Code.CANCELLED, "the array is gone"))
    outcome = client.outcome(job, [0], Status.UNRUNNABLE, head=None)
    assert b"the array is gone" in bytes(outcome.heads)
    assert worker.retracted(kill=True) == [lease.lease]


def test_outcomes_are_numbered_one_after_the_other():
    star = Star()
    worker, client = star.worker(slots=3), star.client()
    job = client.job()
    job.submit(3)
    lease = worker.leased(job, 0, 3).lease
    worker.result([lease, lease + 2, lease + 1], bodies=[0, BODY, 0])
    star.expect(Confirm(array("Q", [lease, lease + 1])), worker)
    outcomes = star.all(Outcome, client)
    first = outcomes[0].sequence
    assert [outcome.sequence - first for outcome in outcomes] == [0, 1, 2]
    assert first >> 32 == client.link, "no outcome of an earlier session of this name has its number"
    assert [list(outcome.body_sizes) for outcome in outcomes] == [[], [BODY], []]


def test_body_that_is_submitted_again_is_pulled_on_the_new_link():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1, bodies=[BODY])
    lease = worker.leased(job, 0, 1).lease
    worker.say(Grant(lease, 1, 0, BODY))
    star.expect(Grant(job.stream(0), 1, 0, BODY), client)
    client.push(job.stream(0), 0, 50_000)
    star.chunk(worker)
    client.lose()
    client.connect()
    client.say(job.message)
    client.say(Submit(job.number, 0, True, *job.heads(0, 1)[:1], array("Q", [BODY]), job.heads(0, 1)[1]))
    star.expect(Grant(job.stream(0), 1, 50_000, BODY - 50_000), client)
    star.quiet()
