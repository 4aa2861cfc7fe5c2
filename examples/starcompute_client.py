"""The client of the first StarCompute: a list of arrays goes in, the list of results comes out.

What was `StarClient(url, manager_cert, client_cert, client_key).run(tasks)` is now
`starcore.Client(url).run(tasks)`. The workers run their own function (`starcompute_worker.py`), so this side knows
nothing of it but what it promises: power spectra, whose sum is the signal's energy (Parseval), and that is checked.

The certificates are the old ones (`starcompute_worker.py` tells how to make them), named by the environment::

    export STARCOMPUTE_MANAGER_CERT_PATH=$PWD/manager_cert.pem
    export STARCOMPUTE_CLIENT_CERT_PATH=$PWD/client_cert.pem
    export STARCOMPUTE_CLIENT_KEY_PATH=$PWD/client_key.pem

Without --url a star is started on this machine, whose worker has that one function.

Usage::

    python examples/starcompute_client.py --url https://203.0.113.7 --port 444
    python examples/starcompute_client.py
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import starcore

HERE = Path(__file__).resolve().parent
ERROR_MAX = 1e-12


def signals(count: int, length: int) -> list[NDArray[np.float64]]:
    """Return the tasks: random signals."""
    rng = np.random.default_rng(444)
    return [rng.normal(size=length) for _ in range(count)]


def energy(spectrum: NDArray[np.float64], length: int) -> float:
    """Return the energy of a signal of this length by its power spectrum, whose inner lines count twice."""
    twice = spectrum[1 : (length + 1) // 2]
    return float(spectrum.sum() + twice.sum())


@contextlib.contextmanager
def star_here() -> Iterator[starcore.Client]:
    """Start a star whose worker has the other example's function, and yield a client of it."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    offer = ("--function", "starcompute_worker:process", "--only-registered")
    with starcore.LocalStar(workers=1, slots=2, worker_options=offer) as star, star.client() as client:
        yield client


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--url", help="the manager's address, https://HOST (default: a star on this machine)")
    parser.add_argument("--port", type=int, help="its port for clients (default: the star's, or 444)")
    parser.add_argument("--tasks", type=int, default=50, help="how many arrays (default: %(default)s)")
    parser.add_argument("--length", type=int, default=100, help="numbers in an array (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Run the tasks and return the exit code."""
    asked = options()
    tasks = signals(asked.tasks, asked.length)
    address = f"{asked.url}:{asked.port}" if asked.port else asked.url
    try:
        with starcore.Client(address) if asked.url else star_here() as client:
            began = time.perf_counter()
            results = client.run(tasks)
            seconds = time.perf_counter() - began
    except starcore.StarCoreError as error:
        print(f"starcompute_client: {error}", file=sys.stderr)
        return error.exit_code

    print(f"Took {seconds:.3f} seconds for {len(results)} results, {len(results) / seconds:.0f} a second")
    wanted = [float(task @ task) for task in tasks]
    error = max(abs(energy(result, asked.length) / e - 1) for result, e in zip(results, wanted, strict=True))
    print(f"The energies agree to {error:.1e}")
    if not error < ERROR_MAX:
        print("WRONG: these are not the signals' power spectra", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
