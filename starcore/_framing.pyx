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
Between two reads it is mostly empty, so the readers of one loop share their scratch: a thousand silent connections
need no memory here, and a busy one finds it in the processor's cache.

`_intake.pxi` (the loop over TLS records), `_memory.pxi`, `_placement.pxi`, `_records.pxi` and `_scalars.pxi` (small
values inside heads) are parts of this unit, split for the reader's sake.

A frame is a header of 16 bytes (u16 magic, u8 kind, u8 flags, u32 meta bytes, u64 payload bytes), its meta and
its payload; all numbers are little-endian, and so must be the machine.
"""

import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from starcore import messages
from starcore.errors import FrameError

if sys.byteorder != "little":
    raise ImportError("starcore needs a little-endian machine")

HEADER_BYTES = 16
CHUNK_META_BYTES = 24
CHUNK_KIND = 5

cdef enum:
    _HEADER = 16
    _CHUNK_META = 24
    _CHUNK = 5
    _SCRATCH = 64 << 10

cdef uint16_t _MAGIC = messages.FRAME_MAGIC
cdef uint8_t _KIND_MAX = messages.KIND_MAX
cdef uint64_t _META_MAX = messages.FRAME_META_BYTES_MAX
cdef uint64_t _PAYLOAD_MAX = messages.FRAME_PAYLOAD_BYTES_MAX
cdef uint64_t _GREETING_MAX = messages.GREETING_BYTES_MAX
cdef uint64_t _CHUNK_MAX = messages.CHUNK_BYTES_MAX
cdef uint64_t _BODY_MAX = messages.BODY_BYTES_MAX


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


include "_intake.pxi"
include "_memory.pxi"
include "_records.pxi"
include "_scalars.pxi"


# -- reading frames ------------------------------------------------------------------------------------------

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
    scratch : Region, optional
        Memory that other readers of the same thread use in turn. What is not a whole frame yet moves out of it.

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
    cdef Region home          # the scratch memory of every day, shared; empty between two reads
    cdef Region scratch       # home, or our own while a frame is under way
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

    def __init__(self, deliver, destination, arrived, bint greeting=True, Region scratch=None):
        self.deliver, self.destination, self.arrived, self.greeting = deliver, destination, arrived, greeting
        self.home = Region(_SCRATCH) if scratch is None else scratch
        self.use(self.home)

    @property
    def idle(self):
        """Whether no frame is under way."""
        return self.start == self.end and not self.remaining

    def greeted(self):
        """The peer is known: chunks and larger frames may come."""
        self.greeting = False

    def close(self):
        """Let go of every destination and callback; what still comes in is nobody's."""
        self.dead = True
        self.let_go()
        self.window = self.landing = None
        self.deliver = self.destination = self.arrived = None
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
            if self.scratch is self.home:
                self.borrow()
            if self.remaining:
                stop = min(self.remaining, self.scratch.size)
            else:
                stop = _HEADER + _CHUNK_META if self.bulk else self.scratch.size
            self.given = self.view[self.end:stop]
            self.given_bytes = stop - self.end
            if self.scratch is self.home:
                self.home.lent = self.given
        return self.given

    def advance(self, Py_ssize_t count):
        """Take the `count` bytes that were written to the memory handed out last, and every frame they complete."""
        if self.busy:
            raise RuntimeError("a frame is being delivered")
        if self.dead:
            raise FrameError("nothing is read after a fault")
        if self.window is None and self.scratch is self.home and self.home.lent is not self.given:
            self.given_bytes = 0  # another reader has it by now
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

    cdef int borrow(self) except -1:
        """Take the shared scratch back from whoever had it last; where the loop still holds it, do without."""
        if self.home.lent is not None:
            try:
                self.home.lent.release()
            except BufferError:
                self.home = Region(_SCRATCH)
                self.use(self.home)
        return 0

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
        """Bring the unparsed bytes to the front of memory that is ours alone and holds the whole frame."""
        cdef Py_ssize_t size = self.end - self.start
        cdef Region region = self.scratch
        if not size:
            region = self.home
        elif region is self.home or region.size < whole:
            region = Region(max(whole, _SCRATCH))
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
