"""The worker's own events and actions: records that compare by what they say."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from starcore.worker import orders


def test_every_order_is_a_slotted_record() -> None:
    records = [kind for kind in vars(orders).values() if is_dataclass(kind) and kind.__module__ == orders.__name__]
    assert len(records) >= 19
    for kind in records:
        assert hasattr(kind, "__slots__"), kind
        assert {field.name for field in fields(kind)} == set(kind.__slots__)


def test_orders_that_say_the_same_are_equal() -> None:
    assert orders.Release(1) == orders.Release(1, kept=False)
    assert orders.Recall(0, 1) != orders.Recall(0, 2)
