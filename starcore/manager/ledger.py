"""The journal on disk: one thread appends, syncs, and begins segments. It decides nothing about tasks.

::

    the loop ── append ─▶ line ─▶ thread: write, fdatasync ── Durable ─▶ the loop
                                     │ the segment grew long: Renew ───▶ (all that is so comes down the line)
                                     └ OSError: Failed, and Renew again and again until a new segment stands

    DIR/lock                       held by the manager that writes here
    DIR/00000007.journal           the segment; an older one is removed once this one is whole
    DIR/00000008.new               one that is being written
    DIR/00000006.damaged           kept for whoever wants to look, after something in it could not be read

Whatever comes while the disk is busy is the next commit: a lone record waits for nothing, many wait for each other.
After a failed write or fsync nobody knows what the disk has of the segment, so nothing is appended to it any more: the
next record that counts is the last one of a new segment with all that is so.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starcore.errors import FrameError, SetupError
from starcore.manager import journal
from starcore.manager.journal import Damage
from starcore.manager.journaled import Durable, Failed, Record, Renew
from starcore.manager.recovery import Recovery

GATHER_SECONDS = 0.002
"""So long after a commit the next one begins at the soonest: a few hundred fsyncs a second are enough."""
RENEW_BYTES_MIN = 64 << 20
RENEW_FACTOR = 3
"""A segment is renewed when it measures more than so much, and so many times what it began with."""
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 10.0
"""How long after a failure a new segment is tried, at first and at most."""
STOP_SECONDS_MAX = 10.0
DAMAGES_SAID_MAX = 20
SEGMENT = re.compile(r"(\d{8})\.journal")

_log = logging.getLogger("starcore.manager.journal")


@dataclass(slots=True)
class _Entry:
    """Records in line."""

    frames: list[bytes]
    upto: int
    anew: bool
    callback: Callable[[], None] | None = None


class Ledger:
    """One directory's journal.

    Parameters
    ----------
    directory : Path
        Made if it is missing; its files are their owner's alone.

    Raises
    ------
    SetupError
        It cannot be used, everybody may write to it, or another manager uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = _lock(directory)
        self._notify: Callable[[Any], None] = _nobody
        self._line: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failing = False
        self._renewing = False
        self._retry_at = 0.0
        self._retry_seconds = RETRY_SECONDS
        self._committed_at = 0.0
        self._descriptor = -1
        self._callbacks: list[Callable[[], None]] = []
        self._segment = max(self._segments(), default=0)
        self._salt = 0
        self._number = 0
        self._bytes = 0
        self._began_bytes = 0

    # -- reading ---------------------------------------------------------------------------------------------

    def recover(self) -> Recovery:
        """Read what an earlier manager left; damage is told in the log.

        Raises
        ------
        SetupError
            It is of a version that this manager does not read, or the disk does not give it.
        """
        recovery = Recovery()
        for segment in self._segments():
            path = self._path(segment)
            try:
                damages = _read(path.read_bytes(), recovery)
            except journal.VersionError as error:
                raise SetupError(f"{path} cannot be read: {error}") from error
            except OSError as error:
                raise SetupError(f"{path} cannot be read: {error.strerror}") from error
            for damage in damages[:DAMAGES_SAID_MAX]:
                level = logging.INFO if damage.torn else logging.ERROR
                _log.log(level, "%s: %s", path, damage)
            if any(not damage.torn for damage in damages):
                _log.error("%s: the rest was kept; a copy of the whole is %s", path, _keep(path))
        return recovery

    def _segments(self) -> list[int]:
        """The numbers of the segments that are whole, the oldest first."""
        found = (SEGMENT.fullmatch(entry.name) for entry in self._directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:08}.journal"

    # -- the loop's side -------------------------------------------------------------------------------------

    def start(self, notify: Callable[[Any], None]) -> None:
        """Begin to write; `notify` is called with Durable, Failed and Renew, in the ledger's thread."""
        self._notify = notify
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Put facts in line. They are made bytes here and now: what they name goes on changing."""
        entry = _Entry([journal.encode(fact) for fact in record.facts], record.upto, record.anew)
        with self._changed:
            self._line.append(entry)
            self._changed.notify()

    def afterwards(self, callback: Callable[[], None]) -> None:
        """Have something done, in the ledger's thread, when the disk knows all that is in line before it."""
        with self._changed:
            self._line.append(_Entry([], 0, anew=False, callback=callback))
            self._changed.notify()

    def close(self) -> None:
        """Write what is in line, and let go of the directory."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS_MAX)
            if self._thread.is_alive():
                return  # the disk hangs: a descriptor that was closed under a write may be somebody else's by then
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        os.close(self._lock)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (entries := self._gather()) is not None:
            try:
                self._commit(entries)
            except OSError as error:
                self._fail(error)

    def _gather(self) -> list[_Entry] | None:
        """Wait for entries, or for the time to try again; None at the end."""
        with self._changed:
            while not self._line and not self._closing:
                left = self._retry_at - time.monotonic() if self._failing and not self._renewing else None
                if left is not None and left <= 0:
                    self._renew()
                    continue
                self._changed.wait(left)
            if not self._line:
                return None
        pause = self._committed_at + GATHER_SECONDS - time.monotonic()
        if pause > 0 and not self._closing:
            time.sleep(pause)
        with self._changed:
            entries = list(self._line)
            self._line.clear()
        return entries

    def _commit(self, entries: list[_Entry]) -> None:
        """Bring entries to the disk, and say so."""
        self._callbacks += [entry.callback for entry in entries if entry.callback is not None]
        entries = [entry for entry in entries if entry.callback is None]
        if not entries and not self._failing:
            self._call_back()
            return
        anew = max((place for place, entry in enumerate(entries) if entry.anew), default=None)
        if self._failing and (anew is None or not self._renewing):
            return  # a segment that was asked for before the failure lacks what has come about since
        if anew is not None:  # it tells all that the ones before it do
            entries = entries[anew:]
        begun = time.monotonic()
        frames = [frame for entry in entries for frame in entry.frames]
        if anew is None:
            self._write(self._envelope(frames))
            os.fdatasync(self._descriptor)
        else:
            self._begin_segment(frames)
        self._committed_at = time.monotonic()
        self._notify(Durable(entries[-1].upto, self._bytes, self._committed_at - begun))
        self._call_back()
        if not self._renewing and self._bytes > max(RENEW_BYTES_MIN, RENEW_FACTOR * self._began_bytes):
            self._renew()

    def _call_back(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _envelope(self, frames: list[bytes]) -> bytes:
        first, self._number = self._number, self._number + len(frames)
        return journal.envelope(frames, first, self._salt)

    def _write(self, octets: bytes) -> None:
        self._bytes += len(octets)
        left = memoryview(octets)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _begin_segment(self, frames: list[bytes]) -> None:
        """Write a segment whole before it counts; then the older ones may go."""
        number = self._segment + 1
        path, new = self._path(number), self._directory / f"{number:08}.new"
        former, self._descriptor = self._descriptor, -1
        if former >= 0:
            with contextlib.suppress(OSError):  # a file system may say so late that a write failed; closed it is
                os.close(former)
        self._salt, self._number = secrets.randbits(32), 1
        try:
            self._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            self._bytes = 0
            self._write(journal.header(self._salt))
            self._write(self._envelope(frames))
            os.fsync(self._descriptor)
            new.rename(path)
            _sync_directory(self._directory)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._segment, self._began_bytes = number, self._bytes
        self._failing = self._renewing = False
        self._retry_seconds = RETRY_SECONDS
        for segment in self._segments():
            if segment == number:
                continue
            with contextlib.suppress(OSError):
                self._path(segment).unlink()

    def _fail(self, error: OSError) -> None:
        """Give the segment up, and try a new one after a while.

        Files of which the disk still says that they are needed go now, if that was the second time: nothing else may
        make room for a segment that says that they are not.
        """
        if self._failing:
            self._call_back()
        self._failing, self._renewing = True, False
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS_MAX)
        self._notify(Failed(f"{error.strerror or error} ({self._directory})"))

    def _renew(self) -> None:
        self._renewing = True
        self._notify(Renew())


def _nobody(event: Any) -> None:
    raise AssertionError("the ledger was not started")


def _read(segment: bytes, recovery: Recovery) -> list[Damage]:
    """Apply a segment's records. Returns what could not be read."""
    damages: list[Damage] = []
    read = 0
    for found in journal.read(segment):
        if isinstance(found, Damage):
            damages.append(found)
            continue
        try:
            recovery.apply(journal.decode(found))
            read += 1
        except FrameError:
            damages.append(Damage(0, len(found), 1))
    if not read and all(damage.torn for damage in damages):
        return [Damage(0, len(segment), 0)]  # it had its name when what it begins with was synced
    return damages


def _keep(path: Path) -> Path:
    """Put a link beside a damaged segment, which outlives it."""
    kept = path.with_suffix(".damaged")
    with contextlib.suppress(OSError):
        os.link(path, kept)
    return kept


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & stat.S_IWOTH:  # who may put a segment there gives the workers code to run
            raise SetupError(f"every user may write to {directory}: say 'chmod 700 {directory}', or name another one")
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"the journal's directory {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SetupError(f"another manager writes its journal in {directory}; give each one its own") from error
    return lock


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
