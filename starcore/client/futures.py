"""The futures that callers hold: real `concurrent.futures.Future`s that know which task they stand for.

A future's Condition, and the lists that the standard library keeps beside it, take longer to make than a small
task takes to run, and give the garbage collector most of its work. Few futures need them: by the time their
result is asked for it is there. So they are made when somebody waits, and not before::

    nobody waits yet       the state changes under `_making`, the one lock that all futures share
    `result()` waits       the same, and a *bell* is rung, a lock of the waiting thread's own
    `_condition` was made  the state changes under it, as in the standard library; bells were rung, for whoever slept
                           by one to go on waiting by the condition

`_making` guards the step from the one to the other as well. It is held for moments and no other lock is taken
under it, so it can be taken under any; and again by the same thread, since the garbage collector may run anybody's
destructor there. `wait()` and `as_completed()` lock the conditions of all their futures,
hence make them first.

Who may end a future is decided under these locks, so a cancel in one thread and an outcome in another never both
win. An answer whose bytes are on their way into memory (*landing*) is past cancelling: memory that was
handed to the wire cannot be taken back in the middle of a chunk, and once a future is done nothing may write to
its `out` any more.

A Ctrl-C in a wait for a future ends its session's outstanding calls (see `endings.py`). The standard library's
`wait` and `as_completed` sleep on an event of their own, which is exchanged for one that tells the session.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Protocol

from starcore.client.arrays import Joiner
from starcore.messages import Buffer
from starcore.pickling import Landing, landing, unpack_answer

_log = logging.getLogger("starcore.client")
_OPEN = frozenset({PENDING, RUNNING})

NOT_SMALL: Any = object()
"""Among the values of `succeed_all`: this answer has to be looked at by itself."""

_making = threading.RLock()


class _Watched(threading.Event):
    """What `wait` and `as_completed` sleep on."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[Any, None] = {}

    def wait(self, timeout: float | None = None) -> bool:
        try:
            return super().wait(timeout)
        except KeyboardInterrupt:
            for session in self.sessions:
                session.interrupt()
            raise


class _Waiters(list[Any]):
    """Who waits for a future by `wait` or `as_completed`."""

    def __init__(self, session: Abandons | None) -> None:
        super().__init__()
        self._session = session

    def append(self, waiter: Any) -> None:
        if self._session is not None and isinstance(getattr(waiter, "event", None), threading.Event):
            if not isinstance(waiter.event, _Watched):
                waiter.event = _Watched()  # nobody sleeps yet: all futures are locked
            waiter.event.sessions[self._session] = None
        super().append(waiter)


class StarFuture(Future[Any]):
    """What task and block futures share: each ends once, whoever comes first."""

    # What an instance does not have of its own it finds here; `Future.__init__` would make all of it each time.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiters: Any = ()
    _done_callbacks: Any = ()
    _made: threading.Condition | None = None
    _bells: tuple[Any, ...] = ()
    _landing = False
    _session: Any = None

    def __init__(self) -> None:
        pass

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # read-only, and made at its first use
        condition = self._made
        if condition is None:
            with _making:
                condition = self._made
                if condition is None:
                    self._waiters = _Waiters(self._session)
                    self._done_callbacks = self._done_callbacks or []
                    self._made = condition = threading.Condition()
                    self._ring()
        return condition

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the call's exception; see `concurrent.futures.Future.result`."""
        try:
            if timeout is None and self._made is None and self._state in _OPEN:
                self._sleep()
            if self._state == FINISHED and self._exception is None:
                return self._result
            return super().result(timeout)
        except KeyboardInterrupt:
            self._interrupt()
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; see `concurrent.futures.Future.exception`."""
        try:
            return self._exception if self._state == FINISHED else super().exception(timeout)
        except KeyboardInterrupt:
            self._interrupt()
            raise

    def done(self) -> bool:
        """Return True if the call ended or was cancelled."""
        return self._state not in _OPEN

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Have `fn` called with this future when it is done, at once where it is."""
        with _making:
            if self._made is None and self._state in _OPEN:
                if not self._done_callbacks:
                    self._done_callbacks = []
                self._done_callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def start(self) -> bool:
        """Say that it runs; False where it is done, or was cancelled."""
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
            return self._state == RUNNING

    def succeed(self, value: Any) -> bool:
        """End with a result; False where it is done already."""
        return self._end(FINISHED, value, None)

    def fail(self, error: BaseException) -> bool:
        """End with an exception; False where it is done already."""
        return self._end(FINISHED, None, error)

    def _end(self, state: str, value: Any, error: BaseException | None, among: frozenset[str] = _OPEN) -> bool:
        if not self._settle(state, value, error, among):
            return False
        if self._done_callbacks:
            self._invoke_callbacks()
        return True

    def _invoke_callbacks(self) -> None:
        """Call whom its end concerns. What one of them raises, `sys.exit()` too, is no reason not to call the others.

        In place of the standard library's, whose private name has not changed since Python 3.2.
        """
        interrupt = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                    interrupt = error
                else:
                    _log.exception("exception calling callback for %r", self)
        if interrupt is not None:
            raise interrupt

    def _settle(self, state: str, value: Any, error: BaseException | None, among: frozenset[str] = _OPEN) -> bool:
        """End it, and wake who waits; its callbacks are not called yet."""
        with _making:
            condition = self._made
            if condition is None:
                if not self._turn(state, value, error, among):
                    return False
                self._ring()
        if condition is not None:
            with condition:
                if not self._turn(state, value, error, among):
                    return False
                for waiter in self._waiters:
                    if state == CANCELLED_AND_NOTIFIED:
                        waiter.add_cancelled(self)
                    elif error is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                condition.notify_all()
        return True

    def _turn(self, state: str, value: Any, error: BaseException | None, among: frozenset[str]) -> bool:
        """Under the lock that guards the state. The state comes last: `result` and `done` look without a lock."""
        if self._state not in among or (self._landing and state != FINISHED):
            return False
        self._result = value
        self._exception = error
        self._state = state
        return True

    def _interrupt(self) -> None:
        """Ctrl-C came while this thread waited."""
        if self._session is not None:
            self._session.interrupt()

    def _sleep(self) -> None:
        """Wait until it ends, or until others begin to wait by the condition: a third of what a condition costs."""
        bell = threading.Lock()
        bell.acquire()
        with _making:
            self._bells = (*self._bells, bell)
            if self._made is not None or self._state not in _OPEN:
                return  # looked at when the bell hangs: a destructor, run by the collector, may have ended it
        bell.acquire()

    def _ring(self) -> None:
        """Under `_making`: wake who sleeps."""
        if self._bells:
            bells, self._bells = self._bells, ()
            for bell in bells:
                bell.release()

    def fail_after_fork(self, error: BaseException) -> None:
        """In a forked child: end, and call nobody back; who waited, or held the condition, stayed in the parent."""
        self._bells = ()
        if self._made is not None:
            self._made = threading.Condition()
        self._settle(FINISHED, None, error)


def succeed_all(futures: Sequence[TaskFuture | None], values: Iterable[Any]) -> list[int]:
    """End many futures with a result each, as `succeed` does, but under one lock where nobody waits for them.

    None stands for a future that is gone. The positions of those that want more than that are returned: whose value
    is `NOT_SMALL`, or whose answer goes to memory that the caller may look at.
    """
    rest = []
    watched = []
    told = []
    with _making:
        for at, (future, value) in enumerate(zip(futures, values, strict=True)):
            if future is None:
                continue
            if value is NOT_SMALL or future.writes:
                rest.append(at)
            elif future._made is not None:
                watched.append((future, value))
            elif future._state in _OPEN:
                future._result = value
                future._state = FINISHED
                if future._bells:
                    future._ring()
                if future._done_callbacks:
                    told.append(future)
    for future, value in watched:
        future.succeed(value)
    for future in told:
        future._invoke_callbacks()
    return rest


def kill_all(futures: Sequence[TaskFuture]) -> None:
    """Cancel many calls, those that run first. What that calls here comes after the workers hear of all of them."""
    for parent in {future.parent for future in futures if future.parent is not None}:
        parent.doom()
    running = [future for future in futures if future._state == RUNNING]
    told: list[TaskFuture] = []
    try:
        _kill_together(running, told)
        _kill_together(futures, told)
    finally:
        for future in told:
            if future._done_callbacks:
                future._invoke_callbacks()


def _kill_together(futures: Sequence[TaskFuture], told: list[TaskFuture]) -> None:
    """End these calls under one lock, and give their tasks up in one order a job; `told` gets those that were open."""
    ended: list[TaskFuture] = []
    watched = []
    try:
        with _making:
            for future in futures:
                if future._made is not None:
                    watched.append(future)
                elif future._state in _OPEN and not future._landing:
                    future._state = CANCELLED_AND_NOTIFIED
                    ended.append(future)
                    if future._bells:
                        future._ring()
        for future in watched:
            if future._settle(CANCELLED_AND_NOTIFIED, None, None):
                ended.append(future)
    finally:  # also where a second Ctrl-C comes in the middle
        told += ended
        indices: dict[tuple[Abandons, Any], list[int]] = {}
        for future in ended:
            indices.setdefault((future._session, future._record), []).append(future.index)
        for (session, record), gone in indices.items():
            session.abandon_all(record, gone)


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - somebody who stayed in the parent may have held it
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_ONLY_PENDING = frozenset({PENDING})


class Abandons(Protocol):
    """Whoever sent the task, and can call it back."""

    def abandon(self, record: Any, index: int, *, kill: bool) -> None:
        """Nobody waits for this task of the record any more."""

    def abandon_all(self, record: Any, indices: list[int]) -> None:
        """Nobody waits for these tasks any more, running or not."""

    def interrupt(self) -> None:
        """Nobody waits for any task of its any more."""

    def task(self, record: Any, index: int) -> str:
        """What people call this task of the record."""


class TaskFuture(StarFuture):
    """The future of one task.

    `cancel()` is decided here and is False once the task is known to run; `Client.cancel` ends a running one.
    """

    index = 0
    out: Any = None
    parent: BlockFuture | None = None
    block = 0
    writes = False
    """Whether its answer goes to memory that the caller may look at."""

    def __init__(self, session: Abandons, record: Any) -> None:
        self._session: Abandons = session
        self._record = record

    @property
    def task(self) -> str:
        """The task's name, as ``starcore story`` and the logs know it."""
        return self._session.task(self._record, self.index)

    def cancel(self) -> bool:
        """Cancel the call if it is not known to run yet.

        Returns
        -------
        bool
            False where the task runs or is done. An idle worker starts a task within a millisecond.
        """
        if not self._end(CANCELLED_AND_NOTIFIED, None, None, _ONLY_PENDING):
            return self.cancelled()
        self._session.abandon(self._record, self.index, kill=False)
        return True

    def kill(self) -> bool:
        """Cancel the call even if it runs; False where its answer is here, or on its way into memory."""
        if not self._end(CANCELLED_AND_NOTIFIED, None, None):
            return self.cancelled()
        self._session.abandon(self._record, self.index, kill=True)
        return True

    def start(self) -> bool:
        """Say that it runs, and with it the whole that it is a block of."""
        return (self.parent is None or self.parent.start()) and super().start()

    def land(self) -> bool:
        """Its answer begins to arrive: too late to cancel. False where that has happened."""
        with self._condition:
            self._landing = self.start()
            return self._landing

    def answer_into(self, out: Any) -> None:
        """Receive the answer into this array."""
        self.out, self.writes = out, True

    def become_block(self, parent: BlockFuture, number: int) -> None:
        """Receive the answer into a block of a whole."""
        self.parent, self.block, self.writes = parent, number, True

    def place(self, head: Buffer, body_bytes: int, trust: bool) -> Landing:
        """Where the body of its answer goes: memory of its own, `out`, or its block of the whole."""
        if self.parent is not None:
            return self.parent.joiner.landing_for(self.block, head, body_bytes)
        return landing(head, body_bytes, out=self.out, trust=trust)

    def unpack(self, head: Buffer, trust: bool) -> Any:
        """The answer that has no body."""
        if self.parent is not None:
            return self.parent.joiner.add(self.block, unpack_answer(head, trust=trust))
        if self.out is not None:
            return landing(head, 0, out=self.out, trust=trust).finish()
        return unpack_answer(head, trust=trust)

    def unland(self) -> None:
        """The answer broke off in the middle."""
        self._landing = False
        if self.parent is not None and self.parent._doomed:
            self.kill()  # which was too late while it arrived


class BlockFuture(StarFuture):
    """The future of a whole that was sent in blocks: done when every block is.

    The first block that fails fails the whole and cancels the others.
    """

    def __init__(self, parts: Sequence[TaskFuture], joiner: Joiner) -> None:
        super().__init__()
        self.parts = list(parts)
        self._session = self.parts[0]._session if self.parts else None
        self.joiner = joiner
        self._left = len(self.parts)
        self._error: BaseException | None = None
        self._doomed = False
        self._task = ""
        for number, part in enumerate(self.parts):
            part.become_block(self, number)

    @property
    def task(self) -> str:
        """The name of the block that failed, else of the first one that is not done; empty if there is none."""
        waiting = (part.task for part in list(self.parts) if not part.done())
        return self._task or next(waiting, "")

    def watch(self) -> None:
        """Begin to listen to the blocks, all of which are on their way now."""
        for part in list(self.parts):
            part.add_done_callback(self._part_done)

    def cancel(self) -> bool:
        """Cancel every block, unless one is known to run; True also where a last answer is still arriving."""
        with self._condition:
            if self._state != PENDING:
                return self.cancelled()
        return self.kill()

    def kill(self) -> bool:
        """Cancel every block, also those that run. The future is done when no answer is arriving any more."""
        if not self.doom():
            return self.cancelled()
        self._kill_parts()
        return True

    def doom(self) -> bool:
        """It will end cancelled, whoever ends its blocks; False where it is done."""
        with self._condition:
            if self._state not in _OPEN:
                return False
            self._doomed = True
        return True

    def start(self) -> bool:
        """Say that it runs; False where it was cancelled."""
        with self._condition:
            return not self._doomed and super().start()

    def _kill_parts(self) -> None:
        kill_all(self.parts)

    def _part_done(self, part: Future[Any]) -> None:
        error = None if part.cancelled() else part.exception()
        with self._condition:
            self._left -= 1
            last = self._left == 0
            first_failure = error is not None and self._error is None and not self._doomed
            if first_failure:
                self._error = error
                self._doomed = True
                self._task = getattr(part, "task", "")
        if first_failure and not last:
            self._kill_parts()
        if last:
            self._conclude()

    def _conclude(self) -> None:
        parts, self.parts = self.parts, []
        if self._error is not None:
            self.fail(self._error)
        elif self._doomed or any(part.cancelled() for part in parts):
            self._end(CANCELLED_AND_NOTIFIED, None, None)
        else:
            try:
                self.succeed(self.joiner.result())
            except Exception as error:
                self.fail(error)
