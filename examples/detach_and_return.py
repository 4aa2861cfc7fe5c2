"""Start a scan in one process, let that process end, and fetch the answers from another one.

What a night of computing looks like: `--submit` detaches the scan and ends, as a laptop that is closed does; `--fetch`
comes back for it, from any machine with the same join file. Without either, this program is both: it starts itself
with `--submit`, waits until that process is gone, and then fetches, on a star of this machine where no manager is
configured.

The scan counts, for each of many starting points, how long the Collatz sequence is until it reaches 1. It is held
against a serial run.

Usage::

    python examples/detach_and_return.py
    python examples/detach_and_return.py --submit --name tonight        # with STARCORE_JOIN set, on your own star
    python examples/detach_and_return.py --fetch --name tonight         # tomorrow, elsewhere
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np

import starcore


def collatz_steps(starts: np.ndarray) -> np.ndarray:
    """Return how many steps each number takes to reach 1."""
    numbers, steps = starts.astype(np.int64), np.zeros(len(starts), np.int64)
    while (running := numbers > 1).any():
        odd = running & (numbers % 2 == 1)
        numbers = np.where(odd, 3 * numbers + 1, np.where(running, numbers // 2, numbers))
        steps += running
    return steps


def submit(client: starcore.Client, name: str, numbers: int) -> None:
    """Detach the scan: when this returns, the manager has all of it."""
    starts = np.arange(1, numbers + 1)
    job = client.detached(name).submit_array(collatz_steps, starts, chunks=max(1, numbers // 20))
    print(f"detached {job.name!r}: {job.status()['tasks']} tasks; this process ends now")


def fetch(client: starcore.Client, name: str, numbers: int) -> bool:
    """Come back: look at what is there, wait for the rest, and say whether it is right."""
    job = client.job(name)
    print(f"found {[each.name for each in client.jobs()]}: {sum(1 for _ in job.results(wait=False))} blocks are there")
    steps = job.result()
    longest = int(steps.argmax()) + 1
    print(f"the longest sequence up to {len(steps)} begins at {longest}: {steps.max()} steps")
    right = len(steps) == numbers and bool(np.array_equal(steps, collatz_steps(np.arange(1, numbers + 1))))
    print("equal to the serial run" if right else "NOT equal to the serial run")
    return right


def both(options: argparse.Namespace) -> bool:
    """Let another process detach the scan, on a star of this machine, and come back for it."""
    with starcore.LocalStar() as star:
        where = ["--manager", star.address, "--join", str(star.join_file("client"))]
        what = ["--submit", "--name", options.name, "--numbers", str(options.numbers)]
        subprocess.run([sys.executable, __file__, *what, *where], check=True)
        with star.client() as client:
            return fetch(client, options.name, options.numbers)


def main() -> int:
    """Do what the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--submit", action="store_true", help="detach the scan, and end")
    parser.add_argument("--fetch", action="store_true", help="come back for it")
    parser.add_argument("--name", default="collatz", help="of the job (default: %(default)s)")
    parser.add_argument("--numbers", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--manager", help="its address (default: the configured one)")
    parser.add_argument("--join", help="the join file (default: the configured one)")
    options = parser.parse_args()
    if not (options.submit or options.fetch):
        return 0 if both(options) else 1
    with starcore.Client(options.manager, join=options.join) as client:
        if options.submit:
            submit(client, options.name, options.numbers)
            return 0
        return 0 if fetch(client, options.name, options.numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
