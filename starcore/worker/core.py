"""The worker's decisions: leases in, batches to slots, answers out. Pure; the shell is `supervisor.py`.

A lease is in one place at a time::

    ASSIGN ─┬─ no body ────────────────────────────────▶ ready ──▶ a slot ──▶ unsent ──▶ shelf ──CONFIRM──▶ gone
            └─ body ─▶ demands ─Allocate─▶ arriving ─────▶ ▲          │
                       (the arena is full)  (GRANT, CHUNKs) │          └─ taken back, or its slot died: ready again
                                       job's blob missing: waiting in the library
    a shared value missing: parked in the library before all this (custody.py)

Bytes are granted only into memory that is there. Answers stay on the shelf until the manager confirms them, and are
sent again after a reconnection. When a slot dies, its board says who ran: that task is blamed, those behind it run
elsewhere. `Memory`, `Uplink`, `Library`, `Slot` keep their own accounts; this file is the traffic between them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from starcore.errors import Status, UnexpectedError
from starcore.events import Action, Blocked, ChunkReceived, Event, Lost, Opened, Received, SendChunk, Tick, Writable
from starcore.messages import (
    BLOB_STREAM,
    Abort,
    Assign,
    Blob,
    Confirm,
    Forget,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Message,
    Retract,
    Retracted,
    Share,
    Started,
    Want,
    Welcome,
)
from starcore.messages import Drain as DrainMessage
from starcore.messages import Draining as DrainingMessage
from starcore.streams import Receiving, Sending
from starcore.texts import counted
from starcore.uplink import LinkState
from starcore.worker.bench import Bench
from starcore.worker.custody import Custody
from starcore.worker.departure import Departure, Lifetime
from starcore.worker.guard import Guard
from starcore.worker.inbox import Inbox
from starcore.worker.library import Library
from starcore.worker.losses import EXIT_CREDENTIALS, judge, uplink_of
from starcore.worker.memory import Demand, Memory
from starcore.worker.orders import (
    Allocated,
    Drain,
    Finished,
    Inspected,
    Log,
    Refused,
    ReleaseAnswer,
    Shaken,
    SlotDied,
    SlotDone,
    SlotReady,
    SlotStopped,
    Stop,
    Swollen,
)
from starcore.worker.reports import outcome
from starcore.worker.runs import Answers, Run, Shelf, runs_of
from starcore.worker.slots import SlotState, Why


class WorkerCore:
    """Events in, actions out.

    Parameters
    ----------
    hello : Hello
        Who this worker is; its slots, arena and functions. The leases are filled in for each connection.
    reconnect : bool, default True
        Whether a lost or absent manager is looked for again.
    dial_when_ready : bool, default False
        Whether the first slot must stand before the manager is told of this worker.
    lifetime : Lifetime, optional
        How long it may live.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        reconnect: bool = True,
        dial_when_ready: bool = False,
        lifetime: Lifetime | None = None,
    ) -> None:
        self._hello = hello
        self._reconnect = reconnect
        self._uplink = uplink_of(hello.session)
        self._library = Library()
        self._memory = Memory(hello.arena_bytes)
        self._bench = Bench(hello.slots, self._library)
        self._shelf = Shelf()
        self._unsent: list[Answers] = []
        self._inbox = Inbox(self._library)
        self._guard = Guard(self._library, self._memory, self._inbox)
        self._custody = Custody(
            self._library, self._memory, self._bench, self._inbox, self._uplink,
            act=self._act, send=self._send, go_on=self._take, refuse=self._refuse,
        )  # fmt: skip
        self._receiving = Receiving()
        self._sending = Sending()
        self._blocked = False
        self._dial_when_ready = dial_when_ready
        self._departure = Departure(
            self._bench, self._uplink, lifetime, act=self._act, unstarted=self._unstarted, give_back=self._give_back
        )
        self._out: list[Action] = []
        self._now = 0.0
        self._events: dict[type, Callable[[Any], None]] = {
            Opened: self._on_opened,
            Received: self._on_received,
            ChunkReceived: self._on_chunk,
            Blocked: self._on_room,
            Writable: self._on_room,
            Lost: self._on_lost,
            Tick: self._on_tick,
            Shaken: lambda event: self._out.extend(self._uplink.shaken(event.reason, self._now)),
            SlotReady: self._on_slot_ready,
            SlotDone: self._on_slot_done,
            SlotStopped: self._on_slot_stopped,
            SlotDied: self._on_slot_died,
            Refused: self._on_refused,
            Inspected: self._on_inspected,
            Allocated: self._on_allocated,
            Drain: lambda event: self._departure.told(self._now, insist=event.insist),
            Stop: lambda event: self._departure.stop(self._now),
            Swollen: lambda event: self._out.extend(self._bench.swollen(event)),
        }
        self._messages: dict[type, Callable[[Any], object]] = {
            Goodbye: self._uplink.goodbye,
            Heartbeat: lambda message: self._out.extend(self._uplink.answer(self._now)),
            Grant: self._on_grant,
            Abort: self._on_abort,
            Blob: self._custody.announced,
            Share: self._custody.offered,
            Job: self._on_job,
            Forget: self._on_forget,
            Assign: self._on_assign,
            Retract: self._on_retract,
            Confirm: self._on_confirm,
            DrainMessage: lambda message: self._departure.drain(self._now, message.reason),
        }

    def start(self, now: float) -> list[Action]:
        """Return the first actions: start the slots, dial."""
        self._now = now
        self._departure.start(now)
        self._out = self._bench.start(now)
        if not self._dial_when_ready:
            self._out.append(self._uplink.dial(now))
        return self._taken()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        if self._departure.over:
            return []
        self._now = now
        self._out = []
        try:
            self._events[type(event)](event)
        finally:
            self._settle()
        return self._taken()

    def deadline(self) -> float | None:
        """When the core next wants a Tick."""
        if self._departure.over:
            return None
        if self._unsent and self._uplink.up:
            return self._now
        due = self._uplink.deadline()
        for at in (self._bench.deadline(), self._departure.deadline()):
            if at is not None and (due is None or at < due):
                due = at
        return due

    # -- the link --------------------------------------------------------------------------------------------

    def _on_opened(self, event: Opened) -> None:
        hello = replace(self._hello, leases=array("Q", self._leases()))
        self._inbox.untold.clear()  # that HELLO does without them
        self._out += self._uplink.opened(event.link, hello, self._now)
        self._say("debug", f"the connection to the manager at {event.peer.address} stands")

    def _on_received(self, event: Received) -> None:
        if not self._uplink.heard(event.link, self._now):
            return
        message = event.message
        kind = type(message)
        self._guard.look(message)
        if kind is Welcome and self._uplink.state is LinkState.GREETING:
            self._welcome(message)
        elif kind in self._messages and (self._uplink.up or kind is Goodbye):
            if self._library.doubted and kind is not Job:
                self._forget_doubted()
            self._messages[kind](message)
        else:
            raise UnexpectedError(f"{kind.__name__} does not belong here")

    def _welcome(self, welcome: Any) -> None:
        resumed = self._uplink.welcomed(welcome)
        slots, workers = counted(welcome.slots, "slot"), counted(welcome.workers, "worker")
        self._say("info", f"connected {'again ' * resumed}to a star of now {slots} at {workers}")
        if not resumed:
            self._forget_everything()
        self._library.doubted = set(self._library.jobs)
        self._sending = Sending(welcome.first_window_bytes)
        self._blocked = False
        if self._departure.leaving:
            self._send(DrainingMessage())
        if resumed:
            self._send_retracted(self._inbox.untold, ())
        for answers in self._shelf:
            self._announce(answers, again=True)
        receiving, self._receiving = self._receiving, Receiving()
        for key, run in self._inbox.arriving.items():
            if key in receiving:
                self._receiving.resume(key, run.attempt, run.body_bytes, receiving.position(key))
                self._grant(key, run.body_bytes)
        self._custody.open_link()

    def _on_lost(self, event: Lost) -> None:
        loss = self._uplink.lost(event)
        if loss is None:
            return
        self._custody.leave_link()
        if self._departure.leaving and not self._leases():
            self._departure.finish(0)
            return
        verdict = judge(loss, self._uplink, reconnect=self._reconnect)
        if isinstance(verdict, Finished):
            self._departure.finish(verdict.exit_code, verdict.reason)
        else:
            self._out += [verdict, self._uplink.again(self._now)]

    def _on_refused(self, event: Refused) -> None:
        if not self._uplink.ever_up:  # one that was welcome before may be so again, once a clock or a file is right
            self._departure.finish(EXIT_CREDENTIALS, event.reason)

    def _forget_everything(self) -> None:
        """A new session of the manager's: nothing that was leased counts any more."""
        if dropped := len(self._leases()):
            self._say("warning", f"the manager does not know this session any more: {dropped} tasks are dropped")
        for run in self._unstarted():
            self._free(run)
        for lease in self._shelf.clear() + [lease for answers in self._unsent for lease in answers.bodies]:
            self._release_answer(lease)
        self._unsent.clear()
        for slot in self._bench.busy():
            self._out += self._bench.kill(slot, Why.DROPPED, text="its tasks were dropped")
        for number in list(self._library.jobs):
            self._on_forget(Forget(number))
        self._custody.clear()

    # -- jobs and blobs --------------------------------------------------------------------------------------

    def _on_job(self, message: Job) -> None:
        if not self._library.named(message):  # else it is told again
            self._on_forget(Forget(message.job))
            self._custody.add_job(message)

    def _forget_doubted(self) -> None:
        """The manager has named every job that goes on; what a lost link swallowed was the FORGET of the others."""
        for number in sorted(self._library.doubted):
            self._on_forget(Forget(number))
        self._library.doubted.clear()

    def _on_forget(self, message: Forget) -> None:
        self._library.doubted.discard(message.job)
        self._give_back(self._pick(self._inbox.of_job(message.job)))
        self._custody.forget_job(message.job)

    # -- leases in -------------------------------------------------------------------------------------------

    def _on_assign(self, message: Assign) -> None:
        entry = self._library.jobs.get(message.job)
        if entry is None:
            raise UnexpectedError(f"leases for job {message.job}, which was not announced")
        for run in runs_of(message):
            if self._departure.leaving:
                self._send(Retracted(array("Q", run.leases)))
            elif run.body_bytes > self._memory.capacity:
                self._refuse(run, f"its argument of {run.body_bytes} bytes is larger than this worker's arena")
            elif not self._custody.park(entry, run):
                self._take(run)

    def _take(self, run: Run) -> None:
        """A run has all that it shares with others: ask for its argument, if it has one."""
        if not run.body_bytes:
            self._add(run)
            return
        self._inbox.arriving[run.lease] = run
        self._receiving.open(run.lease, run.attempt, run.body_bytes)
        self._memory.demand(Demand(run.lease, run.attempt, run.body_bytes))

    def _on_allocated(self, event: Allocated) -> None:
        key = event.key
        if not self._memory.allocated(key, failed=bool(event.reason)):
            return  # nobody wants it any more, or it is asked for again later
        if self._custody.allocated(event):
            return
        if event.reason:
            run = self._inbox.arriving.pop(key, None)
            self._receiving.close(key)
            if run is not None:
                self._refuse(run, f"no memory for its argument: {event.reason}")
        elif self._uplink.up and key in self._receiving:
            self._grant(key, self._inbox.arriving[key].body_bytes)

    def _grant(self, key: int, size: int) -> None:
        if self._memory.holds(key) and (grant := self._receiving.grant(key, size)) is not None:
            self._send(grant)

    def _on_chunk(self, event: ChunkReceived) -> None:
        if not self._uplink.heard(event.link, self._now):
            return
        key = event.stream
        if key & BLOB_STREAM:
            self._custody.chunk(event)
            return
        taken = self._receiving.take(key, event.attempt, event.offset, event.length)
        if taken and self._receiving.complete(key):
            self._receiving.close(key)
            self._add(self._inbox.arriving.pop(key))

    def _add(self, run: Run) -> None:
        """A run is here whole. Where its function found no memory, the run asks for it again."""
        self._inbox.add(run)
        entry = self._library.jobs[run.job]
        if entry.starved:
            entry.starved = False
            self._send(Want(entry.job.digest))

    def _on_abort(self, message: Abort) -> None:
        if message.stream & BLOB_STREAM:
            self._custody.aborted(message.stream)
            return
        self._sending.close(message.stream)
        run = self._inbox.arriving.get(message.stream) or self._inbox.parked(message.stream)
        if run is not None and run.attempt == message.attempt:
            self._give_back(self._pick({run.lease}))

    # -- leases back -----------------------------------------------------------------------------------------

    def _on_retract(self, message: Retract) -> None:
        wanted = set(message.leases)
        given: list[int] = []
        for run in self._pick(wanted):
            given += run.leases
            self._free(run)
        wanted.difference_update(given)
        for slot in self._bench.busy():
            mine = wanted.intersection(slot.leases)
            wanted -= mine
            self._out += self._bench.want(slot, mine, message.kill)
        self._send_retracted(given, wanted)

    def _pick(self, wanted: set[int]) -> list[Run]:
        """Take leases that are in no slot out of their places, and their streams out of the books."""
        runs = self._inbox.pick(wanted)
        for run in runs:
            self._receiving.close(run.lease)
        return runs

    def _unstarted(self) -> list[Run]:
        """Take everything that is in no slot out of its place."""
        for key in self._inbox.arriving:
            self._receiving.close(key)
        return self._inbox.take_all()

    def _give_back(self, runs: list[Run]) -> None:
        for run in runs:
            self._free(run)
        self._send_retracted((lease for run in runs for lease in run.leases), ())

    def _send_retracted(self, leases: Iterable[int], declined: Iterable[int]) -> None:
        given, kept = array("Q", leases), array("Q", declined)
        if (given or kept) and self._uplink.up:
            self._send(Retracted(given, kept))
        elif given:
            self._inbox.untold += given

    def _return(self, runs: list[Run], wanted: set[int], declined: Iterable[int]) -> None:
        """Put what a slot did not run back in front, or give it back where that was asked, or where we leave."""
        given: list[int] = []
        again: list[Run] = []
        for run in runs:
            nowhere = self._departure.leaving or run.job not in self._library.jobs
            asked = set(run.leases) if nowhere else wanted.intersection(run.leases)
            if asked:
                self._free(run)
                given += asked
            again += run.without(asked)
        self._inbox.put_back(again)
        self._send_retracted(given, declined)

    # -- slots -----------------------------------------------------------------------------------------------

    def _on_slot_ready(self, event: SlotReady) -> None:
        self._bench.ready(event.slot, event.pid)
        if self._dial_when_ready:
            self._dial_when_ready = False
            self._out.append(self._uplink.dial(self._now))

    def _on_slot_done(self, event: SlotDone) -> None:
        slot = self._bench.slots[event.slot]
        batch = slot.batch(event.batch)
        assert batch is not None, event
        assert batch.done == event.first, event
        run, count = batch.run, len(event.statuses)
        dropped = slot.end is not None and slot.end.why is Why.DROPPED
        leases = run.leases[event.first : event.first + count]
        body = event.body_bytes
        self._bench.done(slot, batch, event, self._now)
        if run.body_bytes and (dropped or not event.in_place):
            if event.kept:
                slot.kept_bytes += self._memory.size(run.lease)
            self._drop_key(run.lease, kept=event.kept)
        if body and not event.in_place:
            self._memory.keep_answer(leases[0], body)
        if dropped:
            self._release_answer(leases[0])
        else:
            self._answer(run.attempt, leases, event, body)
        if slot.kept_bytes or slot.recycle:
            self._out += self._bench.rest(slot, self._memory.capacity)
        if not slot.batches and not self._inbox.ready and self._uplink.up and not self._bench.working:
            self._flush()  # no other answer can come in this turn: at its end, a Tick would do it

    def _answer(self, attempt: int, leases: range, event: SlotDone, body: int) -> None:
        if not self._unsent or self._unsent[-1].full(len(leases), len(event.heads)):
            self._unsent.append(Answers())
        answers = self._unsent[-1]
        answers.add(leases, event.statuses, event.seconds, event.head_sizes, event.heads)
        if body:
            answers.bodies[leases[0]] = (attempt, body)

    def _refuse(self, run: Run, text: str, status: Status = Status.UNRUNNABLE) -> None:
        head, count = text.encode(), len(run)
        sizes = array("I", [len(head)]) * count
        event = SlotDone(0, 0, 0, bytes([status]) * count, array("d", [0.0]) * count, sizes, head * count)
        self._answer(run.attempt, run.leases, event, 0)

    def _on_slot_died(self, event: SlotDied) -> None:
        slot = self._bench.slots[event.slot]
        wanted, end = set(slot.wanted), slot.end
        remains, actions = self._bench.died(event, self._now)
        self._out += actions
        if self._bench.hopeless:
            self._departure.finish(2, self._bench.hopeless)
            return
        verdict = remains.judge(end, event.cause)
        if end is not None and end.why is Why.DROPPED:
            for run in (*verdict.given, *verdict.again):
                self._free(run)
            return
        if (answered := verdict.answered) is not None:
            self._free(answered)
            by, status = self._hello, verdict.status
            told = outcome(verdict.text, status, event, by.name, by.host, answered.attempt)
            self._refuse(answered, told, status)
        here = {lease for run in (*verdict.given, *verdict.again) for lease in run.leases}
        self._give_back(verdict.given)
        self._return(verdict.again, wanted, wanted - here)

    def _on_inspected(self, event: Inspected) -> None:
        slot = self._bench.slots[event.slot]
        if slot.state is not SlotState.READY:
            return
        wanted = set(slot.wanted)
        found = self._bench.inspected(slot, event, self._now)
        self._out += found.actions
        if found.started and self._uplink.up:
            self._send(Started(array("Q", [found.started])))
        self._return(found.back, wanted, found.declined)

    def _on_slot_stopped(self, event: SlotStopped) -> None:
        self._return(*self._bench.slots[event.slot].withdraw(event.batch, event.started), ())

    # -- answers out -----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for answers in self._unsent:
            self._shelf.put(answers)
            self._announce(answers)
        self._unsent.clear()

    def _announce(self, answers: Answers, *, again: bool = False) -> None:
        self._send(answers.message())
        if not answers.bodies:
            self._sending.among(self._now)
        for lease, (attempt, size) in answers.bodies.items():
            self._sending.open(lease, attempt, size, window=not again)
        if self._sending:
            self._pump()

    def _on_grant(self, message: Grant) -> None:
        if self._sending.grant(message):
            self._pump()

    def _on_confirm(self, message: Confirm) -> None:
        for lease in self._shelf.confirm(message.leases):
            self._sending.close(lease)
            self._release_answer(lease)

    def _on_room(self, event: Blocked | Writable) -> None:
        if event.link == self._uplink.link:
            self._blocked = type(event) is Blocked
            self._pump()

    def _pump(self) -> None:
        if self._blocked or not self._uplink.up or any(type(action) is SendChunk for action in self._out):
            return
        for chunk in self._sending.chunks(self._now):
            self._uplink.spoke(self._now)
            self._out.append(SendChunk(self._uplink.link, *chunk))

    # -- the end of each event -------------------------------------------------------------------------------

    def _on_tick(self, event: Tick) -> None:
        self._departure.tick(self._now)
        if self._departure.over:
            return
        if self._uplink.up:
            self._flush()
        self._out += self._uplink.tick(self._now)
        self._out += self._bench.tick(self._now)

    def _settle(self) -> None:
        if self._departure.over:
            return
        if self._custody.line or self._memory.demands:
            self._custody.admit()
            self._out += self._memory.admit()
        if self._inbox.ready:
            self._out += self._bench.feed(self._inbox.ready, self._now)
        if self._departure.leaving and not self._leases():
            self._departure.finish(0)

    def _taken(self) -> list[Action]:
        out, self._out = self._out, []
        return out

    # -- small things ----------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._out.append(self._uplink.send(message, self._now))

    def _act(self, action: Action) -> None:
        self._out.append(action)

    def _say(self, level: str, text: str) -> None:
        self._out.append(Log(level, text))

    def _free(self, run: Run) -> None:
        if run.body_bytes:
            self._drop_key(run.lease)

    def _drop_key(self, key: int, *, kept: bool = False) -> None:
        self._out += self._memory.release(key, kept=kept)

    def _release_answer(self, lease: int) -> None:
        if self._memory.release_answer(lease):
            self._out.append(ReleaseAnswer(lease))
        else:
            self._drop_key(lease)  # the answer lies in its argument

    def _leases(self) -> list[int]:
        leases = [lease for run in self._inbox for lease in run.leases]
        unsent = (lease for answers in self._unsent for lease in answers.leases)
        return [*leases, *self._bench.leases(), *unsent, *self._shelf.leases]

    def check(self) -> None:
        """Assert every invariant."""
        leases = self._leases()
        assert len(leases) == len(set(leases)), "a lease in two places"
        self._uplink.check()
        self._library.check()
        self._custody.check()
        self._memory.check()
        self._bench.check()
        self._receiving.check()
        self._sending.check()
        assert self._memory.keys() <= {*leases, *self._bench.dropped(), *self._custody.keys}, "memory that nobody owns"
