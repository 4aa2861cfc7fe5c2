"""The standard library's pool as a contender."""

from __future__ import annotations

from benchmarks.rivals.pool import Pool
from benchmarks.tasks import check, inputs


def test_the_pool_gives_right_answers() -> None:
    with Pool(workers=1) as pool:
        arrays = inputs(3, 1 << 16)
        check(arrays, pool.arrays(arrays, depth=2))
        values = list(range(20))
        assert pool.submit(values) == pool.map(values) == values
        assert pool.round_trip("x") == "x"
        assert len(pool.pids()["worker"]) >= 1
