"""The client's shell against a manager that runs calls where it stands: real TLS, threads, forks."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.client.api import Client
from starcore.client.core import JOBS_IDLE_MAX
from starcore.dialing import Dialer
from starcore.errors import Code, CredentialsError, RefusedError, ResultError, SessionLostError, UnreachableError
from starcore.events import Send
from starcore.messages import Ack, Blob, Cancel, Goodbye, Hello, Job, Submit

from .inline_manager import InlineStar, inline_star

SECONDS = 10.0


@pytest.fixture
def star(tmp_path: Path) -> Iterator[InlineStar]:
    with inline_star(tmp_path) as star:
        yield star


@pytest.fixture
def client(star: InlineStar) -> Iterator[Client]:
    with Client(star.address, join=star.join) as client:
        yield client


def seen(star: InlineStar, kind: type) -> list[Any]:
    return star.call(lambda: [message for message in star.core.seen if type(message) is kind])


def ripen(client: Client) -> None:
    """Return when everything that was said so far is through both threads."""
    client.status()


# -- calls -------------------------------------------------------------------------------------------------------


def test_burst_of_submits_becomes_few_frames_and_one_function(star: InlineStar, client: Client) -> None:
    futures = [client.submit(pow, number, 2) for number in range(2000)]
    assert [future.result(SECONDS) for future in futures] == [number * number for number in range(2000)]
    assert len(seen(star, Blob)) == len(seen(star, Job)) == 1
    assert len(seen(star, Submit)) < 1000


def test_every_outcome_is_acknowledged(star: InlineStar, client: Client) -> None:
    client.submit_array(np.negative, np.zeros(100_000)).result(SECONDS)
    for number in range(10):
        client.submit(abs, number).result(SECONDS)
    client.shutdown()
    assert star.core.unacknowledged == {}


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_works_on_either_loop(star: InlineStar, loop: str) -> None:
    array = np.random.default_rng(1).normal(size=(300, 300))
    with Client(star.address, join=star.join, loop=loop) as client:
        assert np.array_equal(client.submit_array(np.sort, array).result(SECONDS), np.sort(array))


def test_many_threads_share_one_client(client: Client) -> None:
    found: list[bool] = []

    def work(base: int) -> None:
        found.extend(client.submit(divmod, base, 7).result(SECONDS) == divmod(base, 7) for _ in range(50))

    threads = [threading.Thread(target=work, args=(base,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 400


def test_futures_work_inside_a_running_loop(client: Client) -> None:
    async def work() -> list[Any]:
        futures = [asyncio.wrap_future(client.submit(abs, -number)) for number in range(20)]
        return await asyncio.gather(*futures)

    assert asyncio.run(work()) == list(range(20))


def test_argument_and_answer_are_kept_by_nobody_after_the_future_is_gone(client: Client) -> None:
    array = np.zeros(100_000)
    future = client.submit_array(np.negative, array)
    answer = future.result(SECONDS)
    kept = [weakref.ref(array), weakref.ref(answer), weakref.ref(future)]
    del array, answer, future
    ripen(client)
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3


# -- cancel ------------------------------------------------------------------------------------------------------


def test_cancelled_call_is_done_at_once_for_everybody_who_waits(star: InlineStar, client: Client) -> None:
    star.hold()
    futures = [client.submit(abs, number) for number in range(3)]
    assert futures[1].cancel()
    assert futures[1].cancel()
    done, _ = wait(futures, timeout=0)
    assert done == {futures[1]}
    assert list(as_completed([futures[1]], timeout=SECONDS)) == [futures[1]]
    ripen(client)
    assert list(seen(star, Cancel)[0].indices) == [1]
    star.let_go()
    assert futures[2].result(SECONDS) == 2


def test_running_call_is_not_cancelled_but_the_client_can_kill_it(star: InlineStar, client: Client) -> None:
    star.hold()
    future = client.submit(abs, 1)
    ripen(client)
    star.say_running(1, 0)
    ripen(client)
    assert future.running()
    assert not future.cancel()
    assert client.cancel(future)
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(0)
    ripen(client)
    assert seen(star, Cancel)[0].kill
    star.let_go()


def test_a_destructor_that_runs_in_the_middle_of_a_submit_may_cancel(star: InlineStar, client: Client) -> None:
    star.hold()
    future = client.submit(abs, 1)
    session = client._session
    assert session is not None

    def collected() -> None:
        with session._lock:  # where `submit` takes memory, so that the garbage collector may run
            future.cancel()

    thread = threading.Thread(target=collected, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for itself"
    assert future.cancelled()


def test_cancelling_the_whole_cancels_its_blocks(star: InlineStar, client: Client) -> None:
    star.hold()
    whole = client.submit_array(np.negative, np.zeros(1000), chunks=250)
    assert whole.cancel()
    assert whole.cancelled()
    ripen(client)
    assert sorted(index for message in seen(star, Cancel) for index in message.indices) == [0, 1, 2, 3]
    star.let_go()


def test_cancel_of_what_is_done_is_false(client: Client) -> None:
    future = client.submit(abs, 1)
    future.result(SECONDS)
    assert not future.cancel()
    assert not client.cancel(future)


# -- connections that break --------------------------------------------------------------------------------------


def test_work_goes_on_over_a_new_connection(star: InlineStar, client: Client) -> None:
    star.hold()
    array = np.arange(200_000.0)
    futures = [client.submit_array(np.negative, array), client.submit(abs, -5)]
    ripen(client)
    star.cut()
    star.let_go()
    assert np.array_equal(futures[0].result(SECONDS), -array)
    assert futures[1].result(SECONDS) == 5


def test_manager_that_forgot_everything_gets_everything_again(star: InlineStar, client: Client) -> None:
    star.hold()
    futures = [client.submit(abs, -number) for number in range(10)]
    ripen(client)
    star.core.resumes = False
    star.cut()
    star.let_go()
    assert [future.result(SECONDS) for future in futures] == list(range(10))
    assert len(seen(star, Blob)) == 2


def test_nobody_at_the_address_is_one_clear_error(star: InlineStar, free_port: int) -> None:
    with pytest.raises(UnreachableError, match="nobody listens"):
        Client(f"127.0.0.1:{free_port}", join=star.join, connect_seconds=0.3)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_port_that_takes_and_stays_silent_is_told_as_no_answer(star: InlineStar, loop: str) -> None:
    """And the interpreter ends without a word about tasks that were left."""
    script = """
        import sys
        from starcore.client.api import Client
        try:
            Client(sys.argv[1], join=sys.argv[2], connect_seconds=2.0, loop=sys.argv[3])
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = [sys.executable, "-c", textwrap.dedent(script), address, str(star.join), loop]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=True)
    words = "is the address right, and does a firewall let it through?"
    assert (done.stdout, done.stderr) == (f"UnreachableError: no answer from {address}: {words}\n", "")


def test_manager_that_answers_and_says_no_welcome_is_told_as_such(star: InlineStar) -> None:
    star.core.mute = True
    with pytest.raises(UnreachableError, match=r"answers, but did not say WELCOME within 0\.3 s"):
        Client(star.address, join=star.join, connect_seconds=0.3)


def test_drain_that_does_not_end_is_said_once_and_named_by_the_error(
    star: InlineStar, caplog: pytest.LogCaptureFixture
) -> None:
    star.core.refusal = Goodbye(Code.DRAINING, "this manager is shutting down")
    with caplog.at_level("INFO", "starcore.client"), pytest.raises(UnreachableError) as caught:
        Client(star.address, join=star.join, connect_seconds=1.0)
    said = "the manager said goodbye: this manager is shutting down"
    assert str(caught.value) == f"no session with {star.address} within 1 s: {said}"
    assert len(seen(star, Hello)) > 2
    ours = [record.getMessage() for record in caplog.records if record.name == "starcore.client"]
    assert ours == [f"starcore: {said}; trying to reach it again"]


def test_goodbye_is_said_again_after_a_link_was_up(
    star: InlineStar, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def drain() -> None:
        goodbye = Goodbye(Code.DRAINING, "this manager is shutting down")
        star.driver._perform(Send(star.core.link, goodbye))

    with caplog.at_level("INFO", "starcore.client"):
        for times in (1, 2):
            star.call(drain)
            deadline = time.monotonic() + SECONDS
            while len(caplog.records) < times and time.monotonic() < deadline:
                time.sleep(0.01)
            assert client.submit(abs, -3).result(SECONDS) == 3
    assert ["said goodbye" in record.getMessage() for record in caplog.records] == [True, True]


def test_dialer_is_through_before_the_loop_is_closed(star: InlineStar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it takes to put an attempt away, no task is left behind."""
    left: list[Any] = []

    async def attempt(dialer: Dialer, *arguments: Any) -> None:
        left.append(asyncio.current_task())
        try:
            await asyncio.sleep(SECONDS)
        finally:
            await asyncio.sleep(0.2)

    monkeypatch.setattr(Dialer, "_attempt", attempt)
    with pytest.raises(UnreachableError) as caught:
        Client(star.address, join=star.join, connect_seconds=0.1)
    assert "no answer" in str(caught.value)
    deadline = time.monotonic() + SECONDS
    while not left[0].done() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [task.done() for task in left] == [True]


def test_manager_of_another_star_is_one_clear_error(star: InlineStar, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with inline_star(other) as foreign, pytest.raises(CredentialsError, match="another star"):
        Client(star.address, join=foreign.join)


def test_refusal_is_one_clear_error(star: InlineStar) -> None:
    star.core.refusal = Goodbye(Code.VERSION, "this manager speaks version 2")
    with pytest.raises(RefusedError, match="version 2") as caught:
        Client(star.address, join=star.join)
    assert caught.value.code == Code.VERSION


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the end -----------------------------------------------------------------------------------------------------


def test_shutdown_waits_for_results_and_refuses_more(star: InlineStar) -> None:
    client = Client(star.address, join=star.join)
    futures = [client.submit(abs, -number) for number in range(100)]
    client.shutdown()
    assert all(future.done() for future in futures)
    with pytest.raises(SessionLostError):
        client.submit(abs, 1)
    with pytest.raises(RuntimeError):
        client.submit(abs, 1)


def test_shutdown_can_cancel_what_waits(star: InlineStar) -> None:
    star.hold()
    client = Client(star.address, join=star.join)
    futures = [client.submit(abs, -number) for number in range(100)]
    client.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_session_that_is_refused_later_fails_its_futures(star: InlineStar, client: Client) -> None:
    star.hold()
    future = client.submit(abs, 1)
    ripen(client)
    star.core.refusal = Goodbye(Code.VERSION, "too new")
    star.cut()
    with pytest.raises(RefusedError, match="too new"):
        future.result(SECONDS)
    with pytest.raises(RefusedError):
        client.submit(abs, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="run on Linux or macOS: no fork here")
def test_forked_child_fails_what_it_inherited_and_begins_anew(star: InlineStar, client: Client) -> None:
    star.hold()
    future = client.submit(abs, -1)
    ripen(client)
    child = os.fork()
    if not child:
        try:
            failed = isinstance(future.exception(0), SessionLostError)
            star.core.held = False  # the child's copy; the parent's manager is the one that answers
            os._exit(0 if failed and client.submit(abs, -7).result(SECONDS) == 7 else 1)
        finally:
            os._exit(2)
    star.core.held = False
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert future.cancel()


def test_interpreter_ends_cleanly_with_work_outstanding(star: InlineStar) -> None:
    star.hold()
    script = f"""
        from starcore.client.api import Client
        client = Client({star.address!r}, join={str(star.join)!r})
        futures = [client.submit(abs, -number) for number in range(100)]
        print("made")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("made\n", "")


def test_pending_futures_are_counted_while_they_end(star: InlineStar, client: Client) -> None:
    futures = [client.submit(abs, number) for number in range(20_000)]
    while not futures[-1].done():
        assert len(client._live().pending()) <= len(futures)


def test_acknowledgements_are_few(star: InlineStar, client: Client) -> None:
    for _ in range(20):
        [future.result(SECONDS) for future in [client.submit(abs, number) for number in range(50)]]
    client.shutdown()
    assert len(seen(star, Ack)) < 1000


class Leaves:
    """Ends whoever unpickles it, as a module may that is no library."""

    def __reduce__(self) -> Any:
        return (sys.exit, (3,))


def test_answer_that_ends_whoever_loads_it_is_an_error_of_its_own_call(client: Client) -> None:
    bad, good = client.submit(lambda: [Leaves()]), client.submit(abs, -3)
    with pytest.raises(ResultError, match="cannot be loaded: SystemExit: 3"):
        bad.result(SECONDS)
    assert good.result(SECONDS) == 3
    assert client.submit(abs, -4).result(SECONDS) == 4


def test_callback_that_ends_the_program_leaves_the_session_its_end(star: InlineStar) -> None:
    star.hold()
    client = Client(star.address, join=star.join)
    first, second = client.submit(abs, -1), client.submit(abs, -2)
    first.add_done_callback(lambda _: sys.exit("no answer"))
    assert client._session is not None
    client._session.end(abandon=True)
    for future in (first, second):
        assert isinstance(future.exception(SECONDS), SessionLostError)
    client.shutdown()


def test_refused_calls_do_not_keep_their_arguments(star: InlineStar) -> None:
    client = Client(star.address, join=star.join)
    client.submit(abs, -1).result(SECONDS)
    client.shutdown()

    def attempt() -> weakref.ref[Any]:
        array = np.zeros(1000)
        with pytest.raises(SessionLostError):
            client.submit_array(np.negative, array)
        return weakref.ref(array)

    kept = [attempt() for _ in range(5)]
    gc.collect()
    assert [each() for each in kept] == [None] * 5


def test_each_future_of_a_lost_session_has_an_error_of_its_own(star: InlineStar) -> None:
    star.hold()
    client = Client(star.address, join=star.join)
    futures = [client.submit(abs, -number) for number in range(3)]
    assert client._session is not None
    client._session.end(abandon=True)
    errors = [future.exception(SECONDS) for future in futures]
    assert len({id(error) for error in errors}) == 3
    assert len({str(error) for error in errors}) == 1


def test_function_that_a_map_kept_while_it_was_forgotten_costs_no_connection(star: InlineStar, client: Client) -> None:
    """So its name stood for two jobs, one after the other."""

    def others(count: int) -> None:
        functions = [eval(f"lambda value: value + {number}") for number in range(count)]
        for number, future in enumerate([client.submit(function, 1) for function in functions]):
            assert future.result(SECONDS) == number + 1

    results = client.map(abs, range(4), chunksize=1, buffersize=1)
    next(results)
    others(JOBS_IDLE_MAX + 20)
    assert client.submit(abs, -10).result(SECONDS) == 10
    assert list(results) == [1, 2, 3]
    others(2 * JOBS_IDLE_MAX)
    assert not seen(star, Goodbye)
    assert len(seen(star, Hello)) == 1
