"""What is said of workers and jobs, and of work that nobody takes."""

from __future__ import annotations

from manager.star import Star, settle
from starcore.manager.report import VERSIONS_MAX, missing
from starcore.messages import Draining, FunctionKind


def test_status_describes_workers_and_jobs():
    star = Star()
    star.worker(name="node", slots=2)
    job = star.client().job()
    job.submit(3)
    settle(star)
    status = star.status()
    worker, row = status["workers"][0], status["jobs"][0]
    assert (worker["name"], worker["slots"], worker["running"], worker["connected"]) == ("node", 2, 2, True)
    assert (row["function"], row["queued"] + row["leased"], row["done"]) == ("f", 3, 0)


def test_worker_that_is_away_is_described_from_when_it_left():
    star = Star()
    worker = star.worker(name="node")
    worker.lose()
    star.now += 0.5
    row = star.status()["workers"][0]
    assert (row["connected"], row["heard_seconds_ago"]) == (False, 0.5)


def test_missing_says_which_pythons_there_are_but_not_hundreds():
    star = Star()
    for minor in range(20):
        star.worker(python=f"3.{minor + 20}")
    workers = list(star.core._sessions.workers.values())
    text = missing((FunctionKind.SHIPPED, "3.9"), workers)
    assert text.count("3.2") + text.count("3.3") == VERSIONS_MAX
    assert missing((FunctionKind.SHIPPED, "3.9"), []) == "no worker is connected"


def test_missing_does_not_blame_the_python_of_workers_that_have_the_right_one():
    star = Star()
    star.worker(python="3.11.7", only_registered=True, functions=["m:f"])
    (fixed,) = star.core._sessions.workers.values()
    text = "no connected worker runs other functions than those that are registered there"
    assert missing((FunctionKind.SHIPPED, "3.11"), [fixed]) == text
    star.worker(python="3.12.1")
    workers = list(star.core._sessions.workers.values())
    assert missing((FunctionKind.SHIPPED, "3.11"), workers).endswith("(they have Python 3.12.1)")
    star.worker(python="3.11.7").say(Draining())
    workers = list(star.core._sessions.workers.values())
    text = "the workers that could run it are about to leave, and take nothing more"
    assert missing((FunctionKind.SHIPPED, "3.11"), workers) == text
    assert "no connected worker has" in missing((FunctionKind.REGISTERED, "m:g"), workers)


def test_missing_says_which_registered_function_nobody_has():
    star = Star()
    star.worker()
    workers = list(star.core._sessions.workers.values())
    assert missing((FunctionKind.REGISTERED, "m:f"), workers) == "no connected worker has the registered function m:f"
    assert missing((FunctionKind.REGISTERED, ""), workers) == "no connected worker has a registered function"


def test_row_of_a_job_counts_its_tasks():
    star = Star()
    star.client(name="me").job(function="f\n").submit(3)
    (row,) = star.status()["jobs"]
    assert (row["client"], row["queued"], row["done"]) == ("me", 3, 0)
    assert row["function"].isprintable()
