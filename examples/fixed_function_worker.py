r"""A worker that runs one function of its own and no code from anybody else.

A camera's calibration lies on the machine beside the camera: a dark frame and a flat field, too big or too precious
to travel with each call. That machine's worker offers `calibrate` by its name, loads the calibration once in each
slot, and refuses shipped code::

    python -m starcore.worker --function fixed_function_worker:calibrate \
        --initializer fixed_function_worker:load_calibration --only-registered

A client, whose machine needs neither this file nor the calibration, calls the function by that name, on one array
or on many::

    client.submit_array("fixed_function_worker:calibrate", raw).result()
    client.run(list_of_arrays)                  # by the only function that the workers have

This file is the worker's module and, run as a script, also the client: it starts a star on this machine whose worker
is as above, sends it raw frames and checks that the scenes come back.

Usage::

    python examples/fixed_function_worker.py
    python examples/fixed_function_worker.py --frames 500 --pixels 1024
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import starcore

Image = NDArray[np.float64]

HERE = Path(__file__).resolve().parent
FUNCTION = "fixed_function_worker:calibrate"
WORKER_OPTIONS = (
    *("--function", FUNCTION),
    *("--initializer", "fixed_function_worker:load_calibration"),
    "--only-registered",
)
PIXELS_MAX = 2048
ERROR_MAX = 1e-9

_calibration: dict[str, Image] = {}


# -- on the worker -------------------------------------------------------------------------------------------


def load_calibration() -> None:
    """Load the camera's dark frame and flat field; runs once in each slot, before its first task."""
    _calibration["dark"], _calibration["flat"] = camera()


def calibrate(raw: Image) -> Image:
    """Return the light that fell on each pixel: the raw frame without dark current and vignetting."""
    rows, columns = raw.shape
    dark, flat = (_calibration[name][:rows, :columns] for name in ("dark", "flat"))
    return (raw - dark) / flat


def camera() -> tuple[Image, Image]:
    """Return the dark frame and the flat field of our camera, here made up in place of being read from its disk."""
    rng = np.random.default_rng(1609)
    dark = rng.gamma(2.0, 3.0, (PIXELS_MAX, PIXELS_MAX))
    flat = rng.normal(1.0, 0.05, (PIXELS_MAX, PIXELS_MAX)).clip(0.5)
    return dark, flat


# -- at the client -------------------------------------------------------------------------------------------


def scenes(count: int, pixels: int) -> list[Image]:
    """Return pictures of what there was to see: a ring that grows from frame to frame."""
    y, x = np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j]
    return [100 * np.exp(-(((np.hypot(x, y) - (i + 1) / count) / 0.1) ** 2)) for i in range(count)]


def options() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=formatter)
    parser.add_argument("--frames", type=int, default=100, help="how many frames")
    parser.add_argument("--pixels", type=int, default=512, help=f"height and width of a frame, at most {PIXELS_MAX}")
    return parser.parse_args()


def main() -> int:
    """Start a worker as above, call its function by name, and return the exit code."""
    asked = options()
    seen = scenes(asked.frames, asked.pixels)
    dark, flat = (image[: asked.pixels, : asked.pixels] for image in camera())
    raw = [scene * flat + dark for scene in seen]

    # The worker finds the module as any Python program would: it is on the path.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with starcore.LocalStar(workers=1, slots=2, worker_options=WORKER_OPTIONS) as star, star.client() as client:
        began = time.perf_counter()
        one = client.submit_array(FUNCTION, raw[0]).result()
        first_seconds = time.perf_counter() - began
        began = time.perf_counter()
        all_of_them = client.run(raw)
        seconds = time.perf_counter() - began

    megabytes = 2 * sum(image.nbytes for image in raw) / 1e6
    print(f"by name       {FUNCTION}, one frame in {first_seconds * 1e3:.1f} ms")
    print(f"client.run    {len(raw)} frames in {seconds:.2f} s, {megabytes / seconds:.0f} MB/s there and back")
    pairs = zip([one, *all_of_them], [seen[0], *seen], strict=True)
    error = max(float(np.abs(image - scene).max()) for image, scene in pairs)
    print(f"the scenes    came back, at most {error:.1e} off")
    if not error < ERROR_MAX:
        print("WRONG         these are not the scenes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
