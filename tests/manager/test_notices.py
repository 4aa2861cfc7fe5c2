"""What clients are told of the star unasked."""

from __future__ import annotations

from manager.star import Star, settle
from starcore.messages import Assign, Draining, Heartbeat, Notice, Slots


def test_job_without_a_capable_worker_says_so_once_after_a_while():
    star = Star()
    star.worker(python="3.12")
    client = star.client()
    settle(star)
    job = client.job()
    job.submit(1)
    star.wait(4.9)
    star.all(Heartbeat, client)
    star.wait(0.2)
    notice = star.take(Notice, client)
    assert notice.job == job.number
    assert "3.11" in notice.text
    assert "3.12" in notice.text
    job.submit(1)
    client.say(Heartbeat())
    star.wait(7.0)
    assert not star.all(Notice, client)


def test_notice_is_not_said_when_a_worker_came_in_time():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(1)
    star.wait(4.0)
    worker = star.worker()
    worker.leased(job, 0, 1)
    star.wait(2.0)
    assert not star.all(Notice, client)


def test_clients_hear_of_the_size_of_the_star_once_for_many_changes():
    star = Star()
    client = star.client()
    workers = [star.worker(slots=2) for _ in range(10)]
    star.quiet()
    star.wait(0.2)
    star.expect(Slots(10, 20), client)
    workers[0].lose()
    star.wait(0.2)
    star.expect(Slots(9, 18), client)
    star.quiet()


def test_job_whose_only_worker_is_about_to_leave_says_so_while_that_still_runs_something():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(3)
    settle(star)
    worker.say(Draining())
    _, waiting = star.all(Assign, worker)
    worker.give_back([waiting.lease])
    star.wait(star.limits.notice_seconds)
    assert "about to leave" in star.take(Notice, client).text


def test_client_that_was_welcomed_while_a_worker_came_and_went_hears_that_it_is_gone():
    star = Star()
    star.worker()
    settle(star)
    brief, client = star.worker(slots=3), star.client()
    assert (client.welcome.workers, client.welcome.slots) == (2, 4)
    brief.goodbye()
    star.wait(star.limits.slots_said_seconds)
    star.expect(Slots(1, 1), client)
