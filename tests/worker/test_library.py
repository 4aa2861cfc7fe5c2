"""Jobs and blobs that a worker was told of."""

from __future__ import annotations

from array import array

from starcore.messages import BLOB_STREAM, FunctionKind, Job
from starcore.worker.library import IDLE_BLOBS_MAX, Entry, Library, Volume
from starcore.worker.runs import Run

DIGEST = b"d" * 32


def job(number: int, digest: bytes = DIGEST) -> Job:
    return Job(number, FunctionKind.SHIPPED, digest, "fn")


def test_a_job_wants_a_blob_that_is_not_here() -> None:
    library = Library()
    assert library.add_job(job(1))
    assert library.lacks(library.jobs[1])
    assert library.missing() == [DIGEST]
    assert not library.add_job(Job(2, FunctionKind.REGISTERED, bytes(32), "lab:fit"))
    assert not library.lacks(library.jobs[2])


def test_runs_wait_for_the_blob() -> None:
    library = Library()
    library.add_job(job(1))
    run = Run(1, 1, 1, 1, array("I", [0]), b"")
    library.jobs[1].waiting.append(run)
    library.add_volume(Volume(DIGEST, 3, b"abc"))
    library.check()
    assert library.complete(DIGEST) == [run]
    library.check()
    assert not library.add_job(job(2))


def test_idle_blobs_are_evicted_the_oldest_first() -> None:
    library = Library()
    for number in range(IDLE_BLOBS_MAX + 2):
        digest = number.to_bytes(32, "little")
        library.add_volume(Volume(digest, 1, b"x"))
        library.complete(digest)
    library.add_job(job(1, bytes(32)))
    assert [volume.digest[0] for volume in library.evict()] == [1]
    library.forget(1)
    assert [volume.digest[0] for volume in library.evict()] == [2]
    assert library.evict() == []


def test_what_did_not_arrive_whole_is_taken_out() -> None:
    library = Library()
    library.add_volume(Volume(DIGEST, 3, key=BLOB_STREAM | 1))
    assert [volume.digest for volume in library.incomplete()] == [DIGEST]
    assert library.incomplete() == []


def test_a_job_learns_how_long_its_tasks_take() -> None:
    entry = Entry(job(1))
    entry.measured(1.0)
    entry.measured(3.0)
    assert entry.mean_seconds == 2.0


def test_forgetting_an_unknown_job_is_nothing() -> None:
    assert Library().forget(5) is None
