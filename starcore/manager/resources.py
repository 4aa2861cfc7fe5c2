"""What a manager with a thousand peers asks of its system: descriptors, and memory that goes back when peers leave.

Every peer is a descriptor, and the limit that a shell or a service gives is often 1,024, though the process may raise
it itself. And every TLS connection that ends leaves holes in the C library's heap, which it keeps: after three
thousand connections, one after the other, the heap held 100 MB where 6 were in use. `give_back` hands whole free pages
to the system again; a millisecond for a thousand peers.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any

DESCRIPTORS_MAX = 1 << 20
"""No more is asked for: there are systems whose hard limit is a billion, and others where it is "infinite"."""
DESCRIPTORS_OWN = 32
"""What the process needs beside its peers: listeners, the loop, logs, files that it reads at the start."""


def raise_descriptors() -> int:
    """Raise the limit of open files as far as it goes without rights; return how many peers that is room for."""
    import resource  # noqa: PLC0415 - absent on Windows, where the manager's options can be read and nothing runs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(0, (wanted if soft == resource.RLIM_INFINITY else soft) - DESCRIPTORS_OWN)


def give_back() -> None:
    """Return the heap's free pages to the system, where the C library knows how (glibc)."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:
        return None
