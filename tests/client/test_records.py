"""Small records: a job's begins with nothing, an answer's memory is its landing's."""

from __future__ import annotations

from starcore.client.records import Incoming, JobRecord, harmless
from starcore.errors import ResultError
from starcore.messages import FunctionKind, Job


def test_record_of_a_job_begins_with_nothing() -> None:
    record = JobRecord(3, "key", Job(3, FunctionKind.SHIPPED, b"d" * 32, "f"), b"blob")
    assert (record.number, record.key, record.next, record.begun, record.futures) == (3, "key", 0, False, {})


def test_answer_without_a_place_has_no_memory_and_says_why() -> None:
    error = ValueError("too large")
    incoming = Incoming(2, None, error)
    assert (incoming.attempt, incoming.view, incoming.landing, incoming.error) == (2, None, None, error)


def test_only_what_would_end_a_thread_is_told_as_an_error_of_ours() -> None:
    error = ValueError("bad")
    assert harmless(error) is error
    told = harmless(SystemExit(3))
    assert isinstance(told, ResultError)
    assert str(told) == "the answer cannot be loaded: SystemExit: 3"
