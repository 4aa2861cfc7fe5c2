"""One run: hurt a star on a schedule, heal it, let it drain, and check what is left."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.stars import until

from . import checkers
from .faults import Surgeon
from .schedule import Fault, schedule
from .star import HurtStar

CALM_SECONDS_MAX = 240.0
"""From the last fault on, callers may take so long to finish what they have begun."""
LOOK_SECONDS = 0.1
NOTE_SECONDS = 30.0
LONGER = 3
"""A machine that is very busy may need so many times as long to do enough."""


@dataclass(slots=True)
class Report:
    """What happened in a run."""

    seed: int
    faults: Counter[Fault] = field(default_factory=Counter)
    verified: Counter[str] = field(default_factory=Counter)
    statuses: int = 0
    calm_seconds: float = 0.0
    manager_idle_descriptors: int = 0
    manager_idle_bytes: int = 0
    manager_bytes_max: int = 0
    manager_bytes: int = 0

    def __str__(self) -> str:
        """Say it in a few lines."""
        kinds = ", ".join(f"{fault.name.lower()} {count}" for fault, count in sorted(self.faults.items(), key=str))
        pieces = ", ".join(f"{kind} {count}" for kind, count in sorted(self.verified.items()))
        sizes = [size >> 20 for size in (self.manager_idle_bytes, self.manager_bytes_max, self.manager_bytes)]
        return (
            f"seed {self.seed}: {sum(self.faults.values())} faults ({kinds})\n"
            f"{sum(self.verified.values())} answers verified ({pieces})\n"
            f"manager: {sizes[0]} MiB idle, {sizes[1]} at most, {sizes[2]} after; {self.statuses} statuses checked; "
            f"drained in {self.calm_seconds:.1f} s"
        )


def run(directory: Path, seed: int, seconds: float, *, answers_min: int = 0, faults_min: int = 0) -> Report:
    """Hurt a star for so many seconds, and on until so much was done; raise what is not as it should be.

    The log is `star.log` in the directory, and stays there.
    """
    report = Report(seed)
    star = HurtStar(directory, seed)
    try:
        star.settle()
        report.manager_idle_bytes = checkers.rss_bytes(star.manager_pid)
        report.manager_idle_descriptors = len(checkers.descriptors(star.manager_pid))
        star.start_callers()
        watcher = checkers.Watcher(star)
        try:
            report.faults = _hurt(star, report, seconds, answers_min, faults_min)
            _drain(star, report)
        finally:
            watcher.close()
        report.statuses, report.manager_bytes_max = watcher.statuses, watcher.rss_bytes_max
        _check(star, report)
    finally:
        star.close()
    checkers.log_is_clean(star)
    checkers.nothing_is_left(star)
    return report


def _hurt(star: HurtStar, report: Report, seconds: float, answers_min: int, faults_min: int) -> Counter[Fault]:
    surgeon = Surgeon(star)
    begun = noted = time.monotonic()
    try:
        for blow in schedule(report.seed, LONGER * seconds):
            enough = sum(surgeon.dealt.values()) >= faults_min and sum(_verified(star).values()) >= answers_min
            if blow.at > seconds and enough:
                break
            while (now := time.monotonic() - begun) < blow.at:
                surgeon.heal(now)
                time.sleep(max(0.0, min(LOOK_SECONDS, blow.at - now)))
            surgeon.strike(blow)
            _callers_are_well(star)
            if time.monotonic() >= noted + NOTE_SECONDS:
                noted = time.monotonic()
                dealt, verified = sum(surgeon.dealt.values()), sum(_verified(star).values())
                sys.stderr.write(f"{noted - begun:6.0f} s: {dealt} faults, {verified} answers verified\n")
    finally:
        surgeon.heal_all()
    return surgeon.dealt


def _drain(star: HurtStar, report: Report) -> None:
    begun = time.monotonic()
    star.dismiss_callers()

    def ended() -> bool:
        _callers_are_well(star)
        return all(caller.poll() == 0 for caller in star.callers)

    until(ended, f"the callers' end (I2, I10)\n{star.star.log()[-4000:]}", CALM_SECONDS_MAX)
    report.calm_seconds = time.monotonic() - begun
    report.verified = _verified(star)


def _check(star: HurtStar, report: Report) -> None:
    star.settle()
    star.forget_absent()
    status = star.star.check_quiet()
    checkers.slots_add_up(status)
    assert sum(worker["connected"] for worker in status["workers"]) == len(star.workers), status["workers"]
    checkers.every_slot_is_free(star)
    star.star.check_quiet()
    checkers.descriptors_are_back(star, report.manager_idle_descriptors)
    report.manager_bytes = checkers.memory_is_back(star, report.manager_idle_bytes)


def _callers_are_well(star: HurtStar) -> None:
    """A caller that found something wrong has said so and left."""
    for caller in star.callers:
        code = caller.poll()
        assert code in (None, 0, -9), f"a caller ended with {code}:\n{star.star.log()[-12000:]}"


def _verified(star: HurtStar) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in star.notes():
        total.update(row)
    return total
