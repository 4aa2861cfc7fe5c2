"""Answers that go into a .npy file: where each block lands, what is put together at the end, what a full disk says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starcore.client.npy import BatchJoiner, FileJoiner, LoneJoiner, NpyFile
from starcore.errors import ArgumentValueError, SetupError
from starcore.pickling import pack_answer
from tests.disks import mounted

Array = Any
BLOCKS = np.arange(70_000.0).reshape(700, 100)


def give(joiner: FileJoiner, index: int, value: Any, *, body_at: int = 1 << 14) -> None:
    """Bring an answer the way it travels: whole with its head, or its body apart."""
    packed = pack_answer(value)
    if not packed.body_bytes:
        from starcore.pickling import unpack_answer  # noqa: PLC0415

        joiner.add(index, unpack_answer(packed.head))
        return
    place = joiner.landing_for(index, packed.head, packed.body_bytes)
    for at in range(0, packed.body_bytes, body_at):
        piece = packed.read(at, min(body_at, packed.body_bytes - at))
        place.buffer[at : at + len(piece)] = bytes(piece)
    place.finish()


def saved(path: Path, make: Callable[[NpyFile], FileJoiner], answers: list[Any]) -> Array:
    """Write answers, the last one first, and read the file."""
    with NpyFile(path) as file:
        joiner = make(file)
        for index in reversed(range(len(answers))):
            give(joiner, index, answers[index])
            file.trim()
        joiner.gather()
        file.keep()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return np.load(path, allow_pickle=False)


def pieces(rows: int, length: int = 700) -> list[slice]:
    return [slice(at, min(at + rows, length)) for at in range(0, length, rows)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answer.npy"


def test_draft_of_a_process_that_was_killed_is_in_nobody_s_way(path: Path) -> None:
    """In a container the next one has the same number."""
    killed = NpyFile(path)
    with NpyFile(path) as file:
        LoneJoiner(file).add(0, BLOCKS)
        file.keep()
    assert np.array_equal(np.load(path), BLOCKS)
    assert len(list(path.parent.iterdir())) == 2
    killed.__exit__(None, None, None)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_land_where_they_belong(path: Path, axis: int, order: Any) -> None:
    cuts = pieces(64, BLOCKS.shape[axis])
    blocks = [np.asarray(BLOCKS[(slice(None),) * axis + (cut,)], order=order) for cut in cuts]
    path.write_text("an older one")
    assert np.array_equal(saved(path, lambda file: FileJoiner(file, cuts, axis), blocks), BLOCKS)


def test_what_is_no_regular_file_is_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(SetupError, match=r"answer\.npy: this is no regular file"):
        NpyFile(path)
    assert path.is_fifo() and [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("there", [True, False])
def test_link_is_followed_and_stays(path: Path, tmp_path_factory: pytest.TempPathFactory, there: bool) -> None:
    large_disk = tmp_path_factory.mktemp("disk") / "data.npy"
    if there:
        large_disk.write_text("an older one")
    path.symlink_to(large_disk)
    assert np.array_equal(saved(path, LoneJoiner, [BLOCKS]), BLOCKS)
    assert path.is_symlink() and np.array_equal(np.load(large_disk), BLOCKS)
    assert [entry.name for entry in large_disk.parent.iterdir()] == [large_disk.name]


def test_draft_that_a_killed_process_of_this_number_left_is_no_hindrance(path: Path) -> None:
    left = path.with_name(f".{path.name}.{os.getpid()}.0.part")
    left.write_text("half")
    with NpyFile(path) as file:
        give(joiner := LoneJoiner(file), 0, BLOCKS)
        joiner.gather()
        file.keep()
    assert np.array_equal(np.load(path), BLOCKS) and left.read_text() == "half"


def test_one_block_is_the_whole(path: Path) -> None:
    assert np.array_equal(saved(path, lambda file: FileJoiner(file, [slice(0, 700)]), [BLOCKS]), BLOCKS)


def test_blocks_of_other_lengths_and_types_are_put_together_at_the_end(path: Path) -> None:
    cuts = pieces(100)
    blocks = [BLOCKS[cut].astype("f4") if cut.start else BLOCKS[cut] for cut in cuts]
    blocks[3] = blocks[3][:7]
    found = saved(path, lambda file: FileJoiner(file, cuts), blocks)
    assert np.array_equal(found, np.concatenate(blocks)) and found.dtype == np.float64


@pytest.mark.parametrize(
    "values",
    [
        list(range(10)),
        [1, 2.5, True, 4, 5, 6, 7, 8, 9, 10],
        ["a", "bcd", "", "ef", "g", "h", "i", "j", "k", "lmnop"],
        [np.full((3, 2), number) for number in range(10)],
        [np.full(40_000, number) for number in range(10)],
        [np.full(3, number, "f4" if number < 5 else "f8") for number in range(10)],
        [[number, number + 1] for number in range(10)],
        [np.array(bytes([65 + number]) * 200_000) for number in range(10)],
    ],
    ids=["ints", "mixed", "texts", "arrays", "large arrays", "two types", "lists", "large 0-d arrays"],
)
@pytest.mark.parametrize("size", [1, 4])
def test_values_of_a_map_are_the_array_that_numpy_makes_of_their_list(path: Path, size: int, values: list[Any]) -> None:
    batches = [values[at : at + size] for at in range(0, 10, size)]
    answers = [batch[0] if len(batch) == 1 and size == 1 else batch for batch in batches]
    found = saved(path, lambda file: BatchJoiner(file, size, 10), answers)
    wanted = np.asanyarray(values)
    assert found.dtype == wanted.dtype and np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "value",
    [
        np.ones((2, 3)),
        5,
        [1, 2, 3],
        np.zeros((0, 4)),
        np.asfortranarray(BLOCKS),
        np.array(7),
        [np.ones(2), np.zeros(2)],
    ],
    ids=["array", "number", "list", "empty", "fortran", "0-d", "list of arrays"],
)
def test_lone_answer_is_written_whole(path: Path, value: Any) -> None:
    found = saved(path, LoneJoiner, [value])
    wanted = np.asanyarray(value)
    assert np.array_equal(found, wanted)
    assert (found.shape, found.dtype, np.isfortran(found)) == (wanted.shape, wanted.dtype, np.isfortran(wanted))


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, [object()], [[1, 2], [3]], np.ma.masked_array([1.0, 2.0], [True, False])],
    ids=["a dict", "an object", "ragged", "masked"],
)
def test_answer_that_is_no_array_leaves_no_file(path: Path, value: Any) -> None:
    with pytest.raises(ArgumentValueError, match="in Python"):
        saved(path, LoneJoiner, [value])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [([np.ones(2), np.ones(3)], "cannot be joined"), ([2**63, -1], "signed and unsigned")],
)
def test_values_that_make_no_one_array_are_refused(path: Path, values: list[Any], said: str) -> None:
    with pytest.raises(ArgumentValueError, match=said):
        saved(path, lambda file: BatchJoiner(file, 1, 2), values)
    assert list(path.parent.iterdir()) == []


def test_interrupted_file_is_not_there_and_the_older_one_stays(path: Path) -> None:
    path.write_text("an older one")

    def interrupted(file: NpyFile) -> FileJoiner:
        give(LoneJoiner(file), 0, BLOCKS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saved(path, interrupted, [])
    assert path.read_text() == "an older one"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/directory.npy", "."])
def test_place_that_takes_no_file_is_told_before_anything_comes(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match="directory"):
        NpyFile(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    with mounted(tmp_path / "disk", 4 << 20) as disk:
        yield disk


@pytest.mark.parametrize("fallocate", [True, False])
def test_full_disk_is_an_error_that_says_how_much_is_needed(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, fallocate: bool
) -> None:
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    path = small_disk / "answer.npy"
    with pytest.raises(SetupError, match=r"answer.npy: No space left on device \(the answer takes 8000000 bytes"):
        saved(path, LoneJoiner, [np.ones(1_000_000)])
    assert list(small_disk.iterdir()) == []
    with pytest.raises(SetupError, match="take it twice"):
        saved(path, lambda file: FileJoiner(file, pieces(350)), [np.ones(200_000), np.ones(500_000)])
    assert list(small_disk.iterdir()) == []
    assert np.array_equal(saved(path, LoneJoiner, [BLOCKS]), BLOCKS)


def test_what_was_written_leaves_the_memory(path: Path) -> None:
    def mapped() -> int:
        return int(
            next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssFile" in line).split()[1]
        )

    with NpyFile(path) as file:
        whole = file.allocate((64 << 20,), np.dtype("u1"))
        before = mapped()
        for at in range(0, len(whole), 4 << 20):
            whole[at : at + (4 << 20)] = at >> 22
            assert mapped() < before + (8 << 10)
            file.trim()
        assert mapped() <= before + 512
        assert all(whole[at << 22] == at for at in range(16)), "and nothing is lost"
