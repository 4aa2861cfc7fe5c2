"""Functions of every kind on a real star: what the worker needs of the user's files is nothing."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from starcore import ArgumentTypeError, Client, LoadError, LocalStar, ResultError

from .processes import ROOT, eventually

SECONDS = 30.0


@pytest.fixture(scope="module")
def star() -> Iterator[LocalStar]:
    with LocalStar(workers=2, slots=1) as star:
        yield star


@pytest.fixture(scope="module")
def client(star: LocalStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


# -- kinds of functions ------------------------------------------------------------------------------------------

SCALE = 3


class Line:
    """A callable, with methods of every kind."""

    offset = 100

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: Any) -> Any:
        return self.slope * x

    def at(self, x: Any) -> Any:
        return self.slope * x + self.offset

    @classmethod
    def made(cls, slope: float) -> Line:
        return cls(slope)

    @staticmethod
    def twice(x: Any) -> Any:
        return 2 * x


def factorial(n: int) -> int:
    return n * factorial(n - 1) if n else 1


def is_even(n: int) -> bool:
    return True if n == 0 else is_odd(n - 1)


def is_odd(n: int) -> bool:
    return False if n == 0 else is_even(n - 1)


def scaled(x: Any) -> Any:
    return SCALE * x


def documented(x: Any, /, y: Any = 10, *rest: Any, z: Any = 1000, **more: Any) -> Any:
    """Every kind of parameter."""
    return x + y + sum(rest) + z + sum(more.values())


@functools.lru_cache
def cached(x: int) -> int:
    return x + 1


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.wraps(scaled)
def wrapped(x: Any) -> Any:
    return scaled(x) + 1


def squares(n: int) -> Iterator[int]:
    yield from (i * i for i in range(n))


def closure_over(value: Any) -> Callable[[Any], Any]:
    def inner(x: Any) -> Any:
        return x + value

    return inner


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "lambda": (lambda x: x + 1, (4,), 5),
    "closure": (closure_over(10), (4,), 14),
    "partial": (functools.partial(pow, 2), (10,), 1024),
    "partial of a lambda": (functools.partial(lambda x, y: x - y, y=1), (4,), 3),
    "bound method": (Line(2).at, (4,), 108),
    "class method": (Line.made, (4,), None),
    "static method": (Line.twice, (4,), 8),
    "class": (Line, (4,), None),
    "instance": (Line(5), (4,), 20),
    "bound method of a builtin": ([1, 2, 3].count, (2,), 1),
    "method of a text": ("{} stars".format, (4,), "4 stars"),
    "method descriptor": (str.upper, ("star",), "STAR"),
    "recursive": (factorial, (20,), math.factorial(20)),
    "mutually recursive": (is_even, (11,), False),
    "global": (scaled, (4,), 12),
    "parameters": (documented, (1,), 1011),
    "cached": (cached, (4,), 5),
    "cached and recursive": (fibonacci, (60,), 1548008755920),
    "wrapped": (wrapped, (4,), 13),
    "ufunc": (np.sqrt, (16.0,), 4.0),
    "ufunc's method": (np.add.reduce, ([1, 2, 3],), 6),
    "numpy function": (np.linalg.norm, ([3.0, 4.0],), 5.0),
    "scipy function": (ndimage.maximum, ([1, 5, 2],), 5),
    "builtin": (builtins.max, (3, 9), 9),
    "type": (complex, (1, 2), 1 + 2j),
    "module function": (math.gcd, (12, 18), 6),
    "operator": (operator.itemgetter(1), ([3, 4],), 4),
    "vectorized": (np.vectorize(lambda x: x + 1), (3,), 4),
    "poly": (np.poly1d([1, 0, 1]), (3,), 10),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_callable_runs(client: Client, name: str) -> None:
    function, args, wanted = CALLS[name]
    got = client.submit(function, *args).result(SECONDS)
    if wanted is None:
        assert type(got) is Line
        assert got.at(1) == 104
    else:
        assert got == wanted
        assert list(client.map(function, *([argument] for argument in args))) == [wanted]


def test_generator_is_no_result_and_its_list_is_one(client: Client) -> None:
    with pytest.raises(ResultError, match="generator") as caught:
        client.submit(squares, 4).result(SECONDS)
    assert "\n" not in str(caught.value)
    assert client.submit(lambda: list(squares(4))).result(SECONDS) == [0, 1, 4, 9]


def test_what_is_made_there_is_of_the_class_that_is_here(client: Client) -> None:
    line = client.submit(Line.made, 3).result(SECONDS)
    assert type(line) is Line

    class Local:
        def __init__(self) -> None:
            self.numbers = np.arange(3)

    there = client.submit(Local).result(SECONDS)
    assert type(there) is Local
    assert client.submit(lambda thing: thing.numbers.sum(), there).result(SECONDS) == 3


def test_decorated_functions_and_their_attributes_travel(client: Client) -> None:
    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            inner.calls += 1  # type: ignore[attr-defined]
            return inner.calls, function(*args)  # type: ignore[attr-defined]

        inner.calls = 5  # type: ignore[attr-defined]
        return inner

    assert client.submit(counted(abs), -2).result(SECONDS) == (6, 2)
    assert client.submit(lambda: (cached(3), cached(3), cached.cache_info().hits)).result(SECONDS) == (4, 4, 1)


# -- changed in between ------------------------------------------------------------------------------------------


def test_changed_global_gives_a_new_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.submit(scaled, 2).result(SECONDS) == 6
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 10)
    assert client.submit(scaled, 2).result(SECONDS) == 20
    assert client.submit(wrapped, 2).result(SECONDS) == 21
    assert list(client.map(scaled, [1, 2])) == [10, 20]


def test_changed_closure_gives_a_new_answer(client: Client) -> None:
    factor, table, array = 2, {"x": 1}, np.zeros(3)

    def apply(x: Any) -> Any:
        return factor * x + table["x"] + array[0]

    answers = [client.submit(apply, 10).result(SECONDS)]
    factor = 3
    answers.append(client.submit(apply, 10).result(SECONDS))
    table["x"] = 100
    answers.append(client.submit(apply, 10).result(SECONDS))
    array[0] = 1000
    answers.append(client.submit_array(lambda a: apply(a[0]), np.array([10])).result(SECONDS))
    assert answers == [21, 31, 130, 1130]


def test_redefined_function_and_class_give_new_answers(client: Client) -> None:
    answers = []
    for step in (1, 2):
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(f"class C:\n  def f(self, x): return x + {step}\ndef g(x): return C().f(x) * {step}", scope)
        answers.append(client.submit(scope["g"], 1).result(SECONDS))
    assert answers == [2, 6]
    method = Line(1)
    answers = [client.submit(method.at, 1).result(SECONDS)]
    method.slope = 7
    answers.append(client.submit(method.at, 1).result(SECONDS))
    assert answers == [101, 107]


def test_what_a_function_changes_there_stays_there(client: Client) -> None:
    table: list[int] = []

    def grow() -> int:
        table.append(1)
        return len(table)

    assert min(client.submit(grow).result(SECONDS) for _ in range(4)) == 1
    assert table == []


# -- large functions ---------------------------------------------------------------------------------------------


class Meter:
    """Forwards connections to a port and counts what flows to the peer that dialled."""

    def __init__(self, port: int) -> None:
        self.down = 0
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer = self._server.accept()[0]
            except OSError:
                return
            manager = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pump, args=(peer, manager, 0), daemon=True).start()
            threading.Thread(target=self._pump, args=(manager, peer, 1), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: int) -> None:
        try:
            while piece := source.recv(1 << 20):
                self.down += counted * len(piece)
                target.sendall(piece)
        except OSError:
            pass
        finally:
            for sock in (source, target):
                sock.close()

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("megabytes", [1, 20])
def test_large_function_crosses_to_a_worker_once(megabytes: int) -> None:
    weights = np.random.default_rng(megabytes).random(megabytes << 17)

    def weigh(x: Any) -> Any:
        return float(weights[x].sum())

    with LocalStar(workers=0) as star:
        meter = Meter(star.port)
        star.start_worker("--manager", f"127.0.0.1:{meter.port}", "--slots", "2")
        client = star.client(wait=False)
        eventually(lambda: client.slots == 2, "two slots are there")
        futures = [client.submit(weigh, i) for i in range(10)]
        futures += [client.options(priority=1).submit(weigh, i) for i in range(10)]
        assert [future.result(SECONDS) for future in futures] == [float(weights[i]) for i in range(10)] * 2
        assert client.submit(weigh, 7).result(SECONDS) == weights[7]
        assert client.submit_array(weigh, np.arange(3)).result(SECONDS) == float(weights[:3].sum())
        assert megabytes << 20 <= meter.down < (megabytes << 20) * 1.2 + 100_000
        weights[7] = -1
        assert client.submit(weigh, 7).result(SECONDS) == -1
        meter.close()


def test_many_calls_of_a_large_function_from_many_threads(client: Client) -> None:
    table = np.arange(300_000.0)
    answers: list[float] = []
    lock = threading.Lock()

    def look(i: int) -> float:
        return float(table[i])

    def work(i: int) -> None:
        value = client.submit(look, i).result(SECONDS)
        with lock:
            answers.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(8))


# -- what cannot travel ------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_is_said_at_the_call(client: Client) -> None:
    lock, file = threading.Lock(), open(os.devnull, "wb")  # noqa: SIM115
    sock = socket.socket()

    def locked(x: Any) -> Any:
        with lock:
            return x

    calls: list[tuple[str, Callable[[], Any]]] = [
        ("locked cannot be pickled", lambda: client.submit(locked, 1)),
        ("locked cannot be pickled", lambda: client.map(locked, [1])),
        ("locked cannot be pickled", lambda: client.submit_array(locked, np.ones(2))),
        ("arguments cannot be pickled", lambda: client.submit(abs, lock)),
        ("arguments cannot be pickled", lambda: client.submit(abs, x=file)),
        ("arguments cannot be pickled", lambda: client.submit_array(abs, np.ones(3), args=(sock,))),
        ("arguments cannot be pickled", lambda: client.submit(abs, (i for i in range(3)))),
        ("a function is needed, not a list", lambda: client.submit([1])),  # type: ignore[arg-type]
        ("a function is needed, not a NoneType", lambda: client.submit(None)),  # type: ignore[arg-type]
        ("a function is needed, not a module", lambda: client.submit(math, 2)),  # type: ignore[arg-type]
        ("a function is needed, not a ndarray", lambda: client.submit_array(np.ones(3), abs)),  # type: ignore[arg-type]
    ]
    for words, call in calls:
        with pytest.raises(ArgumentTypeError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    file.close()
    sock.close()
    assert client.submit(abs, -1).result(SECONDS) == 1


def test_function_that_does_not_load_there_is_one_clear_line(client: Client) -> None:
    class Treacherous:
        def __reduce__(self) -> Any:
            return operator.truediv, (1, 0)

        def __call__(self) -> None:
            """Never called."""

    error = client.submit(Treacherous()).exception(SECONDS)
    assert isinstance(error, LoadError)
    assert str(error) == "the function cannot be loaded: ZeroDivisionError: division by zero"
    error = client.submit(abs, Treacherous()).exception(SECONDS)
    assert isinstance(error, LoadError)
    assert str(error) == "the arguments cannot be loaded: ZeroDivisionError: division by zero"
    assert client.submit(abs, -1).result(SECONDS) == 1


def test_result_that_cannot_be_pickled_is_one_clear_line(client: Client) -> None:
    for function in (threading.Lock, socket.socket, lambda: (i for i in range(3)), sys._getframe):
        error = client.submit(function).exception(SECONDS)
        assert isinstance(error, ResultError), error
        assert "\n" not in str(error)
    answers = client.map(lambda i: threading.Lock() if i == 3 else i, range(5), chunksize=5)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ResultError):
        next(answers)


# -- files beside the script -------------------------------------------------------------------------------------

FILES = {
    "script.py": """
        import functools
        import sys
        import constants
        import physics
        from physics import Particle, energy, kick
        from lab import fit, tools
        from lab.tools import Kind
        import numpy as np
        import starcore

        LOCAL = 7

        @functools.lru_cache(maxsize=None)
        def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        class Point:
            def __init__(self, x): self.x = x
            def shifted(self, by): return Point(self.x + by + LOCAL)

        def here(x): return x + LOCAL + constants.LIGHT

        def failing(x): raise physics.LabError(x, reason="too hot")

        def main():
            client = starcore.Client()
            run = lambda fn, *args: client.submit(fn, *args).result(30)
            checks = [
                (run(energy, 2), 2 * 9),
                (run(physics.energy, 3), 3 * 9),
                (run(lambda m: physics.energy(m) + fit.fitted(m), 2), 18 + 202),
                (run(fit.fitted, 5), 505),
                (run(here, 1), 1 + 7 + 3),
                (run(fibonacci, 50), 12586269025),
                (run(Point(1).shifted, 2).x, 10),
                (run(Particle(4).energy), 36),
                (run(kick, Particle(5)).mass, 6),
                (run(physics.fast), Kind.FAST),
                (client.submit_array(physics.halved, np.arange(50000.)).result(30)[-1], 24999.5),
                (client.submit_array(fit.fitted, np.arange(6.), chunks=2).result(30).tolist(),
                 [101. * i for i in range(6)]),
                (list(client.map(energy, range(100))), [9 * i for i in range(100)]),
                (run(lambda: sorted(set(sys.modules) & {"physics", "constants", "lab", "script"})), []),
            ]
            for got, wanted in checks:
                assert got == wanted, (got, wanted)
            assert isinstance(run(kick, Particle(5)), Particle)
            assert run(physics.fast) is Kind.FAST
            try:
                run(failing, 451)
            except physics.LabError as error:
                assert (error.args, error.reason) == ((451,), "too hot"), vars(error)
            else:
                raise AssertionError
            constants.LIGHT = 10
            assert run(energy, 2) == 200
            assert run(here, 1) == 18
            print("all is well")

        if __name__ == "__main__":
            main()
    """,
    "constants.py": "LIGHT = 3\n",
    "physics.py": """
        from __future__ import annotations
        import threading
        from dataclasses import dataclass
        import constants
        from lab.tools import Kind

        GUARD = threading.Lock()

        @dataclass
        class Particle:
            mass: float
            def energy(self): return energy(self.mass)

        class LabError(ValueError):
            def __init__(self, value, *, reason="?"):
                super().__init__(value)
                self.reason = reason

        def energy(m): return m * constants.LIGHT ** 2
        def kick(p): return Particle(p.mass + 1)
        def fast(): return Kind.FAST
        def halved(a):
            a /= 2
            return a
    """,
    "lab/__init__.py": "from . import fit, tools\n",
    "lab/fit.py": "from .tools import weight\ndef fitted(x): return weight() * x + x\n",
    "lab/tools.py": """
        import enum

        class Kind(enum.Enum):
            SLOW = 1
            FAST = 2

        def weight(): return 100
    """,
}


def outside(star: LocalStar, directory: Path) -> dict[str, str]:
    """The environment of a user's own process, anywhere, that knows the star by its join file."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("STARCORE_", "STARCOMPUTE_"))}
    own = {"STARCORE_CONFIG_DIR": str(directory / "config"), "STARCORE_RUNTIME_DIR": str(directory / "run")}
    known = {"STARCORE_JOIN": str(star.join_file("client")), "STARCORE_MANAGER": star.address}
    return {**clean, **own, **known, "PYTHONPATH": str(ROOT)}


def test_files_beside_the_script_are_not_needed_on_the_worker(star: LocalStar, tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "project" / "script.py")],
        env=outside(star, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.stdout, done.stderr) == ("all is well\n", "")


@pytest.mark.parametrize("how", ["-c", "-", "-i"])
def test_functions_typed_in_at_a_prompt_run(star: LocalStar, tmp_path: Path, how: str) -> None:
    code = textwrap.dedent("""\
        import numpy as np
        import starcore
        class Point:
            def __init__(self, x): self.x = x

        def double(p): return Point(2 * p.x)

        def clean(a): return starcore.submit_array(lambda b: b * double(Point(3)).x, a).result(30)

        assert starcore.submit(double, Point(4)).result(30).x == 8
        assert isinstance(starcore.submit(double, Point(4)).result(30), Point)
        def double(p): return Point(3 * p.x)

        assert list(starcore.map(lambda i: double(Point(i)).x, range(5))) == [0, 3, 6, 9, 12]
        print("answer", clean(np.ones(3)).tolist())
        """)
    options, text = ([how, code], None) if how == "-c" else ([how], code)
    done = subprocess.run(
        [sys.executable, *options],
        input=text, env=outside(star, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert "answer [9.0, 9.0, 9.0]" in done.stdout, done.stderr
    assert "Error" not in done.stderr


def test_name_of_the_function_stands_in_the_status(client: Client) -> None:
    future: Future[Any] = client.submit(time.sleep, 1.0)
    eventually(future.running, "it runs")
    assert any(job["function"] == "sleep" and job["leased"] for job in client.status()["jobs"])
    assert client.cancel(future)
