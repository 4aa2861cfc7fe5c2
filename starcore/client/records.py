"""What a session knows of a job while calls of it are made, and of an answer while it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starcore.errors import ResultError
from starcore.messages import Job
from starcore.pickling import Landing

if TYPE_CHECKING:
    from starcore.client.futures import TaskFuture


class JobRecord:
    """A function with its options, as the calling threads see it: the next index and the open futures."""

    __slots__ = ("begun", "blob", "futures", "job", "key", "next", "number")

    def __init__(self, number: int, key: Any, job: Job, blob: bytes) -> None:
        self.number = number
        self.key = key
        self.job = job
        self.blob = blob
        self.next = 0
        self.begun = False
        self.futures: dict[int, TaskFuture] = {}


class Incoming:
    """Where a body lands; `error` where there is no such place and the bytes are thrown away."""

    __slots__ = ("attempt", "error", "landing", "view")

    def __init__(self, attempt: int, place: Landing | None, error: BaseException | None = None) -> None:
        self.attempt = attempt
        self.landing = place
        self.view = None if place is None else place.buffer
        self.error = error


def harmless(error: BaseException) -> Exception:
    """What a future raises whose answer raised this where it was loaded: nothing that ends the thread that asks."""
    if isinstance(error, Exception):
        return error
    return ResultError(f"the answer cannot be loaded: {type(error).__name__}: {error}")
