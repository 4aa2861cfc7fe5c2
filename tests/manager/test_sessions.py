"""Greetings, signs of life, and sessions that outlive their links."""

from __future__ import annotations

import json
from array import array

import pytest

from starcore.errors import Code
from starcore.events import Close, Received
from starcore.manager.sessions import BEAT_MOMENTS, Timer, Timers
from starcore.messages import (
    PROTOCOL_VERSION,
    STATUS_BYTES_MAX,
    Goodbye,
    Heartbeat,
    Hello,
    Role,
    StatusReply,
    StatusRequest,
    Want,
)
from starcore.messages import Job as JobMessage

from .star import EPOCH, Star, settle


def test_peers_are_welcomed_with_the_limits_and_the_size_of_the_star():
    star = Star()
    worker = star.worker(slots=3)
    client = star.client()
    assert (worker.welcome.resumed, worker.welcome.epoch) == (False, EPOCH)
    assert (client.welcome.workers, client.welcome.slots) == (1, 3)
    assert client.welcome.submit_bytes == star.limits.submit_bytes
    star.quiet()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"version": 2}, Code.VERSION, ["1", "2"]),
        ({"role": Role.CLIENT}, Code.ROLE, ["worker", "client"]),
        ({"slots": 0}, Code.UNEXPECTED, ["slots"]),
    ],
)
def test_greeting_that_cannot_be_accepted_is_refused_with_a_reason(changes, code, words):
    star = Star()
    link = star.open(Role.WORKER)
    hello = {"version": 1, "role": Role.WORKER, "session": bytes(16), "slots": 1, "python": "3.11"}
    star.feed(Received(link, Hello(**(hello | changes))))
    reason = star.closed(link, code)
    assert all(word in reason for word in words)
    star.quiet()


def test_first_message_that_is_no_greeting_closes_the_link():
    star = Star()
    link = star.open(Role.CLIENT)
    star.feed(Received(link, Heartbeat()))
    assert "HEARTBEAT" in star.closed(link, Code.UNEXPECTED)
    star.feed(Received(link, Heartbeat()))
    star.quiet()


def test_second_greeting_closes_the_link():
    star = Star()
    client = star.client()
    client.say(Hello(1, Role.CLIENT, client.session))
    star.closed(client, Code.UNEXPECTED)
    star.quiet()


def test_link_that_never_greets_is_closed():
    star = Star()
    link = star.open(Role.WORKER)
    star.wait(9.9)
    star.quiet()
    star.wait(0.2)
    star.closed(link, Code.SILENT)
    star.quiet()


def test_session_of_another_certificate_is_refused():
    star = Star()
    owner = star.client()
    thief = star.open(Role.CLIENT, identity="another")
    star.feed(Received(thief, Hello(1, Role.CLIENT, owner.session)))
    star.closed(thief, Code.ROLE)
    star.quiet()


def test_session_goes_on_under_a_renewed_certificate_of_the_same_name():
    star = Star()
    worker, client = star.worker(), star.client(name="laptop")
    job = client.job()
    job.submit(1)
    assign = worker.leased(job, 0, 1)
    client.lose()
    client.identity = client.fingerprint = "renewed"
    assert client.connect().resumed
    worker.finish(assign)
    client.outcome(job, [0])
    client.lose()
    client.name, client.identity, client.fingerprint = "another", "new", "renewed"
    assert client.connect().resumed, "what was renewed counts from then on"
    settle(star)
    star.quiet()


def test_hello_that_was_long_on_its_way_does_not_supersede_a_newer_link():
    """The dialer gave up the older link before it made the newer one, and would take SUPERSEDED for its end."""
    star = Star()
    client = star.client()
    late = star.open(Role.CLIENT, client.name, client.identity)
    client.connect()
    star.feed(Received(late, Hello(PROTOCOL_VERSION, Role.CLIENT, client.session, client.name)))
    star.closed(late, Code.SUPERSEDED)
    star.closed(1, Code.SUPERSEDED)
    job = client.job(blob=False)
    star.expect(Want(job.digest), client)
    star.quiet()


def test_goodbye_on_a_link_that_was_not_needed_any_more_is_no_fault():
    star = Star()
    link = star.open(Role.CLIENT)
    star.feed(Received(link, Goodbye(Code.NORMAL, "not needed any more")))
    star.closed(link, Code.NORMAL)
    star.quiet()


def test_new_link_of_a_session_supersedes_the_old_one():
    star = Star()
    worker, client = star.worker(), star.client()
    old_worker, old_client = worker.link, client.link
    job = client.job()
    job.submit(1)
    lease = worker.leased(job, 0, 1)
    assert worker.connect(leases=array("Q", [lease.lease])).resumed
    star.take(JobMessage, worker)
    assert client.connect().resumed
    star.closed(old_worker, Code.SUPERSEDED)
    star.closed(old_client, Code.SUPERSEDED)
    worker.finish(lease)
    client.outcome(job, [0])
    settle(star)
    star.quiet()


def test_silence_is_filled_with_heartbeats_and_a_silent_peer_is_closed():
    star = Star()
    client = star.client()
    for _ in range(3):
        star.wait(2.0)
        star.expect(Heartbeat(), client)
    star.quiet()
    star.wait(2.0)
    star.closed(client, Code.SILENT)
    star.all(Heartbeat, client)
    star.quiet()


def test_timers_of_one_time_are_due_together_and_in_the_order_in_which_they_were_set():
    timers = Timers()
    for when, subject in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (3.0, "d")):
        timers.set(when, Timer.LINK, subject)
    assert (len(timers), timers.next()) == (4, 1.0)
    assert timers.due(2.0) == [(Timer.LINK, "a"), (Timer.LINK, "b"), (Timer.LINK, "c")]
    assert (len(timers), timers.next()) == (1, 3.0)


def test_heartbeats_of_many_peers_leave_at_few_moments():
    star = Star()
    clients = []
    for _ in range(3 * BEAT_MOMENTS):
        star.wait(0.017)
        clients.append(star.client())
    for _ in range(12):
        star.wait(1.0)
        for client in clients:
            client.say(Heartbeat())
    assert len(star.core._timers) >= len(clients)
    assert len(star.core._timers._times) <= BEAT_MOMENTS, "a moment's times differ by a rounding error"


def test_heartbeat_before_the_greeting_is_out_of_place():
    star = Star()
    link = star.open(Role.CLIENT)
    star.feed(Received(link, Heartbeat()))
    assert "before HELLO" in star.closed(link, Code.UNEXPECTED)
    star.quiet()


def test_heartbeat_keeps_a_peer_that_says_nothing_else():
    star = Star()
    client = star.client()
    for _ in range(20):
        star.wait(1.0)
        client.say(Heartbeat())
    star.all(Heartbeat, client)
    star.quiet()


def test_peer_that_speaks_is_not_closed():
    star = Star()
    client = star.client()
    for _ in range(20):
        star.wait(1.0)
        client.say(Heartbeat())
    assert len(star.all(Heartbeat, client)) == 10
    star.quiet()


def test_what_was_sent_fills_the_silence():
    star = Star()
    client = star.client()
    star.wait(1.0)
    client.say(StatusRequest())
    star.take(StatusReply, client)
    star.wait(1.5)
    star.quiet()
    star.wait(0.6)
    star.expect(Heartbeat(), client)


def test_certificate_cannot_have_sessions_without_end():
    star = Star(certificate_sessions_max=3)
    for number in range(3):
        star.client(name=f"client{number}", identity="one").lose()
    star.client(name="another", identity="two")
    link = star.open(Role.CLIENT, "client3", "one")
    star.feed(Received(link, Hello(PROTOCOL_VERSION, Role.CLIENT, bytes(16))))
    star.closed(link, Code.OVERRUN)
    star.wait(star.limits.session_grace_seconds)
    star.client(name="client4", identity="one")


def test_one_timer_waits_for_a_session_however_often_it_comes_and_goes():
    star = Star()
    client = star.client()
    for _ in range(50):
        client.lose()
        client.connect()
    graces = [timer for due in star.core._timers._set.values() for timer, _ in due if timer is Timer.GRACE]
    assert len(graces) == 1


@pytest.mark.parametrize("hello", [{"slots": 1 << 17}, {"functions": [f"f:{at}" for at in range(2000)]}])
def test_worker_that_claims_too_much_is_refused(hello):
    star = Star()
    link = star.open(Role.WORKER)
    star.feed(Received(link, Hello(PROTOCOL_VERSION, Role.WORKER, bytes(16), **({"slots": 1} | hello))))
    assert [action for action in star.actions if isinstance(action, Close)]


def test_status_fits_its_message_whatever_there_is_to_tell():
    star = Star()
    for number in range(60):
        client = star.client(name=f"{number}" + "ü" * 9000)
        for _ in range(20):
            client.job(function="ü" * 9000)
    client.say(StatusRequest())
    reply = star.take(StatusReply, client)
    assert len(reply.text) <= STATUS_BYTES_MAX and json.loads(reply.text)["clients"]
