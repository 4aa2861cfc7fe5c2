"""The files of stored jobs that outlive the manager: written, synced, checked, and gone when nothing names them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from starcore.errors import SetupError
from starcore.events import Spooled
from starcore.manager import bodies
from starcore.manager.bodies import TRAILER, Bodies, settle_place
from starcore.manager.outbox import SpoolFailed, SpoolWorks, Synced
from tests.disks import mounted

SECONDS = 20.0


class Desk:
    """Bodies in a directory, and what their thread said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[Any] = []
        self.tokens: list[Any] = []
        self.afterwards: list[Callable[[], None]] = []
        self.bodies = Bodies(directory, self.afterwards.append)

    def start(self) -> Desk:
        self.bodies.start(self._notify)
        return self

    def _notify(self, pieces: list[Spooled], event: Any) -> None:
        self.tokens += self.bodies.synced(pieces)
        if event is not None:
            self.said.append(event)

    def keep(self, number: int, *pieces: bytes) -> list[Spooled]:
        """Have a body written that comes in these pieces."""
        size, at, kept = sum(map(len, pieces)), 0, []
        for piece in pieces:
            spooled = Spooled(number, at, len(piece), size=size)
            self.bodies.keep(spooled, f"token {number} {at}", memoryview(piece))
            kept.append(spooled)
            at += len(piece)
        return kept

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, (what, self.said)
            time.sleep(0.002)

    def synced(self, *numbers: int) -> None:
        """Wait until these are said to be on disk."""
        self.until(
            lambda: {each for said in self.said if isinstance(said, Synced) for each in said.bodies} >= {*numbers}, ""
        )

    def files(self) -> list[int]:
        return sorted(int(path.stem, 16) for path in self.directory.glob("*.stored"))

    def path(self, number: int) -> Path:
        return self.directory / f"{number:016x}.stored"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "deep" / "bodies").start()
    yield desk
    desk.bodies.close()


def read(spooled: Spooled) -> bytes:
    assert spooled.read is not None
    return bytes(spooled.read(0, spooled.length))


def test_body_is_on_disk_when_that_is_said_and_read_back_by_the_next_manager(desk: Desk) -> None:
    pieces = desk.keep(7, b"01234", b"56", b"789")
    assert b"".join(map(read, pieces)) == b"0123456789"
    desk.synced(7)
    desk.until(lambda: len(desk.tokens) == 3, "the memory is given back")
    assert b"".join(map(read, pieces)) == b"0123456789"
    assert desk.path(7).read_bytes()[:10] == b"0123456789"
    assert desk.path(7).stat().st_size == 10 + TRAILER.size
    assert stat.S_IMODE(desk.path(7).stat().st_mode) == 0o600
    desk.bodies.close()
    later = Desk(desk.directory)
    kept, lost = later.bodies.look({7: 10})
    assert (read(kept[7]), lost) == (b"0123456789", {})
    assert later.bodies.drop(kept[7]) is None
    later.start().afterwards.pop()()
    later.until(lambda: not later.files(), "the file is gone")
    later.bodies.close()
    desk.bodies = Bodies(desk.directory, desk.afterwards.append)  # for the fixture to close


def test_part_of_a_body_is_not_said_to_be_there(desk: Desk) -> None:
    desk.bodies.keep(Spooled(1, 0, 2, size=4), None, b"ab")
    desk.keep(2, b"whole")
    desk.synced(2)
    assert [said.bodies for said in desk.said] == [[2]]
    kept, lost = desk.bodies.look({1: 4})
    assert not kept and "it has 2 bytes, where 36 were written" in lost[1]


def test_file_goes_when_the_disk_knows_that_nothing_names_it(desk: Desk) -> None:
    pieces = desk.keep(1, b"ab", b"cd")
    desk.synced(1)
    for piece in pieces:
        desk.bodies.drop(piece)
        assert piece.read is None
    assert desk.files() == [1]
    (forget,) = desk.afterwards
    forget()
    desk.until(lambda: not desk.files(), "the file is gone")


def test_memory_of_what_is_dropped_before_it_is_synced_is_given_back_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)  # its thread does not run yet
    (piece,) = desk.keep(1, b"ab")
    assert desk.bodies.drop(piece) == "token 1 0"
    desk.afterwards.pop()()
    desk.start()
    desk.keep(2, b"cd")
    desk.synced(2)
    assert desk.files() == [2] and "token 1 0" not in desk.tokens
    desk.bodies.close()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: os.truncate(path, 3), "it has 3 bytes, where 42 were written"),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "it is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "it is damaged"),
        (lambda path: path.write_bytes(bytes(42)), "it is damaged"),
    ],
    ids=["missing", "cut short", "body", "trailer", "zeros"],
)
def test_file_that_is_not_what_it_was_is_told(desk: Desk, harm: Callable[[Path], Any], reason: str) -> None:
    desk.keep(1, b"0123456789")
    desk.keep(2, b"0123456789")
    desk.synced(1, 2)
    harm(desk.path(1))
    kept, lost = desk.bodies.look({1: 10, 2: 10})
    assert list(kept) == [2] and list(lost) == [1]
    assert reason in lost[1] and str(desk.path(1)) in lost[1]


def test_file_of_another_number_is_not_taken_for_this_one(desk: Desk) -> None:
    desk.keep(1, b"0123456789")
    desk.synced(1)
    desk.path(1).rename(desk.path(5))
    assert "damaged" in desk.bodies.look({5: 10})[1][5]


def test_what_no_record_names_goes_and_other_files_stay(desk: Desk) -> None:
    desk.keep(1, b"a")
    desk.keep(2, b"b")
    desk.synced(1, 2)
    (desk.directory / "notes.txt").write_text("mine")
    (desk.directory / "strange.stored").write_text("")
    (desk.directory / f"{2:016x}.body").write_text("of a manager without a journal")
    desk.bodies.clear({2})
    assert sorted(path.name for path in desk.directory.iterdir()) == [desk.path(2).name, "lock", "notes.txt"]


def test_disk_that_is_full_is_told_and_tried_until_it_takes_what_waits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "RETRY_SECONDS", 0.01)
    desk.bodies._retry_seconds = 0.01
    desk.path(1).symlink_to("/dev/full")
    (piece,) = desk.keep(1, b"0123456789")
    desk.until(lambda: desk.said, "it is told")
    assert isinstance(desk.said[0], SpoolFailed) and "No space left on device" in desk.said[0].reason
    assert read(piece) == b"0123456789" and desk.tokens == []
    desk.path(1).unlink()
    desk.synced(1)
    assert [type(said) for said in desk.said][-2:] == [SpoolWorks, Synced]
    assert desk.bodies.look({1: 10})[1] == {}


def test_file_that_goes_makes_an_end_of_a_full_disk(desk: Desk) -> None:
    desk.path(1).symlink_to("/dev/full")
    (piece,) = desk.keep(1, b"0123456789")
    desk.until(lambda: desk.said, "it is told")
    desk.bodies.drop(piece)
    desk.afterwards.pop()()
    desk.until(lambda: isinstance(desk.said[-1], SpoolWorks), "nothing waits any more")
    desk.keep(2, b"ab")
    desk.synced(2)


def test_nobody_looks_at_the_memory_of_what_is_synced(desk: Desk) -> None:
    """A shard's memory cannot be let go of as long as anybody does, and a buffer not be used again."""
    octets = bytearray(b"ab")
    desk.bodies.keep(Spooled(1, 0, 2, size=2), "token", memoryview(octets))
    desk.synced(1)
    octets.clear()


def test_loop_waits_for_a_slow_disk_when_much_waits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BACKLOG_BYTES_MAX", 1000)
    for number in range(1, 21):
        desk.keep(number, bytes(500))
        assert desk.bodies._backlog_bytes <= 1000
    desk.synced(*range(1, 21))


def test_what_is_in_line_is_written_at_the_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path).start()
    for number in range(1, 51):
        desk.keep(number, bytes(100))
    desk.bodies.close()
    later = Desk(tmp_path)
    assert later.bodies.look(dict.fromkeys(range(1, 51), 100))[1] == {}
    later.bodies.close()


def test_directory_belongs_to_one_manager_at_a_time(desk: Desk) -> None:
    with pytest.raises(SetupError, match="another manager"):
        Bodies(desk.directory, desk.afterwards.append)


def test_bodies_that_were_elsewhere_are_asked_for_and_found_where_they_were_moved_to(tmp_path: Path) -> None:
    journal, one, other = tmp_path, tmp_path / "one", tmp_path / "other"
    settle_place(journal, one, {})
    settle_place(journal, one, {3: "No such file"})  # lost, but not elsewhere
    with pytest.raises(SetupError, match=r"had them in .*one\. Name that one with --spool"):
        settle_place(journal, other, {3: "No such file"})
    settle_place(journal, other, {})
    with pytest.raises(SetupError, match="other"):
        settle_place(journal, one, {3: "No such file"})


def test_place_that_cannot_be_written_down_is_a_set_up_that_is_wrong(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 64 << 10) as disk:
        with (disk / "other").open("wb", buffering=0) as other:
            assert other.write(bytes(128 << 10)) < 128 << 10
        with pytest.raises(SetupError, match="bodies-in cannot be written: No space left on device"):
            settle_place(disk, disk / "bodies", {})


def test_what_another_journal_may_still_need_is_not_removed(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "bodies")
    desk.bodies.claim(17, {}, new=True)
    for stray in (3, 4):
        desk.path(stray).write_bytes(b"a body")
    desk.bodies.claim(17, {3: 6}, new=False)  # its own journal's: what nothing names goes
    for number, new in ((18, True), (18, False)):
        with pytest.raises(SetupError, match=r"1 files of detached jobs in .* name theirs with --journal"):
            desk.bodies.claim(number, {3: 6}, new=new)
    assert desk.files() == [3, 4]
    desk.path(4).unlink()
    desk.bodies.claim(18, {3: 6}, new=False)  # all that is here is named: it was handed over
    desk.bodies.claim(18, {}, new=False)
    desk.bodies.close()


def test_bodies_without_an_owner_are_of_a_journal_that_is_not_new(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "bodies")
    desk.path(3).write_bytes(b"a body")
    with pytest.raises(SetupError, match="another journal"):
        desk.bodies.claim(17, {}, new=True)
    desk.bodies.claim(17, {}, new=False)
    desk.bodies.close()
