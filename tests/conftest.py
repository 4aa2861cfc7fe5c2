"""What every test gets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from starcore import proxies

# The proxy of whoever runs the tests is not for them.
for variable in (*proxies.VARIABLES, proxies.OWN_VARIABLE):
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """A program that was called in this process has set the log up; the next test finds it as it was."""
    log = logging.getLogger("starcore")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])
