"""Scan an epidemic over two parameters: a differential equation for each point, answers as they come.

The SEIR model: susceptible people are exposed, after a latency infectious, and at last removed. For each basic
reproduction number R0 and each latency scipy's `solve_ivp` follows one outbreak, one task of the star. The answers
are taken in the order in which they are ready, by `concurrent.futures.as_completed`: the star's futures are real
ones. Two maps come out, how high the outbreak peaks and when.

How many are never infected has an exact answer that no latency changes, by Lambert's W (Ma and Earn, Bulletin of
Mathematical Biology 68, 2006), and every point of the scan is held against it. Needs scipy.

Usage::

    python examples/parameter_scan.py
    python examples/parameter_scan.py --points 40
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import as_completed
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import lambertw

import starcore

INFECTIOUS_DAYS = 5.0
FIRST_INFECTIOUS = 1e-5
"""The fraction of all people who are infectious on day 0."""
DAYS = 5000.0
TOLERANCE = 1e-10
ERROR_MAX = 1e-6
SHOWN = 5


class Outbreak(NamedTuple):
    """What one outbreak came to."""

    peak: float
    peak_day: float
    spared: float


def outbreak(r0: float, latency_days: float) -> Outbreak:
    """Follow one outbreak to its end.

    Parameters
    ----------
    r0 : float
        The basic reproduction number, above 1.
    latency_days : float
        Mean time from exposure to being infectious, days.
    """

    def rates(_day: float, people: NDArray[np.float64]) -> list[float]:
        susceptible, exposed, infectious = people
        infections = r0 / INFECTIOUS_DAYS * susceptible * infectious
        onsets = exposed / latency_days
        return [-infections, infections - onsets, onsets - infectious / INFECTIOUS_DAYS]

    def turns(day: float, people: NDArray[np.float64]) -> float:
        return rates(day, people)[2]

    turns.direction = -1  # type: ignore[attr-defined]  # scipy's way: only where growth turns into decline
    start = [1 - FIRST_INFECTIOUS, 0.0, FIRST_INFECTIOUS]
    run = solve_ivp(rates, (0.0, DAYS), start, method="LSODA", rtol=TOLERANCE, atol=TOLERANCE**1.4, events=turns)
    top = int(np.argmax(run.y_events[0][:, 2]))
    return Outbreak(float(run.y_events[0][top, 2]), float(run.t_events[0][top]), float(run.y[0, -1]))


def spared(r0: float) -> float:
    """Return the fraction of all people who are never infected, exactly."""
    return float(-lambertw(-r0 * (1 - FIRST_INFECTIOUS) * np.exp(-r0)).real / r0)


def table(title: str, values: NDArray[np.float64], r0s: NDArray[np.float64], latencies: NDArray[np.float64]) -> str:
    """Return a few rows and columns of a map, for people."""
    rows, columns = (np.unique(np.linspace(0, len(axis) - 1, SHOWN).astype(int)) for axis in (r0s, latencies))
    lines = [f"{title:>24}" + "".join(f"{latencies[j]:7.1f} d" for j in columns)]
    lines += [f"{f'R0 = {r0s[i]:.2f}':>24}" + "".join(f"{values[i, j]:9.3g}" for j in columns) for i in rows]
    return "\n".join(lines)


def options() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=formatter)
    parser.add_argument("--points", type=int, default=16, help="points along each of the two axes")
    return parser.parse_args()


def main() -> int:
    """Run the scan and return its exit code."""
    asked = options()
    r0s, latencies = np.linspace(1.3, 6.0, asked.points), np.linspace(0.5, 10.0, asked.points)
    peaks, days, errors = np.empty((3, asked.points, asked.points))

    began = time.perf_counter()
    places = {
        starcore.submit(outbreak, float(r0), float(latency)): (i, j)
        for i, r0 in enumerate(r0s)
        for j, latency in enumerate(latencies)
    }
    for future in as_completed(places):
        place, found = places[future], future.result()
        peaks[place], days[place] = found.peak, found.peak_day
        errors[place] = abs(found.spared - spared(r0s[place[0]]))
    seconds = time.perf_counter() - began

    rate = len(places) / seconds
    print(f"the star      {len(places)} outbreaks in {seconds:.2f} s with its start, {rate:.0f} a second")
    print(table("infectious at the peak", peaks, r0s, latencies))
    print(table("day of the peak", days, r0s, latencies))
    print(f"never infected, by the equation and by Lambert's W: at most {errors.max():.1e} apart")
    if not errors.max() < ERROR_MAX:
        print("WRONG         the outbreaks miss their exact end", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
