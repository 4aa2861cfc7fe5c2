"""The package's face: every name is there, loaded at its first use and not before."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from operator import attrgetter
from pathlib import Path

import pytest

import starcore
from starcore import errors


def test_every_name_of_the_face_can_be_had_and_is_listed() -> None:
    assert dir(starcore) == sorted(starcore.__all__)
    for name in starcore.__all__:
        assert getattr(starcore, name) is getattr(starcore, name)


def test_errors_of_the_face_are_those_of_the_tree() -> None:
    names = [name for name in starcore.__all__ if isinstance(getattr(starcore, name), type)]
    for name in names:
        if issubclass(getattr(starcore, name), errors.StarCoreError):
            assert getattr(starcore, name) is getattr(errors, name)


def test_directory_of_the_same_name_does_not_hide_the_package(tmp_path: Path) -> None:
    """A clone of the project is one, for whoever works beside it."""
    (tmp_path / "starcore").mkdir()
    subprocess.run([sys.executable, "-c", "import starcore; starcore.submit"], cwd=tmp_path, check=True)


def test_every_error_of_the_tree_is_on_the_face() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    for error in tree:
        # The kinds of ProtocolError are for whoever closes a connection: callers are told the family.
        if issubclass(error, Exception) and not issubclass(error, errors.ProtocolError):
            assert error.__name__ in starcore.__all__
    assert "ProtocolError" in starcore.__all__


def test_help_has_the_formula_where_the_readme_says_so() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"`help\(starcore\.([\w.]+)\)`\s+has\s+the\s+formula", readme)
    assert "max(B*u, (B*w + B/b*f) / S, B*d)" in (attrgetter(name)(starcore).__doc__ or "")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'starcore' has no attribute 'nonsense'"):
        starcore.nonsense  # noqa: B018


def test_looking_at_the_face_loads_no_room() -> None:
    code = "import starcore, sys; dir(starcore); print([m for m in sys.modules if 'starcore.' in m])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_version_is_that_of_the_installed_package() -> None:
    try:
        assert metadata.version("starcore") == starcore.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("the package is only on the path: pip install -e .")
