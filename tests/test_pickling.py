"""Calls and answers, as client and slot pack and unpack them."""

from __future__ import annotations

import gc
import operator
import pickle
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    FrameError,
    LoadError,
    RemoteTraceback,
    ResultError,
    Status,
    TaskError,
    UntrustedError,
)
from starcore.messages import HEAD_BYTES_MAX
from starcore.pickling import (
    ARRAY,
    CALL,
    PICKLE,
    Call,
    Failed,
    Packed,
    answer_spec,
    landing,
    load_call,
    pack_answer,
    pack_array_call,
    pack_call,
    pack_calls,
    pack_failure,
    unpack_answer,
    unpack_failure,
)

LARGE = HEAD_BYTES_MAX // 8 + 1000


def body_of(packed: Packed) -> np.ndarray[Any, Any] | None:
    """The body as a slot sees it: writable memory that was received into, chunk by chunk."""
    assert len(packed.head) <= HEAD_BYTES_MAX
    if not packed.body_bytes:
        return None
    body = np.empty(packed.body_bytes, np.uint8)
    fill(memoryview(body), packed)
    return body


def fill(buffer: memoryview, packed: Packed) -> None:
    assert len(buffer) == packed.body_bytes
    offset, chance = 0, random.Random(packed.body_bytes)
    while offset < packed.body_bytes:
        length = min(chance.randint(1, 100_000), packed.body_bytes - offset)
        buffer[offset : offset + length] = packed.read(offset, length)
        offset += length


def called(packed: Packed) -> Call:
    return load_call(packed.head, body_of(packed))  # type: ignore[arg-type]


def answered(value: Any, *, trust: bool = False, out: np.ndarray[Any, Any] | None = None) -> Any:
    packed = pack_answer(value)
    if not packed.body_bytes and out is None:
        return unpack_answer(packed.head, trust=trust)
    place = landing(packed.head, packed.body_bytes, trust=trust, out=out)
    fill(place.buffer, packed)
    return place.finish()


def raw(array: np.ndarray[Any, Any]) -> bytes:
    return array.view(f"V{array.itemsize}").tobytes()


ARRAYS: list[np.ndarray[Any, Any]] = [
    *(np.array(3.5), np.empty((0, 3)), np.arange(5), np.arange(LARGE), np.arange(2 * LARGE)[::2], np.arange(9)[::-1]),
    *(np.arange(12.0).reshape(3, 4).T, np.ones((300, 200), order="F"), np.arange(LARGE, dtype=">i4")),
    *(np.array(["a", "bcd"]), np.array([b"x"]), np.arange(LARGE).astype("M8[s]"), np.zeros(LARGE, "m8[D]")[::3]),
    np.zeros(LARGE, np.dtype([("a", "i1"), ("b", ">f8", (2,))], align=True))[::2],
    np.broadcast_to(np.arange(4.0), (LARGE, 4)),
    np.arange(60_000, dtype=np.complex64).reshape(20, 30, 100).transpose(1, 0, 2),
]
every_array = pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")


# -- calls -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        *(
            ((), {}),
            ((1,), {}),
            ((1, "a", None, 2.5, b"b", 1j, True), {}),
            (("x" * 100_000,), {}),
            ((1,), {"key": [2]}),
        ),
        *((({"a": {1, 2}}, range(3)), {}), ((2**100,), {"a": 1}), ((Path("/a"),), {"b": slice(1)})),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_call_arrives_as_it_was_made(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    call = called(pack_call(args, kwargs))
    assert (call.args, call.kwargs, call.many) == (args, kwargs, False)


@every_array
def test_an_array_arrives_writable_and_the_same_in_both_ways_of_calling(array: np.ndarray[Any, Any]) -> None:
    frozen = array.view()
    frozen.flags.writeable = False
    for packed in (pack_array_call(frozen, (1,), {"k": array}), pack_call((frozen, 1), {"k": array})):
        call = called(packed)
        assert call.args[1:] == (1,)
        for found in (call.args[0], call.kwargs["k"]):
            assert (found.dtype, found.shape, raw(found)) == (array.dtype, array.shape, raw(array))
            assert found.flags.writeable
            assert found.flags.f_contiguous == (
                array.flags.f_contiguous or (found.flags.c_contiguous and found.ndim < 2)
            )


@every_array
def test_an_ordinary_array_among_scalars_arrives_the_same(array: np.ndarray[Any, Any]) -> None:
    """The road of pickle alone, where the layout allows it."""
    own = array.copy("K")
    call = called(pack_call((1, own), {"k": own}))
    found = call.args[1]
    assert found is call.kwargs["k"]
    assert (found.dtype, found.shape, raw(found)) == (own.dtype, own.shape, raw(own))
    assert found.flags.writeable


def test_a_large_array_is_borrowed_and_a_small_one_copied() -> None:
    large, small = np.zeros(LARGE), np.zeros(10)
    for packed in (pack_array_call(large, (), {}), pack_call((large,), {})):
        assert any(np.shares_memory(large, np.frombuffer(s, np.uint8)) for s in packed.segments if s.nbytes)  # type: ignore[call-overload]
    for packed in (pack_array_call(small, (), {}), pack_call((small,), {})):
        assert packed.segments == []
    small[:] = 1
    assert called(packed).args[0].sum() == 0


def test_an_argument_of_the_body_is_a_view_of_it() -> None:
    packed = pack_array_call(np.zeros(LARGE), (), {})
    body = body_of(packed)
    array = load_call(packed.head, body).args[0]  # type: ignore[arg-type]
    assert np.shares_memory(array, body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        np.ma.masked_array(np.arange(LARGE), np.arange(LARGE) % 2),
        np.arange(3, dtype=np.dtype("f8", metadata={"unit": "m"})),
        np.array([None, 1, "x"]),
        np.arange(LARGE)[::2].view(type("Sub", (np.ndarray,), {})),
    ],
    ids=lambda a: type(a).__name__,
)
def test_an_array_that_needs_pickle_arrives_as_well(array: np.ndarray[Any, Any]) -> None:
    found = called(pack_array_call(array, (), {})).args[0]
    assert type(found).__name__ == type(array).__name__
    assert found.dtype == array.dtype
    assert found.dtype.metadata == array.dtype.metadata
    assert found.tolist() == array.tolist()


def test_a_memmap_arrives_as_an_array(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "map", "f4", "w+", shape=(LARGE, 2))
    array[:] = 3
    for view in (array, array[::3], array[:4]):
        call = called(pack_array_call(view, (), {}))
        assert type(call.args[0]) is np.ndarray
        assert raw(call.args[0]) == raw(np.asarray(view))
        assert raw(answered(view)) == raw(np.asarray(view))


def test_the_same_array_twice_gives_two_calls_after_a_change() -> None:
    array = np.zeros(LARGE)
    first = called(pack_array_call(array, (), {})).args[0]
    array += 1
    assert first.sum() == 0
    assert called(pack_array_call(array, (), {})).args[0].sum() == LARGE


def test_a_class_of_the_users_travels_by_value_with_its_instances() -> None:
    text = pack_call((Shape(2),), {}).head
    assert b"test_pickling" in text
    assert b"area" in text
    assert called(pack_call((Shape(2),), {})).args[0].area() == 4


class Shape:
    def __init__(self, side: float) -> None:
        self.side = side

    def area(self) -> float:
        return self.side**2


def test_an_argument_that_cannot_be_pickled_is_refused() -> None:
    for pack in (
        lambda: pack_call(((i for i in ()),), {}),
        lambda: pack_array_call(np.zeros(1), ((i for i in ()),), {}),
        lambda: pack_calls([[(i for i in ())]]),
    ):
        with pytest.raises(ArgumentTypeError, match="cannot be pickled"):
            pack()


@pytest.mark.parametrize("head", [b"", b"\x10", b"\x10\x00garbage", b"\x11\x00", b"\x21\x00N", b"\x10\x03" + bytes(8)])
def test_a_call_that_cannot_be_loaded_is_a_load_error(head: bytes) -> None:
    with pytest.raises(LoadError):
        load_call(head, None)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_nothing_holds_on_to_an_array_once_its_payload_is_gone() -> None:
    """A slot counts who still looks at a segment, and a client gives back what it borrowed."""
    value = {"array": np.zeros((LARGE, 2))[::2], "shape": Shape(1)}
    for pack in (
        lambda: pack_call((value,), {}),
        lambda: pack_answer([{1}, value]),
        lambda: pack_answer(value["array"]),
    ):
        before = sys.getrefcount(value["array"].base)
        packed = pack()
        body = body_of(packed)
        found = load_call(packed.head, body) if packed.head[0] == CALL else None  # type: ignore[arg-type]
        del packed, found
        after, looking = sys.getrefcount(value["array"].base), sys.getrefcount(body)
        assert (after, looking) == (before, 2 if body is not None else looking)
    packed = pack_answer([{1}, value])
    place = landing(packed.head, packed.body_bytes)
    fill(place.buffer, packed)
    answer = place.finish()
    reference = weakref.ref(answer[1]["array"])
    del answer, place
    assert reference() is None


# -- batches -----------------------------------------------------------------------------------------------------


def batch(fn: Callable[..., Any], calls: list[tuple[Any, ...]], *, trust: bool = True) -> list[tuple[bool, Any]]:
    call = called(pack_calls(list(map(list, zip(*calls, strict=True)))))
    assert call.many
    answers = answered(call.run(fn), trust=trust)
    return [(False, each.error) if isinstance(each, Failed) else (True, each) for each in answers]


def test_scalars_of_a_batch_are_one_run_between_the_other_answers() -> None:
    values = [1, 2.5, None, "x" * 100, [1], True, b"y" * 20_000, 1 << 70, np.float64(2), *range(20), 1j]
    assert batch(lambda value: value, [(value,) for value in values], trust=False) == [(True, each) for each in values]


def test_what_a_call_returned_is_what_it_was_then_though_a_later_call_changes_it() -> None:
    shared: list[int] = []

    def grow(number: int) -> Any:
        shared.append(number)
        return shared if number % 2 else number

    assert [each for _, each in batch(grow, [(number,) for number in range(4)])] == [0, [0, 1], 2, [0, 1, 2, 3]]


def test_each_call_of_a_batch_has_an_outcome_of_its_own() -> None:
    outcomes = batch(operator.truediv, [(1, 2), (1, 0), (4, 2), ("a", 1)], trust=False)
    assert outcomes[0] == (True, 0.5)
    assert outcomes[2] == (True, 2.0)
    assert [ok for ok, _ in outcomes] == [True, False, True, False]
    assert type(outcomes[1][1]) is ZeroDivisionError
    assert isinstance(outcomes[1][1].__cause__, RemoteTraceback)
    assert type(outcomes[3][1]) is TypeError


def test_a_batch_of_arrays_travels_with_its_bodies() -> None:
    arrays = [np.full(LARGE, value) for value in range(4)]
    outcomes = batch(np.negative, [(array,) for array in arrays], trust=False)
    for (ok, found), array in zip(outcomes, arrays, strict=True):
        assert ok
        assert np.array_equal(found, -array)
        assert found.flags.writeable


def test_a_later_call_does_not_change_an_earlier_answer() -> None:
    shared = np.zeros(3)

    def fill_shared(value: float) -> Any:
        shared[:] = value
        return shared

    assert [found.tolist() for _, found in batch(fill_shared, [(1,), (2,)])] == [[1] * 3, [2] * 3]


def odd_answer(kind: str) -> Any:
    if kind == "exit":
        raise SystemExit(3)
    return {"set": {1}, "lock": (i for i in ()), "plain": 1}[kind]


def test_an_answer_of_a_batch_is_pickled_refused_or_unsendable_alone() -> None:
    kinds = [("set",), ("lock",), ("plain",), ("exit",)]
    trusted = batch(odd_answer, kinds)
    assert [ok for ok, _ in trusted] == [True, False, True, False]
    assert trusted[0][1] == {1}
    assert isinstance(trusted[1][1], ResultError)
    assert isinstance(trusted[3][1], TaskError)
    untrusted = batch(odd_answer, kinds, trust=False)
    assert isinstance(untrusted[0][1], UntrustedError)
    assert untrusted[2] == (True, 1)


def test_an_empty_batch_has_no_outcomes() -> None:
    assert batch(abs, []) == []


# -- answers -----------------------------------------------------------------------------------------------------


@every_array
def test_an_array_answer_is_the_same_and_writable_without_trust(array: np.ndarray[Any, Any]) -> None:
    for value, found in ((array, answered(array)), (array, answered([array, array])[1])):
        assert (found.dtype, found.shape, raw(found)) == (value.dtype, value.shape, raw(value))
        assert found.flags.writeable
    if array.nbytes > HEAD_BYTES_MAX:
        assert answer_spec(pack_answer(array).head).shape == array.shape  # type: ignore[union-attr]


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_a_plain_answer_needs_no_trust(value: Any) -> None:
    assert answered(value) == value


def test_a_plain_answer_larger_than_a_head_travels_in_the_body() -> None:
    value = {"rows": [{"x": float(i), "name": f"row {i}"} for i in range(5000)], "raw": bytes(200_000)}
    assert pack_answer(value).body_bytes > 2 * HEAD_BYTES_MAX
    assert answered(value) == value


def test_a_pickled_answer_needs_trust() -> None:
    for value in ({1, 2}, {"a": Path("/b"), "large": np.zeros(LARGE)}, np.ma.masked_array([1], [True])):
        packed = pack_answer(value)
        assert packed.head[0] == PICKLE
        with pytest.raises(UntrustedError):
            landing(packed.head, packed.body_bytes, trust=False)
        assert repr(answered(value, trust=True)) == repr(value)


def test_an_array_inside_a_pickled_answer_is_writable() -> None:
    array = np.arange(LARGE)
    array.flags.writeable = False
    _, found = answered([{1}, array[::2]], trust=True)
    assert np.array_equal(found, array[::2])
    assert found.flags.writeable


def test_an_answer_that_cannot_be_pickled_is_a_result_error() -> None:
    with pytest.raises(ResultError, match="returned generator, which cannot be pickled"):
        pack_answer(i for i in ())


def test_an_answer_does_not_look_at_the_message_buffer() -> None:
    head = bytearray(pack_answer(np.arange(4)).head)
    found = unpack_answer(head)
    head[:] = bytes(len(head))
    assert found.tolist() == [0, 1, 2, 3]


# -- landings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_streamed_array_lands_in_its_own_memory_or_in_out(order: Any) -> None:
    array = np.asarray(np.arange(60_000.0).reshape(200, 300), order=order)
    packed = pack_answer(array)
    place = landing(packed.head, packed.body_bytes)
    fill(place.buffer, packed)
    found = place.finish()
    assert np.shares_memory(found, np.frombuffer(place.buffer, np.uint8))
    assert np.array_equal(found, array)
    out = np.empty_like(array)
    place = landing(packed.head, packed.body_bytes, out=out)
    assert np.shares_memory(out, np.frombuffer(place.buffer, np.uint8))
    fill(place.buffer, packed)
    assert place.finish() is out
    assert np.array_equal(out, array)


def test_an_out_of_another_layout_is_written_at_the_end() -> None:
    array = np.arange(60_000.0).reshape(200, 300)
    for out in (np.zeros((200, 300), order="F"), np.zeros((400, 300))[::2]):
        assert answered(array, out=out) is out
        assert np.array_equal(out, array)


def test_a_small_answer_reaches_out_as_well() -> None:
    out = np.zeros(4)
    assert answered(np.arange(4.0), out=out) is out
    assert out.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("out", [np.zeros(3), np.zeros((LARGE, 1)), np.zeros(LARGE, "f4"), np.zeros(LARGE, ">f8")])
def test_an_out_that_does_not_fit_is_refused_naming_both(out: np.ndarray[Any, Any]) -> None:
    packed = pack_answer(np.zeros(LARGE))
    with pytest.raises(ArgumentValueError, match=r"`out` is .* and the answer is float64 of shape"):
        landing(packed.head, packed.body_bytes, out=out)


def test_an_out_for_an_answer_that_is_no_array_is_refused() -> None:
    with pytest.raises(ArgumentValueError, match="returned float"):
        answered(1.5, out=np.zeros(1))


def test_a_head_that_says_another_size_is_a_frame_error() -> None:
    packed = pack_answer(np.zeros(LARGE))
    for body_bytes in (0, packed.body_bytes - 1, packed.body_bytes + 1, 2**45):
        with pytest.raises(FrameError):
            landing(packed.head, body_bytes)


def test_a_landing_for_an_array_beyond_four_gibibytes_knows_its_size() -> None:
    """Without the memory: a broadcast view says it has it."""
    array = np.broadcast_to(np.uint8(7), (5 << 30,))
    packed = pack_answer(array)
    assert packed.body_bytes == 5 << 30
    assert answer_spec(packed.head).shape == (5 << 30,)  # type: ignore[union-attr]
    assert bytes(packed.read((5 << 30) - 3, 3)) == b"\7\7\7"


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=50), st.sampled_from([b"\x20", b"\x21", b"\x22", b"\x24", b"\x10", b"\x99"]), st.integers(0, 3)
)
def test_a_hostile_head_is_a_frame_error_and_nothing_else(rest: bytes, tag: bytes, place: int) -> None:
    head = tag + bytes([place]) + rest
    for body_bytes in (0, 64):
        try:
            landing(head, body_bytes, trust=False).finish()
        except FrameError:
            continue


def test_no_pickle_hides_behind_a_plain_tag() -> None:
    head = bytearray(pack_answer({1}).head)
    for tag in (ARRAY, ARRAY + 1, ARRAY + 2, ARRAY + 4):
        head[0] = tag
        with pytest.raises(FrameError):
            unpack_answer(bytes(head), trust=False)


# -- failures ----------------------------------------------------------------------------------------------------


def test_a_failure_is_a_head_alone_without_our_own_frames() -> None:
    call = called(pack_call((1, 0), {}))
    try:
        call.run(lambda a, b: a / b)
    except ZeroDivisionError as error:
        error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this test's own frame
        packed = pack_failure(error)
    assert packed.body_bytes == 0
    found = unpack_failure(Status.RAISED, packed.head)
    assert type(found) is ZeroDivisionError
    assert "starcore/pickling.py" not in str(found.__cause__)
    assert "in <lambda>" in str(found.__cause__)


@pytest.mark.parametrize("head", [b"", b"\x22", b"\x22\x00", b"\x21\x00N", pickle.dumps(ValueError())])
def test_a_failure_that_cannot_be_read_is_an_exception_too(head: bytes) -> None:
    assert isinstance(unpack_failure(Status.RAISED, head), FrameError)


def test_a_status_with_a_text_is_that_failure() -> None:
    found = unpack_failure(Status.UNLOADABLE, "no module named kräftig".encode())
    assert isinstance(found, LoadError)
    assert str(found) == "no module named kräftig"
