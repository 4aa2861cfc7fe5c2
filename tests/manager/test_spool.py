"""Files for what memory has no room for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from starcore.errors import SetupError
from starcore.events import Spooled
from starcore.manager.spool import SHARE, Spool
from tests.disks import mounted


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.body"))


def test_chunk_is_read_back_as_it_was_from_any_place(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "spool")
    first, second = Spooled(7, 0, 5), Spooled(7, 5, 5)
    spool.write(second, b"56789")
    spool.write(first, memoryview(bytearray(b"01234")))
    assert first.read is not None and second.read is not None
    assert bytes(first.read(0, 5)) + bytes(second.read(2, 3)) == b"01234789"
    (path,) = (tmp_path / "deep" / "spool").glob("*.body")
    assert path.read_bytes() == b"0123456789"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_goes_with_its_last_chunk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    pieces = [Spooled(1, 0, 2), Spooled(1, 2, 2), Spooled(2, 0, 2)]
    for piece in pieces:
        spool.write(piece, b"ab")
    assert len(files(tmp_path)) == 2
    assert spool.drop(pieces[0]) is None
    assert len(files(tmp_path)) == 2
    spool.drop(pieces[1])
    spool.drop(pieces[2])
    assert files(tmp_path) == []


def test_what_could_not_be_written_is_read_from_memory_and_given_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spooled, token = Spooled(1, 10, 4), bytearray(b"abcd")
    spool.hold(spooled, token, memoryview(token))
    assert spooled.read is not None
    assert bytes(spooled.read(1, 2)) == b"bc"
    assert spool.drop(spooled) is token
    assert files(tmp_path) == []


def test_what_a_full_disk_took_of_a_chunk_does_not_stay_on_it(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        spool = Spool(disk)
        kept = Spooled(1, 0, 8 << 10)
        spool.write(kept, bytes(8 << 10))
        for body in (1, 2):
            with pytest.raises(OSError, match="No space left"):
                spool.write(Spooled(body, 8 << 10, 128 << 10), bytes(128 << 10))
        assert files(disk) == [f"{1:016x}.body"]
        spool.drop(kept)
        assert files(disk) == []


def test_full_disk_is_an_error_of_the_write(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / f"{1:016x}.body").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        spool.write(Spooled(1, 0, 4), b"abcd")


def test_file_cut_short_by_somebody_else_is_an_error_and_no_answer(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spooled = Spooled(1, 0, 4)
    spool.write(spooled, b"abcd")
    os.truncate(tmp_path / f"{1:016x}.body", 2)
    assert spooled.read is not None
    with pytest.raises(OSError, match="cut short"):
        spooled.read(0, 4)


def test_leftovers_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "old.body").write_bytes(b"left by a manager that was killed")
    (tmp_path / "notes.txt").write_text("mine")
    spool = Spool(tmp_path)
    assert files(tmp_path) == []
    spool.write(Spooled(1, 0, 1), b"a")
    spool.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "notes.txt"]


def test_directory_belongs_to_one_manager_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SetupError, match="another manager"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool")


def test_room_is_a_part_of_what_is_free(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert Spool(tmp_path).free_bytes() == pytest.approx(free * SHARE, rel=0.2)
