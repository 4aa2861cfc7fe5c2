"""A progress bar for calls that have many parts, drawn by tqdm where that is installed (``starcore[progress]``).

tqdm is looked for at the call that asks for a bar, and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any, TypeAlias

from starcore.client.blocks import AutoFuture
from starcore.client.futures import BlockFuture, TaskFuture
from starcore.errors import SetupError

Tqdm: TypeAlias = Any
"""The class `tqdm.tqdm`, or its notebook's counterpart."""


def load_tqdm() -> Tqdm:
    """Return the class that draws.

    Raises
    ------
    SetupError
        There is no tqdm.
    """
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        raise SetupError("progress=True draws with tqdm, which is not installed: pip install tqdm") from None


def watch_results(tqdm: Tqdm, results: Iterator[Any], total: int | None, what: str) -> Iterator[Any]:
    """Yield the results, and count them up to `total` (None: nobody knows); to stop early ends both."""
    with tqdm(total=total, desc=what, unit="call") as bar, closing(results):  # type: ignore[type-var]
        for value in results:
            bar.update()
            yield value


def watch_blocks(tqdm: Tqdm, whole: BlockFuture, what: str) -> None:
    """Count the blocks as their answers come; however the whole ends, so does the bar."""
    bar = tqdm(total=len(whole.parts), desc=what, unit="block")

    def count(part: Future[Any]) -> None:
        if _answered(part):
            bar.update()

    for part in list(whole.parts):
        part.add_done_callback(count)
    whole.add_done_callback(lambda _: bar.close())


def watch_rows(tqdm: Tqdm, whole: AutoFuture, what: str) -> Callable[[TaskFuture, int], None]:
    """Count the rows as their blocks' answers come, and show how many make a block now; the whole ends the bar."""
    bar = tqdm(total=whole.rows, desc=what, unit="row")
    whole.add_done_callback(lambda _: bar.close())

    def count(part: Future[Any], rows: int) -> None:
        if _answered(part):
            bar.set_postfix(chunks=whole.chunks, refresh=False)
            bar.update(rows)

    return lambda part, rows: part.add_done_callback(lambda done: count(done, rows))


def _answered(part: Future[Any]) -> bool:
    """Whether it ended with an answer: what failed or was cancelled is over, but nothing is done."""
    return not part.cancelled() and part.exception() is None
