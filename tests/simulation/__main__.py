"""Run seeds: ``python -m tests.simulation --seeds 1000 --start 0``, or look at one: ``--seed 7 --trace``."""

from __future__ import annotations

import argparse
import sys

from .campaign import Tally, campaign
from .star import simulate
from .world import Violation


def main() -> int:
    """Return 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print every event of that one")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, trace=options.trace)
    total = Tally()
    for part in campaign(options.start, options.seeds):
        total.add(part)
        for text in part.failed.values():
            print(text)
        print(total.line(), flush=True)
        if total.failed and not options.keep_going:
            break
    return 1 if total.failed else 0


def _one(seed: int, *, trace: bool) -> int:
    try:
        print(simulate(seed, trace=trace).line())
    except Violation as violation:
        print(violation)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
