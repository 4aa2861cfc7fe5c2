"""Blocks that are cut as answers come, over a session that the test answers for."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from starcore.client.blocks import SCRATCH_BYTES_MAX, AutoFuture
from starcore.client.futures import TaskFuture
from starcore.client.pace import DEPTH_PER_SLOT_MAX, DEPTH_SPARE_MAX, SMALL_BYTES
from starcore.errors import SessionLostError
from starcore.messages import CHUNK_BYTES_MAX
from starcore.pickling import Packed, load_call, pack_answer, pack_array_call

Array = np.ndarray[Any, Any]


class Session:
    """Takes calls as the real one does; `answer` ends the oldest with what the function makes of it."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.waiting: list[tuple[Any, TaskFuture]] = []
        self.sizes: list[int] = []
        self.abandoned = 0
        self.error: Exception | None = None

    def submit_many(self, record: Any, packs: Sequence[Any], futures: Sequence[TaskFuture]) -> None:
        if self.error is not None:
            raise self.error
        for packed, future in zip(packs, futures, strict=True):
            future.index = len(self.sizes)
            self.waiting.append((packed, future))
            self.sizes.append(packed.body_bytes)

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        self.abandoned += 1

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        self.abandoned += len(indices)

    def answer(self, fn: Any = np.negative, at: int = 0) -> None:
        packed, future = self.waiting.pop(at)
        if future.done():
            return
        body = bytearray()
        while len(body) < packed.body_bytes:
            body += packed.read(len(body), min(CHUNK_BYTES_MAX, packed.body_bytes - len(body)))
        answer = pack_answer(load_call(packed.head, memoryview(body)).run(fn))
        assert future.land()
        if not answer.body_bytes:
            future.succeed(future.unpack(answer.head, True))
            return
        place = future.place(answer.head, answer.body_bytes, True)
        answer.copy_into(place.buffer)
        future.succeed(place.finish())

    def answer_all(self, fn: Any = np.negative, *, backwards: bool = False) -> None:
        while self.waiting:
            self.answer(fn, -1 if backwards else 0)


def pack(block: Array) -> Packed:
    return pack_array_call(block, (), {})


def sent(session: Session, array: Array, **options: Any) -> AutoFuture:
    future = AutoFuture(session, None, array, pack, **options)
    future.begin()
    return future


def numbers(rows: int, columns: int = 128) -> Array:
    return np.arange(rows * columns, dtype=float).reshape(rows, columns)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("slots", [0, 1, 3])
def test_every_row_is_sent_once_and_the_answers_are_joined(slots: int, backwards: bool) -> None:
    session, array = Session(slots), numbers(20_000)
    future = sent(session, array)
    session.answer_all(backwards=backwards)
    assert np.array_equal(future.result(0), -array)
    assert len(set(session.sizes)) > 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1])
def test_answers_come_into_out_along_any_axis_and_in_any_order(axis: int, order: Any) -> None:
    array = np.array(numbers(3000, 700), order=order)
    out = np.empty_like(array)
    session = Session(2)
    future = sent(session, array, axis=axis, out=out)
    session.answer_all()
    assert future.result(0) is out
    assert np.array_equal(out, -array)


def test_a_block_in_one_piece_is_received_where_it_belongs() -> None:
    array, session = numbers(20_000), Session()
    out = np.empty_like(array)
    future = sent(session, array, out=out)
    _, part = session.waiting[0]
    answer = pack_answer(-array[: future.chunks])
    assert part.land()
    place = part.place(answer.head, answer.body_bytes, True)
    assert np.shares_memory(np.frombuffer(place.buffer, np.uint8), out)


def test_answers_that_are_copied_are_few_at_a_time() -> None:
    session, array = Session(16), numbers(400_000)
    sent(session, array.T, axis=0)
    while session.waiting:
        assert sum(packed.body_bytes for packed, _ in session.waiting) <= SCRATCH_BYTES_MAX
        session.answer(lambda a: a[:, :1])


@pytest.mark.parametrize("rows", [0, 1, SMALL_BYTES // 1024])
def test_a_small_array_is_one_block(rows: int) -> None:
    session, array = Session(8), numbers(rows)
    future = sent(session, array)
    assert len(session.sizes) == 1
    assert future.chunks == rows
    session.answer_all()
    assert np.array_equal(future.result(0), -array)


def test_blocks_under_way_are_enough_for_every_slot_and_bounded() -> None:
    session, told = Session(4), []
    future = AutoFuture(session, None, numbers(100_000), pack)
    future.begin(lambda part, rows: told.append(rows))
    while not future.done():
        assert len(session.waiting) <= DEPTH_PER_SLOT_MAX * 4 + DEPTH_SPARE_MAX
        assert len(session.waiting) >= 8 or sum(told) == future.rows
        session.answer()


def test_slots_that_come_later_are_fed_too() -> None:
    session = Session(0)
    sent(session, numbers(100_000))
    before = len(session.waiting)
    session.slots = 8
    session.answer()
    assert len(session.waiting) > before + 8


def test_what_was_chosen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    session, array = Session(), numbers(50_000)
    with caplog.at_level(logging.INFO, "starcore.client"):
        future = sent(session, array)
        session.answer_all()
    (line,) = caplog.messages
    assert "rows" in line
    assert "upload" in line
    assert 1 <= future.chunks <= 16 << 10


def test_every_block_is_told_with_its_rows() -> None:
    told: list[int] = []
    session = Session()
    future = AutoFuture(session, None, numbers(20_000), pack)
    future.begin(lambda part, rows: part.add_done_callback(lambda _: told.append(rows)))
    session.answer_all()
    assert sum(told) == future.rows == 20_000


def test_a_block_that_fails_fails_the_whole_and_ends_the_others() -> None:
    session = Session()
    future = sent(session, numbers(20_000))
    under_way = len(session.waiting)
    session.waiting[0][1].fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        future.result(0)
    assert session.abandoned == under_way - 1
    assert len(session.sizes) == under_way


def test_a_cancelled_whole_sends_nothing_more() -> None:
    session = Session()
    future = sent(session, numbers(20_000))
    session.answer()
    under_way = len(session.sizes)
    assert future.kill()
    with pytest.raises(CancelledError):
        future.result(0)
    assert len(session.sizes) == under_way


def test_what_cannot_be_sent_at_all_is_said_at_once() -> None:
    session = Session()
    session.error = SessionLostError("over")
    with pytest.raises(SessionLostError):
        sent(session, numbers(20_000))


def test_what_cannot_be_sent_later_fails_the_whole() -> None:
    session = Session()
    future = sent(session, numbers(20_000))
    session.error = SessionLostError("over")
    session.answer()
    with pytest.raises(SessionLostError):
        future.result(0)


def test_a_session_that_ends_gets_all_that_is_left() -> None:
    session, array = Session(), numbers(20_000)
    future = sent(session, array)
    future.rush()
    session.error = SessionLostError("over")
    session.answer_all()
    assert np.array_equal(future.result(0), -array)


def test_a_future_that_is_done_keeps_no_array_alive() -> None:
    session, array = Session(), numbers(20_000)
    gone = weakref.ref(array)
    future = sent(session, array)
    session.answer_all(lambda a: a[:1])
    assert future.done()
    del array
    gc.collect()
    assert gone() is None


def test_threads_that_answer_at_once_leave_no_row_behind() -> None:
    session, array = Session(4), numbers(30_000)
    future = sent(session, array)

    def work() -> None:
        while not future.done():
            try:
                session.answer()
            except IndexError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert np.array_equal(future.result(0), -array)
