"""Measure a particle telescope's acceptance with random rays, each task with a seed of its own.

Two round plates, one above the other, see the rays that cross both. How much of an isotropic flux that is, the
geometric factor (area times solid angle, cm² sr), has a closed form for such plates (Sullivan, Nuclear Instruments
and Methods 95, 1971), so that the estimate and its error bar can be judged.

Every task draws from its own child of one `numpy.random.SeedSequence`: the streams are independent, and the answer
is the same to the last bit on one slot or a thousand, in whatever order the tasks run and however often one is
tried again. Two error bars are printed, the binomial one and the one read from the scatter of the tasks; the
estimate has to be within four of the first, and a few tasks are repeated here and must agree exactly.

Usage::

    python examples/monte_carlo.py
    python examples/monte_carlo.py --tasks 1000 --rays 500000
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import repeat
from math import pi, sqrt

import numpy as np

import starcore

UPPER_CM, LOWER_CM, DISTANCE_CM = 10.0, 8.0, 25.0
"""The radii of the two plates, and how far apart they are."""
REPEATED_TASKS = 3
ERRORS_MAX = 4.0


def count_hits(seed: np.random.SeedSequence, rays: int) -> int:
    """Send rays through the upper plate and return how many cross the lower one too."""
    rng = np.random.default_rng(seed)
    radius = UPPER_CM * np.sqrt(rng.random(rays))  # an even spread over a disc
    sine_squared = rng.random(rays)  # an isotropic flux through a surface: density cos(theta) sin(theta)
    azimuth = rng.random(rays) * (2 * pi)
    reach = DISTANCE_CM * np.sqrt(sine_squared / (1 - sine_squared))  # how far aside it meets the lower plane
    distance_squared = radius**2 + reach**2 + 2 * radius * reach * np.cos(azimuth)
    return int(np.count_nonzero(distance_squared < LOWER_CM**2))


def geometric_factor() -> float:
    """Return the telescope's geometric factor in cm² sr by Sullivan's formula."""
    total = UPPER_CM**2 + LOWER_CM**2 + DISTANCE_CM**2
    return pi**2 / 2 * (total - sqrt(total**2 - 4 * UPPER_CM**2 * LOWER_CM**2))


def options() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=formatter)
    parser.add_argument("--tasks", type=int, default=400, help="how many tasks, a seed each")
    parser.add_argument("--rays", type=int, default=250_000, help="rays in a task")
    parser.add_argument("--seed", type=int, default=1971, help="the seed of all seeds")
    return parser.parse_args()


def main() -> int:
    """Run the simulation and return its exit code."""
    asked = options()
    seeds = np.random.SeedSequence(asked.seed).spawn(asked.tasks)
    began = time.perf_counter()
    hits = np.array(list(starcore.map(count_hits, seeds, repeat(asked.rays))))
    seconds = time.perf_counter() - began

    few = [count_hits(seed, asked.rays) for seed in seeds[:REPEATED_TASKS]]
    if few != hits[:REPEATED_TASKS].tolist():
        print(f"WRONG         these hits were counted here, others on the star: {few}", file=sys.stderr)
        return 1

    rays = asked.tasks * asked.rays
    flux = pi * UPPER_CM**2 * pi  # all that crosses the upper plate downwards, cm² sr
    fraction = hits.sum() / rays
    estimate = flux * fraction
    error = flux * sqrt(fraction * (1 - fraction) / rays)
    scatter = flux * hits.std(ddof=1) / asked.rays / sqrt(asked.tasks)
    exact = geometric_factor()
    print(f"rays          {rays:.3g} in {asked.tasks} tasks, a seed each")
    print(f"the star      {seconds:.2f} s with its start, {rays / seconds / 1e6:.1f} million rays/s")
    print(f"estimate      {estimate:.4f} +- {error:.4f} cm² sr (by the tasks' scatter +- {scatter:.4f})")
    print(f"closed form   {exact:.4f} cm² sr, {abs(estimate - exact) / error:.1f} standard errors away")
    print(f"here again    {REPEATED_TASKS} tasks, the very same hits")
    if abs(estimate - exact) > ERRORS_MAX * error:
        print("WRONG         the estimate is too far from the closed form", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
