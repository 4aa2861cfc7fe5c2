"""A star within this process, one a file of tests, and a client of it for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from starcore.client.api import Client

from .inline_manager import InlineStar, inline_star


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InlineStar]:
    registered = {"": np.cumsum, "science:double": lambda array: array * 2}
    with inline_star(tmp_path_factory.mktemp("star"), registered) as star:
        yield star


@pytest.fixture
def client(star: InlineStar) -> Iterator[Client]:
    star.core.held = False
    with Client(star.address, join=star.join) as client:
        yield client
