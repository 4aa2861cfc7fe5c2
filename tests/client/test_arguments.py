"""What the public calls refuse, one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from starcore.client.arguments import check_iterable, further_arguments, integer, number, positive, seconds_above_zero
from starcore.errors import ArgumentTypeError, ArgumentValueError, MisuseError


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: positive("chunksize", 0), ArgumentValueError, "chunksize is 0: it must be at least 1"),
        (lambda: positive("chunksize", 1.0), ArgumentTypeError, "chunksize must be an int, not 1.0"),
        (lambda: integer("n", True, 0, 5), ArgumentTypeError, "n must be an int, not True"),
        (lambda: integer("n", 6, 0, 5), ArgumentValueError, "n is 6: it must be at least 0, at most 5"),
        (lambda: number("timeout", "1"), ArgumentTypeError, "timeout must be a number of seconds, not '1'"),
        (lambda: number("timeout", True), ArgumentTypeError, "timeout must be a number of seconds, not True"),
        (
            lambda: seconds_above_zero("timeout", float("nan")),
            ArgumentValueError,
            "timeout is nan: it must be a number of seconds above 0",
        ),
        (lambda: check_iterable(3), ArgumentTypeError, "an iterable is needed, not int"),
        (lambda: further_arguments(3, None), ArgumentTypeError, "args must be a tuple or list of arguments, not int"),
        (lambda: further_arguments((), []), ArgumentTypeError, "kwargs must be a dict, not list"),
        (lambda: further_arguments((), {1: 2}), ArgumentTypeError, "the keys of kwargs must be names, not 1"),
    ],
)
def test_misuse_is_one_line(call: Callable[[], Any], error: type[MisuseError], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_what_is_right_comes_back_plain() -> None:
    assert type(integer("n", np.int8(3), 0, None)) is int
    assert type(seconds_above_zero("t", np.float32(0.5))) is float
    assert number("t", -1) == -1.0
    further = [1]
    assert further_arguments(further, {"x": 2}) == ((1,), {"x": 2})
    check_iterable(iter(further))
