"""Jobs that outlive this process: made here, and come back for by the same client.

A detached job's arguments and answers are the manager's. How its answers become one again is written in the *note*
that travels with it, a JSON object (never a pickle)::

    call     {"kind": "call"}                                              one task
    blocks   {"kind": "blocks", "rows": 4096, "length": 100000, "axis": 0}    a task a block, joined along the axis
    map      {"kind": "map", "size": 100, "total": 5000}                   a task a batch, the last one shorter

Reading a job makes a future a task, in the session (`stored.py`); what is here turns them into values.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, as_completed, wait
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from starcore.client import arrays
from starcore.client.arguments import check_iterable, further_arguments, number, positive, seconds_above_zero
from starcore.client.futures import BlockFuture, TaskFuture
from starcore.client.npy import BatchJoiner, FileJoiner, LoneJoiner, NpyFile
from starcore.client.progress import load_tqdm
from starcore.client.records import JobRecord
from starcore.client.session import Session
from starcore.client.stored import ANSWER_SECONDS
from starcore.errors import ArgumentTypeError, ArgumentValueError, StarCoreError, StoredJobError
from starcore.messages import Deed, Job
from starcore.pickling import Failed, Packed, pack_array_call, pack_call, pack_calls
from starcore.texts import plain

JOB_TASKS_MAX = 1 << 22
"""Tasks of one stored job; more calls go into batches."""
NAME_CHARS_MAX = 100
AUTO_TASKS_MIN = 64
"""Into so many tasks a job is cut at least, where nobody says how: who computes them is not known yet."""
AUTO_TASKS_PER_SLOT = 8
AUTO_BLOCK_BYTES = 64 << 20
POLL_SECONDS = 0.5
LOOK_SECONDS_MIN = 2.0
"""So long a look waits for the manager's word, also of somebody who wants to wait for less."""
TRIM_SECONDS = 0.05
"""What has come meanwhile is the most that is in memory of an answer that goes into a file."""

Array: TypeAlias = "np.ndarray[Any, Any]"

_log = logging.getLogger("starcore.client")


class Keeping:
    """What a client can do about jobs that outlive it: a part of `Client`."""

    _client: Any

    def detached(self, name: str | None = None, *, keep_seconds: float | None = None) -> Detached:
        """Return a view of this client whose calls make jobs that outlive it.

        Parameters
        ----------
        name : str, optional
            To find the job again: 1 to 100 printable characters, unique among the stored jobs of this client.
            Without it one is made of the function's name and the time.
        keep_seconds : float, optional
            How long the manager keeps the job after its last change, unless it is forgotten before. At most, and by
            default, as long as the manager keeps any: a week, where it was not told otherwise.

        Returns
        -------
        Detached
            With `submit`, `submit_array` and `map`, which return a `DetachedJob`.

        Examples
        --------
        >>> client.detached("scan-7").submit_array(fft_rows, a, chunks=4096)
        >>> client.job("scan-7").result()  # tomorrow, from anywhere
        """
        if name is not None:
            _check_name(name)
        kept = 0.0 if keep_seconds is None else seconds_above_zero("keep_seconds", keep_seconds)
        return Detached(self._client._lasting, self._job_of, name, kept)

    def _detach(self, name: str | None, **elsewhere: Any) -> Detached:
        """Return the view for a call with `detach`; refuse what only an attached call can have."""
        wrong = ", ".join(f"`{option}`" for option, given in elsewhere.items() if given)
        if wrong:
            raise ArgumentValueError(f"a detached call has no {wrong}: its answers are fetched later")
        return self.detached(name)

    def jobs(self) -> list[DetachedJob]:
        """Return the jobs that the manager keeps for this client, also those that other processes made."""
        rows = self._client._lasting().stored.inquire()
        return [DetachedJob(self._client._lasting, row["name"]) for row in rows]

    def job(self, name: str) -> DetachedJob:
        """Return the job of this name.

        Raises
        ------
        StoredJobError
            The manager keeps none of this name for this client.
        """
        job = DetachedJob(self._client._lasting, _check_name(name))
        job.status()
        return job

    @abstractmethod
    def _job_of(self, fn: Any) -> tuple[Job, bytes]:
        """Make the record of a function's job, and its blob."""


class Detached:
    """Calls whose jobs outlive this process. Made by `Client.detached`.

    Each returns a `DetachedJob` when the manager has all of it, arguments too: this process may end then. Until that it
    may be interrupted, and nothing stays behind. Put values (`Ref`) live with their client, and are refused.
    """

    def __init__(
        self,
        session: Callable[[], Session],
        job_of: Callable[[Any], tuple[Job, bytes]],
        name: str | None,
        keep_seconds: float,
    ) -> None:
        self._session = session
        self._job_of = job_of
        self._name = name
        self._keep_seconds = keep_seconds

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> DetachedJob:
        """Run ``fn(*args, **kwargs)`` on a worker; the result is its result.

        Raises
        ------
        ArgumentValueError
            The name is taken, or the manager has no room for such a job, ever; or a put value is among the arguments.
        """
        return self._send(fn, [pack_call(args, kwargs)], {"kind": "call"})

    def submit_array(
        self,
        fn: Any,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
    ) -> DetachedJob:
        """Run ``fn(array, *args, **kwargs)`` on a worker, or on blocks of the array on all workers.

        Parameters
        ----------
        fn, array, args, kwargs, axis
            As for `Client.submit_array`.
        chunks : int or "auto", optional
            Rows of a block; "auto" makes several blocks a slot, of 64 MiB at most.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As there; or the name is taken, or the manager has no room for such a job, ever.
        """
        arrays.check_array(array)
        further, named = further_arguments(args, kwargs)
        if chunks is None:
            return self._send(fn, [pack_array_call(array, further, named)], {"kind": "call"})
        axis = arrays.check_axis(array, axis)
        rows = self._rows(array, axis) if chunks == "auto" else cast("Any", chunks)
        pieces = arrays.plan(array, rows, axis)
        packs = [pack_array_call(arrays.block(array, piece, axis), further, named) for piece in pieces]
        length = array.shape[axis]
        note = {"kind": "blocks", "rows": min(int(rows), max(1, length)), "length": length, "axis": axis}
        return self._send(fn, packs, note)

    def map(self, fn: Any, *iterables: Iterable[Any], chunksize: int | None = None) -> DetachedJob:
        """Run `fn` on the items of the iterables, taken together; the result is the list of results, in order.

        Parameters
        ----------
        fn, *iterables
            As for `Client.map`; the iterables are read at once.
        chunksize : int, optional
            Calls in a task; without it several tasks a slot.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            As there; or there is no call, the name is taken, or the manager has no room for such a job, ever.
        """
        for iterable in iterables:
            check_iterable(iterable)
        calls = list(zip(*iterables))  # noqa: B905 - as in the builtin
        if not calls:
            raise ArgumentValueError("a detached map of no items: there is nothing to come back for")
        size = positive("chunksize", chunksize) if chunksize is not None else -(-len(calls) // self._tasks())
        packs = [_pack_batch(calls[at : at + size]) for at in range(0, len(calls), size)]
        return self._send(fn, packs, {"kind": "map", "size": size, "total": len(calls)})

    # -- private ---------------------------------------------------------------------------------------------

    def _tasks(self) -> int:
        return max(AUTO_TASKS_MIN, AUTO_TASKS_PER_SLOT * self._session().slots)

    def _rows(self, array: Array, axis: int) -> int:
        length = array.shape[axis]
        row_bytes = max(1, array.nbytes // max(1, length))
        rows: int = min(-(-length // self._tasks()), AUTO_BLOCK_BYTES // row_bytes)
        return max(1, rows)

    def _send(self, fn: Any, packs: Sequence[Packed], note: dict[str, Any]) -> DetachedJob:
        if any(packed.refs for packed in packs):
            raise ArgumentValueError("a put value lives with its client: pass the value itself to a detached call")
        if len(packs) > JOB_TASKS_MAX:
            raise ArgumentValueError(f"{len(packs)} tasks, where {JOB_TASKS_MAX} are allowed: choose larger chunks")
        job, blob = self._job_of(fn)
        name = self._name or _make_name(job.function)
        self._session().stored.detach(job, blob, packs, name, self._keep_seconds, json.dumps(note).encode())
        return DetachedJob(self._session, name)


class DetachedJob:
    """A job that the manager keeps. Made by `Client.detached`, or found again by `Client.job` and `Client.jobs`.

    Attributes
    ----------
    name : str
        Unique among the stored jobs of this client.
    """

    def __init__(self, session: Callable[[], Session], name: str) -> None:
        self._session = session
        self.name = name

    def __repr__(self) -> str:
        return f"<starcore.DetachedJob {self.name!r}>"

    def status(self) -> dict[str, Any]:
        """Return how it stands.

        Returns
        -------
        dict
            `function`, `tasks`, `accepted`; how many tasks are `queued` (with `waits_for_room` until something is
            fetched or forgotten), `running` (or waiting at a worker to be begun), `done`, `failed`, `cancelled`;
            `number`, the manager's, as in ``starcore story mNUMBER/INDEX``; `bytes` that it takes at the manager,
            `age_seconds`, and `expires_in_seconds`.

        Raises
        ------
        StoredJobError
            There is no such job any more.
        TimeoutError
            The manager did not answer for 10 s.
        """
        return self._row(ANSWER_SECONDS)

    def _row(self, seconds: float | None) -> dict[str, Any]:
        rows = self._session().stored.inquire(Deed.LIST, self.name, seconds)
        if not rows:
            raise StoredJobError(
                f"there is no stored job {self.name!r} of this client (any more): it may have been fetched, forgotten "
                f"or kept for too long; client.jobs(), or 'starcore jobs', tells which there are"
            )
        return rows[0]

    def done(self) -> bool:
        """Return True if every task has ended."""
        return self._has_run(_deadline(ANSWER_SECONDS))

    def _has_run(self, deadline: float | None) -> bool:
        left = _left(deadline)
        row = self._row(None if left is None else max(left, LOOK_SECONDS_MIN))
        return bool(row["accepted"] and _ended(row) == row["tasks"])

    def result(
        self,
        timeout: float | None = None,
        *,
        out: Array | None = None,
        keep: bool = False,
        progress: bool = False,
    ) -> Any:
        """Wait for the whole, and return it: what the call returned, the joined array, or the list of a `map`.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which TimeoutError is raised; the job goes on.
        out : numpy.ndarray, optional
            Of a job made in blocks: receive the answers into this array.
        keep : bool, default False
            Leave the job at the manager. Otherwise it is forgotten there once the whole is here; and of one that
            still runs, answers that have arrived here may go before, where the manager is short of room: they are
            lost then if this call fails or is interrupted.
        progress : bool, default False
            Draw a bar of the tasks that have arrived, with tqdm.

        Raises
        ------
        StoredJobError
            There is no such job any more, or some of its answers were taken before.
        Exception
            What the first failed task raised; the job stays at the manager then.
        TimeoutError, SetupError
            It took too long; or there is no tqdm.
        """
        tqdm = load_tqdm() if progress else None
        deadline = _deadline(timeout)
        take = not keep and not self._has_run(deadline)  # else it needs no room, and loses nothing if this fails
        with self._reading(_Whole(out), deadline, take=take) as reading:
            if tqdm is not None:
                _draw(tqdm, reading.futures, self.name, deadline)
            value = reading.result(deadline)
        if not keep:
            self._let_go()
        return value

    def save(
        self,
        path: str | os.PathLike[str],
        timeout: float | None = None,
        *,
        keep: bool = False,
        progress: bool = False,
    ) -> None:
        """Wait for the whole, and write it to a .npy file as it comes: the answer may be larger than memory.

        The file appears whole or not at all; meanwhile there is one beside it under another name, as large, and a
        nameless one as large again where blocks' answers are not as long as their blocks. Answers that are no arrays
        (lists, numbers) are here whole before they are written.

        Parameters
        ----------
        path : path-like
            The file; one that is there is replaced.
        timeout, keep, progress
            As for `result`. Nothing goes at the manager before the file is whole.

        Raises
        ------
        ArgumentValueError
            The answers are not numbers that make one array.
        SetupError
            The file cannot be written; the disk has no room for it, say. Or there is no tqdm.
        StoredJobError, Exception, TimeoutError
            As for `result`.
        """
        tqdm = load_tqdm() if progress else None
        deadline = _deadline(timeout)
        with NpyFile(path) as file, self._reading(_Saved(file), deadline) as reading:
            reading.wait(deadline, tqdm, self.name)
            file.keep()
        if not keep:
            self._let_go()

    def results(self, timeout: float | None = None, *, wait: bool = True) -> Iterator[tuple[int, Any]]:
        """Yield what has been computed, as it comes; the job stays at the manager, whole.

        Parameters
        ----------
        timeout : float, optional
            Seconds from this call after which TimeoutError is raised.
        wait : bool, default True
            Go on until every task has ended; otherwise stop after those that had when this was called.

        Yields
        ------
        index : int
            Of the call in a `map`, else of the block.
        value : object
            Its result; an exception (not raised) where it failed.
        """
        deadline = _deadline(timeout)
        count = None if wait else _ended(self.status())
        with self._reading(_Reading(), deadline) as reading:
            for future in reading.in_time(deadline, count):
                yield from (
                    (index, value if error is None else error) for index, value, error in reading.values(future)
                )

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has ended, for so many seconds at most, and say whether that is so.

        A manager that is away meanwhile is waited for as well. Raises StoredJobError as `status` does.
        """
        deadline = _deadline(timeout)
        while True:
            with contextlib.suppress(TimeoutError):
                if self._has_run(deadline):
                    return True
            left = _left(deadline)
            if left is not None and left <= 0:
                return False
            time.sleep(POLL_SECONDS if left is None else min(POLL_SECONDS, left))

    def cancel(self) -> None:
        """End what has no result yet, also what runs; the results that are there stay."""
        self._session().stored.inquire(Deed.CANCEL, self.name)

    def forget(self) -> None:
        """Let it go at the manager, with all that is kept of it; what runs is ended. No error where it is gone."""
        self._session().stored.inquire(Deed.FORGET, self.name)

    def _let_go(self) -> None:
        """Forget it, when all of it is here: an answer is not lost since the manager cannot be told."""
        try:
            self.forget()
        except (StarCoreError, TimeoutError) as error:
            _log.warning("starcore: the answer of %s is here, but the manager still has the job: %s", self.name, error)

    @contextlib.contextmanager
    def _reading(self, reading: _R, deadline: float | None, *, take: bool = False) -> Iterator[_R]:
        session = self._session()
        reading.session = session
        record = session.stored.attach(self.name, reading.build, take=take, timeout=_left(deadline))
        try:
            yield reading
        finally:
            session.stored.leave(record)


class _Reading:
    """The futures of a job's tasks, and the values of the calls in them."""

    session: Session
    futures: Sequence[TaskFuture] = ()
    note: Mapping[str, Any] = MappingProxyType({})

    def build(self, record: JobRecord, tasks: int, note: bytes) -> Sequence[TaskFuture]:
        """Make the futures of so many tasks; in the session's thread."""
        self.note = _read_note(note, tasks)
        self.futures = [TaskFuture(self.session, record) for _ in range(tasks)]
        return self.futures

    def in_time(self, deadline: float | None, count: int | None) -> Iterator[Future[Any]]:
        """Yield the futures as they are done, so many at most."""
        done: Iterator[Future[Any]] = as_completed(list[Future[Any]](self.futures), _left(deadline))
        return done if count is None else islice(done, count)

    def values(self, future: Future[Any]) -> Iterator[tuple[int, Any, BaseException | None]]:
        """Yield the index, and the value or the error, of each call of a task that is done."""
        first, count, error = cast("TaskFuture", future).index, 1, _error_of(future)
        if self.note["kind"] == "map":
            first *= self.note["size"]
            count = min(self.note["size"], self.note["total"] - first)
        if error is not None or count == 1:
            value = None if error is not None else future.result()
            yield from ((first + place, value, error) for place in range(count))
            return
        for place, value in enumerate(future.result()):
            failed = type(value) is Failed
            yield first + place, None if failed else value, value.error if failed else None


class _Whole(_Reading):
    """The same, becoming one answer."""

    def __init__(self, out: Array | None) -> None:
        self._out = out
        self._joined: BlockFuture | None = None

    def build(self, record: JobRecord, tasks: int, note: bytes) -> Sequence[TaskFuture]:
        """Make the futures, and the array that those of blocks are received into."""
        futures = super().build(record, tasks, note)
        if self.note["kind"] == "blocks":
            joiner = arrays.Joiner(_pieces(self.note), self.note["axis"], out=self._out, trust=self.session.trust)
            self._joined = BlockFuture(futures, joiner)
            self._joined.watch()
        elif self._out is not None:
            raise ArgumentValueError("`out` is for jobs that were made in blocks (chunks=...), and this was not")
        return futures

    def result(self, deadline: float | None) -> Any:
        """Wait for the answer."""
        if self._joined is not None:
            return self._joined.result(_left(deadline))
        if self.note["kind"] == "call":
            return self.futures[0].result(_left(deadline))
        values: list[Any] = []
        for future in self.futures:
            future.result(_left(deadline))
            for _, value, error in self.values(future):
                if error is not None:
                    raise error
                values.append(value)
        return values


class _Saved(_Reading):
    """The same, going into a file."""

    def __init__(self, file: NpyFile) -> None:
        self._file = file
        self._joiner = FileJoiner(file, [])
        self._whole: BlockFuture | None = None

    def build(self, record: JobRecord, tasks: int, note: bytes) -> Sequence[TaskFuture]:
        """Make the futures, and what they are received into."""
        futures, said, trust = super().build(record, tasks, note), self.note, self.session.trust
        if said["kind"] == "blocks":
            self._joiner = FileJoiner(self._file, _pieces(said), said["axis"], trust=trust)
        elif said["kind"] == "map":
            self._joiner = BatchJoiner(self._file, said["size"], said["total"], trust=trust)
        else:
            self._joiner = LoneJoiner(self._file, trust=trust)
        self._whole = BlockFuture(futures, self._joiner)
        self._whole.watch()
        return futures

    def wait(self, deadline: float | None, tqdm: Any, name: str) -> None:
        """Wait until all is in the file; let go of what has been written, again and again."""
        assert self._whole is not None
        with contextlib.nullcontext() if tqdm is None else tqdm(total=len(self.futures), desc=name, unit="task") as bar:
            drawn, over = 0, False
            while not over:
                left = _left(deadline)
                over = bool(wait([self._whole], TRIM_SECONDS if left is None else min(TRIM_SECONDS, left)).done)
                self._file.trim()
                if bar is not None:
                    bar.update(-drawn + (drawn := self._joiner.arrived))
                if left == 0 and not over:
                    raise TimeoutError
        self._whole.result()
        self._joiner.gather()


_R = TypeVar("_R", bound=_Reading)


def _pieces(note: Mapping[str, Any]) -> list[slice]:
    rows, length = note["rows"], note["length"]
    return [slice(at, min(at + rows, length)) for at in range(0, length, rows)] or [slice(0, 0)]


def _pack_batch(calls: Sequence[tuple[Any, ...]]) -> Packed:
    if len(calls) == 1:
        return pack_call(calls[0], {})
    return pack_calls([list(column) for column in zip(*calls, strict=True)])


def _read_note(note: bytes, tasks: int) -> dict[str, Any]:
    """Return what the note says. Raises StoredJobError where another program wrote it, or it says something else."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        said = json.loads(note)
        kind, numbers = said["kind"], [value for name, value in said.items() if name != "kind"]
        fits = all(type(value) is int and 0 <= value < 1 << 62 for value in numbers)
        if kind == "call" and tasks == 1:
            return {"kind": kind}
        if kind == "map" and fits and said["size"] and -(-said["total"] // said["size"]) == tasks:
            return {"kind": kind, "size": said["size"], "total": said["total"]}
        if kind == "blocks" and fits and said["rows"] and max(1, -(-said["length"] // said["rows"])) == tasks:
            return {"kind": kind, "rows": said["rows"], "length": said["length"], "axis": said["axis"]}
    raise StoredJobError("this job was not detached by this program, or by another version of it")


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a job's name is a text, not {type(name).__name__}")
    if not name or plain(name, NAME_CHARS_MAX) != name:
        raise ArgumentValueError(f"a job's name is 1 to {NAME_CHARS_MAX} printable characters, not {plain(name)!r}")
    return name


def _make_name(function: str) -> str:
    short = plain(function.rpartition(":")[2].rpartition(".")[2], NAME_CHARS_MAX // 2) or "job"
    return f"{short}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"


def _ended(row: Mapping[str, Any]) -> int:
    return int(row["done"] + row["failed"] + row["cancelled"])


def _error_of(future: Future[Any]) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + number("timeout", timeout)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _draw(tqdm: Any, futures: Sequence[TaskFuture], name: str, deadline: float | None) -> None:
    """Draw a bar of the tasks that have arrived, until all have."""
    with tqdm(total=len(futures), desc=name, unit="task") as bar:
        for _ in as_completed(list[Future[Any]](futures), _left(deadline)):
            bar.update()
