"""Calls, answers and failures as payloads; what client and slot use of all that is below.

::

    client   ship(fn) · pack_call · pack_array_call · pack_calls ────────────▶ head + body
    slot     load_function · load_call ─▶ Call.run(fn) ─▶ pack_answer · pack_failure ──▶ head + body
    client   unpack_answer(head) · landing(head, body_bytes).finish() · unpack_failure

    client   pack_value ─▶ head + body ─▶ slot   load_value                 what `Client.put` shares

    functions.py  functions as blobs, and the pickler        payloads.py  heads and bodies
    plain.py      values without pickle                      layouts.py   arrays and their memory
    failures.py   exceptions without pickle

A payload's first byte is its tag. Answers tagged ARRAY, PLAIN, MANY (but for its pickled members) and FAILURE are
decoded without pickle, whoever sent them. Calls are pickled: who may submit may run code, that is what a star is
for; only the array of an array call travels as itself, so that a slot can look at it where it was received.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from starcore._framing import memory, pack_scalar, pack_scalars, unpack_scalar_run, unpack_scalars
from starcore.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    FrameError,
    LoadError,
    ResultError,
    Status,
    UntrustedError,
)
from starcore.failures import decode_failure, encode_failure, text_failure
from starcore.functions import PROTOCOL, Shipped, dump, load_answer, load_function, ship
from starcore.layouts import NotPlainError, Segments, Spec, copy_items, get_array, is_plain_array, put_array
from starcore.messages import Buffer, Column
from starcore.payloads import BARE, BODY, INLINE, Packed, piece_of, read_meta, seal, tag_of, unseal
from starcore.plain import decode, encode
from starcore.references import Ref

__all__ = [
    "Call",
    "Failed",
    "Landing",
    "Outcomes",
    "Packed",
    "Shipped",
    "answer_spec",
    "are_scalars",
    "landing",
    "load_call",
    "load_function",
    "load_value",
    "pack_answer",
    "pack_array_call",
    "pack_call",
    "pack_calls",
    "pack_failure",
    "pack_value",
    "ship",
    "small_answer",
    "small_answers",
    "small_arguments",
    "small_call",
    "unpack_answer",
    "unpack_failure",
]

CALL, ARRAY_CALL, CALLS, SMALL_CALL = 0x10, 0x11, 0x12, 0x13
VALUE = 0x18
ARRAY, PLAIN, FAILURE, PICKLE, MANY = 0x20, 0x21, 0x22, 0x23, 0x24

_BARE_SMALL_CALL = bytes([SMALL_CALL, BARE])
_BARE_PLAIN = bytes([PLAIN, BARE])
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})
_LIGHT = _SCALARS | {Ref}
"""Of these the pickler in C makes what cloudpickle would."""
_U32 = struct.Struct("<I")
_OUTCOME = struct.Struct("<BQ")
SMALL_COUNT_MAX = 16
"""Scalars whose texts are short: they fit a head many times over."""
_PLAIN, _PICKLED, _RAISED, _UNSENDABLE, _RUN = range(5)
_UNTRUSTED = "the answer is pickled, and this client decodes no pickled answers (trust_results is false)"


class Call:
    """A call as the slot finds it.

    Attributes
    ----------
    args, kwargs
        Of the one call; of a batch, `columns` holds the first arguments of all its calls, the second ones, ...
    many : bool
        Whether this is a batch.
    """

    __slots__ = ("args", "columns", "kwargs", "many")

    def __init__(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], columns: Sequence[list[Any]] | None = None
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self.columns = columns
        self.many = columns is not None

    def run(self, fn: Callable[..., Any]) -> Any:
        """Call the function and return what `pack_answer` takes.

        What a lone call raises passes through. In a batch each call has an outcome of its own.
        """
        if self.columns is None:
            return fn(*self.args, **self.kwargs)
        outcomes = Outcomes()
        lasting = outcomes.lasting
        for args in zip(*self.columns, strict=True):
            try:
                value = fn(*args)
            except BaseException as error:
                outcomes.failed(error)
            else:
                if type(value) in _SCALARS:
                    lasting.append(value)
                else:
                    outcomes.returned(value)
        return outcomes


class Outcomes:
    """What the calls of a batch came to, in pieces: a run of scalars is one, any other answer one of its own.

    What can change is encoded at once, and with its arrays copied: a later call of the batch may write to what an
    earlier one returned. Scalars last, and wait in `lasting` for each other.
    """

    __slots__ = ("_pieces", "lasting", "segments")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.segments: Segments = []
        self.lasting: list[Any] = []

    def returned(self, value: Any) -> None:
        """Add what a call returned."""
        segments: Segments = []
        try:
            kind, text = _PLAIN, encode(value, segments)
        except NotPlainError:
            try:
                kind, text = _PICKLED, dump(value, segments, own=False)
            except Exception as error:
                kind, text, segments = _UNSENDABLE, _unpicklable(value, error).encode("utf-8", "replace"), []
        self._add(kind, text, segments)

    def failed(self, error: BaseException) -> None:
        """Add what a call raised."""
        self._add(_RAISED, encode_failure(error), [])

    def text(self) -> bytes:
        """All of it."""
        self._end_run()
        return _U32.pack(len(self._pieces)) + b"".join(self._pieces)

    def _end_run(self) -> None:
        if self.lasting:
            segments: Segments = []
            text = pack_scalars(self.lasting, b"") or encode(self.lasting, segments)
            self.lasting.clear()
            self._put(_RUN, text, segments)

    def _add(self, kind: int, text: bytes, segments: Segments) -> None:
        self._end_run()
        self._put(kind, text, [memoryview(bytes(piece_of(segment, 0, segment.nbytes))) for segment in segments])

    def _put(self, kind: int, text: bytes, segments: Segments) -> None:
        self._pieces.append(_OUTCOME.pack(kind, len(text)) + _U32.pack(len(segments)) + text)
        self.segments += segments


class Failed:
    """Stands among the answers of a batch for a call that has none."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Landing:
    """A place for the body of an answer.

    Attributes
    ----------
    buffer : memoryview
        Writable, as long as the body: where its bytes are received.
    """

    __slots__ = ("_finish", "buffer")

    def __init__(self, buffer: memoryview, finish: Callable[[], Any]) -> None:
        self.buffer = buffer
        self._finish = finish

    def finish(self) -> Any:
        """Return the answer, once the buffer is full."""
        return self._finish()


# -- calls ---------------------------------------------------------------------------------------------------


def pack_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packed:
    """Pack a call. Large arrays among the arguments are borrowed, not copied.

    Raises
    ------
    ArgumentTypeError
        An argument cannot be pickled.
    """
    head = None if kwargs else small_call(args)
    if head is not None:
        return Packed(head)
    refs: list[Ref] = []
    if not kwargs and _LIGHT.issuperset(map(type, args)):
        refs += (argument for argument in args if type(argument) is Ref)
        return seal(CALL, pickle.dumps((args, {}), PROTOCOL), [], refs)
    segments: Segments = []
    text = _dump_arrays((args, kwargs), segments) if type(kwargs) is dict else None
    return seal(CALL, text or _dump_arguments((args, dict(kwargs)), segments, refs), segments, refs)


def small_call(args: tuple[Any, ...]) -> bytes | None:
    """Return the head of a call of a few scalars, of which many a second are made; None for any other."""
    return pack_scalars(args, _BARE_SMALL_CALL) if len(args) <= SMALL_COUNT_MAX else None


def small_arguments(head: Buffer) -> tuple[Any, ...] | None:
    """Return the arguments of a `small_call`; None where `load_call` has to look."""
    args: tuple[Any, ...] | None = unpack_scalars(head, _BARE_SMALL_CALL)
    return args


def pack_array_call(array: np.ndarray[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packed:
    """Pack a call whose first argument is an array, borrowed where it is large.

    Arrays that need pickle (other subclasses than memmap, dtypes with objects or metadata) go as any argument does.

    Raises
    ------
    ArgumentTypeError
        An argument cannot be pickled.
    """
    if not is_plain_array(array):
        return pack_call((array, *args), kwargs)
    segments: Segments = []
    refs: list[Ref] = []
    header = put_array(array, segments)
    rest = _dump_arguments((args, dict(kwargs)), segments, refs) if args or kwargs else b""
    return seal(ARRAY_CALL, header + rest, segments, refs)


def pack_calls(columns: Sequence[list[Any]]) -> Packed:
    """Pack a batch of calls in one pickle: the first arguments of all of them, the second ones, ...

    Raises
    ------
    ArgumentTypeError
        An argument cannot be pickled.
    """
    if all(map(are_scalars, columns)):
        # Nothing here needs cloudpickle, and the pickler in C alone takes a tenth of the time.
        return seal(CALLS, pickle.dumps(list(columns), PROTOCOL), [])
    segments: Segments = []
    refs: list[Ref] = []
    return seal(CALLS, _dump_arguments(list(columns), segments, refs), segments, refs)


def are_scalars(values: Sequence[Any]) -> bool:
    """Whether there is nothing among them that can change, or needs a closer look."""
    return _SCALARS.issuperset(map(type, values))


def load_call(head: Buffer, body: Buffer | None = None) -> Call:
    """Return the call of a payload. Arrays of the body are writable views into it, those of the head copies.

    Raises
    ------
    LoadError
        It cannot be loaded here; the text says why.
    """
    try:
        tag, text, segments = unseal(head, None if body is None else memoryview(body))
        if tag == CALL:
            args, kwargs = pickle.loads(text, buffers=segments)
            return Call(args, kwargs)
        if tag == SMALL_CALL:
            return Call(decode(text, segments), {})
        if tag == CALLS:
            return Call((), {}, pickle.loads(text, buffers=segments))
        if tag == ARRAY_CALL:
            spec, end = get_array(text, 0)
            array = spec.view(segments[spec.segment])
            args, kwargs = pickle.loads(text[end:], buffers=segments[1:]) if end < len(text) else ((), {})
            return Call((array, *args), kwargs)
    except Exception as error:
        raise LoadError(f"the arguments cannot be loaded: {type(error).__name__}: {error}") from error
    raise LoadError(f"a payload of kind {tag} is no call")


def _dump_arrays(call: tuple[tuple[Any, ...], dict[str, Any]], segments: Segments) -> bytes | None:
    """Pickle scalars and ordinary arrays in C alone; None where cloudpickle has to look."""
    arrays = [value for value in (*call[0], *call[1].values()) if type(value) not in _SCALARS]
    for array in arrays:
        # Pickle itself would copy a strided array at once, and bring a read-only one back as such.
        if type(array) is not np.ndarray or not (array.flags.forc and array.flags.writeable) or array.dtype.hasobject:
            return None
    try:
        return pickle.dumps(call, PROTOCOL, buffer_callback=lambda buffer: segments.append(buffer.raw()))
    except Exception:
        # A dtype that the buffer protocol does not know.
        segments.clear()
        return None


def _dump_arguments(value: Any, segments: Segments, refs: list[Ref]) -> bytes:
    try:
        return dump(value, segments, refs=refs)
    except Exception as error:
        raise ArgumentTypeError(f"the arguments cannot be pickled: {error}") from error


# -- shared values -------------------------------------------------------------------------------------------


def pack_value(value: Any) -> Packed:
    """Pack what many tasks will use. Large arrays are borrowed, not copied.

    Raises
    ------
    ArgumentTypeError
        It cannot be pickled.
    """
    segments: Segments = []
    if is_plain_array(value):
        return seal(ARRAY, put_array(value, segments), segments)
    refs: list[Ref] = []
    try:
        text = dump(value, segments, refs=refs)
    except Exception as error:
        raise ArgumentTypeError(f"the value cannot be pickled: {error}") from error
    return seal(VALUE, text, segments, refs)


def load_value(head: Buffer, body: Buffer | None, *, writable: bool = False) -> Any:
    """Return a shared value: its arrays are read-only views of the body or, if `writable`, of a copy.

    Raises
    ------
    LoadError
        It cannot be loaded here; the text says why.
    """
    try:
        view = memoryview(b"" if body is None else body)
        if writable and view:
            own = memory(np.empty(len(view), np.uint8), writable=True)
            own[:] = view
            view = own
        tag, text, segments = unseal(head, view)
        if not writable:
            segments = [segment.toreadonly() for segment in segments]
        if tag == ARRAY:
            return get_array(text, 0)[0].view(segments[0])
        if tag == VALUE:
            return pickle.loads(text, buffers=segments)
    except Exception as error:
        raise LoadError(f"the put value cannot be loaded: {type(error).__name__}: {error}") from error
    raise LoadError(f"a payload of kind {tag} is no value")


# -- answers -------------------------------------------------------------------------------------------------


def small_answer(value: Any) -> bytes | None:
    """Return the head of an answer that is a scalar, as `pack_answer` makes it; None for any other."""
    return pack_scalar(value, _BARE_PLAIN)


def small_answers(heads: Buffer, sizes: Column, other: Any) -> list[Any]:
    """Return the answers of a run of heads; `other` in the place of what `unpack_answer` has to look at."""
    return unpack_scalar_run(heads, sizes, _BARE_PLAIN, other)


def pack_answer(value: Any) -> Packed:
    """Pack what a function returned (or `Call.run` did); large arrays are borrowed.

    Raises
    ------
    ResultError
        It cannot be pickled.
    """
    head = small_answer(value)
    if head is not None:
        return Packed(head)
    segments: Segments = []
    if type(value) is Outcomes:
        return seal(MANY, value.text(), value.segments)
    if is_plain_array(value):
        return seal(ARRAY, put_array(value, segments), segments)
    try:
        return seal(PLAIN, encode(value, segments), segments)
    except NotPlainError:
        pass
    try:
        text = dump(value, segments, own=False)
    except Exception as error:
        raise ResultError(_unpicklable(value, error)) from error
    return seal(PICKLE, text, segments)


def unpack_answer(head: Buffer, *, trust: bool = True) -> Any:
    """Return the answer of a payload without a body; of a batch, a list with a `Failed` where a call has none.

    Raises
    ------
    UntrustedError
        It is pickled and `trust` is false.
    FrameError
        It cannot be read.
    """
    if head[:2] == _BARE_PLAIN:
        return decode(memoryview(head)[2:], ())
    return landing(head, 0, trust=trust).finish()


def landing(head: Buffer, body_bytes: int, *, out: np.ndarray[Any, Any] | None = None, trust: bool = True) -> Landing:
    """Make the place for an answer's body.

    A lone array is received straight into its own new memory, or into `out` where shape, dtype and order are the
    same; an `out` of another layout is written once, by `finish`. Every other answer is received into one
    buffer that its arrays are views of.

    Raises
    ------
    UntrustedError
        The answer is pickled and `trust` is false.
    ArgumentValueError
        `out` does not fit the answer; the text names both.
    FrameError
        The head cannot be read, or says another size than `body_bytes`.
    """
    tag, place = tag_of(head)
    if tag == PICKLE and not trust:
        raise UntrustedError(_UNTRUSTED)
    if tag == ARRAY and place == BODY:
        sizes, text = read_meta(memoryview(head)[2:])
        spec, end = get_array(text, 0)
        if len(sizes) != 1 or not sizes[0] == spec.nbytes == body_bytes or spec.segment or end != len(text):
            raise FrameError(f"an array of {spec.nbytes} bytes in a body of {body_bytes}")
        return _array_landing(spec, out)
    store = memory(np.empty(body_bytes, np.uint8), writable=True) if body_bytes else memoryview(bytearray())
    return Landing(store, lambda: _settle(_answer(head, store, trust), out))


def answer_spec(head: Buffer) -> Spec | None:
    """Return dtype, shape and order of an answer that is a lone array; None where it is something else."""
    tag, place = tag_of(head)
    if tag != ARRAY or place not in (INLINE, BODY):
        return None
    _, text = read_meta(memoryview(head)[2 if place == BODY else 6 :])
    return get_array(text, 0)[0]


def pack_failure(error: BaseException) -> Packed:
    """Pack what a function raised (status RAISED); always a head alone, and never raises."""
    return Packed(bytes([FAILURE, BARE]) + encode_failure(error))


def unpack_failure(status: Status, head: Buffer) -> BaseException:
    """Return the exception that a future raises for a task that did not return; never raises."""
    if status != Status.RAISED:
        return text_failure(status, bytes(head).decode("utf-8", "replace"))
    try:
        tag, text, _ = unseal(head, None)
        if tag != FAILURE:
            raise FrameError(f"a payload of kind {tag} is no failure")
    except FrameError as error:
        return error
    return decode_failure(text)


def _array_landing(spec: Spec, out: np.ndarray[Any, Any] | None) -> Landing:
    if out is None or not spec.matches(out):
        if out is not None:
            _check_fit(out, spec.shape, spec.dtype)
        target = np.empty(spec.shape, spec.dtype, spec.order)
        # The one copy of this road: an `out` whose memory is laid out differently.
        return Landing(_writable(target), lambda: _settle(target, out))
    return Landing(_writable(out), lambda: out)


def _writable(array: np.ndarray[Any, Any]) -> memoryview:
    if not array.nbytes:
        return memoryview(bytearray())
    return memory(array if array.flags.c_contiguous else array.T, writable=True)


def _settle(value: Any, out: np.ndarray[Any, Any] | None) -> Any:
    if out is None:
        return value
    if not isinstance(value, np.ndarray):
        raise ArgumentValueError(f"`out` needs an array, and the function returned {type(value).__name__}")
    _check_fit(out, value.shape, value.dtype)
    copy_items(out, value)
    return out


def _check_fit(out: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ArgumentValueError(
            f"`out` is {out.dtype} of shape {out.shape}, and the answer is {dtype} of shape {shape}"
        )


def _answer(head: Buffer, body: memoryview, trust: bool) -> Any:
    tag, text, segments = unseal(head, body)
    if tag == PLAIN:
        return decode(text, segments)
    if tag == ARRAY:
        spec, end = get_array(text, 0)
        if len(segments) != 1 or spec.segment or end != len(text) or spec.nbytes != len(segments[0]):
            raise FrameError(f"an array of {spec.nbytes} bytes in another payload")
        return spec.view(segments[0])
    if tag == MANY:
        return _outcomes(text, segments, trust)
    if tag == PICKLE:
        return load_answer(text, segments)
    raise FrameError(f"a payload of kind {tag} is no answer")


def _outcomes(text: memoryview, segments: list[memoryview], trust: bool) -> list[Any]:
    try:
        (count,) = _U32.unpack_from(text)
        position, first = 4, 0
        outcomes: list[Any] = []
        for _ in range(count):
            kind, size = _OUTCOME.unpack_from(text, position)
            (used,) = _U32.unpack_from(text, position + _OUTCOME.size)
            position += _OUTCOME.size + 4
            if position + size > len(text) or first + used > len(segments):
                raise FrameError("a batch of answers that is cut off")
            piece, own = text[position : position + size], segments[first : first + used]
            if kind == _RUN:
                outcomes += _run(piece, own)
            else:
                outcomes.append(_outcome(kind, piece, own, trust))
            position, first = position + size, first + used
    except struct.error:
        raise FrameError("a batch of answers that is cut off") from None
    if position != len(text) or first != len(segments):
        raise FrameError("a batch of answers with bytes too many")
    return outcomes


def _run(text: memoryview, segments: list[memoryview]) -> list[Any]:
    found = unpack_scalars(text, b"") if not segments else None
    values = decode(text, segments) if found is None else found
    if type(values) is not list:
        raise FrameError("a run of answers that is no list")
    return values


def _outcome(kind: int, text: memoryview, segments: list[memoryview], trust: bool) -> Any:
    if kind == _PLAIN:
        return decode(text, segments)
    if kind == _RAISED:
        return Failed(decode_failure(text))
    if kind == _UNSENDABLE:
        return Failed(ResultError(bytes(text).decode("utf-8", "replace")))
    if kind != _PICKLED:
        raise FrameError(f"an outcome of kind {kind}")
    if not trust:
        return Failed(UntrustedError(_UNTRUSTED))
    try:
        return load_answer(text, segments)
    except Exception as error:
        return Failed(error)


def _unpicklable(value: Any, error: Exception) -> str:
    return f"the function returned {type(value).__name__}, which cannot be pickled: {error}"
