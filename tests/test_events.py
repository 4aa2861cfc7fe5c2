"""events.py: the three cores are cores, and the shared events and actions are plain records."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from starcore import events
from starcore.client.core import ClientCore
from starcore.events import Core
from starcore.manager.core import ManagerCore
from starcore.worker.core import WorkerCore

RECORDS = [cls for _, cls in inspect.getmembers(events, dataclasses.is_dataclass) if cls.__module__ == events.__name__]


@pytest.mark.parametrize("core", [ClientCore, ManagerCore, WorkerCore])
@pytest.mark.parametrize("method", ["handle", "deadline", "check"])
def test_every_role_has_a_core_that_the_driver_can_turn(core: type, method: str) -> None:
    wanted = list(inspect.signature(getattr(Core, method)).parameters)
    assert list(inspect.signature(getattr(core, method)).parameters) == wanted


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_slotted_and_compare_by_value(record: type) -> None:
    values = range(len(dataclasses.fields(record)))
    assert record(*values) == record(*values)
    with pytest.raises(AttributeError):
        record(*values).misspelt = 1


def test_what_concerns_a_link_names_it_first() -> None:
    linked = [record for record in RECORDS if "link" in record.__slots__]
    assert len(linked) == 9
    assert all(record.__slots__[0] == "link" for record in linked)
