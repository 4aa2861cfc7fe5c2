"""What the commands have in common: one line for a wrong command line, the options' types, how to answer, the gate.

Not here: what the options mean. A command that was called wrongly says so in one line and exits with 2.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from starcore.capacity import parse_bytes

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PORT_MAX = (1 << 16) - 1
SECONDS_MAX = 1e9


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; the usage is told by --help. Options are not abbreviated."""

    def __init__(self, *, prog: str, description: str = "", epilog: str = "", allow_abbrev: bool = False) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=allow_abbrev,
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave with 2."""
        self.exit(2, f"{self.prog}: {message}; '{self.prog} --help' tells the options\n")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help."""
        if file is None:
            say(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)


def port(text: str) -> int:
    """Return the port to dial that an option names.

    Raises
    ------
    argparse.ArgumentTypeError
        It is none.
    """
    return _port(text, 1)


def listening_port(text: str) -> int:
    """Return the port to listen on; 0 is any free one. Raises as `port` does."""
    return _port(text, 0)


def _port(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= PORT_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: {least} to {PORT_MAX} are")
    return int(text)


def seconds(text: str) -> float:
    """Return the time in seconds that an option gives. Raises as `port` does."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: give seconds above 0")
    return value


def size(text: str, least: str = "1") -> int:
    """Return the bytes that an option gives. Raises as `port` does, also where a unit seems to be missing."""
    try:
        value = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value < parse_bytes(least):
        raise argparse.ArgumentTypeError(f"{text!r} is too little: give {least} at least, and a unit, as 8G")
    return value


def directory(text: str) -> Path:
    """Return the directory that an option names. Raises as `port` does: an unset variable is not where one stands."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no directory")
    return Path(text)


def say(text: object) -> None:
    """Print an answer, at once. Where its reader has left (`| head -1`), this and all that follows is dropped quietly.

    The command itself goes on: what it does is more than what it says.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # also for what is still to be flushed, at the latest at the exit
        os.close(nowhere)


def wait_at_gate(descriptor: int | None) -> None:
    """Wait until whoever started this process lets it on: a byte each, or the end of the pipe, whose owner is gone.

    A local star's children load their modules while their credentials are still being made.
    """
    if descriptor is not None:
        os.read(descriptor, 1)
        os.close(descriptor)
