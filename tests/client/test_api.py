"""The public calls: what is refused at the call, and what comes back through a real connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.client.api import Client
from starcore.errors import ArgumentTypeError, ArgumentValueError, UnconfiguredError, UntrustedError
from starcore.messages import Job, Submit

from .inline_manager import InlineStar, inline_star

SECONDS = 10.0


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineStar]:
    registered = {"": np.cumsum, "science:double": lambda array: array * 2}
    with inline_star(tmp_path_factory.mktemp("star"), registered) as star:
        yield star


@pytest.fixture
def client(star: InlineStar) -> Iterator[Client]:
    star.core.held = False
    with Client(star.address, join=star.join) as client:
        yield client


def submits(star: InlineStar) -> int:
    return star.call(lambda: sum(type(message) is Submit for message in star.core.seen))


# -- refused at the call -----------------------------------------------------------------------------------------

A = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"fn": 3}, ArgumentTypeError, "a function is needed, not an int"),
        ({"fn": "no-name"}, ArgumentValueError, "package.module:name"),
        ({"fn": threading.Lock().acquire}, ArgumentTypeError, "cannot be pickled"),
        ({"array": [1, 2]}, ArgumentTypeError, "an array is needed, not list"),
        ({"array": np.array([object()])}, ArgumentTypeError, "Python objects"),
        ({"chunks": 0}, ArgumentValueError, "chunks is 0"),
        ({"chunks": 5}, ArgumentValueError, "the axis has 4 rows"),
        ({"chunks": 1.5}, ArgumentTypeError, "chunks must be an int"),
        ({"chunks": "all"}, ArgumentTypeError, "chunks must be an int"),
        ({"chunks": 1, "axis": 2}, ArgumentValueError, "axis 2"),
        ({"chunks": 1, "array": np.array(1.0)}, ArgumentValueError, "0-d"),
        ({"out": [0.0]}, ArgumentTypeError, "`out` must be a numpy array"),
        ({"out": A}, ArgumentValueError, "share memory"),
        ({"out": np.broadcast_to(1.0, (4, 3))}, ArgumentValueError, "read-only"),
        ({"args": "xy"}, ArgumentTypeError, "args must be"),
        ({"args": 5}, ArgumentTypeError, "args must be"),
        ({"kwargs": [1]}, ArgumentTypeError, "kwargs must be"),
        ({"args": (threading.Lock(),)}, ArgumentTypeError, "arguments cannot be pickled"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    star: InlineStar, client: Client, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = submits(star)
    call = {"fn": np.negative, "array": A, **arguments}
    with pytest.raises(error, match=words) as caught:
        client.submit_array(call.pop("fn"), call.pop("array"), **call)
    assert "\n" not in str(caught.value)
    client.status()
    assert submits(star) == before


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retries": -1}, ArgumentValueError),
        ({"retries": 1.5}, ArgumentTypeError),
        ({"retries": True}, ArgumentTypeError),
        ({"retries": 1 << 32}, ArgumentValueError),
        ({"timeout": 0}, ArgumentValueError),
        ({"timeout": float("inf")}, ArgumentValueError),
        ({"timeout": float("nan")}, ArgumentValueError),
        ({"timeout": "1"}, ArgumentTypeError),
        ({"priority": 1 << 31}, ArgumentValueError),
        ({"priority": None, "retries": "x"}, ArgumentTypeError),
    ],
)
def test_wrong_options_are_refused(client: Client, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        client.options(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunksize": 0}, ArgumentValueError),
        ({"chunksize": "big"}, ArgumentTypeError),
        ({"buffersize": 0}, ValueError),
    ],
)
def test_wrong_sizes_of_a_map_are_refused_at_the_call(client: Client, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        client.map(abs, [1], **options)


def test_answer_that_does_not_fit_out_is_refused_when_it_comes(client: Client) -> None:
    for shape, chunks in (((4, 4), None), ((4, 3), None), ((3, 3), 2)):
        out = np.empty(shape, np.float32)
        with pytest.raises(ArgumentValueError, match="`out` is float32"):
            client.submit_array(np.negative, A, out=out, chunks=chunks).result(SECONDS)


# -- calls -------------------------------------------------------------------------------------------------------


def test_client_is_an_executor_with_real_futures(client: Client) -> None:
    future = client.submit(divmod, 17, 5)
    assert isinstance(client, Executor)
    assert isinstance(future, Future)
    assert future.result(SECONDS) == (3, 2)
    assert client._max_workers == client.slots == 2


def test_exception_is_its_own_class_with_the_remote_traceback(client: Client) -> None:
    error = client.submit(divmod, 1, 0).exception(SECONDS)
    assert isinstance(error, ZeroDivisionError)
    assert "Traceback" in str(error.__cause__)


@pytest.mark.parametrize("size", [3, 200_000])
@pytest.mark.parametrize("chunks", [None, 1, "auto"])
@pytest.mark.parametrize("use_out", [False, True])
def test_array_comes_back_as_the_function_made_it(client: Client, size: int, chunks: Any, use_out: bool) -> None:
    array = np.arange(3.0 * size).reshape(3, size)
    out = np.empty_like(array) if use_out else None
    answer = client.submit_array(np.negative, array, chunks=chunks, out=out).result(SECONDS)
    assert np.array_equal(answer, -array)
    assert answer.flags.writeable
    assert out is None or answer is out


def test_blocks_are_cut_and_joined_along_the_axis(client: Client) -> None:
    array = np.asfortranarray(np.arange(60.0).reshape(5, 12))
    answer = client.submit_array(np.cumsum, array, args=(0,), chunks=5, axis=-1).result(SECONDS)
    assert np.array_equal(answer, np.cumsum(array, 0))


def test_small_array_is_copied_at_the_call_and_a_large_one_where_it_is_asked_for(
    star: InlineStar, client: Client
) -> None:
    star.hold()
    small, large = np.ones(4), np.ones(100_000)
    futures = [client.submit_array(np.sum, small), client.submit_array(np.sum, large, copy=True)]
    small[:] = large[:] = 0
    star.let_go()
    assert [future.result(SECONDS) for future in futures] == [4.0, 100_000.0]


def test_function_may_write_to_its_argument(client: Client) -> None:
    def wipe(array: Any) -> Any:
        array[:] = 0
        return array

    for size in (5, 100_000):
        array = np.ones(size)
        assert client.submit_array(wipe, array).result(SECONDS).sum() == 0
        assert array.sum() == size


def test_registered_functions_are_called_by_name(client: Client) -> None:
    assert client.submit_array("science:double", A).result(SECONDS)[3, 2] == 22.0
    assert [answer[-1] for answer in client.run([np.ones(3), np.ones(4)])] == [3.0, 4.0]
    assert client.run([np.ones(3)], np.sum) == [3.0]
    assert client.run([]) == []


def test_run_checks_all_its_inputs_first(star: InlineStar, client: Client) -> None:
    before = submits(star)
    with pytest.raises(ArgumentTypeError):
        client.run([np.ones(3), "no array"])
    assert submits(star) == before


def test_options_make_a_job_of_their_own_and_add_up(star: InlineStar, client: Client) -> None:
    view = client.options(retries=2, timeout=1.5).options(priority=-1)
    assert view.submit(abs, -3).result(SECONDS) == 3
    jobs = star.call(lambda: [message for message in star.core.seen if type(message) is Job])
    assert (jobs[-1].retries, jobs[-1].timeout_seconds, jobs[-1].priority) == (2, 1.5, -1)
    assert view.slots == client.slots
    assert view.address == client.address == star.address


def test_status_is_the_managers_own_words(client: Client) -> None:
    assert client.status() == {"workers": 1, "waiting": 0}


def test_untrusting_client_takes_arrays_and_plain_answers_only(star: InlineStar) -> None:
    with Client(star.address, join=star.join, trust_results=False) as client:
        assert client.submit(dict, a=[1, 2.5, "x"]).result(SECONDS) == {"a": [1, 2.5, "x"]}
        with pytest.raises(UntrustedError):
            client.submit(Path, "x").result(SECONDS)


# -- map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", ["auto", 1, 7])
def test_map_is_the_builtin_elsewhere(client: Client, chunksize: Any) -> None:
    numbers = range(1000)
    assert list(client.map(pow, numbers, [2] * 900, chunksize=chunksize)) == [number**2 for number in range(900)]


def test_map_packs_small_calls(star: InlineStar, client: Client) -> None:
    before = star.core.sequence
    list(client.map(abs, range(20_000)))
    assert star.core.sequence - before < 2000


@pytest.mark.parametrize("options", [{"retries": 1}, {"timeout": 5.0}])
def test_map_gives_every_call_the_options_for_itself(star: InlineStar, client: Client, options: Any) -> None:
    before = star.call(lambda: len(star.core.seen))
    assert list(client.options(**options).map(abs, range(-60, 0), chunksize=30)) == list(range(60, 0, -1))
    messages = star.call(lambda: star.core.seen[before:])
    assert sum(len(message.head_sizes) for message in messages if type(message) is Submit) == 60


def test_map_of_an_endless_iterable_yields_as_it_goes(client: Client) -> None:
    results = client.map(abs, count(), buffersize=10)
    assert [next(results) for _ in range(50)] == list(range(50))
    results.close()


def test_map_raises_what_a_call_raised_in_its_turn(client: Client) -> None:
    results = client.map(divmod, [1] * 10, [1] * 5 + [0] * 5)
    assert [next(results) for _ in range(5)] == [(1, 0)] * 5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out(star: InlineStar, client: Client) -> None:
    star.hold()
    with pytest.raises(FutureTimeoutError):
        list(client.map(abs, range(3), timeout=0.01))
    star.let_go()


def test_address_without_credentials_is_an_error_and_no_local_star(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(tmp_path / "run"))
    with pytest.raises(UnconfiguredError, match="--join"):
        Client("127.0.0.1:4444")


def test_submits_from_callbacks_and_waits_from_many_futures(client: Client) -> None:
    chained: list[Future[Any]] = []
    first = client.submit(abs, -1)
    first.add_done_callback(lambda done: chained.append(client.submit(abs, -done.result() - 1)))
    wait([first], SECONDS)
    client.status()
    assert chained[0].result(SECONDS) == 2
