"""The accounts of clients: each number that is kept beside what it counts is noticed when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from starcore.manager.audit import check_account

from .star import Star, settle


def busy() -> Any:
    """Return a client's session with a task that is leased, one that waits, and one whose outcome is not read."""
    star = Star()
    worker, client = star.worker(slots=1), star.client()
    settle(star)
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, count=1))
    job.submit(2)
    session = star.core._sessions.clients[client.session]
    check_account(session)
    return session


@pytest.mark.parametrize("count", ["owed_bytes", "job_bytes", "queued", "leased"])
def test_a_count_that_is_wrong_is_noticed(count: str) -> None:
    session = busy()
    setattr(session, count, getattr(session, count) + 1)
    with pytest.raises(AssertionError):
        check_account(session)


def test_an_outcome_that_is_told_twice_is_noticed() -> None:
    session = busy()
    sequence, delivery = next(iter(session.unread.items()))
    session.unread[sequence + 1] = delivery
    with pytest.raises(AssertionError, match="two outcomes"):
        check_account(session)
