"""The manager's core as its peers see it: work and answers, news of the star, and the end."""

from __future__ import annotations

from array import array

from starcore.errors import Code
from starcore.events import Close, Finished, Opened, Peer, Received
from starcore.manager.core import Drain
from starcore.messages import (
    Assign,
    Blob,
    Confirm,
    FunctionKind,
    Goodbye,
    Hello,
    Result,
    Role,
    Submit,
)
from starcore.messages import Job as JobMessage

from .star import EPOCH, Star, settle


def test_message_of_the_other_role_closes_the_link():
    star = Star()
    worker, client = star.worker(), star.client()
    worker.say(Submit(1, 0))
    client.say(Result())
    star.closed(worker, Code.UNEXPECTED)
    star.closed(client, Code.UNEXPECTED)
    star.quiet()


def test_task_goes_to_a_worker_and_its_answer_to_the_client():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(timeout_seconds=5.0, retries=1, priority=3)
    job.submit(1)
    blob = star.take(Blob, worker)
    assert (blob.digest, blob.body_bytes, blob.head) == (job.digest, 0, b"a function")
    theirs = star.take(JobMessage, worker)
    assert (theirs.digest, theirs.timeout_seconds, theirs.retries, theirs.priority) == (job.digest, 5.0, 1, 3)
    assign = star.take(Assign, worker)
    assert assign == Assign(EPOCH << 32, theirs.job, 0, 1, array("I", [2]), array("Q"), b"#0")
    worker.finish(assign, head=b"4711")
    client.outcome(job, [0], head=b"4711")
    star.quiet()


def test_tasks_travel_in_batches_from_end_to_end():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    worker.finish(worker.leased(job, 0, 2), seconds=1e-6)
    client.outcome(job, [0, 1])
    job.submit(1000)
    assign = worker.leased(job, 2, 1000)
    worker.finish(assign, seconds=1e-6)
    client.outcome(job, range(2, 1002))
    star.quiet()


def test_registered_function_goes_to_a_worker_that_has_it_without_a_blob():
    star = Star()
    star.worker()
    worker = star.worker(python="3.9", only_registered=True, functions=["m:f", "m:g"])
    client = star.client()
    for name in ("m:g", ""):
        job = client.job(kind=FunctionKind.REGISTERED, function=name, python="")
        job.submit(1)
        assert star.take(JobMessage, worker).function == name
        worker.finish(star.take(Assign, worker))
        client.outcome(job, [0])
    settle(star)
    star.quiet()


def test_returning_client_gets_its_outcomes_again_under_their_old_numbers():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2).lease
    worker.result([lease])
    star.all(Confirm, worker)
    first = client.outcome(job, [0], ack=False)
    client.lose()
    worker.result([lease + 1])
    star.all(Confirm, worker)
    star.quiet()
    assert client.connect().resumed
    assert client.outcome(job, [0]) == first
    client.outcome(job, [1])
    star.quiet()


def test_drain_finishes_what_runs_and_gives_out_nothing_more():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(3)
    first, second = worker.leased(job, 0, 1), worker.leased(job, 1, 1)
    star.feed(Drain())
    link = star.open(Role.CLIENT)
    star.feed(Received(link, Hello(1, Role.CLIENT, b"n" * 16)))
    star.closed(link, Code.DRAINING)
    worker.finish(first)
    worker.finish(second)
    client.outcome(job, [0])
    outcome = client.outcome(job, [1], ack=False)
    settle(star)
    star.quiet()
    client.ack(outcome)
    assert star.actions == [Finished()]


def test_drain_ends_when_its_time_is_over():
    star = Star(drain_seconds=5.0)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.leased(job, 0, 1)
    star.feed(Drain())
    star.wait(6.0)
    assert star.actions.count(Finished()) == 1


def test_idle_manager_drains_at_once():
    star = Star()
    star.feed(Drain())
    assert star.actions == [Finished()]


def test_garbage_of_one_peer_is_nobody_elses_trouble():
    star = Star()
    worker, client, rogue = star.worker(), star.client(), star.client()
    rogue.say(Goodbye(Code.FRAME, "?"))
    star.closed(rogue, Code.NORMAL)
    star.feed(Opened(99, Peer(Role.CLIENT, "x", "y", "z", "x")))
    star.feed(Received(99, Submit(0, 0)))
    star.closed(99, Code.UNEXPECTED)
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1))
    client.outcome(job, [0])
    settle(star)
    assert not any(isinstance(action, Close) for action in star.actions)
    star.quiet()
