"""A worker whose manager lies: it hangs up, keeps its accounts, and serves the next manager."""

from __future__ import annotations

import random

import pytest

from starcore.events import ChunkReceived, Received, Tick
from starcore.messages import Role, Welcome

from .generators import Liar
from .test_manager import BASE, SEEDS
from .world import HonestWorker, through_the_wire

STEPS = 400
LEASES_MAX = 5000
JOBS_MAX = 2000


def mistreat(seed: int) -> HonestWorker:
    """Let a lying manager talk to a worker."""
    rng = random.Random(seed)
    worker = HonestWorker(None, "worker", slots=rng.choice((1, 2, 4)))
    liar = Liar(rng, Role.MANAGER, range(20))
    for _ in range(STEPS):
        if not worker.link:
            worker.dial()
        kind = rng.random()
        if kind < 0.02:
            worker.lost(worker.link)
            continue
        if kind < 0.1:
            worker.now += rng.choice((0.0, 0.01, 1.0, 10.0))
            deadline = worker.core.deadline()
            if deadline is not None and deadline <= worker.now:
                worker.feed(Tick())
        elif kind < 0.25:
            stream, attempt, offset, data = liar.chunk()
            stream = rng.choice([*worker.segments, stream])
            worker.land(stream, attempt, offset, data)
            worker.feed(ChunkReceived(worker.link, stream, attempt, offset, len(data)))
        else:
            message = liar.say()
            if not worker.core._uplink.up and rng.random() < 0.8:
                message = Welcome(1, 1, rng.random() < 0.5, first_window_bytes=1 << 20)
            worker.feed(Received(worker.link, through_the_wire(message)))
        for said in worker.said:
            liar.heard(said)
        worker.said.clear()
        if worker.finished:
            worker = HonestWorker(None, "worker")
    return worker


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_worker_survives_a_manager_that_lies_and_serves_the_next_one(seed: int) -> None:
    worker = mistreat(seed)
    leases = worker.core._leases()
    assert len(leases) < LEASES_MAX and len(worker.core._library.jobs) < JOBS_MAX
    if worker.link:
        worker.lost(worker.link)
    assert not worker.finished
    worker.dial()
    worker.feed(Received(worker.link, Welcome(1, 2, False)))
    assert not worker.core._leases() and not worker.answers
    assert worker.core._memory.used == sum(size for key, size in worker.core._memory._held.items() if key >> 63), (
        "memory that nobody will ask for again"
    )
