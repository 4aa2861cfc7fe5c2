"""Refs: what they stand for, when they are let go, and what a call may not do with them."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import pytest

from starcore import references
from starcore.errors import ArgumentValueError, LoadError
from starcore.messages import SHARES_MAX
from starcore.references import Ref, fetch, lend, names_of, take_back

OWNER = object()
NAME = b"n" * 32


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    references._lent.clear()


def ref(number: int = 0, gone: list[bytes] | None = None, **options: object) -> Ref:
    let_go = (lambda name: None) if gone is None else gone.append
    return Ref(number.to_bytes(32, "little"), 8, OWNER, let_go, **options)  # type: ignore[arg-type]


def test_ref_is_let_go_once_by_release_context_or_garbage_collection():
    for end in (lambda it: it.release(), lambda it: it.__exit__(None, None, None), lambda it: None):
        gone: list[bytes] = []
        one = ref(1, gone)
        assert not one.released
        end(one)
        del one
        gc.collect()
        assert gone == [(1).to_bytes(32, "little")]


def test_ref_becomes_its_value_where_that_is_lent():
    lend(NAME, lambda writable: ("value", writable))
    for writable in (False, True):
        text = pickle.dumps(Ref(NAME, 8, OWNER, lambda name: None, writable=writable))
        assert pickle.loads(text) == ("value", writable)
    take_back(NAME)
    take_back(NAME)
    with pytest.raises(LoadError, match="only in the calls of its own client"):
        fetch(NAME, False)


def test_copies_of_a_ref_are_the_ref():
    one = ref()
    assert copy.copy(one) is one
    assert copy.deepcopy([one])[0] is one


def test_names_are_sorted_and_those_of_inner_values_included():
    inner = ref(1)
    outer = ref(2, inner=(inner,))
    assert names_of([outer, outer], OWNER) == tuple(number.to_bytes(32, "little") for number in (1, 2))


def test_foreign_released_and_too_many_refs_are_refused_in_one_line():
    with pytest.raises(ArgumentValueError, match="by another client"):
        names_of([ref()], object())
    one = ref()
    one.release()
    assert "released" in repr(one)
    with pytest.raises(ArgumentValueError, match="was released: put the value once more"):
        names_of([one], OWNER)
    with pytest.raises(ArgumentValueError, match="129 put values, where 128 are allowed"):
        names_of([ref(number) for number in range(SHARES_MAX + 1)], OWNER)
