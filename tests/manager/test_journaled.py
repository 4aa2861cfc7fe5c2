"""The core with a journal: what waits for the disk, what comes back after a death, and what happens on a full disk."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from starcore import codec
from starcore.errors import Status
from starcore.events import Send
from starcore.manager.journaled import Durable, Renew
from starcore.manager.records import LEASE_BITS
from starcore.messages import BATCH_TASKS_MAX, Ack, Assign, Confirm, Forget, Outcome, Result, Retract
from starcore.messages import Job as JobMessage
from tests.manager.journals import JournaledStar, comes_to
from tests.manager.star import JobSide, settle

BODY = 100_000


def said(star: JournaledStar, kind: type[Any]) -> int:
    return sum(isinstance(action, Send) and isinstance(action.message, kind) for action in star.actions)


# -- what waits --------------------------------------------------------------------------------------------------


def test_task_is_given_out_when_it_and_its_lease_are_on_disk_and_its_end_waits_as_well() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    assert said(star, Assign) == 0
    star.sync()
    assign = worker.leased(job, 0, 2)
    worker.result([assign.lease, assign.lease + 1])
    assert said(star, Outcome) == said(star, Confirm) == 0
    star.sync()
    client.outcome(job, [0, 1])
    star.expect(Confirm(array("Q", [assign.lease, assign.lease + 1])), worker)
    star.sync()
    settle(star)
    star.quiet()


def test_only_what_stands_before_the_durable_record_leaves() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    star.sync()
    lease = worker.leased(job, 0, 2).lease
    worker.result([lease])
    upto = star.upto
    worker.result([lease + 1])
    star.feed(Durable(upto))
    client.outcome(job, [0], ack=False)
    assert said(star, Outcome) == 0
    star.sync()
    client.outcome(job, [1], ack=False)


def test_answer_with_a_body_goes_on_its_way_and_its_worker_keeps_it_until_the_disk_knows() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    star.sync()
    lease = worker.leased(job, 0, 1).lease
    worker.result([lease], bodies=[BODY])
    client.outcome(job, [0])  # which acknowledges it
    assert said(star, Confirm) == 0
    star.sync()
    star.expect(Confirm(array("Q", [lease])), worker)


def test_retract_does_not_overtake_the_assign_before_it() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    client.cancel(job, [0], kill=True)
    assert said(star, Retract) == 0
    star.sync()
    said_to_worker = [type(action.message) for action in star.actions if action.link == worker.link]
    assert said_to_worker.index(Assign) < said_to_worker.index(Retract)


def test_forget_does_not_overtake_the_confirms_before_it() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    star.sync()
    lease = worker.leased(job, 0, 1).lease
    worker.result([lease])
    star.sync()
    client.outcome(job, [0])
    star.all(Confirm, worker)
    client.say(Forget(job.number))
    assert said(star, Forget) == 0
    star.sync()
    assert said(star, Forget) == 1


def test_outcomes_that_are_acknowledged_by_forgetting_their_job_fit_their_records_however_many_they_are() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client(result_bytes=1 << 30)
    job = client.job()
    with star.in_bulk():
        for index in range(BATCH_TASKS_MAX + 1):
            job.submit(1)
            worker.finish(worker.leased(job, index, 1))
            client.outcome(job, [index], ack=False)
    client.say(Forget(job.number))  # encodes what is recorded
    assert star.core.status(star.now)["clients"][0]["unread"] == 0
    assert star.killed().core.status(star.now)["jobs"] == []


def test_what_waited_for_a_link_that_is_gone_goes_nowhere() -> None:
    star = JournaledStar(syncing=False)
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    star.sync()
    worker.result([worker.leased(job, 0, 1).lease])
    client.lose()
    worker.lose()
    star.sync()
    assert said(star, Outcome) == said(star, Confirm) == 0
    client.connect()
    client.outcome(job, [0])


# -- what comes back ---------------------------------------------------------------------------------------------


def reconnect(star: JournaledStar, *sides: Any, leases: tuple[int, ...] = ()) -> None:
    """Let peers of the manager before dial this one."""
    for side in sides:
        side.star = star
        welcome = side.connect(leases=array("Q", leases)) if side.role == 1 else side.connect()
        assert welcome.resumed and welcome.epoch == side.welcome.epoch


def test_open_tasks_are_dispatched_by_the_next_manager() -> None:
    star = JournaledStar()
    client = star.client()
    job = client.job()
    job.submit(5)
    later = star.killed()
    other = later.worker(slots=5)
    assign = other.leased(job, 0, 5)
    other.finish(assign)
    reconnect(later, client)
    client.outcome(job, range(5))
    settle(later)
    later.quiet()


def test_worker_keeps_its_leases_and_delivers_under_them() -> None:
    star = JournaledStar()
    worker, client = star.worker(slots=2), star.client()
    job = client.job()
    job.submit(2)
    lease = worker.leased(job, 0, 2).lease
    later = star.killed()
    reconnect(later, worker, client, leases=(lease, lease + 1))
    assert said(later, Assign) == 0
    worker.result([lease, lease + 1])
    client.outcome(job, [0, 1])
    later.expect(Confirm(array("Q", [lease, lease + 1])), worker)


def test_lease_that_the_worker_never_got_is_given_again_under_a_larger_number() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1).lease
    later = star.killed()
    reconnect(later, worker)
    again = worker.leased(job, 0, 1, attempt=2)
    assert again.lease > lease


def test_finished_task_does_not_run_again_and_its_outcome_is_said_again() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.finish(worker.leased(job, 0, 1))
    client.outcome(job, [0], ack=False)
    later = star.killed()
    reconnect(later, worker, client)
    client.outcome(job, [0])
    later.take(JobMessage, worker)
    settle(later)
    later.quiet()


def test_result_whose_outcome_was_not_durable_is_taken_from_its_worker() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1).lease
    star.syncing = False
    worker.result([lease])
    later = star.killed()
    reconnect(later, worker, client, leases=(lease,))
    worker.result([lease])
    client.outcome(job, [0])


def test_outcome_with_a_body_is_made_anew_with_a_number_that_was_never_said() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1).lease
    worker.result([lease], bodies=[BODY])
    first = client.outcome(job, [0], ack=False)
    later = star.killed()
    reconnect(later, client, worker, leases=(lease,))
    worker.result([lease], bodies=[BODY])
    second = client.outcome(job, [0])
    assert second.sequence > first.sequence
    later.expect(Confirm(array("Q", [lease])), worker)


def test_argument_with_a_body_is_pulled_from_its_client_again() -> None:
    star = JournaledStar()
    client = star.client()
    job = client.job()
    job.submit(1, bodies=[BODY])
    later = star.killed()
    worker = later.worker()
    assert said(later, Assign) == 0  # its client is not here
    reconnect(later, client)
    job.submit(1, first=0, again=True, bodies=[BODY])
    assert list(worker.leased(job, 0, 1).body_sizes) == [BODY]


def test_worker_that_does_not_come_back_loses_its_leases_after_the_grace() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    worker.leased(job, 0, 1)
    later = star.killed()
    later.wait(9.0)
    other = later.worker(name="other")
    assert said(later, Assign) == 0
    later.wait(2.0)
    other.leased(job, 0, 1, attempt=2)


def test_deaths_are_remembered_over_a_restart() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    for attempt in (1, 2):
        worker.result([worker.leased(job, 0, 1, attempt=attempt).lease], Status.CRASHED, head=b"signal 11")
    later = star.killed()
    later.wait(11.0)  # the worker does not come back: it had been given the suspect for the third time
    reconnect(later, client)
    client.outcome(job, [0], Status.CRASHED, head=None)


def test_cancelled_and_forgotten_stay_so() -> None:
    star = JournaledStar()
    client = star.client()
    job, other = client.job(), client.job()
    job.submit(2)
    client.cancel(job, [0, 1])
    client.outcome(job, [0, 1], Status.CANCELLED, head=b"")
    client.say(Forget(job.number))
    other.submit(1)
    client.cancel(other, [0])
    later = star.killed()
    later.worker()
    assert said(later, Assign) == 0
    reconnect(later, client)
    client.outcome(other, [0], Status.CANCELLED, head=b"")
    assert [row["client"] for row in later.status()["jobs"]] == [client.name]


def test_session_that_ended_is_gone() -> None:
    star = JournaledStar()
    client = star.client()
    client.job().submit(3)
    client.goodbye()
    assert comes_to(star.recovered())["clients"] == {}
    later = star.killed()
    assert not later.client(session=client.session, name=client.name).welcome.resumed


def test_manager_after_manager_begins_its_leases_further_on() -> None:
    star = JournaledStar()
    job = star.client().job()
    job.submit(3)
    last = 0
    for number in range(3):
        star = star.killed()
        worker = star.worker(name=f"worker of manager {number}")
        lease = star.take(Assign, worker).lease
        assert lease >> 32 > last >> 32
        worker.result([lease])
        worker.goodbye()
        last = lease


# -- a full disk -------------------------------------------------------------------------------------------------


def test_new_tasks_are_refused_with_the_reason_and_old_ones_are_served() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1).lease
    star.fail()
    job.submit(1)
    outcome = client.outcome(job, [1], Status.UNRUNNABLE, head=None)
    assert b"the manager's journal cannot be written: No space left on device" in bytes(outcome.heads)
    worker.result([lease])
    client.outcome(job, [0])
    star.expect(Confirm(array("Q", [lease])), worker)
    assert star.status()["journal"]["failure"]


def test_tasks_that_were_refused_and_are_said_again_are_refused_once() -> None:
    """The client had not heard of it when its link broke; what it hears now counts for what it says again."""
    star = JournaledStar()
    client = star.client()
    job = client.job()
    star.fail()
    job.submit(3)
    told = star.take(Outcome, client)
    client.lose()
    client.connect()
    assert star.take(Outcome, client).sequence == told.sequence
    job.submit(4, first=0, again=True)
    client.outcome(job, [3], Status.UNRUNNABLE, head=None)
    assert star.all(Outcome, client) == []


def test_refusal_of_a_whole_batch_fits_one_message_however_long_the_reason() -> None:
    star = JournaledStar()
    client = star.client()
    job = client.job()
    star.fail("No space left on device (/" + 100 * "deep/" + ")")
    job.submit(BATCH_TASKS_MAX)
    outcome = star.take(Outcome, client)
    assert len(codec.encode(outcome)) and len(outcome.head_sizes) == BATCH_TASKS_MAX
    assert bytes(outcome.heads).startswith(b"the manager's journal cannot be written: No space left on device")


def test_what_was_held_is_said_when_the_disk_fails() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    job.submit(1)
    star.syncing = False
    worker.result([worker.leased(job, 0, 1).lease])
    star.fail()
    client.outcome(job, [0])


def test_segment_with_all_that_is_so_makes_an_end_of_it() -> None:
    star = JournaledStar()
    client = star.client()
    job = client.job()
    star.fail()
    other = client.job()
    job.submit(1)
    star.take(Outcome, client)
    star.syncing = False
    star.feed(Renew())
    again = client.job()  # said between the two: it stands behind what the segment begins with
    star.sync()
    again.submit(2)
    star.sync()
    assert star.status()["journal"]["failure"] == ""
    later = star.killed()
    later.worker(slots=2).leased(again, 0, 2)
    assert {other.number, again.number} <= {row["job"] for row in later.status()["jobs"]}


def test_disk_that_fails_again_while_it_is_tried_refuses_on() -> None:
    star = JournaledStar(syncing=False)
    client = star.client()
    job = client.job()
    star.fail()
    star.feed(Renew())
    star.fail()
    job.submit(1)
    client.outcome(job, [0], Status.UNRUNNABLE, head=None)


# -- every moment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [(), (BODY, 0, BODY)])
def test_manager_may_die_after_any_record(bodies: tuple[int, ...]) -> None:
    """Whatever is on disk makes a star whose books are in order, and in which the client gets all it waits for."""
    star = JournaledStar()
    worker, client = star.worker(slots=3), star.client()
    job = client.job(retries=1)
    job.submit(3, bodies=bodies)
    job.submit(4)
    assigns = star.all(Assign, worker)
    leases = [assign.lease + at for assign in assigns for at in range(len(assign.head_sizes))]
    worker.result(leases[:1])
    worker.result(leases[1:2], Status.RAISED)
    worker.result(leases[2:3], Status.CRASHED, head=b"signal 9")
    client.cancel(job, [6])
    outcomes = star.all(Outcome, client)
    client.say(Ack(array("Q", [outcome.sequence for outcome in outcomes[:1]])))
    for records in range(len(star.frames) + 1):
        later = star.killed(records)
        later.core.check()
        assert comes_to(later.recovered())["tasks"] == comes_to(star.recovered(records))["tasks"]
        finish(later, client, job, bodies)


def finish(star: JournaledStar, client: Any, job: JobSide, bodies: tuple[int, ...]) -> None:
    """Come back as this client, and have everything run."""
    worker = star.worker(slots=8, session=b"another worker!!", name="another")
    again = star.client(session=client.session, name=client.name, identity=client.identity)
    again.say(job.message)
    star.wait(11.0)
    for _ in range(4):
        star.all(Confirm, worker)
        for outcome in star.all(Outcome, again):
            again.ack(outcome)
        for first, tasks, sizes in ((0, 3, bodies), (3, 4, ())):
            JobSideAgain(again, job).submit(tasks, first=first, again=True, bodies=sizes)
        for assign in star.all(Assign, worker):
            count = len(assign.head_sizes)
            column = array("Q", range(assign.lease, assign.lease + count))
            worker.say(Result(column, bytes(count), array("d", [0.0]) * count, array("I", bytes(4 * count))))
    star.core.check()


class JobSideAgain(JobSide):
    """A job of before, said by its client on a new link."""

    def __init__(self, client: Any, job: JobSide) -> None:
        self.client, self.number, self.digest, self.message, self._next = client, job.number, job.digest, job.message, 0


def test_manager_that_gave_out_very_many_leases_is_followed_by_one_that_begins_behind_them() -> None:
    star = JournaledStar()
    worker, client = star.worker(), star.client()
    job = client.job()
    star.core._leases._next += 3 << LEASE_BITS
    job.submit(1)
    leased = worker.leased(job, 0, 1)
    worker.finish(leased)
    client.outcome(job, [0])
    star.feed(Renew())
    assert star.killed().core._leases._next > leased.lease
