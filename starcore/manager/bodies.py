"""The files of stored jobs that outlive the manager, with a journal: one thread writes and syncs. It decides nothing.

::

    the loop ── keep ─▶ line ─▶ thread: write, fdatasync ── Synced ─▶ the core, which records what it names
             ── drop ─▶ (the ledger: when the disk knows that nothing names it) ─▶ line ─▶ thread: unlink

    0 ............ size ............ size + 32
      the body       trailer: SCSTORED │ number u64 │ size u64 │ CRC-32 of the body u32 │ CRC-32 of the 28 before u32

A chunk stays in memory until it is synced, and is read from there as long: what a disk refuses is not lost, and is
written again and again until it is taken. When more than BACKLOG_BYTES_MAX wait, the loop waits for the disk.

The next manager reads all files that its journal names, and says of each that is not whole what is wrong with it.
What no record names is of a job that was never accepted, or that is over, and goes.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starcore.errors import SetupError
from starcore.events import Spooled, Token
from starcore.manager import spool
from starcore.manager.outbox import SpoolFailed, SpoolWorks, Synced
from starcore.messages import Buffer

SUFFIX = ".stored"
PLACE = "bodies-in"
"""In the journal's directory: where the bodies are that it names."""
OWNER = "bodies-of"
"""In the bodies' directory: the number of the journal that names them."""
MAGIC = b"SCSTORED"
TRAILER = struct.Struct("<8sQQII")
READ_BYTES = 1 << 20
BACKLOG_BYTES_MAX = 64 << 20
WAIT_SECONDS = 0.05
"""How long a look at a full line lasts."""
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 10.0
STOP_SECONDS_MAX = 10.0


@dataclass(slots=True)
class _Piece:
    """A chunk that is to be written."""

    spooled: Spooled
    octets: Buffer


@dataclass(slots=True)
class _Work:
    """What waits for the thread."""

    pieces: list[_Piece] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Sum:
    """What is known of a body that comes."""

    end: int = 0
    crc: int = 0


class Bodies:
    """A directory of bodies.

    Parameters
    ----------
    directory : Path
        Made, where it is not there, for this user alone.
    afterwards : callable(callback)
        Has something done when the disk knows all that was recorded so far.

    Raises
    ------
    SetupError
        It cannot be used, or another manager uses it.
    """

    def __init__(self, directory: Path, afterwards: Callable[[Callable[[], None]], None]) -> None:
        self._directory = directory
        self._afterwards = afterwards
        self._lock = spool.lock(directory)
        self._notify: Callable[[list[Spooled], Any], None] = _nobody
        self._count: dict[int, int] = {}
        """How many chunks of each body there are."""
        self._held: dict[tuple[int, int], Token] = {}
        """By body and offset: the memory of what is not synced."""
        self._changed = threading.Condition()
        self._work = _Work()
        self._backlog_bytes = 0
        self._closing = False
        self._failing = False
        self._retry_at = 0.0
        self._retry_seconds = RETRY_SECONDS
        self._sums: dict[int, _Sum] = {}
        self._thread: threading.Thread | None = None

    # -- what an earlier manager left ------------------------------------------------------------------------

    def look(self, named: Mapping[int, int]) -> tuple[dict[int, Spooled], dict[int, str]]:
        """Read the bodies that the journal names, each with its size.

        Returns what stands for each, and of those that cannot be had, why.
        """
        kept: dict[int, Spooled] = {}
        lost: dict[int, str] = {}
        for number, size in named.items():
            try:
                _check(self._path(number), number, size)
            except OSError as error:
                lost[number] = f"{error.strerror} ({self._path(number)})"
            except ValueError as error:
                lost[number] = f"{error} ({self._path(number)})"
            else:
                kept[number] = spooled = Spooled(number, 0, size, size=size)
                self._count[number] = 1
                self._read_from_file(spooled)
        return kept, lost

    def claim(self, number: int, named: Container[int], *, new: bool) -> None:
        """Take the directory for the journal of this number, before `clear` removes what that does not name.

        Raises
        ------
        SetupError
            What lies here is another journal's, which may still need it; or this one's, and its records are gone.
        """
        mark = self._directory / OWNER
        owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
        if owner == str(number):
            return
        strange = [path for path in self._directory.glob(f"*{SUFFIX}") if _number(path) not in named]
        if strange and (owner or new):
            raise SetupError(
                f"{len(strange)} files of detached jobs in {self._directory} belong to another journal than the one "
                f"that is named: name theirs with --journal, or another directory with --spool; if nobody needs them, "
                f"remove the *{SUFFIX} files"
            )
        _replace(mark, f"{number}\n")

    def clear(self, named: Container[int]) -> None:
        """Remove what an earlier manager left that is not named any more."""
        for path in (*self._directory.glob(f"*{SUFFIX}"), *self._directory.glob(f"*{spool.SUFFIX}")):
            if path.suffix != SUFFIX or _number(path) not in named:
                path.unlink()

    # -- the loop's side -------------------------------------------------------------------------------------

    def start(self, notify: Callable[[list[Spooled], Any], None]) -> None:
        """Begin to write; `notify` is called in the thread, with what was synced and an event for the core, or None."""
        self._notify = notify
        self._thread = threading.Thread(target=self._run, name="bodies", daemon=True)
        self._thread.start()

    def keep(self, spooled: Spooled, token: Token, octets: Buffer) -> None:
        """Have a chunk written; its memory is held until it is synced."""
        number, offset = spooled.body, spooled.offset
        self._count[number] = self._count.get(number, 0) + 1
        self._held[number, offset] = token
        spooled.read = lambda start, length: memoryview(octets)[start : start + length]
        with self._changed:
            self._work.pieces.append(_Piece(spooled, octets))
            self._backlog_bytes += spooled.length
            self._changed.notify_all()
            while self._backlog_bytes > BACKLOG_BYTES_MAX and not self._failing and not self._closing:
                self._changed.wait(WAIT_SECONDS)

    def synced(self, pieces: list[Spooled]) -> list[Token]:
        """These chunks are in their files. Returns the memory that is not needed any more."""
        tokens = []
        for spooled in pieces:
            key = spooled.body, spooled.offset
            if key in self._held:
                tokens.append(self._held.pop(key))
                self._read_from_file(spooled)
        return tokens

    def drop(self, spooled: Spooled) -> Token:
        """Let a chunk go. Returns its memory, where it is still there."""
        spooled.read = None
        number = spooled.body
        self._count[number] -= 1
        if not self._count[number]:
            del self._count[number]
            self._afterwards(lambda: self._remove(number))
        return self._held.pop((number, spooled.offset), None)

    def close(self) -> None:
        """Write what is in line, and let go of the directory."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS_MAX)
        os.close(self._lock)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._gather()) is not None:
            try:
                self._commit(work)
            except OSError as error:
                self._fail(work, error)

    def _gather(self) -> _Work | None:
        """Wait for work, or for the time to try again; None at the end."""
        with self._changed:
            while not self._closing:
                left = self._retry_at - time.monotonic() if self._failing else None
                if self._work.removed or (self._work.pieces and (left is None or left <= 0)):
                    break
                self._changed.wait(left if self._work.pieces else None)
            work, self._work = self._work, _Work()
            empty = not (work.pieces or work.removed)
            return None if empty or (self._closing and self._failing) else work

    def _commit(self, work: _Work) -> None:
        """Bring chunks to the disk, and say so."""
        self._unlink(work)
        bodies: dict[int, list[_Piece]] = {}
        for piece in work.pieces:
            bodies.setdefault(piece.spooled.body, []).append(piece)
        sums = {number: self._write(number, pieces) for number, pieces in bodies.items()}
        if any(pieces[0].spooled.offset == 0 for pieces in bodies.values()):
            self._sync_directory()
        whole = [number for number, pieces in bodies.items() if sums[number].end == pieces[0].spooled.size]
        self._sums.update(sums)
        for number in whole:
            del self._sums[number]
        with self._changed:
            worked, self._failing = self._failing, False
            self._backlog_bytes -= sum(piece.spooled.length for piece in work.pieces)
            self._changed.notify_all()
        self._retry_seconds = RETRY_SECONDS
        synced, work.pieces = [piece.spooled for piece in work.pieces], []
        for pieces in bodies.values():
            pieces.clear()  # nobody may look at memory that is given back
        if worked:
            self._notify([], SpoolWorks())
        self._notify(synced, Synced(whole) if whole else None)

    def _write(self, number: int, pieces: list[_Piece]) -> _Sum:
        """Write the chunks of one body that came together, and sync them. Returns its sum, if that is so."""
        known = self._sums.get(number, _Sum())
        crc, end, size = known.crc, known.end, pieces[0].spooled.size
        descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                view = memoryview(piece.octets)[: piece.spooled.length]
                crc = zlib.crc32(view, crc)
                end = _write(descriptor, view, piece.spooled.offset)
            if end == size:
                octets = TRAILER.pack(MAGIC, number, size, crc, 0)[:-4]
                _write(descriptor, octets + struct.pack("<I", zlib.crc32(octets)), size)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return _Sum(end, crc)

    def _unlink(self, work: _Work) -> None:
        """Files that go make room; what would have been written of them is written no more."""
        if not work.removed:
            return
        removed = set(work.removed)
        left = [piece for piece in work.pieces if piece.spooled.body not in removed]
        gone = sum(piece.spooled.length for piece in work.pieces) - sum(piece.spooled.length for piece in left)
        work.pieces, work.removed = left, []
        with self._changed:
            self._backlog_bytes -= gone
        for number in removed:
            self._sums.pop(number, None)
            with contextlib.suppress(OSError):
                self._path(number).unlink()

    def _fail(self, work: _Work, error: OSError) -> None:
        """Try again after a while, with what has come by then."""
        with self._changed:
            self._failing = True
            self._work.pieces = work.pieces + self._work.pieces
            self._retry_at = time.monotonic() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS_MAX)
            self._changed.notify_all()
        self._notify([], SpoolFailed(f"{error.strerror or error} ({self._directory})"))

    # -- private ---------------------------------------------------------------------------------------------

    def _remove(self, number: int) -> None:
        """The disk knows that nothing names this body; said by the ledger's thread."""
        with self._changed:
            self._work.removed.append(number)
            self._changed.notify_all()

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016x}{SUFFIX}"

    def _read_from_file(self, spooled: Spooled) -> None:
        path = self._path(spooled.body)
        spooled.read = lambda start, length: _read(path, spooled.offset + start, length)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def settle_place(journal: Path, directory: Path, lost: Mapping[int, str]) -> None:
    """Remember where a journal's bodies are.

    Raises
    ------
    SetupError
        Some are not here, and an earlier manager of this journal had them elsewhere; or it cannot be written down.
    """
    place, here = journal / PLACE, str(directory.resolve())
    there = place.read_text(encoding="utf-8").strip() if place.exists() else here
    if lost and there != here:
        raise SetupError(
            f"{len(lost)} bodies of detached jobs are not in {here}: the manager before had them in {there}. Name "
            f"that one with --spool, or move its *{SUFFIX} files here"
        )
    if there != here or not place.exists():
        _replace(place, here + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a small file that is there whole or as it was."""
    new = path.with_suffix(".new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error


def _check(path: Path, number: int, size: int) -> None:
    """Read a body from its beginning to its end. Raises OSError, or ValueError where it is not what it was."""
    with path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size
        if there != size + TRAILER.size:
            raise ValueError(f"it has {there} bytes, where {size + TRAILER.size} were written")
        crc, left = 0, size
        while left:
            octets = file.read(min(left, READ_BYTES))
            if not octets:
                raise ValueError("it was cut short while it was read")
            crc, left = zlib.crc32(octets, crc), left - len(octets)
        trailer = file.read(TRAILER.size)
    said = TRAILER.unpack(trailer)
    if said[:4] != (MAGIC, number, size, crc) or said[4] != zlib.crc32(trailer[:-4]):
        raise ValueError("it is damaged: its checksum is not that of its bytes")


def _number(path: Path) -> int:
    """Return the number that a file's name says; 0, which none has, for another one."""
    try:
        return int(path.stem, 16)
    except ValueError:
        return 0


def _write(descriptor: int, octets: Buffer, at: int) -> int:
    """Write all of it to a place; returns where it ends."""
    view = memoryview(octets)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count
    return at


def _read(path: Path, at: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        octets = os.pread(descriptor, length, at)
    finally:
        os.close(descriptor)
    if len(octets) != length:
        raise OSError(f"{path} was cut short by somebody else")
    return octets


def _nobody(pieces: list[Spooled], event: Any) -> None:
    raise AssertionError("the bodies' thread was not started")
