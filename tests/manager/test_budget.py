"""One sum for all bytes: how it is divided, and that no number of slow peers exceeds it or starves another."""

from __future__ import annotations

import random
from dataclasses import asdict, replace

import pytest

from starcore.errors import Status
from starcore.events import ChunkReceived, Send, SendChunk
from starcore.manager.budget import (
    BASE_BYTES,
    IDLE_BYTES_MAX,
    MEMORY_BYTES_MIN,
    SHARD_BYTES,
    WINDOW_BYTES_MIN,
    Budget,
    Credits,
    Shares,
    least_bytes,
)
from starcore.manager.core import ManagerCore
from starcore.manager.flows import Flow
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.relay import FLOORS_MIN, Relay
from starcore.messages import BLOB_STREAM, Abort, Blob, Grant, Want

from .star import Star, settle

MIB = 1 << 20
SIZE = 1 << 20


@pytest.mark.parametrize("memory", [MEMORY_BYTES_MIN, 256 * MIB, 4 << 30, 1 << 40])
def test_the_parts_and_the_process_itself_measure_less_than_the_whole(memory: int) -> None:
    budget = Budget.of(memory)
    parts = budget.relay_bytes + budget.window_bytes + budget.submit_bytes + 2 * budget.result_bytes + budget.blob_bytes
    assert BASE_BYTES + parts <= memory - (memory - BASE_BYTES) // 9
    limits = budget.limits(Limits())
    assert limits.relay_window_bytes <= budget.relay_bytes // 64
    assert limits.submit_bytes < budget.submit_bytes and limits.result_bytes < budget.result_bytes


@pytest.mark.parametrize("shards", [2, 3, 8, 64])
@pytest.mark.parametrize("more", [0, 256 * MIB, 16 << 30])
def test_shards_and_their_idle_cells_count_before_anything_is_divided(shards: int, more: int) -> None:
    memory = least_bytes(shards) + more
    budget = Budget.of(memory, shards)
    processes = BASE_BYTES + shards * (SHARD_BYTES + budget.idle_bytes)
    parts = budget.relay_bytes + budget.window_bytes + budget.submit_bytes + 2 * budget.result_bytes + budget.blob_bytes
    assert budget.base_bytes == processes
    assert budget.idle_bytes <= IDLE_BYTES_MAX
    assert budget.relay_bytes >= Budget.of(MEMORY_BYTES_MIN).relay_bytes
    assert processes + parts <= memory - (memory - processes) // 9


def test_a_large_machine_changes_no_limit() -> None:
    assert asdict(Budget.of(128 << 30).limits(Limits())) == asdict(Limits())
    assert asdict(Budget().limits(Limits())) == asdict(Limits())


def test_shares_shrink_as_they_are_taken_and_come_back() -> None:
    shares = Shares(1000, 10)
    taken = [shares.take(10_000) for _ in range(12)]
    assert taken[0] == 250
    assert taken == sorted(taken, reverse=True)
    assert sum(taken) < 1000
    for share in taken:
        shares.give(share)
    assert shares.left_bytes == 1000
    assert shares.take(7) == 7


def test_a_session_keeps_its_credit_until_it_is_over() -> None:
    credits = Credits(Budget.of(256 * MIB), Limits())
    first = credits.open(b"first")
    assert credits.open(b"second") < first == credits.open(b"first")
    for session in (b"first", b"second", b"second", b"never"):
        credits.close(session)
    assert len(credits) == 0
    assert credits.open(b"third") == first


@pytest.mark.parametrize("large", [True, False])
def test_function_that_finds_no_room_is_refused_and_costs_no_link(large: bool) -> None:
    star = Star()
    star.core = ManagerCore(7, star.limits, budget=replace(Budget(), blob_bytes=10_000))
    client = star.client()
    job = client.job(blob=False, code=bytes(10_001))
    job.submit(1)
    star.take(Want, client)
    client.say(Blob(job.digest, BLOB_STREAM | 1, 1 << 20) if large else Blob(job.digest, 0, 0, bytes(10_001)))
    outcome = client.outcome(job, [0], Status.UNRUNNABLE, head=None)
    assert b"client.put" in bytes(outcome.heads)


def test_function_that_a_lost_link_cut_off_has_room_when_it_is_sent_again() -> None:
    star = Star()
    star.core = ManagerCore(7, star.limits, budget=replace(Budget(), blob_bytes=3 << 20))
    client = star.client()
    job = client.job(blob=False, code=b"large")
    star.take(Want, client)
    for _ in range(2):
        client.say(Blob(job.digest, BLOB_STREAM | 1, 2 << 20))
        assert star.all(Grant, client) and not star.all(Abort, client)
        client.lose()
        client.connect()
    settle(star)


def test_credits_follow_sessions_that_come_and_go() -> None:
    star = Star()
    star.core = ManagerCore(7, star.limits, budget=Budget.of(256 * MIB))
    first = star.client()
    second = star.client()
    assert 0 < second.welcome.submit_bytes < first.welcome.submit_bytes < 96 * MIB
    second.goodbye()
    assert star.client().welcome.submit_bytes == second.welcome.submit_bytes
    first.lose()
    assert first.connect().submit_bytes == first.welcome.submit_bytes
    assert star.status()["memory_bytes"] == 256 * MIB
    assert BASE_BYTES <= star.status()["memory_used_bytes"] < 256 * MIB
    settle(star)
    star.quiet()


def test_first_windows_shrink_with_the_number_of_links() -> None:
    star = Star()
    star.core = ManagerCore(7, star.limits, budget=Budget.of(256 * MIB))
    windows = [star.worker(name=f"w{number}").welcome.first_window_bytes for number in range(300)]
    assert windows[0] == 1 * MIB
    assert sum(windows) <= Budget.of(256 * MIB).window_bytes + len(windows) * WINDOW_BYTES_MIN
    assert min(windows) > 0


class Plane:
    """A relay with a small budget: source 0 sends to many sinks, of which some read."""

    def __init__(self, budget: int, sinks: int, size: int) -> None:
        self.outbox = Outbox()
        self.budget = budget
        limits = Limits(relay_window_bytes=budget // 8, first_window_bytes=0)
        self.relay = Relay(self.outbox, limits, Budget(relay_bytes=budget, window_bytes=0))
        self.relay.open_link(1, 0)
        self.flows: dict[int, Flow] = {}
        self.read: dict[int, int] = {}
        for sink in range(2, 2 + sinks):
            self.relay.open_link(sink, 0)
            flow = self.flows[sink] = Flow(size, source_stream=sink)
            self.relay.expect(flow, 1, window=False)
            self.relay.aim(flow, sink, sink, 1)
            self.read[sink] = 0

    def start(self, sink: int) -> None:
        """The sink asks for all of it."""
        self.relay.grant(sink, Grant(sink, 1, 0, self.flows[sink].size))

    def turn(self, readers: set[int]) -> None:
        """The source sends all that it was asked for, and readers read all."""
        actions = self.outbox.take()
        while actions:
            for action in actions:
                if isinstance(action, Send) and isinstance(action.message, Grant):
                    grant = action.message
                    flow = self.flows[grant.stream]
                    length = grant.offset + grant.count - flow.end
                    if length > 0:
                        self.relay.chunk(ChunkReceived(1, grant.stream, 1, flow.end, length, None))
                elif isinstance(action, SendChunk):
                    self.read[action.link] += action.length
                    if action.link in readers:
                        self.relay.writable(action.link)
            self.relay.irrigate()
            self.relay.check(self.flows.values())
            floors = len(self.flows) * self.budget // FLOORS_MIN
            assert self.relay.held_bytes <= self.relay.promised_bytes <= self.budget + floors
            actions = self.outbox.take()


@pytest.mark.parametrize("idle", [0, 1, 3, 20, 100])
def test_sinks_that_do_not_read_exceed_no_budget_and_starve_nobody(idle: int) -> None:
    plane = Plane(1 << 20, idle + 2, SIZE)
    sinks = list(plane.flows)
    readers = set(sinks[idle:])
    for sink in sinks:
        plane.start(sink)
        plane.turn(readers)
    for _ in range(20):
        plane.turn(readers)
    assert {plane.read[sink] for sink in readers} == {SIZE}


def test_who_waited_goes_on_when_the_others_have_left() -> None:
    chance = random.Random(5)
    plane = Plane(1 << 20, 40, 2 << 20)
    for sink in plane.flows:
        plane.start(sink)
    plane.turn(set())
    assert plane.relay.promised_bytes > plane.budget // 2
    for sink in chance.sample(sorted(plane.flows), 30):
        plane.relay.close_link(sink)
        plane.relay.end(plane.flows.pop(sink))
        plane.turn(set())
    readers = set(plane.flows)
    for sink in readers:
        plane.relay.writable(sink)
        plane.turn(readers)
    assert {plane.read[sink] for sink in readers} == {2 << 20}
    assert plane.relay.promised_bytes == 0
