"""Results: batches by reference, odd ones one by one, stale ones dropped."""

from __future__ import annotations

from array import array

import pytest

from starcore.errors import Status
from starcore.messages import (
    Confirm,
    Result,
)

from .star import Star


def test_columns_of_a_result_go_into_the_outcome_by_reference():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    assign = worker.leased(job, 0, 2)
    sizes, heads = array("I", [1, 2]), b"abb"
    leases = array("Q", [assign.lease, assign.lease + 1])
    worker.say(Result(leases, bytes(2), array("d", [1.0, 1.0]), sizes, array("Q"), heads))
    assert star.take(Confirm, worker).leases is leases
    outcome = client.outcome(job, [0, 1], head=None)
    assert outcome.head_sizes is sizes
    assert outcome.heads.obj is heads
    star.quiet()


def test_results_that_come_in_any_order_are_grouped():
    star = Star()
    worker, client = star.worker(slots=6), star.client()
    job = client.job()
    job.submit(6)
    lease = worker.leased(job, 0, 6).lease
    worker.result([lease + 4, lease + 5, lease, lease + 1, lease + 3])
    star.take(Confirm, worker)
    for indices in ([4, 5], [0, 1], [3]):
        client.outcome(job, indices)
    worker.result([lease + 2])
    star.take(Confirm, worker)
    client.outcome(job, [2])
    star.quiet()


def test_one_result_may_span_several_assignments():
    star = Star()
    worker, client = star.worker(slots=4), star.client()
    job = client.job()
    job.submit(2)
    job.submit(2)
    first, second = worker.leased(job, 0, 2), worker.leased(job, 2, 2)
    assert second.lease == first.lease + 2
    worker.result(range(first.lease, first.lease + 4))
    star.take(Confirm, worker)
    client.outcome(job, [0, 1])
    client.outcome(job, [2, 3])
    star.quiet()


def test_result_that_comes_twice_is_delivered_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    worker.finish(lease)
    client.outcome(job, [0], ack=False)
    worker.finish(lease)
    star.quiet()
    assert star.status()["stale"] == 1


def test_exception_is_retried_as_often_as_asked_then_told():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(retries=2)
    job.submit(1)
    for attempt in (1, 2, 3):
        worker.finish(worker.leased(job, 0, 1, attempt=attempt), Status.RAISED, head=b"traceback")
    client.outcome(job, [0], Status.RAISED, head=b"traceback")
    star.quiet()


def test_one_exception_in_a_batch_splits_only_itself_off():
    star = Star()
    worker, client = star.worker(slots=5), star.client()
    job = client.job(retries=1)
    job.submit(5)
    worker.finish(worker.leased(job, 0, 5), [0, 0, Status.RAISED, 0, Status.TIMEOUT])
    client.outcome(job, [0, 1])
    client.outcome(job, [3, 4], [Status.OK, Status.TIMEOUT])
    worker.finish(worker.leased(job, 2, 1, attempt=2))
    client.outcome(job, [2])
    star.quiet()


def test_seconds_beyond_what_a_worker_can_have_spent_are_not_charged_to_anybody():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    assign = worker.leased(job, 0, 2)
    star.now += 3.0
    leases = array("Q", range(assign.lease, assign.lease + 2))
    worker.say(Result(leases, bytes(2), array("d", [1.7e308] * 2), array("I", [0, 0]), array("Q"), b""))
    (status,) = star.status()["clients"]
    assert status["used_seconds"] == pytest.approx(6.0, abs=0.01)


def test_lease_that_began_and_ended_in_one_millisecond_of_the_clock_did_take_time():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1), seconds=0.0004)
    (status,) = star.status()["jobs"]
    assert status["mean_seconds"] == pytest.approx(0.0004)
