"""`python -m tests.chaos`: hurt a star for an hour, or for as long as one says."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from .run import run


def main() -> int:
    """Run, print the report, and return 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--directory", type=Path, help="for the log (default: a new one)")
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, {options.seconds:g} s, log in {directory}", flush=True)
    print(run(directory, options.seed, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
