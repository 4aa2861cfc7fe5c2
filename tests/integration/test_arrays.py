"""Arrays there and back on a real star: the very bytes, whatever their dtype, layout and size.

Each kind goes twice: once small, inside a message, and once beyond 64 KiB, as a stream. What came back is compared
bit by bit, padding between a structure's fields included, with what the same function gives here.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import time
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from starcore import ArgumentTypeError, ArgumentValueError, Client, LocalStar

from .processes import eventually

Array = np.ndarray[Any, Any]
LARGE_BYTES = 200_000
SECONDS = 30.0


@pytest.fixture(scope="module")
def star() -> Iterator[LocalStar]:
    with LocalStar(workers=2, slots=1) as star:
        yield star


@pytest.fixture(scope="module")
def client(star: LocalStar) -> Iterator[Client]:
    with star.client() as client:
        yield client


def raw(array: Array) -> bytes:
    """Every byte of the items in C order, those between the fields of a structure too."""
    return (array if array.dtype.names is None else array.view(f"V{array.itemsize}")).tobytes()


def assert_same(got: Any, wanted: Array) -> None:
    """The same dtype, shape and bytes; its own, and writable."""
    assert type(got) is np.ndarray
    assert got.dtype == wanted.dtype
    assert got.dtype.char == wanted.dtype.char
    assert got.dtype.isalignedstruct == wanted.dtype.isalignedstruct
    assert got.shape == wanted.shape
    assert raw(got) == raw(wanted)
    assert got.flags.writeable
    if got.size:
        got.reshape(-1, order="A")[0] = got.reshape(-1, order="A")[-1]


def itself(a: Any) -> Any:
    return a


def fingerprint(a: Any) -> tuple[str, str, tuple[int, ...], bool]:
    """What the argument was in the slot."""
    view = a if a.dtype.names is None else a.view(f"V{a.itemsize}")
    return hashlib.sha256(view.tobytes()).hexdigest(), str(a.dtype), a.shape, bool(a.flags.writeable)


def of_bytes(dtype: Any) -> Array:
    """Items of random bytes: NaNs with payloads, denormals, padding that is not zero."""
    size = np.dtype(dtype).itemsize
    return np.ndarray(17, dtype, bytearray(np.random.default_rng(size).bytes(17 * size)))


NESTED = np.dtype([("id", "<u4"), ("place", [("x", ">f8"), ("y", "<f4", (2, 3))]), ("name", "U5"), ("when", "M8[ms]")])
ALIGNED = np.dtype([("flag", "?"), ("value", "f8"), ("short", "i2")], align=True)
SPARSE = np.dtype({"names": ["b", "a"], "formats": ["<i2", ">f4"], "offsets": [9, 2], "itemsize": 16})

DTYPES: dict[str, Array] = {
    **{char: of_bytes(char) for char in "bBhHiIlLqQefdgFDG"},
    **{f"swapped {char}": of_bytes(np.dtype(char).newbyteorder()) for char in "hHiIqQefdFDg"},
    "bool": np.arange(17) % 3 == 0,
    "text": np.array(["", "star", "κόσμος", "𝔘nicode"] * 4),
    "swapped text": np.array(["", "star", "κόσμος"] * 5).astype(">U9"),
    "bytes": np.array([b"", b"ab\0c", b"wxyz"] * 5),
    "void": of_bytes("V7"),
    "days": np.arange("2024-02-01", "2024-02-18", dtype="M8[D]"),
    "25 minutes": np.arange(17).astype("M8[25m]"),
    "no times": np.array(["NaT"] * 17, "M8[ns]"),
    "spans": np.arange(17).astype("m8[us]"),
    "swapped spans": np.arange(17).astype(">m8[s]"),
    "spans of no unit": np.arange(17).astype("m8"),
    "nested": of_bytes(NESTED),
    "aligned": of_bytes(ALIGNED),
    "sparse": of_bytes(SPARSE),
    "record": of_bytes([("x", "f8"), ("n", "i4")]).view(np.recarray).view(np.ndarray),
    "titled": of_bytes([(("the weight", "w"), "f8"), (("the height", "h"), "f4")]),
}


def sized(array: Array, large: bool) -> Array:
    """The array as it is, or its items again and again beyond 64 KiB."""
    if not large:
        return array
    times = LARGE_BYTES // array.nbytes + 1
    return np.ndarray(array.size * times, array.dtype, bytearray(raw(array) * times))


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_the_same_there_and_back(client: Client, name: str, large: bool) -> None:
    array = sized(DTYPES[name], large)
    there = client.submit_array(fingerprint, array)
    back = client.submit_array(itself, array)
    assert there.result(SECONDS) == fingerprint(array)
    assert_same(back.result(SECONDS), array)


def laid_out(large: bool, directory: Path) -> dict[str, Array]:
    """Arrays of one dtype in every layout; streamed ones in sizes that no chunk divides."""
    n = 83 if large else 7
    cube = np.random.default_rng(5).random((n, n + 1, 5))
    file = directory / "cube.raw"
    cube.tofile(file)
    frozen = cube.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(bytearray(b"!" + cube.tobytes()), cube.dtype, offset=1).reshape(cube.shape)
    table = np.zeros(n * n, [("x", "f4"), ("y", ">i8"), ("z", "u1")])
    table["y"] = np.arange(n * n)
    return {
        "fortran": np.asfortranarray(cube),
        "fortran of two": np.asfortranarray(cube[:, :, 0]),
        "transposed": cube.T,
        "axes swapped": cube.swapaxes(0, 1),
        "every third": cube[::3],
        "every second of the last": cube[..., ::2],
        "reversed": cube[::-1, :, ::-1],
        "reversed fortran": np.asfortranarray(cube)[:, ::-1],
        "a column": cube[:, 3, 2],
        "broadcast": np.broadcast_to(cube[:1], (n, n + 1, 5)),
        "one value": np.broadcast_to(np.float32(3), (n, n, 2)),
        "read-only": frozen,
        "unaligned": odd,
        "a field": table["y"],
        "a field of bytes": table["z"][::-1],
        "two fields": table[["x", "z"]],
        "memmap": np.memmap(file, cube.dtype, "r", shape=cube.shape),
        "memmap to write": np.memmap(file, cube.dtype, "r+", shape=cube.shape),
        "memmap copied on write": np.memmap(file, cube.dtype, "c", shape=cube.shape)[1:],
        "slice of a memmap": np.memmap(file, cube.dtype, "r", offset=16, shape=(n, n))[::2, 1:],
        "many dimensions": cube.reshape((n, n + 1, 5) + (1,) * 29),
    }


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_every_layout_is_the_same_there_and_back(client: Client, large: bool, tmp_path: Path) -> None:
    arrays = laid_out(large, tmp_path)
    there = {name: client.submit_array(fingerprint, array) for name, array in arrays.items()}
    back = {name: client.submit_array(itself, array) for name, array in arrays.items()}
    for name, array in arrays.items():
        digest, dtype, shape, writable = there[name].result(SECONDS)
        assert (digest, dtype, shape) == fingerprint(array)[:3], name
        assert writable, name
        answer = back[name].result(SECONDS)
        assert answer.flags.f_contiguous == np.array(array, order="A").flags.f_contiguous, name
        assert_same(answer, np.asarray(array))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (0, 0), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["f8", ">i2", "U3", "M8[s]", ALIGNED])
def test_arrays_of_no_dimension_and_of_no_item(client: Client, shape: tuple[int, ...], dtype: Any) -> None:
    array = np.zeros(shape, dtype)
    assert client.submit_array(fingerprint, array).result(SECONDS) == fingerprint(array)
    assert_same(client.submit_array(itself, array).result(SECONDS), array)


def test_lone_item_of_a_large_structure_is_streamed(client: Client) -> None:
    array = np.zeros((), [("image", "f4", (200, 200)), ("id", "u8")])
    array["image"][3, 4] = 7
    assert_same(client.submit_array(itself, array).result(SECONDS), array)


def test_subclasses_stay_what_they_are(client: Client) -> None:
    for size in (5, 40_000):
        masked = np.ma.masked_less(np.arange(float(size)), 3)
        matrix: Any = np.arange(float(size)).view(np.matrix)
        answer = client.submit_array(lambda a: a * 2, masked).result(SECONDS)
        assert type(answer) is np.ma.MaskedArray
        assert np.ma.allequal(answer, masked * 2)
        assert np.array_equal(answer.mask, masked.mask)
        assert type(client.submit_array(itself, matrix).result(SECONDS)) is np.matrix


# -- functions ---------------------------------------------------------------------------------------------------


def doubled(a: Any) -> Any:
    a *= 2
    return a


def kept(a: Any) -> Any:
    """The answer is an argument that stays referred to, and is written to by the next call."""
    seen = globals().setdefault("_seen", [])
    for earlier in seen:
        earlier[...] = -1
    seen.append(a)
    return a


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "itself": itself,
    "in place": doubled,
    "kept": kept,
    "new": lambda a: a + 1,
    "reversed": lambda a: a[::-1],
    "a slice": lambda a: a[1:-1],
    "a step": lambda a: a[::2],
    "columns": lambda a: a[:, 1:2],
    "transposed": lambda a: a.T,
    "flat": lambda a: a.ravel(),
    "other items": lambda a: a.view(np.uint8),
    "an item": lambda a: a[2:3, 0],
    "broadcast": lambda a: np.broadcast_to(a[0], (3, *a.shape[1:])),
    "frozen": lambda a: np.frombuffer(a.tobytes(), a.dtype),
    "fortran": np.asfortranarray,
    "a ufunc": np.sqrt,
    "another dtype": lambda a: a.astype(">c8"),
    "a 0-d array": lambda a: np.array(a.sum()),
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("rows", [5, 20_000], ids=["small", "large"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_answer_is_what_the_function_gave_and_the_argument_is_untouched(client: Client, name: str, rows: int) -> None:
    function, array = FUNCTIONS[name], np.arange(3.0 * rows).reshape(rows, 3)
    before = array.copy()
    first = client.submit_array(function, array)
    second = client.submit_array(function, array)
    wanted = np.asarray(function(before.copy()))
    for future in (first, second):
        assert_same(future.result(SECONDS), wanted)
    assert np.array_equal(array, before)


def test_function_may_write_to_a_read_only_array_of_the_caller(client: Client) -> None:
    for size in (5, 40_000):
        array = np.broadcast_to(np.float64(2), (size,))
        assert client.submit_array(doubled, array).result(SECONDS).sum() == 4 * size


Pair = namedtuple("Pair", "left right")


def test_anything_else_comes_back_as_itself(client: Client) -> None:
    array = np.arange(30_000.0)
    results: list[Callable[[Any], Any]] = [
        lambda a: None,
        lambda a: float(a.sum()),
        lambda a: a.sum(),
        lambda a: a.astype("f2")[3],
        lambda a: "κ" * 100_000,
        lambda a: a.tobytes(),
        lambda a: bytearray(a.tobytes()),
        lambda a: 3**200_000,
        lambda a: a.tolist(),
        lambda a: {"sum": a.sum(), "n": len(a)},
        lambda a: set(range(30_000)),
        lambda a: Pair(1, "x"),
        lambda a: np.datetime64("2024-02-29", "D"),
        lambda a: np.zeros(1, ALIGNED)[0],
        lambda a: np.dtype("f4"),
        lambda a: ...,
        lambda a: slice(1, 2),
    ]
    futures = [client.submit_array(function, array) for function in results]
    for future, function in zip(futures, results, strict=True):
        got, wanted = future.result(SECONDS), function(array)
        assert type(got).__name__ == type(wanted).__name__
        assert tuple(got) == tuple(wanted) if isinstance(wanted, tuple) else got == wanted


def test_containers_of_large_arrays_come_back_writable(client: Client) -> None:
    array = np.arange(60_000.0).reshape(200, 300)

    def decompose(a: Any) -> Any:
        return {"parts": (a[:100], a[100:].T, [np.asfortranarray(a), a[::7]]), "ints": a.astype("i4"), "n": 3}

    answer, wanted = client.submit_array(decompose, array).result(SECONDS), decompose(array)
    assert answer["n"] == 3
    assert_same(answer["ints"], wanted["ints"])
    for got, part in zip(answer["parts"][:2], wanted["parts"][:2], strict=True):
        assert_same(got, part)
    for got, part in zip(answer["parts"][2], wanted["parts"][2], strict=True):
        assert_same(got, part)


def test_arrays_that_share_memory_in_an_answer_are_right_each(client: Client) -> None:
    left, right = client.submit_array(lambda a: (a, a[::-1]), np.arange(50_000)).result(SECONDS)
    assert np.array_equal(left, right[::-1])
    left[0] = -5
    assert right[-1] in (0, -5)


def test_further_arguments_and_keywords_arrive(client: Client) -> None:
    def combine(a: Any, b: Any, *, weights: Any, shift: int = 0) -> Any:
        b += 1
        return (a + b) * weights[0] + shift

    for size in (10, 50_000):
        a, b, w = np.arange(float(size)), np.ones(size), np.full(size, 3.0)[::-1]
        future = client.submit_array(combine, a, args=(b,), kwargs={"weights": w, "shift": 1})
        assert np.array_equal(future.result(SECONDS), (a + 2) * 3 + 1)
        assert b[0] == 1


def test_memory_of_an_answer_is_its_own(client: Client) -> None:
    array = np.zeros(40_000)
    answers = [client.submit_array(itself, array).result(SECONDS) for _ in range(6)]
    for number, answer in enumerate(answers):
        answer[:] = number
    assert [answer[-1] for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert not array.any()


def test_nothing_holds_on_to_argument_and_answer_after_the_call(client: Client) -> None:
    array = np.zeros(50_000)
    future = client.submit_array(itself, array)
    answer = future.result(SECONDS)
    watched = [weakref.ref(array), weakref.ref(answer)]
    del array, answer, future
    eventually(lambda: gc.collect() >= 0 and all(watch() is None for watch in watched), "both are gone", 5)


# -- same array, changed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 50_000])
def test_array_changed_in_place_between_two_calls_gives_two_answers(client: Client, size: int) -> None:
    array = np.ones(size)
    first = client.submit_array(np.sum, array).result(SECONDS)
    array[:] = 2
    assert (first, client.submit_array(np.sum, array).result(SECONDS)) == (size, 2 * size)


def test_copy_takes_a_snapshot(client: Client) -> None:
    occupied = [client.submit(time.sleep, 0.3) for _ in range(2)]
    array, columns = np.ones(100_000), np.ones((300, 300))
    futures = [client.submit_array(np.sum, array, copy=True), client.submit_array(np.sum, columns[:, ::2], copy=True)]
    blocks = client.submit_array(np.cumsum, array, chunks=30_000, copy=True)
    array[:] = columns[:] = 0
    assert [future.result(SECONDS) for future in futures] == [100_000, 45_000]
    assert blocks.result(SECONDS).max() == 30_000
    assert all(future.result(SECONDS) is None for future in occupied)


# -- chunks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [7, 4001], ids=["small", "large"])
@pytest.mark.parametrize("chunks", [1, 3, 7, "auto"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_chunks_are_the_whole(client: Client, rows: int, chunks: Any, axis: int, order: str) -> None:
    array = np.arange(70.0 * rows).reshape(7, rows, 10).transpose(0, 2, 1).copy(order)
    if axis == -1 and chunks != "auto":
        chunks = max(1, chunks * rows // 7)
    answer = client.submit_array(np.negative, array, chunks=chunks, axis=axis).result(SECONDS)
    assert_same(answer, -array)


@pytest.mark.parametrize("rows", [9, 30_001], ids=["small", "large"])
def test_chunks_of_other_lengths_and_dtypes_are_concatenated(client: Client, rows: int) -> None:
    array = np.arange(2.0 * rows).reshape(rows, 2)
    chunks = rows // 4
    for function in (
        lambda a: a[::2],
        lambda a: a[:1],
        lambda a: np.repeat(a, 3, axis=0),
        lambda a: a[a[:, 0] > 6],
        lambda a: a if a[0, 0] else a[:, ::-1][1:],
        lambda a: a.astype("i4") if a[0, 0] else a + 0.5,
        lambda a: a.sum(1),
    ):
        parts = [function(array[start : start + chunks]) for start in range(0, rows, chunks)]
        answer = client.submit_array(function, array, chunks=chunks).result(SECONDS)
        assert_same(answer, np.concatenate(parts))


def test_every_dtype_in_chunks(client: Client) -> None:
    arrays = [sized(array, True) for array in DTYPES.values()]
    futures = [client.submit_array(itself, array, chunks=501) for array in arrays]
    for future, array in zip(futures, arrays, strict=True):
        assert_same(future.result(SECONDS), array)


def test_empty_axis_in_chunks(client: Client) -> None:
    empty = np.empty((0, 3))
    for chunks in ("auto", 1, sys.maxsize):
        assert client.submit_array(np.negative, empty, chunks=chunks).result(SECONDS).shape == (0, 3)
        out = np.empty((0, 3))
        assert client.submit_array(np.negative, empty, chunks=chunks, out=out).result(SECONDS) is out
        assert client.detached().submit_array(np.negative, empty, chunks=chunks).result(SECONDS).shape == (0, 3)


@pytest.mark.parametrize("rows", [8, 5003], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["array", "fortran", "strided", "reversed", "memmap"])
@pytest.mark.parametrize("chunks", [None, 3, "auto"])
def test_answers_land_in_out(client: Client, tmp_path: Path, rows: int, kind: str, chunks: Any) -> None:
    array = np.arange(4.0 * rows).reshape(rows, 4)
    chunks = rows // chunks if isinstance(chunks, int) else chunks
    place = np.full((rows, 12), -7.0)
    out: Array = {
        "array": lambda: np.empty((rows, 4)),
        "fortran": lambda: np.empty((rows, 4), order="F"),
        "strided": lambda: place[:, ::3],
        "reversed": lambda: place[::-1, 4:8],
        "memmap": lambda: np.memmap(tmp_path / "out.raw", "f8", "w+", shape=(rows, 4)),
    }[kind]()
    result = client.submit_array(np.square, array, chunks=chunks, out=out).result(SECONDS)
    assert result is out
    assert np.array_equal(out, array**2)
    if kind == "strided":
        assert (place[:, 1::3] == -7).all()
    if kind == "memmap":
        out.flush()
        assert np.array_equal(np.fromfile(tmp_path / "out.raw").reshape(rows, 4), array**2)


def test_ragged_answers_land_in_out_too(client: Client) -> None:
    array, out = np.arange(40_000.0), np.empty(20_000)
    assert client.submit_array(lambda a: a[::2], array, chunks=10_000, out=out).result(SECONDS) is out
    assert np.array_equal(out, array[::2])


def test_block_by_block_and_whole_are_the_same_picture(client: Client) -> None:
    stack = np.random.default_rng(1).random((24, 40, 50))

    def smooth(frames: Any) -> Any:
        return (frames[:, :-2] + frames[:, 1:-1] + frames[:, 2:]) / 3

    assert_same(client.submit_array(smooth, stack, chunks="auto").result(SECONDS), smooth(stack))


def test_first_block_that_fails_fails_the_whole(client: Client) -> None:
    def fussy(a: Any) -> Any:
        if a[0] == 30_000:
            raise ValueError("not this block")
        return a

    future = client.submit_array(fussy, np.arange(100_000), chunks=10_000)
    with pytest.raises(ValueError, match="not this block"):
        future.result(SECONDS)


@pytest.mark.parametrize("size", [10, 100_000])
def test_answers_of_blocks_that_cannot_be_joined_are_one_clear_line(client: Client, size: int) -> None:
    array = np.arange(size)
    for function, words in (
        (lambda a: float(a.sum()), "must return an array for each block, and it returned float"),
        (lambda a: a.sum(), "must return an array for each block, and it returned"),
        (lambda a: np.array(a.sum()), "shape \\(\\)"),
        (lambda a: a if a[0] else a[:, None], "cannot be joined|dimension"),
    ):
        error = client.submit_array(function, array, chunks=size // 3).exception(SECONDS)
        assert isinstance(error, ArgumentValueError), error
        assert "\n" not in str(error)
        with pytest.raises(ArgumentValueError, match=words):
            raise error


@pytest.mark.parametrize("chunks", [None, 30_000])
def test_answers_that_do_not_fit_out_are_one_clear_line(client: Client, chunks: int | None) -> None:
    array = np.arange(100_000.0)
    for out in (np.empty(100_000, "f4"), np.empty(99_999), np.empty((100_000, 1))):
        error = client.submit_array(np.negative, array, chunks=chunks, out=out).exception(SECONDS)
        assert isinstance(error, ArgumentValueError), error
        assert "`out` is float" in str(error)
        assert "\n" not in str(error)
    assert client.submit_array(len, array).result(SECONDS) == 100_000


def test_cancelled_whole_ends_its_blocks_and_leaves_out_alone(client: Client) -> None:
    array, out = np.ones((40, 5000)), np.zeros((40, 5000))

    def slow(a: Any) -> Any:
        time.sleep(0.2)
        return a

    future = client.submit_array(slow, array, chunks=1, out=out)
    eventually(future.running, "a block runs")
    assert not future.cancel()
    assert client.cancel(future)
    with pytest.raises(CancelledError):
        future.result(SECONDS)
    landed = out.sum()
    eventually(lambda: all(worker["leased"] == 0 for worker in client.status()["workers"]), "the slots are free")
    assert client.submit_array(np.sum, array).result(SECONDS) == 200_000
    assert out.sum() == landed <= 40 * 5000


# -- refused at the call -----------------------------------------------------------------------------------------


def test_arrays_of_objects_are_refused_at_the_call(client: Client) -> None:
    arrays: list[Any] = [np.array([None]), np.zeros(2, [("x", "O")]), np.zeros(2, [("x", "f4"), ("y", [("z", "O")])])]
    for array in [*arrays, [1.0], 3.0, "text", SimpleNamespace(shape=(1,))]:
        with pytest.raises(ArgumentTypeError) as caught:
            client.submit_array(itself, array)
        assert "\n" not in str(caught.value)


# -- beyond 4 GiB ------------------------------------------------------------------------------------------------

HUGE_BYTES = (4 << 30) + 12_345


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_array_beyond_4_gib() -> None:
    available = psutil.virtual_memory().available
    if available < 2.3 * HUGE_BYTES:
        pytest.skip(f"{available >> 30} GiB of memory are free: free 10 GiB, two copies of 4 GiB lie there")
    array = np.zeros(HUGE_BYTES, np.uint8)
    marks = np.arange(7, HUGE_BYTES, 99_999_989)
    array[marks] = marks % 251 + 1
    array[-1] = 77

    def look(a: Any, whole: bool) -> Any:
        right = [int(a[mark]) for mark in marks] == [int(mark) % 251 + 1 for mark in marks]
        if a.size != HUGE_BYTES or a[-1] != 77 or not right:
            raise ValueError(a.shape)
        a[-2] = 99
        return a if whole else a[-9:]

    arena = f"{HUGE_BYTES + (64 << 20)}"
    # The way back needs one copy more, and as long again: for machines that have both to spare.
    whole = available > 8 * HUGE_BYTES
    with LocalStar(workers=1, slots=1, worker_options=["--arena", arena]) as star, star.client() as client:
        answer = client.submit_array(look, array, args=(whole,)).result(200)
        assert answer[-9:].tolist() == [0] * 7 + [99, 77]
        assert array[-2] == 0
        if whole:
            array[-2] = 99
            step = 1 << 28
            assert answer.shape == array.shape
            assert all(np.array_equal(answer[i : i + step], array[i : i + step]) for i in range(0, HUGE_BYTES, step))
