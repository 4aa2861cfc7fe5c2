"""Which task goes to which worker: fairness, priorities, batch sizes, and who gives work back."""

from __future__ import annotations

from array import array
from random import Random

import pytest

from starcore.errors import Status
from starcore.events import Send
from starcore.manager.scheduling import AWAITED_PER_SLOT_MAX, LOOK_WORKERS_MAX, MOVE_SECONDS, WORKER_TASKS_MAX
from starcore.manager.state import SUSPECT_LOSSES
from starcore.manager.workers import Workforce
from starcore.messages import BATCH_BYTES_MAX, BATCH_TASKS_MAX, Assign, Grant, Outcome, Submit
from starcore.messages import Job as JobMessage
from starcore.pace import CHUNK_BYTES_MIN

from .star import Star, settle


def counts(star, worker):
    """How many tasks each new ASSIGN of a worker has."""
    return [len(assign.head_sizes) for assign in star.all(Assign, worker)]


# -- arguments on their way ----------------------------------------------------------------------------------

BODY = 1 << 20


def upload(client, job, index, worker, lease, size=BODY):
    """Let an argument travel, from the worker's GRANT to its last byte."""
    worker.say(Grant(lease, 1, 0, size))
    client.push(job.stream(index), 0, size)
    for _ in range(size // CHUNK_BYTES_MIN):
        worker.writable()
    star = client.star
    star.actions = [said for said in star.actions if isinstance(said, Send) and isinstance(said.message, Assign)]


def test_argument_that_does_not_come_keeps_no_slot_from_others():
    star = Star()
    worker, slow, other = star.worker(slots=2), star.client(), star.client()
    job = slow.job()
    job.submit(50, bodies=[BODY] * 50)
    assert sum(counts(star, worker)) >= 4
    plain, bodied = other.job(), other.job()
    plain.submit(2)
    bodied.submit(2, bodies=[BODY] * 2)
    assert counts(star, worker) == [2, 1, 1]


def test_clients_whose_arguments_are_awaited_are_each_looked_at_once():
    class Counting(set):
        looks = 0

        def __contains__(self, client):
            self.looks += 1
            return False

    star = Star()
    star.worker(slots=2)
    with star.in_bulk():
        for _ in range(50):
            star.client().job().submit(50, bodies=[BODY] * 50)
    full = Counting()
    assert star.core._scheduler.choose(full) is None
    assert full.looks == 50


def test_task_finds_the_one_worker_whose_arena_is_large_enough_behind_many_idle_ones():
    star = Star()
    small = [star.worker(slots=1, arena_bytes=BODY) for _ in range(LOOK_WORKERS_MAX + 1)]
    large, client = star.worker(slots=1, arena_bytes=4 * BODY), star.client()
    job = client.job()
    job.submit(1, bodies=[2 * BODY])
    large.leased(job, 0, 1)
    assert not any(counts(star, worker) for worker in small)


def test_suspect_finds_the_one_worker_whose_arena_is_large_enough_behind_many_idle_ones():
    star = Star()
    large, client = star.worker(slots=1, arena_bytes=4 * BODY), star.client()
    job = client.job()
    job.submit(1, bodies=[2 * BODY])
    for attempt in range(1, SUSPECT_LOSSES + 1):
        lease = large.leased(job, 0, 1, attempt).lease
        large.say(Grant(lease, attempt, 0, 2 * BODY))
        client.push(job.stream(0), 0, BODY, attempt)
        client.push(job.stream(0), BODY, BODY, attempt)
        while star.core._sessions.workers[large.session].arriving:
            large.writable()
        if attempt == SUSPECT_LOSSES:
            small = [star.worker(slots=1, arena_bytes=BODY) for _ in range(LOOK_WORKERS_MAX + 1)]
        large.result([lease], Status.CRASHED)
    large.leased(job, 0, 1, SUSPECT_LOSSES + 1)
    assert not any(counts(star, worker) for worker in small)


def test_work_moves_to_a_free_worker_behind_very_many_that_wait_for_arguments():
    star = Star()
    waiting = [star.worker(slots=1) for _ in range(3 * LOOK_WORKERS_MAX)]
    star.client().job().submit(len(waiting), bodies=[BODY] * len(waiting))
    assert all(counts(star, worker) == [1] for worker in waiting)
    laden, free = waiting[0], star.worker(slots=1)
    job = star.client().job()
    job.submit(1)
    laden.finish(laden.leased(job, 0, 1), seconds=1e-6)
    job.client.outcome(job, [0])
    job.submit(40)
    (laden,) = [worker for worker in waiting if counts(star, worker) == [40]]
    star.wait(2 * MOVE_SECONDS)
    assert len(laden.retracted()) == 1
    assert not counts(star, free)


def test_argument_that_is_here_takes_its_slot():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job, plain = client.job(), client.job()
    job.submit(1, bodies=[BODY])
    lease = worker.leased(job, 0, 1).lease
    upload(client, job, 0, worker, lease)
    plain.submit(3)
    assert sum(counts(star, worker)) == 1  # behind the one that runs


def test_client_that_sends_slowly_is_left_half_of_an_arena():
    star = Star()
    worker, slow, other = star.worker(slots=1, arena_bytes=8 * BODY), star.client(), star.client()
    job = slow.job()
    job.submit(1, bodies=[BODY])
    lease = worker.leased(job, 0, 1)
    upload(slow, job, 0, worker, lease.lease)
    worker.finish(lease, seconds=1e-6)
    job.submit(50, bodies=[BODY] * 50)
    assert len(star.all(Assign, worker)) == 4
    other.job().submit(1, bodies=[BODY])
    assert len(star.all(Assign, worker)) == 1


def test_client_that_does_not_read_is_left_half_of_an_arena():
    star = Star()
    worker, deaf, other = star.worker(slots=1, arena_bytes=8 * BODY), star.client(), star.client()
    job = deaf.job()
    job.submit(100)
    answers = 0
    while assigned := star.all(Assign, worker):
        for assign in assigned:
            for lease in range(assign.lease, assign.lease + len(assign.head_sizes)):
                worker.result([lease], bodies=[BODY], seconds=10.0)
                answers += 1
    assert 5 <= answers <= 8
    outcomes = star.all(Outcome, deaf)
    other.job().submit(1)
    assert len(star.all(Assign, worker)) == 1
    deaf.ack(*outcomes)
    assert star.all(Assign, worker)


def test_more_arguments_travel_ahead_where_the_way_is_long_and_the_tasks_are_short():
    ahead = []
    for way_seconds in (0.0, 0.2):
        star = Star()
        worker, client = star.worker(slots=1), star.client()
        job = client.job()
        job.submit(1, bodies=[BODY])
        lease = worker.leased(job, 0, 1)
        star.now += way_seconds
        upload(client, job, 0, worker, lease.lease)
        worker.finish(lease, seconds=0.05)
        job.submit(50, bodies=[BODY] * 50)
        ahead.append(len(star.all(Assign, worker)))
    assert ahead[0] == 2
    assert 5 <= ahead[1] <= AWAITED_PER_SLOT_MAX + 1


def ahead_of_a_slot(seconds: float, way_seconds: float, body: int = BODY):
    """A star whose client queued a hundred bodied tasks of a job that took so long, and the ASSIGNs that are out."""
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(1, bodies=[body])
    lease = worker.leased(job, 0, 1)
    star.now += way_seconds
    upload(client, job, 0, worker, lease.lease, body)
    worker.finish(lease, seconds=seconds)
    job.submit(100, bodies=[body] * 100)
    return star, worker, client, job, star.all(Assign, worker)


def test_a_near_worker_gets_no_more_arguments_than_hide_the_way():
    for body, expected in ((BODY, 5), (4 * BODY, 3), (BODY // 4, 17)):
        *_, waiting = ahead_of_a_slot(seconds=0.0005, way_seconds=0.01, body=body)
        assert len(waiting) == expected
    *_, waiting = ahead_of_a_slot(seconds=0.0005, way_seconds=0.1)
    assert len(waiting) == 1 + AWAITED_PER_SLOT_MAX


def test_many_arguments_ahead_are_refilled_some_at_a_time_and_few_one_by_one():
    for seconds, way_seconds, refills in ((0.0005, 0.1, {0, 8}), (0.0005, 0.01, {0, 2}), (0.05, 0.01, {1})):
        star, worker, client, job, waiting = ahead_of_a_slot(seconds, way_seconds)
        together = set()
        for number in range(1, 11):
            lease = waiting.pop(0)
            star.actions.clear()
            star.now += way_seconds
            upload(client, job, number, worker, lease.lease)
            worker.finish(lease, seconds=seconds)
            given = star.all(Assign, worker)
            waiting += given
            together.add(len(given))
            assert waiting
        assert together == refills


def test_small_task_does_not_wait_behind_all_arrays_of_its_own_client():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    arrays, plain = client.job(), client.job()
    arrays.submit(30, bodies=[BODY] * 30)
    leases = star.all(Assign, worker)
    for number, assign in enumerate(leases):
        upload(client, arrays, number, worker, assign.lease)
    plain.submit(1)
    left = 0
    for assign in leases:
        worker.finish(assign, seconds=0.1)
        given = star.all(Assign, worker)
        star.actions.clear()
        if any(not each.body_sizes for each in given):
            break
        left += len(given)
    assert left <= 1


# -- batches -------------------------------------------------------------------------------------------------


def test_tasks_of_unknown_length_fill_the_slots_and_one_more_each():
    star = Star()
    worker, client = star.worker(slots=3), star.client()
    client.job().submit(100)
    assert counts(star, worker) == [3, 3]


def test_short_tasks_come_in_large_batches_and_long_ones_one_ahead_of_each_slot():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    for seconds, ahead in ((1e-6, WORKER_TASKS_MAX), (0.001, 40), (10.0, 4)):
        job = client.job()
        job.submit(2)
        worker.finish(worker.leased(job, 0, 2), seconds=seconds)
        job.submit(6000)
        batches = counts(star, worker)
        assert sum(batches) == ahead
        assert max(batches) <= BATCH_TASKS_MAX
        client.cancel(job, range(2, 6002))
        star.actions.clear()
        worker.goodbye()
        worker.connect()


def test_worker_of_many_slots_holds_no_more_than_its_hello_can_list():
    star = Star()
    worker, client = star.worker(slots=128), star.client()
    job = client.job()
    job.submit(128)
    worker.finish(worker.leased(job, 0, 128), seconds=1e-6)
    job.submit(10_000)
    assert sum(counts(star, worker)) == WORKER_TASKS_MAX <= BATCH_TASKS_MAX // 2


def test_batch_carries_no_more_bytes_than_a_message_may():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    worker.finish(worker.leased(job, 0, 2), seconds=1e-6)
    size = 60_000
    client.say(Submit(job.number, 2, False, array("I", [size] * 10), array("Q"), bytes(10 * size)))
    batches = counts(star, worker)
    assert sum(batches) == 10
    assert max(batches) <= BATCH_BYTES_MAX // size


def test_few_tasks_are_spread_over_all_idle_workers():
    star = Star()
    workers = [star.worker(slots=4) for _ in range(3)]
    client = star.client()
    client.job().submit(6)
    shares = [sum(counts(star, worker)) for worker in workers]
    assert sum(shares) == 6
    assert max(shares) <= 3


def test_tiny_tasks_are_not_spread_over_more_workers_than_their_work_is_worth():
    star = Star()
    first = star.worker(slots=1)
    client = star.client()
    job = client.job()
    job.submit(1)
    first.finish(first.leased(job, 0, 1), seconds=1e-5)
    client.outcome(job, [0])
    workers = [first, *(star.worker(slots=1) for _ in range(9))]
    settle(star)
    job.submit(1000)
    shares = [sum(counts(star, worker)) for worker in workers]
    assert sorted(shares, reverse=True) == [200] * 5 + [0] * 5  # 2 ms each


def test_idle_slots_are_filled_everywhere_before_anything_waits_at_a_worker():
    star = Star()
    workers = [star.worker(slots=1) for _ in range(4)]
    client = star.client()
    client.job().submit(5)
    assert sorted(sum(counts(star, worker)) for worker in workers) == [1, 1, 1, 2]


def test_tasks_with_bodies_are_leased_one_by_one():
    star = Star()
    worker, client = star.worker(slots=3), star.client()
    client.job().submit(3, bodies=[70_000] * 3)
    assert counts(star, worker) == [1, 1, 1]


# -- fairness and order --------------------------------------------------------------------------------------


def test_equal_clients_get_equal_shares_of_the_slots_time_whatever_their_tasks_last():
    star = Star()
    worker = star.worker(slots=2)
    jobs = {}
    for seconds in (0.1, 0.7):
        client = star.client()
        job = client.job()
        job.submit(3000)
        jobs[client] = (job, seconds)
    used = dict.fromkeys(jobs, 0.0)
    owners = {}
    held = []
    while sum(used.values()) < 100.0:
        for assign in star.all(Assign, worker):
            held += range(assign.lease, assign.lease + len(assign.head_sizes))
            for lease in range(assign.lease, assign.lease + len(assign.head_sizes)):
                owners[lease] = assign.job
        lease = held.pop(0)
        client = list(jobs)[owners[lease] - 1]
        used[client] += jobs[client][1]
        worker.result([lease], seconds=jobs[client][1])
        client.outcome(jobs[client][0], [star.core.status(0)["jobs"][owners[lease] - 1]["done"] - 1])
    first, second = used.values()
    assert abs(first - second) < 5.0


@pytest.mark.parametrize("seconds", [None, 0.3], ids=["unknown", "long"])
def test_client_of_unknown_or_long_tasks_is_not_starved_by_a_queue_of_short_ones(seconds):
    star = Star()
    worker, greedy, modest = star.worker(slots=2), star.client(), star.client()
    short, other = greedy.job(), modest.job()
    short.submit(2)
    worker.finish(worker.leased(short, 0, 2), seconds=0.002)
    if seconds is not None:
        other.submit(1)
        worker.finish(worker.leased(other, 0, 1), seconds=seconds)
    short.submit(4000)
    other.submit(1)
    held, served = [], []
    while len(served) < 1000:
        for assign in star.all(Assign, worker):
            held += [(assign.lease + place, assign.job) for place in range(len(assign.head_sizes))]
        lease, job = held.pop(0)
        served.append(job)
        if job == 2:
            break
        worker.result([lease], seconds=0.002)
    assert served[-1] == 2, "the other client waits for ever"


def test_new_client_does_not_make_up_for_the_time_it_was_not_there():
    star = Star()
    worker, early = star.worker(), star.client()
    job = early.job()
    job.submit(100)
    for index in range(20):
        worker.finish(worker.leased(job, index, 1), seconds=5.0)
        early.outcome(job, [index])
    late = star.client()
    other = late.job()
    other.submit(100)
    served = []
    for _ in range(12):
        assign = star.take(Assign, worker)
        served.append(assign.job)
        worker.finish(assign, seconds=5.0)
        star.actions = [action for action in star.actions if action.link == worker.link]
    assert 4 <= served.count(2) <= 8


def test_higher_priority_goes_first_within_a_client():
    star = Star()
    client = star.client()
    low, high = client.job(priority=0), client.job(priority=5)
    low.submit(2)
    high.submit(1)
    low.submit(1)
    worker = star.worker()
    worker.finish(worker.leased(high, 0, 1))
    for index in range(3):
        worker.finish(worker.leased(low, index, 1))


def test_retried_task_goes_before_younger_ones():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(retries=1)
    job.submit(4)
    first = worker.leased(job, 0, 1)
    worker.leased(job, 1, 1)
    worker.finish(first, Status.RAISED)
    worker.leased(job, 0, 1, attempt=2)


def test_large_task_that_waits_for_memory_lets_small_ones_pass():
    star = Star()
    worker, client = star.worker(slots=3, arena_bytes=100_000), star.client()
    job = client.job()
    job.submit(1, bodies=[90_000])
    worker.leased(job, 0, 1)
    job.submit(1, bodies=[90_000])
    star.quiet()
    job.submit(1)
    worker.leased(job, 2, 1)
    star.quiet()


# -- moving work ---------------------------------------------------------------------------------------------


def test_unstarted_work_moves_to_a_worker_that_has_none():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(4)
    worker.leased(job, 0, 2)
    waiting = worker.leased(job, 2, 2)
    star.wait(1.0)
    idle = star.worker(slots=2)
    asked = worker.retracted()
    assert asked == [waiting.lease, waiting.lease + 1]
    worker.give_back([waiting.lease + 1], declined=[waiting.lease])
    idle.finish(idle.leased(job, 3, 1, attempt=2))
    client.outcome(job, [3])
    settle(star)
    star.quiet()


def test_work_that_comes_back_with_its_worker_moves_though_it_is_asked_for_once_more():
    star = Star()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(4)
    running, waiting = worker.leased(job, 0, 2), worker.leased(job, 2, 2)
    star.wait(1.0)
    idle = star.worker(slots=2)
    asked = worker.retracted()
    worker.lose()
    worker.connect(leases=array("Q", [running.lease, running.lease + 1, waiting.lease, waiting.lease + 1]))
    star.take(JobMessage, worker)
    assert worker.retracted() == asked
    worker.give_back(asked)  # it did so before its WELCOME came
    idle.leased(job, 2, 1, attempt=2)
    idle.leased(job, 3, 1, attempt=2)
    worker.give_back([], declined=asked)
    assert star.status()["stale"] == len(asked)
    settle(star)
    star.quiet()


def test_work_that_is_being_moved_is_not_moved_again_at_every_tick():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(2)
    worker.leased(job, 0, 1)
    moving = worker.leased(job, 1, 1)
    star.wait(1.0)
    other = star.worker(slots=1)
    assert worker.retracted() == [moving.lease]
    star.wait(1.5)
    settle(star)
    star.quiet()
    other.goodbye()
    worker.give_back([moving.lease])
    worker.leased(job, 1, 1, attempt=2)
    star.wait(0.25)
    star.worker(slots=1)
    star.wait(0.25)
    settle(star)
    star.quiet()


def test_work_that_begins_soon_anyway_is_not_moved():
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1), seconds=0.001)
    client.outcome(job, [0])
    job.submit(2)
    star.all(Assign, worker)
    star.worker(slots=1)
    star.quiet()
    star.wait(0.15)
    assert len(worker.retracted()) == 1  # it did not: now it is late


def test_only_capable_workers_get_a_job():
    star = Star()
    old, new = star.worker(python="3.10.4"), star.worker(python="3.11.9")
    client = star.client()
    job = client.job(python="3.11")
    job.submit(1)
    new.leased(job, 0, 1)
    assert not star.all(Assign, old)
    star.quiet()


# -- a task that comes alone ---------------------------------------------------------------------------------


def lone_calls(seed):
    """Let a star live on small submits and answers; returns all that it said, and how its books stand."""
    chance, star = Random(seed), Star()
    workers = [star.worker(slots=chance.randint(1, 2)) for _ in range(2)]
    jobs = [star.client(result_bytes=6000).job(priority=chance.randint(0, 1)) for _ in range(2)]
    said, held, unread = [], [], []
    for _ in range(200):
        move = chance.random()
        if move < 0.45:
            chance.choice(jobs).submit(chance.choice((1, 1, 1, 2)))
        elif move < 0.9 and held:
            worker, assign = held.pop(chance.randrange(len(held)))
            worker.finish(assign, seconds=chance.random() * 1e-3, head=b"x" * 900)
        elif unread:
            client, outcome = unread.pop()
            client.ack(outcome)
        star.wait(chance.random() * 1e-3)
        said.append(list(star.actions))
        held += [(worker, assign) for worker in workers for assign in star.all(Assign, worker)]
        unread += [(job.client, outcome) for job in jobs for outcome in star.all(Outcome, job.client)]
        star.actions.clear()
    used = [client.used_seconds for client in star.core._sessions.clients.values()]
    return said, used, star.core._scheduler._floor_seconds, star.status()["workers"]


@pytest.mark.parametrize("seed", range(20))
def test_lone_task_is_given_out_as_one_from_the_line_would_be(seed, monkeypatch):
    short = lone_calls(seed)
    monkeypatch.setattr(Workforce, "at_once", lambda workforce, run: False)
    assert lone_calls(seed) == short


def test_lone_task_meets_no_line_where_a_slot_is_free(monkeypatch):
    star = Star()
    worker, job = star.worker(slots=1), star.client().job()
    lined, queue = [], star.core._scheduler.queue
    monkeypatch.setattr(star.core._scheduler, "queue", lambda span: (lined.append(span), queue(span)))
    job.submit(1)
    assert counts(star, worker) == [1]
    assert not lined
    job.submit(1)
    assert len(lined) == 1
