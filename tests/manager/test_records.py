"""The journal's vocabulary stands alone: a record is what it says."""

from __future__ import annotations

from dataclasses import fields

from starcore.manager import records
from starcore.manager.journal import TABLE


def test_every_record_has_the_fields_of_its_row_in_their_order() -> None:
    for _, record, row, payload in TABLE:
        names = [name for name, _ in row] + ([payload] if payload else [])
        assert [field.name for field in fields(record)] == names


def test_columns_of_two_records_are_not_the_same_one() -> None:
    first, second = records.Accepted(1, 0), records.Accepted(1, 0)
    first.head_sizes.append(1)
    assert not second.head_sizes
