"""The client's side of the protocol: pure, turned by the driver.

Not here: futures, pickles, sockets, clocks. The session's shell (`session.py`) feeds what the user calls and
carries out what is asked for; the accounts of outstanding tasks stand in `state.py`.

::

    Begin, Call, CancelCall ─▶ Ledger ──credit──▶ BLOB? JOB? SUBMIT ───▶ manager
                                                  CHUNKs ◀── GRANTs ──── of arguments, from the caller's memory
    Resolve ◀──────────── an answer without body ◀──────── OUTCOME
    Receive, then Landed ◀── CHUNKs into the landing ◀──── OUTCOME with a body: GRANT for all of it
                                                  ACK, gathered ───────▶

A lost connection changes nothing for the user: the core asks for another (`Dial`), and after its WELCOME says
again whatever is unfinished. The manager ignores what it knows; what is done already is only acknowledged again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, ClassVar

from starcore.client.answers import Answers
from starcore.client.asking import Asking
from starcore.client.attachments import Attachments
from starcore.client.blobs import Blobs
from starcore.client.orders import (
    Ask,
    AskStory,
    Begin,
    Call,
    CancelCall,
    Connect,
    Connected,
    Forgotten,
    GiveUp,
    MarkRunning,
    Outbox,
    Put,
    Question,
    Read,
    Refused,
    Release,
    Released,
    Resized,
    Say,
    Shutdown,
)
from starcore.client.state import CANCELLING, DONE, JobEntry, Ledger, submit_of
from starcore.errors import Code, UnexpectedError
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Event,
    Finished,
    Log,
    Lost,
    Opened,
    Received,
    SendChunk,
    Shaken,
    Tick,
    Writable,
)
from starcore.messages import (
    BATCH_TASKS_MAX,
    BLOB_STREAM,
    Abort,
    Cancel,
    Column,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Inventory,
    Job,
    Notice,
    Outcome,
    Running,
    Slots,
    StatusReply,
    Stored,
    StoryReply,
    Want,
    Welcome,
    share_names,
)
from starcore.streams import Sending
from starcore.texts import plain
from starcore.uplink import LinkState, Uplink

FIRST_ATTEMPT = 1
FIRST_WINDOW_BYTES = 1 << 20
"""Bytes of answers that the manager may send to this client unasked."""
RESULT_BYTES = 256 << 20
"""Unacknowledged answers that this client lets the manager keep for it."""
JOBS_IDLE_MAX = 256
"""Functions that the star remembers for this client while none of their tasks is outstanding."""
FORGETS_REPEATED_MAX = 1024
"""How many FORGETs are said again on a new link: the last ones may have been lost with the old one."""
BACKOFF_MAX_SECONDS = 1.0
BACKOFF_IDLE_SECONDS = 5.0
BACKOFF_SPREAD = (0.5, 1.0)
GREETING_SECONDS = 10.0
PATIENCE_SECONDS = 5.0
"""
A silence that a client ends itself, though its manager would bear a longer one. TCP doubles the time after which it
tries again; of a link that was down for some seconds it would not find out within two that it is back.
"""
HOPELESS: dict[int, int] = {code: code for code in (Code.VERSION, Code.ROLE, Code.SUPERSEDED)}
"""Refusals that no second attempt will change; the user is told which."""

FAREWELL_SECONDS = 2.0
"""How long a client that is done, but cut off, dials on to say so: else its manager keeps the session for the grace."""


class ClientCore:
    """One session.

    Parameters
    ----------
    hello : Hello
        What this process says of itself; its `session` names the session, over every connection.
    jobs_idle_max : int
        How many functions without outstanding tasks the star remembers.
    """

    def __init__(self, hello: Hello, *, jobs_idle_max: int = JOBS_IDLE_MAX) -> None:
        self._hello = hello
        self._jobs_idle_max = jobs_idle_max
        self._uplink = Uplink(
            hello.session,
            greeting_seconds=GREETING_SECONDS,
            backoff_max=self._backoff_max,
            spread=BACKOFF_SPREAD,
            hopeless=HOPELESS,
            patience_seconds=PATIENCE_SECONDS,
        )
        self._outbox = Outbox(self._uplink)
        self._ledger = Ledger()
        self._answers = Answers(self._ledger, self._outbox)
        self._blobs = Blobs(self._outbox)
        self._attachments = Attachments(self._ledger, self._answers, self._outbox)
        self._sending = Sending()
        self._idle: dict[int, None] = {}
        self._forgotten: list[int] = []
        """Jobs that were struck lately, or while there was no link."""
        self._asking = Asking(self._outbox)
        self._ending = False
        self._farewell_until: float | None = None
        self._blocked = False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        out = self._outbox.turn(now)
        self._EVENTS[type(event)](self, event)
        if self._ending:
            self._finish_if_done()
        return out

    def deadline(self) -> float | None:
        """When the core next wants a Tick."""
        uplink, due = self._uplink, self._uplink.deadline()
        for at in (self._answers.ack_at if uplink.state is LinkState.UP else None, self._farewell_until):
            if at is not None and (due is None or at < due):
                due = at
        return None if uplink.state is LinkState.OVER else due

    @property
    def _over(self) -> bool:
        return self._uplink.state is LinkState.OVER

    @property
    def outstanding(self) -> int:
        """How many tasks have no outcome yet and are not cancelled."""
        return self._ledger.outstanding

    def check(self) -> None:
        """Assert every invariant."""
        self._ledger.check()
        self._sending.check()
        self._uplink.check()
        self._answers.check(self._uplink.up)
        jobs = self._ledger.jobs
        self._blobs.check(
            [entry.job.digest for entry in jobs.values() if entry.job.kind == FunctionKind.SHIPPED],
            [name for entry in jobs.values() for name in share_names(entry.job.shares)],
        )
        assert self._uplink.up or not len(self._sending)
        self._attachments.check()
        resting = {number for number, entry in jobs.items() if not entry.left and number not in self._attachments}
        assert set(self._idle) == resting
        assert len(self._idle) <= self._jobs_idle_max

    # -- calls of the user's ---------------------------------------------------------------------------------

    def _connect(self, event: Connect) -> None:
        self._outbox.ask(self._uplink.dial(self._outbox.now))

    def _begin(self, event: Begin) -> None:
        job = event.job
        self._ledger.begin(job)
        if job.kind == FunctionKind.SHIPPED:
            self._blobs.use(job.digest, event.blob)
        for name in share_names(job.shares):
            self._blobs.need(name)
        if event.detach is None:
            self._rest(job.job)
            return
        self._attachments.open(job.job, event.detach)
        if self._uplink.up:
            self._tell(self._ledger.jobs[job.job])

    def _read(self, event: Read) -> None:
        number, name = event.attach.job, event.attach.name
        self._ledger.begin(Job(number, FunctionKind.REGISTERED, bytes(32), name))
        self._ledger.jobs[number].attached = True
        self._attachments.open(number, event.attach)
        if self._uplink.up:
            self._tell(self._ledger.jobs[number])

    def _give_up(self, event: GiveUp) -> None:
        if event.job in self._attachments:
            self._end_attachment(event.job)

    def _release(self, event: Release) -> None:
        for number in list(self._idle):
            if event.name in share_names(self._ledger.jobs[number].job.shares):
                self._strike(number)
        self._blobs.release(event.name)

    def _call(self, event: Call) -> None:
        if self._over:
            return
        idle = not self._ledger.outstanding
        self._idle.pop(event.job, None)
        self._ledger.call(event.job, event.first, event.heads, event.body_sizes)
        if self._uplink.up:
            self._submit()
            if self._sending:
                self._pump()
        else:
            self._ask_for(self._uplink.hasten(self._outbox.now, 0.0 if idle else BACKOFF_MAX_SECONDS))

    def _cancel_call(self, event: CancelCall) -> None:
        entry = self._ledger.jobs.get(event.job)
        if entry is None:
            return
        told: Column = array("I")
        released = []
        for index in event.indices:
            run = self._ledger.find(entry, index)
            if run is None or run.states[index - run.first] in {CANCELLING, DONE}:
                continue
            at = index - run.first
            stream = event.job << 32 | index
            if run.body(at):
                released.append(index)
            self._sending.close(stream)
            self._answers.void(stream)
            if self._ledger.cancel(run, at, event.kill):
                told.append(index)
        if released:
            self._outbox.ask(Released(event.job, released))
        if told and self._uplink.up:
            self._say_cancel(event.job, event.kill, told)
        self._rest_if_idle(entry)

    def _shutdown(self, event: Shutdown) -> None:
        if self._over:
            self._outbox.ask(Finished())
        elif event.abandon:
            self._finish()
        else:
            self._ending = True
            for number in self._attachments.reading():
                self._end_attachment(number)

    def _finish_if_done(self) -> None:
        """Leave when nothing is outstanding; a client that is cut off just then dials on for a moment, to say so."""
        if self._ledger.outstanding or self._over:
            return
        now = self._outbox.now
        if self._uplink.up or not self._uplink.ever_up:
            self._finish()
        elif self._farewell_until is None:
            self._farewell_until = now + FAREWELL_SECONDS
            self._ask_for(self._uplink.hasten(now, BACKOFF_MAX_SECONDS))
        elif now >= self._farewell_until:
            self._finish()

    def _finish(self) -> None:
        if self._uplink.up:
            self._answers.flush()
        self._ask_for(self._uplink.leave("the client is done"))
        self._forsake()
        self._outbox.ask(Finished())

    # -- the link --------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> None:
        self._ask_for(self._uplink.opened(event.link, self._hello, self._outbox.now))

    def _lost(self, event: Lost) -> None:
        loss = self._uplink.lost(event)
        if loss is None:
            return
        self._forsake()
        if loss.verdict is not None:
            self._uplink.leave("")
            self._outbox.ask(Refused(loss.verdict, plain(loss.reason)))
            return
        why = ""
        if loss.stage is LinkState.DIALLING:
            self._outbox.ask(Log("info", f"the manager cannot be reached: {loss.reason}"))
        elif loss.stage is not LinkState.CLOSING:  # what we closed ourselves has its line already
            why = loss.reason
            level = "warning" if loss.was_up else "info"  # before the first WELCOME an error says it
            self._outbox.ask(Log(level, f"lost the manager: {why}; trying to reach it again"))
        self._outbox.ask(self._uplink.again(self._outbox.now, why))

    def _shaken(self, event: Shaken) -> None:
        """Dial anew, and at once."""
        if self._uplink.standing:
            self._outbox.ask(Log("info", f"{event.reason}: dialling anew"))
            self._ask_for(self._uplink.close(Code.SILENT, event.reason))
            self._forsake()
        else:
            self._ask_for(self._uplink.hasten(self._outbox.now, 0.0))

    def _forsake(self) -> None:
        """Let go of all that belongs to one connection only."""
        self._answers.leave_link()
        self._sending = Sending()
        self._blobs.open_link(self._sending)
        self._blocked = False

    def _backoff_max(self) -> float:
        busy = self._ledger.outstanding or self._asking or self._attachments.asking or self._ending
        return BACKOFF_MAX_SECONDS if busy else BACKOFF_IDLE_SECONDS

    def _tick(self, event: Tick) -> None:
        now, welcome, ack_at = self._outbox.now, self._uplink.welcome, self._answers.ack_at
        overdue = self._uplink.overdue(now)
        if overdue and welcome is not None:
            text = f"the manager was silent for {self._uplink.silence_seconds:g} s: dialling anew"
            self._outbox.ask(Log("warning", text))
        elif self._uplink.up and ack_at is not None and now >= ack_at:
            self._answers.flush()
        self._ask_for(self._uplink.tick(now))
        if overdue:
            self._forsake()

    def _ask_for(self, actions: list[Action]) -> None:
        for action in actions:
            self._outbox.ask(action)

    def _received(self, event: Received) -> None:
        if not self._uplink.heard(event.link, self._outbox.now):
            return
        message = event.message
        kind = type(message)
        if self._uplink.state is LinkState.GREETING and kind not in {Welcome, Goodbye}:
            raise UnexpectedError(f"{kind.__name__} before WELCOME")
        take = self._MESSAGES.get(kind)
        if take is None:
            raise UnexpectedError(f"{kind.__name__} is nothing that a manager says to a client")
        take(self, message)

    def _welcome(self, message: Welcome) -> None:
        if self._uplink.state is not LinkState.GREETING:
            raise UnexpectedError("a second WELCOME")
        resumed = self._uplink.welcomed(message)
        self._sending = Sending(message.first_window_bytes)
        self._answers.open_link(self._sending, self._hello.first_window_bytes, resumed)
        self._blobs.open_link(self._sending)
        self._outbox.ask(Connected(resumed, message.workers, message.slots))
        self._ledger.submit_bytes = message.submit_bytes
        self._ledger.rewind(resumed)
        self._forget_again(resumed)
        for number in [] if resumed else self._attachments.lost():
            self._attachments.give_up(number, "the session was lost before the job was known to be stored")
            self._end_attachment(number)
        for number, entry in list(self._ledger.jobs.items()):
            if number not in self._ledger.jobs:
                continue  # forgotten a moment ago, to make room
            for kill in (False, True):
                indices = array("I", sorted(index for index, kills in entry.kills.items() if kills == kill))
                if indices:
                    self._tell(entry)
                    self._say_cancel(number, kill, indices)
            if number in self._attachments:
                self._tell(entry)
            self._rest_if_idle(entry)
        self._asking.again()
        self._attachments.ask_again()
        self._submit()
        self._pump()

    def _forget_again(self, resumed: bool) -> None:
        """Say which jobs are over and not begun again: the manager that knows them may not have heard of it."""
        self._forgotten = self._forgotten if resumed else []
        for number in [number for number in self._forgotten if number not in self._ledger.jobs]:
            self._outbox.send(Forget(number))

    def _goodbye(self, message: Goodbye) -> None:
        if self._uplink.goodbye(message) is None:
            why = message.reason or message.code
            self._outbox.ask(Log("warning", plain(f"the manager said goodbye: {why}; trying to reach it again")))
        self._ask_for(self._uplink.close(Code.NORMAL, "goodbye"))
        self._forsake()

    # -- to the manager --------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """Say as many of the waiting tasks as the credit takes, and take the acknowledgements along."""
        spoke = False
        while (piece := self._ledger.cut()) is not None:
            run, start, stop = piece
            self._tell(run.entry)
            message = submit_of(run, start, stop)
            self._outbox.send(message)
            spoke = True
            if not message.body_sizes:
                self._sending.among(self._outbox.now)
            stream = message.job << 32 | message.first
            for at, size in enumerate(message.body_sizes):
                if size:
                    self._sending.open(stream + at, FIRST_ATTEMPT, size, window=not message.again)
        if spoke:
            self._answers.flush()

    def _say_cancel(self, job: int, kill: bool, indices: Column) -> None:
        for start in range(0, len(indices), BATCH_TASKS_MAX):
            self._outbox.send(Cancel(job, kill, indices[start : start + BATCH_TASKS_MAX]))

    def _tell(self, entry: JobEntry) -> None:
        """The job, and before it its function, once a link."""
        if entry.told:
            return
        entry.told = True
        if not entry.attached:
            self._blobs.tell(entry.job.digest)
            for name in share_names(entry.job.shares):
                self._blobs.tell(name)
            self._outbox.send(entry.job)
        self._attachments.tell(entry.job.job)

    def _pump(self) -> None:
        """As many chunks as the link takes at a time; Writable asks for the next."""
        if self._blocked or not self._uplink.up:
            return
        for stream, attempt, offset, length in self._sending.chunks(self._outbox.now):
            token = self._blobs.piece(stream, offset, length) if stream & BLOB_STREAM else None
            self._uplink.spoke(self._outbox.now)
            self._outbox.ask(SendChunk(self._uplink.link, stream, attempt, offset, length, token))

    def _writable(self, event: Writable) -> None:
        if event.link == self._uplink.link:
            self._blocked = False
            self._pump()

    def _block(self, event: Blocked) -> None:
        if event.link == self._uplink.link:
            self._blocked = True

    def _grant(self, message: Grant) -> None:
        if self._sending.grant(message):
            self._pump()

    def _want(self, message: Want) -> None:
        self._blobs.tell(message.digest, again=True)
        self._pump()

    # -- from the manager ------------------------------------------------------------------------------------

    def _outcome(self, message: Outcome) -> None:
        entry = self._ledger.jobs.get(message.job)
        if entry is None:
            self._answers.acknowledge(message.sequence)
            return
        self._answers.outcome(entry, message)
        self._submit()
        self._rest_if_idle(entry)

    def _chunk(self, event: ChunkReceived) -> None:
        if not self._uplink.heard(event.link, self._outbox.now):
            return
        entry = self._answers.chunk(event)
        if entry is not None:
            self._submit()  # what has landed weighs no more
            self._rest_if_idle(entry)

    def _abort(self, message: Abort) -> None:
        if self._answers.abort(message) or message.stream not in self._sending:
            return
        self._sending.close(message.stream)
        if message.stream & BLOB_STREAM:
            self._blobs.aborted(message.stream)
            return
        entry = self._ledger.jobs.get(message.stream >> 32)
        run = None if entry is None else self._ledger.find(entry, message.stream & 0xFFFFFFFF)
        if run is not None:
            # This try is over, not the task: the GRANT of a later attempt will ask for it again.
            size = run.body((message.stream & 0xFFFFFFFF) - run.first)
            self._sending.open(message.stream, message.attempt + 1, size, window=False)

    def _running(self, message: Running) -> None:
        if message.job in self._ledger.jobs:
            self._outbox.ask(MarkRunning(message.job, message.indices))

    def _notice(self, message: Notice) -> None:
        entry = self._ledger.jobs.get(message.job)
        if entry is not None and not entry.noticed:  # else it is done or cancelled by now
            entry.noticed = True
            self._outbox.ask(Say(plain(f"{entry.job.function or 'a call'} waits: {message.text}")))

    def _stored(self, message: Stored) -> None:
        if self._attachments.told(message):
            self._end_attachment(message.job)

    # -- jobs without tasks ----------------------------------------------------------------------------------

    def _rest_if_idle(self, entry: JobEntry) -> None:
        number = entry.job.job
        if entry.left or number in self._idle or number not in self._ledger.jobs or number in self._attachments:
            return
        self._rest(number)
        if entry.job.shares and not all(map(self._blobs.held, share_names(entry.job.shares))):
            self._strike(number)  # it cannot be called again

    def _rest(self, number: int) -> None:
        """A job has no outstanding task; beyond the bound the one that rests longest is forgotten."""
        self._idle[number] = None
        while len(self._idle) > self._jobs_idle_max:
            self._strike(next(iter(self._idle)))

    def _end_attachment(self, number: int) -> None:
        """A stored job is brought, or read no more: its number is not used again."""
        self._attachments.end(self._ledger.jobs[number], self._sending)
        self._idle[number] = None
        self._strike(number)

    def _strike(self, number: int) -> None:
        """Forget a job that rests."""
        del self._idle[number]
        entry = self._ledger.forget(number)
        self._outbox.ask(Forgotten(number))
        self._forgotten.append(number)
        if self._uplink.up:  # also of one that only an earlier link was told of
            self._answers.flush()
            self._outbox.send(Forget(number))
            del self._forgotten[:-FORGETS_REPEATED_MAX]
        if entry.job.kind == FunctionKind.SHIPPED:
            self._blobs.drop(entry.job.digest)
        for name in share_names(entry.job.shares):
            self._blobs.spare(name)

    _EVENTS: ClassVar[dict[type, Callable[[ClientCore, Any], None]]] = {
        Connect: _connect,
        Shaken: _shaken,
        Begin: _begin,
        Call: _call,
        CancelCall: _cancel_call,
        Put: lambda core, event: core._blobs.hold(event.name, event.source),
        Release: _release,
        Read: _read,
        GiveUp: _give_up,
        Question: lambda core, event: core._attachments.ask(event, core._uplink.up),
        Ask: lambda core, event: core._asking.status(core._uplink.up),
        AskStory: lambda core, event: core._asking.story(event, core._uplink.up),
        Shutdown: _shutdown,
        Opened: _opened,
        Received: _received,
        ChunkReceived: _chunk,
        Blocked: _block,
        Writable: _writable,
        Lost: _lost,
        Tick: _tick,
    }
    _MESSAGES: ClassVar[dict[type, Callable[[ClientCore, Any], None]]] = {
        Welcome: _welcome,
        Goodbye: _goodbye,
        Heartbeat: lambda core, message: None,
        Grant: _grant,
        Abort: _abort,
        Want: _want,
        Outcome: _outcome,
        Running: _running,
        Notice: _notice,
        Slots: lambda core, message: core._outbox.ask(Resized(message.workers, message.slots)),
        StatusReply: lambda core, message: core._asking.status_told(message),
        Stored: _stored,
        Inventory: lambda core, message: core._attachments.answered(message),
        StoryReply: lambda core, message: core._asking.story_told(message),
    }
