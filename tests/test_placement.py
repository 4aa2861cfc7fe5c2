"""numpy's arrays in offered segments: which land there, how long they may live, and what a fork does to them.

Each test runs in a context of its own, since that is where numpy keeps its handler.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore._framing import Segment, place_arrays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="run on Linux: only it moves memory under an address")

LEAST, SIZE = 1 << 16, 1 << 20


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test where numpy has our handler, and nothing else does."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        def inside() -> None:
            package = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"
            table = importlib.import_module(f"{package}._multiarray_umath")._ARRAY_API
            assert place_arrays(table, LEAST, 8 * SIZE)
            test(**fixtures)

        contextvars.copy_context().run(inside)

    return run


def segment(size: int = SIZE) -> Segment:
    descriptor = os.memfd_create("placement")
    try:
        os.ftruncate(descriptor, size)
        return Segment(descriptor, size)
    finally:
        os.close(descriptor)


@pytest.fixture
def offered() -> Iterator[Segment]:
    made = segment()
    yield made
    made.withdraw()


def array(size: int = SIZE) -> np.ndarray[Any, Any]:
    return np.empty(size, np.uint8)


def lies_in(values: np.ndarray[Any, Any], place: Segment) -> bool:
    return bool(values.ctypes.data == place.address)


@apart
def test_array_lands_in_an_offered_segment_and_leaves_it_free(offered):
    assert not lies_in(array(), offered)
    offered.offer()
    values = array()
    assert lies_in(values, offered)
    assert (offered.taken, offered.views) == (True, 1)
    with pytest.raises(BufferError):
        offered.close()
    values[:] = 7
    assert bytes(memoryview(offered)[:3]) == bytes([7, 7, 7])
    del values
    assert (offered.taken, offered.views) == (False, 0)
    assert lies_in(array(), offered)


@apart
def test_result_of_a_function_lands_there_as_well(offered):
    values = np.arange(SIZE // 8, dtype=np.float64)
    offered.offer()
    answer = values + 1
    assert lies_in(answer, offered)
    assert answer[-1] == SIZE // 8


@apart
def test_segment_holds_one_array_at_a_time(offered):
    offered.offer()
    first, second = array(), array()
    assert lies_in(first, offered)
    assert not lies_in(second, offered)


@pytest.mark.parametrize("size", [LEAST - 1, SIZE // 2 - 1, SIZE + 1])
@apart
def test_array_that_does_not_suit_goes_where_it_always_went(offered, size):
    offered.offer()
    assert not lies_in(array(size), offered)


@apart
def test_smallest_segment_that_suits_is_taken(offered):
    offered.offer()
    small = segment(SIZE // 2)
    small.offer()
    assert lies_in(array(SIZE // 2), small)


@apart
def test_no_more_than_the_bound_is_taken():
    places = [segment() for _ in range(10)]
    for place in places:
        place.offer()
    kept = [array() for _ in range(10)]
    assert sum(place.taken for place in places) == 8
    del kept
    assert not any(place.taken for place in places)


@apart
def test_view_keeps_the_memory_of_its_array(offered):
    offered.offer()
    part = array()[5:10]
    assert offered.taken
    assert not lies_in(array(), offered)
    del part
    assert not offered.taken


@apart
def test_array_outlives_its_segment():
    place = segment()
    place.offer()
    values = array()
    values[:] = 3
    address = place.address
    del place
    gc.collect()
    assert int(values.sum()) == 3 * SIZE
    assert f"{address:x}-" in Path("/proc/self/maps").read_text()
    del values
    assert f"{address:x}-" not in Path("/proc/self/maps").read_text()


@apart
def test_withdrawn_segment_keeps_its_array_and_gets_no_other(offered):
    offered.offer()
    values = array()
    offered.withdraw()
    assert offered.taken
    del values
    assert not offered.taken
    assert not lies_in(array(), offered)
    offered.offer()
    assert lies_in(array(), offered)


@apart
def test_closed_segment_is_offered_no_more():
    place = segment()
    place.offer()
    address = place.address
    place.close()
    assert array().ctypes.data != address
    place.offer()
    assert place.views == 0


@apart
def test_array_that_is_resized_keeps_its_values(offered):
    offered.offer()
    values = array()
    values[:] = 5
    values.resize(SIZE // 2, refcheck=False)
    assert lies_in(values, offered)
    values.resize(3 * SIZE, refcheck=False)
    assert not lies_in(values, offered)
    assert not offered.taken
    assert (values[: SIZE // 2] == 5).all()


@apart
def test_arrays_of_other_threads_are_left_alone(offered):
    offered.offer()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(lies_in(array(), offered)))
    thread.start()
    thread.join()
    assert found == [False] or sys.version_info >= (3, 14)


@apart
def test_child_of_a_fork_writes_to_memory_of_its_own(offered):
    offered.offer()
    values = array()
    values[:] = 1
    pid = os.fork()
    if not pid:
        values[:] = 2
        os._exit(0 if int(values[0]) == 2 and not lies_in(array(), offered) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (values == 1).all()
    assert not offered.taken  # it is private memory now, and no answer may be sent from there
    assert offered.views == 1
    del values
    assert offered.views == 1  # for good: the file is no longer behind this address
    assert not lies_in(array(), offered)


def test_what_is_no_table_of_numpys_is_refused():
    with pytest.raises(ValueError, match="Capsule"):
        place_arrays(object(), LEAST, SIZE)


def test_without_a_handler_nothing_is_placed(offered):
    offered.offer()
    assert not lies_in(array(), offered)
