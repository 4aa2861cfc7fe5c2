"""The default client of this process, and the module-level calls on it: ``starcore.submit_array`` and the others.

Its manager is the configured one, else the one that runs on this machine, else that of a local star, which is
started here: this is the one room of the client's that stands above `local.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, overload

from starcore import settings
from starcore.client.api import Client
from starcore.client.calls import Calls
from starcore.client.inquiries import own_story, session_of
from starcore.client.jobs import DetachedJob
from starcore.client.naming import Array, Function
from starcore.client.session import CONNECT_SECONDS
from starcore.client.story import Story
from starcore.errors import SessionLostError, UnconfiguredError
from starcore.messages import Role
from starcore.references import Ref


class _Default:
    """The one default client of this process."""

    lock = threading.Lock()
    client: Client | None = None
    """The one whose star was started here."""


def connect(
    address: str | None = None,
    *,
    join: str | os.PathLike[str] | None = None,
    trust_results: bool = True,
    connect_seconds: float = CONNECT_SECONDS,
) -> Client:
    """Make a `Client`, and make it the one that the module-level calls use.

    The one before is shut down once its calls are done. See `Client` for the parameters and the errors.
    """
    client = Client(address, join=join, trust_results=trust_results, connect_seconds=connect_seconds)
    with _Default.lock:
        former, _Default.client = _Default.client, client
    if former is not None:
        former.shutdown(wait=False)
    return client


def default_client() -> Client:
    """Return the client of the module-level calls, made at its first use.

    Its manager is the configured one, else the one that runs on this machine, else a local star's.
    """
    client = _Default.client
    if client is not None and not client._shut:
        return client
    with _Default.lock:
        if _Default.client is None or _Default.client._shut:
            if _configured():
                _Default.client = Client()
            else:
                _Default.client = _start_local_star()
                _Default.client._passing = True
        return _Default.client


def submit(fn: Function, /, *args: Any, **kwargs: Any) -> Future[Any]:
    """Run ``fn(*args, **kwargs)`` on a worker of the default client; see `Client.submit`."""
    return default_client().submit(fn, *args, **kwargs)


@overload
def submit_array(
    fn: Function,
    array: Array,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    chunks: int | str | None = None,
    axis: int = 0,
    out: Array | None = None,
    copy: bool = False,
    progress: bool = False,
    detach: Literal[True],
    name: str | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    priority: int | None = None,
) -> DetachedJob: ...


@overload
def submit_array(
    fn: Function,
    array: Array,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    chunks: int | str | None = None,
    axis: int = 0,
    out: Array | None = None,
    copy: bool = False,
    progress: bool = False,
    detach: Literal[False] = False,
    name: None = None,
    retries: int | None = None,
    timeout: float | None = None,
    priority: int | None = None,
) -> Future[Any]: ...


@overload
def submit_array(
    fn: Function,
    array: Array,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    chunks: int | str | None = None,
    axis: int = 0,
    out: Array | None = None,
    copy: bool = False,
    progress: bool = False,
    detach: bool = False,
    name: str,
    retries: int | None = None,
    timeout: float | None = None,
    priority: int | None = None,
) -> DetachedJob: ...


@overload
def submit_array(
    fn: Function,
    array: Array,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    chunks: int | str | None = None,
    axis: int = 0,
    out: Array | None = None,
    copy: bool = False,
    progress: bool = False,
    detach: bool,
    name: str | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    priority: int | None = None,
) -> Future[Any] | DetachedJob: ...


def submit_array(
    fn: Function,
    array: Array,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    chunks: int | str | None = None,
    axis: int = 0,
    out: Array | None = None,
    copy: bool = False,
    progress: bool = False,
    detach: bool = False,
    name: str | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    priority: int | None = None,
) -> Future[Any] | DetachedJob:
    """Run ``fn(array, *args, **kwargs)`` on a worker of the default client.

    See `Client.submit_array` for the arguments and `Client.options` for retries, timeout (s) and priority.

    Examples
    --------
    >>> starcore.submit_array(numpy.sort, a, kwargs={"axis": 0}).result()
    >>> starcore.submit_array(denoise, stack, chunks=4, out=result).result()
    """
    calls: Calls = default_client()
    if not (retries is None and timeout is None and priority is None):
        calls = calls.options(retries=retries, timeout=timeout, priority=priority)
    return calls.submit_array(
        *(fn, array),
        args=args,
        kwargs=kwargs,
        chunks=chunks,
        axis=axis,
        out=out,
        copy=copy,
        progress=progress,
        detach=detach,
        name=name,
    )


@overload
def map(
    fn: Function,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    progress: bool = False,
    detach: Literal[True],
    name: str | None = None,
) -> DetachedJob: ...


@overload
def map(
    fn: Function,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    progress: bool = False,
    detach: Literal[False] = False,
    name: None = None,
) -> Iterator[Any]: ...


@overload
def map(
    fn: Function,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    progress: bool = False,
    detach: bool = False,
    name: str,
) -> DetachedJob: ...


@overload
def map(
    fn: Function,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    progress: bool = False,
    detach: bool,
    name: str | None = None,
) -> Iterator[Any] | DetachedJob: ...


def map(
    fn: Function,
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    progress: bool = False,
    detach: bool = False,
    name: str | None = None,
) -> Iterator[Any] | DetachedJob:
    """Run `fn` on the items of the iterables, on workers of the default client; see `Client.map`."""
    return default_client().map(
        fn,
        *iterables,
        timeout=timeout,
        chunksize=chunksize,
        buffersize=buffersize,
        progress=progress,
        detach=detach,
        name=name,
    )


def put(value: Any, *, writable: bool = False, copy: bool = False) -> Ref:
    """Share a value among many calls of the default client; see `Client.put`."""
    return default_client().put(value, writable=writable, copy=copy)


def run(inputs: Iterable[Array], function: Function | None = None) -> list[Any]:
    """Call a function on each of a list of arrays and wait for the results; see `Client.run`."""
    return default_client().run(inputs, function)


def story(task: Future[Any] | str) -> Story:
    """Return what happened to a call: every attempt, with its worker, time and cause; see `Client.story`.

    A future is asked about where its call was made, whichever client made it; a name, or a future whose client was shut
    down, with the default client, which for such a future has to be of the same manager.

    Raises
    ------
    SessionLostError
        The client that made the call was shut down, and the default client is another manager's, or none.
    """
    session = session_of(task)
    if session is None or isinstance(task, str):
        return default_client().story(task)
    try:
        return own_story(task, session)
    except SessionLostError:
        client = _Default.client
        if client is None or client._shut or client._target.address != session.target.address:
            raise
        return client.story(task)


def _configured() -> bool:
    try:
        settings.dialer(Role.CLIENT)
    except UnconfiguredError:
        return False
    return True


def _start_local_star() -> Client:
    from starcore import local  # noqa: PLC0415 - it makes certificates, which nobody else needs

    return local.start_default()


def _after_fork() -> None:
    _Default.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
