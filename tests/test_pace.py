"""The size of a link's chunks follows from how soon it takes the next one."""

from __future__ import annotations

from starcore.messages import CHUNK_BYTES_MAX
from starcore.pace import (
    AMONG_SECONDS,
    CHUNK_BYTES_AMONG,
    CHUNK_BYTES_FIRST,
    CHUNK_BYTES_MIN,
    QUICK_SECONDS,
    SLOW_SECONDS,
    Pace,
)


def carry(pace: Pace, seconds: float, length: int | None = None) -> int:
    """Write a chunk that is out after so long; return what the next one may measure."""
    pace.begin(pace.chunk_bytes if length is None else length, 100.0)
    pace.end(100.0 + seconds)
    return pace.chunk_bytes


def test_chunks_of_a_quick_link_grow_to_what_a_frame_allows():
    pace = Pace()
    sizes = [carry(pace, 0.0) for _ in range(10)]
    assert sizes[:2] == [2 * CHUNK_BYTES_FIRST, 4 * CHUNK_BYTES_FIRST]
    assert sizes[-1] == CHUNK_BYTES_MAX


def test_chunks_of_a_slow_link_shrink_and_never_below_the_least():
    pace = Pace()
    assert [carry(pace, 1.0) for _ in range(10)][-1] == CHUNK_BYTES_MIN


def test_chunks_that_take_neither_long_nor_short_keep_their_size():
    pace = Pace()
    for seconds in (1.1 * QUICK_SECONDS, 0.9 * SLOW_SECONDS):
        assert carry(pace, seconds) == CHUNK_BYTES_FIRST


def test_short_chunk_on_a_quick_link_proves_nothing():
    assert carry(Pace(), 0.0, length=10) == CHUNK_BYTES_FIRST


def test_short_chunk_that_takes_long_proves_that_the_link_is_slow():
    assert carry(Pace(), 1.0, length=10) == CHUNK_BYTES_FIRST // 2


def test_time_in_which_nothing_was_written_does_not_count():
    pace = Pace()
    carry(pace, 0.0)
    pace.end(500.0)
    assert pace.chunk_bytes == 2 * CHUNK_BYTES_FIRST


def test_size_recovers_when_the_link_does():
    pace = Pace()
    for _ in range(10):
        carry(pace, 1.0)
    for _ in range(10):
        carry(pace, 0.001)
    assert pace.chunk_bytes == CHUNK_BYTES_MAX


def test_chunks_of_a_quick_link_are_small_while_small_tasks_pass_among_them():
    pace = Pace()
    for _ in range(10):
        carry(pace, 0.0)
    pace.among(100.0)
    assert [carry(pace, 0.0) for _ in range(10)] == [CHUNK_BYTES_AMONG] * 10


def test_chunks_grow_again_when_no_small_task_has_come_for_a_while():
    pace = Pace()
    pace.among(100.0 - AMONG_SECONDS)
    assert carry(pace, 0.0) == 2 * CHUNK_BYTES_AMONG


def test_chunks_of_a_slow_link_stay_smaller_still_among_small_tasks():
    pace = Pace()
    for _ in range(10):
        carry(pace, 1.0)
    pace.among(100.0)
    assert carry(pace, 1.0) == CHUNK_BYTES_MIN
