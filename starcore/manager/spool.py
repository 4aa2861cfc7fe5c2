"""The spool: files for what stored jobs keep beyond the memory that they may take. A part of the manager's shell.

A body is one file, under the number that the core gave it. A chunk that is spilled is written to its own place in the
file, and read from there whenever it is sent; when the core has dropped all that was written, the file goes. What
cannot be written (a full disk) stays in memory, so nothing is lost.

One manager uses a directory at a time. Files that an earlier one left there belong to no job any more, and go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from starcore.errors import SetupError
from starcore.events import Spooled, Token
from starcore.messages import Buffer

LOCK = "lock"
SUFFIX = ".body"
SHARE = 0.5
"""Of what is free at the start, the spool takes so much, unless it is told how much."""


def lock(directory: Path) -> int:
    """Make a directory where there is none, for this user alone, and hold it; returns the lock's descriptor.

    Raises
    ------
    SetupError
        It cannot be used, or another manager uses it.
    """
    import fcntl  # noqa: PLC0415 - absent on Windows, where the manager's options can be read and nothing runs

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"the spool {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SetupError(f"the spool {directory} is used by another manager") from error
    return descriptor


def free_bytes(directory: Path) -> int:
    """Return what a spool takes of the disk, where nobody says how much."""
    return int(shutil.disk_usage(directory).free * SHARE)


class Spool:
    """A directory of bodies.

    Parameters
    ----------
    directory : Path
        Made, where it is not there, for this user alone.

    Raises
    ------
    SetupError
        It cannot be used, or another manager uses it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pieces: dict[int, int] = {}
        """How many of each body's are in its file."""
        self._held: dict[tuple[int, int], Token] = {}
        """By body and offset: what could not be written."""
        self._lock = lock(directory)
        for left in directory.glob(f"*{SUFFIX}"):
            left.unlink()

    def free_bytes(self) -> int:
        """Return what the spool takes of the disk, where nobody says how much."""
        return free_bytes(self._directory)

    def write(self, spooled: Spooled, piece: Buffer) -> None:
        """Write a chunk to its place. Raises OSError."""
        number = os.open(self._path(spooled.body), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view, at = memoryview(piece), spooled.offset
            while view:
                count = os.pwrite(number, view, at)
                view, at = view[count:], at + count
        except OSError:
            if spooled.body not in self._pieces:  # nobody would remove it, and the disk is full as it is
                self._path(spooled.body).unlink()
            raise
        finally:
            os.close(number)
        self._pieces[spooled.body] = self._pieces.get(spooled.body, 0) + 1
        spooled.read = lambda start, length: self._read(spooled, start, length)

    def hold(self, spooled: Spooled, token: Token, piece: Buffer) -> None:
        """Keep in memory what could not be written."""
        self._held[spooled.body, spooled.offset] = token
        spooled.read = lambda start, length: memoryview(piece)[start : start + length]

    def drop(self, spooled: Spooled) -> Token:
        """Let a chunk go. Returns the token of one that is still in memory."""
        spooled.read = None
        held = self._held.pop((spooled.body, spooled.offset), None)
        if held is not None:
            return held
        self._pieces[spooled.body] -= 1
        if not self._pieces[spooled.body]:
            del self._pieces[spooled.body]
            with contextlib.suppress(OSError):
                self._path(spooled.body).unlink()
        return None

    def close(self) -> None:
        """Leave the directory as it was found."""
        for body in self._pieces:
            with contextlib.suppress(OSError):
                self._path(body).unlink()
        self._pieces.clear()
        os.close(self._lock)

    def _path(self, body: int) -> Path:
        return self._directory / f"{body:016x}{SUFFIX}"

    def _read(self, spooled: Spooled, start: int, length: int) -> bytes:
        number = os.open(self._path(spooled.body), os.O_RDONLY | os.O_CLOEXEC)
        try:
            piece = os.pread(number, length, spooled.offset + start)
        finally:
            os.close(number)
        if len(piece) != length:
            raise OSError(f"{self._path(spooled.body)} was cut short by somebody else")
        return piece
