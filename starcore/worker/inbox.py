"""The leases that are in no slot: ready, waiting for a blob or a shared value, or with a body on its way. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from starcore.worker.library import Library
from starcore.worker.runs import Run


class Inbox:
    """First in, first out, but for what arrives late or comes back.

    Attributes
    ----------
    ready : deque of Run
        What a slot may run now.
    arriving : dict
        Runs of one task by their lease, whose body is not here whole.
    untold : list of int
        Leases that were given back after the HELLO that named them, to be told when the link stands.
    """

    def __init__(self, library: Library) -> None:
        self.ready: deque[Run] = deque()
        self.arriving: dict[int, Run] = {}
        self.untold: list[int] = []
        self._library = library

    def add(self, run: Run) -> None:
        """Take in a run that is here whole."""
        entry = self._library.jobs[run.job]
        if self._library.lacks(entry):
            entry.waiting.append(run)
        else:
            self.ready.append(run)

    def put_back(self, runs: list[Run]) -> None:
        """Put runs that were in a slot before all others."""
        self.ready.extendleft(reversed(runs))

    def pick(self, wanted: set[int]) -> list[Run]:
        """Take leases out of whatever place they are in; those that are in none are passed over."""
        picked = [self.arriving.pop(lease) for lease in sorted(wanted & self.arriving.keys())]
        waiting = (queue for entry in self._library.jobs.values() for queue in (entry.waiting, entry.parked))
        for queue in (self.ready, *waiting):
            if not queue:
                continue
            rest: list[Run] = []
            for run in queue:
                hit = wanted.intersection(run.leases)
                if not hit:
                    rest.append(run)
                    continue
                rest += run.without(hit)
                picked += run.without(set(run.leases) - hit)
            queue.clear()
            queue.extend(rest)
        return picked

    def of_job(self, job: int) -> set[int]:
        """Return the leases of a job."""
        return {lease for run in self if run.job == job for lease in run.leases}

    def take_all(self) -> list[Run]:
        """Empty it."""
        runs = list(self)
        self.ready.clear()
        self.arriving.clear()
        for entry in self._library.jobs.values():
            entry.waiting, entry.parked = [], []
        return runs

    def parked(self, lease: int) -> Run | None:
        """Return the run of one task with a body that waits for a shared value under this lease."""
        parked = (run for entry in self._library.jobs.values() for run in entry.parked)
        return next((run for run in parked if run.body_bytes and run.lease == lease), None)

    def jobs(self) -> set[int]:
        """The jobs whose runs have all that they share: only a slot, a function or an argument is missing."""
        found = {run.job for run in self.ready} | {run.job for run in self.arriving.values()}
        return found | {number for number, entry in self._library.jobs.items() if entry.waiting}

    def __iter__(self) -> Iterator[Run]:
        yield from self.ready
        yield from self.arriving.values()
        for entry in self._library.jobs.values():
            yield from entry.waiting
            yield from entry.parked
