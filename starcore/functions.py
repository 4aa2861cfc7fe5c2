"""Functions on their way to a worker: pickled by value where they are the user's own, hashed, named.

A function of an installed package travels as its name; one from `__main__`, a notebook or a module of the user's
(a file outside the standard library, site-packages and this package) travels by value, with the functions,
classes and modules of the user's that it refers to, so the worker needs none of those files.

Nothing is cached by an object's identity. A blob is used again only while its function is *provably frozen*::

    ship(fn) ── known by id, and its weak reference still means fn? ── every fact still the same object? ──▶ blob
                        no │                                                   no │
                           ▼                                                      ▼
                   pickle, hash ── everything it refers to immutable? ── yes: note the facts

Facts are the function's attributes, its closure's cells and the globals that its code names, each compared by
`is`; that proves something only for immutable objects, so a function that refers to a list, an array or a class
of the user's is pickled anew each time.
"""

from __future__ import annotations

import dis
import hashlib
import io
import os
import pickle
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, update_wrapper
from pathlib import Path
from typing import Any, cast

import numpy as np
from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from starcore.errors import ArgumentTypeError, LoadError
from starcore.layouts import Segments, Strided, contiguous
from starcore.messages import Buffer
from starcore.references import Ref

PROTOCOL = 5
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
NAME_MAX = 200
FROZEN_COUNT_MAX = 512
FROZEN_BYTES_MAX = 1 << 20
"""Larger blobs are not kept: the cache may hold half a gigabyte at the very most."""
_Cached = type(lru_cache(abs))
_NO_FILE = "<dynamic-code>"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A function as a blob.

    Attributes
    ----------
    digest : bytes
        The SHA-256 of `blob`.
    blob : bytes
        What `load_function` takes.
    name : str
        For humans.
    python : str
        "3.11": by-value code loads only where major and minor are the same.
    refs : tuple of Ref
        The put values that it refers to.
    """

    digest: bytes
    blob: bytes
    name: str
    python: str
    refs: tuple[Ref, ...] = ()


def ship(fn: Callable[..., Any]) -> Shipped:
    """Return the blob of a callable.

    Raises
    ------
    ArgumentTypeError
        It is not callable, or cannot be pickled.
    """
    frozen = _FROZEN.get(id(fn))
    if frozen is not None and frozen.reference() is fn and frozen.holds(fn):
        return frozen.shipped
    if not callable(fn):
        raise ArgumentTypeError(f"a function is needed, not {_article(type(fn).__name__)}")
    refs: list[Ref] = []
    blob = _dump_function(fn, refs)
    shipped = Shipped(hashlib.sha256(blob).digest(), blob, display_name(fn), PYTHON, tuple(refs))
    if len(blob) <= FROZEN_BYTES_MAX:
        _freeze(fn, shipped)
    return shipped


def load_function(blob: Buffer) -> Callable[..., Any]:
    """Return the callable of a blob.

    Raises
    ------
    LoadError
        It cannot be loaded here; the text says why.
    """
    try:
        return cast("Callable[..., Any]", pickle.loads(blob))
    except Exception as error:
        raise LoadError(f"the function cannot be loaded: {type(error).__name__}: {error}") from error


def display_name(fn: Any) -> str:
    """Return what a human calls this callable."""
    if isinstance(fn, partial):
        return f"partial({display_name(fn.func)})"[:NAME_MAX]
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__qualname__
    return str(name).replace("<locals>.", "")[:NAME_MAX]


def _dump_function(fn: Callable[..., Any], refs: list[Ref]) -> bytes:
    try:
        return dump(fn, refs=refs)
    except Exception as error:
        raise ArgumentTypeError(f"{display_name(fn)} cannot be pickled: {error}") from error


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "aeiouAEIOU" else f"a {name}"


# -- pickling by value ---------------------------------------------------------------------------------------


class _Keeper:
    """Takes the buffers of one dump out of band.

    An object of its own: a pickler whose callback is its own method is a circle, and would hold on to the caller's
    arrays until the next garbage collection.
    """

    __slots__ = ("_standing", "segments")

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self._standing: dict[int, tuple[pickle.PickleBuffer, memoryview | Strided]] = {}

    def reduce(self, array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        """Let an empty, writable buffer stand for the array's memory until it is called with it."""
        order, segment = contiguous(array)
        buffer = pickle.PickleBuffer(bytearray())
        self._standing[id(buffer)] = buffer, segment
        return rebuild_array, (buffer, array.dtype, array.shape, order)

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of band (False, by pickle's rule), or leave it to pickle."""
        _, segment = self._standing.get(id(buffer), (None, None))
        if segment is None:
            try:
                segment = buffer.raw()
            except BufferError:
                return True
        self.segments.append(segment)
        return False


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, with additions: arrays out of band, references noted, (`own`) the user's own modules by value.

    `cloudpickle.register_pickle_by_value` would say the latter to every library in the process; this says it for
    one dump. Arrays go to `segments` whatever their layout and come back writable; pickle's own out-of-band
    buffers copy those that are not contiguous, and bring read-only ones back as such.
    """

    def __init__(
        self,
        file: io.BytesIO,
        segments: Segments | None,
        *,
        own: bool,
        picky: bool = False,
        refs: list[Ref] | None = None,
    ) -> None:
        self._keeper = None if segments is None else _Keeper(segments)
        self._refs = refs
        super().__init__(file, PROTOCOL, self._keeper)
        self._own = own
        self._picky = picky
        self._probing: frozenset[int] = frozenset()

    def reducer_override(self, obj: Any) -> Any:
        """See `pickle.Pickler.reducer_override`: called for everything but the builtin containers and scalars."""
        if type(obj) is np.ndarray and self._keeper is not None and not obj.dtype.hasobject and obj.itemsize:
            return self._keeper.reduce(obj)
        if type(obj) is Ref:
            if self._refs is not None:
                self._refs.append(obj)
            return NotImplemented
        if isinstance(obj, types.CodeType):
            return _reduce_code(obj)
        if self._own:
            if isinstance(obj, types.FunctionType):
                if _is_own(obj.__module__):
                    return self._dynamic_function_reduce(obj)
            elif isinstance(obj, type):
                if _is_own(obj.__module__):
                    return cloudpickle._dynamic_class_reduce(obj)
            elif isinstance(obj, types.ModuleType) and _is_own(obj.__name__):
                return types.ModuleType, (obj.__name__,), self._contents(obj)
            elif type(obj) is _Cached and (obj.__module__ == "__main__" or _is_own(obj.__module__)):
                limits = obj.cache_parameters()
                return empty_cache, (limits["maxsize"], limits["typed"]), obj.__wrapped__, None, None, fill_cache
        return super().reducer_override(obj)

    def _contents(self, module: types.ModuleType) -> dict[str, Any]:
        """Return what travels of a module: all of it, or (`picky`) what can be pickled."""
        skipped = {"__builtins__", "__spec__", "__loader__", "__cached__"}
        contents = {name: value for name, value in vars(module).items() if name not in skipped}
        if not self._picky:
            return contents
        if id(module) in self._probing:
            return {}
        probing = self._probing | {id(module)}
        return {name: value for name, value in contents.items() if _can_pickle(value, probing)}


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Reduce a code object with the name of its file: a remote traceback says where, and shows the line.

    Since 3.1.3 cloudpickle puts a placeholder there, so that a notebook's functions have the same bytes each time. A
    blob is known by its bytes for one session only; an error without its place would cost more.
    """
    make, args = cloudpickle._code_reduce(code)
    return make, tuple(code.co_filename if type(arg) is str and arg == _NO_FILE else arg for arg in args)


def _can_pickle(value: Any, probing: frozenset[int]) -> bool:
    pickler = Pickler(io.BytesIO(), [], own=True, picky=True)
    pickler._probing = probing
    try:
        pickler.dump(value)
    except Exception:
        return False
    return True


def dump(
    value: Any, segments: Segments | None = None, *, own: bool = True, refs: list[Ref] | None = None
) -> bytes:
    """Pickle a value; the memory of its arrays is appended to `segments`, the Refs in it to `refs`.

    A module of the user's that is referred to as a module travels whole; where that fails (it holds a lock, a
    file, ...) a second try leaves out what cannot be pickled.
    """
    before = 0 if segments is None else len(segments)
    with io.BytesIO() as file:
        try:
            Pickler(file, segments, own=own, refs=refs).dump(value)
            return file.getvalue()
        except Exception:
            if not own:
                raise
    if segments is not None:
        del segments[before:]
    if refs is not None:
        refs.clear()
    with io.BytesIO() as file:
        Pickler(file, segments, own=own, picky=True, refs=refs).dump(value)
        return file.getvalue()


class _AnswerUnpickler(pickle.Unpickler):
    """Unpickles without touching a class that this process knows.

    A class that went out by value comes back by value, under the same number. Cloudpickle finds the class and sets
    its methods anew, to copies that no longer share the globals of the user's module; here it stays as it is.
    """

    def __init__(self, text: Buffer, buffers: Sequence[memoryview]) -> None:
        super().__init__(io.BytesIO(text), buffers=buffers)
        self._classes = _Classes()

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler.find_class`."""
        found = super().find_class(module, name)
        if found is cloudpickle._make_skeleton_class or found is cloudpickle._make_skeleton_enum:
            return partial(self._classes.make, found)
        return self._classes.fill if found is cloudpickle._class_setstate else found


class _Classes:
    """The classes of one answer that were here before (apart from the unpickler: it would be a circle)."""

    def __init__(self) -> None:
        self._known: set[type] = set()

    def make(self, make: Callable[..., Any], *args: Any) -> Any:
        known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
        if known is None:
            return make(*args)
        self._known.add(known)
        return known

    def fill(self, cls: type, state: Any) -> Any:
        return cls if cls in self._known else cloudpickle._class_setstate(cls, state)


def load_answer(text: Buffer, buffers: Sequence[memoryview]) -> Any:
    """Unpickle an answer; only what comes from a trusted worker may come here."""
    return _AnswerUnpickler(text, buffers).load()


def rebuild_array(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> np.ndarray[Any, Any]:
    """Return the array over a buffer; its name stands in every pickle that holds an array."""
    if 0 in shape:
        return np.empty(shape, dtype, order)
    return np.ndarray(shape, dtype, buffer, order=order)


def empty_cache(maxsize: int | None, typed: bool) -> Callable[..., Any]:
    """Return what `functools.lru_cache` makes, before it has its function: that may refer to the cache itself."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached = lru_cache(maxsize, typed)(call)
    return cached


def fill_cache(cached: Any, function: Callable[..., Any]) -> None:
    """Give a cache its function."""
    update_wrapper(cached, function)


def _is_own(name: Any) -> bool:
    """Whether a module is the user's: `__main__` is too, but cloudpickle knows that itself."""
    if not isinstance(name, str) or name == "__main__":
        return False
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in {"starcore", "numpy", "cloudpickle"}:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and _is_own_file(file)


@lru_cache(4096)
def _is_own_file(file: str) -> bool:
    path = Path(os.path.realpath(file))
    if path.suffix not in (".py", ".pyc") or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    homes = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(__file__)]
    if any(path.is_relative_to(os.path.realpath(home)) for home in homes):
        return False
    # `pip install --target` makes a home of packages of any name; what betrays it is the records that pip leaves.
    root = path.parent
    while (root / "__init__.py").exists() and root != root.parent:
        root = root.parent
    return next(root.glob("*.dist-info"), None) is None


# -- what is provably frozen ---------------------------------------------------------------------------------

_MISSING: Any = object()
_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, np.ufunc}
)
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


class _NotFrozenError(Exception):
    pass


class _Frozen:
    """The facts under which a blob stays true."""

    __slots__ = ("cells", "facts", "functions", "modules", "names", "reference", "shipped", "sizes", "visited")

    def __init__(self, fn: Callable[..., Any], shipped: Shipped) -> None:
        self.shipped = shipped
        self.cells: list[tuple[types.CellType, Any]] = []
        self.names: list[tuple[dict[str, Any], str, Any]] = []
        self.sizes: list[tuple[dict[str, Any], int]] = []
        self.functions: list[tuple[types.FunctionType, tuple[Any, ...]]] = []
        self.modules = 0
        self.visited: set[int] = {id(fn)}
        self.facts: tuple[Any, ...] | None = None
        if not _by_reference(fn):
            if type(fn) is not types.FunctionType:
                raise _NotFrozenError
            self.facts = self._read(fn)
        self.reference: Callable[[], Any] = _reference(fn, strong=self.facts is None)

    def holds(self, fn: Any) -> bool:
        """Whether nothing has changed since."""
        if self.facts is None:
            return True
        if not _same(fn, self.facts) or (self.modules and self.modules != len(sys.modules)):
            return False
        try:
            for cell, value in self.cells:
                if cell.cell_contents is not value:
                    return False
        except ValueError:  # emptied by `del`
            return False
        for namespace, name, value in self.names:
            if namespace.get(name, _MISSING) is not value:
                return False
        for mapping, size in self.sizes:
            if len(mapping) != size:
                return False
        return not self.functions or all(_same(function, facts) for function, facts in self.functions)

    def _read(self, fn: types.FunctionType) -> tuple[Any, ...]:
        for cell in fn.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                raise _NotFrozenError from None
            self.cells.append((cell, value))
            self._visit(value)
        for name in _global_names(fn.__code__):
            value = fn.__globals__.get(name, _MISSING)
            self.names.append((fn.__globals__, name, value))
            self._visit(value)
        for mapping in (fn.__kwdefaults__, fn.__annotations__, fn.__dict__):
            if mapping is None:
                continue
            self.sizes.append((mapping, len(mapping)))
            for name, value in mapping.items():
                self.names.append((mapping, name, value))
                self._visit(value)
        self._visit(fn.__defaults__)
        return (
            fn.__code__,
            fn.__defaults__,
            fn.__kwdefaults__,
            fn.__name__,
            fn.__qualname__,
            fn.__module__,
            fn.__doc__,
            fn.__annotations__,
            fn.__dict__,
        )

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if value is _MISSING or kind in _ATOMS or id(value) in self.visited:
            return
        if isinstance(value, types.ModuleType):
            if _is_own(value.__name__) or sys.modules.get(value.__name__) is not value:
                raise _NotFrozenError
            if hasattr(value, "__path__"):
                # The blob also names the submodules that were imported when it was made.
                self.modules = len(sys.modules)
        elif kind is tuple or kind is frozenset:
            self.visited.add(id(value))
            for item in value:
                self._visit(item)
        elif _by_reference(value) or (isinstance(value, np.generic) and not isinstance(value, np.void)):
            return
        elif kind is types.FunctionType:
            self.visited.add(id(value))
            self.functions.append((value, self._read(value)))
        else:
            raise _NotFrozenError


def _same(fn: Any, facts: tuple[Any, ...]) -> bool:
    code, defaults, kwdefaults, name, qualname, module, doc, annotations, attributes = facts
    return (
        fn.__code__ is code
        and fn.__defaults__ is defaults
        and fn.__kwdefaults__ is kwdefaults
        and fn.__name__ is name
        and fn.__qualname__ is qualname
        and fn.__module__ is module
        and fn.__doc__ is doc
        and fn.__annotations__ is annotations
        and fn.__dict__ is attributes
    )


def _by_reference(value: Any) -> bool:
    """Whether pickle says nothing of it but where it is found: a function or class of an installed module."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or _is_own(module):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, _MISSING)
    return found is value


@lru_cache(1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names = {step.argval: None for step in dis.get_instructions(code) if step.opname in _GLOBAL_OPS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return tuple(names)


_FROZEN: dict[int, _Frozen] = {}


def _freeze(fn: Callable[..., Any], shipped: Shipped) -> None:
    try:
        frozen = _Frozen(fn, shipped)
    except (_NotFrozenError, TypeError, RecursionError):
        _FROZEN.pop(id(fn), None)
        return
    if len(_FROZEN) >= FROZEN_COUNT_MAX:
        # A global function keeps itself alive through the facts that name it, so age ends it as well.
        _FROZEN.pop(next(iter(_FROZEN)), None)
    _FROZEN[id(fn)] = frozen


def _reference(fn: Callable[..., Any], *, strong: bool) -> Callable[[], Any]:
    """Return what still means the function as long as it lives; one of an installed package lives on anyway."""
    try:
        return weakref.ref(fn, partial(_forget, id(fn)))
    except TypeError:
        if not strong:
            raise
        return lambda: fn


def _forget(key: int, reference: Any) -> None:
    frozen = _FROZEN.get(key)
    if frozen is not None and frozen.reference is reference:
        del _FROZEN[key]
