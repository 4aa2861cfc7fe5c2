"""Values that many tasks use: announced, pulled through once for all workers, offered again, let go."""

from __future__ import annotations

from array import array
from typing import Any

from starcore.errors import Code, Status
from starcore.messages import (
    BLOB_STREAM,
    Abort,
    Assign,
    Blob,
    Forget,
    Grant,
    Heartbeat,
    Outcome,
    Retract,
    Share,
    Submit,
    Want,
)
from starcore.messages import Job as JobMessage

from .star import ClientSide, JobSide, Star, WorkerSide, settle

NAME = b"v" * 32
STREAM = BLOB_STREAM | 77
SIZE = 1000


def share(client: ClientSide, size: int = SIZE, stream: int = STREAM, name: bytes = NAME) -> None:
    client.say(Share(name, stream, size, b"head"))


def begin(
    star: Star, workers: int = 1, size: int = SIZE, **options: Any
) -> tuple[ClientSide, JobSide, list[WorkerSide]]:
    """A client that has put a value and given it to a task for each worker."""
    sides = [star.worker(**options) for _ in range(workers)]
    client = star.client()
    settle(star)
    share(client, size)
    job = client.job(shares=NAME)
    job.submit(workers)
    return client, job, sides


def offered(star: Star, worker: WorkerSide) -> Share:
    said = star.take(Share, worker)
    assert (said.name, said.body_bytes, bytes(said.head)) == (NAME, SIZE, b"head")
    assert bytes(star.take(JobMessage, worker).shares) == NAME
    star.take(Assign, worker)
    return said


def test_value_passes_through_to_a_worker_and_nothing_stays():
    star = Star()
    client, _, (worker,) = begin(star)
    stream = offered(star, worker).stream
    star.all(Blob, worker)
    worker.say(Grant(stream, 1, 0, SIZE))
    star.expect(Grant(STREAM, 1, 0, SIZE), client)
    token = bytearray(SIZE)
    client.push(STREAM, 0, SIZE, token=token)
    assert (star.chunk(worker).stream, star.dropped) == (stream, [token])
    assert star.core._relay.held_bytes == 0
    star.quiet()


def test_workers_that_ask_together_get_it_in_one_pass():
    star = Star()
    client, _, sides = begin(star, workers=2)
    streams = [offered(star, side).stream for side in sides]
    for side, stream in zip(sides, streams, strict=True):
        side.say(Grant(stream, 1, 0, SIZE))
    assert [grant.count for grant in star.all(Grant, client)] == [SIZE]
    client.push(STREAM, 0, SIZE)
    assert [star.chunk(side).length for side in sides] == [SIZE, SIZE]
    assert star.all(Grant, client) == []


def test_worker_that_comes_late_gets_it_from_the_clients_next_attempt():
    star = Star()
    client, job, (first,) = begin(star)
    first.say(Grant(offered(star, first).stream, 1, 0, SIZE))
    client.push(STREAM, 0, SIZE)
    star.chunk(first)
    star.all(Grant, client)
    second = star.worker()
    job.submit(2)
    late = offered(star, second).stream
    second.say(Grant(late, 1, 0, SIZE))
    star.expect(Grant(STREAM, 2, 0, SIZE), client)
    client.push(STREAM, 0, SIZE, attempt=2)
    assert star.chunk(second).length == SIZE


def test_worker_that_holds_others_up_is_left_behind_and_served_later():
    star = Star(value_window_bytes=400, relay_window_bytes=400)
    client, _, (fast, slow) = begin(star, workers=2)
    streams = {side: offered(star, side).stream for side in (fast, slow)}
    for side in (fast, slow):
        side.say(Grant(streams[side], 1, 0, SIZE))
    at = 0
    for _ in range(5):  # the slow one takes one chunk, and no more
        client.push(STREAM, at, 200)
        at += 200
        star.chunk(fast)
        fast.writable()
    assert at == SIZE
    star.chunk(slow)
    slow.writable()
    again = star.all(Grant, client)[-1]
    assert (again.attempt, again.offset) == (2, 200)
    client.push(STREAM, 200, 400, attempt=2)
    assert star.chunk(slow).offset == 200


def test_worker_that_lost_its_link_goes_on_under_the_same_stream():
    star = Star()
    client, _, (worker,) = begin(star)
    stream = offered(star, worker).stream
    worker.say(Grant(stream, 1, 0, SIZE))
    star.all(Grant, client)
    client.push(STREAM, 0, 400)
    star.chunk(worker)
    worker.lose()
    worker.connect(leases=array("Q", [7 << 32]))
    worker.say(Want(NAME))
    assert star.take(Share, worker).stream == stream
    worker.say(Grant(stream, 1, 400, SIZE - 400))
    client.push(STREAM, 400, SIZE - 400)
    assert star.chunk(worker).offset == 400


def test_client_that_comes_back_goes_on_where_its_link_broke():
    star = Star()
    client, job, (worker,) = begin(star)
    worker.say(Grant(offered(star, worker).stream, 1, 0, SIZE))
    client.push(STREAM, 0, 400)
    star.chunk(worker)
    client.lose()
    client.connect()
    share(client, stream=STREAM + 1)
    client.say(job.message)
    assert star.all(Want, client) == []
    (grant,) = star.all(Grant, client)
    assert (grant.stream, grant.attempt, grant.offset) == (STREAM + 1, 1, 400)


def test_tasks_wait_until_their_value_is_announced():
    star = Star()
    worker, client = star.worker(), star.client()
    settle(star)
    job = client.job(shares=NAME)
    star.expect(Want(NAME), client)
    job.submit()
    star.quiet()
    share(client, size=0)
    assert star.take(Share, worker).body_bytes == 0
    worker.leased(job, count=1)


def test_value_goes_with_its_last_job_everywhere():
    star = Star()
    client, job, (worker,) = begin(star)
    stream = offered(star, worker).stream
    client.cancel(job, [0], kill=True)
    client.ack(star.take(Outcome, client))
    client.say(Forget(job.number))
    assert star.take(Abort, worker).stream == stream
    star.take(Forget, worker)
    assert star.core._values._values == {}


def test_value_larger_than_every_arena_fails_its_tasks_with_the_sizes():
    star = Star()
    client, _, _ = begin(star, arena_bytes=500)
    (outcome,) = star.all(Outcome, client)
    assert bytes(outcome.statuses) == bytes([Status.UNRUNNABLE])
    assert b"its put values of 1000 bytes fit no worker: the largest arena has 500 bytes" in bytes(outcome.heads)


def test_value_of_another_session_cannot_be_named():
    star = Star()
    begin(star)
    thief = star.client()
    thief.say(JobMessage(1, 0, bytes(32), "f", "3.11", shares=NAME))  # type: ignore[arg-type]
    assert "another session's" in star.closed(thief, Code.UNEXPECTED)


def test_half_a_name_a_changed_value_and_values_without_end_are_refused():
    star = Star(value_bytes=4000)
    for say in (
        lambda client: client.job(shares=NAME + b"half"),
        lambda client: (share(client, name=b"c" * 32), share(client, size=SIZE + 1, name=b"c" * 32)),
        lambda client: client.say(Share(b"s" * 32, 5, SIZE)),
        lambda client: (share(client, name=b"d" * 32), share(client, name=b"e" * 32)),
    ):
        client = star.client()
        say(client)
        star.closed(client, Code.UNEXPECTED)
    greedy = star.client()
    for number in range(5):
        share(greedy, stream=STREAM + number, name=bytes([number]) * 32)
    assert "bytes of values" in star.closed(greedy, Code.OVERRUN)


def test_function_on_the_stream_of_a_value_costs_its_client_the_link_and_no_worker():
    star = Star()
    client, _, (worker,) = begin(star)
    stream = offered(star, worker).stream
    client.say(Blob(b"d" * 32, STREAM, 10))
    assert "a value's" in star.closed(client, Code.UNEXPECTED)
    worker.say(Grant(stream, 1, 0, SIZE))
    client.connect()
    share(client)
    assert star.take(Grant, client) == Grant(STREAM, 1, 0, SIZE)


def test_job_that_was_refused_for_its_values_is_known_to_nobody():
    star = Star()
    worker, liar = star.worker(), star.client()
    settle(star)
    liar.say(JobMessage(1, 1, bytes(32), "", "", shares=b"x"))  # type: ignore[arg-type]
    star.closed(liar, Code.UNEXPECTED)
    liar.lose()
    liar.connect()
    liar.say(Submit(1, 0, False, array("I", [1]), array("Q"), b"h"))
    assert "not known" in star.closed(liar, Code.UNEXPECTED)
    assert not star.all(JobMessage, worker)
    star.quiet()


def test_worker_gives_back_what_waits_for_a_value_of_a_client_that_stays_away():
    star = Star(argument_grace_seconds=5.0)
    client, _, (worker,) = begin(star)
    star.all(Share, worker)
    assign = worker.leased(count=1)
    client.lose()
    star.wait(4.0)
    worker.say(Heartbeat())
    star.wait(1.5)
    assert worker.retracted() == [assign.lease]
    worker.give_back([assign.lease])
    assert star.status()["workers"][0]["leased"] == 0
    client.connect()
    worker.leased(count=1, attempt=2)


def test_worker_keeps_what_has_its_value_when_the_client_stays_away():
    star = Star(argument_grace_seconds=1.0)
    client, _, (worker,) = begin(star)
    stream = offered(star, worker).stream
    worker.say(Grant(stream, 1, 0, SIZE))
    star.take(Grant, client)
    client.push(STREAM, 0, SIZE, token=bytearray(SIZE))
    star.chunk(worker)
    client.lose()
    star.wait(1.5)
    assert not star.all(Retract, worker)


def test_worker_gives_back_what_lost_its_value_again_while_the_client_stays_away():
    """All of it had left for the worker, but its link broke on the way."""
    star = Star(argument_grace_seconds=1.0)
    client, _, (worker,) = begin(star)
    stream = star.take(Share, worker).stream
    lease = worker.leased(count=1).lease
    worker.say(Grant(stream, 1, 0, SIZE))
    star.take(Grant, client)
    client.push(STREAM, 0, SIZE, token=bytearray(SIZE))
    star.chunk(worker)
    client.lose()
    star.wait(1.5)
    worker.lose()
    worker.connect(leases=array("Q", [lease]))
    worker.say(Want(NAME))
    assert worker.retracted() == [lease]


def test_suspect_that_needs_a_value_waits_for_its_client():
    star = Star(argument_grace_seconds=1.0)
    client, _, (worker,) = begin(star)
    star.all(Share, worker)
    for attempt in (1, 2):
        worker.started([worker.leased(count=1, attempt=attempt).lease])
        if attempt == 2:
            client.lose()
        worker.lose()
        star.wait(1.0)
        worker = star.worker()
    assert not star.all(Assign, worker)
    other = star.client()
    other.job(python="3.11").submit(1)
    worker.finish(worker.leased(count=1))  # the suspect keeps no worker from others
    client.connect()
    worker.leased(count=1, attempt=3)


def test_worker_that_asks_for_what_only_others_need_gets_nothing():
    """Its question crossed the FORGET of its job: it would keep what nothing ever takes from it."""
    star = Star()
    client, job, (worker,) = begin(star)
    offered(star, worker)
    client.job(shares=NAME)
    client.cancel(job, [0], kill=True)
    client.ack(star.take(Outcome, client))
    client.say(Forget(job.number))
    worker.retracted(kill=True)
    star.take(Forget, worker)
    star.actions.clear()
    worker.say(Want(NAME))
    star.quiet()
