"""A session's shell: a background thread with a loop, a driver and a connection. It decides nothing.

::

    any thread                     │ the session's thread
    submit: registry, columns ─wake┼▶ _drain: one Call for consecutive calls of a job ─▶ driver ─▶ ClientCore
    future.result() ◀──────────────┼─ perform(Resolve, Landed): unpack, resolve the future
                                   │  perform(Dial): TLS; destination(), source(): the caller's own memory

A burst of submits wakes the thread once: while calls keep coming it looks again at each turn of its loop, and the
interpreter's own switching gathers hundreds of them for one frame. A lone submit leaves at once, and the thread
sleeps again. Consecutive calls of a job are never an object each: whoever makes one appends its head to the column
of the `Call` that stands open, and the outcomes of a run are taken from their columns as they came.

The registry maps (job, index) to the future; whoever takes a future out of it, under the lock or in this thread,
is the only one to resolve it. After a fork the child's copy is dead: its futures fail, its socket is closed
without a TLS byte, and the client opens another session at its next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import accumulate
from typing import Any, ClassVar, NoReturn

from starcore import logs, tls
from starcore.client import endings, orders
from starcore.client.core import ClientCore
from starcore.client.dialing import hello, new_loop
from starcore.client.futures import NOT_SMALL, TaskFuture, succeed_all
from starcore.client.puts import Puts
from starcore.client.questions import Questions
from starcore.client.records import Incoming, JobRecord, harmless
from starcore.client.stored import StoredJobs
from starcore.client.story import signed
from starcore.dialing import Dialer, Resolve
from starcore.driver import Driver
from starcore.errors import (
    Code,
    CredentialsError,
    RefusedError,
    SessionLostError,
    StarCoreError,
    again,
)
from starcore.errors import Status as TaskStatus
from starcore.events import Dial, Finished, Log, Shaken
from starcore.messages import BATCH_TASKS_MAX, Buffer, Job
from starcore.pickling import Packed, small_answers, unpack_failure
from starcore.texts import TASK_SESSION_DIGITS, task_name
from starcore.vigil import Vigil

CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""For a manager that is just starting: after that, "nobody listens there" is believed."""
FAREWELL_SECONDS = 0.05
"""How often a session that is over looks whether its last bytes have reached the kernel; the driver's patience ends."""
FLUSH_SECONDS = 0.01
"""What is said in one turn of the loop has reached the kernel so much later, where the link takes it."""

_log = logging.getLogger("starcore.client")
_orphans: list[Session] = []


class Session:
    """One session of one process with one manager.

    Parameters
    ----------
    target : tls.Target
        Where to dial, as whom.
    resolve : callable, optional
        Says that anew, before each dial.
    trust_results : bool
        Whether pickled answers are unpickled.
    connect_seconds : float
        How long the first WELCOME may take, in seconds.
    loop : {"auto", "uvloop", "asyncio"}
        Whose event loop; "auto" takes uvloop where it is installed. ``STARCORE_LOOP`` overrides "auto".

    Raises
    ------
    CredentialsError, RefusedError, UnreachableError
        There is no session, and why.
    """

    def __init__(
        self,
        target: tls.Target,
        *,
        resolve: Resolve | None = None,
        trust_results: bool = True,
        connect_seconds: float = CONNECT_SECONDS,
        loop: str = "auto",
    ) -> None:
        self.target = target
        self.slots = 0
        self.workers = 0
        self.closed = False
        self.forsaken = False
        """Whether nobody waits for the end of this session any more: Ctrl-C came twice."""
        self.trust = trust_results
        self._lock = threading.RLock()  # the garbage collector may run a destructor that cancels, anywhere
        self._jobs: dict[Any, JobRecord] = {}
        self._records: dict[int, JobRecord] = {}
        self._job_number = 0
        self._calls: list[tuple[JobRecord | None, Any]] = []
        self._open: orders.Call | None = None
        self._awake = False
        self._bodies: dict[int, Packed] = {}
        self.puts = Puts(self._tell, self._soon)
        self.stored: StoredJobs = StoredJobs(self, self._tell, self._soon)
        self._incoming: dict[int, Incoming] = {}
        self._questions: Questions = Questions(self._tell)
        self._trouble: StarCoreError | None = None
        self._said: dict[str, str] = {}
        """The last line of each level since a link was up."""
        self._over: StarCoreError | None = None
        self._settled = threading.Event()
        self._ended = threading.Event()
        context = tls.dial_context(target.identity)
        self._loop = new_loop(loop)
        logs.watch(self._loop, _log)
        greeting = hello(target)
        self._session = greeting.session
        self.name = greeting.session.hex()[:TASK_SESSION_DIGITS]
        self._driver = Driver(ClientCore(greeting), self._loop, self, _log, alone=True)
        where = resolve or (lambda: target)
        self._dialer = Dialer(where, self._driver, self._loop, self._lose_heart, _log, (target, context))
        self._vigil = Vigil(self._loop, self._driver.descriptors, self._shake)
        self._thread = threading.Thread(target=self._main, name="starcore-client", daemon=True)
        endings.remember(self)
        self._thread.start()
        self._wait_for_welcome(connect_seconds)

    # -- called by any thread --------------------------------------------------------------------------------

    def job(self, key: Any, job: Job, blob: bytes) -> JobRecord:
        """The record of this function with these options, made at their first use."""
        with self._lock:
            record = self._jobs.get(key)
            if record is None:
                self._job_number += 1
                job.job = self._job_number
                record = JobRecord(job.job, key, job, blob)
                self._register(record)
        return record

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Keep the session from ending meanwhile. Raises SessionLostError where it has."""
        with self._lock:
            self._require_open()
            yield

    def known(self, key: Any) -> JobRecord | None:
        """The record of this function with these options, if there is one."""
        return self._jobs.get(key)

    def submit(self, record: JobRecord, head: bytes, future: TaskFuture, body: Packed | None = None) -> None:
        """Send one call on its way; `body` is what it has beside its head.

        Raises
        ------
        SessionLostError
            The session is over.
        """
        with self._lock:
            if self.closed or self._over is not None:
                self._refuse()
            if record.job.shares:
                self.puts.require(record.job)
            index, call = record.next, self._open
            try:  # a signal's handler may raise between any two of these lines
                record.next = index + 1
                future.index = index
                record.futures[index] = future
                if call is None or call.job != record.number or len(call.heads) == BATCH_TASKS_MAX:
                    call = None
                    call = self._open_call(record, index)
                call.heads.append(head)
                if body is not None or call.body_sizes:
                    self._add_body(call, index, body)
                if not self._awake:
                    self._wake()
            except BaseException:
                self._take_back(record, index, call)
                raise

    def submit_many(self, record: JobRecord, packs: Sequence[Packed], futures: Sequence[TaskFuture]) -> None:
        """Send calls of one job on their way, one after the other."""
        for packed, future in zip(packs, futures, strict=True):
            self.submit(record, packed.head, future, packed if packed.body_bytes else None)

    def put(self, packed: Packed) -> bytes:
        """Take in a value for many calls; return its name."""
        with self._lock:
            self._require_open()
        return self.puts.put(packed)

    def abandon(self, record: JobRecord, index: int, *, kill: bool) -> None:
        """Nobody waits for this task any more, and its caller may do with the arguments what it likes."""
        with self._lock:
            record.futures.pop(index, None)
            self._bodies.pop(record.number << 32 | index, None)
            last = self._calls[-1][1] if self._calls else None
            if self._awake and type(last) is orders.CancelCall and (last.job, last.kill) == (record.number, kill):
                last.indices.append(index)  # many in a row are one
                return
        self._tell(orders.CancelCall(record.number, [index], kill))

    def abandon_all(self, record: JobRecord, indices: list[int]) -> None:
        """Nobody waits for these tasks any more, running or not."""
        with self._lock:
            for index in indices:
                record.futures.pop(index, None)
                self._bodies.pop(record.number << 32 | index, None)
        self._tell(orders.CancelCall(record.number, indices, True))

    def ask(self) -> Future[str]:
        """Ask the manager what is going on; the answer is a JSON object."""
        with self.standing():
            return self._questions.status()

    def story(self, task: str) -> Future[str]:
        """Ask what happened to a task; the answer is a JSON object."""
        with self.standing():
            return self._questions.story(task)

    def task(self, record: JobRecord, index: int) -> str:
        """What people call a task."""
        return task_name(self._session, record.number, index)

    def pending(self) -> list[TaskFuture]:
        """The futures that are not done yet."""
        with self._lock:
            # The loop ends futures without the lock: their table is copied in one step.
            return [future for record in self._records.values() for future in list(record.futures.values())]

    def end(self, *, abandon: bool) -> None:
        """Take no more calls; leave when what is outstanding is done, or at once."""
        with self._lock:
            self.closed = True
        self._tell(orders.Shutdown(abandon))

    def join(self, seconds: float | None = None) -> None:
        """Wait for the thread to end."""
        # Not by `Thread.join`: before Python 3.13 a Ctrl-C in it makes the thread look as if it had ended.
        if threading.current_thread() is not self._thread and self._ended.wait(seconds):
            self._thread.join(seconds)

    def flush(self, seconds: float) -> None:
        """Wait until what was said has left this machine, but no longer than so many seconds."""
        said = threading.Event()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to be said
            self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, said.set)
            said.wait(seconds)

    def interrupt(self) -> None:
        """Ctrl-C came while somebody waited for a call: nobody wants what is outstanding."""
        self.stored.take_back()
        endings.interrupt(self)

    def after_fork(self) -> None:
        """In the forked child: touch neither loop nor TLS, and leave nobody waiting for what cannot come."""
        _orphans.append(self)  # their descriptors' numbers will be somebody else's: never let them be finalised
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._ended.set()
        self.closed = True
        self._over = SessionLostError("this process was forked: the futures of its parent end there")
        for descriptor in self._driver.descriptors():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        for record in self._records.values():
            futures, record.futures = list(record.futures.values()), {}
            for future in futures:
                future.fail_after_fork(again(self._over))
                if future.parent is not None:
                    future.parent.fail_after_fork(again(self._over))

    # -- called by the driver --------------------------------------------------------------------------------

    def perform(self, action: Any) -> None:
        """Carry out what the core asks for."""
        self._PERFORM[type(action)](self, action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer | None:
        """Memory of the answer's own; None for what nobody waits for."""
        incoming = self._incoming.get(stream)
        if incoming is None or incoming.attempt != attempt or incoming.view is None:
            return None
        if offset + length > len(incoming.view):
            return None
        return incoming.view[offset : offset + length]

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer:
        """Bytes of an argument, from the caller's own memory; of one cancelled a moment ago, nothing but zeros."""
        packed = self._bodies.get(stream)
        return bytes(length) if packed is None else packed.read(offset, length)

    def release(self, token: Any) -> None:
        """Nothing: the memory of answers is their landing's."""

    # -- the thread ------------------------------------------------------------------------------------------

    def _main(self) -> None:
        loop = self._loop
        loop.call_soon(self._driver.feed, orders.Connect())
        loop.call_soon(self._vigil.begin)
        try:
            loop.run_forever()
        finally:
            self._driver.close_all()
            self._vigil.stop()
            with contextlib.suppress(Exception):
                loop.run_until_complete(self._dialer.leave())
                loop.run_until_complete(asyncio.sleep(0))
                loop.run_until_complete(loop.shutdown_default_executor())
            self._end_all(self._over or SessionLostError("the client was shut down"))
            loop.close()
            self._ended.set()

    def _drain(self) -> None:
        with self._lock:
            calls, self._calls, self._open = self._calls, [], None
            # Where there is one call there are mostly no others: to look again would cost it a turn of the loop.
            self._awake = len(calls) > 1 or (bool(calls) and len(getattr(calls[0][1], "heads", ())) > 1)
        if self._awake:
            self._loop.call_soon(self._drain)
        self._driver.hold()
        try:
            for record, event in calls:
                if type(event) is orders.Call and not event.heads:
                    continue  # it was taken back
                if record is not None and not record.begun:
                    record.begun = True
                    self._driver.feed(orders.Begin(record.job, record.blob))
                self._driver.feed(event)
        finally:
            self._driver.end_turn()

    def _open_call(self, record: JobRecord, index: int) -> orders.Call:
        """Under the lock: begin a column for consecutive calls of a job."""
        if not record.begun:
            self._register(record)
        self._open = call = orders.Call(record.number, index, [])
        self._calls.append((record, call))
        return call

    def _take_back(self, record: JobRecord, index: int, call: orders.Call | None) -> None:
        """Under the lock: make a call undone that was interrupted, or the next one would have its place."""
        self._open = None
        if call is not None:
            del call.heads[index - call.first :], call.body_sizes[index - call.first :]
        record.futures.pop(index, None)
        self._bodies.pop(record.number << 32 | index, None)
        record.next = index

    def _add_body(self, call: orders.Call, index: int, body: Packed | None) -> None:
        """Under the lock: the body of the call whose head was appended last."""
        sizes = call.body_sizes
        if not sizes:
            sizes.frombytes(bytes(8 * (len(call.heads) - 1)))
        sizes.append(0 if body is None else body.body_bytes)
        if body is not None:
            self._bodies[call.job << 32 | index] = body

    def _tell(self, event: Any) -> None:
        """Feed an event behind the calls that were made before it."""
        with self._lock:
            self._open = None
            self._calls.append((None, event))
            if not self._awake:
                self._wake()

    def _soon(self, callback: Callable[[], None]) -> None:
        """Have this done in the session's thread, if that still lives."""
        if not self.closed:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)

    def _wake(self) -> None:
        """Under the lock: have the calls looked at."""
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            return  # the loop is closed, and so is every future that it knew
        self._awake = True  # last: to wake the thread twice does no harm, and not to wake it does for ever

    def _register(self, record: JobRecord) -> None:
        """Under the lock. Again where the job was forgotten between its look-up and its call."""
        self._jobs[record.key] = self._records[record.number] = record

    def _require_open(self) -> None:
        if self.closed or self._over is not None:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise again(self._over or SessionLostError("the client was shut down"))

    # -- connecting ------------------------------------------------------------------------------------------

    def _wait_for_welcome(self, seconds: float) -> None:
        arrived = False
        try:
            arrived = self._settled.wait(min(seconds, PATIENCE_SECONDS))
            if not arrived and not self._told_why():
                arrived = self._settled.wait(max(0.0, seconds - PATIENCE_SECONDS))
        finally:
            if not arrived or self._over is not None:
                self.end(abandon=True)
        if self._over is not None:
            raise again(self._over)
        if not arrived:
            raise self._trouble or self._dialer.unanswered(seconds, self._said.get("warning", ""))

    def _told_why(self) -> bool:
        """Whether the machine, or what listens there, said no; rather than nothing yet."""
        return self._trouble is not None and not isinstance(self._trouble.__cause__, TimeoutError)

    def _dial(self, action: Dial) -> None:
        self._dialer.dial(action.delay_seconds, action.reason)

    def _shake(self, reason: str) -> None:
        self._driver.feed(Shaken(reason))

    def _lose_heart(self, trouble: StarCoreError) -> None:
        """Remember why there is no connection; before the first WELCOME a matter of credentials is final."""
        self._trouble = trouble
        if isinstance(trouble, CredentialsError) and not self._settled.is_set():
            self._over = trouble
            self._settled.set()

    # -- performing ------------------------------------------------------------------------------------------

    def _connected(self, action: orders.Connected) -> None:
        self.workers, self.slots = action.workers, action.slots
        self._said.clear()
        self._settled.set()

    def _refused(self, action: orders.Refused) -> None:
        code = Code(action.code) if action.code in set(Code) else Code.INTERNAL
        self._over = RefusedError(code, action.reason)
        self.closed = True
        self._settled.set()
        self._finished(None)

    def _finished(self, action: Finished | None) -> None:
        self._dialer.stop()
        self._loop.call_later(FAREWELL_SECONDS, self._leave)

    def _leave(self) -> None:
        """Stop when all is said: cancels that stay behind would leave their tasks to run for nobody."""
        if self._driver.leaving:
            self._loop.call_later(FAREWELL_SECONDS, self._leave)
        else:
            self._loop.stop()

    def _resolve(self, action: orders.Resolve) -> None:
        pop = self._records[action.job].futures.pop
        futures = [pop(index, None) for index in action.indices]
        rest: Iterable[int] = range(len(futures))
        if not any(action.statuses):
            rest = succeed_all(futures, small_answers(action.heads, action.head_sizes, NOT_SMALL))
        if not rest:
            return
        heads = memoryview(action.heads)
        ends = list(accumulate(action.head_sizes))
        for at in rest:
            future = futures[at]
            if future is not None:
                self._settle(future, action.statuses[at], heads[ends[at] - action.head_sizes[at] : ends[at]])

    def _settle(self, future: TaskFuture, status: int, head: memoryview) -> None:
        """Resolve a future with an answer that has no body."""
        if future.writes and not future.start():
            return
        try:
            if status != TaskStatus.OK:
                future.fail(signed(unpack_failure(TaskStatus(status), head), future.task))
            else:
                future.succeed(future.unpack(head, self.trust))
        except BaseException as error:
            future.fail(harmless(error))

    def _receive(self, action: orders.Receive) -> None:
        stream = action.job << 32 | action.index
        future = self._records[action.job].futures.get(action.index)
        if future is None or not future.land():
            return  # cancelled a moment ago: the core is about to hear of it
        try:
            place = future.place(action.head, action.body_bytes, self.trust)
            self._incoming[stream] = Incoming(action.attempt, place)
        except BaseException as error:
            self._incoming[stream] = Incoming(action.attempt, None, harmless(error))

    def _landed(self, action: orders.Landed) -> None:
        incoming = self._incoming.pop(action.job << 32 | action.index, None)
        future = self._records[action.job].futures.pop(action.index, None)
        if future is None or incoming is None:
            return
        try:
            if incoming.landing is None:
                raise incoming.error or SessionLostError("the answer had no place to land")
            value = incoming.landing.finish()
            if action.status == TaskStatus.OK:
                future.succeed(value)
            else:
                error = value if isinstance(value, BaseException) else StarCoreError(str(value))
                future.fail(signed(error, future.task))
        except BaseException as error:
            future.fail(harmless(error))

    def _discard(self, action: orders.Discard) -> None:
        self._incoming.pop(action.job << 32 | action.index, None)
        future = self._records[action.job].futures.get(action.index)
        if future is not None:
            future.unland()

    def _released(self, action: orders.Released) -> None:
        for index in action.indices:
            self._bodies.pop(action.job << 32 | index, None)

    def _mark_running(self, action: orders.MarkRunning) -> None:
        futures = self._records[action.job].futures
        for index in action.indices:
            future = futures.get(index)
            if future is not None:
                future.start()

    def _forgotten(self, action: orders.Forgotten) -> None:
        with self._lock:
            self._open = None
            record = self._records.get(action.job)
            if record is None:
                return
            record.begun = False
            if not record.futures:
                del self._records[action.job]
                if self._jobs.get(record.key) is record:  # a `map` may have kept it while another one was made
                    del self._jobs[record.key]

    def _resized(self, action: orders.Resized) -> None:
        self.workers, self.slots = action.workers, action.slots

    def _say(self, action: orders.Say) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"starcore: {action.text}\n")

    def _log_line(self, action: Log) -> None:
        if self._said.get(action.level) != action.text:  # a manager that drains says the same at every attempt
            self._said[action.level] = action.text
            # Where no logging is set up, Python prints the bare text: say whose it is.
            getattr(_log, action.level)("starcore: %s", action.text)

    def _end_all(self, error: StarCoreError) -> None:
        with self._lock:
            self.closed = True
            self._over = self._over or error
            futures = [future for record in self._records.values() for future in list(record.futures.values())]
            for record in self._records.values():
                record.futures = {}
        for future in futures:
            future.fail(again(error))
        self._questions.fail(error)
        self.stored.end_all(error)
        self._bodies.clear()
        self._incoming.clear()

    _PERFORM: ClassVar[dict[type, Callable[[Session, Any], None]]] = {
        Dial: _dial,
        orders.Connected: _connected,
        orders.Refused: _refused,
        Finished: _finished,
        orders.Resolve: _resolve,
        orders.Receive: _receive,
        orders.Landed: _landed,
        orders.Discard: _discard,
        orders.Released: _released,
        orders.MarkRunning: _mark_running,
        orders.Forgotten: _forgotten,
        orders.Resized: _resized,
        orders.Told: lambda session, action: session._questions.status_told(action.text),
        orders.StoredTold: lambda session, action: session.stored.told(action),
        orders.Listed: lambda session, action: session.stored.listed(action),
        orders.StoryTold: lambda session, action: session._questions.story_told(action.question, action.text),
        orders.Say: _say,
        Log: _log_line,
    }
