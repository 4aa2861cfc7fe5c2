"""Functions as blobs: what travels by value, and that no change of the user's is ever missed by the cache."""

from __future__ import annotations

import concurrent
import functools
import gc
import hashlib
import math
import operator
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from starcore import functions
from starcore.errors import ArgumentTypeError, LoadError
from starcore.functions import FROZEN_BYTES_MAX, FROZEN_COUNT_MAX, dump, load_answer, load_function, ship
from starcore.layouts import Segments

FACTOR: Any = 2


def scaled(x: float, by: float = 3) -> float:
    return x * by * FACTOR


def helper(x: float) -> float:
    return x + 1


def calls_helper(x: float) -> float:
    return helper(x)


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


class Scaler:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x: float) -> float:
        return x * self.by

    def method(self, x: float) -> float:
        return x - self.by

    @classmethod
    def made(cls, by: float) -> float:
        return cls(by)(10)


def is_cached(fn: Callable[..., Any]) -> bool:
    return ship(fn) is ship(fn)


@pytest.mark.parametrize(
    ("fn", "argument", "result", "name"),
    [
        (lambda x: x + 1, 1, 2, "<lambda>"),
        (scaled, 1, 6, "scaled"),
        (calls_helper, 1, 2, "calls_helper"),
        (even, 10, True, "even"),
        (len, "abc", 3, "len"),
        (math.sqrt, 4, 2, "sqrt"),
        (np.sqrt, 4, 2, "sqrt"),
        (np.sum, [1, 2], 3, "sum"),
        (functools.partial(scaled, by=1), 1, 2, "partial(scaled)"),
        (functools.partial(pow, 2), 3, 8, "partial(pow)"),
        (Scaler(4), 2, 8, "Scaler"),
        (Scaler(4).method, 2, -2, "Scaler.method"),
        (Scaler.made, 2, 20, "Scaler.made"),
        (operator.itemgetter(1), "ab", "b", "itemgetter"),
        ([3, 4].index, 4, 1, "list.index"),
        (int, "12", 12, "int"),
        (str.upper, "a", "A", "str.upper"),
    ],
    ids=lambda value: str(getattr(value, "__name__", "")),
)
def test_every_kind_of_callable_travels(fn: Callable[..., Any], argument: Any, result: Any, name: str) -> None:
    shipped = ship(fn)
    assert shipped.digest == hashlib.sha256(shipped.blob).digest() == ship(fn).digest
    assert load_function(shipped.blob)(argument) == result
    assert shipped.name == name
    assert shipped.python == f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize("value", [1, "fn", None, np.arange(3)], ids=repr)
def test_what_is_not_callable_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="a function is needed, not"):
        ship(value)


def test_a_function_that_cannot_be_pickled_is_refused_by_name() -> None:
    lock = threading.Lock()

    def locked() -> Any:
        return lock

    with pytest.raises(ArgumentTypeError, match="locked cannot be pickled"):
        ship(locked)


def test_a_blob_that_cannot_be_loaded_says_why() -> None:
    with pytest.raises(LoadError, match="the function cannot be loaded"):
        load_function(b"cno_such_module\nname\n.")
    with pytest.raises(LoadError):
        load_function(b"garbage")


# -- the cache ---------------------------------------------------------------------------------------------------


def namespace_function(source: str, **names: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function with globals of its own."""
    names["__name__"] = "__main__"
    exec(textwrap.dedent(source), names)
    return names["fn"], names


@pytest.mark.parametrize(
    "fn",
    [lambda x: x + 1, lambda x: np.sin(x) + math.pi, calls_helper, even, scaled, np.mean, math.sqrt],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_an_unchanged_function_is_pickled_once(fn: Callable[..., Any]) -> None:
    assert is_cached(fn)


@pytest.mark.parametrize(
    "value",
    [[1], {}, {1}, np.arange(2), bytearray(), Scaler(1), Scaler, (1, [2])],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_a_function_of_something_mutable_is_never_cached(value: Any) -> None:
    fn, _ = namespace_function("def fn():\n    return value", value=value)
    assert not is_cached(fn)
    assert not is_cached(lambda: value)
    assert not is_cached(eval("lambda x=value: x", {"value": value}))
    assert not is_cached(functools.partial(print, value))


def test_a_global_list_that_changed_is_seen() -> None:
    fn, names = namespace_function("def fn():\n    return values", values=[1])
    before = ship(fn)
    names["values"].append(2)
    after = ship(fn)
    assert after.digest != before.digest
    assert load_function(after.blob)() == [1, 2]


def test_an_array_in_a_closure_that_changed_in_place_is_seen() -> None:
    weights = np.zeros(3)

    def fn() -> Any:
        return weights.sum()

    before = ship(fn)
    weights[0] = 5
    assert ship(fn).digest != before.digest
    assert load_function(ship(fn).blob)() == 5


@pytest.mark.parametrize("new", [3, "text", [1]])
def test_a_global_that_was_bound_anew_is_seen(new: Any) -> None:
    fn, names = namespace_function("def fn():\n    return value", value=2)
    ship(fn)
    names["value"] = new
    assert load_function(ship(fn).blob)() == new
    del names["value"]
    with pytest.raises(NameError):
        load_function(ship(fn).blob)()


def test_a_global_that_appears_is_seen() -> None:
    fn, names = namespace_function("def fn():\n    return abs(-1)")
    assert is_cached(fn)
    names["abs"] = lambda x: "mine"
    assert load_function(ship(fn).blob)() == "mine"


def test_a_closure_cell_that_changed_is_seen() -> None:
    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        count = 1

        def read() -> int:
            return count

        def write(value: int) -> None:
            nonlocal count
            count = value
            if not value:
                del count

        return read, write

    read, write = make()
    assert is_cached(read)
    write(7)
    assert load_function(ship(read).blob)() == 7
    write(0)
    with pytest.raises(NameError):
        load_function(ship(read).blob)()


def change_default(fn: Any) -> None:
    fn.__defaults__ = (9,)


def change_keyword_default(fn: Any) -> None:
    fn.__kwdefaults__["key"] = 9


def change_keyword_defaults(fn: Any) -> None:
    fn.__kwdefaults__ = {"key": 9}


def change_code(fn: Any) -> None:
    fn.__code__ = (lambda x=1, *, key=2: (9, 9)).__code__


def change_attribute(fn: Any) -> None:
    fn.extra = 9


def change_annotation(fn: Any) -> None:
    fn.__annotations__["x"] = 9


def change_annotations(fn: Any) -> None:
    fn.__annotations__ = {"x": "int", "y": 9}


def change_name(fn: Any) -> None:
    fn.__qualname__ = "nine"


@pytest.mark.parametrize(
    "change",
    [
        *(change_default, change_keyword_default, change_keyword_defaults, change_code, change_attribute),
        *(change_annotation, change_annotations, change_name),
    ],
)
def test_a_changed_function_is_pickled_anew(change: Callable[[Any], None]) -> None:
    fn, _ = namespace_function("def fn(x=1, *, key=2):\n    return x, key")
    assert is_cached(fn)
    before = ship(fn)
    change(fn)
    assert ship(fn).digest != before.digest


def test_a_change_in_a_function_that_it_calls_is_seen() -> None:
    fn, names = namespace_function("def inner(x=1):\n    return x\ndef fn():\n    return inner()")
    assert is_cached(fn)
    names["inner"].__defaults__ = (5,)
    assert load_function(ship(fn).blob)() == 5
    names["inner"] = lambda: 6
    assert load_function(ship(fn).blob)() == 6


def test_a_global_named_in_a_nested_function_or_class_is_seen() -> None:
    source = (
        "def fn():\n    def inner():\n        return value\n    class Inner:\n        x = value\n    return inner()"
    )
    fn, names = namespace_function(source, value=1)
    assert is_cached(fn)
    names["value"] = 2
    assert load_function(ship(fn).blob)() == 2


def test_an_import_after_the_first_pickling_is_seen() -> None:
    fn, _ = namespace_function("def fn():\n    return package.late.__name__", package=concurrent)
    ship(fn)
    module = types.ModuleType("concurrent.late")
    sys.modules["concurrent.late"] = concurrent.late = module  # type: ignore[attr-defined]
    try:
        assert b"concurrent.late" in ship(fn).blob
    finally:
        del sys.modules["concurrent.late"], concurrent.late  # type: ignore[attr-defined]


def test_the_cache_keeps_no_function_alive_and_mistakes_none_for_another() -> None:
    for value in range(50):
        fn = eval("lambda: value", {"value": value})
        assert load_function(ship(fn).blob)() == value
        reference = weakref.ref(fn)
        del fn
        gc.collect()
        assert reference() is None


def test_the_cache_is_bounded() -> None:
    kept = [eval(f"lambda: {value}") for value in range(FROZEN_COUNT_MAX + 20)]
    for fn in kept:
        ship(fn)
    assert len(functions._FROZEN) <= FROZEN_COUNT_MAX
    text = "x" * FROZEN_BYTES_MAX
    assert not is_cached(lambda: text)


# -- modules of the user's ---------------------------------------------------------------------------------------


def write_modules(folder: Path) -> None:
    (folder / "shapes.py").write_text(
        "import numpy as np\nimport constants\nfrom constants import OFFSET, Base\n"
        "class Shape(Base):\n    def area(self):\n        return super().side() ** 2 + OFFSET\n"
        "def area(x):\n    return Shape(x).area() + constants.twice(1) + float(np.sqrt(4))\n"
    )
    (folder / "constants.py").write_text(
        "import threading, sys\nOFFSET = 100\nLOCK = threading.Lock()\nITSELF = sys.modules[__name__]\n"
        "class Base:\n    def __init__(self, x):\n        self.x = x\n    def side(self):\n        return self.x\n"
        "def twice(x):\n    return 2 * x\n"
        "def guarded(x):\n    with LOCK:\n        return x\n"
    )
    package = folder / "kit"
    package.mkdir()
    (package / "__init__.py").write_text("from kit.inner import deep\n")
    (package / "inner.py").write_text("from . import other\ndef deep(x):\n    return other.LEVEL + x\n")
    (package / "other.py").write_text("LEVEL = 40\n")


def run(source: str, folder: Path, *args: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *args],
        cwd=folder,
        env={"PYTHONPATH": str(Path(functions.__file__).parent.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_functions_of_modules_beside_the_script_work_without_the_files(tmp_path: Path) -> None:
    """Classes, helpers of other modules, a module with a lock in it, a package: all by value."""
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    write_modules(beside)
    dump = """
        import sys
        import shapes, kit, functools
        from starcore.functions import ship
        for name, fn in [("area", shapes.area), ("deep", kit.deep), ("partial", functools.partial(shapes.area, 1)),
                         ("method", shapes.Shape(3).area), ("lambda", lambda x: shapes.area(x))]:
            open(sys.argv[1] + "/" + name, "wb").write(ship(fn).blob)
    """
    load = """
        from starcore.functions import load_function
        read = lambda name: load_function(open(name, "rb").read())
        print(read("area")(2), read("deep")(2), read("partial")(), read("method")(), read("lambda")(2))
        import sys
        assert not {"shapes", "constants", "kit"} & set(sys.modules)
    """
    run(dump, beside, str(elsewhere))
    assert run(load, elsewhere).split() == ["108.0", "42", "105.0", "109", "108.0"]


def test_a_function_remembers_its_file_and_so_do_those_within_it() -> None:
    """A remote traceback is worth little without them; cloudpickle 3.1.3 leaves them out."""

    def outer() -> types.CodeType:
        def inner() -> None: ...

        return inner.__code__

    travelled: Any = load_function(ship(outer).blob)
    assert travelled.__code__.co_filename == outer.__code__.co_filename == __file__
    assert travelled().co_filename == __file__


def test_what_pip_installed_travels_by_name(tmp_path: Path) -> None:
    """Also where it was installed with --target into a directory of any name."""
    for home, module in (("libs", "one"), ("site-packages", "two")):
        (tmp_path / home / module).mkdir(parents=True)
        (tmp_path / home / module / "__init__.py").write_text("def fn():\n    return 1\n")
    (tmp_path / "libs" / "one-1.0.dist-info").mkdir()
    source = """
        import sys
        sys.path[:0] = ["libs", "site-packages"]
        import one, two
        from starcore.functions import ship
        print(len(ship(one.fn).blob) < 60, len(ship(two.fn).blob) < 60)
    """
    assert run(source, tmp_path).split() == ["True", "True"]


def test_a_class_that_comes_back_in_an_answer_is_the_one_that_went_out() -> None:
    """And keeps its very methods, which loading it by value would replace."""
    source = "class Thing:\n    def __init__(self, x):\n        self.x = x\ndef fn():\n    return Thing(3)"
    fn, names = namespace_function(source)
    blob, method = ship(fn).blob, names["Thing"].__init__
    segments: Segments = []
    answer = dump(load_function(blob)(), segments, own=False)
    names["Thing"].__init__ = method
    found = load_answer(answer, [])
    assert type(found) is names["Thing"]
    assert found.x == 3
    assert names["Thing"].__init__ is method


def test_the_registry_of_cloudpickle_is_left_alone() -> None:
    before = cloudpickle.list_registry_pickle_by_value()
    ship(scaled)
    ship(Scaler(1))
    assert cloudpickle.list_registry_pickle_by_value() == before
    assert len(cloudpickle.dumps(scaled)) < len(ship(scaled).blob)


def test_threads_may_ship_at_once() -> None:
    found: list[bytes] = []

    def work() -> None:
        found.extend(ship(Scaler.made).digest for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert len(set(found)) == 1


def test_a_cached_function_of_the_users_travels_with_its_limits_and_its_recursion() -> None:
    scope: dict[str, Any] = {"functools": functools, "__name__": "__main__"}
    exec(
        "@functools.lru_cache(maxsize=50, typed=True)\n"
        "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
        scope,
    )
    again = load_function(ship(scope["fibonacci"]).blob)
    assert again is not scope["fibonacci"]
    assert again(80) == 23416728348467685
    assert again.cache_parameters() == {"maxsize": 50, "typed": True}  # type: ignore[attr-defined]
    assert again.cache_info().hits > 70  # type: ignore[attr-defined]
    assert again.__name__ == "fibonacci"
    assert scope["fibonacci"].cache_info().currsize == 0
