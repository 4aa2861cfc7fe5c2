"""The manager's scenarios: what it hears late, twice, or of a task that has gone on meanwhile."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from starcore.errors import Status
from starcore.messages import Abort, Assign, Blob, Confirm, Draining, Forget, Grant, Heartbeat, Outcome
from starcore.messages import Job as JobMessage
from tests.manager.star import ClientSide, JobSide, WorkerSide, settle

from .directed import WatchedStar, reaches

BODY = 1000
ENDS = [Status.RAISED, Status.CRASHED, Status.TIMEOUT, Status.MEMORY, Status.UNSENDABLE]
"""What a slot's task may come to while others of its batch run on."""
AWAY_SECONDS = 0.1
"""Shorter than a worker's grace."""


class Batch:
    """A batch that a worker has in part: task 0 is done, the next ended as is said, and the last `rest` run on.

    The client does not read what it is told, so nothing is given out for it, and what is queued again waits.
    """

    def __init__(self, star: WatchedStar, *ends: Status, retries: int = 1, rest: int = 1) -> None:
        self.star = star
        self.statuses = [Status.OK, *ends]
        tasks = len(self.statuses) + rest
        self.worker, self.client = star.worker(slots=tasks), star.client(result_bytes=0)
        self.job = self.client.job(retries=retries)
        self.job.submit(tasks)
        first = self.worker.leased(self.job, 0, tasks).lease
        self.leases = range(first, first + tasks)
        self.over, self.rest = self.leases[: tasks - rest], self.leases[tasks - rest :]
        self.tell()

    def tell(self) -> None:
        """Tell the results of all but the rest."""
        self.worker.result(self.over, self.statuses)
        self.star.expect(Confirm(array("Q", self.over)), self.worker)

    def tell_again(self) -> None:
        """The CONFIRM was lost with its link: all is told once more, and nobody is told anything of it."""
        come_back(self.star, self.worker, self.leases)
        stale, said = self.star.status()["stale"], len(self.star.actions)
        self.tell()
        assert self.star.status()["stale"] == stale + len(self.over)
        assert len(self.star.actions) == said

    def end(self, *others: WorkerSide) -> dict[int, int]:
        """The rest ends, and what was queued again: what each task came to."""
        if self.rest:
            self.worker.result(self.rest)
            self.star.take(Confirm, self.worker)
        return bring_home(self.star, self.client, self.worker, *others)


def come_back(star: WatchedStar, worker: WorkerSide, leases: Iterable[int]) -> None:
    """A worker's link breaks, and it comes back with these leases."""
    worker.lose()
    star.wait(AWAY_SECONDS)
    worker.connect(leases=array("Q", leases))
    star.all(JobMessage, worker)


def bring_home(star: WatchedStar, client: ClientSide, *workers: WorkerSide) -> dict[int, int]:
    """Run what is given out and read what is told, until nothing is left: each task's status, which is told once."""
    told: dict[int, int] = {}
    while True:
        outcomes = star.all(Outcome, client)
        for outcome in outcomes:
            for index, status in zip(outcome.indices, bytes(outcome.statuses), strict=True):
                assert index not in told, f"task {index} is told twice"
                told[index] = status
        if outcomes:
            client.ack(*outcomes)
        ran = False
        for worker in workers:
            star.all(Blob, worker)
            star.all(JobMessage, worker)
            for assign in star.all(Assign, worker):
                worker.finish(assign)
                ran = True
        if not ran and not outcomes:
            settle(star)
            star.quiet()
            return told


def lone(star: WatchedStar) -> tuple[WorkerSide, ClientSide, JobSide, int]:
    """A task that runs, by itself: its worker, its client, its job and its lease."""
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    return worker, client, job, worker.leased(job, 0, 1).lease


def answering(star: WatchedStar, tasks: int = 1) -> tuple[WorkerSide, ClientSide, JobSide, int]:
    """A worker holds the body of task 0's answer; the others of its batch run on."""
    worker, client = star.worker(slots=tasks), star.client()
    job = client.job()
    job.submit(tasks)
    lease = worker.leased(job, 0, tasks).lease
    worker.result([lease], bodies=[BODY])
    return worker, client, job, lease


# -- results that are told again -----------------------------------------------------------------------------------


@reaches(
    "manager",
    "DONE: RESULT OK",
    "QUEUED: RESULT RAISED",
    "QUEUED: RESULT CRASHED",
    "FAILED: RESULT TIMEOUT",
    "FAILED: RESULT MEMORY",
    "FAILED: RESULT UNSENDABLE",
    "QUEUED DONE FAILED: worker HELLO holds",
)
def results_of_a_part_of_a_batch_are_told_again(star: WatchedStar) -> None:
    """They count once, and what was queued again runs once more."""
    batch = Batch(star, *ENDS)
    batch.tell_again()
    assert batch.end() == {0: 0, 1: 0, 2: 0, 3: Status.TIMEOUT, 4: Status.MEMORY, 5: Status.UNSENDABLE, 6: 0}


@reaches("manager", "FAILED: RESULT RAISED")
def exception_without_a_retry_left_is_told_again(star: WatchedStar) -> None:
    """It fails its task once."""
    batch = Batch(star, Status.RAISED, retries=0)
    batch.tell_again()
    assert batch.end() == {0: Status.OK, 1: Status.RAISED, 2: Status.OK}


@reaches("manager", "DONE: RESULT RAISED", "DONE FAILED: RESULT CRASHED")
def results_are_told_again_when_their_tasks_have_ended_elsewhere(star: WatchedStar) -> None:
    """What the later attempts came to stands."""
    batch = Batch(star, Status.RAISED, Status.CRASHED, Status.CRASHED)
    batch.worker.lose()
    other = star.worker(slots=3)
    batch.client.ack(*star.all(Outcome, batch.client))
    for first in (1, 2, 3):
        other.finish(other.leased(batch.job, first, 1, attempt=2), Status.TIMEOUT if first == 3 else Status.OK)
    batch.tell_again()
    assert batch.end(other) == {1: Status.OK, 2: Status.OK, 3: Status.TIMEOUT, 4: Status.OK}


@reaches("manager", "FAILED: RESULT UNRUNNABLE")
def refusal_of_a_part_of_a_batch_is_told_again(star: WatchedStar) -> None:
    """The rest did not fit the same message, which was lost with the link."""
    batch = Batch(star, Status.UNRUNNABLE)
    batch.tell_again()
    assert batch.end() == {0: Status.OK, 1: Status.UNRUNNABLE, 2: Status.OK}


@reaches("manager", "DONE: RESULT OK with a body")
def answer_that_its_client_has_is_told_again(star: WatchedStar) -> None:
    """It is confirmed anew, and no byte of it is asked for."""
    worker, client, job, lease = answering(star, 2)
    outcome = client.outcome(job, [0], ack=False)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    star.take(Grant, worker)
    worker.push(lease, 0, BODY)
    star.chunk(client)
    client.ack(outcome)
    star.take(Confirm, worker)
    come_back(star, worker, [lease, lease + 1])
    worker.result([lease], bodies=[BODY])
    star.expect(Confirm(array("Q", [lease])), worker)
    assert star.status()["stale"] == 1
    worker.result([lease + 1])
    star.take(Confirm, worker)
    assert bring_home(star, client, worker) == {1: Status.OK}


@reaches("manager", *(f"UNKNOWN: RESULT {status.name}" for status in [*ENDS, Status.UNRUNNABLE]))
def results_of_a_whole_batch_are_told_again(star: WatchedStar) -> None:
    """The manager knows none of these leases any more, and lets the worker have its way with them."""
    batch = Batch(star, *ENDS, Status.UNRUNNABLE, rest=0)
    batch.tell_again()
    assert batch.worker.retracted(kill=True) == [*batch.leases]
    batch.worker.give_back([], batch.leases)
    ends = [Status.OK, Status.OK, Status.OK, *ENDS[2:], Status.UNRUNNABLE]
    assert batch.end() == dict(enumerate(ends))


# -- results that cross a cancel -----------------------------------------------------------------------------------


@reaches("manager", *(f"CANCELLED: RESULT {each}" for each in ("RAISED", "CRASHED", "MEMORY", "UNSENDABLE")))
def results_cross_the_cancel_of_their_tasks(star: WatchedStar) -> None:
    """They are dropped: no retry, no crash counted, no second outcome."""
    ends = [Status.RAISED, Status.CRASHED, Status.MEMORY, Status.UNSENDABLE]
    worker, client = star.worker(slots=4), star.client()
    job = client.job(retries=1)
    job.submit(4)
    lease = worker.leased(job, 0, 4).lease
    client.cancel(job, range(4), kill=True)
    assert worker.retracted(kill=True) == [*range(lease, lease + 4)]
    worker.result(range(lease, lease + 4), ends)
    star.take(Confirm, worker)
    worker.give_back([], range(lease, lease + 4))
    assert bring_home(star, client, worker) == dict.fromkeys(range(4), Status.CANCELLED)
    status = star.status()
    assert (status["stale"], status["crashes"], status["requeued"]) == (8, 0, 0)


@reaches("manager", "CANCELLED: RESULT UNRUNNABLE")
def refusal_crosses_the_cancel_of_its_task(star: WatchedStar) -> None:
    """It is dropped."""
    worker, client, job, lease = lone(star)
    client.cancel(job, [0])
    assert worker.retracted() == [lease]
    worker.result([lease], Status.UNRUNNABLE)
    star.take(Confirm, worker)
    assert bring_home(star, client, worker) == {0: Status.CANCELLED}


@reaches("manager", "CANCELLED: CHUNK of an answer")
def answer_crosses_the_cancel_of_its_task(star: WatchedStar) -> None:
    """What comes of it is dropped at once."""
    worker, client, job, lease = answering(star, 2)
    client.outcome(job, [0], ack=False)
    client.cancel(job, [0])
    star.take(Abort, client)
    star.take(Confirm, worker)
    worker.push(lease, 0, BODY, token="late")
    assert star.dropped == ["late"]
    worker.result([lease + 1])
    star.take(Confirm, worker)
    assert bring_home(star, client, worker) == {0: Status.CANCELLED, 1: Status.OK}


@reaches("manager", "CANCELLED: CANCEL")
def cancel_is_said_again_on_a_new_link(star: WatchedStar) -> None:
    """Its outcome is told again, and there is none of its own to the second."""
    client = star.client()
    job = client.job()
    job.submit(1)
    client.cancel(job, [0])
    star.take(Outcome, client)
    client.lose()
    client.connect()
    client.cancel(job, [0])
    assert bring_home(star, client) == {0: Status.CANCELLED}


# -- a batch in parts ----------------------------------------------------------------------------------------------


def parted(star: WatchedStar) -> Batch:
    """A batch whose tasks are done, queued again, failed, cancelled, and leased."""
    batch = Batch(star, Status.RAISED, Status.TIMEOUT, rest=2)
    batch.client.cancel(batch.job, [3])
    assert batch.worker.retracted() == [batch.rest[0]]
    return batch


PARTED = dict(enumerate([Status.OK, Status.OK, Status.TIMEOUT, Status.CANCELLED, Status.OK]))


@reaches("manager", "QUEUED DONE FAILED CANCELLED: worker DRAINING", "QUEUED DONE FAILED CANCELLED: worker GOODBYE")
def worker_leaves_with_a_part_of_a_batch(star: WatchedStar) -> None:
    """What ran goes to another one, as what waits; what was over stays so."""
    batch = parted(star)
    batch.worker.say(Draining())
    batch.worker.goodbye()
    assert star.status()["requeued"] == 2
    assert bring_home(star, batch.client, star.worker(slots=5)) == PARTED


@reaches("manager", "QUEUED: worker LOST", "QUEUED: worker EXPIRED")
def worker_is_lost_with_a_part_of_a_batch(star: WatchedStar) -> None:
    """What was queued again is not queued twice."""
    batch = parted(star)
    batch.worker.lose()
    star.wait(star.limits.worker_grace_seconds)
    assert star.status()["workers"] == []
    assert star.status()["requeued"] == 2
    assert bring_home(star, batch.client, star.worker(slots=5)) == PARTED


@reaches("manager", "QUEUED FAILED: worker HELLO lacks")
def worker_comes_back_with_the_rest_of_a_batch(star: WatchedStar) -> None:
    """What was over is not missed."""
    batch = parted(star)
    come_back(star, batch.worker, batch.rest)
    assert batch.worker.retracted() == [batch.rest[0]]
    assert star.status()["requeued"] == 1
    batch.worker.give_back([batch.rest[0]])
    batch.rest = batch.rest[1:]
    assert batch.end() == PARTED


@reaches("manager", "QUEUED DONE FAILED: RETRACTED declined")
def worker_keeps_what_it_has_answered_when_it_is_asked_back(star: WatchedStar) -> None:
    """Nothing comes of that: each task has its outcome, or its next attempt."""
    worker, client = star.worker(slots=4), star.client(result_bytes=0)
    job = client.job(retries=1)
    job.submit(8)
    running, waiting = worker.leased(job, 0, 4), worker.leased(job, 4, 4)
    star.wait(1.0)
    idle = star.worker(slots=4)
    asked = worker.retracted()
    assert asked == [*range(waiting.lease, waiting.lease + 4)]
    worker.finish(running)
    worker.result(asked[:3], [Status.OK, Status.RAISED, Status.TIMEOUT])
    star.take(Confirm, worker)
    worker.give_back([], asked)
    assert star.status()["stale"] == 3
    worker.result(asked[3:])
    star.take(Confirm, worker)
    told = bring_home(star, client, worker, idle)
    assert told == {index: Status.TIMEOUT if index == 6 else Status.OK for index in range(8)}


# -- sessions that end ---------------------------------------------------------------------------------------------


@reaches("manager", "UNKNOWN: RETRACTED", "UNKNOWN: STARTED", "UNKNOWN: worker GRANT")
def worker_does_not_hear_that_its_session_had_ended(star: WatchedStar) -> None:
    """The WELCOME that said so was lost; what it still has is taken from it, whatever it says meanwhile."""
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(1)
    runs = worker.leased(job, 0, 1).lease
    job.submit(1, bodies=[BODY])
    arrives = worker.leased(job, 1, 1).lease
    other = star.worker(slots=2)
    worker.lose()
    star.wait(star.limits.worker_grace_seconds)
    other.leased(job, 0, 1, attempt=2)
    other.leased(job, 1, 1, attempt=2)
    held = array("Q", [runs, arrives])
    assert not worker.connect(leases=held).resumed
    worker.lose()
    assert worker.connect(leases=held).resumed
    assert worker.retracted(kill=True) == [*held]
    worker.started([runs])
    worker.say(Grant(arrives, 1, 0, BODY))
    worker.give_back(held)
    assert star.status()["stale"] == 3
    assert star.status()["requeued"] == 2


@reaches("manager", "LEASED DONE FAILED CANCELLED: client GOODBYE")
def client_leaves_with_all_kinds_of_tasks(star: WatchedStar) -> None:
    """Nothing of it stays, and what runs is ended."""
    batch = parted(star)
    batch.client.goodbye()
    assert_nothing_stays(star, batch)


@reaches("manager", "LEASED: client EXPIRED")
def client_is_lost_with_all_kinds_of_tasks(star: WatchedStar) -> None:
    """Nothing of it stays, and what runs is ended."""
    batch = parted(star)
    batch.client.lose()
    heard = star.now
    while star.now < heard + star.limits.session_grace_seconds:
        star.wait(star.limits.heartbeat_seconds)
        batch.worker.say(Heartbeat())
    star.all(Heartbeat, batch.worker)
    assert_nothing_stays(star, batch)


def assert_nothing_stays(star: WatchedStar, batch: Batch) -> None:
    """A client's session is over: its worker is told to end what runs, and to forget the job."""
    assert batch.worker.retracted(kill=True) == [batch.rest[1]]
    star.take(Forget, batch.worker)
    batch.worker.give_back(batch.rest)
    assert (star.status()["clients"], star.status()["jobs"], star.status()["held_bytes"]) == ([], [], 0)


# -- bodies --------------------------------------------------------------------------------------------------------


@reaches("manager", "FAILED: CHUNK of an argument")
def argument_comes_though_it_fits_no_worker(star: WatchedStar) -> None:
    """Its first window was on its way when its task failed; it is dropped."""
    worker, client = star.worker(arena_bytes=BODY - 1), star.client()
    job = client.job()
    job.submit(1, bodies=[BODY])
    client.push(job.stream(0), 0, BODY, token="late")
    assert star.dropped == ["late"]
    assert bring_home(star, client, worker) == {0: Status.UNRUNNABLE}


def taken_back(star: WatchedStar) -> tuple[ClientSide, JobSide]:
    """An answer that was announced and asked for, and taken back since its worker is gone."""
    worker, client, job, _ = answering(star)
    client.outcome(job, [0], ack=False)
    client.say(Grant(job.stream(0), 1, 0, 1))
    star.take(Grant, worker)
    worker.lose()
    star.wait(star.limits.worker_grace_seconds)
    star.take(Abort, client)
    return client, job


@reaches("manager", "QUEUED: client GRANT")
def client_asks_for_an_answer_that_was_taken_back(star: WatchedStar) -> None:
    """Nobody is asked for it; its task runs again."""
    client, job = taken_back(star)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    assert bring_home(star, client, star.worker()) == {0: Status.OK}


@reaches("manager", "FAILED: client GRANT")
def client_asks_for_an_answer_whose_next_attempt_has_failed(star: WatchedStar) -> None:
    """Nobody is asked for it; the failure stands."""
    client, job = taken_back(star)
    worker = star.worker()
    worker.finish(worker.leased(job, 0, 1, attempt=2), Status.RAISED)
    client.say(Grant(job.stream(0), 1, 0, BODY))
    assert bring_home(star, client, worker) == {0: Status.RAISED}
