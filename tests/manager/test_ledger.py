"""The journal's files: one thread, one directory, and a disk that may fail."""

from __future__ import annotations

import errno
import os
import queue
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starcore.errors import SetupError
from starcore.manager import journal, ledger
from starcore.manager.journaled import Durable, Failed, Record, Renew
from starcore.manager.ledger import Ledger
from starcore.manager.records import Accepted, ClientKnown, Epoch, Fact, JobKnown
from starcore.messages import FunctionKind

WAIT_SECONDS = 20.0
CLIENT = b"c" * 16
BEGUN: list[Fact] = [
    Epoch(7, 9, 3),
    ClientKnown(CLIENT, "ff", "cert", "c", "192.0.2.1:1", 1 << 20, 1 << 32),
    JobKnown(3, CLIENT, 1, FunctionKind.REGISTERED, bytes(32), "f", "", 0, 0.0, 0),
]


class Kept:
    """A ledger, and what it says."""

    def __init__(self, directory: Path) -> None:
        self.ledger = Ledger(directory)
        self.recovery = self.ledger.recover()
        self.said: queue.Queue[Any] = queue.Queue()
        self.ledger.start(self.said.put)
        self.upto = 0

    def append(self, facts: list[Fact], *, anew: bool = False) -> int:
        self.upto += len(facts)
        self.ledger.append(Record(facts, self.upto, anew))
        return self.upto

    def hear(self, kind: type[Any]) -> Any:
        """The next event of a kind."""
        while not isinstance(event := self.said.get(timeout=WAIT_SECONDS), kind):
            pass
        return event

    def durable(self, upto: int) -> Durable:
        """Wait until so much is on disk."""
        while (event := self.hear(Durable)).upto < upto:
            pass
        return event


def tasks(first: int, count: int = 1, size: int = 1) -> Accepted:
    return Accepted(3, first, array("I", [size]) * count, array("Q"), b"x" * count * size)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def kept(directory: Path) -> Iterator[Kept]:
    made = Kept(directory)
    made.durable(made.append(BEGUN, anew=True))
    yield made
    made.ledger.close()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def again(directory: Path) -> Any:
    """What the next manager reads."""
    following = Ledger(directory)
    try:
        return following.recover()
    finally:
        following.close()


def test_what_is_durable_is_read_by_the_next_manager(kept: Kept, directory: Path) -> None:
    for index in range(50):
        upto = kept.append([tasks(index)])
    said = kept.durable(upto)
    assert said.bytes == (directory / "00000001.journal").stat().st_size
    kept.ledger.close()
    assert again(directory).open_tasks == 50
    kept.ledger = Ledger(directory)


def test_files_are_their_owners_alone(kept: Kept, directory: Path) -> None:
    assert directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_two_managers_never_share_a_journal(kept: Kept, directory: Path) -> None:
    with pytest.raises(SetupError, match="another manager"):
        Ledger(directory)


def test_directory_that_everybody_may_write_to_is_refused(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o1777)
    with pytest.raises(SetupError, match="chmod 700"):
        Ledger(directory)


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="file"):
        Ledger(tmp_path / "file" / "journal")


def test_new_segment_takes_the_place_of_the_old_one(kept: Kept, directory: Path) -> None:
    kept.append([tasks(0)])
    kept.durable(kept.append([*BEGUN, tasks(0), tasks(1)], anew=True))
    kept.durable(kept.append([tasks(2)]))
    assert files(directory) == ["00000002.journal", "lock"]
    kept.ledger.close()
    assert again(directory).open_tasks == 3
    kept.ledger = Ledger(directory)


def test_segment_that_grew_long_is_renewed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RENEW_BYTES_MIN", 100_000)
    kept.append([tasks(index, 1, 50_000) for index in range(3)])
    kept.hear(Renew)


def test_torn_tail_is_cut_and_said(kept: Kept, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept.durable(kept.append([tasks(0), tasks(1)]))
    kept.ledger.close()
    path = directory / "00000001.journal"
    os.truncate(path, path.stat().st_size - 5)
    with caplog.at_level("INFO"):
        assert again(directory).open_tasks == 1
    assert "torn tail" in caplog.text
    assert files(directory) == ["00000001.journal", "lock"]
    kept.ledger = Ledger(directory)


@pytest.mark.parametrize("size", [0, 100, journal.HEADER_BYTES, journal.HEADER_BYTES + 30])
def test_segment_that_was_cut_before_its_first_record_is_damage_and_kept(
    kept: Kept, directory: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    kept.ledger.close()
    os.truncate(directory / "00000001.journal", size)
    assert again(directory).epoch == 0
    assert f"damage at byte 0: {size} bytes skipped" in caplog.text
    assert (directory / "00000001.damaged").stat().st_size == size
    kept.ledger = Ledger(directory)


def test_broken_middle_is_reported_kept_and_the_rest_read(
    kept: Kept, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.durable(kept.append([tasks(index) for index in range(10)]))
    kept.ledger.close()
    path = directory / "00000001.journal"
    octets = bytearray(path.read_bytes())
    size = journal.ENVELOPE_BYTES + len(journal.encode(tasks(0)))
    octets[len(octets) - 5 * size + 30] ^= 1
    path.write_bytes(octets)
    with caplog.at_level("INFO"):
        assert again(directory).open_tasks == 9
    assert "1 records lost" in caplog.text and "00000001.damaged" in caplog.text
    assert (directory / "00000001.damaged").read_bytes() == octets
    kept.ledger = Ledger(directory)


def test_later_version_is_refused_and_left_alone(kept: Kept, directory: Path) -> None:
    kept.ledger.close()
    path = directory / "00000001.journal"
    octets = bytearray(path.read_bytes())
    for at in (0, journal.BLOCK_BYTES):
        octets[at + 8] = 9
        octets[at + 16 : at + 20] = journal.zlib.crc32(octets[at : at + 16]).to_bytes(4, "little")
    path.write_bytes(octets)
    following = Ledger(directory)
    with pytest.raises(SetupError, match="version 9"):
        following.recover()
    following.close()
    assert path.read_bytes() == octets
    kept.ledger = Ledger(directory)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_failing_disk_is_told_and_a_new_segment_makes_an_end_of_it(
    kept: Kept, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(kept.ledger, "_retry_seconds", 0.05)

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(ledger.os, call, refuse)
        kept.append([tasks(0)])
        assert "No space left on device" in kept.hear(Failed).reason
        kept.hear(Renew)
        if call == "write":
            kept.append([*BEGUN, tasks(0)], anew=True)
            kept.hear(Failed)
            kept.hear(Renew)
    kept.append([tasks(5)])  # behind a failure: only a segment with all that is so counts
    kept.durable(kept.append([*BEGUN, tasks(0), tasks(5), tasks(6)], anew=True))
    assert files(directory)[-1] == "lock" and len(files(directory)) == 2
    kept.ledger.close()
    assert again(directory).open_tasks == 3
    kept.ledger = Ledger(directory)


def test_segment_whose_closing_fails_is_closed_and_closed_once(
    kept: Kept, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where what a full disk refused may be told by close()."""
    close, closed = os.close, []

    def late(descriptor: int) -> None:
        close(descriptor)
        if descriptor == former:
            closed.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    kept.durable(kept.append([tasks(0)]))
    former = kept.ledger._descriptor
    with monkeypatch.context() as broken:
        broken.setattr(ledger.os, "close", late)
        kept.durable(kept.append([*BEGUN, tasks(0), tasks(1)], anew=True))
    assert closed == [former]
    kept.ledger.close()
    assert again(directory).open_tasks == 2
    kept.ledger = Ledger(directory)


def test_segment_asked_for_before_a_failure_is_no_end_of_it(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept.ledger, "_retry_seconds", 0.3)

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "RENEW_BYTES_MIN", 100_000)
        kept.append([tasks(index, 1, 50_000) for index in range(3)])
        kept.hear(Renew)
        broken.setattr(ledger.os, "write", refuse)
        kept.append([tasks(3)])
        kept.hear(Failed)
    kept.append([*BEGUN, tasks(0)], anew=True)  # the core said so before it heard of the failure, and is silent since
    assert isinstance(kept.said.get(timeout=WAIT_SECONDS), Renew)
    kept.durable(kept.append([*BEGUN, tasks(0), tasks(3)], anew=True))


def test_descriptors_stay_open_under_a_write_that_hangs(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hang(descriptor: int) -> None:
        entered.set()
        gate.wait(WAIT_SECONDS)

    monkeypatch.setattr(ledger, "STOP_SECONDS_MAX", 0.01)
    monkeypatch.setattr(ledger.os, "fdatasync", hang)
    kept.append([tasks(0)])
    assert entered.wait(WAIT_SECONDS)
    kept.ledger.close()
    assert os.fstat(kept.ledger._descriptor).st_size
    gate.set()
    monkeypatch.setattr(ledger, "STOP_SECONDS_MAX", WAIT_SECONDS)
    kept.hear(Durable)


def test_many_records_share_a_commit_and_a_lone_one_waits_for_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        real(descriptor)

    monkeypatch.setattr(ledger.os, "fdatasync", counted)
    kept.durable(kept.append([tasks(0)]))
    assert syncs == 1
    for index in range(2000):
        upto = kept.append([tasks(1 + index)])
    kept.durable(upto)
    assert syncs < 500


def test_callback_comes_when_the_records_before_it_are_on_disk(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.append(BEGUN, anew=True)
    upto = kept.append([tasks(0)])
    seen: list[int] = []
    kept.ledger.afterwards(lambda: seen.extend(event.upto for event in list(kept.said.queue)))
    kept.ledger.close()
    assert seen[-1] == upto
    assert Ledger(tmp_path).recover().open_tasks == 1


def test_callback_waits_while_the_disk_fails_and_makes_room_when_it_failed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    kept.append(BEGUN, anew=True)
    kept.hear(Durable)
    full, called = OSError(errno.ENOSPC, "No space left on device"), threading.Event()

    def fail(*args: Any) -> None:
        raise full

    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.01)
    with monkeypatch.context() as disk:
        disk.setattr(kept.ledger, "_write", fail)
        kept.append([tasks(0)])
        kept.hear(Failed)
        kept.ledger.afterwards(called.set)
        kept.hear(Renew)
        assert not called.is_set()
        kept.append(BEGUN, anew=True)
        kept.hear(Failed)
        assert called.wait(WAIT_SECONDS)
    kept.hear(Renew)
    kept.durable(kept.append(BEGUN, anew=True))
    kept.ledger.close()
