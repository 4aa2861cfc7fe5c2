# Scalars as `plain.py` writes them, without going through Python for each: the quick half of small calls and answers.
# Part of `_framing.pyx`, which includes it.
#
# `plain.py` says what the letters mean, and is the oracle of the tests. What is not handled here (long integers,
# long texts among others, arrays, containers in containers, and all that a stranger may have got wrong) is not an
# error here either: the functions say "not mine", and `plain.py` does it, or says what is wrong with it.

from cpython.complex cimport PyComplex_CheckExact, PyComplex_FromDoubles, PyComplex_ImagAsDouble, PyComplex_RealAsDouble
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFloat_FromDouble
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact, PyLong_FromLongLong
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

cdef extern from "Python.h":
    bint PyBytes_CheckExact(object)
    bint PyUnicode_CheckExact(object)
    bint PyUnicode_IS_COMPACT_ASCII(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    void *PyUnicode_DATA(object)

cdef enum:
    _SHARED = 64          # plain.SHARED_TEXT_BYTES: from here on a text is numbered
    _LONG = 8 << 10       # a lone text of fewer characters fits a head, whatever they are
    _UNIFORM = 8          # plain.UNIFORM_COUNT: from here on a sequence of one kind is written as one column


# -- writing -------------------------------------------------------------------------------------------------

cdef inline int put_word(Sink *sink, char letter, const void *word) except -1:
    cdef unsigned char *to = put(sink, 9)
    to[0] = letter
    memcpy(to + 1, word, 8)
    return 0


cdef inline int put_letter(Sink *sink, char letter) except -1:
    put(sink, 1)[0] = letter
    return 0


cdef int put_octets(Sink *sink, char letter, const void *items, Py_ssize_t size) except -1:
    put_letter(sink, letter)
    return put_sized(sink, items, size, <uint32_t>size)


cdef bint put_scalar(Sink *sink, object value, Py_ssize_t text_end) except -1:
    """Write a value, texts only if they are shorter than `text_end`. False, and nothing is written: not mine."""
    cdef int overflow = 0
    cdef int64_t number
    cdef double real
    cdef bytes octets
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return False
        put_word(sink, b"i", &number)
    elif PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        put_word(sink, b"f", &real)
    elif value is None:
        put_letter(sink, b"N")
    elif value is True:
        put_letter(sink, b"T")
    elif value is False:
        put_letter(sink, b"F")
    elif PyUnicode_CheckExact(value):
        if PyUnicode_GET_LENGTH(value) >= text_end:
            return False
        if PyUnicode_IS_COMPACT_ASCII(value):
            put_octets(sink, b"s", PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
        else:
            octets = (<str>value).encode("utf-8", "surrogatepass")
            put_octets(sink, b"s", PyBytes_AS_STRING(octets), len(octets))
    elif PyBytes_CheckExact(value):
        if len(<bytes>value) >= text_end:
            return False
        put_octets(sink, b"b", PyBytes_AS_STRING(<bytes>value), len(<bytes>value))
    elif PyComplex_CheckExact(value):
        real = PyComplex_RealAsDouble(value)
        put_word(sink, b"c", &real)
        real = PyComplex_ImagAsDouble(value)
        put_bytes(sink, &real, 8)
    else:
        return False
    return True


cdef inline bint one_kind(object items, Py_ssize_t count):
    """Whether `plain.py` may write these items as one column: all ints, or all floats."""
    cdef object first
    cdef Py_ssize_t at
    if count < _UNIFORM:
        return False
    first = items[0]
    if not (PyLong_CheckExact(first) or PyFloat_CheckExact(first)):
        return False
    for at in range(1, count):
        if type(items[at]) is not type(first):
            return False
    return True


def pack_scalar(value, bytes prefix):
    """Return `prefix` and the text of a scalar; None where it is something else, or long."""
    return pack(value, prefix, False)


def pack_scalars(values, bytes prefix):
    """Return `prefix` and the text of a list or tuple of scalars; None where `plain.encode` has more to do."""
    return pack(values, prefix, True)


cdef object pack(object value, bytes prefix, bint many):
    cdef unsigned char room[512]
    cdef Sink sink
    cdef Py_ssize_t at, count
    cdef bint mine = True
    cdef uint32_t items
    sink.data, sink.size, sink.room, sink.owned = room, 0, 512, False
    try:
        put_bytes(&sink, PyBytes_AS_STRING(prefix), len(prefix))
        if not many:
            mine = put_scalar(&sink, value, _LONG)
        elif type(value) is tuple:
            count = PyTuple_GET_SIZE(value)
            mine = not one_kind(value, count)
            items = <uint32_t>count
            put_letter(&sink, b"t")
            put_bytes(&sink, &items, 4)
            at = 0
            while mine and at < count:
                mine = put_scalar(&sink, <object>PyTuple_GET_ITEM(value, at), _SHARED)
                at += 1
        elif type(value) is list:
            count = PyList_GET_SIZE(value)
            mine = not one_kind(value, count)
            items = <uint32_t>count
            put_letter(&sink, b"l")
            put_bytes(&sink, &items, 4)
            at = 0
            while mine and at < PyList_GET_SIZE(value):
                mine = put_scalar(&sink, <object>PyList_GET_ITEM(value, at), _SHARED)
                at += 1
        else:
            mine = False
        return PyBytes_FromStringAndSize(<const char *>sink.data, sink.size) if mine else None
    finally:
        if sink.owned:
            PyMem_Free(sink.data)


# -- reading -------------------------------------------------------------------------------------------------

cdef object _ELSE = object()


cdef object get_scalar(Cursor *cursor):
    """Read a value; `_ELSE` where it is not mine, and the cursor then stands anywhere."""
    cdef Py_ssize_t left = cursor.end - cursor.at
    cdef const unsigned char *at = cursor.at
    cdef char letter
    cdef int64_t number
    cdef double real, imag
    cdef uint32_t size
    if left < 1:
        return _ELSE
    letter = at[0]
    if letter == b"N" or letter == b"T" or letter == b"F":
        cursor.at = at + 1
        return None if letter == b"N" else letter == b"T"
    if letter == b"i" or letter == b"f":
        if left < 9:
            return _ELSE
        cursor.at = at + 9
        if letter == b"i":
            memcpy(&number, at + 1, 8)
            return PyLong_FromLongLong(number)
        memcpy(&real, at + 1, 8)
        return PyFloat_FromDouble(real)
    if letter == b"s" or letter == b"b":
        if left < 5:
            return _ELSE
        memcpy(&size, at + 1, 4)
        if left - 5 < <Py_ssize_t>size:
            return _ELSE
        cursor.at = at + 5 + size
        if letter == b"b":
            return PyBytes_FromStringAndSize(<const char *>at + 5, size)
        try:
            return PyUnicode_DecodeUTF8(<const char *>at + 5, size, "surrogatepass")
        except UnicodeDecodeError:
            return _ELSE
    if letter == b"c" and left >= 17:
        memcpy(&real, at + 1, 8)
        memcpy(&imag, at + 9, 8)
        cursor.at = at + 17
        return PyComplex_FromDoubles(real, imag)
    return _ELSE


cdef inline bint begins(Cursor *cursor, bytes prefix) noexcept:
    """Step over the prefix; False where it is not there."""
    cdef Py_ssize_t size = len(prefix)
    if cursor.end - cursor.at < size or memcmp(cursor.at, PyBytes_AS_STRING(prefix), size):
        return False
    cursor.at += size
    return True


def unpack_scalar_run(heads, sizes, bytes prefix, other):
    """Return the scalars of a run of heads as a list; `other` in the place of each head that is something else.

    Parameters
    ----------
    heads : buffer
        One after the other.
    sizes : array of u32
        How long each is.
    prefix : bytes
        What a scalar's head begins with.
    other : object
        Stands for what is not mine.
    """
    cdef Py_buffer view
    cdef Cursor cursor
    cdef const unsigned char *end
    cdef Py_ssize_t at, count
    cdef uint32_t *lengths
    cdef list values = []
    if not isinstance(sizes, Array) or (<Array>sizes).ob_descr.typecode != b"I":
        raise TypeError("a column of u32 is needed")
    lengths = <uint32_t *>(<Array>sizes).data.as_uints
    count = Py_SIZE(sizes)
    PyObject_GetBuffer(heads, &view, PyBUF_SIMPLE)
    try:
        open_cursor(&cursor, &view)
        end = cursor.end
        for at in range(count):
            if end - cursor.at < <Py_ssize_t>lengths[at]:
                raise ValueError("heads that are shorter than their sizes")
            cursor.end = cursor.at + lengths[at]
            value = get_scalar(&cursor) if begins(&cursor, prefix) else _ELSE
            values.append(other if value is _ELSE or cursor.at != cursor.end else value)
            cursor.at = cursor.end  # whatever was read of it
        return values
    finally:
        PyBuffer_Release(&view)


def unpack_scalars(head, bytes prefix):
    """Return the list or tuple of scalars that `pack_scalars` wrote; None where it is something else."""
    cdef Py_buffer view
    cdef Cursor cursor
    cdef uint32_t count, at
    cdef bint listed
    cdef list values
    PyObject_GetBuffer(head, &view, PyBUF_SIMPLE)
    try:
        open_cursor(&cursor, &view)
        if not begins(&cursor, prefix) or cursor.end - cursor.at < 5:
            return None
        if cursor.at[0] != b"t" and cursor.at[0] != b"l":
            return None
        listed = cursor.at[0] == b"l"
        memcpy(&count, cursor.at + 1, 4)
        cursor.at += 5
        values = []
        for at in range(count):
            value = get_scalar(&cursor)
            if value is _ELSE:
                return None
            values.append(value)
        if cursor.at != cursor.end:
            return None
        return values if listed else tuple(values)
    finally:
        PyBuffer_Release(&view)
