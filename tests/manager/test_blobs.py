"""Blobs: pinned by jobs, pulled when they are large, checked, kept a while."""

from __future__ import annotations

import hashlib

from starcore.errors import Code, Status
from starcore.messages import (
    Abort,
    Assign,
    Blob,
    Forget,
    Grant,
    Want,
)
from starcore.messages import Job as JobMessage

from .star import Counted, Star


def test_function_is_sent_once_to_each_worker_and_each_job_once():
    star = Star()
    worker, client = star.worker(slots=4), star.client()
    first, second = client.job(), client.job()
    first.submit(1)
    first.submit(1)
    second.submit(1)
    assert len(star.all(Blob, worker)) == 1
    assert len(star.all(JobMessage, worker)) == 2
    assert len(star.all(Assign, worker)) == 3
    star.quiet()


def test_job_whose_blob_is_missing_waits_for_it():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(blob=False)
    star.expect(Want(job.digest), client)
    job.submit(1)
    star.quiet()
    client.say(Blob(job.digest, 1 << 63 | 1, 0, b"a function"))
    worker.finish(worker.leased(job, 0, 1))
    client.outcome(job, [0])
    star.quiet()


def test_blob_that_is_not_what_its_digest_says_closes_the_link():
    star = Star()
    client = star.client()
    client.say(Blob(bytes(32), 1 << 63, 0, b"something else"))
    star.closed(client, Code.UNEXPECTED)
    star.quiet()


def test_worker_that_lacks_a_blob_gets_it_again():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.leased(job, 0, 1)
    worker.say(Want(job.digest))
    assert star.take(Blob, worker).head == b"a function"
    star.quiet()


def test_unneeded_blobs_are_kept_while_there_is_room_the_latest_longest():
    star = Star(blob_idle_bytes=10)
    client = star.client()
    for function in (b"first", b"second"):
        client.say(Blob(hashlib.sha256(function).digest(), 1 << 63, 0, function))
    client.job(blob=False, code=b"second")
    star.quiet()
    client.job(blob=False, code=b"first")
    star.take(Want, client)


def test_function_that_a_worker_has_no_memory_for_is_on_its_way_no_more_and_sent_when_it_asks():
    star = Star(first_window_bytes=0)
    worker, client = star.worker(), star.client()
    code = bytes(100_000)
    job = client.job(blob=False, code=code)
    star.take(Want, client)
    client.say(Blob(job.digest, 1 << 63 | 1, len(code)))
    star.take(Grant, client)
    client.push(1 << 63 | 1, 0, len(code), token=bytearray(code))
    job.submit(1)
    stream = star.take(Blob, worker).stream
    worker.leased(job, 0, 1)
    worker.say(Abort(stream, 1, Code.GONE, "no memory for it"))
    worker.say(Grant(stream, 1, 0, len(code)))
    star.quiet()
    worker.say(Want(job.digest))
    again = star.take(Blob, worker).stream
    assert again != stream
    worker.say(Grant(again, 1, 0, len(code)))
    chunk = star.chunk(worker)
    assert (chunk.stream, chunk.offset, chunk.length) == (again, 0, len(code))
    star.quiet()


def test_function_that_goes_while_a_worker_receives_it_is_aborted_there():
    """Its buffers are given back, and would be sent with another chunk's bytes in them."""
    star = Star(blob_idle_bytes=0, first_window_bytes=0)
    worker, client = star.worker(), star.client()
    code = bytes(100_000)
    job = client.job(blob=False, code=code)
    star.take(Want, client)
    client.say(Blob(job.digest, 1 << 63 | 1, len(code)))
    star.take(Grant, client)
    client.push(1 << 63 | 1, 0, len(code), token=bytearray(code))
    job.submit(1)
    stream = star.take(Blob, worker).stream
    worker.leased(job, 0, 1)
    client.cancel(job, [0], kill=True)
    worker.retracted(kill=True)
    client.outcome(job, [0], Status.CANCELLED, head=b"")
    client.say(Forget(job.number))
    star.take(Forget, worker)
    star.expect(Abort(stream, 1, Code.GONE, "no job needs this blob any more"), worker)
    assert len(star.dropped) == 1
    worker.say(Grant(stream, 1, 0, len(code)))
    star.quiet()


def test_blob_that_its_client_stops_sending_is_asked_of_another():
    star = Star()
    first, second = star.client(), star.client()
    code = bytes(100_000)
    job = first.job(blob=False, code=code)
    star.take(Want, first)
    first.say(Blob(job.digest, 1 << 63 | 1, len(code)))
    star.take(Grant, first)
    second.job(blob=False, code=code)
    first.say(Forget(job.number))
    first.say(Abort(1 << 63 | 1, 1, Code.GONE, "no job needs it any more"))
    star.expect(Want(job.digest), second)
    star.quiet()


def test_function_that_no_job_needs_is_kept_and_counted_apart():
    star = Star()
    client = star.client()
    job = client.job()
    assert (star.core.status(star.now)["held_bytes"], star.core.status(star.now)["idle_blob_bytes"]) == (10, 0)
    client.say(Forget(job.number))
    assert (star.core.status(star.now)["held_bytes"], star.core.status(star.now)["idle_blob_bytes"]) == (0, 10)
    star.quiet()


def test_two_blobs_on_one_stream_close_the_link():
    star = Star()
    client = star.client()
    client.say(Blob(bytes(32), 1 << 63, 1000))
    client.say(Blob(bytes([1] * 32), 1 << 63, 1000))
    star.closed(client, Code.UNEXPECTED)


def test_blob_that_one_client_cannot_send_may_come_from_another():
    star = Star()
    worker, client, liar = star.worker(), star.client(), star.client()
    job = client.job(blob=False)
    job.submit(1)
    liar.say(Blob(job.digest, 1 << 63, 1 << 31))
    star.take(Want, client)
    client.say(Blob(job.digest, 1 << 63 | 1, 0, b"a function"))
    worker.leased(job, 0, 1)


def test_function_that_is_too_large_is_refused_to_each_client_that_has_it():
    star = Star(blob_bytes=1000)
    star.worker()
    one, other = star.client(), star.client()
    jobs = [client.job(blob=False) for client in (one, other)]
    for job in jobs:
        job.submit(1)
    for job in jobs:
        star.expect(Want(job.digest), job.client)
        job.client.say(Blob(job.digest, 1 << 63 | 1, 2000))
        assert star.take(Abort, job.client).code == Code.OVERRUN
        assert b"2000 bytes" in job.client.outcome(job, [0], Status.UNRUNNABLE, head=None).heads
        job.submit(1)
        assert b"2000 bytes" in job.client.outcome(job, [1], Status.UNRUNNABLE, head=None).heads
    star.quiet()


def test_blobs_beyond_the_session_s_bound_close_the_link():
    star = Star(session_blob_bytes=5000)
    client = star.client()
    for stream in range(5):
        client.say(Blob(bytes([stream] * 32), 1 << 63 | stream, 1000))
    star.closed(client, Code.OVERRUN)


def test_function_is_taken_without_a_look_at_all_others():
    star = Star()
    client = star.client()
    blobs = star.core._blobs._blobs = Counted()
    with star.in_bulk():
        for number in range(10):
            client.job(code=bytes([number]))
        assert blobs.looks == 0
    assert len(blobs) == 10


def test_function_that_broke_off_takes_no_room_from_others():
    star = Star(blob_bytes=1000)
    star.core._blobs._budget_bytes = 1000
    brief, other, client = star.client(), star.client(), star.client()
    jobs = [each.job(blob=False, code=b"a") for each in (brief, other)]
    brief.say(Blob(jobs[0].digest, 1 << 63 | 1, 900))
    brief.lose()
    job = client.job(blob=False, code=b"b")
    client.say(Blob(job.digest, 1 << 63 | 1, 900))
    assert star.take(Grant, client).count == 900


def test_functions_that_a_worker_is_known_to_have_are_bounded_and_those_on_their_way_among_them(monkeypatch):
    monkeypatch.setattr("starcore.manager.blobs.WORKER_BLOBS_MAX", 4)
    star = Star()
    worker, client = star.worker(slots=20), star.client()
    known = star.core._sessions.workers[worker.session].blobs
    large = client.job(blob=False, code=b"large")
    client.say(Blob(large.digest, 1 << 63 | 99, 5))
    client.push(1 << 63 | 99, 0, 5, token=b"large")
    large.submit(1)
    jobs = [client.job(code=bytes([number])) for number in range(10)]
    for job in jobs:
        job.submit(1)
        assert len(known) <= 5
    assert large.digest in known, "it does not have this one yet"
    assert {job.digest for job in jobs[-3:]} <= known.keys()
    star.all(Blob, worker)
    again = client.job(code=bytes([0]))
    again.submit(1)
    assert star.take(Blob, worker).digest == again.digest


def test_small_unneeded_blobs_are_kept_up_to_a_number():
    star = Star(blobs_idle_max=3)
    client = star.client()
    for number in range(10):
        client.say(Blob(hashlib.sha256(bytes([number])).digest(), 1 << 63, 0, bytes([number])))
    assert star.core.status(star.now)["idle_blob_bytes"] == 3
    star.quiet()
