"""The same thing ten thousand times: tables are bounded while it lasts, and empty when its time is over."""

from __future__ import annotations

from starcore.client.orders import Shutdown
from starcore.events import Close, Lost, Opened, Peer, Received, Tick
from starcore.manager.core import Limits, ManagerCore
from starcore.messages import PROTOCOL_VERSION, Hello, Role, StatusRequest, Want

from .world import HonestClient, HonestWorker, World

FLOOD = 10_000


def hello(number: int) -> Hello:
    return Hello(PROTOCOL_VERSION, Role.CLIENT, number.to_bytes(16, "big"), name="x" * 9000)


def test_ten_thousand_sessions_of_one_certificate_are_bounded_and_forgotten() -> None:
    limits = Limits(certificate_sessions_max=1000)
    core = ManagerCore(7, limits)
    refused = 0
    for number in range(1, FLOOD + 1):
        core.handle(Opened(number, Peer(Role.CLIENT, "liar", "192.0.2.1:1", "one", "one")), 0.0)
        actions = core.handle(Received(number, hello(number)), 0.0)
        refused += any(type(action) is Close for action in actions)
        core.handle(Lost(number, "cut"), 0.0)
    assert refused == FLOOD - limits.certificate_sessions_max
    assert len(core._sessions.clients) == limits.certificate_sessions_max
    core.handle(Tick(), limits.session_grace_seconds + 1.0)
    core.check()
    assert not core._sessions.clients and not len(core._timers) and not core._relay._ports


def test_floods_of_requests_leave_nothing_behind_and_the_honest_served() -> None:
    world = World()
    worker, client = HonestWorker(world, "worker"), HonestClient(world, "client")
    job = client.job()
    world.run()
    client.call(job, 0, 20)
    for number in range(200):
        world.say(client.link, StatusRequest())
        world.say(worker.link, Want(number.to_bytes(32, "big")))
    world.wait(1.0)
    client.require_all()
    client.feed(Shutdown())
    world.wait(1.0)
    assert not world.core.status(world.now)["clients"]
