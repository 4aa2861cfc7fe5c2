"""What people are shown of a job."""

from __future__ import annotations

from starcore.manager.report import VERSIONS_MAX, missing
from starcore.messages import FunctionKind

from .star import Star


def test_job_without_a_worker_is_told_why() -> None:
    star = Star()
    assert missing((FunctionKind.SHIPPED, "3.11"), []) == "no worker is connected"
    for minor in range(VERSIONS_MAX + 3):
        star.worker(python=f"3.{20 + minor}.1")
    workers = list(star.core._sessions.workers.values())
    text = missing((FunctionKind.SHIPPED, "3.11"), workers)
    assert "Python 3.11" in text and text.count("3.2") == VERSIONS_MAX
    assert missing((FunctionKind.REGISTERED, "a:b"), workers).endswith("function a:b")
    assert missing((FunctionKind.REGISTERED, ""), workers).endswith("has a registered function")


def test_row_of_a_job_counts_its_tasks() -> None:
    star = Star()
    star.client(name="me").job(function="f\n").submit(3)
    (row,) = star.status()["jobs"]
    assert (row["client"], row["queued"], row["done"]) == ("me", 3, 0)
    assert row["function"].isprintable()
