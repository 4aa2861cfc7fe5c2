"""messages.py: the records and the limits agree with each other."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from starcore import messages
from starcore.messages import Message

RECORDS = typing.get_args(Message)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_record_is_slotted_so_that_a_misspelt_field_raises(record: type) -> None:
    assert dataclasses.is_dataclass(record)
    assert not hasattr(record, "__dict__") or "__dict__" not in dir(record)
    required = [f for f in dataclasses.fields(record) if f.default is f.default_factory is dataclasses.MISSING]
    made = record(*(0 for _ in required))
    with pytest.raises(AttributeError):
        made.misspelt = 1


def test_defaults_are_never_shared_between_records() -> None:
    first, second = messages.Ack(), messages.Ack()
    first.sequences.append(1)
    assert len(second.sequences) == 0


def test_a_head_fits_a_batch_and_a_batch_fits_a_frame() -> None:
    assert messages.HEAD_BYTES_MAX <= messages.BATCH_BYTES_MAX <= messages.FRAME_PAYLOAD_BYTES_MAX
    columns = 4 + 8 + 8 + 8 + 1
    assert messages.BATCH_TASKS_MAX * columns + messages.TEXT_BYTES_MAX <= messages.FRAME_META_BYTES_MAX
    assert messages.CHUNK_BYTES_MAX <= messages.FRAME_PAYLOAD_BYTES_MAX


def test_a_task_and_a_blob_never_share_a_stream() -> None:
    largest_task = messages.JOB_MAX << 32 | 0xFFFF_FFFF
    assert largest_task < messages.BLOB_STREAM < 1 << 64


def test_arrays_beyond_four_gib_have_room_in_every_size() -> None:
    assert messages.BODY_BYTES_MAX > 1 << 40
