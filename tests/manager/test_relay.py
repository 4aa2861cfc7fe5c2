"""The data plane: chunks in, chunks out, windows, seeks, and links that are lost."""

from __future__ import annotations

from typing import Any

import pytest

from starcore.errors import OverrunError
from starcore.events import ChunkReceived, Drop, Send, SendChunk
from starcore.manager.flows import Flow
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Relay
from starcore.messages import CHUNK_BYTES_MAX, Abort, Grant
from starcore.pace import CHUNK_BYTES_AMONG, CHUNK_BYTES_FIRST

from .star import Counted

SOURCE, SINK, OTHER = 1, 2, 3


class Plane:
    """A relay with a source's and a sink's link, and the flows that it should know."""

    def __init__(self, window: int = 1000, link: int = 4000, first_window: int = 0) -> None:
        self.outbox = Outbox()
        limits = Limits(relay_window_bytes=window, relay_link_bytes=link, first_window_bytes=first_window)
        self.relay = Relay(self.outbox, limits)
        self.flows: list[Flow] = []
        for number in (SOURCE, SINK, OTHER):
            self.relay.open_link(number, 0)

    def flow(self, size: int, stream: int = 7, *, aimed: bool = True) -> Flow:
        flow = Flow(size, source_stream=stream)
        self.flows.append(flow)
        self.relay.expect(flow, SOURCE)
        if aimed:
            self.relay.aim(flow, SINK, 100 + stream, 1)
        return flow

    def chunk(self, offset: int, length: int, stream: int = 7, attempt: int = 1, token: Any = None) -> None:
        self.relay.chunk(ChunkReceived(SOURCE, stream, attempt, offset, length, token))

    def grant(self, offset: int, count: int, stream: int = 7, attempt: int = 1) -> None:
        self.relay.grant(SINK, Grant(100 + stream, attempt, offset, count))

    def said(self) -> list[Any]:
        self.relay.check(self.flows)
        actions = self.outbox.take()
        return [action.message if isinstance(action, Send) else action for action in actions]


def sent(offset: int, length: int, stream: int = 7, token: Any = None) -> SendChunk:
    return SendChunk(SINK, 100 + stream, 1, offset, length, token)


def test_chunk_leaves_at_once_in_the_buffer_that_it_came_in():
    plane = Plane()
    plane.flow(300)
    plane.grant(0, 300)
    assert plane.said() == [Grant(7, 1, 0, 300)]
    token = bytearray(300)
    plane.chunk(0, 300, token=token)
    chunk, dropped = plane.said()
    assert chunk.token is token
    assert dropped == Drop(token)
    assert plane.relay.held_bytes == 0


def test_blocked_link_holds_the_chunks_and_gets_all_that_it_takes_when_it_is_writable():
    plane = Plane()
    plane.flow(300)
    plane.grant(0, 300)
    plane.relay.blocked(SINK)
    for offset in (0, 100, 200):
        plane.chunk(offset, 100)
    assert plane.said() == [Grant(7, 1, 0, 300)]
    assert plane.relay.held_bytes == 300
    plane.relay.writable(SINK)
    assert plane.said() == [sent(offset, 100) for offset in (0, 100, 200)]
    plane.relay.writable(SINK)
    assert plane.said() == []


def test_small_task_makes_the_chunks_of_its_link_small():
    size = 64 * CHUNK_BYTES_AMONG
    plane = Plane(window=size, link=size)
    plane.flow(size)
    plane.grant(0, size)
    for offset in range(0, 4 * CHUNK_BYTES_MAX, CHUNK_BYTES_MAX):
        plane.chunk(offset, CHUNK_BYTES_MAX)
        plane.relay.writable(SINK)
    assert max(each.length for each in plane.said() if isinstance(each, SendChunk)) > CHUNK_BYTES_AMONG
    plane.relay.among(SINK)
    plane.relay.among(OTHER)  # which carries no chunks
    for _ in range(3):
        plane.relay.writable(SINK)
    assert {chunk.length for chunk in plane.said()} == {CHUNK_BYTES_AMONG}


def test_link_is_given_no_more_than_its_pace_at_a_time():
    plane = Plane(window=2 * CHUNK_BYTES_FIRST, link=2 * CHUNK_BYTES_FIRST)
    plane.flow(2 * CHUNK_BYTES_FIRST)
    plane.grant(0, 2 * CHUNK_BYTES_FIRST)
    plane.relay.blocked(SINK)
    piece = CHUNK_BYTES_FIRST // 4
    for offset in range(0, 2 * CHUNK_BYTES_FIRST, piece):
        plane.chunk(offset, piece)
    plane.said()
    plane.relay.writable(SINK)
    assert plane.said() == [sent(offset, piece) for offset in range(0, CHUNK_BYTES_FIRST, piece)]


def test_streams_of_a_link_take_turns():
    plane = Plane()
    for stream in (7, 8):
        plane.flow(200, stream)
        plane.grant(0, 200, stream)
    plane.said()
    plane.relay.blocked(SINK)
    for stream in (7, 8):
        plane.chunk(0, 100, stream)
        plane.chunk(100, 100, stream)
    order = []
    for _ in range(4):
        plane.relay.writable(SINK)
        order += [action.stream for action in plane.said()]
    assert order == [107, 108, 107, 108]


def test_source_is_asked_for_a_window_ahead_of_what_was_forwarded():
    plane = Plane(window=1000)
    plane.flow(5000)
    plane.grant(0, 5000)
    assert plane.said() == [Grant(7, 1, 0, 1000)]
    plane.chunk(0, 200)
    assert plane.said() == [sent(0, 200)]  # too little room for a new grant
    plane.relay.writable(SINK)
    plane.chunk(200, 200)
    assert plane.said() == [sent(200, 200), Grant(7, 1, 400, 1000)]


def test_grant_of_the_sink_cuts_a_chunk():
    plane = Plane()
    plane.flow(300, aimed=True)
    plane.grant(0, 300)
    plane.relay.unaim(plane.flows[0])
    token = object()  # the core never looks inside
    plane.chunk(0, 300, token=token)
    plane.said()
    plane.relay.aim(plane.flows[0], SINK, 107, 1)
    plane.grant(0, 100)
    (first,) = plane.said()
    assert (first.offset, first.length, first.start) == (0, 100, 0)
    plane.grant(100, 200)
    plane.relay.writable(SINK)
    second, dropped = plane.said()
    assert (second.offset, second.length, second.start) == (100, 200, 100)
    assert first.token is second.token is token
    assert dropped == Drop(token)


def test_stale_chunks_are_dropped():
    plane = Plane()
    plane.flow(300)
    plane.chunk(0, 100, stream=9, token=b"unknown")
    plane.chunk(0, 100, attempt=2, token=b"attempt")
    plane.relay.chunk(ChunkReceived(99, 7, 1, 0, 100, b"link"))
    assert plane.said() == [Drop(b"unknown"), Drop(b"attempt"), Drop(b"link")]


def test_source_that_overruns_its_grants_is_at_fault():
    plane = Plane()
    plane.flow(300)
    plane.grant(0, 100)
    with pytest.raises(OverrunError):
        plane.chunk(0, 101)


def test_first_window_comes_unasked_and_waits_for_its_sink():
    plane = Plane(first_window=100)
    flow = plane.flow(300, aimed=False)
    plane.chunk(0, 100)
    assert plane.said() == []
    assert plane.relay.held_bytes == 100
    plane.relay.aim(flow, SINK, 107, 1)
    plane.grant(0, 300)
    assert plane.said() == [sent(0, 100), Grant(7, 1, 100, 200)]


def test_sink_that_comes_back_goes_on_where_it_was():
    plane = Plane()
    flow = plane.flow(300)
    plane.grant(0, 300)
    plane.chunk(0, 100)
    plane.said()
    plane.relay.close_link(SINK)
    plane.relay.open_link(SINK, 0)
    plane.relay.aim(flow, SINK, 107, 1)
    plane.chunk(100, 100)
    plane.grant(100, 200)
    assert plane.said() == [sent(100, 100)]


def test_sink_that_asks_for_what_has_left_makes_the_source_begin_its_next_attempt():
    plane = Plane()
    flow = plane.flow(300)
    plane.grant(0, 300)
    plane.chunk(0, 200, token=b"1" * 200)
    plane.said()
    plane.relay.unaim(flow)
    plane.relay.aim(flow, OTHER, 200, 2)
    plane.relay.grant(OTHER, Grant(200, 2, 0, 300))
    assert plane.said() == [Grant(7, 2, 0, 300)]
    plane.chunk(200, 100, attempt=1, token=b"late")
    assert plane.said() == [Drop(b"late")]
    plane.chunk(0, 300, attempt=2)
    assert plane.said() == [SendChunk(OTHER, 200, 2, 0, 300, None)]


def test_what_was_not_forwarded_to_a_lost_sink_serves_the_next_one():
    plane = Plane(first_window=300)
    flow = plane.flow(300)
    plane.chunk(0, 300)
    plane.relay.close_link(SINK)
    assert plane.relay.held_bytes == 300
    plane.relay.aim(flow, OTHER, 200, 2)
    plane.relay.grant(OTHER, Grant(200, 2, 0, 300))
    assert SendChunk(OTHER, 200, 2, 0, 300, None) in plane.said()


def test_lost_source_goes_on_when_it_is_back():
    plane = Plane()
    flow = plane.flow(300)
    plane.grant(0, 300)
    plane.chunk(0, 100)
    plane.said()
    plane.relay.close_link(SOURCE)
    plane.relay.writable(SINK)
    assert plane.said() == []
    plane.relay.open_link(SOURCE, 0)
    plane.relay.expect(flow, SOURCE, window=False)
    assert plane.said() == [Grant(7, 1, 100, 200)]


def test_ended_flow_leaves_nothing():
    plane = Plane(first_window=300)
    flow = plane.flow(300)
    plane.chunk(0, 200, token=b"x" * 200)
    plane.relay.end(flow)
    assert plane.said() == [Drop(b"x" * 200)]
    assert plane.relay.held_bytes == 0
    assert plane.relay.inbound(SOURCE, 7) is None
    assert plane.relay.outbound(SINK, 107) is None


def test_flows_into_one_link_share_its_budget_and_the_thirsty_wait():
    plane = Plane(window=1000, link=2000)
    for stream in range(7, 12):
        plane.flow(1000, stream)
        plane.grant(0, 1000, stream)
    assert plane.said() == [Grant(7, 1, 0, 1000), Grant(8, 1, 0, 1000)]
    plane.chunk(0, 1000, 7)
    assert plane.said() == [sent(0, 1000, 7), Grant(9, 1, 0, 1000)]
    plane.relay.end(plane.flows[1])
    assert plane.said() == [Grant(10, 1, 0, 1000)]
    plane.relay.close_link(SINK)
    assert plane.said() == []


def test_chunk_costs_no_look_at_all_the_bodies_that_its_link_is_to_get():
    plane = Plane(window=1000, link=2000)
    port = plane.relay._ports[SINK]
    port.outbound = bodies = Counted()
    for stream in range(10, 110):
        plane.flow(1000, stream)
        plane.grant(0, 1000, stream)
    for stream in range(10, 110):
        plane.chunk(0, 1000, stream)
        plane.relay.writable(SINK)
    assert bodies.looks == 0
    assert all(flow.forwarded for flow in plane.flows)


def test_bytes_that_came_unasked_and_find_no_memory_do_not_hold_up_a_body_that_has_some():
    """The sink had no room for the one before the other was through, and the other was not asked for."""
    plane = Plane(window=1000, link=1000, first_window=3000)
    early = plane.flow(3000, 7, aimed=False)
    for offset in range(0, 3000, 1000):
        plane.chunk(offset, 1000, 7)
    plane.relay.aim(early, SINK, 107, 1)
    plane.flow(500, 8)
    plane.grant(0, 500, 8)
    assert Grant(8, 1, 0, 500) in plane.said()
    plane.chunk(0, 500, 8)
    assert plane.said() == [sent(0, 500, 8)]


def test_kept_flow_is_pulled_whole_and_lent_to_many():
    plane = Plane(window=1000)
    kept = plane.flow(1500, aimed=False)
    plane.relay.keep(kept)
    assert plane.said() == [Grant(7, 1, 0, 1000)]
    plane.chunk(0, 1000, token=b"a" * 1000)
    assert plane.said() == [Grant(7, 1, 1000, 500)]
    plane.chunk(1000, 500, token=b"b" * 500)
    plane.relay.close_source(kept)
    for link in (SINK, OTHER):
        lent = plane.relay.lend(kept, link, 50)
        plane.flows.append(lent)
        plane.relay.grant(link, Grant(50, 1, 0, 1500))
        plane.relay.writable(link)
        assert [chunk.length for chunk in plane.said()] == [1000, 500]
        assert plane.relay.outbound(link, 50) is None
    assert plane.relay.held_bytes == 1500
    plane.relay.end(kept)
    assert plane.said() == [Drop(b"a" * 1000), Drop(b"b" * 500)]
    assert plane.relay.held_bytes == 0


def test_grant_for_a_stream_or_attempt_that_is_over_says_nothing():
    plane = Plane()
    plane.flow(300)
    plane.grant(0, 300, attempt=2)
    plane.grant(0, 300, stream=50)
    assert plane.said() == []


def test_aborted_flow_is_over_at_both_ends():
    plane = Plane()
    flow = plane.flow(300)
    plane.relay.abort(flow, 10, "gone")
    assert plane.said() == [Abort(7, 1, 10, "gone"), Abort(107, 1, 10, "gone")]


def test_link_that_is_lost_may_have_read_several_values_of_one_source():
    """The first value's bytes make room for the second one, whose reader is gone as well."""
    plane = Plane(link=1000)
    values = [Flow(3000, source_stream=stream, spread=True) for stream in (7, 8)]
    for value in values:
        plane.flows.append(value)
        plane.relay.expect(value, SOURCE, window=False)
        plane.flows.append(plane.relay.read(value, SINK, 100 + value.source_stream))
        plane.grant(0, 3000, value.source_stream)
    assert plane.said() == [Grant(7, 1, 0, 1000)]
    plane.relay.blocked(SINK)
    plane.chunk(0, 1000)
    plane.relay.close_link(SINK)
    plane.flows[:] = values
    plane.said()
    assert plane.relay.held_bytes == 0


@pytest.mark.parametrize("left", [0, 100, 240, 260])
def test_bytes_that_a_sink_has_no_memory_for_do_not_hold_up_those_that_it_has(left: int) -> None:
    """Also where they leave the link's budget a little, but less than is worth a grant."""
    plane = Plane(window=1000, link=4000, first_window=4000 - left)
    first = plane.flow(4500, stream=7, aimed=False)
    plane.chunk(0, 4000 - left, stream=7)
    plane.relay.aim(first, SINK, 107, 1)
    plane.flow(3000, stream=8)
    plane.said()
    plane.grant(0, 3000, stream=8)
    asked = plane.said()
    got = 0
    while got < 3000:
        limit = max((each.offset + each.count for each in asked if isinstance(each, Grant)), default=got)
        assert limit > got, f"it stops at {got}"
        plane.chunk(got, limit - got, stream=8)
        plane.relay.writable(SINK)
        got = limit
        asked = plane.said()
