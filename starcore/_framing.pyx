"""Frames on the wire, and memory without a copy: the one compiled unit.

It is the only parser and writer of frame headers and batch tables in the package (the slow reference lives in
`tests/reference_framing.py`), and the one place where an array's memory is handed over. It knows bytes, lengths
and limits; what a message means is the business of the cores, which field has which type that of `codec.py`.

::

    records ──▶ RecordCodec.encode ──▶ one bytes object: header, meta, payload ──▶ the connection
    the connection ──▶ FrameReader.get_buffer / advance ──┬─▶ deliver(kind, meta, payload) ──▶ RecordCodec.decode
                                                          └─▶ destination(...) memory ──▶ arrived(...)

`FrameReader` keeps one invariant: `scratch[start:end]` holds the bytes that came in and were not parsed yet, and
while a chunk's data is outstanding (`remaining`) it is empty, because those bytes go to the destination itself.

A frame is a header of 16 bytes (u16 magic, u8 kind, u8 flags, u32 meta bytes, u64 payload bytes), its meta and
its payload; all numbers are little-endian, and so must be the machine.
"""

import sys

from cpython.array cimport array as Array
from cpython.array cimport clone
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from starcore import messages
from starcore.errors import FrameError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    Py_ssize_t Py_SIZE(object items)

cdef extern from *:
    """
    #include <errno.h>
    #ifdef _WIN32
    static void *starcore_map(int fd, size_t size, int writable) { errno = ENOSYS; return NULL; }
    static void starcore_unmap(void *at, size_t size) {}
    #else
    #include <sys/mman.h>
    static void *starcore_map(int fd, size_t size, int writable) {
        void *at = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
        return at == MAP_FAILED ? NULL : at;
    }
    static void starcore_unmap(void *at, size_t size) { munmap(at, size); }
    #endif
    """
    void *starcore_map(int fd, size_t size, int writable)
    void starcore_unmap(void *at, size_t size)

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object cls)

if sys.byteorder != "little":
    raise ImportError("starcore needs a little-endian machine")

HEADER_BYTES = 16
CHUNK_META_BYTES = 24
CHUNK_KIND = 5

cdef enum:
    _HEADER = 16
    _CHUNK_META = 24
    _CHUNK = 5
    _FIELDS_MAX = 24

cdef uint16_t _MAGIC = messages.FRAME_MAGIC
cdef uint8_t _KIND_MAX = messages.KIND_MAX
cdef uint64_t _META_MAX = messages.FRAME_META_BYTES_MAX
cdef uint64_t _PAYLOAD_MAX = messages.FRAME_PAYLOAD_BYTES_MAX
cdef uint64_t _GREETING_MAX = messages.GREETING_BYTES_MAX
cdef uint64_t _CHUNK_MAX = messages.CHUNK_BYTES_MAX
cdef uint64_t _BODY_MAX = messages.BODY_BYTES_MAX
cdef uint64_t _TEXT_MAX = messages.TEXT_BYTES_MAX
cdef uint64_t _ROWS_MAX = messages.BATCH_TASKS_MAX
cdef uint64_t _LEASE_END = messages.BLOB_STREAM
cdef uint64_t _INDEX_END = 1 << 32
cdef uint64_t _ANY = <uint64_t>-1

cdef Array _U8 = Array("B")
cdef Array _U32 = Array("I")
cdef Array _U64 = Array("Q")
cdef Array _F64 = Array("d")

cdef unsigned char _nothing[1]


# -- headers -------------------------------------------------------------------------------------------------

cdef struct Header:
    uint16_t magic
    uint8_t kind
    uint8_t flags
    uint32_t meta
    uint64_t payload


cdef inline void put_header(unsigned char *to, uint8_t kind, uint32_t meta, uint64_t payload) noexcept:
    cdef Header header
    header.magic, header.kind, header.flags, header.meta, header.payload = _MAGIC, kind, 0, meta, payload
    memcpy(to, &header, _HEADER)


cdef int check_header(Header *header, bint greeting) except -1:
    """Hold a header against every limit, before anything is done or allocated on its word."""
    if header.magic != _MAGIC:
        raise FrameError(f"a frame begins with {header.magic:#06x}: the peer does not speak starcore")
    if header.flags:
        raise FrameError(f"flags {header.flags:#04x} in a frame's header")
    if not 1 <= header.kind <= _KIND_MAX:
        raise FrameError(f"{header.kind} is no kind of frame")
    if header.meta > _META_MAX:
        raise FrameError(f"a frame's meta of {header.meta} bytes, where {_META_MAX} are allowed")
    if header.payload > _PAYLOAD_MAX:
        raise FrameError(f"a frame's payload of {header.payload} bytes, where {_PAYLOAD_MAX} are allowed")
    if header.kind == _CHUNK:
        if greeting:
            raise FrameError("a chunk before the greeting")
        if header.meta != _CHUNK_META:
            raise FrameError(f"a chunk's meta of {header.meta} bytes")
        if not 1 <= header.payload <= _CHUNK_MAX:
            raise FrameError(f"a chunk of {header.payload} bytes, where 1 to {_CHUNK_MAX} are allowed")
    elif greeting and _HEADER + header.meta + header.payload > _GREETING_MAX:
        raise FrameError(f"a greeting of more than {_GREETING_MAX} bytes")
    return 0


def frame_header(uint8_t kind, uint32_t meta_bytes, uint64_t payload_bytes):
    """Return the 16 bytes that begin a frame."""
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, _HEADER)
    put_header(<unsigned char *>PyBytes_AS_STRING(frame), kind, meta_bytes, payload_bytes)
    return frame


def chunk_header(uint64_t stream, uint32_t attempt, uint64_t offset, uint64_t length):
    """Return the 40 bytes that stand before a chunk's data."""
    if not 1 <= length <= _CHUNK_MAX:
        raise ValueError(f"a chunk of {length} bytes, where 1 to {_CHUNK_MAX} are allowed")
    if offset > _BODY_MAX - length:
        raise ValueError(f"a chunk beyond {_BODY_MAX} bytes")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, _HEADER + _CHUNK_META)
    cdef unsigned char *to = <unsigned char *>PyBytes_AS_STRING(frame)
    cdef uint32_t reserved = 0
    put_header(to, _CHUNK, _CHUNK_META, length)
    memcpy(to + 16, &stream, 8)
    memcpy(to + 24, &attempt, 4)
    memcpy(to + 28, &reserved, 4)
    memcpy(to + 32, &offset, 8)
    return frame


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


cdef Array template(char typecode):
    if typecode == b"I":
        return _U32
    if typecode == b"Q":
        return _U64
    if typecode == b"d":
        return _F64
    raise ValueError(f"{chr(typecode)!r} is no column's type code")


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


cdef int put_octets(Sink *sink, object octets, bint counted) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(octets, &view, PyBUF_SIMPLE)
    try:
        if <uint64_t>view.len > _META_MAX:
            raise ValueError(f"{view.len} bytes in a frame's meta")
        if counted:
            put_sized(sink, view.buf, view.len, view.len)
        else:
            put_bytes(sink, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return 0


cdef int put_fixed(Sink *sink, object octets, size_t size) except -1:
    cdef size_t before = sink.size
    put_octets(sink, octets, False)
    if sink.size - before != size:
        raise ValueError(f"{sink.size - before} bytes, where {size} are needed")
    return 0


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


cdef class MetaWriter:
    """The fields of one message, written one after the other.

    What it cannot write (a number too large, a text too long) raises OverflowError, ValueError or TypeError:
    that is the fault of the caller here, never of a peer.
    """

    cdef unsigned char room[256]
    cdef Sink sink

    def __cinit__(self):
        self.sink.data, self.sink.size, self.sink.room = self.room, _HEADER, 256

    def __dealloc__(self):
        if self.sink.owned:
            PyMem_Free(self.sink.data)

    def u8(self, uint8_t value):
        put_bytes(&self.sink, &value, 1)

    def u16(self, uint16_t value):
        put_bytes(&self.sink, &value, 2)

    def u32(self, uint32_t value):
        put_bytes(&self.sink, &value, 4)

    def i32(self, int32_t value):
        put_bytes(&self.sink, &value, 4)

    def u64(self, uint64_t value):
        put_bytes(&self.sink, &value, 8)

    def f64(self, double value):
        put_f64(&self.sink, value)

    def fixed(self, value, size_t size):
        put_fixed(&self.sink, value, size)

    def octets(self, value):
        put_octets(&self.sink, value, True)

    def text(self, str value not None):
        put_text(&self.sink, value, _TEXT_MAX)

    def texts(self, value):
        put_texts(&self.sink, value)

    def column(self, str typecode, value):
        cdef Run run
        put_column(&self.sink, type_char(typecode), value, _ANY, &run)

    def finish(self, uint8_t kind, payload=b""):
        """Return the whole frame: header, the meta written so far, payload."""
        return put_frame(&self.sink, kind, payload)


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


cdef inline uint64_t take_u64(Cursor *cursor) except? 0xFFFFFFFF:
    cdef uint64_t number
    take_bytes(cursor, &number, 8)
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


cdef class MetaReader:
    """The fields of one message, read one after the other; every fault is a FrameError."""

    cdef Py_buffer view
    cdef Cursor cursor

    def __cinit__(self, meta):
        PyObject_GetBuffer(meta, &self.view, PyBUF_SIMPLE)
        open_cursor(&self.cursor, &self.view)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def u8(self):
        return take(&self.cursor, 1)[0]

    def u16(self):
        cdef uint16_t number
        take_bytes(&self.cursor, &number, 2)
        return number

    def u32(self):
        return take_u32(&self.cursor)

    def i32(self):
        return <int32_t>take_u32(&self.cursor)

    def u64(self):
        return take_u64(&self.cursor)

    def f64(self):
        return take_f64(&self.cursor)

    def fixed(self, size_t size):
        return take_fixed(&self.cursor, size)

    def octets(self):
        return take_fixed(&self.cursor, take_u32(&self.cursor))

    def text(self):
        return take_text(&self.cursor, _TEXT_MAX)

    def texts(self):
        return take_texts(&self.cursor)

    def column(self, str typecode):
        cdef Run run
        return take_column(&self.cursor, type_char(typecode), _ANY, &run)

    def end(self):
        """Refuse bytes that no field has taken."""
        take_end(&self.cursor)


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

cdef char type_char(str typecode) except? -1:
    if len(typecode) != 1 or typecode not in "BIQd":
        raise ValueError(f"{typecode!r} is no column's type code")
    return <char>ord(typecode)


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


# -- memory --------------------------------------------------------------------------------------------------

cdef class Window:
    """Someone else's memory as plain bytes; keeps its owner alive, and its owner's buffer held, while it lives."""

    cdef Py_buffer held
    cdef bint holds
    cdef object owner
    cdef void *data
    cdef Py_ssize_t size
    cdef bint writable

    def __dealloc__(self):
        if self.holds:
            PyBuffer_Release(&self.held)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, not self.writable, flags)


cdef class Region:
    """Scratch memory; a view that outlives its use sees stale bytes, never freed ones."""

    cdef unsigned char *data
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.size = size
        self.data = <unsigned char *>PyMem_Malloc(size)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.data)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, False, flags)


cdef Window hold(object owner, bint writable):
    """Return the memory of a buffer exporter, in whatever order its items lie, as long as they lie without gaps."""
    cdef Window window = Window.__new__(Window)
    try:
        PyObject_GetBuffer(owner, &window.held, PyBUF_ANY_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0))
    except BufferError as fault:
        raise ValueError(str(fault)) from None
    window.holds, window.writable = True, writable
    window.data, window.size = window.held.buf if window.held.len else _nothing, window.held.len
    return window


cdef Window point(object owner, bint writable):
    """The same by numpy's array interface, for the types that refuse the buffer protocol (datetime64)."""
    cdef Window window = Window.__new__(Window)
    address, readonly = owner.__array_interface__["data"]
    if not (owner.flags.c_contiguous or owner.flags.f_contiguous):
        raise ValueError("the array is not contiguous")
    if writable and readonly:
        raise ValueError("the array is read-only")
    window.owner, window.writable = owner, writable
    window.data, window.size = <void *><size_t>address, owner.nbytes
    if not window.size:
        window.data = _nothing
    return window


def memory(array, *, bint writable=False):
    """Return the memory of an array, or of any buffer, as a flat view of bytes; nothing is copied.

    Parameters
    ----------
    array : buffer or ndarray
        Its items must lie without gaps, in C or Fortran order.
    writable : bool
        Ask for a view to write through; otherwise it is read-only.

    Raises
    ------
    ValueError
        The items do not lie without gaps, are Python objects, or may not be written to.
    TypeError
        Not a buffer at all.
    """
    if getattr(getattr(array, "dtype", None), "hasobject", False):
        raise ValueError(f"an array of type {array.dtype} holds Python objects")
    try:
        return memoryview(hold(array, writable))
    except ValueError:
        if not hasattr(array, "__array_interface__"):
            raise
    return memoryview(point(array, writable))


cdef class Segment:
    """A file's memory, mapped and shared, that counts who looks at it.

    Every exported buffer counts as one view until it is released, so a segment is free for its next use only
    when `views` is 0: no array of the last task is left on it.

    Parameters
    ----------
    fd : int
        An open file of at least `size` bytes; it stays the caller's and may be closed at once.
    size : int
        Bytes, at least 1.
    writable : bool
        Map it for writing too.
    """

    cdef void *data
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t views
    cdef bint writable

    def __init__(self, int fd, Py_ssize_t size, *, bint writable=True):
        if self.data != NULL:
            raise ValueError("the segment is mapped")
        if size < 1:
            raise ValueError(f"a segment of {size} bytes")
        self.data = starcore_map(fd, size, writable)
        if self.data == NULL:
            PyErr_SetFromErrno(OSError)
        self.size, self.writable = size, writable

    def __dealloc__(self):
        if self.data != NULL:
            starcore_unmap(self.data, self.size)

    @property
    def address(self):
        """Where the segment lies in this process; 0 once it is closed."""
        return <size_t>self.data

    def close(self):
        """Unmap the memory; BufferError while anybody looks at it."""
        if self.views:
            raise BufferError(f"{self.views} views of the segment are left")
        if self.data != NULL:
            starcore_unmap(self.data, self.size)
            self.data = NULL

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.data == NULL:
            raise ValueError("the segment is closed")
        PyBuffer_FillInfo(buffer, self, self.data, self.size, not self.writable, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1


# -- reading frames ------------------------------------------------------------------------------------------

cdef enum:
    _SCRATCH = 64 << 10


cdef class FrameReader:
    """Bytes as they come in, to whole frames in their order: the reading half of a BufferedProtocol.

    Parameters
    ----------
    deliver : callable(kind, meta, payload)
        Takes a whole frame that is no chunk. The two memoryviews are valid only during the call.
    destination : callable(stream, attempt, offset, length) -> writable buffer of `length` bytes, or None
        Says where a chunk goes once its header is here; None throws its bytes away.
    arrived : callable(stream, attempt, offset, length, destination)
        Hears that the chunk lies there whole.
    greeting : bool
        Until `greeted()`, refuse chunks and whatever measures more than GREETING_BYTES_MAX.

    A frame that breaks the rules raises FrameError from `advance`. That, and an exception of a callback, ends the
    reader: it holds no destination any more, and each further `advance` raises FrameError.

    After a chunk, only as much is asked for as the next chunk's header measures, so that its data comes straight
    to its destination. A frame larger than the scratch gets memory of exactly its size, for as long as it needs.
    """

    cdef object deliver
    cdef object destination
    cdef object arrived
    cdef bint greeting
    cdef bint bulk            # the last frame was a chunk
    cdef bint busy            # a callback runs
    cdef bint dead
    cdef Region home          # the scratch memory of every day
    cdef Region scratch       # home, or one frame's own
    cdef object view          # of scratch
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef object given         # the view handed out last
    cdef Py_ssize_t given_bytes
    cdef object landing       # the destination of the chunk at hand, as it was named
    cdef Window window        # the same as memory; None throws away
    cdef uint64_t stream
    cdef uint32_t attempt
    cdef uint64_t offset
    cdef Py_ssize_t length
    cdef Py_ssize_t remaining

    def __init__(self, deliver, destination, arrived, bint greeting=True):
        self.deliver, self.destination, self.arrived, self.greeting = deliver, destination, arrived, greeting
        self.home = Region(_SCRATCH)
        self.use(self.home)

    @property
    def idle(self):
        """Whether no frame is under way."""
        return self.start == self.end and not self.remaining

    def greeted(self):
        """The peer is known: chunks and larger frames may come."""
        self.greeting = False

    def close(self):
        """Let go of every destination; what still comes in is nobody's."""
        self.dead = True
        self.let_go()
        self.window = self.landing = None
        self.remaining = self.start = self.end = 0
        if not self.busy:
            self.use(self.home)

    def get_buffer(self):
        """Hand out writable memory, never empty, for the next bytes; `advance` must follow before it is asked again."""
        cdef Py_ssize_t stop
        if self.busy:
            raise RuntimeError("a frame is being delivered")
        self.let_go()
        if self.window is not None:
            self.given = memoryview(self.window)
            if self.remaining < self.length:
                self.given = self.given[self.length - self.remaining:]
            self.given_bytes = self.remaining
        else:
            if self.remaining:
                stop = min(self.remaining, self.scratch.size)
            else:
                stop = _HEADER + _CHUNK_META if self.bulk else self.scratch.size
            self.given = self.view[self.end:stop]
            self.given_bytes = stop - self.end
        return self.given

    def advance(self, Py_ssize_t count):
        """Take the `count` bytes that were written to the memory handed out last, and every frame they complete."""
        if self.busy:
            raise RuntimeError("a frame is being delivered")
        if self.dead:
            raise FrameError("nothing is read after a fault")
        if not 0 <= count <= self.given_bytes:
            raise ValueError(f"{count} bytes written to a buffer of {self.given_bytes}")
        self.let_go()
        self.busy = True
        try:
            if self.remaining:
                self.land(count)
            else:
                self.end += count
                self.parse()
        except BaseException:
            self.dead = True
            raise
        finally:
            self.busy = False
            if self.dead:
                self.close()

    cdef void use(self, Region region):
        self.scratch = region
        self.view = memoryview(region)

    cdef int let_go(self) except -1:
        """Release the view handed out last, so that a destination is nobody's but its owner's."""
        given, self.given, self.given_bytes = self.given, None, 0
        if given is not None:
            try:
                given.release()
            except BufferError:  # the loop still holds it: harmless, the window keeps the memory
                pass
        return 0

    cdef int parse(self) except -1:
        """Take every whole frame from the scratch, and what has come of a chunk."""
        cdef Header header
        cdef Py_ssize_t whole
        while self.end - self.start >= _HEADER:
            memcpy(&header, self.scratch.data + self.start, _HEADER)
            check_header(&header, self.greeting)
            self.bulk = header.kind == _CHUNK
            whole = _HEADER + header.meta + (0 if self.bulk else <Py_ssize_t>header.payload)
            if self.end - self.start < whole:
                return self.make_room(whole)
            if self.bulk:
                self.begin_chunk(&header)
            else:
                self.deliver_frame(&header)
            if self.dead:  # a callback closed the reader
                return 0
        return self.make_room(_HEADER)

    cdef int deliver_frame(self, Header *header) except -1:
        cdef Py_ssize_t meta = self.start + _HEADER
        cdef Py_ssize_t payload = meta + header.meta
        cdef Py_ssize_t end = payload + <Py_ssize_t>header.payload
        meta_view, payload_view = self.view[meta:payload], self.view[payload:end]
        self.start = end
        try:
            self.deliver(header.kind, meta_view, payload_view)
        finally:
            release(meta_view)
            release(payload_view)
        return 0

    cdef int begin_chunk(self, Header *header) except -1:
        """Ask where the chunk goes, and move there what the scratch has of it."""
        cdef const unsigned char *meta = self.scratch.data + self.start + _HEADER
        cdef uint32_t reserved
        cdef Py_ssize_t here
        memcpy(&self.stream, meta, 8)
        memcpy(&self.attempt, meta + 8, 4)
        memcpy(&reserved, meta + 12, 4)
        memcpy(&self.offset, meta + 16, 8)
        if reserved:
            raise FrameError("the reserved field of a chunk is not 0")
        if self.offset > _BODY_MAX - header.payload:
            raise FrameError(f"a chunk at offset {self.offset}, beyond {_BODY_MAX} bytes")
        self.start += _HEADER + _CHUNK_META
        self.length = <Py_ssize_t>header.payload
        self.landing = self.destination(self.stream, self.attempt, self.offset, self.length)
        if self.dead:
            return 0
        if self.landing is not None:
            self.window = hold(self.landing, True)
            if self.window.size != self.length:
                raise ValueError(f"a destination of {self.window.size} bytes for a chunk of {self.length}")
        self.remaining = self.length
        here = min(self.remaining, self.end - self.start)
        if self.window is not None:
            memcpy(self.window.data, self.scratch.data + self.start, here)
        self.start += here
        if self.start == self.end:
            self.start = self.end = 0
        return self.land(here)

    cdef int land(self, Py_ssize_t count) except -1:
        """Account the chunk's bytes that lie where they belong."""
        self.remaining -= count
        if not self.remaining:
            landing, self.landing, self.window = self.landing, None, None
            self.arrived(self.stream, self.attempt, self.offset, self.length, landing)
        return 0

    cdef int make_room(self, Py_ssize_t whole) except -1:
        """Bring the unparsed bytes to the front of memory that holds the whole frame."""
        cdef Py_ssize_t size = self.end - self.start
        cdef Region region = self.home if whole <= self.home.size else self.scratch
        if region.size < whole:
            region = Region(whole)
        if size and (self.start or region is not self.scratch):
            memmove(region.data, self.scratch.data + self.start, size)
        self.start, self.end = 0, size
        if region is not self.scratch:
            self.use(region)
        return 0


cdef int release(object view) except -1:
    try:
        view.release()
    except BufferError:  # somebody keeps a buffer of it; the region keeps the memory
        pass
    return 0
