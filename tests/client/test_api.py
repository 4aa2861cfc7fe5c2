"""The public calls: what is refused at the call, and what comes back through a real connection."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.client.api import Client
from starcore.errors import ArgumentTypeError, ArgumentValueError, UnconfiguredError, UntrustedError
from starcore.messages import Submit

from .inline_manager import InlineStar

SECONDS = 10.0


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


def test_run_checks_all_its_inputs_first(star: InlineStar, client: Client) -> None:
    before = submits(star)
    with pytest.raises(ArgumentTypeError):
        client.run([np.ones(3), "no array"])
    assert submits(star) == before


def test_status_is_the_managers_own_words(client: Client) -> None:
    assert client.status() == {"workers": 1, "waiting": 0}


def test_untrusting_client_takes_arrays_and_plain_answers_only(star: InlineStar) -> None:
    with Client(star.address, join=star.join, trust_results=False) as client:
        assert client.submit(dict, a=[1, 2.5, "x"]).result(SECONDS) == {"a": [1, 2.5, "x"]}
        with pytest.raises(UntrustedError):
            client.submit(Path, "x").result(SECONDS)


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
