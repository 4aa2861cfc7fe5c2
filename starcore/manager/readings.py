"""Who reads stored jobs: what each reader was told, has, and missed. Pure; a part of the store.

A reader is a client's job without tasks of its own. It is told what its stored job has told, in that order, as fast
as its client acknowledges; each outcome that it is told is a *copy*, whose body (if any) is lent to it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection

from starcore.errors import Code, Status
from starcore.manager.delivery import Deliveries
from starcore.manager.outbox import Outbox
from starcore.manager.relay import Relay
from starcore.manager.state import Delivery, Job
from starcore.manager.stored import Keeper, Reading, StoredJob
from starcore.messages import BATCH_TASKS_MAX, Abort, Column, Notice


class Readings:
    """Every reader of a stored job."""

    def __init__(self, outbox: Outbox, relay: Relay, deliveries: Deliveries) -> None:
        self._outbox = outbox
        self._relay = relay
        self._deliveries = deliveries
        self._readings: dict[Job, Reading] = {}
        self._told: dict[Delivery, tuple[Reading, Delivery]] = {}
        """What readers have not acknowledged, and which outcome of the stored job it is."""

    def __contains__(self, job: Job) -> bool:
        return job in self._readings

    def __getitem__(self, job: Job) -> Reading:
        return self._readings[job]

    def begin(self, job: Job, stored: StoredJob, *, take: bool) -> None:
        """A client's job reads a stored one."""
        self._readings[job] = stored.readings[job] = Reading(job, stored, take)

    def end(self, job: Job) -> None:
        """A client's job reads no more, if it did."""
        reading = self._readings.pop(job, None)
        if reading is not None:
            del reading.stored.readings[job]
            self._drop_copies(lambda each, _: each is reading)

    def discard(self, stored: StoredJob) -> list[Job]:
        """A stored job is over. Returns who read it."""
        self._drop_copies(lambda reading, _: reading.stored is stored)
        for job in stored.readings:
            del self._readings[job]
        return list(stored.readings)

    def tell(self) -> None:
        """Tell readers what they have not heard, as far as their credit goes."""
        for reading in list(self._readings.values()):
            if not reading.begun:  # behind STORED: only by that its client knows of the tasks
                reading.begun = True
                self._tell_gone(reading.job, reading.stored.gone)
            if reading.cursor < len(reading.stored.told):
                self._tell_on(reading)

    def say_why(self, stopped: Collection[Keeper], why: str) -> None:
        """Tasks of these wait: say so in the log, once a job, and to readers that do not make room themselves."""
        for keeper in stopped:
            for stored in keeper.names.values():
                if not stored.waiting_count or any(reading.take for reading in stored.readings.values()):
                    continue
                if not stored.held_up:
                    stored.held_up = True
                    self._outbox.log("warning", f"stored job {stored.name} of {keeper.name} waits: {why}")
                for job, reading in stored.readings.items():
                    if not reading.noticed and job.client.link:
                        reading.noticed = True
                        self._outbox.send(job.client.link, Notice(job.client_number, why))

    def read(self, delivery: Delivery) -> tuple[Reading, Delivery] | None:
        """A reader has an outcome. Returns which, where it is one of a stored job's."""
        return self._told.pop(delivery, None)

    def let_go(self, stored: StoredJob, delivery: Delivery, place: int) -> None:
        """An outcome is not told any more, which was the one at that place."""
        missed = self._drop_copies(lambda _, origin: origin is delivery)
        for reading in stored.readings.values():
            if place < reading.cursor:
                reading.cursor -= 1
            elif reading.begun:
                missed.append(reading)
        for reading in missed:
            self._tell_gone(reading.job, delivery.outcome.indices)

    def changed(self, delivery: Delivery, reason: str) -> None:
        """An answer is not here any more: who was told of it, and may not have it whole, hears what became of it."""
        for copy, (reading, origin) in list(self._told.items()):
            client, flow = reading.job.client, copy.flow
            if origin is not delivery or flow is None:
                continue
            del self._told[copy]
            if client.link:  # also where all seems to have left: it was the last piece that could not be read
                self._outbox.send(client.link, Abort(flow.sink_stream, flow.sink_attempt, Code.GONE, reason))
            self._deliveries.acknowledge(client, copy.outcome.sequence)
            self._copy(reading, delivery)

    def check(self) -> None:
        """Assert the invariants."""
        for job, reading in self._readings.items():
            assert reading.stored.readings[job] is reading and not reading.stored.over
            assert job.client.jobs[job.client_number] is job
        assert all(reading.job in self._readings for reading, _ in self._told.values())

    # -- private ---------------------------------------------------------------------------------------------

    def _tell_on(self, reading: Reading) -> None:
        stored, client = reading.stored, reading.job.client
        while client.link and client not in self._deliveries.full and reading.cursor < len(stored.told):
            delivery = stored.told[reading.cursor]
            reading.cursor += 1
            self._copy(reading, delivery)

    def _copy(self, reading: Reading, delivery: Delivery) -> None:
        """Tell a reader an outcome."""
        body, outcome = reading.stored.bodies.get(delivery), delivery.outcome
        copy = self._deliveries.deliver(
            *(reading.job, [], outcome.indices, outcome.attempt, outcome.statuses, outcome.head_sizes, outcome.heads),
            body_bytes=body.size if body is not None else 0,
            flow=self._relay.loan(body) if body is not None else None,
        )
        self._told[copy] = reading, delivery

    def _tell_gone(self, job: Job, gone: Column) -> None:
        """Say of outcomes that were fetched before, and let go, that they are not here."""
        text = b"its answer was fetched before, and let go to make room"
        for start in range(0, len(gone), BATCH_TASKS_MAX // 4):  # with their texts they fit a frame
            indices = gone[start : start + BATCH_TASKS_MAX // 4]
            count = len(indices)
            sizes = array("I", [len(text)]) * count
            statuses = bytes((Status.UNRUNNABLE,)) * count
            self._deliveries.deliver(job, [], indices, 0, statuses, sizes, text * count)

    def _drop_copies(self, which: Callable[[Reading, Delivery], bool]) -> list[Reading]:
        """Break off what readers were told and have not acknowledged. Returns who was told."""
        copies = [(copy, reading) for copy, (reading, origin) in self._told.items() if which(reading, origin)]
        for copy, reading in copies:
            del self._told[copy]
            if copy.flow is not None and not copy.flow.forwarded:
                self._relay.abort(copy.flow, Code.GONE, "this answer was let go")
            self._deliveries.acknowledge(reading.job.client, copy.outcome.sequence)
        return [reading for _, reading in copies]
