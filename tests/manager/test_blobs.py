"""Blobs: pinned by jobs, pulled when they are large, checked, kept a while."""

from __future__ import annotations

import hashlib

from starcore.errors import Code
from starcore.messages import (
    Assign,
    Blob,
    Forget,
    Want,
)
from starcore.messages import Job as JobMessage

from .star import Star


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


def test_function_that_no_job_needs_is_kept_and_counted_apart():
    star = Star()
    client = star.client()
    job = client.job()
    assert (star.core.status(star.now)["held_bytes"], star.core.status(star.now)["idle_blob_bytes"]) == (10, 0)
    client.say(Forget(job.number))
    assert (star.core.status(star.now)["held_bytes"], star.core.status(star.now)["idle_blob_bytes"]) == (0, 10)
    star.quiet()
