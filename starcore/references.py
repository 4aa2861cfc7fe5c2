"""References to shared values: what `Client.put` returns, and what stands in a slot where one was named.

::

    client   put(value) ─▶ Ref ── an argument, or inside one, or in a closure ──▶ pickled as (fetch, (name, writable))
    slot     lend(name, head, body) ◀─ the worker; fetch ─▶ the value, over memory that all slots of it map

A name is random, not a digest: hashing 1 GiB takes a second, and a name that only its client can know needs no
proof. It is known to one session alone, so it is never reused and never stale.

Not here: how a value becomes bytes and back (`pickling.py`), who keeps them where (the cores).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from starcore.errors import ArgumentValueError, LoadError
from starcore.messages import SHARES_MAX


class Ref:
    """A value that was put into the star, to be passed to calls in place of the value itself.

    Its bytes travel when the first task needs them, once to each worker that runs such tasks, and lie there once, in
    memory that all slots map. A task gets the value, its arrays read-only; with ``writable=True`` (see `Client.put`) a
    copy of its own. Pass it to calls of its own client: as an argument, inside containers, in a closure.

    The star lets the value go when its last Ref is released or gone and the tasks that were given it are done. Until
    then leave the arrays that were put unchanged: they are borrowed, not copied.

    Attributes
    ----------
    nbytes : int
        What the value measures on the wire.
    writable : bool
        Whether every task gets a copy that it may write to.
    """

    __slots__ = ("__weakref__", "_finalizer", "_name", "_owner", "inner", "nbytes", "writable")

    def __init__(
        self,
        name: bytes,
        nbytes: int,
        owner: object,
        let_go: Callable[[bytes], None],
        *,
        writable: bool = False,
        inner: Iterable[Ref] = (),
    ) -> None:
        self._name = name
        self._owner = owner
        self.nbytes = nbytes
        self.writable = writable
        self.inner = tuple(inner)
        """Those that the value refers to itself."""
        self._finalizer = weakref.finalize(self, let_go, name)
        self._finalizer.atexit = False

    @property
    def released(self) -> bool:
        """Whether no new call may use it."""
        return not self._finalizer.alive

    def release(self) -> None:
        """Let the value go as soon as the tasks that were given it are done; calls that follow may not use it."""
        self._finalizer()

    def __enter__(self) -> Ref:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "released" if self.released else f"{self.nbytes} bytes"
        return f"<starcore.Ref {self._name.hex()[:8]}: {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return fetch, (self._name, self.writable)

    def __copy__(self) -> Ref:
        return self

    def __deepcopy__(self, memo: Any) -> Ref:
        return self


def names_of(refs: Iterable[Ref], owner: object) -> tuple[bytes, ...]:
    """Return the names of all that a call needs, those that values refer to included; sorted, each once.

    Raises
    ------
    ArgumentValueError
        One is released or belongs to another owner, or there are too many.
    """
    found: dict[bytes, None] = {}
    waiting = list(refs)
    while waiting:
        ref = waiting.pop()
        if ref._owner is not owner:
            raise ArgumentValueError(f"{ref!r} was put by another client (or before a fork): put the value by this one")
        if ref.released:
            raise ArgumentValueError(f"{ref!r} was released: put the value once more")
        if ref._name not in found:
            found[ref._name] = None
            waiting += ref.inner
    if len(found) > SHARES_MAX:
        raise ArgumentValueError(f"a call with {len(found)} put values, where {SHARES_MAX} are allowed")
    return tuple(sorted(found))


# -- in a slot -----------------------------------------------------------------------------------------------

_lent: dict[bytes, Callable[[bool], Any]] = {}


def lend(name: bytes, load: Callable[[bool], Any]) -> None:
    """Make a value known to this process; `load` makes it, writable or not."""
    _lent[name] = load


def take_back(name: bytes) -> None:
    """Forget a value; its memory goes with the last array over it."""
    _lent.pop(name, None)


def fetch(name: bytes, writable: bool) -> Any:
    """Return a value: what unpickling a Ref comes to.

    Raises
    ------
    LoadError
        It is not here.
    """
    load = _lent.get(name)
    if load is None:
        raise LoadError("a Ref stands for its value only in the calls of its own client, and its value is not here")
    return load(writable)
