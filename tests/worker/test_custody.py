"""Shared values in a worker's core: pulled once, lent to slots, kept over a lost link, let go with their jobs."""

from __future__ import annotations

from array import array

from starcore.errors import Code, Status
from starcore.events import ChunkReceived, Dial
from starcore.messages import BLOB_STREAM, Abort, Assign, Forget, FunctionKind, Grant, Job, Share, Want
from starcore.worker.orders import Allocate, Allocated, Lend, Release, TakeBack, Unteach

from .desk import Desk

MIB = 1 << 20
NAME = b"v" * 32
KEY = BLOB_STREAM | 5


def begin(desk: Desk, size: int = MIB, number: int = 1) -> None:
    desk.receive(Share(NAME, KEY, size, b"head"))
    desk.receive(Job(number, FunctionKind.REGISTERED, bytes(32), "m:f", shares=NAME))


def arrive(desk: Desk, size: int = MIB) -> None:
    """The memory is there, and then the bytes."""
    assert desk.take(Allocate) == Allocate(KEY, 1, size)
    desk.feed(Allocated(KEY))
    assert desk.said(Grant).offset == 0
    desk.feed(ChunkReceived(desk.link, KEY, 1, 0, size))


def test_value_is_pulled_with_the_first_task_and_lent_to_each_slot_once() -> None:
    desk = Desk(slots=2)
    begin(desk)
    desk.quiet()
    desk.assign(1, lease=10, count=2)
    arrive(desk)
    for slot in (0, 1):
        assert desk.take(Lend) == Lend(slot, NAME, b"head", KEY, MIB)
        desk.done(desk.batch())
    desk.result([10, 11])
    desk.assign(1, lease=12)
    desk.done(desk.batch(taught=False))
    desk.result([12])
    desk.quiet()


def test_value_without_a_body_is_there_at_once() -> None:
    desk = Desk()
    begin(desk, size=0)
    desk.assign(1, lease=10)
    assert desk.take(Lend).size == 0
    desk.batch()
    desk.quiet()


def test_no_argument_is_asked_for_before_the_values_are_whole() -> None:
    desk = Desk()
    begin(desk)
    desk.assign(1, lease=10, bodies=[MIB])
    arrive(desk)
    assert desk.take(Allocate).key == 10
    desk.feed(Allocated(10))
    assert desk.said(Grant).stream == 10
    desk.body(10, MIB)
    desk.take(Lend)
    desk.batch()
    desk.quiet()


def test_parked_task_is_given_back_when_that_is_asked_or_its_stream_ends() -> None:
    desk = Desk()
    begin(desk)
    desk.assign(1, lease=10, bodies=[MIB])
    desk.assign(1, lease=11)
    desk.take(Allocate)
    desk.receive(Abort(10, 1, Code.GONE, ""))
    desk.retract(11)
    assert [list(desk.said(type(said)).leases) for said in [action.message for action in desk.asked]] == [[10], [11]]
    desk.quiet()


def cut_off(desk: Desk) -> None:
    """The link is lost after the first 1,000 bytes of a value; over the next one the worker asks for it again."""
    begin(desk)
    desk.assign(1, lease=10)
    desk.feed(Allocated(desk.take(Allocate).key))
    desk.said(Grant)
    desk.feed(ChunkReceived(desk.link, KEY, 1, 0, 1000))
    desk.lose()
    desk.take(Dial)
    desk.connect(resumed=True)
    assert desk.said(Want).digest == NAME


def test_value_that_a_lost_link_cut_off_goes_on_where_it_stopped() -> None:
    desk = Desk()
    cut_off(desk)
    desk.receive(Share(NAME, KEY, MIB, b"head"))
    grant = desk.said(Grant)
    assert (grant.offset, grant.count) == (1000, MIB - 1000)
    desk.feed(ChunkReceived(desk.link, KEY, 1, 1000, MIB - 1000))
    desk.take(Lend)
    desk.batch()
    desk.quiet()


def test_value_under_another_stream_begins_anew() -> None:
    desk = Desk()
    cut_off(desk)
    desk.receive(Share(NAME, KEY + 1, MIB, b"head"))
    assert desk.take(Release) == Release(KEY, kept=True)
    assert desk.take(Allocate).key == KEY + 1


def test_value_goes_with_its_last_job_from_memory_and_slots() -> None:
    desk = Desk()
    begin(desk)
    desk.receive(Job(2, FunctionKind.REGISTERED, bytes(32), "m:g", shares=NAME))
    desk.assign(1, lease=10)
    arrive(desk)
    desk.take(Lend)
    desk.done(desk.batch())
    desk.result([10])
    desk.confirm(10)
    desk.receive(Forget(1))
    assert desk.take(Unteach).job == 1
    desk.quiet()
    desk.receive(Forget(2))
    assert desk.take(TakeBack) == TakeBack(0, NAME)
    assert desk.take(Release) == Release(KEY, kept=True)
    desk.quiet()


def test_value_that_is_here_is_not_sent_again() -> None:
    desk = Desk()
    begin(desk)
    desk.assign(1, lease=10)
    arrive(desk)
    desk.receive(Share(NAME, KEY + 1, MIB, b"head"))
    assert desk.said(Abort).code == Code.NORMAL


def test_value_without_memory_fails_its_tasks_and_is_asked_for_again_by_later_ones() -> None:
    desk = Desk()
    begin(desk)
    desk.assign(1, lease=10)
    desk.take(Allocate)
    desk.feed(Allocated(KEY, "Cannot allocate memory"))
    assert b"no memory for its put values: Cannot" in bytes(desk.result([10], Status.UNRUNNABLE).heads)
    abort = desk.said(Abort)
    assert (abort.stream, abort.attempt, abort.code) == (KEY, 1, Code.GONE)
    desk.assign(1, lease=11)
    assert desk.said(Want).digest == NAME


def test_value_larger_than_the_arena_is_refused() -> None:
    desk = Desk(arena_bytes=MIB)
    begin(desk, size=2 * MIB)
    desk.receive(Assign(10, 1, 0, 1, array("I", [0]), array("Q"), b""))
    assert b"larger than this worker's arena" in bytes(desk.result([10], Status.UNRUNNABLE).heads)
    desk.quiet()


