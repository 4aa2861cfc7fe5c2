"""The client's own promises on a real star: registered functions, trust, what is refused, what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import starcore
from starcore import (
    ArgumentTypeError,
    ArgumentValueError,
    Client,
    LocalStar,
    MisuseError,
    SessionLostError,
    TaskError,
    UntrustedError,
)

from .processes import ROOT, eventually

SECONDS = 30.0
REGISTERED = """
import os
import numpy as np

def process(a):
    return np.cumsum(a)

def where(a=None):
    return os.getpid()

def failing(a):
    raise ValueError("not with me")
"""


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStar]:
    """A star whose workers have functions of their own, in a file that no client has."""
    home = tmp_path_factory.mktemp("worker's own")
    (home / "instrument.py").write_text(REGISTERED)
    functions = [word for name in ("process", "where", "failing") for word in ("--function", f"instrument:{name}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{home}{os.pathsep}{ROOT}")
        star = LocalStar(workers=2, slots=1, worker_options=functions)
    with star:
        yield star


@pytest.fixture(scope="module")
def client(star: LocalStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


# -- registered functions ----------------------------------------------------------------------------------------


def test_functions_are_called_by_the_name_that_the_workers_know(client: Client) -> None:
    assert "instrument" not in sys.modules
    for size in (5, 50_000):
        array = np.arange(float(size))
        assert np.array_equal(client.submit_array("instrument:process", array).result(SECONDS), np.cumsum(array))
        whole = client.submit_array("instrument:process", array, chunks=size)
        assert np.array_equal(whole.result(SECONDS), np.cumsum(array))
    assert client.submit("instrument:where").result(SECONDS) != os.getpid()
    assert [answer[-1] for answer in client.map("instrument:process", [np.ones(i) for i in (1, 2, 3)])] == [1, 2, 3]
    with pytest.raises(ValueError, match="not with me"):
        client.submit("instrument:failing", 1).result(SECONDS)


def test_run_takes_a_list_and_gives_a_list(client: Client) -> None:
    arrays = [np.full(size, 2.0) for size in (3, 50_000, 1, 0)]
    for results in (client.run(arrays), client.run(arrays, "instrument:process"), client.run(iter(arrays), np.cumsum)):
        assert isinstance(results, list)
        assert all(np.array_equal(got, np.cumsum(array)) for got, array in zip(results, arrays, strict=True))
    assert client.run([]) == []
    with pytest.raises(ValueError, match="not with me"):
        client.run(arrays, "instrument:failing")
    with pytest.raises(ArgumentTypeError, match="an array is needed, not list"):
        client.run([np.ones(2), [1.0]])


def test_function_that_no_worker_has_waits_and_says_so(star: LocalStar, capfd: pytest.CaptureFixture[str]) -> None:
    with star.client() as client:
        future = client.submit("instrument:missing", 1)
        said = eventually(lambda: capfd.readouterr().err, "why nothing happens", 15)
        assert said == (
            "starcore: instrument:missing waits: no connected worker has the registered function instrument:missing\n"
        )
        assert future.cancel()


# -- trust -------------------------------------------------------------------------------------------------------


class Thing:
    """What only pickle can carry."""

    def __init__(self) -> None:
        self.numbers = np.arange(3)


PICKLED: list[Callable[[Any], Any]] = [
    lambda a: Thing(),
    lambda a: [a, Path("x")],
    lambda a: np.ma.masked_less(a, 2),
    lambda a: {1, 2},
    lambda a: abs,
]


def test_untrusting_client_takes_arrays_and_plain_answers_and_no_pickle(star: LocalStar) -> None:
    plain: list[Callable[..., Any]] = [
        lambda a: a,
        lambda a: a[::2] + 1,
        lambda a: a.astype([("x", "f4")]),
        lambda a: float(a.sum()),
        lambda a: a.sum(),
        lambda a: (a, [a[:2], "text", b"bytes"], {"none": None, "yes": True, "complex": 1j, 3: 2**90}),
        lambda a: None,
        lambda a: "κ" * 100_000,
    ]
    with star.client(trust_results=False) as client:
        for size in (10, 40_000):
            array, out = np.arange(float(size)), np.empty(size)
            for function in plain:
                assert str(client.submit_array(function, array).result(SECONDS)) == str(function(array))
            assert client.submit_array(np.negative, array, chunks=size // 2, out=out).result(SECONDS) is out
            for pickled in PICKLED:
                error = client.submit_array(pickled, array).exception(SECONDS)
                assert isinstance(error, UntrustedError), error
                assert "\n" not in str(error)
                assert "trust_results" in str(error)
        assert list(client.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        with pytest.raises(UntrustedError):
            list(client.map(lambda i: Thing(), range(50), chunksize=10))
        with pytest.raises(ZeroDivisionError):
            client.submit(divmod, 1, 0).result(SECONDS)
        assert client.submit(abs, -1).result(SECONDS) == 1


def test_nothing_is_unpickled_for_a_client_that_does_not_trust(star: LocalStar, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    class TrapError(Exception):
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    def raise_it() -> None:
        raise TrapError("boo")

    make: list[Callable[[], Any]] = [Trap, lambda: [1, Trap()], lambda: (np.zeros(50_000), Trap())]
    with star.client(trust_results=False) as client:
        for function in make:
            assert isinstance(client.submit(function).exception(SECONDS), UntrustedError)
        assert list(client.map(lambda i: i, range(3))) == [0, 1, 2]
        assert isinstance(client.submit(raise_it).exception(SECONDS), TaskError)
    assert not trap.exists()


# -- refused at the call -----------------------------------------------------------------------------------------

A = np.arange(12.0).reshape(4, 3)
FROZEN = np.broadcast_to(0.0, (4, 3))


def identity(a: Any) -> Any:
    return a


REFUSED: list[tuple[str, Callable[[Client], Any], type[MisuseError]]] = [
    ("a function is needed, not an int", lambda c: c.submit(3), ArgumentTypeError),  # type: ignore[arg-type]
    ("a function is needed, not a dict", lambda c: c.map({}, [1]), ArgumentTypeError),  # type: ignore[arg-type]
    ("package.module:name", lambda c: c.submit("process"), ArgumentValueError),
    ("package.module:name", lambda c: c.run([A], "../etc:passwd"), ArgumentValueError),
    ("an array is needed, not list", lambda c: c.submit_array(identity, [1, 2]), ArgumentTypeError),  # type: ignore[arg-type]
    ("an array is needed, not float64", lambda c: c.submit_array(identity, A[0, 0]), ArgumentTypeError),
    ("holds Python objects", lambda c: c.submit_array(identity, np.array([{}])), ArgumentTypeError),
    ("chunks is 0", lambda c: c.submit_array(identity, A, chunks=0), ArgumentValueError),
    ("chunks is -1", lambda c: c.submit_array(identity, A, chunks=-1), ArgumentValueError),
    ("chunks is 5, and the axis has 4 rows", lambda c: c.submit_array(identity, A, chunks=5), ArgumentValueError),
    ("chunks is 4, and the axis has 3", lambda c: c.submit_array(identity, A, chunks=4, axis=1), ArgumentValueError),
    ("chunks is True", lambda c: c.submit_array(identity, A, chunks=True), ArgumentValueError),
    ("chunks must be an int", lambda c: c.submit_array(identity, A, chunks=2.0), ArgumentTypeError),  # type: ignore[arg-type]
    ("chunks must be an int", lambda c: c.submit_array(identity, A, chunks="all"), ArgumentTypeError),
    ("chunks must be an int", lambda c: c.submit_array(identity, A, chunks=(2, 2)), ArgumentTypeError),  # type: ignore[arg-type]
    ("axis 2 of an array of 2", lambda c: c.submit_array(identity, A, chunks=1, axis=2), ArgumentValueError),
    ("axis -3 of an array of 2", lambda c: c.submit_array(identity, A, chunks=1, axis=-3), ArgumentValueError),
    ("axis must be an int", lambda c: c.submit_array(identity, A, chunks=1, axis=None), ArgumentTypeError),  # type: ignore[arg-type]
    ("0-d array has no axis", lambda c: c.submit_array(identity, np.array(1.0), chunks=1), ArgumentValueError),
    ("`out` must be a numpy array", lambda c: c.submit_array(identity, A, out=[0.0]), ArgumentTypeError),  # type: ignore[arg-type]
    ("Python objects", lambda c: c.submit_array(identity, A, out=np.empty(2, object)), ArgumentTypeError),
    ("read-only", lambda c: c.submit_array(identity, A, out=FROZEN), ArgumentValueError),
    ("share memory", lambda c: c.submit_array(identity, A, out=A), ArgumentValueError),
    ("share memory", lambda c: c.submit_array(identity, A, out=A[::-1], chunks=2), ArgumentValueError),
    ("share memory", lambda c: c.submit_array(identity, A[:, 0], out=A[:, 1]), ArgumentValueError),
    ("args must be", lambda c: c.submit_array(identity, A, args=3), ArgumentTypeError),  # type: ignore[arg-type]
    ("args must be", lambda c: c.submit_array(identity, A, args="ab"), ArgumentTypeError),
    ("args must be", lambda c: c.submit_array(identity, A, args=A), ArgumentTypeError),  # type: ignore[arg-type]
    ("kwargs must be", lambda c: c.submit_array(identity, A, kwargs=[("x", 1)]), ArgumentTypeError),  # type: ignore[arg-type]
    ("kwargs", lambda c: c.submit_array(identity, A, kwargs={1: 1}), ArgumentTypeError),  # type: ignore[dict-item]
    ("an array is needed, not str", lambda c: c.run("ab"), ArgumentTypeError),  # type: ignore[arg-type]
    ("chunksize is 0", lambda c: c.map(abs, [1], chunksize=0), ArgumentValueError),
    ("chunksize is -3", lambda c: c.map(abs, [1], chunksize=-3), ArgumentValueError),
    ("chunksize must be an int", lambda c: c.map(abs, [1], chunksize=1.5), ArgumentTypeError),  # type: ignore[arg-type]
    ("chunksize must be an int", lambda c: c.map(abs, [1], chunksize="big"), ArgumentTypeError),
    ("buffersize is 0", lambda c: c.map(abs, [1], buffersize=0), ArgumentValueError),
    ("timeout", lambda c: c.map(abs, [1], timeout="soon"), ArgumentTypeError),  # type: ignore[arg-type]
    ("iterable", lambda c: c.map(abs, 3), ArgumentTypeError),  # type: ignore[arg-type]
    ("iterable", lambda c: c.run(3), ArgumentTypeError),  # type: ignore[arg-type]
    ("progress counts blocks", lambda c: c.submit_array(identity, A, progress=True), ArgumentValueError),
    ("retries is -1", lambda c: c.options(retries=-1), ArgumentValueError),
    ("retries must be an int", lambda c: c.options(retries=1.0), ArgumentTypeError),  # type: ignore[arg-type]
    ("retries must be an int", lambda c: c.options(retries=True), ArgumentTypeError),
    ("timeout is 0", lambda c: c.options(timeout=0), ArgumentValueError),
    ("timeout is -1", lambda c: c.options(timeout=-1), ArgumentValueError),
    ("timeout is nan", lambda c: c.options(timeout=float("nan")), ArgumentValueError),
    ("timeout must be a number", lambda c: c.options(timeout="1 s"), ArgumentTypeError),  # type: ignore[arg-type]
    ("priority must be an int", lambda c: c.options(priority="high"), ArgumentTypeError),  # type: ignore[arg-type]
    ("priority is 2147483648", lambda c: c.options(priority=1 << 31), ArgumentValueError),
]


@pytest.mark.parametrize(("words", "call", "error"), REFUSED)
def test_misuse_is_one_clear_line_at_the_call(
    client: Client, words: str, call: Callable[[Client], Any], error: type[MisuseError]
) -> None:
    with pytest.raises(error) as caught:
        call(client)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_out_of_the_wrong_shape_or_dtype_is_refused_and_names_both(client: Client) -> None:
    """What a function returns is not known at the call, so this one line comes with the answer."""
    for size in (4, 40_000):
        array = np.ones(size)
        for out in (np.empty(size + 1), np.empty(size, "f4"), np.empty((size, 1))):
            with pytest.raises(ArgumentValueError) as caught:
                client.submit_array(identity, array, out=out).result(SECONDS)
            assert str(caught.value) == (
                f"`out` is {out.dtype} of shape {out.shape}, and the answer is float64 of shape ({size},)"
            )
        with pytest.raises(ArgumentValueError, match="the function returned float"):
            client.submit_array(lambda a: float(a.sum()), array, out=np.empty(size)).result(SECONDS)


def test_overlap_through_a_file_is_seen(client: Client, tmp_path: Path) -> None:
    np.zeros(100).tofile(tmp_path / "file")
    reading = np.memmap(tmp_path / "file", "f8", "r", shape=(100,))
    writing = np.memmap(tmp_path / "file", "f8", "r+", shape=(100,))
    with pytest.raises(ArgumentValueError, match="share memory"):
        client.submit_array(identity, reading[:60], out=writing[40:])
    assert client.submit_array(identity, reading[:50], out=writing[50:]).result(SECONDS).sum() == 0


def test_closed_client_says_so(star: LocalStar) -> None:
    client = star.client()
    view = client.options(retries=1)
    client.shutdown()
    for call in (
        lambda: client.submit(abs, 1),
        lambda: client.submit_array(identity, A),
        lambda: client.submit_array(identity, A, chunks=1),
        lambda: client.map(abs, [1]),
        lambda: client.run([A], identity),
        lambda: view.submit(abs, 1),
        client.status,
    ):
        with pytest.raises(SessionLostError) as caught:
            call()
        assert str(caught.value) == "the client was shut down"


# -- module-level calls ------------------------------------------------------------------------------------------


def test_connect_makes_the_client_of_the_module_level_calls(star: LocalStar) -> None:
    client = starcore.connect(star.address, join=star.join_file("client"))
    try:
        assert starcore.submit(abs, -3).result(SECONDS) == 3
        assert list(starcore.map(abs, [-1, -2])) == [1, 2]
        future = starcore.submit_array(np.negative, A, chunks=2, retries=1, timeout=5, priority=1)
        assert future.result(SECONDS)[1, 0] == -3
        assert starcore.run([A.ravel()])[0][-1] == 66
    finally:
        client.shutdown()


def test_script_that_ends_with_calls_outstanding_ends_at_once(star: LocalStar, tmp_path: Path) -> None:
    code = "import starcore, time; f = [starcore.submit(time.sleep, 60) for _ in range(4)]; print('bye')"
    variables = {"STARCORE_JOIN": str(star.join_file("client")), "STARCORE_MANAGER": star.address}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")
    assert time.monotonic() - begun < 15
