"""A real slot process: what tasks can do to it, and what comes of their arguments and answers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore import pickling
from starcore.errors import LoadError, Status
from starcore.messages import FunctionKind
from starcore.worker.blackbox import CANCEL_SIGNAL
from starcore.worker.channel import (
    IN_ARGUMENT,
    IN_OWN,
    NOWHERE,
    Broken,
    Detach,
    Done,
    Free,
    Learn,
    Ready,
    Stopped,
    Unlearn,
    send_all,
)
from starcore.worker.slot import find_function

from .child import Child


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """One slot for all the tests that do it no harm."""
    child = Child(tmp_path_factory.mktemp("slot"))
    yield child
    child.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child(tmp_path)
    yield child
    child.close()


def failure(done: Done) -> BaseException:
    assert done.statuses[0] == Status.RAISED
    return pickling.unpack_failure(Status.RAISED, done.heads)


# -- calls ---------------------------------------------------------------------------------------------------


def test_a_slot_says_that_it_is_ready(shared: Child) -> None:
    assert isinstance(shared.setup, Ready)
    assert shared.setup.pid == shared.process.pid


def test_a_small_call_is_answered_inside_the_message(shared: Child) -> None:
    done = shared.call(lambda x: x + 1, 41)
    assert (list(done.statuses), done.place, shared.answer(done)) == ([Status.OK], NOWHERE, 42)
    assert 0 < done.seconds[0] < 1


def test_a_batch_is_answered_in_its_order(shared: Child) -> None:
    heads = [pickling.pack_call((i,), {}).head for i in range(100)]
    shared.work(shared.learn(lambda x: x * x), heads)
    values: list[int] = []
    while len(values) < 100:
        done = shared.next(Done)
        assert done.first == len(values)
        at = 0
        for size in done.head_sizes:
            values.append(pickling.unpack_answer(done.heads[at : at + size]))
            at += size
    assert values == [i * i for i in range(100)]


def test_a_forgotten_function_is_told_again(shared: Child) -> None:
    job = shared.learn(abs)
    send_all(shared.socket, Unlearn(True, job, bytes(32)))
    shared.work(job, [pickling.pack_call((1,), {}).head])
    assert shared.next(Done).statuses[0] == Status.UNLOADABLE


# -- failures ------------------------------------------------------------------------------------------------


def test_an_exception_comes_back_with_the_users_frames_only(shared: Child) -> None:
    def divide(x: float) -> float:
        return 1 / x

    error = failure(shared.call(divide, 0))
    assert isinstance(error, ZeroDivisionError)
    assert "divide" in str(error.__cause__)
    assert "starcore/worker/slot.py" not in str(error.__cause__)


@pytest.mark.parametrize("exit_kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_program_is_a_failure_of_its_task_only(shared: Child, exit_kind: type[BaseException]) -> None:
    def leave(kind: type[BaseException]) -> None:
        raise kind("now")

    assert shared.call(leave, exit_kind).statuses[0] == Status.RAISED
    assert shared.answer(shared.call(abs, -3)) == 3


def test_a_result_that_does_not_pickle_says_so(shared: Child) -> None:
    done = shared.call(threading.Lock)
    assert done.statuses[0] == Status.UNSENDABLE
    assert b"lock" in bytes(done.heads)


def test_a_function_that_cannot_be_loaded_says_why(shared: Child) -> None:
    send_all(shared.socket, Learn(900, FunctionKind.SHIPPED, bytes(32), "fn", 0, 3, b"bad"))
    shared.work(900, [pickling.pack_call((), {}).head])
    done = shared.next(Done)
    assert done.statuses[0] == Status.UNLOADABLE
    assert b"digest" in bytes(done.heads)


class OnLoading:
    """Does something when it is loaded, as part of a function or of its arguments."""

    def __init__(self, does: Any, *args: Any) -> None:
        self.reduced = does, args

    def __reduce__(self) -> Any:
        return self.reduced


def with_loading(does: Any, *args: Any) -> Any:
    there = OnLoading(does, *args)
    return lambda x: (x, there)[0]


def test_a_function_that_kills_its_slot_while_it_is_loaded_is_its_first_tasks_doing(child: Child) -> None:
    child.work(child.learn(with_loading(os._exit, 7)), [pickling.pack_call((1,), {}).head] * 2)
    assert child.ended() == 7
    assert child.board.read()[:3] == (1, 1, True)


def test_a_function_that_hangs_while_it_is_loaded_shows_as_its_task_that_runs(child: Child) -> None:
    child.work(child.learn(with_loading(time.sleep, 60)), [pickling.pack_call((1,), {}).head])
    deadline = time.monotonic() + 20
    while child.board.read()[:3] != (1, 1, True):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(child.process.pid, CANCEL_SIGNAL)  # and is interrupted as one that runs
    assert child.ended() == 1


def test_a_function_of_several_jobs_is_loaded_once_and_not_before_its_first_task(child: Child, tmp_path: Path) -> None:
    place = tmp_path / "loads"
    function = with_loading(os.system, f"echo >> {place}")
    first, second = child.learn(function), child.learn(function)
    assert child.answer(child.call(abs, -1)) == 1
    assert not place.exists()
    for job in (first, second, first):
        child.work(job, [pickling.pack_call((job,), {}).head])
        assert child.answer(child.next(Done)) == job
    assert place.read_text() == "\n"


def test_a_function_that_is_loaded_late_is_no_argument_that_its_task_keeps(child: Child) -> None:
    done, _ = child.call_array(lambda values: float(values[1]), np.arange(1 << 16, dtype=np.float64))
    assert (done.statuses[0], done.kept) == (Status.OK, False)


def test_an_error_of_loading_a_function_is_told_to_each_of_its_tasks(shared: Child) -> None:
    shared.work(shared.learn(with_loading(divmod, 1, 0)), [pickling.pack_call((1,), {}).head] * 2)
    done = shared.next(Done)
    text = b"the function cannot be loaded: ZeroDivisionError: "
    assert list(done.statuses) == [Status.UNLOADABLE] * 2
    assert bytes(done.heads).count(text) == 2


def test_an_unknown_registered_function_says_so(shared: Child) -> None:
    send_all(shared.socket, Learn(901, FunctionKind.REGISTERED, bytes(32), "lab:fit"))
    shared.work(901, [pickling.pack_call((), {}).head])
    assert b"no function 'lab:fit'" in bytes(shared.next(Done).heads)


def test_arguments_that_cannot_be_loaded_fail_their_task_only(shared: Child) -> None:
    shared.work(shared.learn(abs), [b"\x10\x00garbage"])
    assert shared.next(Done).statuses[0] == Status.UNLOADABLE


# -- deaths --------------------------------------------------------------------------------------------------


def test_a_segfault_ends_the_slot_by_its_signal_and_the_board_says_where(child: Child) -> None:
    child.work(child.learn(lambda: ctypes.string_at(0)), [pickling.pack_call((), {}).head] * 3)
    assert child.ended() == -signal.SIGSEGV
    batch, started, running, _ = child.board.read()
    assert (batch, started, running) == (1, 1, True)
    assert "Segmentation fault" in child.box.dump()


def test_a_task_that_exits_the_process_ends_the_slot(child: Child) -> None:
    child.work(child.learn(os._exit), [pickling.pack_call((7,), {}).head])
    assert child.ended() == 7


def test_signals_of_terminals_and_batch_systems_are_not_for_slots(child: Child) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(child.process.pid, number)
    assert child.answer(child.call(abs, -1)) == 1


def test_a_slot_whose_channel_ends_leaves(child: Child) -> None:
    child.socket.shutdown(2)
    assert child.process.wait(10) == 0


# -- memory --------------------------------------------------------------------------------------------------


def in_place(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values *= 2
    return values


def test_an_answer_in_its_arguments_memory_is_not_copied(shared: Child) -> None:
    values = np.arange(1 << 16, dtype=np.float64)
    done, piece = shared.call_array(in_place, values)
    assert (done.place, done.kept, done.body_bytes) == (IN_ARGUMENT, False, values.nbytes)
    np.testing.assert_array_equal(shared.answer(done, piece), values * 2)


def test_a_contiguous_part_of_the_argument_is_not_copied_either(shared: Child) -> None:
    values = np.arange(1 << 16, dtype=np.float64)
    done, piece = shared.call_array(lambda a: a[100:-100], values)
    assert (done.place, done.offset) == (IN_ARGUMENT, 800)
    np.testing.assert_array_equal(shared.answer(done, piece), values[100:-100])


def test_a_new_array_is_copied_once_into_the_slots_own_memory_which_is_used_again(shared: Child) -> None:
    values = np.arange(1 << 16, dtype=np.float64)
    done, piece = shared.call_array(np.sqrt, values)
    assert (done.place, done.kept) == (IN_OWN, False)
    np.testing.assert_array_equal(shared.answer(done, piece), np.sqrt(values))
    send_all(shared.socket, Free(done.segment))
    again, _ = shared.call_array(np.sqrt, values)
    assert again.segment == done.segment


def where(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An answer that begins with its own address in the slot."""
    answer = values + np.uint64(1)
    answer[0] = answer.ctypes.data
    return answer


def keep(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    sys.kept = where(values)  # type: ignore[attr-defined]
    return sys.kept  # type: ignore[attr-defined,no-any-return]


def keep_a_view(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    answer = where(values)
    sys.kept = answer[1:]  # type: ignore[attr-defined]
    return answer


def spoil() -> None:
    sys.kept[:] = 0  # type: ignore[attr-defined]
    del sys.kept  # type: ignore[attr-defined]


def name_of(address: int) -> str:
    """What the slot has mapped there."""
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        span, *fields = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return " ".join(fields[4:])
    return ""


def answered(child: Child, function: Any, values: np.ndarray[Any, Any]) -> tuple[Done, np.ndarray[Any, Any]]:
    done, piece = child.call_array(function, values)
    assert (done.place, done.kept) == (IN_OWN, False)
    return done, np.array(child.answer(done, piece))


@pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: elsewhere every answer is copied")
def test_an_answer_that_numpy_made_in_the_slots_own_memory_is_not_copied(child: Child) -> None:
    values = np.arange(1 << 16, dtype=np.uint64)
    first, answer = answered(child, where, values)
    assert "starcore-answer" not in child.answer(child.call(name_of, int(answer[0])))
    send_all(child.socket, Free(first.segment))
    for _ in range(3):
        done, answer = answered(child, where, values)
        assert done.segment == first.segment
        np.testing.assert_array_equal(answer[1:], values[1:] + 1)
        assert "starcore-answer" in child.answer(child.call(name_of, int(answer[0])))
        send_all(child.socket, Free(done.segment))


@pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: elsewhere every answer is copied")
def test_answers_that_were_not_read_yet_lie_apart(child: Child) -> None:
    values = np.arange(1 << 16, dtype=np.uint64)
    for done in [answered(child, where, values)[0] for _ in range(3)]:
        send_all(child.socket, Free(done.segment))
    answers = [child.call_array(where, values + np.uint64(n)) for n in range(5)]
    assert len({done.segment for done, _ in answers}) == 5
    for n, (done, piece) in enumerate(answers):
        np.testing.assert_array_equal(child.answer(done, piece)[1:], values[1:] + n + 1)


@pytest.mark.parametrize("keeping", [keep, keep_a_view])
def test_an_answer_that_a_task_keeps_is_a_copy_which_it_cannot_change(child: Child, keeping: Any) -> None:
    values = np.arange(1 << 16, dtype=np.uint64)
    first, _ = answered(child, where, values)
    send_all(child.socket, Free(first.segment))
    done, piece = child.call_array(keeping, values)
    assert done.segment != first.segment
    child.call(spoil)
    np.testing.assert_array_equal(child.answer(done, piece)[1:], values[1:] + 1)
    again, _ = answered(child, where, values)  # and what it kept is free for others when it is gone
    assert again.segment == first.segment


def test_a_strided_answer_is_made_contiguous(shared: Child) -> None:
    values = np.arange(1 << 18, dtype=np.float64)
    done, piece = shared.call_array(lambda a: a[::2], values)
    assert done.place == IN_OWN
    np.testing.assert_array_equal(shared.answer(done, piece), values[::2])


def test_a_small_call_may_have_a_large_answer(shared: Child) -> None:
    done = shared.call(np.zeros, 1 << 16)
    assert (done.place, done.body_bytes) == (IN_OWN, 8 << 16)
    assert not shared.answer(done).any()


def test_a_kept_argument_is_reported_and_its_answer_is_a_copy(child: Child) -> None:
    def hoard(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sys.hoard = values  # type: ignore[attr-defined]
        return values

    values = np.arange(1 << 16, dtype=np.float64)
    done, piece = child.call_array(hoard, values)
    assert (done.place, done.kept) == (IN_OWN, True)
    np.testing.assert_array_equal(child.answer(done, piece), values)


def test_garbage_in_a_cycle_keeps_nothing(shared: Child) -> None:
    def cycle(values: np.ndarray[Any, Any]) -> float:
        loop: list[Any] = [values]
        loop.append(loop)
        return float(values[1])

    done, _ = shared.call_array(cycle, np.arange(1 << 16, dtype=np.float64))
    assert not done.kept


def test_an_exception_does_not_keep_its_argument(shared: Child) -> None:
    def fail(values: np.ndarray[Any, Any]) -> None:
        raise ValueError(values.shape)

    done, _ = shared.call_array(fail, np.arange(1 << 16, dtype=np.float64))
    assert done.statuses[0] == Status.RAISED
    assert not done.kept


def test_own_memory_beyond_the_pools_limit_is_given_back(child: Child) -> None:
    done = child.call(np.zeros, 1 << 26)  # 512 MiB in a pool of 256
    assert done.place == IN_OWN
    send_all(child.socket, Free(done.segment))
    assert child.next(Detach).number == done.segment


# -- recalls, prints, set-up ---------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="run with glibc: this malloc has no options")
def test_memory_that_a_task_frees_is_there_for_the_next_one() -> None:
    program = '''if True:
        import resource, sys
        import numpy as np
        from starcore.worker.slot import keep_freed_memory

        if sys.argv[1] == "keep":
            keep_freed_memory()
        for round in range(11):
            if round == 1:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            several = [np.ones(3 << 17) for _ in range(8)]
            del several
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    '''
    faults = [int(subprocess.check_output([sys.executable, "-c", program, how])) for how in ("keep", "not")]
    assert faults[0] < 1000 < faults[1]


def test_a_recalled_batch_is_not_begun(child: Child) -> None:
    child.board.recall(1)
    job = child.learn(abs)
    child.work(job, [pickling.pack_call((-1,), {}).head] * 3)
    assert child.next(Stopped) == Stopped(1, 0)
    child.work(job, [pickling.pack_call((-1,), {}).head])
    assert child.next(Done).batch == 2


def test_what_a_task_prints_stands_in_the_log_with_its_name(child: Child) -> None:
    def talk(x: int) -> None:
        print("first", x)
        print("no newline", end="")

    child.call(talk, 5)
    child.call(abs, 1)
    lines = child.log().splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["first 5", "no newline"]
    assert all(line.startswith("[m1/0 ") and "talk]" in line for line in lines)


def test_an_initializer_runs_before_the_first_task_and_its_failure_is_told(tmp_path: Path) -> None:
    child = Child(tmp_path, initializer="math:nothing_like_this")
    try:
        assert isinstance(child.setup, Broken)
        assert "math:nothing_like_this" in child.setup.text
        assert child.ended() == 1
    finally:
        child.close()


def test_registered_functions_are_called_by_name(tmp_path: Path) -> None:
    child = Child(tmp_path, functions=["math:factorial"])
    try:
        for job, name in enumerate(("math:factorial", ""), start=1):
            send_all(child.socket, Learn(job, FunctionKind.REGISTERED, bytes(32), name))
            child.work(job, [pickling.pack_call((5,), {}).head])
            assert child.answer(child.next(Done)) == 120
    finally:
        child.close()


def test_a_name_that_is_no_function_is_refused() -> None:
    assert find_function("os.path:join") is os.path.join
    for name in ("nowhere:f", "math:nothing", "math:pi", "math"):
        with pytest.raises(LoadError):
            find_function(name)
