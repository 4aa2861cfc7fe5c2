"""A disk that is soon full, for tests of what happens then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, size: int) -> Iterator[Path]:
    """Make a directory that holds so many bytes, and this user's alone; without the rights to, the test is skipped."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)]
    if os.getuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("run as root: only root can mount a disk of its own")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
