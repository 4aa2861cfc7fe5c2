# Part of _framing.pyx: the loop over TLS records, which in Python would cost a few hundredths of an array's CPU.


def take_in(
    object link, object get_buffer, object updated, object read, object pending, Py_ssize_t share, Py_ssize_t bulk
):
    """Read records into a protocol's memory until none is left, or the share is had.

    Parameters
    ----------
    link : object
        Its `deaf` is set as soon as nothing more may be read: `updated` may do so.
    get_buffer, updated : callable
        The protocol's two methods.
    read : callable(bytes, buffer) -> bytes read, 0 at the end
        The SSL object's; an OSError of it, SSLWantReadError too, is returned and not raised.
    pending : callable() -> bytes
        The SSL object's: what it has decrypted already, and no poll knows of.
    share : int
        Bytes; a record that was begun is taken in whole.
    bulk : int
        A read of fewer bytes was the last one, if nothing is pending: the poll will tell of more.

    Returns
    -------
    OSError or True or None
        What reading ended with; True for the end of the stream.
    """
    cdef Py_ssize_t size, got, count
    cdef bint more = True
    cdef object error = None
    cdef object room
    while more and error is None and (share > 0 or pending()):
        room = get_buffer(-1)
        size, got = len(room), 0
        try:
            while got < size:
                count = read(size - got, room[got:] if got else room)
                if not count:
                    error = True
                    break
                got += count
                if count < bulk and not pending():
                    more = False
                    break
        except OSError as raised:
            error = raised.with_traceback(None)  # whose frames would keep the link, and it itself, in a circle
        room = None
        share -= got
        if got:
            updated(got)
            if link.deaf:
                return None
    return error
