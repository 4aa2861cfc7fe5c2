"""The process behind a slot: started, killed with all it started, its end named."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from starcore import pickling
from starcore.messages import FunctionKind
from starcore.worker import channel
from starcore.worker import process as worker_process
from starcore.worker.blackbox import STACK_SIGNAL
from starcore.worker.channel import Attach, Learn, Ready, Record, Setup, Work
from starcore.worker.process import THREAD_VARIABLES, SlotProcess, _cause, slot_environment


class Heard:
    """An owner that keeps what it hears."""

    def __init__(self) -> None:
        self.records: asyncio.Queue[Record] = asyncio.Queue()
        self.untold = 0
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def said(self, process: SlotProcess, record: Record) -> None:
        self.records.put_nowait(record)
        self.untold += 1

    def said_all(self, process: SlotProcess) -> None:
        self.untold = 0

    def ended(self, process: SlotProcess, cause: str) -> None:
        self.end.set_result(cause)


@asynccontextmanager
async def started() -> AsyncIterator[tuple[SlotProcess, Heard]]:
    heard = Heard()
    lifeline = os.pipe()
    process = SlotProcess(0, heard, asyncio.get_running_loop(), lifeline[0], slot_environment(os.environ, 2, 1))
    process.send(Setup(0, "", [], 1 << 20))
    assert isinstance(await asyncio.wait_for(heard.records.get(), 20), Ready)
    yield process, heard
    process.kill()
    await asyncio.wait_for(heard.end, 20)
    for end in lifeline:
        os.close(end)


def run(test: Callable[[], Awaitable[None]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(test())  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == before


def order(process: SlotProcess, function: Callable[..., Any], *args: Any) -> None:
    shipped = pickling.ship(function)
    process.send(Learn(1, FunctionKind.SHIPPED, shipped.digest, "fn", 0, len(shipped.blob), shipped.blob))
    head = pickling.pack_call(args, {}).head
    process.send(Work(1, 1, 0, 0, 0, array("I", [len(head)]), head))


def test_a_death_is_told_by_its_signal_and_the_board_outlives_it() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, os.kill, os.getpid() and 0, 9)  # its own group
            assert "SIGKILL (from outside" in await asyncio.wait_for(heard.end, 20)
            assert process.board.read()[:3] == (1, 1, True)

    run(test)


def test_a_process_that_has_ended_is_gone_before_anybody_is_told() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, time.sleep, 60)
            while not process.board.read()[2]:
                await asyncio.sleep(0)
            assert not process.gone
            os.kill(process.pid, signal.SIGSEGV)
            deadline = time.monotonic() + 20
            while not process.gone:  # without the loop, as in a supervisor that was stopped meanwhile
                assert time.monotonic() < deadline
            assert process.board.read()[2]
            assert process.alive
            assert await asyncio.wait_for(heard.end, 20) == "SIGSEGV"
            assert process.gone

    run(test)


@contextmanager
def unkept_exits() -> Iterator[None]:
    """The kernel keeps no exit code for who ignores SIGCHLD, as a program may that started this one."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_exit_that_the_kernel_kept_for_nobody_is_told_all_the_same() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, os._exit, 3)
            assert (await asyncio.wait_for(heard.end, 20)).startswith("an unknown cause")
            assert process.gone

    with unkept_exits():
        run(test)


def test_a_process_that_the_kernel_kept_for_nobody_is_gone_before_anybody_is_told() -> None:
    async def test() -> None:
        async with started() as (process, _):
            assert not process.gone
            os.kill(process.pid, signal.SIGKILL)
            deadline = time.monotonic() + 20
            while not process.gone:
                assert time.monotonic() < deadline
            assert process.alive

    with unkept_exits():
        run(test)


def test_a_process_that_finds_no_channel_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test() -> None:
        async with started() as (_, heard):
            before = len(os.listdir("/proc/self/fd"))
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socketpair", full)
                with pytest.raises(OSError, match="Too many open files"):
                    SlotProcess(1, heard, asyncio.get_running_loop(), 0, {})
            assert len(os.listdir("/proc/self/fd")) == before

    run(test)


def test_a_death_with_something_unread_is_told_by_its_signal() -> None:
    """Its channel is closed before it has ended, and whoever looks there first finds a broken one."""

    async def test() -> None:
        async with started() as (process, heard):
            os.kill(process.pid, signal.SIGSTOP)
            order(process, abs, -1)
            os.kill(process.pid, signal.SIGSEGV)
            os.kill(process.pid, signal.SIGCONT)
            while not process.gone:
                pass
            process._readable()  # as where the channel's end is seen first
            assert await asyncio.wait_for(heard.end, 20) == "SIGSEGV"

    run(test)


@pytest.mark.parametrize("unread", [False, True])
def test_a_slot_that_closed_its_channel_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch, unread: bool) -> None:
    def close(unread: bool) -> None:
        import os as system  # noqa: PLC0415
        import time as clock  # noqa: PLC0415

        clock.sleep(0.5 * unread)
        system.closerange(3, 100)
        clock.sleep(60)

    async def test() -> None:
        async with started() as (process, heard):
            order(process, close, unread)
            while not process.board.read()[2]:
                await asyncio.sleep(0)
            if unread:
                order(process, abs, -1)
            assert (await asyncio.wait_for(heard.end, 20)).startswith("a broken channel (")

    monkeypatch.setattr(worker_process, "CLOSED_SECONDS", 0.2)
    run(test)


def test_the_end_of_what_a_slot_said_is_told_with_it() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, abs, -1)
            await asyncio.wait_for(heard.records.get(), 20)
            assert heard.untold == 0

    run(test)


def test_a_record_that_cannot_be_taken_costs_the_slot_and_not_the_answer() -> None:
    """A segment that cannot be mapped, say: its task runs again, where an escaped exception left it waiting."""

    async def test() -> None:
        async with started() as (process, heard):

            def said(process: SlotProcess, record: Record) -> None:
                raise OSError("no memory to map")

            heard.said = said  # type: ignore[method-assign]
            order(process, abs, -1)
            assert await asyncio.wait_for(heard.end, 20) == "a broken channel (no memory to map)"

    run(test)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "when there is room"])
def test_a_record_that_cannot_be_sent_ends_the_slot(monkeypatch: pytest.MonkeyPatch, later: bool) -> None:
    """It would wait for ever for what comes after it, and everybody for its answers."""

    def fail(*args: Any) -> int:
        raise OSError("no room for a descriptor")

    async def test() -> None:
        async with started() as (process, heard):
            if later:
                order(process, bytes, 0)
                await asyncio.wait_for(heard.records.get(), 20)
                os.kill(process.pid, signal.SIGSTOP)
                while not process._outlet._queue:
                    process.send(Work(9, 9, 0, 0, 0, array("I", [50 << 10] * 20), bytes(1000 << 10)))
                process.send(Attach(1, 1), 2)
                monkeypatch.setattr(channel, "send_some", fail)
                os.kill(process.pid, signal.SIGCONT)
            else:
                monkeypatch.setattr(channel, "send_some", fail)
                process.send(Attach(1, 1), 2)
            assert await asyncio.wait_for(heard.end, 20) == "a broken channel (no room for a descriptor)"
            monkeypatch.undo()

    run(test)


def test_what_a_task_started_ends_with_its_slot() -> None:
    def start() -> int:
        import subprocess  # noqa: PLC0415

        return subprocess.Popen(["sleep", "60"]).pid

    async def test() -> None:
        async with started() as (process, heard):
            order(process, start)
            done: Any = await asyncio.wait_for(heard.records.get(), 20)
            pid = pickling.unpack_answer(done.heads)
            assert psutil.pid_exists(pid)
            process.kill()
            assert await asyncio.wait_for(heard.end, 20) == "SIGKILL"
            deadline = time.monotonic() + 10
            while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline
                await asyncio.sleep(0)

    run(test)


def test_a_slot_that_is_told_to_leave_leaves() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            process.leave()
            assert await asyncio.wait_for(heard.end, 20) == "exit code 0"
            process.send(Setup(0, "", [], 0))  # lost, and no error

    run(test)


@pytest.mark.parametrize(
    ("code", "ours", "short", "text"),
    [
        (None, False, False, "an unknown cause"),
        (0, False, False, "exit code 0"),
        (3, False, False, "exit code 3"),
        (-11, False, True, "SIGSEGV"),
        (-9, True, True, "SIGKILL"),
        (-9, False, False, "SIGKILL (from outside; perhaps "),
        (-9, False, True, "SIGKILL (from outside; probably out of memory: "),
    ],
)
def test_causes_have_names(code: int | None, ours: bool, short: bool, text: str) -> None:
    assert _cause(code, ours, short).startswith(text)


def crash_in_fit(how: str) -> None:
    import ctypes  # noqa: PLC0415
    import os as system  # noqa: PLC0415

    if how == "abort":
        system.abort()
    ctypes.string_at(0)


@pytest.mark.parametrize("how", ["abort", "segfault"])
def test_a_fault_leaves_the_stack_of_the_task_and_nothing_of_ours(how: str) -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, crash_in_fit, how)
            await asyncio.wait_for(heard.end, 20)
            assert "in crash_in_fit" in process.stack
            assert "worker/slot.py" not in process.stack
            assert process.peak.endswith(("MiB", "GiB"))

    run(test)


class AbortOnLoading:
    def __reduce__(self) -> Any:
        return os.abort, ()


def test_a_fault_in_loading_a_function_leaves_nothing_of_ours_in_the_stack() -> None:
    there = AbortOnLoading()

    async def test() -> None:
        async with started() as (process, heard):
            order(process, lambda: there)
            assert await asyncio.wait_for(heard.end, 20) == "SIGABRT"
            assert process.board.read()[:3] == (1, 1, True)
            assert "starcore" not in process.stack

    run(test)


def hold_the_interpreter(directory: str) -> None:
    """Sleep for a minute in C, with the interpreter's lock held: no line of Python runs here any more."""
    import ctypes  # noqa: PLC0415
    import pathlib  # noqa: PLC0415

    pathlib.Path(directory, "begun").touch()
    ctypes.PyDLL(None).sleep(60)


def test_a_slot_that_holds_the_interpreters_lock_says_where_before_it_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, hold_the_interpreter, str(tmp_path))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0)
            process.kill(stack=True)
            assert await asyncio.wait_for(heard.end, 20) == STACK_SIGNAL.name
            assert heard.untold == 0, "the sleep that the signal cut short passed for an answer"
            assert "in hold_the_interpreter" in process.stack

    run(test)


def clean_up(directory: str, seconds: float, way: str) -> None:
    import pathlib  # noqa: PLC0415 - pickled by value
    import time  # noqa: PLC0415

    begun = pathlib.Path(directory, "begun")
    begun.touch()
    try:
        if way == "C":
            sum(range(1 << 50))  # looks for no signal
        time.sleep(60)
    except KeyboardInterrupt:
        if way == "swallows":
            time.sleep(60)
        raise
    finally:
        time.sleep(seconds)
        pathlib.Path(directory, "cleaned").touch()


@pytest.mark.parametrize(
    ("seconds", "way", "cleaned"),
    [(0.0, "raises", True), (60.0, "raises", False), (0.0, "swallows", False), (0.0, "C", False)],
)
def test_a_cancelled_task_may_clean_up_for_a_moment(tmp_path: Path, seconds: float, way: str, cleaned: bool) -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, clean_up, str(tmp_path), seconds, way)
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            begun = time.monotonic()
            process.kill(kindly=True)
            process.kill(kindly=True)  # said again meanwhile: nothing more
            end = await asyncio.wait_for(heard.end, 20)
            assert time.monotonic() - begun < 0.9
            assert end == ("exit code 1" if cleaned else "SIGKILL")
            assert (tmp_path / "cleaned").exists() == cleaned
            assert heard.records.empty(), "nobody waits for its answer"

    run(test)


def test_a_slot_that_is_dropped_waits_for_no_clean_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, clean_up, str(tmp_path), 60.0, "raises")
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            process.kill(kindly=True)
            process.kill()
            assert await asyncio.wait_for(heard.end, 20) == "SIGKILL"

    run(test)


def test_a_slot_that_waits_for_work_leaves_without_a_word() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            process.kill(kindly=True)
            assert await asyncio.wait_for(heard.end, 20) == "exit code 1"

    run(test)


def test_a_frozen_slot_is_killed_though_it_cannot_say_where_it_is() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            os.kill(process.pid, signal.SIGSTOP)
            process.kill(stack=True)
            assert await asyncio.wait_for(heard.end, 20) == "SIGKILL"
            assert process.stack == ""

    run(test)


def take_memory(mebibytes: int) -> None:
    import os as system  # noqa: PLC0415

    assert bytearray(mebibytes << 20)
    system.abort()


def test_the_peak_is_that_of_the_slot() -> None:
    async def test() -> None:
        async with started() as (process, heard):
            order(process, take_memory, 400)
            await asyncio.wait_for(heard.end, 20)
            figure, unit = process.peak.removeprefix("below ").split()
            mebibytes = float(figure) * {"MiB": 1, "GiB": 1024}[unit]
            assert mebibytes >= 400
            assert mebibytes < 800 or process.peak.startswith("below ")  # as where this process was that large itself

    run(test)


def test_threads_are_shared_between_slots_unless_the_user_says_otherwise() -> None:
    environment = slot_environment({"MKL_NUM_THREADS": "7"}, 8, 2)
    assert environment["MKL_NUM_THREADS"] == "7"
    assert {environment[name] for name in THREAD_VARIABLES if name != "MKL_NUM_THREADS"} == {"4"}
    assert slot_environment({}, 2, 8)["OMP_NUM_THREADS"] == "1"
