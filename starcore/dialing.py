"""How a client or a worker reaches its manager: one TLS connection after another, by attempts that race.

When to dial is the core's decision (`Dial`); why it failed goes back to it as `Lost`, and as an error of ours with
one sentence for people to the role's shell.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable

from starcore import connecting, tls
from starcore.driver import Driver
from starcore.errors import CredentialsError, SetupError, StarCoreError, UnreachableError
from starcore.events import Lost, Peer
from starcore.messages import Role

Resolve = Callable[[], tls.Target]

DIAL_SECONDS = 10.0
"""How long one attempt may take, name resolution and handshake included."""
BRISK_SECONDS = 1.5
"""
A packet that is lost while the link is down is sent again only after a while that doubles; so is a question to a name
server. An attempt that takes longer than this is left alone, and gets others beside it that begin afresh. A SYN is
sent again after one second, which one that was lost just before the link's return should live to see.
"""
LEAVE_SECONDS_MAX = 0.5
_GOES_ON = "; trying to reach it again"
"""Ends a line of the log, but no error."""


class Dialer:
    """Makes the connections of one session, one at a time, in the loop's thread.

    Parameters
    ----------
    resolve : callable
        Says where and as whom, before each attempt: a join file may be renewed, a manager may be elsewhere. While it
        fails, what it said last holds.
    driver : Driver
        Whose links they become.
    loop : asyncio.AbstractEventLoop
        The loop.
    trouble : callable
        Told why a connection was not made, or ended before its WELCOME.
    logger : logging.Logger
        Where it is said that an attempt is made as before.
    known : (tls.Target, ssl.SSLContext), optional
        What `resolve` said last, and the context that was made from its identity.
    """

    def __init__(
        self,
        resolve: Resolve,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        trouble: Callable[[StarCoreError], None],
        logger: logging.Logger,
        known: tuple[tls.Target, ssl.SSLContext] | None = None,
    ) -> None:
        self._known = known
        self._resolve = resolve
        self._log = logger
        self._driver = driver
        self._loop = loop
        self._trouble = trouble
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[None]] = set()
        """Those of the race that are not over, or not known to be."""
        self._again = False
        """Whether it was time to dial while the last attempt was still being put away."""
        self._said = ""
        """Why attempts are made as before, where that was said and nothing has changed since."""
        self._reached: tuple[str, str] | None = None
        """A host, and the address at which it answered last."""

    @property
    def target(self) -> tls.Target | None:
        """What was said last: where, and as whom; None before anything was."""
        return self._known[0] if self._known is not None else None

    def unanswered(self, seconds: float, said: str = "") -> StarCoreError:
        """Why there is no session after so many seconds, where no attempt failed; `said` is the log's last word."""
        where = self.target.address if self.target is not None else "the manager"
        if said:
            return UnreachableError(f"no session with {where} within {seconds:g} s: {said.removesuffix(_GOES_ON)}")
        if self._reached is None:
            return UnreachableError(tls.explain(TimeoutError(), self.target))
        return UnreachableError(f"{where} answers, but did not say WELCOME within {seconds:g} s")

    def dial(self, delay_seconds: float, reason: str) -> None:
        """Dial after a while; `reason` is what the last connection died of."""
        if reason:
            self._trouble(_as_error(reason, self.target))
        self._again = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_seconds, self._start)

    def stop(self) -> None:
        """Dial no more."""
        self._again = False
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def leave(self) -> None:
        """Dial no more, and return when no attempt is under way."""
        self.stop()
        under_way = self._attempts if self._task is None else {self._task, *self._attempts}
        if under_way:
            await asyncio.wait(under_way, timeout=LEAVE_SECONDS_MAX)

    def _start(self) -> None:
        self._timer = None
        self._again = self._task is not None
        if self._task is None:
            self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        failure: BaseException | None = None
        try:
            await self._race(*self._look_again())
            self._said = ""
        except Exception as error:  # whatever it is, the core has to hear of it, or nobody dials again
            failure = error
        self._task = None
        if failure is not None:
            trouble = tls.as_error(failure, self.target)
            self._trouble(trouble)
            self._driver.feed(Lost(0, str(trouble)))
        if self._again:
            self._start()

    def _look_again(self) -> tuple[tls.Target, ssl.SSLContext]:
        """Take in a join file that was renewed."""
        known = self._known
        try:
            target = self._resolve()
            if known is not None and known[0].identity == target.identity:
                self._known = target, known[1]
            else:
                self._known = target, tls.dial_context(target.identity)
        except SetupError as error:
            if known is None:
                raise
            if self._said != str(error):
                self._said = str(error)
                self._log.info("dialing as before: %s", error)
            return known
        self._said = ""
        return self._known

    async def _race(self, target: tls.Target, context: ssl.SSLContext) -> None:
        """One patient attempt, for a manager that is slow; and beside it brisk ones, for a link that comes back."""
        patient = self._loop.create_task(self._attempt_by_name(target, context))
        brisk = self._loop.create_task(self._attempt_afresh(target, context))
        self._attempts = {patient, brisk}
        try:
            await asyncio.wait((patient, brisk), timeout=DIAL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if patient.done():
                patient.result()
            elif not brisk.done():
                raise TimeoutError
        finally:
            patient.cancel()
            brisk.cancel()
            await asyncio.wait((patient, brisk))
            self._attempts.clear()

    async def _attempt_by_name(self, target: tls.Target, context: ssl.SSLContext) -> None:
        """Where no name server answers, the address will do at which the manager was last."""
        try:
            await self._attempt(target, context, target.host)
        except socket.gaierror:
            last = self._last_address(target.host)
            if last == target.host:
                raise
            await self._attempt(target, context, last)

    async def _attempt_afresh(self, target: tls.Target, context: ssl.SSLContext) -> None:
        """Begin anew as long as there is no answer, without a name server; what fails is the other's to tell."""
        delay = BRISK_SECONDS
        while True:
            await asyncio.sleep(delay)
            began = self._loop.time()
            attempt = self._loop.create_task(self._attempt(target, context, self._last_address(target.host)))
            try:  # not by `wait_for`, which before Python 3.12 loses a cancel that comes as the attempt fails
                await asyncio.wait((attempt,), timeout=BRISK_SECONDS)
            finally:
                made = await _end(attempt)
            if made:
                return
            delay = max(0.0, began + BRISK_SECONDS - self._loop.time())

    def _last_address(self, host: str) -> str:
        """Where the manager answered last; its name where it never did."""
        return self._reached[1] if self._reached is not None and self._reached[0] == host else host

    async def _attempt(self, target: tls.Target, context: ssl.SSLContext, address: str) -> None:
        identify = functools.partial(self._identify, target.identity)
        link, _ = await connecting.dial(
            self._loop,
            lambda: self._driver.connection(identify),
            address,
            target.port,
            context,
            target.identity.server_name,
            target.proxy,
        )
        peer = link.get_extra_info("peername")
        if peer:  # else it is closed again already
            self._reached = target.host, peer[0] if target.proxy is None else target.host

    def _identify(
        self, identity: tls.DialerIdentity, ssl_object: ssl.SSLObject | ssl.SSLSocket, address: str
    ) -> Peer:
        try:
            return tls.identify(identity, Role.MANAGER, ssl_object, address)
        except CredentialsError as error:
            self._trouble(error)
            raise


async def _end(attempt: asyncio.Task[None]) -> bool:
    """See an attempt to its end, now; return whether it made a connection."""
    attempt.cancel()
    await asyncio.wait((attempt,))
    return not attempt.cancelled() and attempt.exception() is None


def _as_error(reason: str, target: tls.Target | None) -> StarCoreError:
    """What a connection that ended before its WELCOME died of; TLS 1.3 tells a refusal only then."""
    if "SSL" in reason and "EOF" not in reason:
        return tls.as_error(ssl.SSLError(1, reason), target)
    where = f" at {target.address}" if target is not None else ""
    return UnreachableError(f"the manager{where} closed the connection before it said WELCOME: {reason}")
