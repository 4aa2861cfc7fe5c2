r"""The worker of the first StarCompute, with its options and its certificates: one fixed function.

The client's arrays go through `process`, whatever the client asks for, and no code ever comes from outside. What
was `StarHttpsProcessingWorker(port, processing_fn=process, url=url).start()` is now
`starcore.Worker(port=port, manager_ip=..., function=process).run()`; it has a slot for each core and looks for its
manager again for ever when it is gone.

The certificates are the old ones, and so are their names in the environment. Where there are none yet::

    openssl genpkey -algorithm RSA -out worker_key.pem
    openssl req -x509 -new -key worker_key.pem -out worker_cert.pem -days 365
    # the same two commands with client_key.pem and client_cert.pem, and for the manager
    openssl genpkey -algorithm RSA -out manager_key.pem
    openssl req -x509 -new -key manager_key.pem -out manager_cert.pem -days 365 \
        -addext "subjectAltName=IP:203.0.113.7"

    export STARCOMPUTE_MANAGER_CERT_PATH=$PWD/manager_cert.pem
    export STARCOMPUTE_WORKER_CERT_PATH=$PWD/worker_cert.pem
    export STARCOMPUTE_WORKER_KEY_PATH=$PWD/worker_key.pem

The manager needs its own certificate and key (STARCOMPUTE_MANAGER_KEY_PATH) and both other certificates. It may
move to another address: its certificate is known by itself, so nothing has to be made again.

Usage::

    python -m starcore.manager --port 443 --client-port 444          # on the machine that all can reach
    python examples/starcompute_worker.py --port 443 --manager-ip 203.0.113.7
    python examples/starcompute_worker.py --port 443 --url https://203.0.113.7
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

import starcore


def process(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the power spectrum of a signal."""
    return np.asarray(np.abs(np.fft.rfft(array)) ** 2 / len(array))


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, help="the manager's port for workers (default: the star's, or 443)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--manager-ip", help="the manager's address (default: the star's, or the one that runs here)")
    where.add_argument("--url", help="the same, as https://HOST")
    return parser.parse_args()


def main() -> int:
    """Work until told to stop, and return the exit code."""
    asked = options()
    worker = starcore.Worker(port=asked.port, manager_ip=asked.manager_ip or asked.url, function=process)
    try:
        return worker.run()
    except starcore.StarCoreError as error:
        print(f"starcompute_worker: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
