"""The manager among liars: it stands, they are shown the door, and the honest get their work done."""

from __future__ import annotations

import os
import random

import pytest

from starcore.client.orders import Shutdown
from starcore.events import SendChunk
from starcore.messages import Goodbye, Message, Role

from .generators import Liar
from .world import Guest, HonestClient, HonestWorker, World

SEEDS = int(os.environ.get("STARCORE_HOSTILE_SEEDS", "4"))
BASE = int(os.environ.get("STARCORE_HOSTILE_BASE", "0"))
STEPS = 150
LARGE = bytes(range(256)) * 300


class Hostile(Guest):
    """A peer that says what comes to its mind, and comes back when it is shown the door."""

    def __init__(self, world: World, role: Role, liar: Liar, name: str) -> None:
        self.world, self.role, self.liar, self.name = world, role, liar, name
        self.link = 0
        self.chunks = 0

    def step(self) -> None:
        """Do something."""
        rng, world = self.liar.rng, self.world
        if not self.link:
            self.link = world.connect(self)
            hello = self.liar.hello()
            world.say(self.link, hello)
            self.liar.sessions.append(hello.session)
            del self.liar.sessions[:-5]
        elif rng.random() < 0.02:
            world.cut(self.link)
        elif rng.random() < 0.15:
            world.push(self.link, *self.liar.chunk())
        else:
            world.say(self.link, self.liar.say())

    def hear(self, link: int, message: Message) -> None:
        self.liar.heard(message)

    def hear_chunk(self, link: int, chunk: SendChunk) -> None:
        self.chunks += 1

    def lost(self, link: int) -> None:
        if link == self.link:
            self.link = 0


def live(seed: int, *roles: Role) -> tuple[World, list[HonestClient]]:
    """Put liars of these roles beside honest peers, let all of them talk, then show the liars out."""
    rng = random.Random(seed)
    world = World()
    workers = [HonestWorker(world, f"worker{at}") for at in range(2)]
    clients = [HonestClient(world, f"client{at}") for at in range(2)]
    jobs = [(client, client.job(), client.job(LARGE), client.job(registered=True)) for client in clients]
    world.run()
    sessions = [honest.core._hello.session for honest in (*workers, *clients)]
    digests = [bytes(digest) for digest in world.core._blobs._blobs]
    liars = []
    for at, role in enumerate(roles):
        liar = Liar(rng, role, range(7 << 32, (7 << 32) + 60), sessions, digests)
        liars.append(Hostile(world, role, liar, f"liar{at}"))
    for step in range(STEPS):
        for liar in liars:
            liar.step()
        if step % 10 == 5 and step < STEPS - 50:
            for client, *numbers in jobs:
                body = bytes(rng.randrange(256) for _ in range(8)) * rng.choice((0, 1, 100, 9000))
                client.call(rng.choice(numbers), step * 10, rng.randrange(1, 9), body)
        if rng.random() < 0.7:
            world.run()
        if rng.random() < 0.2:
            world.wait(rng.choice((0.01, 0.3, 3.0)))
        if step % 40 == 39 and rng.random() < 0.5:
            world.cut(rng.choice([*workers, *clients]).link)
    world.run()
    for liar in liars:
        if liar.link:
            world.say(liar.link, Goodbye(0, "\nenough"))
    world.run()
    world.wait(20.0)
    for client in clients:
        assert not client.faults
    for worker in workers:
        assert not worker.faults
    return world, clients


def require_empty(world: World, clients: list[HonestClient]) -> None:
    """Nothing is kept of a session that is over."""
    for client in clients:
        client.feed(Shutdown(abandon=True))
    world.wait(400.0)
    status = world.core.status(world.now)
    assert status["clients"] == [] and status["jobs"] == [] and status["held_bytes"] == 0, status
    core = world.core
    assert not [lane for lane in core._scheduler._lanes.values() if lane.lines]
    assert len(core._sessions.clients) == 0
    assert len(core._timers) < 50, len(core._timers)


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_clients_that_lie_harm_nobody_else(seed: int) -> None:
    world, clients = live(seed, Role.CLIENT, Role.CLIENT)
    for client in clients:
        client.require_all()
    require_empty(world, clients)


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_workers_that_lie_leave_every_task_with_an_outcome(seed: int) -> None:
    world, clients = live(seed, Role.WORKER, Role.WORKER)
    for client in clients:
        assert client.got.keys() == client.heads.keys()
    require_empty(world, clients)


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_liars_of_both_kinds_who_know_each_other(seed: int) -> None:
    world, clients = live(seed, Role.CLIENT, Role.WORKER, Role.CLIENT)
    for client in clients:
        assert client.got.keys() == client.heads.keys()
    require_empty(world, clients)
