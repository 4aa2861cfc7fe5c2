"""Who reads stored jobs: told in order, as fast as they read, each for itself. See test_store.py for the whole way."""

from __future__ import annotations

from manager.star import Star, settle
from manager.test_store import attach, detached, owner, told
from starcore.messages import Forget, Outcome


def test_reader_that_ends_leaves_the_others_and_what_is_told_alone():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    one, other = owner(star), owner(star)
    first, second = attach(one, 2), attach(other, 2)
    worker.finish(worker.leased(count=1))
    told(one, first, [0], ack=False)
    one.say(Forget(first))
    assert not [
        reading for reading in star.core._store._readings._told.values() if reading[0].job.client.name == one.name
    ]
    told(other, second, [0])
    worker.finish(worker.leased(count=1))
    assert star.all(Outcome, one) == []
    told(other, second, [1])
    settle(star)
    star.quiet()


def test_reader_that_comes_after_others_is_told_from_the_beginning():
    star = Star()
    worker, client = star.worker(slots=1), owner(star)
    detached(client, 2)
    early = owner(star)
    number = attach(early, 2)
    for index in range(2):
        worker.finish(worker.leased(count=1))
        told(early, number, [index])
    late = owner(star)
    number = attach(late, 2)
    told(late, number, [0])
    told(late, number, [1])
    settle(star)
    star.quiet()
