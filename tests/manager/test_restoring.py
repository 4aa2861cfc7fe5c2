"""A star from records: whatever part of them is left, the books are in order."""

from __future__ import annotations

import random

import pytest

from starcore.manager import journal
from starcore.manager.records import Accepted
from starcore.manager.state import JOB_OVERHEAD_BYTES
from starcore.messages import Assign, Forget
from tests.manager.journals import JournaledStar, comes_to, recovered

SEEDS = range(40)


def busy_star() -> JournaledStar:
    """A star in which much has happened."""
    star = JournaledStar()
    worker, client, other = star.worker(slots=4), star.client(), star.client()
    job, small = client.job(retries=1), other.job(priority=1)
    job.submit(6, bodies=[0, 5000, 0, 0, 7000, 0])
    small.submit(8)
    for assign in star.all(Assign, worker):
        if len(assign.head_sizes) > 1:
            worker.result([assign.lease])
            worker.give_back([assign.lease + 1])
    other.cancel(small, [7])
    job.submit(3)
    return star


def test_restored_star_comes_to_the_same_again() -> None:
    star = busy_star()
    later = star.killed()
    told, again = comes_to(star.recovered()), comes_to(later.recovered())
    assert again == told


def test_restored_star_survives_a_second_death_before_anybody_came_back() -> None:
    star = busy_star()
    assert comes_to(star.killed().killed().recovered()) == comes_to(star.recovered())


@pytest.mark.parametrize("seed", SEEDS)
def test_star_with_a_hole_in_its_journal_has_its_books_in_order(seed: int) -> None:
    chance, star = random.Random(seed), busy_star()
    start = chance.randrange(len(star.frames))
    stop = start + chance.randrange(1, 6)
    later = JournaledStar(recovered(star.frames[:start] + star.frames[stop:]), now=star.now)
    later.core.check()
    later.wait(400.0)
    assert later.status()["clients"] == [] == later.status()["workers"]


def test_outcome_outlives_the_records_of_its_tasks_and_of_its_job() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.result([star.all(Assign, worker)[0].lease])
    client.say(Forget(job.number))
    frames = [frame for frame in star.frames if not isinstance(journal.decode(frame), Accepted)]
    later = JournaledStar(recovered(frames), now=star.now)
    later.core.check()
    assert later.status()["jobs"] == []


def test_jobs_beyond_a_limit_that_was_lowered_wait_for_their_client() -> None:
    star = JournaledStar()
    client = star.client()
    for _ in range(3):
        client.job().submit(1)
    later = JournaledStar(star.recovered(), now=star.now, job_bytes=2 * JOB_OVERHEAD_BYTES + 100)
    later.core.check()
    assert len(later.status()["jobs"]) < 3


def test_peers_that_never_come_back_are_let_go_and_leave_nothing() -> None:
    later = busy_star().killed()
    later.wait(later.limits.session_grace_seconds + 1)
    assert later.status()["jobs"] == [] and later.status()["held_bytes"] == 0
    assert not any(comes_to(later.recovered()).values())
