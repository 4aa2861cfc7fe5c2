"""Functions of a client's jobs: said once a link, kept while a job uses them."""

from __future__ import annotations

from starcore.client.blobs import Blobs
from starcore.client.orders import Outbox
from starcore.errors import Code
from starcore.events import Send
from starcore.messages import BLOB_STREAM, HEAD_BYTES_MAX, Abort, Blob, Grant
from starcore.streams import Sending

from .uplinks import uplink

SMALL, LARGE = b"s" * 32, b"l" * 32


class Shelf:
    def __init__(self) -> None:
        self.outbox, self.sending = Outbox(uplink()), Sending()
        self.blobs = Blobs(self.outbox)
        self.blobs.open_link(self.sending)
        self.blobs.use(SMALL, b"small")
        self.blobs.use(LARGE, bytes(HEAD_BYTES_MAX) + b"tail")

    def said(self) -> list[Blob]:
        said = [each.message for each in self.outbox.actions if isinstance(each, Send)]
        self.outbox.turn(0.0)
        return said


def test_small_function_travels_inside_its_message_once_a_link() -> None:
    shelf = Shelf()
    shelf.blobs.tell(SMALL)
    shelf.blobs.tell(SMALL)
    assert shelf.said() == [Blob(SMALL, BLOB_STREAM | 1, 0, b"small")]
    shelf.blobs.open_link(Sending())
    shelf.blobs.tell(SMALL)
    assert len(shelf.said()) == 1


def test_large_function_waits_for_its_grant() -> None:
    shelf = Shelf()
    shelf.blobs.tell(LARGE)
    (said,) = shelf.said()
    assert (said.head, said.body_bytes) == (b"", HEAD_BYTES_MAX + 4)
    assert shelf.sending.next() is None
    shelf.sending.grant(Grant(said.stream, 1, HEAD_BYTES_MAX, 4))
    stream, _, offset, length = shelf.sending.next() or (0, 0, 0, 0)
    assert bytes(shelf.blobs.piece(stream, offset, length)) == b"tail"


def test_function_goes_with_its_last_job_and_its_stream_with_it() -> None:
    shelf = Shelf()
    shelf.blobs.use(LARGE, b"")
    shelf.blobs.tell(LARGE)
    shelf.blobs.drop(LARGE)
    shelf.blobs.check([SMALL, LARGE])
    assert len(shelf.sending) == 1
    shelf.said()
    shelf.blobs.drop(LARGE)
    assert shelf.said() == [Abort(BLOB_STREAM | 1, 1, Code.GONE, "no job needs it any more")]
    shelf.blobs.drop(LARGE)
    shelf.blobs.check([SMALL])
    assert len(shelf.sending) == 0


def test_what_is_wanted_and_not_there_is_not_said() -> None:
    shelf = Shelf()
    shelf.blobs.tell(b"x" * 32, again=True)
    assert shelf.said() == []
    shelf.blobs.tell(SMALL)
    shelf.blobs.tell(SMALL, again=True)
    assert len(shelf.said()) == 2


def test_function_that_comes_is_not_announced_anew_for_a_question_that_crossed_it() -> None:
    """Each end of a stream was one more question of the manager's: the two never came to an end."""
    shelf = Shelf()
    for _ in range(20):
        shelf.blobs.tell(LARGE, again=True)
    assert [message.stream for message in shelf.said()] == [BLOB_STREAM | 1]
    assert len(shelf.sending) == 1
    shelf.sending.close(BLOB_STREAM | 1)  # the manager ended it
    shelf.blobs.aborted(BLOB_STREAM | 1)
    shelf.blobs.tell(LARGE, again=True)
    assert [message.stream for message in shelf.said()] == [BLOB_STREAM | 2]


def test_function_that_was_sent_whole_is_announced_anew() -> None:
    shelf = Shelf()
    shelf.blobs.tell(LARGE)
    shelf.sending.grant(Grant(BLOB_STREAM | 1, 1, 0, HEAD_BYTES_MAX + 4))
    while shelf.sending.next():
        pass
    shelf.said()
    shelf.blobs.tell(LARGE, again=True)
    assert [type(message) for message in shelf.said()] == [Abort, Blob]
    shelf.blobs.check([SMALL, LARGE])
