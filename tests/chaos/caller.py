"""A client process: rounds of work until its stdin is closed, every answer held against the function run right here.

::

    round = a handful of pieces, all submitted ─▶ each one settled ─▶ a row in the notes
    piece = submit now, and a function that waits for the answers, compares, and returns how many there were

It ends with a traceback and exit code 1 at the first answer that is wrong, missing, or given twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from starcore import Client, CrashError, TaskTimeoutError, UnreachableError
from starcore.client.core import ClientCore
from starcore.events import Action, Event, Received
from starcore.messages import Outcome
from tests.integration.stars import until

from . import tasks

ANSWER_SECONDS_MAX = 240.0
"""A future that has no outcome by then is lost."""
CALLBACK_SECONDS_MAX = 30.0
"""From a future's result to the call of its callbacks, on a machine that is very busy."""
PIECES = 6
"""In one round, at most."""
DESCRIPTORS_SPARE = 4
"""What the interpreter may have opened for good beside: /dev/urandom, a module's file."""
CRASH = re.compile(r".+; last run by worker \S+ \(.+\), attempt \d+: given up after \d+ deaths")
"""What a task says that was running when its slot or worker was killed, three times over (I9)."""

Settle: TypeAlias = Callable[[], int]
Piece: TypeAlias = Callable[[Client, random.Random], Settle]


class WireTap:
    """Asserts that each task has at most one outcome on each connection, as it comes in (I3)."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int, int], int] = {}
        handle = ClientCore.handle

        def tapped(core: ClientCore, event: Event, now: float) -> list[Action]:
            if type(event) is Received and type(event.message) is Outcome:
                self._count(event.link, event.message)
            return handle(core, event, now)

        ClientCore.handle = tapped  # type: ignore[method-assign]

    def _count(self, link: int, outcome: Outcome) -> None:
        for index in outcome.indices:
            key = link, outcome.job, index
            before = self.seen.get(key, 0)
            # An answer whose body went with its worker is announced anew, by a later attempt; never by the same.
            if before >= outcome.attempt and before:
                sys.stderr.write(f"two outcomes of task {outcome.job}/{index} on one connection\n")
                os._exit(1)
            self.seen[key] = outcome.attempt


def answer(future: Future[Any]) -> Any:
    """Wait for an outcome."""
    return future.result(ANSWER_SECONDS_MAX)


def blames(error: BaseException) -> None:
    """A task that was killed three times says by what, where, and in which attempt (I9)."""
    assert isinstance(error, CrashError) and CRASH.fullmatch(str(error)), repr(error)


def expect(future: Future[Any], value: Any) -> None:
    """Compare an answer with what it should be; a task may have been killed three times, and says so."""
    try:
        found = answer(future)
    except CrashError as error:
        blames(error)
        return
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype and found.shape == value.shape and found.tobytes() == value.tobytes()
    else:
        assert found == value, (found, value)


# -- pieces of work ----------------------------------------------------------------------------------------------


def squares(client: Client, chance: random.Random) -> Settle:
    """Small tasks, some of which take a moment."""
    numbers = [chance.randrange(1 << 20) for _ in range(chance.randrange(1, 120))]
    seconds = chance.choice((0.0, 0.0, 0.001, 0.01))
    futures = [client.submit(tasks.square, number, seconds) for number in numbers]

    def settle() -> int:
        for number, future in zip(numbers, futures, strict=True):
            expect(future, number * number)
        return len(futures)

    return settle


def mapped(client: Client, chance: random.Random) -> Settle:
    """Batches."""
    numbers = [chance.randrange(1 << 20) for _ in range(chance.randrange(1, 400))]
    results = client.map(tasks.square, numbers)

    def settle() -> int:
        place = -1
        try:
            for place, found in enumerate(results):
                assert found == numbers[place] ** 2
        except CrashError as error:
            blames(error)
            return place + 1
        assert place == len(numbers) - 1, f"{place + 1} of {len(numbers)} results"
        return len(numbers)

    return settle


def arrays(client: Client, chance: random.Random) -> Settle:
    """Bodies both ways, some of them written to in their place."""
    count, size = chance.randrange(1, 5), chance.choice((1 << 10, 1 << 14, 1 << 17, 1 << 19))
    function = chance.choice((lambda a: tasks.scaled(a, 5), tasks.sharpened))
    sent = [np.random.default_rng(chance.randrange(1 << 30)).integers(0, 1 << 40, size) for _ in range(count)]
    futures = [client.submit_array(function, array) for array in sent]

    def settle() -> int:
        for array, future in zip(sent, futures, strict=True):
            expect(future, function(array.copy()))
        return count

    return settle


def blocks(client: Client, chance: random.Random) -> Settle:
    """One array in blocks, into memory of the caller's."""
    array = np.random.default_rng(chance.randrange(1 << 30)).integers(0, 1 << 40, (64, 2048))
    out = np.zeros_like(array)
    chunks: Any = chance.choice((8, 16, "auto"))
    future = client.submit_array(tasks.scaled, array, args=(3,), chunks=chunks, out=out)

    def settle() -> int:
        expect(future, tasks.scaled(array, 3))
        return 1 if chunks == "auto" else len(array) // chunks

    return settle


def shared(client: Client, chance: random.Random) -> Settle:
    """A put value, looked at by many."""
    table = np.random.default_rng(chance.randrange(1 << 30)).random((32, chance.choice((16, 1 << 12))))
    ref = client.put(table)
    futures = [client.submit(tasks.weighted, ref, row) for row in range(chance.randrange(1, 60))]

    def settle() -> int:
        for row, future in enumerate(futures):
            expect(future, tasks.weighted(table, row))
        ref.release()
        return len(futures)

    return settle


def raising(client: Client, chance: random.Random) -> Settle:
    """Functions that raise, some of them tried again."""
    caller = client.options(retries=chance.choice((0, 2)))
    futures = [caller.submit(tasks.refuse, number) for number in range(chance.randrange(1, 40))]

    def settle() -> int:
        for number, future in enumerate(futures):
            error = future.exception(ANSWER_SECONDS_MAX)
            if isinstance(error, CrashError):
                blames(error)
                continue
            assert type(error) is ValueError and error.args == (f"no {number}", number), repr(error)
            assert "refuse" in str(error.__cause__), repr(error.__cause__)
        return len(futures)

    return settle


def overdue(client: Client, chance: random.Random) -> Settle:
    """Functions that run for too long."""
    seconds = chance.uniform(0.05, 0.3)
    futures = [client.options(timeout=seconds).submit(tasks.linger, 60.0) for _ in range(chance.randrange(1, 4))]

    def settle() -> int:
        for future in futures:
            error = future.exception(ANSWER_SECONDS_MAX)
            assert isinstance(error, (TaskTimeoutError, CrashError)), repr(error)
            assert isinstance(error, CrashError) or "timeout" in str(error), error
        return len(futures)

    return settle


def cancelled(client: Client, chance: random.Random) -> Settle:
    """Tasks of which half are not wanted any more, whether they wait or run."""
    futures = [client.submit(tasks.linger, 0.02, number) for number in range(chance.randrange(2, 30))]
    force = chance.random() < 0.5
    gone = [(client.cancel(future) if force else future.cancel()) for future in futures[::2]]

    def settle() -> int:
        for number, future in enumerate(futures):
            if number % 2 or not gone[number // 2]:
                expect(future, number)
                continue
            try:
                raise AssertionError(f"a cancelled task gave {answer(future)!r}")
            except CancelledError:
                pass
        return len(futures)

    return settle


PIECE_KINDS: tuple[Piece, ...] = (squares, squares, mapped, mapped, arrays, blocks, shared, raising, overdue, cancelled)


# -- the program -------------------------------------------------------------------------------------------------


class Ends:
    """Every future ends once (I1)."""

    def __init__(self) -> None:
        self.counts: dict[Future[Any], int] = {}

    def watch(self, client: Client) -> None:
        """Count the ends of all that this client submits."""
        submit = client.submit

        def counted(*args: Any, **kwargs: Any) -> Future[Any]:
            future = submit(*args, **kwargs)
            self.counts[future] = 0
            future.add_done_callback(self._ended)
            return future

        client.submit = counted  # type: ignore[method-assign]

    def settle(self) -> None:
        """All have ended, and once; `result` may return a moment before the callbacks are called."""
        until(lambda: 0 not in self.counts.values(), "the end of every future", CALLBACK_SECONDS_MAX)
        often = {future.task: count for future, count in self.counts.items() if count > 1}  # type: ignore[attr-defined]
        assert not often, f"futures that ended more than once: {often}"
        self.counts.clear()

    def _ended(self, future: Future[Any]) -> None:
        self.counts[future] += 1


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def dismissed() -> bool:
    """Whether nobody wants more work."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def work(client: Client, chance: random.Random, notes: Path) -> None:
    """Do rounds until dismissed, and note what was verified."""
    ends = Ends()
    ends.watch(client)
    with notes.open("a", buffering=1, encoding="utf-8") as rows:
        while True:
            kinds = [chance.choice(PIECE_KINDS) for _ in range(chance.randrange(1, PIECES + 1))]
            pieces = [(kind.__name__, kind(client, chance)) for kind in kinds]
            for name, settle in pieces:
                rows.write(json.dumps({name: settle()}) + "\n")
            ends.settle()
            if dismissed():
                return


def connect(address: str, join: str) -> Client:
    """Return a client, however long the manager is away just now."""
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        try:
            return Client(address, join=join)
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> int:
    """Run a caller."""
    parser = argparse.ArgumentParser()
    for name in ("--address", "--join", "--notes", "--seed"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    WireTap()
    before = descriptors()
    with connect(options.address, options.join) as client:
        work(client, random.Random(int(options.seed)), Path(options.notes))
    after = descriptors()
    assert after <= before + DESCRIPTORS_SPARE, f"{after} descriptors, where {before} were before"
    return 0


if __name__ == "__main__":
    sys.exit(main())
