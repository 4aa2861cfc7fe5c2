# Records to frames and back: columns, fields, and the codec that walks a row of `codec.py`'s table.
# Part of `_framing.pyx`, which includes it.

from cpython.array cimport array as Array
from cpython.array cimport clone
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from starcore import messages
from starcore.errors import FrameError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    Py_ssize_t Py_SIZE(object items)

cdef enum:
    _FIELDS_MAX = 24

cdef uint64_t _TEXT_MAX = messages.TEXT_BYTES_MAX
cdef uint64_t _ROWS_MAX = messages.BATCH_TASKS_MAX
cdef uint64_t _LEASE_END = messages.BLOB_STREAM
cdef uint64_t _INDEX_END = 1 << 32
cdef uint64_t _ANY = <uint64_t>-1

cdef Array _U32 = Array("I")
cdef Array _U64 = Array("Q")
cdef Array _F64 = Array("d")


# -- columns -------------------------------------------------------------------------------------------------

def index_range(uint64_t first, uint64_t count):
    """Return first, first + 1, ... as a u32 column of `count` items."""
    if first + count > _INDEX_END or first + count < first:
        raise ValueError(f"the indices {first} to {first} + {count} do not fit 32 bits")
    cdef Array column = clone(_U32, count, False)
    cdef uint32_t *items = <uint32_t *>column.data.as_uints
    cdef uint64_t at
    for at in range(count):
        items[at] = <uint32_t>(first + at)
    return column


cdef struct Run:
    uint64_t count   # of the column at hand
    uint64_t sum
    int64_t rows     # of the run: -1 not known yet, -2 columns of different lengths
    uint64_t bodies
    uint64_t heads
    uint64_t first
    uint64_t lease


cdef inline Array template(char typecode):
    return _U32 if typecode == b"I" else _U64 if typecode == b"Q" else _F64


cdef inline Py_ssize_t item_bytes(char typecode) noexcept:
    return 1 if typecode == b"B" else 4 if typecode == b"I" else 8


cdef bint within(char typecode, const void *items, Py_ssize_t count, uint64_t bound) noexcept:
    """Whether each of the (aligned) items is at most `bound` or, as a float, finite and not negative."""
    cdef Py_ssize_t at
    cdef double number
    if typecode == b"d":
        for at in range(count):
            number = (<const double *>items)[at]
            if not isfinite(number) or number < 0:
                return False
    elif bound == _ANY:
        return True
    elif typecode == b"Q":
        for at in range(count):
            if (<const uint64_t *>items)[at] > bound:
                return False
    elif typecode == b"I":
        for at in range(count):
            if (<const uint32_t *>items)[at] > bound:
                return False
    else:
        for at in range(count):
            if (<const uint8_t *>items)[at] > bound:
                return False
    return True


cdef uint64_t sum_u32(const void *items, Py_ssize_t count) noexcept:
    cdef uint64_t total = 0
    cdef Py_ssize_t at
    for at in range(count):
        total += (<const uint32_t *>items)[at]
    return total


# -- writing meta --------------------------------------------------------------------------------------------

cdef struct Sink:
    unsigned char *data
    size_t size
    size_t room
    bint owned


cdef unsigned char *put(Sink *sink, size_t size) except NULL:
    """Return where the next `size` bytes go; `sink.data` begins as the caller's own memory and may move."""
    cdef size_t needed = sink.size + size
    cdef size_t room
    cdef unsigned char *data
    if needed > sink.room:
        room = max(2 * sink.room, needed)
        data = <unsigned char *>PyMem_Realloc(sink.data if sink.owned else NULL, room)
        if data == NULL:
            raise MemoryError
        if not sink.owned:
            memcpy(data, sink.data, sink.size)
        sink.data, sink.room, sink.owned = data, room, True
    sink.size = needed
    return sink.data + needed - size


cdef int put_bytes(Sink *sink, const void *items, size_t size) except -1:
    memcpy(put(sink, size), items, size)
    return 0


cdef int put_sized(Sink *sink, const void *items, size_t size, uint32_t count) except -1:
    memcpy(put(sink, 4), &count, 4)
    memcpy(put(sink, size), items, size)
    return 0


cdef int put_f64(Sink *sink, double number) except -1:
    if not isfinite(number) or number < 0:
        raise ValueError(f"{number} is not finite and positive")
    return put_bytes(sink, &number, 8)


cdef int put_text(Sink *sink, object text, uint64_t bound) except -1:
    cdef Py_ssize_t size
    cdef const char *items = PyUnicode_AsUTF8AndSize(text, &size)
    if <uint64_t>size > bound:
        raise ValueError(f"a text of {size} bytes, where {bound} are allowed")
    return put_sized(sink, items, size, size)


cdef int put_texts(Sink *sink, object texts) except -1:
    cdef uint32_t count = len(texts)
    if count > _ROWS_MAX:
        raise ValueError(f"{count} texts, where {_ROWS_MAX} are allowed")
    put_bytes(sink, &count, 4)
    for text in texts:
        put_text(sink, text, _TEXT_MAX)
    return 0


cdef int put_fixed(Sink *sink, object octets, Py_ssize_t size) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(octets, &view, PyBUF_SIMPLE)
    try:
        if view.len != size:
            raise ValueError(f"{view.len} bytes, where {size} are needed")
        return put_bytes(sink, view.buf, size)
    finally:
        PyBuffer_Release(&view)


cdef int put_items(Sink *sink, char typecode, const void *items, Py_ssize_t count, uint64_t bound, Run *run) except -1:
    if <uint64_t>count > _ROWS_MAX:
        raise ValueError(f"a column of {count}, where {_ROWS_MAX} are allowed")
    if not within(typecode, items, count, bound):
        raise ValueError("an item of a column is out of bounds")
    put_sized(sink, items, count * item_bytes(typecode), count)
    run.count, run.sum = count, sum_u32(items, count) if typecode == b"I" else 0
    return 0


cdef int put_column(Sink *sink, char typecode, object column, uint64_t bound, Run *run) except -1:
    """Write a column: an array of that type code or, for u8, any buffer. `run` learns its length and sum."""
    cdef Py_buffer view
    if typecode == b"B":
        PyObject_GetBuffer(column, &view, PyBUF_SIMPLE)
        try:
            return put_items(sink, typecode, view.buf, view.len, bound, run)
        finally:
            PyBuffer_Release(&view)
    if not isinstance(column, Array) or (<Array>column).ob_descr.typecode != typecode:
        raise TypeError(f"a column of type {chr(typecode)!r} is needed, not {column!r:.80}")
    return put_items(sink, typecode, (<Array>column).data.as_voidptr, Py_SIZE(column), bound, run)


cdef bytes put_frame(Sink *sink, uint8_t kind, object payload):
    """Return the whole frame; the sink holds room for the header and the meta."""
    cdef Py_buffer view
    cdef bytes frame
    cdef unsigned char *to
    cdef size_t meta = sink.size - _HEADER
    if meta > _META_MAX:
        raise ValueError(f"a meta of {meta} bytes, where {_META_MAX} are allowed")
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        if <uint64_t>view.len > _PAYLOAD_MAX:
            raise ValueError(f"a payload of {view.len} bytes, where {_PAYLOAD_MAX} are allowed")
        frame = PyBytes_FromStringAndSize(NULL, sink.size + view.len)
        to = <unsigned char *>PyBytes_AS_STRING(frame)
        memcpy(to, sink.data, sink.size)
        memcpy(to + sink.size, view.buf, view.len)
        put_header(to, kind, meta, view.len)
    finally:
        PyBuffer_Release(&view)
    return frame


# -- reading meta --------------------------------------------------------------------------------------------

cdef struct Cursor:
    const unsigned char *at
    const unsigned char *end


cdef inline void open_cursor(Cursor *cursor, Py_buffer *view) noexcept:
    cursor.at = <const unsigned char *>view.buf if view.len else _nothing
    cursor.end = cursor.at + view.len


cdef inline const unsigned char *take(Cursor *cursor, size_t size) except NULL:
    cdef const unsigned char *at = cursor.at
    if <size_t>(cursor.end - at) < size:
        raise FrameError("a message ends in the middle of a field")
    cursor.at = at + size
    return at


cdef inline int take_bytes(Cursor *cursor, void *to, size_t size) except -1:
    memcpy(to, take(cursor, size), size)
    return 0


cdef inline uint32_t take_u32(Cursor *cursor) except? 0xFFFFFFFF:
    cdef uint32_t number
    take_bytes(cursor, &number, 4)
    return number


cdef double take_f64(Cursor *cursor) except -1:
    cdef double number
    take_bytes(cursor, &number, 8)
    if not isfinite(number) or number < 0:
        raise FrameError(f"{number} is not finite and positive")
    return number


cdef str take_text(Cursor *cursor, uint64_t bound):
    cdef uint32_t size = take_u32(cursor)
    if size > bound:
        raise FrameError(f"a text of {size} bytes, where {bound} are allowed")
    cdef const unsigned char *items = take(cursor, size)
    try:
        return PyUnicode_DecodeUTF8(<const char *>items, size, "strict")
    except UnicodeDecodeError as fault:
        raise FrameError(f"a text is not UTF-8: {fault.reason}") from None


cdef list take_texts(Cursor *cursor):
    cdef uint32_t count = take_u32(cursor)
    if count > _ROWS_MAX:
        raise FrameError(f"{count} texts, where {_ROWS_MAX} are allowed")
    return [take_text(cursor, _TEXT_MAX) for _ in range(count)]


cdef bytes take_fixed(Cursor *cursor, size_t size):
    return PyBytes_FromStringAndSize(<const char *>take(cursor, size), size)


cdef object take_column(Cursor *cursor, char typecode, uint64_t bound, Run *run):
    """Read a column into an array of its own (u8: into bytes). `run` learns its length and sum."""
    cdef uint32_t count = take_u32(cursor)
    cdef Array column
    if count > _ROWS_MAX:
        raise FrameError(f"a column of {count}, where {_ROWS_MAX} are allowed")
    cdef size_t size = count * item_bytes(typecode)
    cdef const unsigned char *items = take(cursor, size)
    run.count, run.sum = count, 0
    if typecode == b"B":
        if not within(typecode, items, count, bound):
            raise FrameError("an item of a column is out of bounds")
        return PyBytes_FromStringAndSize(<const char *>items, size)
    column = clone(template(typecode), count, False)
    memcpy(column.data.as_voidptr, items, size)
    if not within(typecode, column.data.as_voidptr, count, bound):
        raise FrameError("an item of a column is out of bounds")
    if typecode == b"I":
        run.sum = sum_u32(column.data.as_voidptr, count)
    return column


cdef int take_end(Cursor *cursor) except -1:
    if cursor.at != cursor.end:
        raise FrameError(f"{cursor.end - cursor.at} bytes too many in a message")
    return 0


# -- records -------------------------------------------------------------------------------------------------

cdef enum:
    _OP_U16
    _OP_U32
    _OP_I32
    _OP_U64
    _OP_F64
    _OP_FLAG
    _OP_ENUM
    _OP_FIXED
    _OP_TEXT
    _OP_TEXTS
    _OP_FIRST
    _OP_LEASE
    _OP_COLUMN
    _OP_HEADS
    _OP_BODIES

_SHAPES = {
    "u16": (_OP_U16, ""),
    "u32": (_OP_U32, ""),
    "i32": (_OP_I32, ""),
    "u64": (_OP_U64, ""),
    "f64": (_OP_F64, ""),
    "flag": (_OP_FLAG, ""),
    "enum": (_OP_ENUM, ""),
    "fixed": (_OP_FIXED, ""),
    "text": (_OP_TEXT, ""),
    "texts": (_OP_TEXTS, ""),
    "first": (_OP_FIRST, ""),
    "lease": (_OP_LEASE, ""),
    "u8[]": (_OP_COLUMN, "B"),
    "u32[]": (_OP_COLUMN, "I"),
    "u64[]": (_OP_COLUMN, "Q"),
    "f64[]": (_OP_COLUMN, "d"),
    "heads[]": (_OP_HEADS, "I"),
    "bodies[]": (_OP_BODIES, "Q"),
}

cdef struct Field:
    int op
    char typecode
    uint64_t bound

cdef inline void note_column(Run *run, int op) noexcept:
    if op == _OP_BODIES:
        run.bodies = run.count
        return
    if op == _OP_HEADS:
        run.heads = run.sum
    run.rows = <int64_t>run.count if run.rows in (-1, <int64_t>run.count) else -2


cdef str run_fault(Run *run, uint64_t payload):
    """Say what is wrong with the columns of a run of tasks, or None."""
    if run.rows == -2 or run.bodies and run.bodies != <uint64_t>run.rows:
        return "columns of different lengths in one run"
    if run.rows < 1:
        return "a run of no tasks"
    if run.heads != payload:
        return f"heads of {run.heads} bytes in a payload of {payload}"
    if run.first + <uint64_t>run.rows > _INDEX_END:
        return f"tasks beyond index {_INDEX_END - 1}"
    if run.lease > _LEASE_END - <uint64_t>run.rows:
        return f"leases beyond {_LEASE_END - 1}"
    return None


cdef class RecordCodec:
    """One record class and its frames: a row of `codec.py`'s table, compiled.

    Parameters
    ----------
    kind : int
        The frame kind.
    record : type
        Called with the fields' values in order and, if there is one, the payload.
    fields : sequence of (name, shape, bound)
        `shape` is a key of `_SHAPES`. `bound` is the largest number, item or text allowed (None: any), the size
        of a "fixed", or the members of an "enum", by value.
    payload : str, optional
        The field that travels as the frame's payload.
    payload_max : int
        Its largest size in bytes.
    open_ended : bool
        Ignore what follows the last field (a later version's fields).

    A record with a "heads[]" column is a run: its columns have one length (that of "bodies[]" may be 0), and the
    heads add up to the payload.
    """

    cdef uint8_t kind
    cdef object record
    cdef tuple names
    cdef tuple members
    cdef str payload
    cdef uint64_t payload_max
    cdef bint open_ended
    cdef bint run
    cdef int count
    cdef Field fields[_FIELDS_MAX]

    def __init__(self, uint8_t kind, record, fields, str payload=None, *, payload_max=None, open_ended=False):
        self.kind, self.record, self.payload, self.open_ended = kind, record, payload, open_ended
        self.payload_max = _PAYLOAD_MAX if payload_max is None else payload_max
        self.count = len(fields)
        if self.count > _FIELDS_MAX:
            raise ValueError(f"{record} has more than {_FIELDS_MAX} fields")
        self.names = tuple(name for name, _, _ in fields)
        self.members = tuple(bound if shape == "enum" else None for _, shape, bound in fields)
        for at, (_, shape, bound) in enumerate(fields):
            op, typecode = _SHAPES[shape]
            self.fields[at].op = op
            self.fields[at].typecode = ord(typecode or " ")
            self.fields[at].bound = len(bound) - 1 if shape == "enum" else _ANY if bound is None else bound
            self.run = self.run or op == _OP_HEADS

    def encode(self, message):
        """Return the record's whole frame; what no peer would accept raises ValueError, Overflow- or TypeError."""
        cdef unsigned char room[512]
        cdef Sink sink
        cdef Run run
        cdef int at
        cdef object payload = b""
        sink.data, sink.size, sink.room, sink.owned = room, _HEADER, 512, False
        run.rows, run.bodies, run.heads, run.first, run.lease = -1, 0, 0, 0, 0
        try:
            for at in range(self.count):
                self.put_field(&sink, at, getattr(message, <str>self.names[at]), &run)
            if self.payload is not None:
                payload = getattr(message, self.payload)
            frame = put_frame(&sink, self.kind, payload)
            size = len(frame) - sink.size
        finally:
            if sink.owned:
                PyMem_Free(sink.data)
        fault = self.fault(&run, size)
        if fault is not None:
            raise ValueError(f"{self.record.__name__}: {fault}")
        return frame

    def decode(self, meta, payload):
        """Return the record, a copy of all it keeps; what breaks the rules raises FrameError."""
        cdef Py_buffer view
        cdef Cursor cursor
        cdef Run run
        cdef int at
        cdef Py_ssize_t size = len(payload)
        cdef int count = self.count
        cdef tuple values = PyTuple_New(count + (self.payload is not None))
        run.rows, run.bodies, run.heads, run.first, run.lease = -1, 0, 0, 0, 0
        PyObject_GetBuffer(meta, &view, PyBUF_SIMPLE)
        try:
            open_cursor(&cursor, &view)
            for at in range(count):
                value = self.take_field(&cursor, at, &run)
                Py_INCREF(value)
                PyTuple_SET_ITEM(values, at, value)
            if not self.open_ended:
                take_end(&cursor)
        finally:
            PyBuffer_Release(&view)
        fault = self.fault(&run, size)
        if fault is not None:
            raise FrameError(f"{self.record.__name__}: {fault}")
        if self.payload is not None:
            value = bytes(payload)
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, count, value)
        return self.record(*values)

    cdef str fault(self, Run *run, uint64_t payload):
        if self.payload is None:
            return f"a payload of {payload} bytes, where there is none" if payload and not self.open_ended else None
        if payload > self.payload_max:
            return f"a payload of {payload} bytes, where {self.payload_max} are allowed"
        return run_fault(run, payload) if self.run else None

    cdef int put_field(self, Sink *sink, int at, object value, Run *run) except -1:
        cdef Field *field = &self.fields[at]
        cdef int op = field.op
        cdef uint64_t number
        cdef int32_t signed
        if op >= _OP_COLUMN:
            put_column(sink, field.typecode, value, field.bound, run)
            note_column(run, op)
            return 0
        if op == _OP_TEXT:
            return put_text(sink, value, field.bound)
        if op == _OP_TEXTS:
            return put_texts(sink, value)
        if op == _OP_FIXED:
            return put_fixed(sink, value, field.bound)
        if op == _OP_F64:
            return put_f64(sink, value)
        if op == _OP_I32:
            signed = value
            return put_bytes(sink, &signed, 4)
        number = value
        if number > field.bound or number > widest(op):
            raise OverflowError(f"{self.names[at]} {number} is too large")
        if op == _OP_FIRST:
            run.first = number
        elif op == _OP_LEASE:
            run.lease = number
        return put_bytes(sink, &number, width(op))

    cdef object take_field(self, Cursor *cursor, int at, Run *run):
        cdef Field *field = &self.fields[at]
        cdef int op = field.op
        cdef uint64_t number = 0
        if op >= _OP_COLUMN:
            column = take_column(cursor, field.typecode, field.bound, run)
            note_column(run, op)
            return column
        if op == _OP_TEXT:
            return take_text(cursor, field.bound)
        if op == _OP_TEXTS:
            return take_texts(cursor)
        if op == _OP_FIXED:
            return take_fixed(cursor, field.bound)
        if op == _OP_F64:
            return take_f64(cursor)
        if op == _OP_I32:
            return <int32_t>take_u32(cursor)
        take_bytes(cursor, &number, width(op))
        if number > field.bound or number > widest(op):
            raise FrameError(f"{self.record.__name__}: {self.names[at]} cannot be {number}")
        if op == _OP_FLAG:
            return number == 1
        if op == _OP_ENUM:
            return (<tuple>self.members[at])[<Py_ssize_t>number]
        if op == _OP_FIRST:
            run.first = number
        elif op == _OP_LEASE:
            run.lease = number
        return number


cdef inline size_t width(int op) noexcept:
    """How many bytes a whole number takes."""
    return 1 if op in (_OP_FLAG, _OP_ENUM) else 2 if op == _OP_U16 else 8 if op in (_OP_U64, _OP_LEASE) else 4


cdef inline uint64_t widest(int op) noexcept:
    return 1 if op == _OP_FLAG else _ANY >> (64 - 8 * width(op))
