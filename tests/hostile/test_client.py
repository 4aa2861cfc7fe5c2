"""A client whose manager lies: it hangs up, keeps its accounts, and no call has two outcomes."""

from __future__ import annotations

import random

import pytest

from starcore.client import orders
from starcore.events import ChunkReceived, Received, Tick
from starcore.messages import Role, Welcome
from starcore.uplink import LinkState

from .generators import Liar
from .test_manager import BASE, LARGE, SEEDS
from .world import HonestClient, through_the_wire

STEPS = 400


def mistreat(seed: int) -> HonestClient:  # noqa: PLR0912
    """Let a lying manager talk to a client."""
    rng = random.Random(seed)
    client = HonestClient(None, "client", jobs_idle_max=3)
    liar = Liar(rng, Role.MANAGER, range(20))
    jobs = [client.job(), client.job(LARGE), client.job(registered=True)]
    indices = 0
    for _ in range(STEPS):
        if client.finished:
            break
        if not client.link:
            client.dial()
        kind = rng.random()
        if kind < 0.02:
            client.lost(client.link)
            continue
        if kind < 0.1:
            client.now += rng.choice((0.0, 0.01, 1.0, 10.0))
            deadline = client.core.deadline()
            if deadline is not None and deadline <= client.now:
                client.feed(Tick())
        elif kind < 0.2:
            stream, attempt, offset, data = liar.chunk()
            if client.landings and rng.random() < 0.7:
                (job, index), (attempt, _, _) = rng.choice(list(client.landings.items()))
                stream = job << 32 | index
            client.land(stream, attempt, offset, data)
            client.feed(ChunkReceived(client.link, stream, attempt, offset, len(data)))
        elif kind < 0.3:
            client.call(rng.choice(jobs), indices, rng.choice((1, 3, 50)), bytes(rng.choice((0, 0, 10, 70_000))))
            indices += 50
        elif kind < 0.33 and client.heads:
            job, index = rng.choice(list(client.heads))
            client.feed(orders.CancelCall(job, [index], rng.random() < 0.5))
        else:
            message = liar.say()
            if client.core._uplink.state is LinkState.GREETING and rng.random() < 0.8:
                message = Welcome(1, 1, rng.random() < 0.5, "", 1 << 20, rng.choice((0, 1000, 1 << 20)))
            client.feed(Received(client.link, through_the_wire(message)))
        for said in client.said:
            liar.heard(said)
        client.said.clear()
    return client


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_client_survives_a_manager_that_lies(seed: int) -> None:
    client = mistreat(seed)
    assert client.got.keys() <= client.heads.keys()
    if client.link:
        client.lost(client.link)
    assert len(client.core._answers._cut_off) <= len(client.heads)
    assert len(client.lines) < STEPS
