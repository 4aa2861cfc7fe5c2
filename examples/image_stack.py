"""Denoise a stack of photographs, frame by frame, on every core of a star.

The photographs are those that scikit-image carries in its wheel; nothing is downloaded. Each is made a grey frame
and "taken" several times in poor light: a pixel counts photons (Poisson) and the camera adds its read-out noise
(Gaussian). `restore` makes the noise even over bright and dark (the generalized Anscombe transform, Mäkitalo and
Foi 2013), removes it by non-local means (Buades, Coll and Morel 2005) and goes back to photons. The stack then is
one array, and one call spreads it over the star, a task a frame; the answers land in `restored` as they arrive::

    future = starcore.submit_array(restore, stack, chunks=1, out=restored)

The same is done here in one loop, and both must agree to the last bit. Where no manager is configured, a star of
this machine's cores is started. Needs scikit-image; shows a progress bar if tqdm is there.

Usage::

    python examples/image_stack.py
    python examples/image_stack.py --frames 96 --photons 20 --chunks 4
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import color, io, transform, util
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means

import starcore

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Images = NDArray[np.float32]

PHOTOGRAPHS = (
    *("astronaut.png", "coffee.png", "rocket.jpg", "camera.png", "retina.jpg", "moon.png"),
    *("motorcycle_left.png", "hubble_deep_field.jpg", "ihc.png", "brick.png", "cell.png", "gravel.png"),
)
READ_OUT_NOISE = 1.5
"""Standard deviation of what the camera adds to a pixel, in photons."""
PICTURED_FRAMES_MAX = 4
GAP_PIXELS = 6


# -- what the star runs --------------------------------------------------------------------------------------


def restore(stack: Images) -> Images:
    """Return each frame of photon counts (frames, height, width) without its noise."""
    return np.stack([denoise(frame) for frame in stack])


def denoise(counts: Images) -> Images:
    """Return one frame of photon counts without its noise."""
    even = 2 * np.sqrt(np.maximum(counts + 3 / 8 + READ_OUT_NOISE**2, 0))  # noise of standard deviation 1 everywhere
    clean = denoise_nl_means(even, patch_size=5, patch_distance=8, h=0.8, sigma=1.0, preserve_range=True)
    return np.asarray((clean / 2) ** 2 - 1 / 8 - READ_OUT_NOISE**2, dtype=np.float32)


# -- the input -----------------------------------------------------------------------------------------------


def photographs(count: int, pixels: int) -> Images:
    """Return the first `count` photographs as square grey frames, white being 1."""
    return np.stack([photograph(name, pixels) for name in PHOTOGRAPHS[:count]])


def photograph(name: str, pixels: int) -> Images:
    """Return the middle of a photograph as a square grey frame."""
    image = io.imread(str(files("skimage.data") / name))
    grey = util.img_as_float32(color.rgb2gray(image) if image.ndim == 3 else image)
    side = min(grey.shape)
    top, left = ((length - side) // 2 for length in grey.shape)
    square = grey[top : top + side, left : left + side]
    return np.asarray(transform.resize(square, (pixels, pixels), anti_aliasing=True), dtype=np.float32)


def expose(scenes: Images, frames: int, photons: float, seed: int) -> Images:
    """Take the scenes in turn, `photons` in a white pixel, until there are so many frames of counts."""
    rng = np.random.default_rng(seed)
    light = photons * scenes[np.arange(frames) % len(scenes)]
    return (rng.poisson(light) + rng.normal(0, READ_OUT_NOISE, light.shape)).astype(np.float32)


# -- the two runs --------------------------------------------------------------------------------------------


def run_here(stack: Images) -> tuple[Images, float]:
    """Restore the stack in this process and return it with the seconds it took."""
    began = time.perf_counter()
    restored = restore(stack)
    return restored, time.perf_counter() - began


def run_on_star(stack: Images, chunks: int) -> tuple[Images, float]:
    """Restore the stack on the star and return it with the seconds it took."""
    restored = np.full_like(stack, np.nan)
    began = time.perf_counter()
    future = starcore.submit_array(restore, stack, chunks=chunks, out=restored)
    watch(future, restored)
    future.result()
    return restored, time.perf_counter() - began


def watch(future: Future[Any], restored: Images) -> None:
    """Show how `restored`, all NaN at first, fills up with answers."""
    if tqdm is None:
        return
    with tqdm(total=len(restored), desc="on the star", unit="frame", disable=None) as bar:
        while not wait([future], timeout=0.1).done:
            bar.update(int(np.isfinite(restored[:, -1, -1]).sum()) - bar.n)
        bar.update(len(restored) - bar.n)


# -- the outcome ---------------------------------------------------------------------------------------------


def quality(scenes: Images, stack: Images, photons: float) -> list[float]:
    """Return the peak signal-to-noise ratio of each frame in decibels."""
    shown = np.clip(stack / photons, 0, 1)
    return [
        float(peak_signal_noise_ratio(scenes[i % len(scenes)], frame, data_range=1)) for i, frame in enumerate(shown)
    ]


def picture(rows: Sequence[tuple[str, Images, list[float]]], path: Path) -> None:
    """Write the first frames of each stack (white being 1), one stack a row, with their decibels."""
    columns = min(PICTURED_FRAMES_MAX, len(rows[0][1]))
    pixels = rows[0][1].shape[-1]
    step = pixels + GAP_PIXELS
    canvas = Image.new("L", (columns * step - GAP_PIXELS, len(rows) * step - GAP_PIXELS), 255)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(10, pixels // 20))
    for row, (title, stack, decibels) in enumerate(rows):
        for column in range(columns):
            corner = (column * step, row * step)
            canvas.paste(Image.fromarray(util.img_as_ubyte(np.clip(stack[column], 0, 1))), corner)
            place = (corner[0] + pixels // 40, corner[1] + pixels // 60)
            draw.text(place, f"{title}, {decibels[column]:.1f} dB", 255, font, stroke_width=2, stroke_fill=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def options() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], formatter_class=formatter)
    parser.add_argument("--frames", type=int, default=48, help="frames in the stack")
    parser.add_argument("--pixels", type=int, default=400, help="height and width of a frame")
    parser.add_argument("--photons", type=float, default=40.0, help="photons counted in a white pixel")
    parser.add_argument("--chunks", type=int, default=1, help="frames in a task")
    parser.add_argument("--seed", type=int, default=2013, help="seed of the noise")
    parser.add_argument("--output", type=Path, default=Path("demo-output/before-after.png"), help="the picture's place")
    return parser.parse_args()


def main() -> int:
    """Run the demo and return its exit code."""
    asked = options()
    scenes = photographs(min(asked.frames, len(PHOTOGRAPHS)), asked.pixels)
    stack = expose(scenes, asked.frames, asked.photons, asked.seed)
    print(f"the stack     {' x '.join(map(str, stack.shape))} pixels, {stack.nbytes / 1e6:.1f} MB", end=", ")
    print(f"of {len(scenes)} photographs with {asked.photons:g} photons in a white pixel")

    began = time.perf_counter()
    starcore.submit(abs, -1).result()
    print(f"the star      answered its first call after {time.perf_counter() - began:.2f} s")
    restored, star_seconds = run_on_star(stack, asked.chunks)
    expected, here_seconds = run_here(stack)
    if restored.tobytes() != expected.tobytes():
        print("WRONG         the star's answer differs from this process's", file=sys.stderr)
        return 1

    before, after = quality(scenes, stack, asked.photons), quality(scenes, restored, asked.photons)
    if np.mean(after) <= np.mean(before):
        print("WRONG         the frames are no nearer to the photographs than before", file=sys.stderr)
        return 1
    rows = [("before", stack / asked.photons, before), ("after", restored / asked.photons, after)]
    picture(rows, asked.output)
    megabytes = (stack.nbytes + restored.nbytes) / 1e6
    print(f"tasks         {-(-len(stack) // asked.chunks)}, {asked.chunks} frame(s) each")
    print(f"one process   {here_seconds:.2f} s")
    faster = here_seconds / star_seconds
    print(f"the star      {star_seconds:.2f} s with its slots' first imports, {faster:.2f} times as fast")
    print(f"there, back   {megabytes:.1f} MB, {megabytes / star_seconds:.1f} MB/s")
    print("the answers   are equal to the last bit")
    print(f"PSNR          {np.mean(before):.1f} dB before, {np.mean(after):.1f} dB after")
    print(f"the picture   {asked.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
