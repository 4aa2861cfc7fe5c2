"""The accounts of streams: what may be sent, what may come, and that both sides always agree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore.errors import OverrunError
from starcore.messages import CHUNK_BYTES_MAX, Grant
from starcore.pace import CHUNK_BYTES_AMONG, CHUNK_BYTES_FIRST, CHUNK_BYTES_MIN
from starcore.streams import TURNS, Receiving, Sending


def drain(sending: Sending, limit: int = CHUNK_BYTES_MAX) -> list[tuple[int, int, int, int]]:
    """Take every chunk that may be sent now."""
    return list(iter(lambda: sending.next(limit), None))


# -- sending -------------------------------------------------------------------------------------------------


def test_nothing_is_sent_unasked_without_a_first_window():
    sending = Sending()
    sending.open(7, 1, 100)
    assert sending.next() is None
    assert 7 in sending
    assert len(sending) == 1


def test_first_window_is_sent_unasked_and_shared_by_the_streams_of_a_link():
    sending = Sending(100)
    sending.open(1, 0, 70)
    sending.open(2, 0, 70)
    sending.open(3, 0, 70)
    assert drain(sending) == [(1, 0, 0, 70), (2, 0, 0, 30)]


def test_stream_opened_without_window_waits_for_its_grant():
    sending = Sending(100)
    sending.open(1, 0, 70, window=False)
    assert drain(sending) == []
    assert sending.grant(Grant(1, 0, 0, 70))
    assert drain(sending) == [(1, 0, 0, 70)]


def all_granted(sizes: list[int]) -> Sending:
    """Streams 1, 2, ... of these sizes, all of which may be sent."""
    sending = Sending()
    for stream, size in enumerate(sizes, 1):
        sending.open(stream, 0, size)
        sending.grant(Grant(stream, 0, 0, size))
    return sending


def test_body_with_the_fewest_bytes_to_go_comes_first():
    assert [stream for stream, *_ in drain(all_granted([9, 3]), limit=2)[:2]] == [2, 2]


def test_of_equal_bodies_the_one_that_has_begun_is_ended_first():
    sending = all_granted([6, 6])
    assert [stream for stream, *_ in drain(sending, limit=2)] == [1, 1, 1, 2, 2, 2]
    sending.check()


def test_large_body_is_not_starved_by_small_ones_without_end():
    sending = all_granted([1000])
    sent = 0
    for stream in range(2, 402):
        sending.open(stream, 0, 1)
        sending.grant(Grant(stream, 0, 0, 1))
        sending.check()
        first, *_ = sending.next(1) or (0,)
        sent += first == 1
    assert sent > 400 // TURNS // 5  # those that were passed over wait before it now and then


def test_line_of_bodies_that_are_asked_for_again_and_again_stays_short():
    sending = all_granted([50] * 3)
    for attempt in range(1, 500):
        sending.grant(Grant(1 + attempt % 3, attempt, attempt % 7, 50))
        sending.next(1)
        sending.check()


def test_chunks_grow_while_the_link_takes_them_at_once_and_shrink_when_it_does_not():
    sending = Sending()
    sending.open(1, 0, 1 << 30)
    sending.grant(Grant(1, 0, 0, 1 << 30))
    lengths = [piece[3] for now in (0.0, 0.001, 0.002, 0.003, 0.2, 0.4) for piece in sending.chunks(now)]
    first = CHUNK_BYTES_FIRST
    assert lengths == [first, 2 * first, 4 * first, 4 * first, 2 * first, first]


def test_chunks_are_small_while_small_tasks_pass_among_them():
    sending = Sending()
    sending.among(0.0)  # among nothing
    sending.open(1, 0, 1 << 30)
    sending.grant(Grant(1, 0, 0, 1 << 30))
    assert max(piece[3] for now in (0.0, 0.001, 0.002) for piece in sending.chunks(now)) > CHUNK_BYTES_AMONG
    sending.among(0.003)
    assert {piece[3] for now in (0.003, 0.004, 0.005) for piece in sending.chunks(now)} == {CHUNK_BYTES_AMONG}


def test_small_bodies_leave_several_at_a_time_and_grow_the_pace_together():
    small = CHUNK_BYTES_FIRST // 4
    sending = all_granted([small] * 14)
    counts = [len(list(sending.chunks(now))) for now in (0.0, 0.001, 0.002)]
    assert counts == [4, 8, 2]
    sending.check()


def test_what_is_left_of_a_pace_is_not_filled_with_a_scrap():
    sending = all_granted([CHUNK_BYTES_FIRST - CHUNK_BYTES_MIN + 1] * 2)
    assert len(list(sending.chunks(0.0))) == 1


def test_chunk_is_never_larger_than_a_frame_allows():
    sending = Sending()
    sending.open(1, 0, CHUNK_BYTES_MAX + 1)
    sending.grant(Grant(1, 0, 0, CHUNK_BYTES_MAX + 1))
    assert drain(sending) == [(1, 0, 0, CHUNK_BYTES_MAX), (1, 0, CHUNK_BYTES_MAX, 1)]


def test_grant_beyond_the_end_is_cut():
    sending = Sending()
    sending.open(1, 0, 10)
    sending.grant(Grant(1, 0, 4, 1 << 40))
    assert drain(sending) == [(1, 0, 4, 6)]


def test_grant_of_unknown_stream_or_older_attempt_is_refused():
    sending = Sending()
    assert not sending.grant(Grant(1, 0, 0, 10))
    sending.open(1, 3, 10)
    assert not sending.grant(Grant(1, 2, 0, 10))
    assert drain(sending) == []


def test_grant_of_a_later_attempt_begins_anew():
    sending = Sending(4)
    sending.open(1, 1, 10)
    assert drain(sending) == [(1, 1, 0, 4)]
    assert sending.grant(Grant(1, 2, 0, 3))
    assert drain(sending) == [(1, 2, 0, 3)]
    sending.open(2, 0, 10)
    assert drain(sending) == [(2, 0, 0, 4)]


def test_first_grant_gives_the_first_window_back():
    sending = Sending(4)
    sending.open(1, 0, 10)
    sending.grant(Grant(1, 0, 0, 10))
    sending.open(2, 0, 10)
    assert drain(sending) == [(1, 0, 0, 10), (2, 0, 0, 4)]


def test_grant_shorter_than_the_first_window_gives_back_only_what_it_covers():
    sending = Sending(4)
    sending.open(1, 0, 10)
    sending.grant(Grant(1, 0, 0, 3))
    sending.open(2, 0, 10)
    assert drain(sending) == [(1, 0, 0, 4), (2, 0, 0, 3)]


def test_sent_body_keeps_its_part_of_the_first_window_until_the_stream_is_closed():
    sending = Sending(4)
    sending.open(1, 0, 4)
    drain(sending)
    sending.open(2, 0, 4)
    assert drain(sending) == []
    assert sending.close(1)
    assert not sending.close(1)
    sending.open(3, 0, 4)
    assert drain(sending) == [(3, 0, 0, 4)]


def test_stream_opened_again_begins_anew_and_gives_back_what_it_held():
    sending = Sending(4)
    sending.open(1, 0, 10)
    sending.open(1, 1, 10)
    assert drain(sending) == [(1, 1, 0, 4)]
    sending.check()


def test_relay_sends_only_what_it_has():
    sending = Sending()
    sending.open(1, 0, 10, offered=0)
    sending.grant(Grant(1, 0, 0, 10))
    assert drain(sending) == []
    sending.offer(1, 3)
    assert drain(sending) == [(1, 0, 0, 3)]
    assert sending.position(1) == 3
    assert sending.granted(1) == 10
    sending.check()


# -- receiving -----------------------------------------------------------------------------------------------


def test_body_comes_within_its_grants():
    receiving = Receiving()
    receiving.open(1, 0, 10)
    assert receiving.grant(1, 6) == Grant(1, 0, 0, 6)
    assert receiving.take(1, 0, 0, 6)
    assert receiving.grant(1, 100) == Grant(1, 0, 6, 4)
    assert not receiving.complete(1)
    assert receiving.take(1, 0, 6, 4)
    assert receiving.complete(1)
    assert receiving.position(1) == 10
    assert receiving.granted(1) == 10


@pytest.mark.parametrize(("offset", "length"), [(0, 7), (1, 1), (6, 1)])
def test_chunk_outside_its_grant_is_an_overrun(offset, length):
    receiving = Receiving()
    receiving.open(1, 0, 10)
    receiving.grant(1, 6)
    with pytest.raises(OverrunError, match=r"stream 1: .* of \[0, 6\)"):
        receiving.take(1, 0, offset, length)


def test_chunk_beyond_the_body_is_an_overrun_even_within_the_first_window():
    receiving = Receiving(100)
    receiving.open(1, 0, 10)
    with pytest.raises(OverrunError):
        receiving.take(1, 0, 0, 11)


def test_first_window_bounds_what_comes_unasked_on_all_streams_together():
    receiving = Receiving(10)
    receiving.open(1, 0, 100)
    receiving.open(2, 0, 100)
    assert receiving.take(1, 0, 0, 6)
    assert receiving.take(2, 0, 0, 4)
    with pytest.raises(OverrunError):
        receiving.take(2, 0, 4, 1)


def test_nothing_comes_unasked_on_a_stream_opened_without_window():
    receiving = Receiving(10)
    receiving.open(1, 0, 100, window=False)
    with pytest.raises(OverrunError):
        receiving.take(1, 0, 0, 1)


@pytest.mark.parametrize("end", ["grant", "close", "open"])
def test_unasked_bytes_count_no_longer_after(end):
    receiving = Receiving(10)
    receiving.open(1, 0, 10)
    receiving.take(1, 0, 0, 10)
    if end == "grant":
        assert receiving.grant(1, 0) == Grant(1, 0, 10, 0)
    elif end == "close":
        assert receiving.close(1)
        assert not receiving.close(1)
    else:
        receiving.open(1, 1, 10)
    receiving.open(2, 0, 10)
    assert receiving.take(2, 0, 0, 10)
    receiving.check()


def test_complete_body_that_was_not_asked_for_still_counts():
    receiving = Receiving(10)
    receiving.open(1, 0, 10)
    receiving.take(1, 0, 0, 10)
    receiving.open(2, 0, 10)
    with pytest.raises(OverrunError):
        receiving.take(2, 0, 0, 1)


def test_stale_chunks_are_told_apart_from_overruns():
    receiving = Receiving()
    assert not receiving.take(9, 0, 0, 5)
    receiving.open(1, 2, 10)
    assert not receiving.take(1, 1, 0, 5)
    assert not receiving.take(1, 3, 0, 5)


def test_first_grant_is_said_even_where_it_asks_for_nothing_new_and_no_other():
    receiving = Receiving(10)
    receiving.open(1, 0, 10)
    assert receiving.grant(1, 0) == Grant(1, 0, 0, 0)
    assert receiving.grant(1, 0) is None
    assert receiving.grant(1, 10) == Grant(1, 0, 0, 10)
    assert receiving.grant(1, 5) is None


def test_body_is_resumed_on_another_link():
    receiving = Receiving(100)
    receiving.resume(1, 0, 10, 6)
    assert receiving.position(1) == 6
    assert receiving.grant(1, 10) == Grant(1, 0, 6, 4)
    sending = Sending()
    sending.open(1, 0, 10, window=False)
    sending.grant(Grant(1, 0, 6, 4))
    assert drain(sending) == [(1, 0, 6, 4)]
    assert receiving.take(1, 0, 6, 4)
    assert receiving.complete(1)


def test_window_that_the_sender_did_not_use_never_makes_a_later_stream_an_overrun():
    """The receiver gave the window back before the sender heard of it; what it knows must not depend on that."""
    sending, receiving = Sending(10), Receiving(10)
    for side in (sending, receiving):
        side.open(1, 0, 10)
    first = receiving.grant(1, 10)
    sending.open(2, 0, 10)
    receiving.open(2, 0, 10)
    assert first is not None
    sending.grant(first)
    sending.open(3, 0, 10)
    receiving.open(3, 0, 10)
    for stream, attempt, offset, length in drain(sending):
        assert receiving.take(stream, attempt, offset, length)


# -- both sides of a link ------------------------------------------------------------------------------------


@dataclass
class Link:
    """A sender and a receiver, with an ordered and lossless wire between them."""

    window: int
    there: deque[tuple[object, ...]] = field(default_factory=deque)
    back: deque[tuple[object, ...]] = field(default_factory=deque)
    bodies: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.sending = Sending(self.window)
        self.receiving = Receiving(self.window)

    def announce(self, size: int, *, window: bool = True) -> None:
        self.count += 1
        self.sending.open(self.count, 0, size, window=window)
        self.there.append(("open", self.count, size, window))

    def send(self, limit: int) -> bool:
        chunk = self.sending.next(limit)
        if chunk is not None:
            self.there.append(("chunk", *chunk))
        return chunk is not None

    def abort_from_sender(self, stream: int) -> None:
        if self.sending.close(stream):
            self.there.append(("abort", stream))

    def abort_from_receiver(self, stream: int) -> None:
        if self.receiving.close(stream):
            self.bodies.pop(stream, None)
            self.back.append(("abort", stream))

    def grant(self, stream: int, count: int) -> None:
        if stream in self.receiving:
            grant = self.receiving.grant(stream, count)
            if grant is not None:
                self.back.append(("grant", grant))

    def retry(self, stream: int) -> None:
        """The receiver lost what it had, and pulls the next attempt from the beginning."""
        if stream in self.receiving:
            self.attempts[stream] += 1
            self.receiving.open(stream, self.attempts[stream], self.bodies[stream], window=False)

    def finish(self, stream: int) -> None:
        """The receiver is done with a whole body: closes it, and says what tells the sender so."""
        if stream in self.receiving and self.receiving.complete(stream):
            self.receiving.close(stream)
            del self.bodies[stream]
            self.back.append(("done", stream))

    def deliver_there(self) -> None:
        if not self.there:
            return
        kind, stream, *rest = self.there.popleft()
        if kind == "open":
            self.bodies[stream], window = rest
            self.attempts[stream] = 0
            self.receiving.open(stream, 0, self.bodies[stream], window=window)
        elif kind == "chunk":
            self.receiving.take(stream, *rest)
        else:
            self.receiving.close(stream)
            self.bodies.pop(stream, None)

    def deliver_back(self) -> None:
        if not self.back:
            return
        kind, what = self.back.popleft()
        if kind == "grant":
            self.sending.grant(what)
        else:
            self.sending.close(what)

    def check(self) -> None:
        self.sending.check()
        self.receiving.check()

    def settle(self) -> None:
        """Let the receiver ask for everything: every body must come to its end."""
        while True:
            for stream in list(self.bodies):
                self.grant(stream, self.bodies[stream])
                self.finish(stream)
            if not (self.there or self.back or self.send(CHUNK_BYTES_MAX)):
                return
            while self.there:
                self.deliver_there()
            while self.back:
                self.deliver_back()
            self.check()


_streams = st.integers(1, 12)
_steps = st.one_of(
    st.tuples(st.just("announce"), st.integers(1, 60)),
    st.tuples(st.just("send"), st.integers(1, 30)),
    st.tuples(st.just("grant"), _streams, st.integers(0, 50)),
    st.tuples(st.sampled_from(["abort_from_sender", "abort_from_receiver", "retry", "finish"]), _streams),
    st.tuples(st.sampled_from(["deliver_there", "deliver_back"])),
)


@settings(max_examples=300, deadline=None)
@given(window=st.integers(0, 50), steps=st.lists(_steps, max_size=80))
def test_sender_never_overruns_and_every_body_ends(window, steps):
    link = Link(window)
    for name, *arguments in steps:
        getattr(link, name)(*arguments)
        link.check()
    link.settle()
    assert not link.bodies
    assert len(link.receiving) == 0
    assert len(link.sending) == 0
    link.announce(window + 1)
    assert sum(length for *_, length in drain(link.sending)) == window, "the whole first window is there again"


def test_streams_that_end_leave_no_place_in_the_line():
    sending = Sending(1 << 20)
    for _ in range(100):
        sending.open(1, 1, 1000)
        sending.close(1)
    sending.open(1, 1, 1000)
    assert len(sending._ready) == 1
    sending.check()
