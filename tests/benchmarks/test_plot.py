"""The picture: every contender's line, the same rows give the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import plot, sizes
from benchmarks.harness import Row, Sample, rows
from benchmarks.report import latest_run


def made(**factors: float) -> list[Row]:
    return [
        row
        for size in sizes.SIZES
        for row in rows(
            {name: [Sample(factor * size**0.5)] for name, factor in factors.items()},
            benchmark=sizes.BENCHMARK,
            measure=sizes.case(size).measure,
            unit="MB/s",
            parameters={"payload_bytes": size},
        )
    ]


def test_lines_go_by_size_and_the_star_is_drawn_last() -> None:
    found = plot.lines(made(star=1.0, limit=2.0)[::-1])
    assert list(found) == ["limit", "star"]
    assert [size for size, _ in found["star"]] == list(sizes.SIZES)


def test_the_same_rows_give_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the picture: pip install '.[bench]'")
    for name in ("first.svg", "second.svg"):
        plot.draw(made(star=1.0, limit=2.0, dask=0.1), tmp_path / name)
    text = (tmp_path / "first.svg").read_text()
    assert text == (tmp_path / "second.svg").read_text()
    for word in ("StarCore", "the limit", "dask.distributed", "64 MiB"):
        assert word in text


def test_the_picture_is_there_when_sizes_are_recorded() -> None:
    assert plot.PICTURE.is_file() or not latest_run(benchmark=sizes.BENCHMARK)[0], "draw it: python -m benchmarks.plot"
