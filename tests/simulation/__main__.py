"""Run seeds: ``python -m tests.simulation --seeds 100 --start 0``, or look at one: ``--seed 7 --trace``."""

from __future__ import annotations

import argparse
import sys
import time

from .star import simulate
from .world import Violation


def main() -> int:
    """Return 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.start, options.start + options.seeds)
    failed: list[int] = []
    steps, begun = 0, time.perf_counter()
    for seed in seeds:
        try:
            report = simulate(seed, trace=options.trace)
        except Violation as violation:
            print(violation)
            failed.append(seed)
            if not options.keep_going:
                break
        else:
            steps += report.steps
            print(report.line())
    seconds = time.perf_counter() - begun
    print(f"{steps} steps in {seconds:.1f} s ({steps / seconds:.0f}/s); failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
