"""dask as a contender, where it is installed: over mutual TLS, with right answers."""

from __future__ import annotations

import psutil
import pytest

from benchmarks.tasks import check, inputs

pytest.importorskip("distributed", reason="a rival: pip install '.[rivals]'")

from benchmarks.rivals.dask_star import DaskStar


def test_dask_gives_right_answers_over_tls_and_leaves_no_process() -> None:
    with DaskStar(workers=1) as dask:
        assert dask._client.scheduler.address.startswith("tls://")
        arrays = inputs(3, 1 << 16)
        check(arrays, dask.arrays(arrays, depth=2))
        values = list(range(20))
        assert dask.submit(values) == dask.map(values) == values
        assert dask.round_trip("x") == "x"
        pids = [pid for role in dask.pids().values() for pid in role]
        assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
