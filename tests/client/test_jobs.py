"""Detached calls and how their answers are put together again, on a real star of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from starcore import LocalStar
from starcore.client import jobs
from starcore.client.api import Client
from starcore.client.jobs import DetachedJob, _make_name, _read_note
from starcore.client.stored import StoredJobs
from starcore.errors import ArgumentTypeError, ArgumentValueError, StoredJobError
from starcore.messages import Deed

SECONDS = 30.0


@pytest.fixture(scope="module")
def star() -> Iterator[LocalStar]:
    with LocalStar(workers=1, slots=2) as star:
        yield star


@pytest.fixture
def client(star: LocalStar) -> Iterator[Client]:
    """A client of a star that keeps nothing, before and after."""
    with star.client() as client:
        assert client.jobs() == []
        yield client
        for job in client.jobs():
            job.forget()
        assert client.status()["held_bytes"] == 0


def double(block: Any) -> Any:
    return block * 2


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number * number


def wait_for_ever(number: int) -> None:
    import time  # noqa: PLC0415 - pickled by value

    time.sleep(1000)


# -- one answer again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 100, 7, "auto"])
@pytest.mark.parametrize("axis", [0, 1])
def test_array_comes_back_as_one_whatever_its_blocks_were(client: Client, chunks: Any, axis: int) -> None:
    array = np.arange(300 * 500.0).reshape(300, 500)
    job = client.detached("scan").submit_array(double, array, chunks=chunks, axis=axis)
    answer = job.result(SECONDS)
    assert np.array_equal(answer, array * 2)
    with pytest.raises(StoredJobError, match="no stored job 'scan'"):
        job.status()


def test_answer_is_received_into_the_callers_array(client: Client) -> None:
    array = np.arange(300 * 500.0).reshape(300, 500)
    job = client.detached().submit_array(double, array, chunks=100)
    out = np.empty_like(array)
    assert job.result(SECONDS, out=out) is out
    assert np.array_equal(out, array * 2)
    whole = client.detached().submit_array(double, array)
    with pytest.raises(ArgumentValueError, match="in blocks"):
        whole.result(SECONDS, out=out)


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map_comes_back_as_a_list_in_order(client: Client, chunksize: int | None) -> None:
    job = client.detached().map(pow, range(100), [2] * 1000, chunksize=chunksize)
    assert job.result(SECONDS) == [number * number for number in range(100)]


def test_map_of_arrays_comes_back_too(client: Client) -> None:
    arrays = [np.full(20_000, number) for number in range(5)]
    answers = client.detached().map(double, arrays, chunksize=2).result(SECONDS)
    assert [int(answer[0]) for answer in answers] == [0, 2, 4, 6, 8]


def test_call_and_registered_options_travel_with_the_job(client: Client) -> None:
    assert client.options(retries=1).detached("one").submit(divmod, 17, 5).result(SECONDS) == (3, 2)


def test_calls_may_say_detach_themselves(client: Client) -> None:
    job: Any = client.submit_array(double, np.ones((4, 4)), chunks=2, detach=True, name="scan-7")
    assert (type(job), job.name) == (DetachedJob, "scan-7")
    mapped: Any = client.map(pow, [2, 3], [2, 2], detach=True)
    assert mapped.result(SECONDS) == [4, 9]
    assert np.array_equal(job.result(SECONDS), np.full((4, 4), 2.0))


def test_kept_job_can_be_fetched_once_more(client: Client) -> None:
    job = client.detached("scan").map(pow, [2], [5])
    assert job.result(SECONDS, keep=True) == job.result(SECONDS) == [32]
    job.forget()


# -- in parts ----------------------------------------------------------------------------------------------------


def test_partial_results_come_with_their_index_and_failures_as_values(client: Client) -> None:
    job = client.detached("squares").map(fail_at_three, range(6), chunksize=2)
    assert job.wait(SECONDS)
    for found in (dict(job.results(SECONDS)), dict(job.results(wait=False))):
        assert sorted(found) == list(range(6))
        assert isinstance(found.pop(3), ValueError)
        assert found == {0: 0, 1: 1, 2: 4, 4: 16, 5: 25}
    with pytest.raises(ValueError, match="three"):
        job.result(SECONDS)
    assert job.status()["done"] == 3


def test_partial_results_of_blocks_are_the_blocks(client: Client) -> None:
    array = np.arange(30.0).reshape(10, 3)
    job = client.detached().submit_array(double, array, chunks=4)
    blocks = dict(job.results(SECONDS))
    assert [blocks[index].shape for index in range(3)] == [(4, 3), (4, 3), (2, 3)]
    assert np.array_equal(np.concatenate([blocks[index] for index in range(3)]), array * 2)


def test_looking_at_what_is_there_does_not_wait(client: Client) -> None:
    job = client.detached("slow").map(wait_for_ever, range(3), chunksize=1)
    assert list(job.results(wait=False)) == []
    assert (job.done(), job.wait(0.0)) == (False, False)
    with pytest.raises(NotInTime):
        job.result(0.05)
    with pytest.raises(NotInTime):
        next(job.results(0.05))
    job.cancel()
    assert job.wait(SECONDS)
    assert job.status()["cancelled"] == 3
    with pytest.raises(CancelledError):
        job.result(SECONDS)


# -- a manager that is away --------------------------------------------------------------------------------------


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> list[Deed]:
    """What the manager does not answer."""
    unheard: list[Deed] = []
    ask = StoredJobs.inquire

    def inquire(self: StoredJobs, deed: Deed = Deed.LIST, name: str = "", *seconds: Any) -> list[dict[str, Any]]:
        if deed in unheard:
            raise TimeoutError("the manager did not answer")
        return ask(self, deed, name, *seconds)

    monkeypatch.setattr(StoredJobs, "inquire", inquire)
    return unheard


def test_answer_is_not_lost_since_its_job_cannot_be_forgotten(
    client: Client, deaf: list[Deed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = client.detached("scan").submit(double, np.ones(3))
    deaf.append(Deed.FORGET)
    assert np.array_equal(job.result(SECONDS), [2, 2, 2])
    job.save(tmp_path / "answer.npy", SECONDS)
    assert np.array_equal(np.load(tmp_path / "answer.npy"), [2, 2, 2])
    said = "the answer of scan is here, but the manager still has the job: the manager did not answer"
    assert caplog.text.count(said) == 2
    deaf.clear()


def test_wait_goes_on_while_the_manager_is_away(client: Client, deaf: list[Deed]) -> None:
    job = client.detached("scan").submit(double, 1)
    deaf.append(Deed.LIST)
    assert job.wait(0.1) is False
    Timer(0.5, deaf.clear).start()
    assert job.wait() is True


def test_answers_of_a_job_that_has_all_run_are_not_let_go_before_the_whole_is_here(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, takes = StoredJobs.attach, []

    def watched(self: StoredJobs, name: str, build: Any, *, take: bool, timeout: float | None) -> Any:
        takes.append(take)
        return attach(self, name, build, take=take, timeout=timeout)

    monkeypatch.setattr(StoredJobs, "attach", watched)
    job = client.detached("squares").map(fail_at_three, range(6), chunksize=1)
    assert job.wait(SECONDS)
    with pytest.raises(ValueError, match="three"):
        job.result(SECONDS)
    job = client.detached("slow").submit(wait_for_ever, 1)
    with pytest.raises(NotInTime):
        job.result(0.05)
    assert takes == [False, True]


# -- found again -------------------------------------------------------------------------------------------------


def test_another_client_finds_the_job_by_name_and_in_the_list(star: LocalStar, client: Client) -> None:
    job = client.detached().map(pow, [3], [3])
    with star.client() as other:
        assert [found.name for found in other.jobs()] == [job.name]
        assert other.job(job.name).result(SECONDS) == [27]
    assert repr(job) == f"<starcore.DetachedJob {job.name!r}>"


def test_job_that_is_not_there_says_so(client: Client) -> None:
    with pytest.raises(StoredJobError, match="no stored job 'gone'"):
        client.job("gone")


def test_job_forgotten_meanwhile_ends_the_wait(star: LocalStar, client: Client) -> None:
    job = client.detached("slow").map(wait_for_ever, [1])
    results = job.results(SECONDS)
    with star.client() as other:
        other.job("slow").forget()
    with pytest.raises(StoredJobError):
        next(results)


# -- refused -----------------------------------------------------------------------------------------------------


def test_name_that_is_taken_or_wrong_is_refused(client: Client) -> None:
    client.detached("scan").submit(abs, -1)
    with pytest.raises(ArgumentValueError, match="already"):
        client.detached("scan").submit(abs, -1)
    with pytest.raises(ArgumentValueError, match="printable"):
        client.detached("")
    with pytest.raises(ArgumentTypeError, match="a text"):
        client.detached(7)  # type: ignore[arg-type]


def test_put_values_are_refused(client: Client) -> None:
    with client.put(np.ones(10)) as ref:
        for call in (lambda: client.detached().submit(double, ref), lambda: client.detached().map(double, [ref])):
            with pytest.raises(ArgumentValueError, match="put value"):
                call()
        with pytest.raises(ArgumentValueError, match="put value"):
            client.detached().submit(lambda: ref)


def test_what_only_attached_calls_have_is_refused(client: Client) -> None:
    with pytest.raises(ArgumentValueError, match="no `out`"):
        client.submit_array(double, np.ones(3), out=np.ones(3), detach=True)
    with pytest.raises(ArgumentValueError, match="no `timeout`"):
        client.map(double, [1], timeout=3, detach=True)
    with pytest.raises(ArgumentValueError, match="no items"):
        client.detached().map(double, [])


def test_untrusting_client_refuses_pickled_answers_of_stored_jobs_too(star: LocalStar, client: Client) -> None:
    job = client.detached("set").submit(frozenset, [1, 2])
    with star.client(trust_results=False) as other, pytest.raises(Exception, match="trust"):
        other.job("set").result(SECONDS)
    assert job.result(SECONDS) == {1, 2}


# -- names and notes ---------------------------------------------------------------------------------------------


def test_made_name_says_what_and_when_and_is_never_the_same() -> None:
    names = {_make_name("package.module:fit") for _ in range(50)}
    assert len(names) > 40
    assert all(name.startswith("fit-20") for name in names)
    assert _make_name("").startswith("job-")


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"kind": "call", "more": 1}garbage',
        b'{"kind": "map", "size": 0, "total": 3}',
        b'{"kind": "map", "size": 2, "total": 30}',
        b'{"kind": "map", "size": 1.5, "total": 3}',
        b'{"kind": "blocks", "rows": 1, "length": 3}',
        b'{"kind": "blocks", "rows": 1, "length": 1e300, "axis": 0}',
        b'{"kind": "tarot"}',
    ],
)
def test_note_of_another_program_is_refused(note: bytes) -> None:
    with pytest.raises(StoredJobError, match="not detached by this program"):
        _read_note(note, 3)


def test_blocks_nobody_sized_are_many_and_none_is_huge() -> None:
    view = jobs.Detached(lambda: _Session(slots=100), lambda fn: None, None, 0.0)  # type: ignore[arg-type, return-value]
    assert view._rows(np.empty((8000, 2)), 0) == 10
    huge = np.lib.stride_tricks.as_strided(np.zeros(1), (1 << 20, 1 << 20), (0, 0))
    assert view._rows(huge, 0) == 8
    assert view._rows(np.empty((0, 2)), 0) == 1


class _Session:
    def __init__(self, slots: int) -> None:
        self.slots = slots
