"""The record of a body on its way."""

from __future__ import annotations

from starcore.manager.flows import FIRST_ATTEMPT, Flow


def test_flow_is_forwarded_when_all_of_it_has_left():
    flow = Flow(100)
    assert (flow.source_attempt, flow.forwarded) == (FIRST_ATTEMPT, False)
    flow.begin = flow.end = 100
    assert flow.forwarded
    assert Flow(0).forwarded
