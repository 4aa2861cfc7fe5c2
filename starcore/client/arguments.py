"""What the public calls refuse: each misuse is one line, raised where the call is made, before anything is sent.

Arrays have rules of their own, in `arrays.py`. The errors are all `ArgumentTypeError` and `ArgumentValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from starcore.errors import ArgumentTypeError, ArgumentValueError


def further_arguments(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what stands behind the array in a call, copied: the caller may change both containers."""
    if isinstance(args, (str, bytes, np.ndarray)) or not isinstance(args, Iterable):
        raise ArgumentTypeError(f"args must be a tuple or list of arguments, not {type(args).__name__}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ArgumentTypeError(f"kwargs must be a dict, not {type(kwargs).__name__}")
    for name in kwargs or ():
        if not isinstance(name, str):
            raise ArgumentTypeError(f"the keys of kwargs must be names, not {name!r:.80}")
    return tuple(args), dict(kwargs or {})


def positive(name: str, value: Any) -> int:
    """Return an int of at least 1."""
    return integer(name, value, 1, None)


def integer(name: str, value: Any, low: int, high: int | None) -> int:
    """Return an int within limits, both included."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(f"{name} must be an int, not {value!r:.80}")
    if value < low or (high is not None and value > high):
        raise ArgumentValueError(
            f"{name} is {value}: it must be at least {low}" + (f", at most {high}" if high else "")
        )
    return int(value)


def number(name: str, value: Any) -> float:
    """Return a number of seconds of any sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentTypeError(f"{name} must be a number of seconds, not {value!r:.80}")
    return float(value)


def seconds_above_zero(name: str, value: Any) -> float:
    """Return a finite number of seconds."""
    seconds = number(name, value)
    if not 0 < seconds < float("inf"):
        raise ArgumentValueError(f"{name} is {value}: it must be a number of seconds above 0")
    return seconds


def check_iterable(value: Any) -> None:
    """Refuse what cannot be iterated over; nothing is taken from what can."""
    try:
        iter(value)
    except TypeError:
        raise ArgumentTypeError(f"an iterable is needed, not {type(value).__name__}") from None
