"""Leases that end without an answer: given back, lost, and who is blamed for a death."""

from __future__ import annotations

import pytest

from starcore.errors import Code, Status
from starcore.messages import HEAD_BYTES_MAX, Assign, Outcome

from .star import Star, settle


def test_task_that_kills_its_slot_three_times_fails_with_signal_worker_and_attempts():
    star = Star()
    worker, client = star.worker(name="node7", host="rack3"), star.client()
    job = client.job()
    job.submit(1)
    for attempt in (1, 2, 3):
        worker.finish(worker.leased(job, 0, 1, attempt=attempt), Status.CRASHED, head=b"killed by SIGSEGV")
    outcome = client.outcome(job, [0], Status.CRASHED, head=None)
    text = bytes(outcome.heads).decode()
    assert all(word in text for word in ("SIGSEGV", "node7", "rack3", "3"))
    assert star.status()["crashes"] == 3
    star.quiet()


def test_report_on_a_killer_tells_every_death_and_shows_the_last_stack():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(1)
    worker = star.worker(name="node7", host="rack3")
    worker.finish(worker.leased(job, 0, 1), Status.CRASHED, head=b"ended by exit code 7")
    worker.leased(job, 0, 1, attempt=2)
    worker.goodbye(Code.INTERNAL)
    star.wait(1.0)
    worker.connect()
    head = b"ended by SIGSEGV; peak memory 2.0 GiB\nlast stack, most recent call first:\n  File f.py\x1b[2J"
    head += b'\nfacts {"signal": "SIGSEGV", "peak_memory_bytes": 2147483648, "worker": "liar", "attempts": 99, "x": 1}'
    worker.finish(worker.leased(job, 0, 1, attempt=3), Status.CRASHED, head=head)
    outcome = client.outcome(job, [0], Status.CRASHED, head=None)
    assert bytes(outcome.heads).decode().split("\n") == [
        "ended by SIGSEGV; peak memory 2.0 GiB; last run by worker node7 (rack3), attempt 3: given up after 3 deaths "
        "under this task",
        "  attempt 1, worker node7 (rack3): ended by exit code 7",
        "  attempt 2, worker node7 (rack3): the connection to worker node7 was lost",
        "  attempt 3, worker node7 (rack3): ended by SIGSEGV; peak memory 2.0 GiB",
        "last stack, most recent call first:",
        "  File f.py\\x1b[2J",
        'facts {"signal": "SIGSEGV", "peak_memory_bytes": 2147483648, "worker": "node7", "attempts": 3}',
    ]
    settle(star)
    star.quiet()


@pytest.mark.parametrize("head", [b"\xff\n" * 30_000, b"\xff" * 60_000, (b"\xf0\x9f\x98\x80" * 299 + b"\n") * 50])
def test_report_of_a_lying_worker_fits_an_outcome(head: bytes):
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    for attempt in (1, 2, 3):
        worker.finish(worker.leased(job, 0, 1, attempt=attempt), Status.CRASHED, head=head)
    outcome = client.outcome(job, [0], Status.CRASHED, head=None)
    assert len(outcome.heads) < HEAD_BYTES_MAX
    star.quiet()


def test_task_that_takes_too_much_memory_fails_at_once():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1), Status.MEMORY, head=b"its slot had 5 GiB")
    client.outcome(job, [0], Status.MEMORY, head=b"its slot had 5 GiB")
    star.quiet()


def test_lost_worker_blames_only_what_may_have_been_running():
    star = Star()
    client = star.client()
    job = client.job()
    worker = star.worker(slots=2)
    job.submit(2)
    worker.finish(worker.leased(job, 0, 2), seconds=1e-6)
    client.outcome(job, [0, 1])
    job.submit(1000)
    worker.leased(job, 2, 1000)
    for _ in range(3):
        worker.goodbye(Code.INTERNAL)
        star.wait(1.0)
        worker.connect()
        singles = [assign.first for assign in star.all(Assign, worker) if len(assign.head_sizes) == 1]
        assert set(singles) <= {2, 3}
    assert len(star.all(Outcome, client)) <= 2


def test_suspect_runs_alone_and_the_innocent_beside_it_survive():
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(2)
    for attempt in (1, 2):
        worker = star.worker(slots=2)
        assigns = sorted([*star.all(Assign, worker)], key=lambda assign: assign.first)
        assert sum(len(assign.head_sizes) for assign in assigns) == 2
        assert all(assign.attempt == attempt for assign in assigns)
        worker.lose()
        star.wait(1.0)
        star.actions.clear()
    worker = star.worker(slots=2)
    alone = worker.leased(job, 0, 1, attempt=3)
    assert not star.all(Assign, worker)
    worker.finish(alone)
    client.outcome(job, [0])
    killer = worker.leased(job, 1, 1, attempt=3)
    worker.finish(killer, Status.CRASHED, head=b"killed by SIGKILL")
    client.outcome(job, [1], Status.CRASHED, head=None)
    settle(star)
    star.quiet()


def test_suspect_with_an_argument_waits_for_its_client():
    """Nobody else has the bytes; a worker that got it would keep a place for it until the session's end."""
    star = Star()
    client = star.client()
    job = client.job()
    job.submit(1, bodies=[100_000])
    for _ in range(2):
        worker = star.worker()
        star.take(Assign, worker)
        worker.lose()
        star.wait(1.0)
    client.lose()
    worker = star.worker()
    star.wait(1.0)
    assert not star.all(Assign, worker)
    client.connect()
    job.submit(1, bodies=[100_000], again=True)
    assert star.take(Assign, worker).attempt == 3
