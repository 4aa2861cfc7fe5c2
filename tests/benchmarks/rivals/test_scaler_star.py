"""opengris-scaler as a contender, where it is installed: over TLS, and no process is left."""

from __future__ import annotations

import psutil
import pytest

from benchmarks.tasks import check, inputs

pytest.importorskip("scaler", reason="a rival: pip install '.[rivals]'")

from benchmarks.rivals.scaler_star import ScalerStar


def test_scaler_gives_right_answers_and_leaves_no_process() -> None:
    with ScalerStar(workers=1) as scaler:
        arrays = inputs(3, 1 << 16)
        check(arrays, scaler.arrays(arrays, depth=2))
        values = list(range(20))
        assert scaler.submit(values) == scaler.map(values) == values
        assert scaler.round_trip("x") == "x"
        pids = [pid for role in scaler.pids().values() for pid in role]
        assert pids
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
