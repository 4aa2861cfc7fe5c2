"""Futures: each ends once, and whoever waits hears of it."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait
from typing import Any

import numpy as np
import pytest

from starcore.client.arrays import Joiner
from starcore.client.futures import BlockFuture, StarFuture, TaskFuture


class Session:
    """Remembers what was abandoned."""

    def __init__(self) -> None:
        self.abandoned: list[tuple[int, bool]] = []

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        self.abandoned.append((index, kill))


def task(index: int = 0, session: Session | None = None) -> TaskFuture:
    future = TaskFuture(session or Session(), None)
    future.index = index
    return future


def blocks(count: int, session: Session | None = None) -> tuple[BlockFuture, list[TaskFuture]]:
    session = session or Session()
    parts = [task(index, session) for index in range(count)]
    whole = BlockFuture(parts, Joiner([slice(2 * i, 2 * i + 2) for i in range(count)]))
    whole.watch()
    return whole, parts


def test_first_end_wins() -> None:
    future = StarFuture()
    assert future.succeed(1)
    assert not future.fail(ValueError())
    assert not future.succeed(2)
    assert future.result(0) == 1
    assert not future.start()


def test_callbacks_run_once_and_without_the_lock() -> None:
    session, heard = Session(), []
    future = task(session=session)
    future.add_done_callback(lambda done: heard.append((done.cancelled(), wait([done], 0).not_done)))
    assert future.kill()
    assert heard == [(True, set())]


def test_task_that_runs_is_killed_but_not_cancelled() -> None:
    session = Session()
    future = task(3, session)
    assert future.start()
    assert not future.cancel()
    assert future.kill()
    assert session.abandoned == [(3, True)]
    with pytest.raises(CancelledError):
        future.result(0)
    assert not future.succeed("late")


def test_answer_that_is_arriving_can_neither_be_cancelled_nor_killed() -> None:
    future = task()
    assert future.land()
    assert not future.cancel()
    assert not future.kill()
    future.unland()
    assert future.kill()


def test_cancelled_task_never_lands() -> None:
    future = task()
    future.cancel()
    assert not future.land()


def test_whole_is_joined_when_every_block_is_there() -> None:
    whole, parts = blocks(2)
    assert parts[1].start()
    assert whole.running()
    for part, value in zip(parts, (1.0, 2.0), strict=True):
        whole.joiner.add(part.block, np.full(2, value))
        part.succeed(None)
    assert whole.result(0).tolist() == [1, 1, 2, 2]


def test_first_failing_block_fails_the_whole_and_kills_the_rest() -> None:
    session = Session()
    whole, parts = blocks(3, session)
    parts[1].fail(ValueError("bad block"))
    assert [part.cancelled() for part in parts] == [True, False, True]
    assert session.abandoned == [(0, True), (2, True)]
    with pytest.raises(ValueError, match="bad block"):
        whole.result(0)


def test_whole_is_not_done_while_an_answer_may_still_write_to_it() -> None:
    whole, parts = blocks(2)
    assert parts[0].land()
    assert not whole.cancel()
    assert whole.kill()
    assert parts[1].cancelled()
    assert not whole.done()
    parts[0].succeed(None)
    assert whole.cancelled()


def test_block_of_a_cancelled_whole_does_not_start() -> None:
    whole, parts = blocks(1)
    assert whole.cancel()
    assert not parts[0].start()
    assert whole.cancel()


def test_blocks_that_cannot_be_joined_fail_the_whole() -> None:
    whole, parts = blocks(2)
    whole.joiner.add(0, np.zeros((2, 3)))
    whole.joiner.add(1, np.zeros((2, 4)))
    for part in parts:
        part.succeed(None)
    with pytest.raises(ValueError, match="cannot be joined"):
        whole.result(0)
