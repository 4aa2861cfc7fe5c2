"""loky as a contender, where it is installed."""

from __future__ import annotations

import pytest

from benchmarks.tasks import check, inputs

pytest.importorskip("loky", reason="a rival: pip install '.[rivals]'")

from benchmarks.rivals.loky_pool import LokyPool


def test_loky_gives_right_answers() -> None:
    with LokyPool(workers=1) as loky:
        arrays = inputs(3, 1 << 16)
        check(arrays, loky.arrays(arrays, depth=2))
        values = list(range(20))
        assert loky.submit(values) == loky.map(values) == values
        assert loky.round_trip("x") == "x"
        assert loky.pids()["worker"]
