"""Whether the bugs that are to be planted still have their lines: told in a moment, and not after the hunt for them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from .plants import PLANTS, changed


@pytest.mark.parametrize("name", list(PLANTS))
def test_bug_has_its_line_and_is_python(name: str) -> None:
    spec = find_spec(PLANTS[name].module)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    compile(changed(source, PLANTS[name]), spec.origin, "exec")
