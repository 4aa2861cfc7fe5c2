"""The harness: turns, intervals, rows, ratios, CPU accounts, and rivals that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import (
    Question,
    Sample,
    compete,
    contenders,
    cpu_seconds,
    digest,
    family,
    interval,
    joined,
    left_out,
    measured,
    question_rows,
    rounds,
    rows,
)


@pytest.fixture(autouse=True)
def nobody_left_out() -> Iterator[None]:
    left_out.clear()
    yield
    left_out.clear()


def named(name: str) -> Any:
    return SimpleNamespace(name=name, pids=dict)


def samples(**values: list[float]) -> dict[str, list[Sample]]:
    return {name: [Sample(value) for value in own] for name, own in values.items()}


def test_contenders_take_turns_forwards_and_backwards_after_a_warm_up() -> None:
    turns: list[str] = []

    def measure(contender: Any) -> Sample:
        turns.append(contender.name)
        return Sample(float(len(turns)))

    taken = rounds([named("a"), named("b")], measure, 2)
    assert turns == ["a", "b", "a", "b", "b", "a"]
    assert [sample.value for sample in taken["a"]] == [3.0, 6.0]


def test_a_rival_that_fails_is_left_out_with_its_reason_and_the_star_may_not_fail() -> None:
    def measure(contender: Any) -> Sample:
        if contender.name != "limit":
            raise RuntimeError("no such luck")
        return Sample(1.0)

    assert rounds([named("limit"), named("ray")], measure, 2).keys() == {"limit"}
    assert left_out == {"ray": "failed: RuntimeError: no such luck"}
    with pytest.raises(RuntimeError, match="no such luck"):
        rounds([named("star")], measure, 1)


@pytest.mark.parametrize(("count", "low", "high"), [(1, 0, 0), (3, 0, 2), (5, 0, 4), (7, 0, 6), (8, 1, 6), (15, 3, 11)])
def test_intervals_are_order_statistics_that_hold_the_median_with_90_percent(count: int, low: int, high: int) -> None:
    assert interval([float(value) for value in reversed(range(count))]) == (low, high)


def test_intervals_hold_the_median_as_often_as_they_say() -> None:
    chance = np.random.default_rng(0)
    held = 0
    for values in chance.exponential(size=(2000, 15)):
        low, high = interval(list(values))
        held += low <= np.log(2) <= high
    assert held / 2000 > 0.9


def test_a_row_is_the_median_with_its_interval_and_the_stars_ratios_round_by_round() -> None:
    own = samples(star=[6.0, 16.0, 10.0], limit=[10.0, 20.0, 40.0], pool=[2.0, 2.0, 2.0])
    star, limit, _ = rows(own, benchmark="b", measure="m", unit="MB/s")
    assert (star.value, star.low, star.high, star.rounds) == (10.0, 6.0, 16.0, 3)
    assert star.ratios["limit"].median == pytest.approx(0.6)
    assert (star.ratios["limit"].low, star.ratios["limit"].high) == pytest.approx((0.25, 0.8))
    assert star.ratios["pool"].median == 5.0
    assert limit.ratios == {}


def test_cpu_is_kept_by_role_and_is_a_measure_of_its_own_where_asked_for() -> None:
    question = Question("m", "MB/s", lambda _: Sample(1.0), cpu_per="s/GB", cpu_measure="m: CPU")
    taken = {
        "star": [Sample(5.0, {"client": 1.0, "worker": 3.0}), Sample(5.0, {"client": 2.0, "worker": 4.0})],
        "limit": [Sample(5.0, {"client": 2.0}), Sample(5.0, {"client": 2.0})],
    }
    star, _, star_cpu, limit_cpu = question_rows("b", question, taken)
    assert star.cpu == {"client": 1.5, "worker": 3.5}
    assert (star_cpu.measure, star_cpu.unit, star_cpu.value, limit_cpu.value) == ("m: CPU", "s/GB", 5.0, 2.0)
    assert star_cpu.ratios["limit"].median == 2.5


def test_rivals_measured_later_join_the_rows_of_the_pairs() -> None:
    pairs = rows(samples(star=[4.0], limit=[8.0]), benchmark="b", measure="m", unit="s")
    turns = rows(samples(star=[6.0], dask=[2.0]), benchmark="b", measure="m", unit="s")
    star, limit, dask = joined(pairs, turns)
    assert star.value == 4.0
    assert {name: ratio.median for name, ratio in star.ratios.items()} == {"limit": 0.5, "dask": 3.0}
    assert (limit.contender, dask.contender) == ("limit", "dask")


def test_a_competition_asks_the_pool_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(harness.MAKERS, "star", harness.MAKERS["pool"])
    monkeypatch.setattr("benchmarks.rivals.pool.Pool.name", "star")
    question = Question("m", "s", lambda contender: Sample(float(contender.round_trip(3))))
    (row,) = compete("b", [question], ["star"], workers=1, pairs=2, turns=1)
    assert (row.contender, row.value, row.rounds) == ("star", 3.0, 2)


def test_cpu_of_another_process_is_seen_and_a_gone_one_costs_nothing() -> None:
    program = "x = sum(range(2_000_000)); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_seconds(child.pid) > 0.005
        assert {os.getpid(), child.pid} <= set(family({"worker": [os.getpid()]})["worker"])
        child.stdin.close()
    assert cpu_seconds(child.pid) == 0.0


def test_measured_work_is_charged_to_the_client_that_did_it() -> None:
    seconds, cpu, answer = measured(named("a"), lambda: sum(range(1_000_000)), 2.0)
    assert answer == sum(range(1_000_000))
    assert 0 < cpu["client"] <= seconds


def test_the_hash_of_answers_depends_on_every_one_of_them() -> None:
    array = np.arange(4.0)
    hashes = {digest(array), digest(array + 1), digest(array, array), digest([1, 2]), digest([1, 3]), digest(b"x")}
    assert len(hashes) == 6
    assert digest(array) == digest(array.copy())


def test_a_rival_that_is_not_installed_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with contenders(["dask"], workers=1) as running:
        assert running == []
    assert "not installed" in left_out["dask"]
    assert "dask is left out" in capsys.readouterr().err


def test_a_rival_that_does_not_work_here_is_left_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_luck(self: Any, value: Any) -> Any:
        raise OSError("nothing here")

    monkeypatch.setattr("benchmarks.rivals.pool.Pool.round_trip", no_luck)
    with contenders(["pool"], workers=1) as running:
        assert running == []
    assert left_out["pool"] == "does not work here: OSError: nothing here"
