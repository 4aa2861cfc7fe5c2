"""The house, read from its own source: floors, purity, the blind manager, and the sizes of its rooms.

Nothing here imports the package to look at it; the syntax trees say what each file imports and does. Only the
blindness of the manager is a question about running code, and a fresh interpreter answers it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "starcore"
TESTS = ROOT / "tests"

FILE_LINES_MAX = 600

# From the ground to the roof. A file imports from lower floors; neighbours on a floor may know each other as
# long as no circle comes of it.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"messages", "errors", "texts", "postmortem"}),
    frozenset({"events", "pace", "streams", "tls", "certificates", "settings", "logs", "options", "_framing"})
    | frozenset({"capacity", "connecting", "proxies", "transport", "vigil"})
    | frozenset({"pickling", "payloads", "layouts", "plain", "functions", "failures", "references"}),
    frozenset({"codec", "uplink"}),
    frozenset({"connection"}),
    frozenset({"driver", "dialing"}),
    # A wing's three storeys. What its core stands on is pure and below, whether it is named here or not; any other
    # file that is not named is a shell's.
    frozenset({"state", "scheduling", "relay", "core", "arrays", "arena"}),
    frozenset({"session", "server", "supervisor", "slot"}),
    frozenset({"api", "wing.__main__"}),
    frozenset({"local", "status", "stories", "jobs", "drain"}),
    frozenset({"__init__", "__main__", "certs", "default"}),
)
WINGS = ("client", "manager", "worker")
WING_STOREYS = (5, 6, 7)

PURE = frozenset({"core", "state", "scheduling", "relay", "streams", "messages", "events", "errors"})
"""Pure by name; and so is whatever these import from the package."""

# What a pure file may not even name: the network, the clock, chance, the machine, other threads of control.
IMPURE_IMPORTS = frozenset(
    {
        *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "signal", "subprocess", "threading", "_thread"),
        *("select", "selectors", "socket", "socketserver", "ssl", "uvloop"),
        *("fcntl", "io", "logging", "mmap", "os", "pathlib", "resource", "shutil", "sys", "tempfile", "ctypes"),
        *("datetime", "time", "random", "secrets", "uuid", "weakref"),
        *("cloudpickle", "numpy", "pickle"),
    }
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
IMPURE_SYNTAX = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)

BLINDING = frozenset({"pickle", "_pickle", "cloudpickle", "numpy", "starcore.pickling"})


# -- reading the source ------------------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every Python file of the package by its dotted name; a package's name is that of its directory."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
KNOWN = frozenset(MODULES) | {"starcore._framing"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def absolute(node: ast.ImportFrom, name: str) -> str:
    """The module that an import statement in module `name` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Every module that `name` imports anywhere, also inside functions and under TYPE_CHECKING, with the line."""
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, name)
            for alias in node.names:
                child = f"{module}.{alias.name}"
                yield (child if child in KNOWN else module), node.lineno


def inner_imports(name: str) -> set[str]:
    """The modules of this package that `name` imports, without itself."""
    return {module for module, _ in imports(name) if module in KNOWN} - {name}


def face() -> set[str]:
    """What starcore/__init__.py offers, read from its literal __all__."""
    for node in tree(PACKAGE / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("starcore/__init__.py has no __all__")


def wing(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in WINGS else None


def floor(name: str) -> int | None:
    """The floor's number, or None for a file that FLOORS does not name."""
    room = name.removeprefix("starcore").removeprefix(".") or "__init__"
    if wing(name) is None:
        return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)
    room = room.partition(".")[2]
    if not room:
        return WING_STOREYS[0]  # a wing's __init__.py, which any of its rooms runs first
    if room == "__main__":
        room = "wing.__main__"
    unnamed = WING_STOREYS[0] if name in PURE_MODULES else WING_STOREYS[1]
    return next((number for number in WING_STOREYS if room in FLOORS[number]), unnamed)


def pure_modules() -> set[str]:
    """The files that are pure by name, and all that they stand on: a core is as pure as the last room of its own."""
    waiting = [name for name in MODULES if name.rpartition(".")[2] in PURE]
    pure: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in pure or name not in MODULES or is_bare(MODULES[name]):
            continue
        pure.add(name)
        waiting += inner_imports(name) - {"starcore"}
    return pure


def is_bare(path: Path) -> bool:
    """Nothing but a docstring and the __future__ import."""
    return all(
        (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        for node in tree(path).body
    )


PURE_MODULES = pure_modules()

every_module = pytest.mark.parametrize("name", list(MODULES))
every_pure_module = pytest.mark.parametrize("name", sorted(PURE_MODULES))


# -- floors ------------------------------------------------------------------------------------------------------


@every_module
def test_every_file_stands_on_a_floor(name: str) -> None:
    assert floor(name) is not None, f"{name} stands on no floor: give it one in FLOORS"


@every_module
def test_imports_run_only_downwards(name: str) -> None:
    own = floor(name)
    assert own is not None
    upwards = {
        f"{name}:{line} imports {module}"
        for module, line in imports(name)
        if module in KNOWN and module not in {name, "starcore"} and (floor(module) or 0) > own
    }
    assert not upwards


@every_module
def test_nobody_inside_the_house_asks_at_the_front_door(name: str) -> None:
    """The face is lazy and knows every room; only its version is there before anything else is loaded."""
    asked = {
        alias.name
        for node in ast.walk(tree(MODULES[name]))
        if isinstance(node, ast.ImportFrom) and absolute(node, name) == "starcore"
        for alias in node.names
    }
    assert not asked & (face() - {"__version__"})


def test_there_are_no_import_circles() -> None:
    graph = {name: inner_imports(name) - {"starcore"} for name in MODULES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for module in sorted(graph.get(name, ())):
            walk(module, (*path, name))
        done.add(name)

    for name in graph:
        walk(name, ())


@every_module
def test_wings_do_not_know_each_other(name: str) -> None:
    own = wing(name)
    if own is not None:
        strangers = {module for module in inner_imports(name) if wing(module) not in {None, own}}
        assert not strangers


# -- purity ------------------------------------------------------------------------------------------------------


@every_pure_module
def test_pure_files_import_nothing_of_the_world(name: str) -> None:
    worldly = {f"{name}:{line} imports {m}" for m, line in imports(name) if m.partition(".")[0] in IMPURE_IMPORTS}
    assert not worldly
    assert "starcore._framing" not in inner_imports(name), "bytes are for the shells"


@every_pure_module
def test_pure_files_do_nothing_but_decide(name: str) -> None:
    doings = set()
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, IMPURE_SYNTAX):
            doings.add(f"{name}:{node.lineno} {type(node).__name__}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            doings.add(f"{name}:{node.lineno} {node.func.id}()")
    assert not doings


def test_the_eye_for_impurity_sees() -> None:
    """The checks above find what they look for."""
    guilty = ast.parse("import time\nasync def f():\n    await g()\n")
    assert any(isinstance(node, IMPURE_SYNTAX) for node in ast.walk(guilty))
    assert "time" in IMPURE_IMPORTS
    assert {"starcore.messages", "starcore.errors", "starcore.events", "starcore.streams"} <= PURE_MODULES
    assert "starcore.driver" not in PURE_MODULES


# -- the blind manager -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODULES if wing(name) == "manager"])
def test_no_file_of_the_manager_names_what_would_make_it_see(name: str) -> None:
    seen = {module for module, _ in imports(name) if module in BLINDING or module.partition(".")[0] in BLINDING}
    assert not seen


def modules_after(*names: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these, without what the standard library brought.

    The libraries below load pickle for reasons of their own (logging.config, multiprocessing, …), which gives no
    peer a way to have anything unpickled. So they are loaded first, and pickle is forgotten again: if it is
    there at the end, then one of our own files, or a package we brought in, asked for it by name.
    """
    outer = ["asyncio", "argparse", "logging", "logging.config", "logging.handlers", "ssl", "uvloop"]
    outer += ["cryptography.x509", "cryptography.hazmat.primitives.serialization"]
    program = f"""
import sys
from importlib import import_module
for name in {outer!r}:
    try:
        import_module(name)
    except ImportError:
        pass
for name in ("pickle", "_pickle", "_compat_pickle"):
    sys.modules.pop(name, None)
for name in {list(names)!r}:
    import_module(name)
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_a_running_manager_has_loaded_nothing_that_could_unpickle() -> None:
    names = [name for name in MODULES if wing(name) == "manager"]
    assert not modules_after(*names) & BLINDING


def test_the_face_alone_loads_no_numpy_and_nothing_of_the_rooms() -> None:
    loaded = modules_after("starcore")
    assert not loaded & (BLINDING | {"starcore.driver", "starcore.codec", "starcore.client.api"})


# -- the rooms ---------------------------------------------------------------------------------------------------


@every_module
def test_every_file_says_what_it_is(name: str) -> None:
    path = MODULES[name]
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return
    assert ast.get_docstring(tree(path)), f"{name} has no docstring"


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_files_stay_small_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


def mirrors(path: Path) -> list[Path]:
    """The test files that may mirror a package file."""
    inner = path.relative_to(PACKAGE)
    name = inner.stem.strip("_")
    names = {"init": ("test_init.py", "test_face.py"), "main": ("test_main.py", "test___main__.py")}
    return [TESTS / inner.parent / test for test in names.get(name, (f"test_{name}.py",))]


@pytest.mark.parametrize(
    "path",
    sorted([path for path in MODULES.values() if not is_bare(path)] + list(PACKAGE.rglob("*.pyx"))),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_every_file_has_its_mirror_among_the_tests(path: Path) -> None:
    places = mirrors(path)
    assert any(place.is_file() for place in places), f"no {places[0].relative_to(ROOT)}"


def test_cython_stays_one_small_unit_that_knows_no_numpy() -> None:
    assert not list(PACKAGE.rglob("*.pxd"))
    assert [path.name for path in PACKAGE.rglob("*.pyx")] in ([], ["_framing.pyx"])
    for path in PACKAGE.rglob("*.pyx"):
        code = [line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in code if "import" in line.split() and "numpy" in line]
        assert path.with_suffix(".pyi").is_file()


def test_make_builds_anew_and_lints_after_a_change_of_any_part_of_the_unit() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (sources,) = (line for line in lines if line.startswith("SOURCES :="))
    (lint,) = (line for line in lines if " cython-lint " in line)
    parts = {f"starcore/{path.name}" for path in (*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxi"))}
    assert parts <= set(sources.split())
    assert parts <= set(lint.split())
