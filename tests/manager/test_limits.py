"""The manager's limits."""

from __future__ import annotations

import pytest

from starcore.manager.limits import Limits


@pytest.mark.parametrize(("silence", "heartbeat"), [(8.0, 2.0), (2.0, 0.5), (60.0, 2.0)])
def test_several_heartbeats_fit_into_the_longest_silence(silence: float, heartbeat: float) -> None:
    assert Limits(silence_seconds=silence).heartbeat_seconds == heartbeat
