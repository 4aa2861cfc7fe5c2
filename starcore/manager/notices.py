"""What clients are told about the star unasked: how many slots it has, and why a job of theirs waits. Pure."""

from __future__ import annotations

from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.report import missing
from starcore.manager.scheduling import Scheduler
from starcore.manager.sessions import Sessions, Timer, Timers
from starcore.manager.state import Job, Worker
from starcore.messages import Notice, Slots


class Notices:
    """Gathered for a while, and then said if it is still so."""

    def __init__(
        self, outbox: Outbox, timers: Timers, sessions: Sessions, scheduler: Scheduler, limits: Limits
    ) -> None:
        self._outbox = outbox
        self._timers = timers
        self._sessions = sessions
        self._scheduler = scheduler
        self._limits = limits
        self._gathering = False
        self._said: tuple[int, int] | None = (0, 0)
        """What every client knows; None where some were welcomed with another size."""

    def size(self) -> tuple[int, int]:
        """Say how many workers and slots a peer that is welcomed hears of."""
        size = self._sessions.size()
        if size != self._said:
            self._said = None
        return size

    def slots_changed(self, now: float) -> None:
        """Workers came or went."""
        if not self._gathering:
            self._gathering = True
            self._timers.set(now + self._limits.slots_said_seconds, Timer.SLOTS)

    def say_slots(self) -> None:
        """Tell every client how many slots there are."""
        self._gathering = False
        size = self._sessions.size()
        if size == self._said:
            return
        self._said = size
        for client in self._sessions.clients.values():
            if client.link:
                self._outbox.send(client.link, Slots(*size))

    def left(self, worker: Worker, now: float) -> None:
        """A worker takes nothing more: watch what waits that it could have run."""
        for capability in worker.capabilities:
            for client in self._scheduler.waiting(capability):
                for job in client.jobs.values():
                    self.watch(job, now)

    def watch(self, job: Job, now: float) -> None:
        """If nobody can run this job, say so after a while."""
        if not job.noticed and not job.watched and not self._scheduler.capable(job.capability):
            job.watched = True
            self._timers.set(now + self._limits.notice_seconds, Timer.NOTICE, job)

    def say_why(self, job: Job) -> None:
        """If still nobody can run this job, tell its client why."""
        job.watched = False
        client = job.client
        if job.noticed or not job.queued or self._scheduler.capable(job.capability) or not client.link:
            return
        job.noticed = True
        text = missing(job.capability, list(self._sessions.workers.values()))
        self._outbox.log("warning", f"job {job.number} of client {client.name} waits: {text}")
        self._outbox.send(client.link, Notice(job.client_number, text))
