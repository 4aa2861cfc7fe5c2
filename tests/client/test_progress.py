"""Bars that count, by a class of tqdm's shape."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from typing import Any, cast

import pytest

from starcore.client.blocks import AutoFuture
from starcore.client.futures import BlockFuture, TaskFuture
from starcore.client.progress import load_tqdm, watch_blocks, watch_results, watch_rows
from starcore.errors import SetupError


class Bar:
    """What is left of a bar where nothing is drawn."""

    made: list[Bar]

    def __init__(self, **options: Any) -> None:
        self.options, self.count, self.closed = options, 0, False
        Bar.made = [self]

    def update(self, count: int = 1) -> None:
        assert not self.closed
        self.count += count

    def set_postfix(self, refresh: bool = True, **shown: Any) -> None:
        self.shown = shown

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_results_are_counted_and_a_caller_who_stops_early_ends_both() -> None:
    ended = []

    def results() -> Any:
        try:
            yield from "abc"
        finally:
            ended.append(True)

    watched = cast("Any", watch_results(Bar, results(), 3, "letters"))
    assert [next(watched), next(watched)] == ["a", "b"]
    watched.close()
    (bar,) = Bar.made
    assert (bar.count, bar.closed, ended) == (2, True, [True])
    assert bar.options == {"total": 3, "desc": "letters", "unit": "call"}
    assert list(watch_results(Bar, results(), None, "letters")) == ["a", "b", "c"]


def test_blocks_are_counted_and_the_whole_ends_the_bar() -> None:
    class Whole(Future[Any]):
        parts = [Future[Any](), Future[Any]()]  # noqa: RUF012

    whole = Whole()
    watch_blocks(Bar, cast("BlockFuture", whole), "halves")
    (bar,) = Bar.made
    for count, part in enumerate(whole.parts, 1):
        part.set_result(None)
        assert (bar.count, bar.closed) == (count, False)
    whole.set_result(None)
    assert bar.closed


def test_rows_are_counted_and_the_bar_shows_how_many_make_a_block() -> None:
    class Whole(Future[Any]):
        rows, chunks = 10, 4

    whole, part = Whole(), Future[Any]()
    watch = watch_rows(Bar, cast("AutoFuture", whole), "rows")
    (bar,) = Bar.made
    watch(cast("TaskFuture", part), 4)
    assert bar.options == {"total": 10, "desc": "rows", "unit": "row"}
    part.set_result(None)
    assert (bar.count, bar.shown) == (4, {"chunks": 4})
    whole.set_result(None)
    assert bar.closed


def test_blocks_that_fail_or_are_cancelled_are_not_counted() -> None:
    class Whole(Future[Any]):
        parts = [Future[Any](), Future[Any](), Future[Any]()]  # noqa: RUF012
        rows, chunks = 12, 4

    whole = Whole()
    watch_blocks(Bar, cast("BlockFuture", whole), "thirds")
    (blocks,) = Bar.made
    watch = watch_rows(Bar, cast("AutoFuture", whole), "rows")
    (rows,) = Bar.made
    for part in whole.parts:
        watch(cast("TaskFuture", part), 4)
    answered, failed, cancelled = whole.parts
    answered.set_result(None)
    failed.set_exception(ValueError("no"))
    assert cancelled.cancel()
    whole.set_exception(ValueError("no"))
    assert (blocks.count, blocks.closed) == (1, True)
    assert (rows.count, rows.closed) == (4, True)


def test_missing_tqdm_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(SetupError, match="pip install tqdm"):
        load_tqdm()
