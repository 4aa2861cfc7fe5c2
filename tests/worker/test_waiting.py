"""A worker whose star does not exist yet: what it waits for, what it does not, and how it leaves."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import pytest

from starcore.errors import CredentialsError, UnconfiguredError
from starcore.worker.departure import Lifetime
from starcore.worker.waiting import LOOK_SECONDS, wait_for_star


class Place:
    """Says where the manager is, after some looks."""

    def __init__(self, looks: int, *, may_come: bool = True) -> None:
        self.looks, self.may_come, self.looked = looks, may_come, 0

    def __call__(self) -> Any:
        self.looked += 1
        if self.looked <= self.looks:
            error = UnconfiguredError("nothing says where")
            error.may_come = self.may_come
            raise error
        return "there"


def test_manager_that_is_known_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    lifetime = Lifetime(9.0, 1.0)
    assert wait_for_star(Place(0), patient=True, lifetime=lifetime) == (True, lifetime)
    assert not caplog.records


def test_manager_that_may_come_is_waited_for_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(3)
    with caplog.at_level(logging.WARNING, "starcore.worker"):
        assert wait_for_star(place, patient=True) == (True, None)
    assert place.looked == 4
    (record,) = caplog.records
    assert "waiting for a manager" in record.getMessage() and "--join" in record.getMessage()


@pytest.mark.parametrize(("patient", "may_come"), [(False, True), (True, False)])
def test_what_no_manager_here_would_change_is_an_error(patient: bool, may_come: bool) -> None:
    with pytest.raises(UnconfiguredError, match="nothing says where"):
        wait_for_star(Place(1, may_come=may_come), patient=patient)


def test_what_appears_and_is_wrong_is_an_error() -> None:
    place = Place(1)

    def resolve() -> Any:
        if place.looked:
            raise CredentialsError("the certificate expired")
        return place()

    with pytest.raises(CredentialsError, match="expired"):
        wait_for_star(resolve, patient=True)


def test_waiting_takes_from_the_time_that_the_worker_has() -> None:
    began = time.monotonic()
    there, left = wait_for_star(Place(2), patient=True, lifetime=Lifetime(3.0, 2.9))
    waited = time.monotonic() - began
    assert there and left is not None
    assert 3.0 - waited <= left.seconds <= 3.0 - 2 * LOOK_SECONDS
    assert left.drain_before_seconds <= left.seconds
    assert wait_for_star(Place(99), patient=True, lifetime=Lifetime(0.1, 0.1))[0] is False


def test_waiting_ends_with_the_lifeline() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert wait_for_star(Place(99), patient=True, lifeline=reading)[0] is False
    os.close(reading)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_worker_that_waits_has_nothing_to_drain_and_leaves_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    began = time.monotonic()
    assert wait_for_star(Place(999), patient=True)[0] is False
    assert time.monotonic() - began < 2
    assert signal.getsignal(number) is before


def test_thread_waits_too() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(wait_for_star(Place(1), patient=True)))
    thread.start()
    thread.join(5)
    assert found == [(True, None)]
