"""What a call's function is called, and the job that its calls are tasks of: a part of `Client` and of its views."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

import numpy as np

from starcore.client.blocks import AutoFuture
from starcore.client.futures import TaskFuture
from starcore.client.inquiries import Inquiries
from starcore.client.jobs import Keeping
from starcore.client.puts import advise
from starcore.client.records import JobRecord
from starcore.client.session import Session
from starcore.errors import ArgumentValueError
from starcore.messages import FunctionKind, Job
from starcore.pickling import Packed, Shipped, ship
from starcore.references import Ref, names_of

Function: TypeAlias = Callable[..., Any] | str
Array: TypeAlias = "np.ndarray[Any, Any]"

_REGISTERED = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
_NO_DIGEST = bytes(32)


class Owner(Protocol):
    """The client whose session the calls go through."""

    _trust: bool
    _growing: WeakSet[AutoFuture]
    _target: Any

    def _live(self) -> Session:
        """The session, opened anew after a fork."""

    def _interrupt(self) -> None:
        """A ``with`` block is left by Ctrl-C."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the session when those made are done."""


class Naming(Keeping, Inquiries):
    """How a client and its views with options name what they run."""

    _client: Owner
    _options: tuple[int, float, int] = (0, 0.0, 0)

    def _name(self, fn: Function) -> tuple[Any, Shipped | str]:
        """What identifies a function with these options, and what is sent of it. Needs no connection."""
        if isinstance(fn, str):
            if fn and not _REGISTERED.fullmatch(fn):
                raise ArgumentValueError(f"a registered function is named 'package.module:name', not {fn!r}")
            return (fn, self._options), fn
        shipped = advise(ship(fn))
        return (shipped.digest, self._options), shipped

    def _record(self, session: Session, key: Any, shipped: Shipped | str, refs: Sequence[Ref] = ()) -> JobRecord:
        """The job of a function with these options and the put values that its calls need."""
        shares = b""
        if not isinstance(shipped, str) and shipped.refs:
            refs = [*refs, *shipped.refs]
        if refs:
            shares = b"".join(names_of(refs, session))
            key = (*key, shares)
        known = session.known(key)
        if known is not None:
            return known
        return session.job(key, *self._make_job(shipped, shares))

    def _make_job(self, shipped: Shipped | str, shares: bytes = b"") -> tuple[Job, bytes]:
        if isinstance(shipped, str):
            return Job(0, FunctionKind.REGISTERED, _NO_DIGEST, shipped, "", *self._options, shares), b""
        job = Job(0, FunctionKind.SHIPPED, shipped.digest, shipped.name, shipped.python, *self._options, shares)
        return job, shipped.blob

    def _job_of(self, fn: Function) -> tuple[Job, bytes]:
        _, shipped = self._name(fn)
        if not isinstance(shipped, str) and shipped.refs:
            raise ArgumentValueError("a put value lives with its client: give the value itself to a detached call")
        return self._make_job(shipped)


def send(session: Session, record: JobRecord, packed: Packed, out: Array | None = None) -> Future[Any]:
    """Send a call, whose answer goes to `out` if that is given."""
    future = TaskFuture(session, record)
    if out is not None:
        future.answer_into(out)
    session.submit(record, packed.head, future, packed if packed.body_bytes else None)
    return future
