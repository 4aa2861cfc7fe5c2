"""Small records: a job's begins with nothing, an answer's memory is its landing's."""

from __future__ import annotations

from starcore.client.records import Incoming, JobRecord
from starcore.messages import FunctionKind, Job


def test_record_of_a_job_begins_with_nothing() -> None:
    record = JobRecord(3, "key", Job(3, FunctionKind.SHIPPED, b"d" * 32, "f"), b"blob")
    assert (record.number, record.key, record.next, record.begun, record.futures) == (3, "key", 0, False, {})


def test_answer_without_a_place_has_no_memory_and_says_why() -> None:
    error = ValueError("too large")
    incoming = Incoming(2, None, error)
    assert (incoming.attempt, incoming.view, incoming.landing, incoming.error) == (2, None, None, error)
