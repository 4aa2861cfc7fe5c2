"""A hundred million steps: ``python -m tests.simulation.soak``, or ``make soak``.

It may be ended at any time (Ctrl-C, or TERM) and goes on where it stopped: its place is a file beside the results'
checkout, of one code; another begins anew, with seeds that were not lived through before. The code is what a simulated
star runs, so a commit that leaves that alone leaves the place as well. Every sitting appends a row to
``benchmarks/results/soak.jsonl``: what ran, on which machine, at which commit, which seeds failed, and which seed was
the first to bring each event upon a task in each state.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness import Row
from benchmarks.report import record

from .campaign import CHUNK_SEEDS, Tally, campaign

STEPS = 100_000_000
FIRST_SEED = 2_000_000_000
"""Beyond the fixed and the fresh seeds of the tests."""
SEEDS_AHEAD = 1_000 * CHUNK_SEEDS
"""How many seeds a campaign is given at a time."""
ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".soak.json"
SAID_SECONDS = 10.0


@dataclass(slots=True)
class Place:
    """How far a soak has come."""

    code: str
    next_seed: int = FIRST_SEED
    seeds: int = 0
    steps: int = 0
    failed: list[int] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    """Core, state and event, each with the first seed that brought them together."""

    def add(self, part: Tally) -> None:
        """Take in what the next seeds came to."""
        self.next_seed += part.seeds
        self.seeds += part.seeds
        self.steps += part.steps
        self.failed += part.failed
        self.reached = {" / ".join(pair): seed for pair, seed in part.reached.items()} | self.reached


def code_here(root: Path = ROOT) -> str:
    """Name the code that is lived through: a digest of every module that the simulation loaded, and the extension's."""
    loaded = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    parts = {Path(name) for name in loaded if name.endswith(".py")}
    package = root / "starcore"
    parts = {path for path in parts if path.is_relative_to(package) or path.parent == Path(__file__).parent}
    parts |= {path for suffix in ("pyx", "pxi", "pxd") for path in package.glob(f"*.{suffix}")}
    digest = hashlib.sha256()
    for path in sorted(parts - {Path(__file__)}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def load(path: Path, now: str) -> Place:
    """Read a place; that of another code gives only its seeds on."""
    if not path.exists():
        return Place(now)
    place = Place(**json.loads(path.read_text()))
    return place if place.code == now else Place(now, place.next_seed)


def save(path: Path, place: Place) -> None:
    """Keep a place, whatever happens meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(place)))
    new.replace(path)


def sit(place: Place, path: Path, steps: int) -> Tally:
    """Live through seeds until the soak has so many steps, or until Ctrl-C. What this sitting came to."""
    sitting, said_at = Tally(), time.monotonic()
    try:
        while place.steps < steps:
            for part in campaign(place.next_seed, SEEDS_AHEAD):
                sitting.add(part)
                place.add(part)
                save(path, place)
                for text in part.failed.values():
                    print(text, flush=True)
                if time.monotonic() >= said_at + SAID_SECONDS:
                    said_at = time.monotonic()
                    print(f"{place.steps:,} of {steps:,} steps; this sitting: {sitting.line()}", flush=True)
                if place.steps >= steps:
                    break
    except KeyboardInterrupt:
        print(f"interrupted; it goes on at seed {place.next_seed}")
    return sitting


def row(place: Place, sitting: Tally, steps: int) -> Row:
    """What is kept of a sitting."""
    rate = sitting.steps / sitting.cpu_seconds if sitting.cpu_seconds else 0.0
    return Row(
        "soak", "simulated steps, each checked", "star", "steps per CPU s", rate, rate, rate, 1,
        parameters={
            "first_seed": place.next_seed - sitting.seeds, "seeds": sitting.seeds, "steps": sitting.steps,
            "tasks": sitting.tasks, "faults": sum(sitting.faults.values()), "failed": list(sitting.failed),
            "code": place.code,
            "cpu_seconds": round(sitting.cpu_seconds, 1), "soak_steps": place.steps, "soak_steps_wanted": steps,
            "soak_seeds": place.seeds, "soak_failed": place.failed, "reached": dict(sorted(place.reached.items())),
        },
    )  # fmt: skip


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Return 1 if a seed failed in this soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="when the soak is over")
    parser.add_argument("--place", type=Path, default=PLACE, help="where its place is kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    place = load(options.place, code_here())
    sitting = sit(place, options.place, options.steps)
    if sitting.seeds:
        record([row(place, sitting, options.steps)], f"python -m tests.simulation.soak --steps {options.steps}")
    print(f"{place.steps:,} of {options.steps:,} steps of code {place.code}; this sitting: {sitting.line()}")
    return 1 if place.failed else 0


if __name__ == "__main__":
    sys.exit(main())
