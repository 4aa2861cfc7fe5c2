"""What a journal has to know of stored jobs, and what has to be on disk before it is said. Pure; a part of the store.

::

    chunk ─▶ Spill ─▶ the shell's file ─ fsync ─▶ Synced ─▶ a fact that names the file ─▶ Durable ─▶ what was held

Without a journal bodies stay in memory, and what is beyond the store's memory goes to the spool. With one, each chunk
goes to a file as it comes. A body is *here* when all of its file is synced: only then a record names it, and only when
that is durable its client, or its worker, is told that it may let go (`journaled.py` holds these messages back).
"""

from __future__ import annotations

from array import array
from typing import TypeAlias

from starcore.events import Spooled
from starcore.manager import facts
from starcore.manager.flows import Flow
from starcore.manager.outbox import Outbox
from starcore.manager.records import Fetched, Gone, JobForgotten, Renamed, StoredWhole, Touched
from starcore.manager.relay import Relay
from starcore.manager.state import Blob, Client, Delivery, Job, Run
from starcore.manager.stored import Argument, Keeper, StoredJob, StoreLimits

TOUCH_SECONDS_MAX = 1.0
TOUCHES = 100
"""The journal knows to a second, and to such a part of the time that a job is kept, when something happened to it."""

Owner: TypeAlias = Argument | Delivery


class Keeping:
    """The files of stored jobs, and what is recorded of these."""

    def __init__(self, outbox: Outbox, relay: Relay) -> None:
        self._outbox = outbox
        self._relay = relay
        self.bodies = 0
        """The number of the body that came last."""
        self._syncing: dict[int, Flow | Blob] = {}
        """All of it has come, and is not known to be on disk."""
        self.failure = ""
        """Why nothing more can be written, with a journal."""

    @property
    def refusal(self) -> str:
        """Why no job can be taken in now; nothing where one can."""
        return self._outbox.failure or self.failure

    # -- bodies ----------------------------------------------------------------------------------------------

    def pull(self, flow: Flow, owner: Owner) -> None:
        """Have a body come here whole."""
        self.bodies += 1
        flow.number, flow.owner = self.bodies, owner
        self._relay.keep(flow)

    def grown(self, flow: Flow, limits: StoreLimits) -> bool:
        """A chunk came. Returns whether the body is here."""
        relay = self._relay
        if not self._outbox.journaled:
            if limits.spool_bytes and relay.held_bytes - relay.spooled_bytes > limits.memory_bytes:
                relay.spill(flow)
            return flow.end == flow.size
        relay.spill(flow)
        if flow.end == flow.size:
            relay.close_source(flow)
            self._syncing[flow.number] = flow
        return False

    def synced(self, number: int) -> Flow | None:
        """A body is on disk. Returns it, if it is an argument or an answer."""
        found = self._syncing.pop(number, None)
        if isinstance(found, Blob):
            if found.copies and found.copies[0].body == number:
                found.body = number
            return None
        return found

    def function(self, stored: StoredJob) -> bool:
        """Whether a job's function, which is here, is kept as safely as the rest; else it is written now."""
        blob = stored.blob
        if not self._outbox.journaled or blob is None or blob.flow is None or blob.body:
            return True
        if not blob.copies:
            self.bodies += 1
            self._syncing[self.bodies] = blob
            for offset, length, token in blob.flow.held:
                spooled = Spooled(self.bodies, offset, length, size=blob.size)
                self._outbox.spill(token, spooled, copy=True)
                blob.copies.append(spooled)
        return False

    # -- facts -----------------------------------------------------------------------------------------------

    def keeper(self, keepers: dict[str, Keeper], client: Client) -> Keeper | None:
        """Return who has a client's stored jobs; what an earlier version knew by its certificate becomes its own."""
        former, identity = client.fingerprint, client.identity
        if identity not in keepers and former in keepers:
            keeper = keepers[identity] = keepers.pop(former)
            keeper.identity = identity
            if self._outbox.journaled:
                self._outbox.record(Renamed(former, identity))
        return keepers.get(identity)

    def begun(self, stored: StoredJob) -> None:
        """A job was announced."""
        stored.touched_at = stored.begun_at
        if self._outbox.journaled:
            self._outbox.record(facts.of_stored(stored, self._outbox.wall_seconds))

    def accepted(self, stored: StoredJob) -> None:
        """All of a job is here."""
        if self._outbox.journaled:
            function = facts.of_function(stored)
            if function is not None:
                self._outbox.record(function)
            self._outbox.record(StoredWhole(stored.number))
            stored.accepted_at = self._outbox.made

    def touched(self, stored: StoredJob) -> None:
        """Something happened to a job: it is kept for so long from now on."""
        outbox = self._outbox
        stored.changed_at = outbox.now
        grain = min(TOUCH_SECONDS_MAX, stored.keep_seconds / TOUCHES)
        if outbox.journaled and stored.journaled and outbox.now >= stored.touched_at + grain:
            stored.touched_at = outbox.now
            outbox.record(Touched(stored.number, outbox.now + outbox.wall_seconds))

    def brought(self, run: Run, position: int, lender: Flow) -> None:
        """An argument is here."""
        if self._outbox.journaled:
            self._outbox.record(facts.of_argument(run, position, lender))

    def answered(self, stored: StoredJob, delivery: Delivery, body: Flow) -> None:
        """An answer's body is here."""
        if self._outbox.journaled:
            self._outbox.record(facts.of_answer(stored, delivery, body))

    def fetched(self, stored: StoredJob, delivery: Delivery) -> None:
        """A reader that takes what it reads has an outcome."""
        stored.fetched[delivery] = None
        if self._outbox.journaled:
            self._outbox.record(Fetched(stored.number, array("Q", [delivery.outcome.sequence])))

    def gone(self, stored: StoredJob, delivery: Delivery) -> None:
        """An outcome that was fetched goes."""
        said = delivery.outcome
        stored.gone.extend(said.indices)
        stored.gone_statuses.extend(said.statuses)
        if self._outbox.journaled:
            self._outbox.record(Gone(stored.number, said.sequence, said.indices, said.statuses))

    def over(self, stored: StoredJob) -> None:
        """A job is over: nothing that ends with it is told any more."""
        if self._outbox.journaled:
            self._outbox.record(JobForgotten(stored.number))
        stored.journaled = False
        for number in [number for number, found in self._syncing.items() if _job_of(found) is stored]:
            del self._syncing[number]  # what was not written yet will not be, so no word comes of it

    def released(self, blob: Blob | None) -> None:
        """A job that is over needed this function."""
        if blob is not None and blob.copies and not any(isinstance(job, StoredJob) for job in blob.jobs):
            self._syncing.pop(blob.copies[0].body, None)
            for spooled in blob.copies:
                self._outbox.drop(spooled)
            blob.copies.clear()
            blob.body = 0

    def secure(self, stored: StoredJob) -> bool:
        """Whether a job is accepted, and the disk knows."""
        return stored.whole and stored.accepted_at <= self._outbox.durable


def _job_of(found: Flow | Blob) -> Job | None:
    """Return the job whose argument or answer a body is."""
    owner: Owner | None = found.owner if isinstance(found, Flow) else None
    if isinstance(owner, Delivery):
        return owner.pieces[0][0].job
    return owner.stored if owner is not None else None
