"""Ray as a contender, where it is installed."""

from __future__ import annotations

import psutil
import pytest

from benchmarks.tasks import check, inputs

pytest.importorskip("ray", reason="a rival: pip install '.[rivals]'")

from benchmarks.rivals.ray_node import RayNode


def test_ray_gives_right_answers_and_leaves_no_process() -> None:
    with RayNode(workers=1) as ray:
        arrays = inputs(3, 1 << 16)
        check(arrays, ray.arrays(arrays, depth=2))
        values = list(range(20))
        assert ray.submit(values) == ray.map(values) == values
        assert ray.round_trip("x") == "x"
        pids = [pid for role in ray.pids().values() for pid in role]
        assert pids
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
