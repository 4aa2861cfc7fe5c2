"""How throughput grows with the size of an array, as a picture: `python -m benchmarks.plot`.

Drawn from the latest rows of sizes.py in benchmarks/results/ into docs/throughput.svg; the same rows give the same
file. Needs matplotlib, by the extra `bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import sizes
from benchmarks.harness import CONTENDERS, ROOT, Row
from benchmarks.report import TITLES, latest_run

PICTURE = ROOT / "docs" / "throughput.svg"
COLOURS = {
    "star": "#0072b2",
    "limit": "#555555",
    "dask": "#d55e00",
    "pool": "#009e73",
    "loky": "#cc79a7",
    "scaler": "#e69f00",
    "ray": "#56b4e9",
}
"""Okabe and Ito's, which those who see fewer colours tell apart as well."""
TICKS = {1 << 10: "1 KiB", 1 << 14: "16 KiB", 1 << 18: "256 KiB", 1 << 22: "4 MiB", 1 << 26: "64 MiB"}


def lines(made: Sequence[Row]) -> dict[str, list[tuple[int, Row]]]:
    """Each contender's rows by size, the star last so that it is drawn on top."""
    order = [*(name for name in CONTENDERS if name != "star"), "star"]
    found = {
        name: sorted(
            ((row.parameters["payload_bytes"], row) for row in made if row.contender == name), key=lambda pair: pair[0]
        )
        for name in order
    }
    return {name: own for name, own in found.items() if own}


def draw(made: Sequence[Row], path: Path = PICTURE) -> None:
    """Draw the rows of sizes.py: MB/s over payload bytes, both logarithmic, intervals as bands."""
    import matplotlib  # noqa: PLC0415 - only who draws needs it

    matplotlib.use("svg")
    settings: dict[str, Any] = {"svg.hashsalt": "starcore", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        from matplotlib import pyplot  # noqa: PLC0415

        figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
        for name, own in lines(made).items():
            _draw_line(axes, name, own)
        axes.set(xscale="log", yscale="log", xlabel="size of an array", ylabel="payload there and back, MB/s")
        axes.set_xticks(list(TICKS), list(TICKS.values()))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        figure.tight_layout()
        figure.patch.set_facecolor("white")
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _draw_line(axes: Any, name: str, own: Sequence[tuple[int, Row]]) -> None:
    where = [size for size, _ in own]
    style = {"star": ("-", 2.4, "o"), "limit": ("--", 1.8, "")}.get(name, ("-", 1.1, ""))
    axes.plot(
        where,
        [row.value for _, row in own],
        linestyle=style[0],
        linewidth=style[1],
        marker=style[2],
        markersize=4,
        color=COLOURS[name],
        label=TITLES[name],
    )
    axes.fill_between(
        where, [row.low for _, row in own], [row.high for _, row in own], color=COLOURS[name], alpha=0.12, linewidth=0
    )


def main() -> int:
    """Draw the latest rows of sizes.py."""
    made, _ = latest_run(benchmark=sizes.BENCHMARK)
    if not made:
        print("nothing to draw is recorded; measure it: python -m benchmarks sizes", file=sys.stderr)
        return 1
    draw(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
