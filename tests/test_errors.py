"""errors.py: the tree that is drawn is the tree that stands, and each code is spoken for once."""

from __future__ import annotations

import re

import pytest

from starcore import errors
from starcore.errors import FAILURES, Code, RefusedError, RemoteTraceback, Status, TaskError, TaskFailure

TREE = re.compile(r"^ {4}([│ ]*)(?:├── |└── )?([A-Z]\w+(?:Error|Failure))\b", re.MULTILINE)


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__() if sub.__module__ == errors.__name__))


def test_the_drawn_tree_names_every_class_once() -> None:
    drawn = [name for _, name in TREE.findall(errors.__doc__ or "")]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {cls.__name__ for cls in subclasses(errors.StarCoreError)}


def test_every_drawn_child_hangs_under_its_parent() -> None:
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│├└─ ]*)([A-Z]\w+(?:Error|Failure))\b", line)
        if not match:
            continue
        depth, name = len(match[1]), match[2]
        while path and path[-1][0] >= depth:
            path.pop()
        if path:
            assert issubclass(getattr(errors, name), getattr(errors, path[-1][1])), line
        path.append((depth, name))


@pytest.mark.parametrize("status", [s for s in Status if s not in {Status.OK, Status.RAISED, Status.CANCELLED}])
def test_every_failure_on_the_wire_has_its_class(status: Status) -> None:
    assert FAILURES[status].status is status
    assert issubclass(FAILURES[status], TaskFailure)


def test_codes_fit_their_fields_on_the_wire() -> None:
    assert all(0 <= code < 1 << 16 for code in Code)
    assert all(0 <= status < 1 << 8 for status in Status)


def test_misuse_is_also_the_builtin_that_callers_expect() -> None:
    assert issubclass(errors.ArgumentTypeError, TypeError)
    assert issubclass(errors.ArgumentValueError, ValueError)
    assert issubclass(errors.TaskTimeoutError, TimeoutError)


def test_texts_are_for_people() -> None:
    assert str(RefusedError(Code.VERSION, "versions 1 and 2")) == "versions 1 and 2"
    assert "version" in str(RefusedError(Code.VERSION, ""))
    assert str(TaskError("lab", "TooHot", "900 K")) == "lab.TooHot: 900 K"
    assert str(RemoteTraceback("Traceback ...")) == "\nTraceback ..."
