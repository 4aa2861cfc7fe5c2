"""Workers that come, go, come back, and drain."""

from __future__ import annotations

from array import array

from starcore.codec import encode
from starcore.errors import Code, Status
from starcore.manager.workers import DRAINED_MAX, PATTERN_CHARS_MAX
from starcore.messages import (
    Assign,
    Confirm,
    Drain,
    Draining,
    DrainReply,
    DrainRequest,
    Forget,
    Outcome,
    Running,
    Slots,
)
from starcore.messages import Job as JobMessage

from .star import Star, settle


def test_task_of_a_lost_worker_goes_to_another_one():
    star = Star()
    first, second = star.worker(), star.worker()
    client = star.client()
    job = client.job()
    job.submit(1)
    first.leased(job, 0, 1)
    settle(star)
    first.lose()
    star.wait(0.7)
    star.all(Slots, client)
    star.quiet()
    star.wait(0.1)
    lease = second.leased(job, 0, 1, attempt=2)
    second.finish(lease)
    assert client.outcome(job, [0]).attempt == 2
    star.quiet()


def test_worker_that_comes_back_within_its_grace_keeps_its_leases():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2)
    worker.lose()
    star.wait(0.5)
    assert worker.connect(leases=array("Q", [lease.lease, lease.lease + 1])).resumed
    star.take(JobMessage, worker)
    star.wait(1.0)
    worker.finish(lease)
    client.outcome(job, [0, 1])
    star.all(Slots, client)
    star.quiet()


def test_lease_that_a_returning_worker_never_got_is_queued_again():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(1)
    job.submit(1)
    first = worker.leased(job, 0, 1)
    worker.leased(job, 1, 1)
    worker.lose()
    worker.connect(leases=array("Q", [first.lease]))
    again = worker.leased(job, 1, 1, attempt=2)
    worker.finish(first)
    worker.finish(again)
    client.outcome(job, [0])
    client.outcome(job, [1])
    settle(star)
    star.quiet()


def test_worker_that_comes_back_too_late_begins_anew_and_its_results_are_stale():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    old = worker.leased(job, 0, 1)
    worker.lose()
    star.wait(1.0)
    assert not worker.connect(leases=array("Q", [old.lease])).resumed
    new = worker.leased(job, 0, 1, attempt=2)
    worker.result([old.lease])
    star.expect(Confirm(array("Q", [old.lease])), worker)
    assert star.status()["stale"] == 1
    worker.finish(new)
    client.outcome(job, [0])
    settle(star)
    star.quiet()


def test_tables_of_workers_are_empty_after_many_joins_and_leaves():
    star = Star()
    client = star.client(result_bytes=1 << 30)
    job = client.job()
    job.submit(1)
    for number in range(300):
        worker = star.worker(name=f"w{number}")
        assign = star.take(Assign, worker)
        if number % 3:
            worker.goodbye()
        else:
            worker.finish(assign)
            star.all(Outcome, client)
            job.submit(1)
            worker.goodbye()
        star.actions.clear()
    assert star.status()["workers"] == []
    worker = star.worker()
    star.take(Assign, worker)


def test_goodbye_of_a_worker_gives_its_work_back_at_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.leased(job, 0, 1)
    worker.goodbye()
    star.worker().leased(job, 0, 1, attempt=2)
    settle(star)
    star.quiet()


def test_drain_is_told_to_connected_workers_whose_name_or_host_fits():
    star = Star()
    first = star.worker(name="node1-7", host="node1")
    second = star.worker(name="mine", host="node2")
    other, away, client = star.worker(name="x", host="y"), star.worker(name="node3-1"), star.client(name="laptop")
    away.lose()
    client.say(DrainRequest("node*"))
    star.expect(DrainReply(["node1-7", "mine"]), client)
    for worker in (first, second):
        star.expect(Drain("asked by client laptop"), worker)
    client.say(DrainRequest("x"))
    star.expect(DrainReply(["x"]), client)
    star.take(Drain, other)
    for nobody in ("[nobody", "", "*a" * 30_000, "NODE1"):
        client.say(DrainRequest(nobody))
        star.expect(DrainReply([]), client)
    settle(star)
    star.quiet()


def test_drain_of_nothing_is_told_to_nobody_though_a_worker_names_no_host():
    star = Star()
    worker, client = star.worker(name="node1-7", host=""), star.client(name="laptop")
    for nobody in ("", "?"):
        client.say(DrainRequest(nobody))
        star.expect(DrainReply([]), client)
    assert not star.all(Drain, worker)
    client.say(DrainRequest("*"))
    star.expect(DrainReply(["node1-7"]), client)
    star.take(Drain, worker)
    settle(star)
    star.quiet()


def test_drain_that_was_lost_with_its_link_is_said_again_to_the_worker_that_comes_back():
    star = Star()
    worker, client = star.worker(), star.client(name="laptop")
    client.say(DrainRequest("*"))
    star.take(DrainReply, client)
    drain = star.take(Drain, worker)
    worker.lose()
    worker.connect()
    assert star.take(Drain, worker) == drain
    worker.say(Draining())
    worker.lose()
    worker.connect()
    assert not any(isinstance(getattr(action, "message", None), Drain) for action in star.actions), "it has answered"
    settle(star)
    star.quiet()


def test_names_of_very_many_drained_workers_fit_a_message():
    star = Star()
    with star.in_bulk():
        for number in range(DRAINED_MAX + 5):
            star.worker(name=f"{number:06}" + "\N{SNOWMAN}" * 94, identity="one for all")
    client = star.client()
    star.actions.clear()
    client.say(DrainRequest("*"))
    reply = star.take(DrainReply, client)
    assert len(reply.workers) == DRAINED_MAX
    assert len(encode(reply)) < 1 << 20
    assert sum(isinstance(action.message, Drain) for action in star.actions) == DRAINED_MAX + 5


def test_drain_by_a_pattern_that_would_hold_everybody_up_fits_nobody(monkeypatch):
    star = Star()
    star.worker(name="node1")
    client = star.client()
    settle(star)
    tried = []
    monkeypatch.setattr("starcore.manager.workers.fnmatchcase", lambda name, pattern: tried.append(pattern))
    for pattern in ("*" * PATTERN_CHARS_MAX, "*a" * (PATTERN_CHARS_MAX // 2) + "*"):
        client.say(DrainRequest(pattern))
        star.expect(DrainReply([]), client)
    assert tried == ["*" * PATTERN_CHARS_MAX]
    star.quiet()


def test_drain_is_not_for_workers_to_ask():
    star = Star()
    worker = star.worker()
    worker.say(DrainRequest("*"))
    star.closed(worker, Code.UNEXPECTED)


def test_draining_worker_gets_nothing_more_and_gives_back_what_waits():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(2)
    running, waiting = worker.leased(job, 0, 1), worker.leased(job, 1, 1)
    worker.say(Draining())
    job.submit(1)
    worker.give_back([waiting.lease])
    worker.finish(running)
    client.outcome(job, [0])
    settle(star)
    star.quiet()
    other = star.worker()
    other.finish(other.leased(job, 1, 1, attempt=2))
    other.leased(job, 2, 1)


def test_returning_worker_is_told_its_jobs_again_since_they_may_have_been_lost_with_the_link():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.leased(job, 0, 1)
    worker.lose()
    worker.connect()
    star.take(JobMessage, worker)  # before the leases
    worker.finish(worker.leased(job, 0, 1, attempt=2))
    client.outcome(job, [0])
    settle(star)
    star.quiet()


def test_started_tasks_are_told_to_their_client():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2).lease
    worker.started([lease + 1])
    star.expect(Running(job.number, array("I", [1])), client)
    star.quiet()


def test_returning_worker_gives_back_leases_that_nobody_knows_of():
    """The RETRACT for them was lost with the link: what hangs there would hold its slot for ever."""
    star = Star()
    worker = star.worker()
    worker.lose()
    worker.connect(leases=array("Q", [5, 6]))
    assert worker.retracted(kill=True) == [5, 6]
    worker.give_back([5], declined=[6])
    settle(star)
    star.quiet()


def test_forget_that_was_lost_with_its_link_is_said_again_to_the_worker_that_comes_back():
    """The simulator found it: such a worker kept the job for as long as the session lived."""
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(1)
    worker.result([worker.leased(job, 0).lease])
    star.take(Confirm, worker)
    client.ack(client.outcome(job, [0]))
    client.say(Forget(job.number))
    forget = star.take(Forget, worker)
    worker.lose()
    worker.connect(leases=array("Q"))
    assert star.take(Forget, worker) == forget
    settle(star)
    star.quiet()


def test_worker_that_was_away_hears_what_was_cancelled_and_forgotten_meanwhile():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2).lease
    worker.lose()
    client.cancel(job, [0], kill=True)
    client.cancel(job, [1])
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    client.outcome(job, [1], Status.CANCELLED, head=b"")
    client.say(Forget(job.number))
    worker.connect(leases=array("Q", [lease, lease + 1]))
    assert worker.retracted(kill=True) == [lease]
    assert worker.retracted() == [lease + 1]
    star.take(Forget, worker)
    worker.give_back([lease + 1])
    worker.result([lease], Status.CANCELLED)
    star.take(Confirm, worker)
    settle(star)
    star.quiet()


def test_lease_that_is_given_back_twice_in_one_message_is_requeued_once():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(1)
    assign = worker.leased(job, 0, 1)
    worker.give_back([assign.lease, assign.lease], [assign.lease])
    worker.leased(job, 0, 1, attempt=2)
    star.quiet()


def test_started_said_again_is_told_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    assign = worker.leased(job, 0, 1)
    worker.started([assign.lease])
    worker.started([assign.lease])
    assert len(star.all(Running, client)) == 1
    star.quiet()
