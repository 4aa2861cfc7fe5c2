"""The channel: every record there and back, descriptors beside them, and a full socket."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterator

import pytest

from starcore.errors import FrameError
from starcore.messages import FunctionKind
from starcore.worker.channel import (
    Attach,
    Broken,
    Detach,
    Done,
    Free,
    Inlet,
    Learn,
    Outlet,
    Ready,
    Record,
    Setup,
    Stopped,
    Unlearn,
    Work,
    decode,
    send_all,
)

Pair = tuple[socket.socket, socket.socket]

RECORDS: list[Record] = [
    Setup(1, "lab:load", ["lab:fit"], 1 << 20, 0, 3, b"abc"),
    Detach(5),
    Free(6),
    Learn(1, FunctionKind.SHIPPED, b"d" * 32, "fn", 0, 4, b"blob"),
    Unlearn(True, 1, bytes(32)),
    Work(1, 2, 3, 0, 0, array("I", [1, 2]), b"abb"),
    Ready(77),
    Broken("no"),
    Done(1, 0, 2, 3, 4, 5, True, b"\0", array("d", [0.5]), array("I", [2]), b"ok"),
    Stopped(9, 4),
]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_out_as_it_went_in(pair: Pair, record: Record) -> None:
    send_all(pair[0], record)
    inlet = Inlet(pair[1])
    assert inlet.pull()
    assert list(inlet) == [record]


def test_descriptors_come_in_the_order_of_their_frames(pair: Pair) -> None:
    for number in (1, 2, 3):
        reading, writing = os.pipe()
        os.write(writing, bytes([number]))
        send_all(pair[0], Attach(number, 10), reading)
        send_all(pair[0], Ready(number))
        os.close(reading)
        os.close(writing)
    inlet = Inlet(pair[1])
    found = []
    while len(found) < 3:
        inlet.pull()
        for record in inlet:
            if isinstance(record, Attach):
                descriptor = inlet.descriptor()
                assert not os.get_inheritable(descriptor)
                found.append((record.number, os.read(descriptor, 1)[0]))
                os.close(descriptor)
    assert found == [(1, 1), (2, 2), (3, 3)]


def test_descriptors_that_nobody_took_are_closed(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    send_all(pair[0], Attach(1, 10), pair[0].fileno())
    inlet = Inlet(pair[1])
    inlet.pull()
    inlet.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_end_is_told(pair: Pair) -> None:
    pair[0].shutdown(socket.SHUT_RDWR)
    assert not Inlet(pair[1]).pull()


def test_what_a_full_socket_does_not_take_waits(pair: Pair) -> None:
    pair[0].setblocking(False)
    waits: list[bool] = []
    outlet = Outlet(pair[0], waits.append)
    heads = b"x" * (200 << 10)
    sizes = array("I", [50 << 10] * 4)
    for batch in range(10):
        outlet.send(Work(batch, 1, 0, 0, 0, sizes, heads))
    assert waits == [True]
    inlet, batches = Inlet(pair[1]), []
    while len(batches) < 10:
        inlet.pull()
        batches += [record.batch for record in inlet if isinstance(record, Work)]
        outlet.push()
    assert batches == list(range(10))
    assert waits[-1] is False


def test_records_without_hurry_leave_with_the_next_one_and_keep_their_order(pair: Pair) -> None:
    pair[0].setblocking(False)
    outlet, inlet = Outlet(pair[0], lambda waiting: None), Inlet(pair[1])
    pair[1].setblocking(False)
    outlet.send(Free(6), hurry=False)
    outlet.send(Attach(1, 10), pair[0].fileno(), hurry=False)
    with pytest.raises(BlockingIOError):
        inlet.pull()
    work = Work(1, 2, 3, 0, 0, array("I", [1, 2]), b"abb")
    outlet.send(work)
    found: list[Record] = []
    while len(found) < 3:
        inlet.pull()
        found += inlet
    assert found == [Free(6), Attach(1, 10), work]
    os.close(inlet.descriptor())


def test_a_descriptor_that_waits_is_sent_though_its_owner_has_closed_it(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pair[0].setblocking(False)
    outlet, inlet = Outlet(pair[0], lambda waiting: None), Inlet(pair[1])
    outlet.send(Work(1, 1, 0, 0, 0, array("I", [50 << 10] * 20), b"x" * (1000 << 10)))  # more than the socket takes
    reading, writing = os.pipe()
    os.write(writing, b"!")
    outlet.send(Attach(1, 10), reading)
    os.close(reading)
    other = os.dup(writing)
    assert other == reading, "the number is another's now"
    found: list[Record] = []
    while len(found) < 2:
        outlet.push()
        inlet.pull()
        found += inlet
    came = inlet.descriptor()
    assert os.read(came, 1) == b"!"
    for descriptor in (came, other, writing):
        os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_were_never_sent_are_closed(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    outlet = Outlet(pair[0], lambda waiting: None)
    outlet.send(Attach(1, 10), pair[0].fileno(), hurry=False)
    outlet.send(Free(6), hurry=False)
    outlet.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_frame_of_another_kind_is_refused() -> None:
    with pytest.raises(FrameError):
        decode(1, b"", b"")
