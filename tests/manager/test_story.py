"""Stories: every attempt with its worker, time and cause, for whoever it belongs to; the ring is bounded."""

from __future__ import annotations

import json
from typing import Any

from starcore import codec
from starcore.errors import Code, Status
from starcore.manager.story import CAUSE_CHARS_MAX, RECORD_BYTES, STATUSES_MAX, STORY_JOBS_MAX, STORY_RECORDS_MAX
from starcore.messages import Forget, Running, StoryReply, StoryRequest
from starcore.texts import NAME_CHARS_MAX

from .star import ClientSide, JobSide, Star, settle
from .test_store import detached, rows


def ask(client: ClientSide, task: str) -> dict[str, Any]:
    """Ask for a story, over the wire."""
    client.say(StoryRequest(77, task))
    reply = client.star.take(StoryReply, client)
    assert reply.question == 77
    told: dict[str, Any] = json.loads(reply.text)
    return told


def name(job: JobSide, index: int) -> str:
    return f"{job.client.session.hex()[:8]}/{job.number}/{index}"


def whats(told: dict[str, Any]) -> list[tuple[str, int]]:
    return [(record["what"], record["attempt"]) for record in told["records"]]


def test_task_that_simply_ran_is_told_from_its_queue_to_its_delivery():
    star = Star(now=100.0)
    worker, client = star.worker(name="node7", slots=3), star.client()
    job = client.job(function="fit")
    job.submit(3)
    star.now = 101.0
    worker.finish(worker.leased(job, 0, 3), seconds=1.0)
    client.outcome(job, [0, 1, 2])
    told = ask(client, name(job, 1))
    assert whats(told) == [("queued", 0), ("leased", 1), ("returned", 1), ("delivered", 1)]
    assert [record["worker"] for record in told["records"]] == ["", "node7", "node7", ""]
    assert [record["seconds_ago"] for record in told["records"]] == [2.0, 2.0, 0.0, 0.0]
    assert (told["task"], told["function"], told["whole"]) == (name(job, 1), "fit", True)
    assert ask(client, name(job, 3))["records"] == []
    settle(star)
    star.quiet()


def test_every_lost_attempt_is_told_with_its_cause():
    star = Star()
    client = star.client()
    job = client.job(retries=1)
    job.submit(1)
    first = star.worker(name="first")
    first.leased(job, 0, 1)
    first.lose()
    star.wait(star.limits.worker_grace_seconds)
    second = star.worker(name="second")
    second.finish(second.leased(job, 0, 1, attempt=2), Status.CRASHED, head=b"killed by SIGSEGV")
    second.finish(second.leased(job, 0, 1, attempt=3), Status.RAISED)
    second.finish(second.leased(job, 0, 1, attempt=4), Status.RAISED)
    client.outcome(job, [0], Status.RAISED)
    told = ask(client, name(job, 0))
    assert whats(told) == [
        *[("queued", 0), ("leased", 1), ("queued again", 1), ("leased", 2), ("queued again", 2), ("leased", 3)],
        *[("queued again", 3), ("leased", 4), ("raised", 4), ("delivered", 4)],
    ]
    causes = [record["text"] for record in told["records"] if record["what"] == "queued again"]
    assert causes == [
        "the connection to worker first was lost",
        "killed by SIGSEGV",
        "raised on worker second: retry 1 of 1",
    ]
    settle(star)
    star.quiet()


def test_long_story_in_letters_that_json_writes_long_fits_its_message():
    star = Star()
    client = star.client()
    job = client.job(retries=STORY_RECORDS_MAX)
    job.submit(1)
    worker = star.worker(name="\N{GRINNING FACE}" * NAME_CHARS_MAX)
    for attempt in range(1, STORY_RECORDS_MAX):
        worker.finish(worker.leased(job, 0, 1, attempt=attempt), Status.RAISED)
    client.say(StoryRequest(1, name(job, 0)))
    reply = star.take(StoryReply, client)
    assert codec.encode(reply)
    told = json.loads(reply.text)
    assert len(told["records"]) > 100 and not told["whole"]


def test_task_that_runs_for_long_or_is_given_back_or_cancelled_is_told():
    star = Star()
    worker, client = star.worker(slots=1, name="node7"), star.client()
    job = client.job()
    job.submit(2)
    runs, waits = worker.leased(job, 0, 1), worker.leased(job, 1, 1)
    worker.started([runs.lease])
    star.take(Running, client)
    worker.give_back([waits.lease])
    waits = worker.leased(job, 1, 1, attempt=2)
    client.cancel(job, [0, 1], kill=True)
    client.outcome(job, [0, 1], Status.CANCELLED, head=None)
    assert whats(ask(client, name(job, 0))) == [
        *[("queued", 0), ("leased", 1), ("running", 1), ("cancelled", 0), ("delivered", 0)]
    ]
    told = ask(client, name(job, 1))
    assert whats(told) == [
        *[("queued", 0), ("leased", 1), ("queued again", 1), ("leased", 2), ("cancelled", 0), ("delivered", 0)]
    ]
    assert told["records"][2]["text"] == "given back from worker node7, where it had not begun"
    assert worker.retracted(kill=True) == [runs.lease, waits.lease]
    worker.give_back([runs.lease, waits.lease])
    settle(star)
    star.quiet()


def test_poisoned_task_is_told_to_the_end_and_named_alike_in_the_log():
    star = Star()
    worker, client = star.worker(name="node7"), star.client()
    job = client.job(function="fit")
    job.submit(1)
    for attempt in (1, 2, 3):
        worker.finish(worker.leased(job, 0, 1, attempt=attempt), Status.CRASHED, head=b"killed by SIGSEGV")
    client.outcome(job, [0], Status.CRASHED, head=None)
    last = ask(client, name(job, 0))["records"][-2]
    assert (last["what"], last["attempt"]) == ("failed", 3)
    assert "killed by SIGSEGV" in last["text"]
    assert any(f"task {name(job, 0)} (fit): killed by SIGSEGV" in line for line in star.logs)
    settle(star)
    star.quiet()


def test_mixed_ends_of_one_run_are_told_each_as_its_own():
    star = Star()
    count = 2 * STATUSES_MAX + 10
    worker, client = star.worker(slots=count), star.client()
    job = client.job()
    job.submit(count)
    statuses = [Status.RAISED if index % 3 == 0 else Status.OK for index in range(count)]
    worker.finish(worker.leased(job, 0, count), statuses)
    client.outcome(job, range(count), statuses)
    for index in (0, 1, STATUSES_MAX - 1, STATUSES_MAX, count - 1):
        assert whats(ask(client, name(job, index)))[2] == ("returned" if index % 3 else "raised", 1)
    settle(star)
    star.quiet()


def test_story_is_told_to_the_same_certificate_alone_also_when_the_session_is_over():
    star = Star()
    worker, owner = star.worker(), star.client(identity="mine")
    job = owner.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1))
    owner.outcome(job, [0])
    later, stranger = star.client(identity="mine"), star.client(identity="theirs")
    task = name(job, 0)
    assert whats(ask(later, task))[0] == ("queued", 0)
    number = ask(later, task)["manager_job"]
    assert ask(later, f"m{number}/0") == ask(later, task)
    owner.goodbye()
    assert ask(later, task)["records"]
    for asked in (task, f"m{number}/0"):
        refusal = ask(stranger, asked)
        assert list(refusal) == ["error"]
        assert asked in refusal["error"]
    unknown = ask(stranger, f"{owner.session.hex()[:8]}/9/0")
    assert unknown["error"].replace("/9/0", "/1/0") == ask(stranger, task)["error"], "no word of what there is"
    star.take(Forget, worker)
    settle(star)
    star.quiet()


def test_dropped_session_is_told():
    star = Star()
    client, later = star.client(identity="mine"), star.client(identity="mine")
    job = client.job()
    job.submit(1)
    client.goodbye(Code.NORMAL)
    assert ask(later, name(job, 0))["records"][-1]["text"] == "its client's session is over"
    settle(star)
    star.quiet()


def test_what_is_no_name_is_said_to_be_none():
    star = Star()
    client = star.client()
    wrongs = ("", "1", "x/1/0", "1/0/", "1/0", "m1", "m3fa9c1d2/1/0", "m1/" + "9" * 11, "3FA9C1D2/1/0", "a\nb" * 1000)
    for wrong in wrongs:
        said = ask(client, wrong)["error"]
        assert len(said) < 300
        assert said.isprintable()
    star.quiet()


def test_ring_forgets_the_oldest_and_says_so():
    star = Star(story_bytes=10 * RECORD_BYTES)
    worker, client = star.worker(), star.client()
    job = client.job()
    for index in range(5):
        job.submit(1)
        worker.finish(worker.leased(job, index, 1))
        client.outcome(job, [index])
    assert ask(client, name(job, 0))["records"] == []
    assert not ask(client, name(job, 0))["whole"]
    assert not ask(client, name(job, 2))["whole"]
    assert ask(client, name(job, 3))["whole"]
    settle(star)
    star.quiet()


def test_report_keeps_its_lines():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1), Status.CRASHED, head=b"killed by SIGSEGV\nlast stack:\n  File x\t")
    assert ask(client, name(job, 0))["records"][2]["text"] == "killed by SIGSEGV\nlast stack:\n  File x\\t"
    worker.leased(job, 0, 1, attempt=2)
    settle(star)
    star.quiet()


def test_long_causes_and_jobs_without_end_are_bounded():
    star = Star()
    worker, client = star.worker(), star.client()
    job = client.job(function="f" * 10_000)
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1), Status.CRASHED, head=b"x" * 10_000)
    told = ask(client, name(job, 0))
    assert len(told["records"][2]["text"]) == CAUSE_CHARS_MAX
    assert len(told["function"]) <= 100
    worker.leased(job, 0, 1, attempt=2)
    with star.in_bulk():
        for _ in range(STORY_JOBS_MAX):
            client.job(blob=False, kind=1, function="m:f", python="")
    assert "error" in ask(client, name(job, 0))
    star.actions.clear()


def test_stored_job_has_a_story_for_whoever_has_its_owners_identity() -> None:
    star = Star()
    maker = star.client(identity="mine", fingerprint="of last year")
    detached(maker)
    number = rows(maker)[0]["number"]
    maker.goodbye()
    worker = star.worker(name="node7")
    worker.finish(worker.leased(count=1))
    later, stranger = star.client(identity="mine", fingerprint="of this year"), star.client(identity="theirs")
    told = ask(later, f"m{number}/0")
    assert (told["task"], told["whole"]) == (f"m{number}/0", True)
    assert [what for what, _ in whats(told)][:2] == ["queued", "leased"]
    assert list(ask(stranger, f"m{number}/0")) == ["error"]
    star.core.check()
