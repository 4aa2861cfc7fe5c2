"""Questions of callers', against a manager that knows no stories but tells how it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from starcore.client.api import Client
from starcore.errors import ArgumentValueError

from .inline_manager import InlineStar, inline_star


@pytest.fixture
def star(tmp_path: Path) -> Iterator[InlineStar]:
    with inline_star(tmp_path) as star:
        yield star


@pytest.fixture
def client(star: InlineStar) -> Iterator[Client]:
    with Client(star.address, join=star.join) as client:
        yield client


def test_futures_know_the_names_of_their_tasks(star: InlineStar, client: Client) -> None:
    star.hold()
    first, second = client.submit(abs, 1), client.submit(abs, 2)  # type: ignore[var-annotated]
    session, job, index = first.task.split("/")  # type: ignore[attr-defined]
    assert (len(session), int(job), int(index)) == (8, 1, 0)
    assert second.task == f"{session}/1/1"  # type: ignore[attr-defined]
    whole = client.submit_array(np.sort, np.arange(9.0), chunks=3)
    assert whole.task == f"{session}/2/0"  # type: ignore[attr-defined]
    star.let_go()
    whole.result(10)
    assert whole.task == ""  # type: ignore[attr-defined]


def test_whole_is_called_by_the_block_that_failed(client: Client) -> None:
    def fails(block: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        if block[0] == 3:
            raise ValueError("here")
        return block

    whole = client.submit_array(fails, np.arange(9.0), chunks=3)
    with pytest.raises(ValueError, match="here"):
        whole.result(10)
    assert whole.task.endswith("/1")  # type: ignore[attr-defined]


def test_future_of_nothing_has_no_story(client: Client) -> None:
    with pytest.raises(ArgumentValueError, match="no task"):
        client.story(Future())


@pytest.mark.parametrize("name", ["x" * 70_000, "3fa9c1d2/1/\ud800"])
def test_text_that_fits_no_message_is_refused_before_it_is_sent(client: Client, name: str) -> None:
    with pytest.raises(ArgumentValueError, match="no task's name"):
        client.story(name)
    assert client.submit(abs, -1).result(10) == 1


def test_status_slots_and_address_are_told(star: InlineStar, client: Client) -> None:
    assert isinstance(client.status(), dict)
    assert client.slots == client._max_workers == 2
    assert client.address == star.address
