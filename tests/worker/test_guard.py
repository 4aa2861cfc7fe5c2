"""What a manager says that cannot be: its link is closed, and nothing of it was acted upon."""

from __future__ import annotations

from array import array

import pytest

from starcore.errors import OverrunError, UnexpectedError
from starcore.messages import BLOB_STREAM, Assign, Blob, FunctionKind, Job, Message, Welcome
from starcore.worker import guard
from starcore.worker.guard import Guard
from starcore.worker.library import Library, Volume
from starcore.worker.memory import Demand, Memory
from starcore.worker.runs import Run


class Post:
    """A guard and what it looks at."""

    def __init__(self) -> None:
        self.library, self.memory = Library(), Memory(1 << 20)
        self.waiting: list[Run] = []
        self.guard = Guard(self.library, self.memory, self.waiting)

    def refuses(self, message: Message, error: type[Exception] = UnexpectedError) -> None:
        with pytest.raises(error):
            self.guard.look(message)


def assign(lease: int, tasks: int = 1, bodies: tuple[int, ...] = ()) -> Assign:
    return Assign(lease, 1, 0, 1, array("I", [0] * tasks), array("Q", bodies), b"")


def welcome(*, resumed: bool) -> Welcome:
    return Welcome(1, 1, resumed)


def test_lease_numbers_only_grow_within_a_session() -> None:
    post = Post()
    post.guard.look(assign(10, 5))
    post.refuses(assign(14))
    post.guard.look(welcome(resumed=True))
    post.refuses(assign(10))
    post.guard.look(assign(15))
    post.guard.look(welcome(resumed=False))
    post.guard.look(assign(10))


def test_lease_whose_memory_is_not_gone_yet_is_refused() -> None:
    post = Post()
    post.memory.demand(Demand(11, 1, 100))
    post.refuses(assign(10, 2, (0, 100)))


def test_leases_without_end_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LEASES_MAX", 5)
    post = Post()
    post.waiting.append(Run(1, 1, 0, 1, array("I", [0] * 4), b""))
    post.guard.look(assign(10))
    post.refuses(assign(11, 2), OverrunError)


@pytest.mark.parametrize("stream", [7, BLOB_STREAM | 1, BLOB_STREAM | 2])
def test_blob_needs_a_stream_of_its_own(stream: int) -> None:
    post = Post()
    post.library.add_volume(Volume(bytes(32), 100, key=BLOB_STREAM | 1))
    post.memory.demand(Demand(BLOB_STREAM | 2, 1, 100))
    post.refuses(Blob(b"d" * 32, stream, 100))
    post.guard.look(Blob(b"d" * 32, stream, 0, b"one that comes whole"))


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOBS_MAX", "BLOBS_MAX"):
        monkeypatch.setattr(guard, name, 1)
    post = Post()
    job = Job(1, FunctionKind.REGISTERED, bytes(32), "f")
    post.guard.look(job)
    post.library.add_job(job)
    post.refuses(job, OverrunError)
    post.library.add_volume(Volume(bytes(32), 1, b"x"))
    post.refuses(Blob(b"d" * 32, 0, 0, b"x"), OverrunError)


def test_blobs_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BLOBS_ARRIVING_MAX", 1)
    post = Post()
    post.library.add_volume(Volume(bytes(32), 100, key=BLOB_STREAM | 1))
    post.refuses(Blob(b"d" * 32, BLOB_STREAM | 2, 100), OverrunError)
