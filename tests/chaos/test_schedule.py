"""The schedule of faults follows from its seed, and misses no kind."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from .faults import Surgeon
from .schedule import DECK, FIRST_SECONDS, Fault, schedule


def test_one_seed_gives_one_schedule_and_another_one_another() -> None:
    assert schedule(7, 300) == schedule(7, 300)
    assert schedule(7, 300) != schedule(8, 300)


def test_every_kind_comes_once_in_each_round_of_the_deck_at_least() -> None:
    blows = schedule(3, 300)
    for begin in range(0, len(blows) - DECK, DECK):
        assert set(Fault) == {blow.fault for blow in blows[begin : begin + DECK]}


def test_three_minutes_see_more_than_a_hundred_faults() -> None:
    for seed in range(50):
        blows = schedule(seed, 180)
        assert len(blows) > 120
        assert blows[0].at == FIRST_SECONDS
        assert all(first.at < second.at for first, second in pairwise(blows))
        assert Counter(blow.fault for blow in blows)[Fault.CUT] >= 12


def test_the_surgeon_knows_every_fault() -> None:
    assert set(Surgeon._STRIKES) == set(Fault)
