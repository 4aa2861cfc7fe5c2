"""What was put: named at once, let go from anywhere, behind the calls that were made before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from starcore.client import orders
from starcore.client.puts import HEAVY_BYTES, Puts, advise
from starcore.errors import ArgumentValueError
from starcore.messages import FunctionKind, Job
from starcore.pickling import Shipped, pack_value


class Desk:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.due: list[Callable[[], None]] = []
        self.puts = Puts(self.told.append, self.due.append)

    def job(self, *names: bytes) -> Job:
        return Job(1, FunctionKind.REGISTERED, bytes(32), "m:f", shares=b"".join(names))


def test_value_may_be_named_from_put_on_until_the_loop_hears_that_it_is_gone() -> None:
    desk = Desk()
    packed = pack_value([1, 2, 3])
    name = desk.puts.put(packed)
    assert desk.told == [orders.Put(name, packed)]
    desk.puts.require(desk.job(name))
    desk.puts.let_go(name)
    assert len(desk.told) == 1
    desk.puts.require(desk.job(name))
    desk.due.pop()()
    assert desk.told[1:] == [orders.Release(name)]
    with pytest.raises(ArgumentValueError, match="released meanwhile"):
        desk.puts.require(desk.job(name))


def test_names_are_never_the_same() -> None:
    desk = Desk()
    assert len({desk.puts.put(pack_value(0)) for _ in range(100)}) == 100


def test_function_that_carries_much_is_named_once_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    heavy = Shipped(bytes(32), bytes(HEAVY_BYTES + 1), "weigh", "3.11")
    light = Shipped(bytes(32), b"light", "light", "3.11")
    assert [advise(shipped) for shipped in (heavy, heavy, light)] == [heavy, heavy, light]
    said = capsys.readouterr().err
    assert said.count("weigh carries 8 MB") == said.count("starcore:") == 1
