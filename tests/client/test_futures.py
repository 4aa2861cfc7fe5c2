"""Futures: each ends once, and whoever waits hears of it."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from typing import Any

import numpy as np
import pytest

from starcore.client.arrays import Joiner
from starcore.client.futures import NOT_SMALL, BlockFuture, StarFuture, TaskFuture, kill_all, succeed_all


class Session:
    """Remembers what was abandoned."""

    def __init__(self) -> None:
        self.abandoned: list[tuple[int, bool]] = []

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        self.abandoned.append((index, kill))

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        self.abandoned += [(index, True) for index in indices]


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


def test_many_are_cancelled_together_before_anybody_here_hears_of_one() -> None:
    session, heard = Session(), []
    futures = [task(index, session) for index in range(5)]
    futures[0].add_done_callback(lambda done: heard.append(list(session.abandoned)))
    futures[1].add_done_callback(lambda done: heard.append(wait(futures[:2], 0).not_done))
    assert not wait(futures[1:2], 0).done  # it has a condition now
    assert futures[2].land()
    futures[3].succeed("done")
    kill_all(futures)
    assert heard == [[(0, True), (4, True), (1, True)], set()]
    assert [future.cancelled() for future in futures] == [True, True, False, False, True]


def test_of_very_many_calls_those_that_run_are_killed_before_the_others_are_cancelled() -> None:
    session = Session()
    futures = [task(index, session) for index in range(5)]
    assert futures[3].start()
    kill_all(futures)
    assert session.abandoned == [(3, True), (0, True), (1, True), (2, True), (4, True)]


def test_blocks_of_a_whole_are_cancelled_once_each_and_the_whole_with_them() -> None:
    session = Session()
    whole, parts = blocks(3, session)
    kill_all(parts)
    assert whole.cancelled()
    assert session.abandoned == [(0, True), (1, True), (2, True)]


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


# -- conditions that are made when somebody waits -------------------------------------------------------------------


def started(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_future_that_nobody_waits_for_has_no_condition() -> None:
    future, heard = task(), []
    future.add_done_callback(heard.append)
    assert isinstance(future, Future)
    assert not future.done()
    assert future.succeed(5)
    assert future.done()
    assert future.result() == 5
    assert future.exception() is None
    assert future._made is None
    future.add_done_callback(heard.append)
    assert heard == [future, future]


def test_callback_given_before_a_wait_is_called_after_it() -> None:
    future, heard = task(), []
    future.add_done_callback(heard.append)
    wait([future], 0)
    future.add_done_callback(heard.append)
    future.succeed(1)
    assert heard == [future, future]


def test_each_of_many_waiters_hears_of_the_end() -> None:
    future, heard = task(), []
    threads = [started(lambda: heard.append(future.result(10))) for _ in range(4)]
    threads += [started(lambda: heard.extend(each.result() for each in as_completed([future], 10)))]
    threads += [started(lambda: heard.extend(each.result() for each in wait([future], 10).done))]
    future.succeed("done")
    for thread in threads:
        thread.join()
    assert heard == ["done"] * 6


def asleep(future: TaskFuture, count: int = 1) -> None:
    """Return when so many threads sleep until the future ends."""
    while len(future._bells) < count:
        threading.Event().wait(0.001)


def outcome(future: TaskFuture) -> Any:
    """What its result comes to, without a limit of time."""
    try:
        return future.result()
    except BaseException as error:
        return type(error)


SLEEPERS_END: dict[str, tuple[Callable[[TaskFuture], Any], Any]] = {
    "succeed": (lambda future: future.succeed("done"), "done"),
    "succeed_all": (lambda future: succeed_all([future], ["done"]), "done"),
    "fail": (lambda future: future.fail(ValueError()), ValueError),
    "cancel": (lambda future: future.cancel(), CancelledError),
    "set_result of the standard library": (lambda future: future.set_result("done"), "done"),
    "after another one waited otherwise": (lambda future: (wait([future], 0), future.succeed("done")), "done"),
    "after it began to run": (lambda future: (future.start(), future.succeed("done")), "done"),
}


@pytest.mark.parametrize("end", SLEEPERS_END)
def test_all_who_sleep_until_a_future_ends_are_woken(end: str) -> None:
    future, heard = task(), []
    threads = [started(lambda: heard.append(outcome(future))) for _ in range(3)]
    asleep(future, 3)
    assert future._made is None, "sleeping takes no condition"
    finish, expected = SLEEPERS_END[end]
    finish(future)
    for thread in threads:
        thread.join(10)
    assert heard == [expected] * 3
    assert future._bells == ()


def test_future_that_ends_while_somebody_lies_down_lets_nobody_sleep() -> None:
    """The garbage collector may run a destructor that ends the future, in the very thread that is about to sleep."""

    class Ending(TaskFuture):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_bells" and value and not self.done():
                self.succeed("early")
            super().__setattr__(name, value)

    future = Ending(Session(), None)
    thread = started(future.result)
    thread.join(10)
    assert not thread.is_alive()


ENDS: dict[str, Callable[[TaskFuture], bool]] = {
    "succeed": lambda future: future.succeed(future.index),
    "fail": lambda future: future.fail(ValueError()),
    "kill": lambda future: future.kill(),
}


@pytest.mark.parametrize("by", ["wait", "result"])
@pytest.mark.parametrize("end", [*ENDS, "succeed_all"])
def test_end_and_wait_may_race_and_nobody_sleeps_for_ever(end: str, by: str) -> None:
    """Each round one thread ends the futures one after the other while another asks for them in the same order."""
    for _ in range(20):
        futures = [task(index) for index in range(50)]
        barrier = threading.Barrier(2)

        def finish(futures: list[TaskFuture] = futures, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if end == "succeed_all":
                for start in range(0, 50, 10):
                    assert succeed_all(futures[start : start + 10], range(start, start + 10)) == []
                return
            for future in futures:
                assert ENDS[end](future)

        thread = started(finish)
        barrier.wait()
        for future in futures:
            if by == "wait":
                wait([future], 10, FIRST_COMPLETED)
            else:
                outcome(future)
            assert future.done()
        thread.join()
        if end.startswith("succeed"):
            assert [future.result(0) for future in futures] == list(range(50))


def test_as_completed_sees_what_ended_before_and_what_ends_later() -> None:
    futures = [task(index) for index in range(6)]
    succeed_all(futures[:3], range(3))
    thread = started(lambda: succeed_all(futures[3:], range(3, 6)))
    assert {future.result() for future in as_completed(futures, 10)} == set(range(6))
    thread.join()


def test_run_of_answers_ends_what_is_open_and_names_what_wants_a_closer_look() -> None:
    heard: list[Any] = []
    futures: list[TaskFuture | None] = [task(index) for index in range(6)]
    plain, cancelled, watched, told, written, odd = (future for future in futures if future is not None)
    cancelled.cancel()
    wait([watched], 0)
    told.add_done_callback(heard.append)
    written.answer_into(np.zeros(3))
    assert succeed_all([*futures, None], [1, 2, 3, 4, 5, NOT_SMALL, 7]) == [4, 5]
    assert plain.result(0) == 1
    assert cancelled.cancelled()
    assert watched.result(0) == 3
    assert heard == [told]
    assert not written.done()
    assert not odd.done()


def test_standard_library_may_set_what_it_likes() -> None:
    future = task()
    assert future.set_running_or_notify_cancel()
    future.set_result(3)
    assert future.result(0) == 3
    failed = task()
    failed.set_exception(ValueError("x"))
    assert isinstance(failed.exception(0), ValueError)
    assert "raised ValueError" in repr(failed)


def test_asking_for_what_is_not_there_in_time_is_a_timeout() -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        task().result(0)


def test_a_destructor_that_runs_while_futures_end_may_use_futures() -> None:
    """The garbage collector runs wherever memory is taken, also under the lock."""

    class Leftover:
        def __init__(self, future: TaskFuture) -> None:
            self.future = future

        def __del__(self) -> None:
            self.future.cancel()
            self.future.add_done_callback(heard.append)

    def values() -> Any:
        for number in range(3):
            Leftover(others[number])
            yield number

    heard: list[Any] = []
    futures, others = [task(index) for index in range(3)], [task(index) for index in range(3)]
    thread = threading.Thread(target=succeed_all, args=(futures, values()), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for itself"
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert heard == others


# -- Ctrl-C ------------------------------------------------------------------------------------------------------


class Interrupted(Session):
    """Counts how often somebody was interrupted who waited for its tasks."""

    interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes to sleep is interrupted."""

    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Condition, "wait", interrupt)
    monkeypatch.setattr(TaskFuture, "_sleep", interrupt)
    monkeypatch.setattr(BlockFuture, "_sleep", interrupt)


def waits(sessions: list[Interrupted]) -> dict[str, Callable[[], Any]]:
    """Every way to wait for a task of each session; all at once where that can be."""
    tasks = [task(session=session) for session in sessions]
    whole, _ = blocks(2, sessions[0])
    return {
        "result": tasks[0].result,
        "result with a time-out": lambda: tasks[0].result(60),
        "exception": tasks[0].exception,
        "result of a whole": whole.result,
        "wait": lambda: wait(tasks),
        "wait for the first": lambda: wait(tasks, return_when=FIRST_COMPLETED),
        "as_completed": lambda: list(as_completed(tasks)),
    }


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", waits([Interrupted()]))
def test_ctrl_c_in_a_wait_reaches_every_session_once(how: str) -> None:
    sessions = [Interrupted(), Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        waits(sessions)[how]()
    both = how.startswith(("wait", "as_completed"))
    assert [session.interrupts for session in sessions] == [1, 1 if both else 0]


def test_wait_for_futures_of_others_too_wakes_as_ever() -> None:
    ours, theirs = task(session=Interrupted()), Future[int]()
    ours.succeed(1)
    theirs.set_result(2)
    late = task(session=Interrupted())
    threading.Timer(0.01, late.succeed, (3,)).start()
    assert sum(future.result() for future in as_completed([ours, theirs, late], timeout=20)) == 6


def test_block_whose_answer_breaks_off_ends_if_its_whole_was_cancelled_meanwhile() -> None:
    session = Session()
    whole, (first, second) = blocks(2, session)
    assert first.land()
    assert whole.kill()
    assert not whole.done()
    first.unland()
    assert whole.cancelled()
    assert first.cancelled()
    assert second.cancelled()
    assert sorted(index for index, _ in session.abandoned) == [0, 1]


def test_callback_that_ends_the_program_keeps_nobody_from_hearing() -> None:
    heard = []
    future = StarFuture()
    future.add_done_callback(lambda _: sys.exit("no more"))
    future.add_done_callback(heard.append)
    assert future.succeed(1)
    assert heard == [future]


def test_interrupted_callback_is_told_when_the_others_have_heard() -> None:
    heard = []
    future = StarFuture()

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    future.add_done_callback(interrupted)
    future.add_done_callback(heard.append)
    with pytest.raises(KeyboardInterrupt):
        future.succeed(1)
    assert heard == [future]


def test_interrupt_among_many_that_are_killed_leaves_no_callback_out() -> None:
    class Interrupted(Session):
        def abandon_all(self, record: Any, indices: list[int]) -> None:
            raise KeyboardInterrupt

    whole, parts = blocks(3, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        kill_all(parts)
    assert whole.cancelled()


def test_future_in_a_forked_child_ends_and_calls_nobody() -> None:
    heard: list[Any] = []
    future = StarFuture()
    future.add_done_callback(heard.append)
    future.fail_after_fork(ValueError("the parent's"))
    assert isinstance(future.exception(0), ValueError)
    assert not heard
