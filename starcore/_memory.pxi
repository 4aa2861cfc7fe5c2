# Memory without a copy: arrays as plain bytes, scratch, and mapped segments that count who looks at them.
# Part of `_framing.pyx`, which includes it.

from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object cls)

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

cdef unsigned char _nothing[1]


cdef class Window:
    """Someone else's memory as plain bytes; keeps its owner alive, and its owner's buffer held, while it lives.

    It lives as long as a view of it: the death of a weak reference to a view's `obj` says that nobody looks any more.
    """

    cdef object __weakref__
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
    cdef object lent          # the view that one of several readers was given last

    def __cinit__(self, Py_ssize_t size=_SCRATCH):
        if size < _SCRATCH:
            raise ValueError(f"a scratch of {size} bytes, where {_SCRATCH} are needed")
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


include "_placement.pxi"


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
    cdef Py_ssize_t held
    cdef bint writable
    cdef int block            # its number in the table of `_placement.pxi`; -1 until it is offered

    def __cinit__(self):
        self.block = -1

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
        if self.block >= 0 and starcore_leave(self.block):
            return  # an array lies there, and unmaps it when it goes
        if self.data != NULL:
            starcore_unmap(self.data, self.size)

    @property
    def views(self):
        """How many look at it; an array that numpy has put there is one, and memory that a fork has cut off, too."""
        if self.block < 0:
            return self.held
        return self.held + (starcore_is_taken(self.block) or starcore_is_private(self.block))

    @property
    def taken(self):
        """Whether an array that numpy has put there lies in the shared memory now."""
        return self.block >= 0 and starcore_is_taken(self.block) and not starcore_is_private(self.block)

    def offer(self):
        """Let numpy put an array there, from now on or as soon as nothing of numpy's lies there."""
        if self.data != NULL and self.writable:
            self.block = starcore_offer(self.data, self.size, self.block)

    def withdraw(self):
        """Let numpy put nothing there any more; what lies there stays."""
        if self.block >= 0:
            starcore_withdraw(self.block)

    @property
    def address(self):
        """Where the segment lies in this process; 0 once it is closed."""
        return <size_t>self.data

    def close(self):
        """Unmap the memory; BufferError while anybody looks at it."""
        if self.views:
            raise BufferError(f"{self.views} views of the segment are left")
        if self.block >= 0:
            starcore_leave(self.block)
            self.block = -1
        if self.data != NULL:
            starcore_unmap(self.data, self.size)
            self.data = NULL

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.data == NULL:
            raise ValueError("the segment is closed")
        PyBuffer_FillInfo(buffer, self, self.data, self.size, not self.writable, flags)
        self.held += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.held -= 1
