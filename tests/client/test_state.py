"""The client's books: every transition, the credit, and what stays when much came and went."""

from __future__ import annotations

import random
from array import array
from itertools import product

import pytest

from starcore.client.state import (
    CANCELLING,
    DEAD_RUNS_MAX,
    DONE,
    LANDING,
    LEGAL,
    SENT,
    TASK_OVERHEAD_BYTES,
    WAITING,
    Ledger,
    Run,
    submit_of,
)
from starcore.messages import BATCH_BYTES_MAX, FunctionKind, Job

STATES = (WAITING, SENT, LANDING, CANCELLING, DONE)
ROAD = {WAITING: (), SENT: (SENT,), LANDING: (SENT, LANDING), CANCELLING: (SENT, CANCELLING), DONE: (SENT, DONE)}


def ledger(*priorities: int, submit_bytes: int = 1 << 20) -> Ledger:
    books = Ledger()
    books.submit_bytes = submit_bytes
    for number, priority in enumerate(priorities or (0,), 1):
        books.begin(Job(number, FunctionKind.REGISTERED, bytes(32), "m:f", priority=priority))
    return books


def cut_all(books: Ledger) -> list[Run]:
    runs = []
    while (piece := books.cut()) is not None:
        runs.append(piece[0])
    books.check()
    return runs


@pytest.mark.parametrize(("before", "after"), list(product(STATES, STATES)))
def test_every_pair_of_states_is_legal_or_refused(before: int, after: int) -> None:
    books = ledger()
    books.call(1, 0, [b"head"], array("Q"))
    run = books.find(books.jobs[1], 0)
    assert run is not None
    for state in ROAD[before]:
        books.move(run, 0, state)
    if (before, after) in LEGAL:
        books.move(run, 0, after)
        assert run.states[0] == after
    else:
        with pytest.raises(AssertionError):
            books.move(run, 0, after)


def test_runs_of_tasks_with_and_without_bodies_are_joined() -> None:
    books = ledger()
    books.call(1, 0, [b"a"], array("Q"))
    books.call(1, 1, [b"b"], array("Q", [9]))
    books.call(1, 2, [b"c"], array("Q"))
    (run,) = cut_all(books)
    message = submit_of(run, 0, 3)
    assert (list(message.body_sizes), message.heads) == ([0, 9, 0], b"abc")
    assert submit_of(run, 2, 3).body_sizes == array("Q")


def test_finished_runs_are_swept() -> None:
    books = ledger()
    books.call(1, 0, [b"x"], array("Q"))
    books.cut()
    for index in range(1, 10 * DEAD_RUNS_MAX):
        books.call(1, index, [b"x"], array("Q"))
        books.cut()
        run = books.find(books.jobs[1], index)
        assert run is not None
        books.settle(run, index - run.first)
        assert books.find(books.jobs[1], 0) is not None
    assert len(books.jobs[1].runs) <= DEAD_RUNS_MAX + 2
    books.check()


def test_new_link_sends_in_the_order_of_the_calls() -> None:
    books = ledger(0, 0, 1)
    for job in (2, 1, 3, 2):
        books.call(job, 0 if job != 2 or not books.jobs[2].runs else 5, [b"x"], array("Q"))
        cut_all(books)
    books.rewind(known=True)
    assert [run.entry.job.job for run in cut_all(books)] == [3, 2, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_accounts_hold_whatever_comes_in_whatever_order(seed: int) -> None:
    chance = random.Random(seed)
    books = ledger(0, 0, 3, submit_bytes=20 * (TASK_OVERHEAD_BYTES + 3))
    ends = {1: 0, 2: 0, 3: 0}
    for _ in range(300):
        job = chance.randint(1, 3)
        entry = books.jobs[job]
        move = chance.choice(("call", "cut", "settle", "cancel", "land", "rewind"))
        index = chance.randrange(max(1, ends[job]))
        run = books.find(entry, index)
        state = DONE if run is None else run.states[index - run.first]
        if move == "call":
            count = chance.randint(1, 9)
            books.call(job, ends[job], [b"abc"] * count, array("Q", [1] * count if chance.random() < 0.3 else []))
            ends[job] += count
        elif move == "cut":
            books.cut()
        elif move == "rewind" and chance.random() < 0.2:
            books.rewind(known=chance.random() < 0.5)
        elif run is not None and move == "settle" and state != DONE:
            books.settle(run, index - run.first)
        elif run is not None and move == "cancel" and state in {WAITING, SENT}:
            books.cancel(run, index - run.first, kill=False)
        elif run is not None and move == "land" and state == SENT:
            books.move(run, index - run.first, LANDING)
        books.check()
        assert books.charged <= max(books.submit_bytes, TASK_OVERHEAD_BYTES + 3) + 20 * (TASK_OVERHEAD_BYTES + 3)


@pytest.mark.parametrize("seed", range(30))
def test_stretches_are_cut_and_settled_as_one_task_after_the_other_would_be(seed: int) -> None:
    """The credit, the sizes and the marks of whole stretches, against the rule for each task."""
    chance = random.Random(seed)
    books = ledger(submit_bytes=chance.choice((0, 300, 5_000, 1 << 20)))
    heads = [bytes(chance.choice((0, 1, 40, 60_000))) for _ in range(chance.randint(1, 60))]
    books.call(1, 0, heads, array("Q"))
    run = books.jobs[1].runs[0]
    for at in range(len(heads)):
        if chance.random() < 0.1:
            books.cancel(run, at, kill=False)
    left = {at for at, state in enumerate(run.states) if state == WAITING}
    while left:
        charged = books.charged
        piece = books.cut()
        if piece is None:
            sent = [at for at, state in enumerate(run.states) if state == SENT]
            assert sent, "the credit is free, and nothing went"
            assert charged + len(heads[min(left)]) + TASK_OVERHEAD_BYTES > books.submit_bytes
            assert books.settle_sent(run, sent[0], sent[0] + 1)
        else:
            _, start, stop = piece
            weight = sum(map(len, heads[start:stop]))
            assert set(range(start, stop)) <= left
            assert stop - start == 1 or weight <= BATCH_BYTES_MAX
            assert not charged or books.charged <= books.submit_bytes
            assert books.charged == charged + weight + (stop - start) * TASK_OVERHEAD_BYTES
            left -= set(range(start, stop))
        books.check()


def test_stretch_is_settled_at_once_only_where_every_task_was_sent_and_has_no_body() -> None:
    books = ledger()
    books.call(1, 0, [b"head"] * 6, array("Q"))
    run = cut_all(books)[0]
    books.cancel(run, 4, kill=False)
    assert not books.settle_sent(run, 2, 5)
    assert books.settle_sent(run, 0, 4)
    books.check()
    assert (books.outstanding, books.jobs[1].left) == (1, 2)
    books.settle(run, 4)
    assert books.settle_sent(run, 5, 6)
    books.check()
    assert books.charged == books.jobs[1].left == 0
    books.call(1, 6, [b"head"], array("Q", [9]))
    assert not books.settle_sent(cut_all(books)[0], 0, 1)
