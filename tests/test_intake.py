"""_intake.pxi alone: the loop over records, on records from a list."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from starcore._framing import take_in


class Link:
    """An SSL object and a protocol in one: records to read, and the bytes that were taken."""

    def __init__(self, *records: bytes | Exception, room: int = 100) -> None:
        self.records = list(records)
        self.room = bytearray(room)
        self.got: list[bytes] = []
        self.reads = 0
        self.deaf = False
        self.deaf_after = 1_000

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.room)

    def updated(self, count: int) -> None:
        self.got.append(bytes(self.room[:count]))
        self.deaf = len(self.got) >= self.deaf_after

    def read(self, count: int, buffer: Any) -> int:
        self.reads += 1
        if not self.records:
            raise ssl.SSLWantReadError
        record = self.records[0]
        if isinstance(record, Exception):
            raise record
        size = min(count, len(record), len(buffer))
        buffer[:size] = record[:size]
        self.records[0] = record[size:]
        if not self.records[0]:
            del self.records[0]
        return size

    def pending(self) -> int:
        """What is left of a record that was begun."""
        return self.left

    left = 0

    def take(self, share: int = 10_000, bulk: int = 1) -> Any:
        return take_in(self, self.get_buffer, self.updated, self.read, self.pending, share, bulk)


def test_records_fill_one_buffer_until_there_are_none() -> None:
    link = Link(b"one", b"two", b"three")
    assert isinstance(link.take(), ssl.SSLWantReadError)
    assert link.got == [b"onetwothree"]


def test_buffer_that_is_full_is_handed_over_before_the_next_one() -> None:
    link = Link(b"12345678", room=3)
    assert isinstance(link.take(), ssl.SSLWantReadError)
    assert link.got == [b"123", b"456", b"78"]


def test_short_record_is_the_last_one_where_nothing_is_pending() -> None:
    link = Link(b"short", b"next")
    assert link.take(bulk=100) is None
    assert (link.got, link.reads) == ([b"short"], 1)
    link.left = 1
    assert isinstance(link.take(bulk=100), ssl.SSLWantReadError)
    assert link.got == [b"short", b"next"]


def test_share_ends_a_turn_unless_openssl_has_more() -> None:
    link = Link(*[b"x" * 100] * 5)
    assert link.take(share=150) is None
    assert len(link.got) == 2
    link.left = 1
    assert isinstance(link.take(share=0), ssl.SSLWantReadError)
    assert len(link.got) == 5


def test_link_that_turns_deaf_is_read_no_further() -> None:
    link = Link(b"x" * 100, b"y" * 100)
    link.deaf_after = 1
    assert link.take() is None
    assert link.got == [b"x" * 100] and link.records == [b"y" * 100]


@pytest.mark.parametrize("error", [ssl.SSLEOFError(8, "EOF"), ConnectionResetError(104, "reset")])
def test_what_came_before_an_error_is_handed_over_first(error: OSError) -> None:
    link = Link(b"last words", error)
    assert link.take() is error
    assert link.got == [b"last words"]


def test_end_of_the_stream_is_no_error() -> None:
    link = Link(b"last words")
    link.read = lambda count, buffer: Link.read(link, count, buffer) if link.records else 0  # type: ignore[method-assign]
    assert link.take() is True
    assert link.got == [b"last words"]


def test_fault_of_the_protocol_passes_through() -> None:
    link = Link(b"x")
    link.updated = lambda count: [][count]  # type: ignore[method-assign]
    with pytest.raises(IndexError):
        link.take()
