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
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starcore.client.state import CANCELLING, DONE, LANDING, SENT, JobEntry, Ledger, Run, submit_of
from starcore.errors import Code, UnexpectedError
from starcore.events import (
    Action,
    Blocked,
    ChunkReceived,
    Close,
    Event,
    Lost,
    Opened,
    Received,
    Send,
    SendChunk,
    Tick,
    Writable,
)
from starcore.messages import (
    BLOB_STREAM,
    HEAD_BYTES_MAX,
    Abort,
    Ack,
    Blob,
    Buffer,
    Cancel,
    Column,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Message,
    Notice,
    Outcome,
    Running,
    Slots,
    StatusReply,
    StatusRequest,
    Want,
    Welcome,
)
from starcore.streams import Receiving, Sending

FIRST_ATTEMPT = 1
FIRST_WINDOW_BYTES = 1 << 20
"""Bytes of answers that the manager may send to this client unasked."""
RESULT_BYTES = 256 << 20
"""Unacknowledged answers that this client lets the manager keep for it."""
ACK_DELAY_SECONDS = 0.002
"""How long an acknowledgement waits for company, or for a SUBMIT to travel with."""
ACKS_MAX = 1024
JOBS_IDLE_MAX = 256
"""Functions that the star remembers for this client while none of their tasks is outstanding."""
BACKOFF_MIN_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 1.0
BACKOFF_IDLE_SECONDS = 5.0
GREETING_SECONDS = 10.0
HOPELESS = frozenset({Code.VERSION, Code.ROLE, Code.SUPERSEDED})
"""Refusals that no second attempt will change."""

AWAY, GREETING, LIVE, CLOSED = "away", "greeting", "live", "closed"

# -- events of the client's own --------------------------------------------------------------------------------


@dataclass(slots=True)
class Connect:
    """Begin to dial."""


@dataclass(slots=True)
class Begin:
    """A job; `blob` is its function, empty where the worker has it registered."""

    job: Job
    blob: bytes = b""


@dataclass(slots=True)
class Call:
    """Tasks `first`, `first + 1`, ... of a job; an empty `body_sizes` says that none has a body."""

    job: int
    first: int
    heads: list[bytes]
    body_sizes: Column = field(default_factory=lambda: array("Q"))


@dataclass(slots=True)
class CancelCall:
    """Nobody waits for these tasks any more; `kill` ends those that run."""

    job: int
    indices: list[int]
    kill: bool = False


@dataclass(slots=True)
class Ask:
    """What is going on in the star? Answered by `Told`, once there is a connection."""


@dataclass(slots=True)
class Shutdown:
    """End the session when its work is done, or at once (`abandon`)."""

    abandon: bool = False


# -- actions of the client's own -------------------------------------------------------------------------------


@dataclass(slots=True)
class Dial:
    """Make a connection after so many seconds; replaces a dial that has not begun yet. `reason`: why anew."""

    delay_seconds: float
    reason: str = ""


@dataclass(slots=True)
class Connected:
    """The session stands; said after every WELCOME."""

    resumed: bool
    workers: int
    slots: int


@dataclass(slots=True)
class Refused:
    """The manager will not have this client, now or later: the session is over."""

    code: int
    reason: str


@dataclass(slots=True)
class Resolve:
    """Outcomes without a body, in columns as in `Outcome`."""

    job: int
    indices: Column
    statuses: Buffer
    head_sizes: Column
    heads: Buffer


@dataclass(slots=True)
class Receive:
    """An answer's body is about to come: make its landing now; a former one of this task is void."""

    job: int
    index: int
    attempt: int
    status: int
    head: bytes
    body_bytes: int


@dataclass(slots=True)
class Landed:
    """The body is whole."""

    job: int
    index: int
    status: int


@dataclass(slots=True)
class Discard:
    """The landing is void: its worker or its connection was lost in the middle. The task is still outstanding."""

    job: int
    index: int


@dataclass(slots=True)
class Released:
    """The arguments of these tasks are not needed any more."""

    job: int
    indices: list[int]


@dataclass(slots=True)
class MarkRunning:
    """These tasks run."""

    job: int
    indices: Column


@dataclass(slots=True)
class Forgotten:
    """The core has struck an idle job, which had had `tasks` tasks; one more call needs another `Begin`."""

    job: int
    tasks: int


@dataclass(slots=True)
class Resized:
    """The star has so many workers and slots now."""

    workers: int
    slots: int


@dataclass(slots=True)
class Told:
    """The star's state, as a JSON object."""

    text: str


@dataclass(slots=True)
class Say:
    """A sentence for the user's eyes."""

    text: str


@dataclass(slots=True)
class Log:
    """A line for the log."""

    level: str
    text: str


@dataclass(slots=True)
class Finished:
    """The session is over, as asked."""


# -- records of the core's own ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Answer:
    """An OUTCOME, which is acknowledged when all of its bodies are here."""

    sequence: int
    pending: int
    aborted: int = 0
    tasks: int = 0


@dataclass(slots=True)
class _Landing:
    run: Run
    at: int
    attempt: int
    status: int
    answer: _Answer


@dataclass(slots=True)
class _Function:
    """A blob, the jobs that use it, and whether this link's manager was told."""

    blob: bytes
    jobs: int = 0
    told: bool = False


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
        self._ledger = Ledger()
        self._functions: dict[bytes, _Function] = {}
        self._blob_streams: dict[int, bytes] = {}
        self._blob_number = 0
        self._idle: dict[int, None] = {}
        self._landings: dict[int, _Landing] = {}
        self._acks: Column = array("Q")
        self._asking = False
        self._ending = False
        self._phase = AWAY
        self._link = 0
        self._newest_link = 0
        self._blocked = False
        self._sending = Sending()
        self._receiving = Receiving()
        self._heartbeat_seconds = self._silence_seconds = GREETING_SECONDS
        self._failures = 0
        self._dial_at: float | None = None
        self._sent_at = self._heard_at = self._ack_at = self._now = 0.0
        self._out: list[Action] = []

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at the monotonic time `now` (s) and say what is to be done."""
        self._now = now
        out = self._out = []
        self._EVENTS[type(event)](self, event)
        if self._ending:
            self._finish_if_done()
        return out

    def deadline(self) -> float | None:
        """When the core next wants a Tick."""
        if self._phase == GREETING:
            return self._heard_at + GREETING_SECONDS
        if self._phase != LIVE:
            return None
        due = min(self._sent_at + self._heartbeat_seconds, self._heard_at + self._silence_seconds)
        return min(due, self._ack_at) if self._acks else due

    @property
    def outstanding(self) -> int:
        """How many tasks have no outcome yet and are not cancelled."""
        return self._ledger.outstanding

    def check(self) -> None:
        """Assert every invariant."""
        self._ledger.check()
        self._sending.check()
        self._receiving.check()
        assert (self._link != 0) == (self._phase in {GREETING, LIVE}), (self._phase, self._link)
        assert self._phase == LIVE or not (self._landings or self._acks or len(self._sending) or len(self._receiving))
        assert set(self._idle) == {number for number, entry in self._ledger.jobs.items() if not entry.left}
        assert len(self._idle) <= self._jobs_idle_max
        assert len(self._receiving) == len(self._landings)
        for stream, landing in self._landings.items():
            assert landing.run.states[landing.at] == LANDING, stream
            assert stream == _stream(landing.run, landing.at)
        shipped = [entry.job.digest for entry in self._ledger.jobs.values() if entry.job.kind == FunctionKind.SHIPPED]
        assert {digest: shipped.count(digest) for digest in shipped} == {
            digest: function.jobs for digest, function in self._functions.items()
        }

    # -- calls of the user's ---------------------------------------------------------------------------------

    def _connect(self, event: Connect) -> None:
        self._dial(0.0)

    def _begin(self, event: Begin) -> None:
        job = event.job
        self._ledger.begin(job)
        if job.kind == FunctionKind.SHIPPED:
            self._functions.setdefault(job.digest, _Function(event.blob)).jobs += 1
        self._rest(job.job)

    def _call(self, event: Call) -> None:
        if self._phase == CLOSED:
            return
        self._idle.pop(event.job, None)
        self._ledger.call(event.job, event.first, event.heads, event.body_sizes)
        if self._phase == LIVE:
            self._submit()
            self._pump()
        elif self._phase == AWAY and self._dial_at is not None and self._dial_at > self._now + BACKOFF_MAX_SECONDS:
            self._dial(0.0)

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
            stream = _stream(run, at)
            if run.body(at):
                released.append(index)
            self._sending.close(stream)
            self._abandon(stream)
            if self._ledger.cancel(run, at, event.kill):
                told.append(index)
        if released:
            self._out.append(Released(event.job, released))
        if told and self._phase == LIVE:
            self._send(Cancel(event.job, event.kill, told))
        if not entry.left:
            self._rest(event.job)

    def _ask(self, event: Ask) -> None:
        self._asking = True
        if self._phase == LIVE:
            self._send(StatusRequest())

    def _shutdown(self, event: Shutdown) -> None:
        if self._phase == CLOSED:
            self._out.append(Finished())
        elif event.abandon:
            self._finish()
        else:
            self._ending = True

    def _finish_if_done(self) -> None:
        if not self._ledger.outstanding and self._phase != CLOSED:
            self._finish()

    def _finish(self) -> None:
        if self._phase == LIVE:
            self._flush_acks()
        if self._link:
            self._out.append(Close(self._link, Code.NORMAL, "the client is done"))
        self._forsake()
        self._phase = CLOSED
        self._out.append(Finished())

    # -- the link --------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> None:
        if self._phase != AWAY:
            self._out.append(Close(event.link, Code.NORMAL, "not needed any more"))
            return
        self._phase, self._link, self._newest_link = GREETING, event.link, event.link
        self._dial_at = None
        self._blocked = False
        self._heard_at = self._now
        self._send(self._hello)

    def _lost(self, event: Lost) -> None:
        if self._phase == CLOSED:
            return
        if self._link and event.link == self._link:
            self._out.append(Log("warning", f"the connection to the manager is lost: {event.reason}"))
            self._forsake()
            self._redial(event.reason)
        elif self._phase == AWAY and (event.link == 0 or event.link > self._newest_link):
            self._newest_link = max(self._newest_link, event.link)
            self._out.append(Log("info", f"the manager cannot be reached: {event.reason}"))
            self._redial()

    def _forsake(self) -> None:
        """Leave the link, and with it all that belongs to one connection only."""
        for stream in list(self._landings):
            landing = self._landings[stream]
            self._out.append(Discard(landing.run.entry.job.job, landing.run.first + landing.at))
        self._landings.clear()
        self._acks = array("Q")
        self._sending = Sending()
        self._receiving = Receiving()
        self._blob_streams.clear()
        self._link = 0
        self._phase = AWAY

    def _hang_up(self, code: Code, reason: str) -> None:
        self._out.append(Close(self._link, code, reason))
        self._forsake()
        self._redial()

    def _redial(self, reason: str = "") -> None:
        longest = BACKOFF_MAX_SECONDS if self._ledger.outstanding or self._asking else BACKOFF_IDLE_SECONDS
        delay = min(longest, BACKOFF_MIN_SECONDS * 2 ** min(self._failures, 10))
        # The session's own random bytes keep many clients from dialling in step.
        jitter = 0.5 + self._hello.session[self._failures % len(self._hello.session)] / 510
        self._failures += 1
        self._dial(delay * jitter, reason)

    def _dial(self, delay_seconds: float, reason: str = "") -> None:
        self._dial_at = self._now + delay_seconds
        self._out.append(Dial(delay_seconds, reason))

    def _tick(self, event: Tick) -> None:
        if self._phase == GREETING and self._now >= self._heard_at + GREETING_SECONDS:
            self._hang_up(Code.SILENT, f"no WELCOME within {GREETING_SECONDS:g} s")
        if self._phase != LIVE:
            return
        if self._now >= self._heard_at + self._silence_seconds:
            self._out.append(Log("warning", f"the manager was silent for {self._silence_seconds:g} s: dialling anew"))
            self._hang_up(Code.SILENT, f"silent for {self._silence_seconds:g} s")
            return
        if self._acks and self._now >= self._ack_at:
            self._flush_acks()
        if self._now >= self._sent_at + self._heartbeat_seconds:
            self._send(Heartbeat())

    def _received(self, event: Received) -> None:
        if event.link != self._link:
            return
        self._heard_at = self._now
        message = event.message
        kind = type(message)
        if self._phase == GREETING and kind not in {Welcome, Goodbye}:
            raise UnexpectedError(f"{kind.__name__} before WELCOME")
        take = self._MESSAGES.get(kind)
        if take is None:
            raise UnexpectedError(f"{kind.__name__} is nothing that a manager says to a client")
        take(self, message)

    def _welcome(self, message: Welcome) -> None:
        if self._phase != GREETING:
            raise UnexpectedError("a second WELCOME")
        self._phase = LIVE
        self._failures = 0
        self._heartbeat_seconds, self._silence_seconds = message.heartbeat_seconds, message.silence_seconds
        self._sending = Sending(message.first_window_bytes)
        self._receiving = Receiving(self._hello.first_window_bytes)
        self._out.append(Connected(message.resumed, message.workers, message.slots))
        self._ledger.submit_bytes = message.submit_bytes
        self._ledger.rewind(message.resumed)
        for function in self._functions.values():
            function.told = False
        for number, entry in self._ledger.jobs.items():
            for kill in (False, True):
                indices = array("I", sorted(index for index, kills in entry.kills.items() if kills == kill))
                if indices:
                    self._tell(entry)
                    self._send(Cancel(number, kill, indices))
            if not entry.left and number not in self._idle:
                self._rest(number)
        if self._asking:
            self._send(StatusRequest())
        self._submit()
        self._pump()

    def _goodbye(self, message: Goodbye) -> None:
        if message.code not in HOPELESS:
            self._out.append(Log("warning", f"the manager said goodbye: {message.reason or message.code}"))
            self._hang_up(Code.NORMAL, "goodbye")
            return
        self._out.append(Close(self._link, Code.NORMAL, "goodbye"))
        self._forsake()
        self._phase = CLOSED
        self._out.append(Refused(message.code, message.reason))

    # -- to the manager --------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._sent_at = self._now
        self._out.append(Send(self._link, message))

    def _submit(self) -> None:
        """Say as many of the waiting tasks as the credit takes."""
        while (piece := self._ledger.cut()) is not None:
            run, start, stop = piece
            self._tell(run.entry)
            message = submit_of(run, start, stop)
            self._send(message)
            for at in range(start, stop) if message.body_sizes else ():
                size = run.body(at)
                if size:
                    self._sending.open(_stream(run, at), FIRST_ATTEMPT, size, window=not message.again)
        if self._acks:
            self._flush_acks()

    def _tell(self, entry: JobEntry) -> None:
        """The job, and before it its function, once a link."""
        if entry.told:
            return
        entry.told = True
        function = self._functions.get(entry.job.digest)
        if function is not None and not function.told:
            self._tell_function(entry.job.digest, function)
        self._send(entry.job)

    def _tell_function(self, digest: bytes, function: _Function) -> None:
        function.told = True
        self._blob_number += 1
        stream = BLOB_STREAM | self._blob_number
        if len(function.blob) <= HEAD_BYTES_MAX:
            self._send(Blob(digest, stream, 0, function.blob))
            return
        self._send(Blob(digest, stream, len(function.blob)))
        self._sending.open(stream, FIRST_ATTEMPT, len(function.blob), window=False)
        self._blob_streams[stream] = digest

    def _flush_acks(self) -> None:
        acks, self._acks = self._acks, array("Q")
        self._send(Ack(acks))

    def _acknowledge(self, sequence: int) -> None:
        if not self._acks:
            self._ack_at = self._now + ACK_DELAY_SECONDS
        self._acks.append(sequence)
        if len(self._acks) >= ACKS_MAX:
            self._flush_acks()

    def _pump(self) -> None:
        """At most one chunk; Writable asks for the next."""
        if self._blocked or self._phase != LIVE:
            return
        chunk = self._sending.next()
        if chunk is None:
            return
        stream, attempt, offset, length = chunk
        token = None
        if stream & BLOB_STREAM:
            function = self._functions.get(self._blob_streams[stream])
            assert function is not None, stream
            token = memoryview(function.blob)[offset : offset + length]
        self._sent_at = self._now
        self._out.append(SendChunk(self._link, stream, attempt, offset, length, token))

    def _writable(self, event: Writable) -> None:
        if event.link == self._link:
            self._blocked = False
            self._pump()

    def _block(self, event: Blocked) -> None:
        if event.link == self._link:
            self._blocked = True

    def _grant(self, message: Grant) -> None:
        if self._sending.grant(message):
            self._pump()

    def _want(self, message: Want) -> None:
        function = self._functions.get(message.digest)
        if function is not None:
            self._tell_function(message.digest, function)
            self._pump()

    # -- from the manager ------------------------------------------------------------------------------------

    def _outcome(self, message: Outcome) -> None:
        entry = self._ledger.jobs.get(message.job)
        if entry is None:
            self._acknowledge(message.sequence)
            return
        if message.body_sizes and any(message.body_sizes):
            self._outcome_with_bodies(entry, message)
        else:
            self._outcome_inline(entry, message)
        self._submit()

    def _outcome_inline(self, entry: JobEntry, message: Outcome) -> None:
        ledger = self._ledger
        run: Run | None = None
        fresh: list[int] = []
        released: list[int] = []
        for position, index in enumerate(message.indices):
            if run is None or not run.first <= index < run.end:
                run = ledger.find(entry, index)
                if run is None:
                    continue
            at = index - run.first
            state = run.states[at]
            if state == DONE:
                continue
            if state != CANCELLING:
                fresh.append(position)
                if run.body(at):
                    released.append(index)
            self._close(run, at)
            ledger.settle(run, at)
        if released:
            self._out.append(Released(message.job, released))
        if fresh:
            self._out.append(_resolve(message, fresh))
        self._acknowledge(message.sequence)
        if not entry.left and message.job not in self._idle:
            self._rest(message.job)

    def _outcome_with_bodies(self, entry: JobEntry, message: Outcome) -> None:
        """Settle what is whole and make landings for what is not; acknowledge when nothing is on its way."""
        answer = _Answer(message.sequence, 0, tasks=len(message.indices))
        inline: list[int] = []
        released: list[int] = []
        start = 0
        for position, index in enumerate(message.indices):
            head, start = start, start + message.head_sizes[position]
            run = self._ledger.find(entry, index)
            state = DONE if run is None else run.states[index - run.first]
            if run is None or state == DONE:
                continue
            at = index - run.first
            size = message.body_sizes[position]
            if state != CANCELLING and size:
                landing = _Landing(run, at, message.attempt, message.statuses[position], answer)
                self._land(landing, bytes(message.heads[head:start]), size)
                continue
            if state != CANCELLING:
                inline.append(position)
                if run.body(at):
                    released.append(index)
            self._close(run, at)
            self._ledger.settle(run, at)
        if released:
            self._out.append(Released(message.job, released))
        if inline:
            self._out.append(_resolve(message, inline))
        if not answer.pending:
            self._acknowledge(message.sequence)
        if not entry.left and message.job not in self._idle:
            self._rest(message.job)

    def _land(self, landing: _Landing, head: bytes, size: int) -> None:
        run, at = landing.run, landing.at
        stream = _stream(run, at)
        self._abandon(stream)
        self._ledger.move(run, at, LANDING)
        landing.answer.pending += 1
        self._landings[stream] = landing
        self._receiving.open(stream, landing.attempt, size)
        job = run.entry.job.job
        self._out.append(Receive(job, run.first + at, landing.attempt, landing.status, head, size))
        grant = self._receiving.grant(stream, size)
        assert grant is not None
        self._send(grant)

    def _chunk(self, event: ChunkReceived) -> None:
        if event.link != self._link:
            return
        self._heard_at = self._now
        if not self._receiving.take(event.stream, event.attempt, event.offset, event.length):
            return
        if not self._receiving.complete(event.stream):
            return
        landing = self._landings[event.stream]
        run, at, answer = landing.run, landing.at, landing.answer
        job, index = run.entry.job.job, run.first + at
        has_body = run.body(at) > 0
        self._close(run, at)
        self._ledger.settle(run, at)
        if has_body:
            self._out.append(Released(job, [index]))
        self._out.append(Landed(job, index, landing.status))
        answer.pending -= 1
        if not answer.pending:
            self._acknowledge(answer.sequence)
        if not run.entry.left:
            self._rest(job)

    def _abort(self, message: Abort) -> None:
        landing = self._landings.get(message.stream)
        if landing is not None:
            if message.attempt >= landing.attempt:
                self._abandon(message.stream)
            return
        entry = self._ledger.jobs.get(message.stream >> 32)
        run = None if entry is None else self._ledger.find(entry, message.stream & 0xFFFFFFFF)
        if run is not None and message.stream in self._sending:
            # This try is over, not the task: the next attempt's GRANT begins at 0 again.
            self._sending.close(message.stream)
            at = (message.stream & 0xFFFFFFFF) - run.first
            self._sending.open(message.stream, message.attempt + 1, run.body(at), window=False)

    def _abandon(self, stream: int) -> None:
        """Void a landing, if there is one: its task is outstanding again."""
        landing = self._landings.pop(stream, None)
        if landing is None:
            return
        self._receiving.close(stream)
        run, answer = landing.run, landing.answer
        self._ledger.move(run, landing.at, SENT)
        self._out.append(Discard(run.entry.job.job, run.first + landing.at))
        answer.pending -= 1
        answer.aborted += 1
        if not answer.pending and answer.aborted < answer.tasks:
            self._acknowledge(answer.sequence)

    def _close(self, run: Run, at: int) -> None:
        """Forget both streams of a task whose outcome is whole."""
        stream = _stream(run, at)
        self._sending.close(stream)
        if self._landings.pop(stream, None) is not None:
            self._receiving.close(stream)

    def _running(self, message: Running) -> None:
        if message.job in self._ledger.jobs:
            self._out.append(MarkRunning(message.job, message.indices))

    def _notice(self, message: Notice) -> None:
        self._out.append(Say(message.text))

    def _slots(self, message: Slots) -> None:
        self._out.append(Resized(message.workers, message.slots))

    def _status(self, message: StatusReply) -> None:
        self._asking = False
        self._out.append(Told(message.text))

    def _heartbeat(self, message: Heartbeat) -> None:
        pass

    # -- jobs without tasks ----------------------------------------------------------------------------------

    def _rest(self, number: int) -> None:
        """A job has no outstanding task; beyond the bound the one that rests longest is forgotten."""
        self._idle[number] = None
        while len(self._idle) > self._jobs_idle_max:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            entry = self._ledger.forget(oldest)
            self._out.append(Forgotten(oldest, entry.tasks))
            if entry.told and self._phase == LIVE:
                self._send(Forget(oldest))
            function = self._functions.get(entry.job.digest)
            if function is not None:
                function.jobs -= 1
                if not function.jobs:
                    self._drop_function(entry.job.digest)

    def _drop_function(self, digest: bytes) -> None:
        del self._functions[digest]
        for stream in [stream for stream, used in self._blob_streams.items() if used == digest]:
            self._sending.close(stream)
            del self._blob_streams[stream]

    _EVENTS: ClassVar[dict[type, Callable[[ClientCore, Any], None]]] = {
        Connect: _connect,
        Begin: _begin,
        Call: _call,
        CancelCall: _cancel_call,
        Ask: _ask,
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
        Heartbeat: _heartbeat,
        Grant: _grant,
        Abort: _abort,
        Want: _want,
        Outcome: _outcome,
        Running: _running,
        Notice: _notice,
        Slots: _slots,
        StatusReply: _status,
    }


def _stream(run: Run, at: int) -> int:
    return run.entry.job.job << 32 | run.first + at


def _resolve(message: Outcome, positions: list[int]) -> Resolve:
    """The outcomes at these positions; the message's own columns where that is all of them."""
    if len(positions) == len(message.indices):
        return Resolve(message.job, message.indices, message.statuses, message.head_sizes, message.heads)
    starts = [0]
    for size in message.head_sizes:
        starts.append(starts[-1] + size)
    return Resolve(
        message.job,
        array("I", [message.indices[at] for at in positions]),
        bytes(message.statuses[at] for at in positions),
        array("I", [message.head_sizes[at] for at in positions]),
        b"".join(message.heads[starts[at] : starts[at + 1]] for at in positions),
    )
