"""What happened to tasks: a ring of records, of which the newest stay, for whoever asks for a task's story. Pure.

A record stands for consecutive tasks of a job to which the same thing happened in the same turn, so a thousand small
tasks cost as much as one; it is a tuple, and becomes words only when somebody asks::

    SUBMIT ─▶ queued ─▶ leased ─▶ (running) ─▶ ended ─▶ delivered
                ▲          └─ lost, given back, crashed, raised with retries left: queued again, and why

A task's name is its session's first digits, its job's number there and its index: 3fa9c1d2/1/0. What workers call it
in their logs, an "m", the manager's own number of the job and the index, is understood as well: m17/0.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

from starcore.errors import Status
from starcore.manager.columns import contiguous
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.state import Client, Delivery, Job, Leased, Run
from starcore.messages import STATUS_BYTES_MAX, Buffer, Column, StoryReply
from starcore.texts import NAME_CHARS_MAX, plain, plain_report, task_name

RECORD_BYTES = 512
"""What a record costs in the ring at most."""
CAUSE_CHARS_MAX = 200
STATUSES_MAX = 200
"""Of one record; where tasks of a run ended differently, more records say how."""
STORY_RECORDS_MAX = 500
"""The newest of one task's that are told; fewer, where the whole is longer than STATUS_BYTES_MAX."""
STORY_JOBS_MAX = 4096
"""Jobs whose names are known; those that began first are forgotten first."""

_NAME = re.compile(r"(?:(?P<session>[0-9a-f]{8,32})/|m)(?P<job>[0-9]{1,10})/(?P<index>[0-9]{1,10})")
REMEMBERED = (
    "a manager remembers what happened last, since it started; its log, a worker's, "
    "a failed future and 'starcore jobs' name tasks"
)
_Record: TypeAlias = "tuple[float, str, int, int, int, int, str, bytes | str]"
"""When, what, of which job, its tasks from .. to, attempt, worker, and how they ended or why."""


@dataclass(slots=True)
class _Label:
    """Whose a job is, and what it is called there."""

    session: bytes
    identity: str
    number: int
    function: str


class Stories:
    """The ring."""

    def __init__(self, outbox: Outbox, limits: Limits) -> None:
        self._outbox = outbox
        self._records: deque[_Record] = deque(maxlen=limits.story_bytes // RECORD_BYTES)
        self._labels: dict[int, _Label] = {}

    # -- what happens ----------------------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """A job is new."""
        client, function = job.client, plain(job.message.function, NAME_CHARS_MAX)
        self._labels[job.number] = _Label(client.session, client.identity, job.client_number, function)
        if len(self._labels) > STORY_JOBS_MAX:
            del self._labels[next(iter(self._labels))]

    def queued(self, job: Job, first: int, count: int) -> None:
        """Tasks came."""
        self._records.append((self._outbox.now, "queued", job.number, first, first + count, 0, "", ""))

    def leased(self, leased: Leased) -> None:
        """Tasks went to a worker."""
        run, now = leased.run, self._outbox.now
        first = run.first + leased.start
        stop = first + len(leased.marks)
        self._records.append((now, "leased", run.job.number, first, stop, leased.attempt, leased.worker.name, ""))

    def running(self, leased: Leased, indices: Column) -> None:
        """Tasks have been running for a while."""
        for low, high in contiguous(indices):
            first, stop = indices[low], indices[high - 1] + 1
            self._note("running", leased.run.job.number, first, stop, leased.attempt, leased.worker.name)

    def ended(self, leased: Leased, start: int, statuses: Buffer) -> None:
        """Tasks came to their end, each with its status."""
        count, attempt, worker = len(statuses), leased.attempt, leased.worker.name
        first, number, now = leased.run.first + start, leased.run.job.number, self._outbox.now
        octets = bytes(statuses)
        if octets.count(octets[0]) == count:
            self._records.append((now, "ended", number, first, first + count, attempt, worker, octets[:1]))
            return
        for low in range(0, count, STATUSES_MAX):
            piece = octets[low : low + STATUSES_MAX]
            stop = first + low + len(piece)
            self._records.append((now, "ended", number, first + low, stop, attempt, worker, piece))

    def requeued(self, run: Run, start: int, stop: int, attempt: int, cause: str) -> None:
        """An attempt came to nothing: the tasks wait for the next one."""
        first = run.first + start
        self._note("queued again", run.job.number, first, run.first + stop, attempt, "", cause)

    def settled(self, job: Job, indices: Column, attempt: int, status: Status, text: str) -> None:
        """Tasks ended without an answer of a worker's."""
        what = "cancelled" if status == Status.CANCELLED else "failed"
        for low, high in contiguous(indices):
            self._note(what, job.number, indices[low], indices[high - 1] + 1, attempt, "", text)

    def delivered(self, delivery: Delivery) -> None:
        """The client has acknowledged how tasks ended."""
        now, attempt = self._outbox.now, delivery.outcome.attempt
        for run, start, stop in delivery.pieces:
            first = run.first
            self._records.append((now, "delivered", run.job.number, first + start, first + stop, attempt, "", ""))

    def dropped(self, run: Run) -> None:
        """The session ended, and its tasks with it."""
        self._note("dropped", run.job.number, run.first, run.stop, 0, "", "its client's session is over")

    # -- what is told ----------------------------------------------------------------------------------------

    def answer(self, client: Client, question: int, task: str) -> None:
        """Tell a client the story of a task of its own, or of another session of the same identity."""
        records = STORY_RECORDS_MAX
        while len(text := json.dumps(self.tell(client, task, records))) > STATUS_BYTES_MAX:
            records //= 2
        self._outbox.send(client.link, StoryReply(question, text))

    def tell(self, client: Client, task: str, records_max: int = STORY_RECORDS_MAX) -> dict[str, Any]:
        """Return the story, or the reason why there is none."""
        named = _NAME.fullmatch(task)
        if named is None:
            shown = plain(task, NAME_CHARS_MAX)
            return {"error": f"{shown!r} is no task's name: SESSION/JOB/INDEX is one, as in 3fa9c1d2/1/0, or m17/0"}
        found = self._find(client, named["session"], int(named["job"]))
        if found is None:
            return {"error": f"no task {task} of this client is known, or it was forgotten: {REMEMBERED}"}
        number, label = found
        index = int(named["index"])
        records = [each for each in self._records if each[2] == number and each[3] <= index < each[4]]
        return {
            "task": task_name(label.session, label.number, index),
            "function": label.function,
            "manager_job": number,
            "whole": bool(records) and records[0][1] == "queued" and len(records) <= records_max,
            "records": [_told(each, index, self._outbox.now) for each in records[-records_max:]],
        }

    def check(self) -> None:
        """Assert the bounds."""
        assert not self._records or len(self._records[-1][7]) <= max(CAUSE_CHARS_MAX, STATUSES_MAX)
        assert len(self._labels) <= STORY_JOBS_MAX

    # -- private ---------------------------------------------------------------------------------------------

    def _note(
        self,
        what: str,
        job: int,
        first: int,
        stop: int,
        attempt: int = 0,
        worker: str = "",
        cause: str = "",
    ) -> None:
        cause = plain_report(cause, CAUSE_CHARS_MAX)
        self._records.append((self._outbox.now, what, job, first, stop, attempt, worker, cause))

    def _find(self, client: Client, session: str | None, job: int) -> tuple[int, _Label] | None:
        """Find a job by its client's number, the newest one first, or by the manager's."""
        if session is None:
            label = self._labels.get(job)
            return (job, label) if label is not None and _owns(client, label) else None
        for number, label in reversed(self._labels.items()):
            if label.number == job and label.session.hex().startswith(session) and _owns(client, label):
                return number, label
        return None


def _owns(client: Client, label: _Label) -> bool:
    return client.session == label.session or client.identity == label.identity


def _told(record: _Record, index: int, now: float) -> dict[str, Any]:
    at, what, _, first, _, attempt, worker, more = record
    text = more
    if isinstance(more, bytes):
        status = Status(more[index - first] if len(more) > 1 else more[0])
        what, text = ("returned", "") if status == Status.OK else (_ENDS[status], "")
    return {"seconds_ago": round(now - at, 6), "what": what, "attempt": attempt, "worker": worker, "text": text}


_ENDS = {status: status.name.lower() for status in Status}
