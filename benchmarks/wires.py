"""A slow wire of our own: two network namespaces, joined by a pair of devices that let so many bits a second pass.

::

    near: the client ══ tbf ══▶ ◀══ tbf ══ far: manager and workers, which talk over their own loopback

A thread enters a namespace with all the threads and processes that it starts from then on, so a client made inside
`near` lives there, and this process goes on where it was. It takes root and the commands `ip` and `tc`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType

import starcore

CLONE_NEWNET = 0x40000000
BURST_BYTES = 64 << 10
QUEUE_SECONDS = 0.01
"""How long the shaped device keeps packets that cannot pass yet."""
FAR_ADDRESS = "10.214.0.2"
NEAR_ADDRESS = "10.214.0.1"

_numbers = count()


class WireError(Exception):
    """There can be no such wire here, and why."""


class Wire:
    """Two namespaces with a shaped wire between them; gone at the end of the block.

    Parameters
    ----------
    bits_per_second : float
        In each direction.

    Raises
    ------
    WireError
        On entering: this machine does not allow it.
    """

    def __init__(self, bits_per_second: float) -> None:
        self._rate = f"{int(bits_per_second)}bit"
        name = f"starwire{os.getpid()}-{next(_numbers)}"
        self._names = {"near": f"{name}n", "far": f"{name}f"}

    def __enter__(self) -> Wire:
        if os.name != "posix" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
            raise WireError("a shaped wire takes root and the commands ip and tc")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self._remove()
            raise WireError(f"no shaped wire here: {(error.stderr or str(error)).strip()}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    @contextmanager
    def at(self, end: str) -> Iterator[None]:
        """Be at the `near` or the `far` end, with this thread and all that it starts meanwhile."""
        with ExitStack() as stack:
            here = stack.enter_context(Path("/proc/thread-self/ns/net").open())
            there = stack.enter_context(Path(f"/run/netns/{self._names[end]}").open())
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    @contextmanager
    def star(self, **options: object) -> Iterator[starcore.LocalStar]:
        """Start a local star at the far end."""
        with self.at("far"):
            star = _FarStar(**options)  # type: ignore[arg-type]
        with star:
            yield star

    def client(self, star: starcore.LocalStar, slots: int) -> starcore.Client:
        """Make a client at the near end, and wait for so many slots."""
        with self.at("near"):
            client = starcore.Client(f"{FAR_ADDRESS}:{star.client_port}", join=star.join_file("client"))
        while client.slots < slots:
            client.status()
        return client

    # -- private ---------------------------------------------------------------------------------------------

    def _make(self) -> None:
        near, far = self._names["near"], self._names["far"]
        for name in (near, far):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far)
        for name, address in ((near, NEAR_ADDRESS), (far, FAR_ADDRESS)):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _run("ip", "-n", name, "link", "set", "wire", "up")
            shape = ["rate", self._rate, "burst", str(BURST_BYTES), "latency", f"{QUEUE_SECONDS * 1e3:g}ms"]
            _run("tc", "-n", name, "qdisc", "add", "dev", "wire", "root", "tbf", *shape)

    def _remove(self) -> None:
        for name in filter(self.exists, self._names.values()):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    @staticmethod
    def exists(name: str) -> bool:
        """Whether there is a namespace of this name."""
        return Path(f"/run/netns/{name}").exists()


class _FarStar(starcore.LocalStar):
    """A local star that listens on the wire as well."""

    _listen_host = "0.0.0.0"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise WireError(os.strerror(ctypes.get_errno()))
