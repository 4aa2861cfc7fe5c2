"""The manager's shell: two listeners, TLS, signals, and the memory that chunks arrive in. It decides nothing.

::

    workers ──▶ port ────────┐                       ┌─▶ Log: the log
                             ├─▶ Driver ◀──▶ ManagerCore
    clients ──▶ client port ─┘                       └─▶ Finished: the end of `serve`

With more than one shard, the connections are held by other processes (`switch.py`), and so are the chunks.

A worker and a client are told apart before their first message: by the port they dialled and, in `tls.identify`,
by the role their certificate names. Bytes pass through here by reference: a chunk arrives in a buffer of the pool
and leaves from the same buffer; nothing here or below ever looks inside.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

from starcore import logs, tls
from starcore.connection import UNREAD_BYTES_MAX, Connection, Identify
from starcore.driver import Driver
from starcore.errors import AddressError, Code
from starcore.events import Action, Event, Finished, Log, Spill, Spooled
from starcore.manager import listeners, resources
from starcore.manager.bodies import Bodies, settle_place
from starcore.manager.core import Budget, Drain, Limits, ManagerCore
from starcore.manager.journaled import JournaledCore, Record, Renew
from starcore.manager.ledger import Ledger
from starcore.manager.outbox import SpoolFailed
from starcore.manager.recovery import Recovery
from starcore.manager.spool import Spool
from starcore.manager.stored import StoreLimits
from starcore.manager.switch import Switch
from starcore.messages import Buffer, Role

POOL_BYTES_MAX = 16 << 20
POOL_BUFFER_BYTES_MIN = 64 << 10
PEERS_MIN = 1024
"""A manager that has room for fewer says so as a warning."""
EPOCH_BITS = 31
STEP_BITS = 8
"""A manager with a journal begins its leases by chance a little further than one whose beginning was never written."""
LOST_SAID_MAX = 20
TRIM_SECONDS = 5.0
"""How long after peers came or went the memory of their handshakes goes back to the system."""

_log = logging.getLogger("starcore.manager")


@dataclass(slots=True)
class Ports:
    """The listening sockets of the two ports; the host is None where they listen on every address."""

    host: str | None
    workers: list[socket.socket]
    clients: list[socket.socket]

    @property
    def worker(self) -> int:
        """The port for workers."""
        return int(self.workers[0].getsockname()[1])

    @property
    def client(self) -> int:
        """The port for clients."""
        return int(self.clients[0].getsockname()[1])


def listen(host: str | None, port: int, client_port: int) -> Ports:
    """Open both ports.

    Raises
    ------
    AddressError
        One of them cannot be had.
    """
    workers = listeners.listen(host, port, "--port")
    try:
        return Ports(host, workers, listeners.listen(host, client_port, "--client-port"))
    except AddressError:
        for listener in workers:
            listener.close()
        raise


def adopt(host: str | None, worker: int, client: int) -> Ports:
    """Take over two sockets that listen already, by their descriptors: whoever started this process opened them."""
    return Ports(host, [socket.socket(fileno=worker)], [socket.socket(fileno=client)])


@dataclass(slots=True)
class ServerOptions:
    """What `serve` needs beyond the identity."""

    ports: Ports
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    store: StoreLimits = field(default_factory=StoreLimits)
    spool: Spool | None = None
    """Where stored jobs go that memory has no room for; the store's limits say how much."""
    bodies: Path | None = None
    """With a journal: where the bodies of stored jobs are; in the journal's own directory, if nothing is said."""
    lifeline: int | None = None
    on_listening: Callable[[], None] | None = None
    on_orphaned: Callable[[], None] | None = None
    shards: int = 1
    """Processes that hold the connections; with 1 this one holds them itself."""
    journal: Path | None = None
    """Where what is accepted outlives this process; without it, clients say it again."""
    log_options: tuple[str, ...] = ()
    """The shards' options for their logs."""


class BufferPool:
    """Memory for chunks, reused: a fresh page costs as much as receiving into it.

    Free buffers wait by their size, the warmest on top; together they measure at most POOL_BYTES_MAX.
    """

    def __init__(self) -> None:
        self.free_bytes = 0
        self._free: dict[int, list[bytearray]] = {}

    def take(self, length: int) -> bytearray | memoryview:
        """Give memory of `length` bytes; it is not cleared."""
        size = _size_class(length)
        free = self._free.get(size) or []
        for number in range(len(free) - 1, -1, -1):
            # What found no room in a socket is still in the transport's hands: such a buffer waits.
            if sys.getrefcount(free[number]) == 2:
                buffer = free.pop(number)
                self.free_bytes -= size
                break
        else:
            buffer = bytearray(size)
        return buffer if size == length else memoryview(buffer)[:length]

    def give(self, buffer: bytearray | memoryview) -> None:
        """Take a buffer back."""
        whole = cast("bytearray", buffer.obj) if isinstance(buffer, memoryview) else buffer
        size = len(whole)
        if size >= POOL_BUFFER_BYTES_MIN and self.free_bytes + size <= POOL_BYTES_MAX:
            self.free_bytes += size
            self._free.setdefault(size, []).append(whole)


def _size_class(length: int) -> int:
    """Round up to a size that others will want as well: four an octave. Small ones are not worth keeping."""
    if length < POOL_BUFFER_BYTES_MIN:
        return length
    step = 1 << ((length - 1).bit_length() - 3)
    return -(-length // step) * step


class Server:
    """The running manager."""

    def __init__(self, identity: tls.ManagerIdentity, options: ServerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._identity = identity
        self._options = options
        self._loop = loop
        self._pool = BufferPool()
        self._finished = asyncio.Event()
        self._ledger = Ledger(options.journal) if options.journal is not None else None
        self._bodies: Bodies | None = None
        unread_bytes = min(UNREAD_BYTES_MAX, options.budget.unread_bytes)
        self._driver = Driver(self._core(), loop, self, _log, unread_bytes)
        self._stops = 0
        self._accepted = 0
        self._trimmed = (0, 0)
        self._switch: Switch | None = None
        if options.shards > 1:
            seconds, budget = options.limits.greeting_seconds, options.budget
            self._switch = Switch(options.shards, self._driver, identity, seconds, loop, options.log_options, budget)

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        """Carry out what only the manager's core asks for."""
        if type(action) is Log:
            _log.log(logging.getLevelName(action.level.upper()), "%s", action.text)
        elif type(action) is Record and self._ledger is not None:
            self._ledger.append(action)
        elif type(action) is Finished:
            self._finished.set()
        elif type(action) is Spill:
            self._spill(action)
        else:
            raise TypeError(f"the manager's shell does not know {type(action).__name__}")

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer:
        """Memory for an incoming chunk."""
        return self._pool.take(length)

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Buffer:
        """The manager sends nothing of its own."""
        raise TypeError("the manager relays; every chunk it sends has a token")

    def release(self, token: Any) -> None:
        """Take a chunk's buffer back."""
        if type(token) is Spooled:
            keeper = self._bodies or self._options.spool
            assert keeper is not None
            token = keeper.drop(token)
        if self._switch is not None and token is not None:
            self._switch.give(token)
        elif token is not None:
            self._pool.give(token)

    def _spill(self, action: Spill) -> None:
        spool, piece = self._options.spool, self._read(action.token)[: action.spooled.length]
        if self._bodies is not None:
            if action.copy:
                self._bodies.keep(action.spooled, None, bytes(piece))
            else:
                self._bodies.keep(action.spooled, action.token, piece)
            return
        assert spool is not None, "the core spills only where there is room for it"
        try:
            spool.write(action.spooled, piece)
        except OSError as error:
            spool.hold(action.spooled, action.token, piece)
            self._driver.feed(SpoolFailed(str(error)))
        else:
            self.release(action.token)

    def _core(self) -> ManagerCore:
        """Make the core; with a journal, the one that was."""
        options = self._options
        if self._ledger is None:
            epoch = secrets.randbits(EPOCH_BITS)
            return ManagerCore(epoch, options.limits, self._read, options.budget, store=options.store)
        recovery = self._ledger.recover()
        number = 1 + secrets.randbits(EPOCH_BITS - 1)
        bodies = self._adopt(recovery, self._ledger, number)
        if recovery.epoch:
            tasks, unread = recovery.open_tasks, recovery.unread_outcomes
            _log.info("the journal has %d open tasks and %d unread outcomes", tasks, unread)
        return JournaledCore(
            recovery,
            number,
            self._loop.time(),
            step=1 + secrets.randbits(STEP_BITS),
            bodies=bodies,
            wall_seconds=time.time() - self._loop.time(),
            limits=options.limits,
            read=self._read,
            budget=options.budget,
            store=options.store,
        )

    def _adopt(self, recovery: Recovery, ledger: Ledger, number: int) -> Mapping[int, Spooled]:
        """Take over the files that the journal names, and end what cannot go on without those that are lost.

        A journal that is new gets this number.
        """
        journal = self._options.journal
        assert journal is not None
        directory = self._options.bodies or journal / "bodies"
        self._bodies = Bodies(directory, ledger.afterwards)
        named = recovery.files()
        if named:
            text = "checking the files of detached jobs in %s: %d, %d bytes"
            _log.info(text, directory, len(named), sum(named.values()))
        kept, lost = self._bodies.look(named)
        settle_place(journal, directory, lost)
        self._bodies.claim(recovery.epoch or number, named, new=not recovery.epoch)
        self._bodies.clear(named)
        for body, reason in islice(lost.items(), LOST_SAID_MAX):
            _log.error("a file of a detached job is lost: %s: %s", f"{body:016x}", reason)
        ended = recovery.settle(lost)
        if ended:
            _log.error("%d tasks of detached jobs fail: files (%d) or records of theirs are lost", ended, len(lost))
        return kept

    def _bodies_said(self, pieces: list[Spooled], event: Event | None) -> None:
        """Take what the bodies' thread has to say."""
        assert self._bodies is not None
        for token in self._bodies.synced(pieces):
            self.release(token)
        if event is not None:
            self._driver.feed(event)

    def _bodies_soon(self, pieces: list[Spooled], event: Event | None) -> None:
        self._loop.call_soon_threadsafe(self._bodies_said, pieces, event)

    def _feed_soon(self, event: Event) -> None:
        """Pass on what another thread says."""
        self._loop.call_soon_threadsafe(self._driver.feed, event)

    def _read(self, token: Any) -> Buffer:
        return memoryview(token) if self._switch is None else self._switch.read(token)

    # -- running ---------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Listen, and return when the drain is complete or a second signal came."""
        self._make_room()
        self._watch_signals()
        self._watch_lifeline()
        self._trim()
        if self._ledger is not None:
            self._ledger.start(self._feed_soon)
            if self._bodies is not None:
                self._bodies.start(self._bodies_soon)
            self._driver.feed(Renew())
        try:
            if self._switch is not None:
                await self._switch.open()
            await self._listen()
        finally:
            if self._switch is not None:
                await self._switch.close()
            if self._options.spool is not None:
                self._options.spool.close()
            if self._bodies is not None:
                self._bodies.close()
            if self._ledger is not None:
                self._ledger.close()
        _log.info("stopped")

    async def _listen(self) -> None:
        options, ports = self._options, self._options.ports
        doors = self._door(Role.WORKER), self._door(Role.CLIENT)
        sockets = ports.workers, ports.clients
        acceptors = [listeners.Acceptor(own, take, self._loop) for own, (take, _) in zip(sockets, doors, strict=True)]
        where = _where(ports.host, ports.worker), _where(ports.host, ports.client)
        _log.info("listening: workers on %s, clients on %s", *where)
        if options.on_listening is not None:
            options.on_listening()
        try:
            await self._finished.wait()
        finally:
            for acceptor in acceptors:
                acceptor.close()
            for _, shut in doors:
                shut()
            self._driver.close_all(Code.DRAINING, "the manager was stopped")
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Drain at the first call, stop at the second."""
        self._stops += 1
        if self._stops > 1:
            _log.warning("stopping at once")
            self._finished.set()
            return
        _log.info("draining: no new work; again to stop at once")
        self._driver.feed(Drain())

    def _door(self, role: Role) -> tuple[Callable[[socket.socket, str], None], Callable[[], None]]:
        """Return what sees an accepted connection of a role's port through TLS, and what ends that."""
        if self._switch is not None:
            return functools.partial(self._switch.adopt, role), lambda: None
        seconds = self._options.limits.greeting_seconds
        handshakes = listeners.Handshakes(tls.listen_context(self._identity, role), seconds, self._loop)
        identify = functools.partial(tls.identify, self._identity, role)
        factory = functools.partial(self._connection, identify)
        return lambda connection, address: handshakes.begin(connection, address, factory), handshakes.close

    def _connection(self, identify: Identify) -> Connection:
        self._accepted += 1
        return self._driver.connection(identify)

    def _make_room(self) -> None:
        peers = resources.raise_descriptors()
        text = "room for %d peers: the system lets this process open so many files"
        if peers < PEERS_MIN:
            text += "; for more, raise its hard limit (LimitNOFILE= of a systemd unit, ulimit -Hn, --ulimit nofile)"
        _log.log(logging.INFO if peers >= PEERS_MIN else logging.WARNING, text, peers)

    def _trim(self) -> None:
        now = self._accepted, self._driver.links
        if now != self._trimmed:
            self._trimmed = now
            resources.give_back()
        if not self._finished.is_set():
            self._loop.call_later(TRIM_SECONDS, self._trim)

    def _watch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)

    def _watch_lifeline(self) -> None:
        lifeline = self._options.lifeline
        if lifeline is None:
            return

        def orphaned() -> None:
            self._loop.remove_reader(lifeline)
            if self._options.on_orphaned is not None:
                self._options.on_orphaned()
            self._finished.set()

        self._loop.add_reader(lifeline, orphaned)


def run(identity: tls.ManagerIdentity, options: ServerOptions) -> None:
    """Run a manager in this process until it has drained; needs Linux or macOS."""
    import uvloop  # noqa: PLC0415 - absent on Windows, where only the client runs

    async def main() -> None:
        loop = asyncio.get_running_loop()
        logs.watch(loop, _log)
        await Server(identity, options, loop).serve()

    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    else:
        uvloop.install()
        asyncio.run(main())


def _where(host: str | None, port: int) -> str:
    if host is None:
        return f"port {port} of every address"
    return tls.join_address(host, port)
