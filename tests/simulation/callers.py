"""The simulated client's shell: what `client/session.py` does, and whoever calls it.

As unforgiving as the other shells (`peers.py`); what becomes of each future is told to `checkers.Truth`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starcore.client import orders
from starcore.client.core import ClientCore
from starcore.errors import Status
from starcore.events import Lost
from starcore.messages import BATCH_TASKS_MAX, PROTOCOL_VERSION, FunctionKind, Hello, Job, Role, Submit

from .checkers import Truth
from .driver import Process, SimDriver
from .network import KIND, MANAGER, Network, Spring, peer
from .work import Spec, Treasure, base_of, function_blob, piece, require_body
from .world import Violation, World


@dataclass(eq=False)
class Calls:
    """A function with its options, as a client's calling threads see it; `number` 0: not known to the session."""

    kind: FunctionKind
    function: str
    blob_bytes: int = 0
    python: str = "3.11"
    retries: int = 0
    timeout_seconds: float = 0.0
    priority: int = 0
    needs: tuple[Treasure, ...] = ()
    """What was put and every call is given."""
    number: int = 0
    next: int = 0
    begun: bool = False
    open: dict[int, Spec] = field(default_factory=dict)

    @property
    def blob(self) -> bytes:
        """The function's bytes."""
        return function_blob(self.function, self.blob_bytes)[0] if self.kind is FunctionKind.SHIPPED else b""

    @property
    def digest(self) -> bytes:
        """The name of the function's bytes."""
        return function_blob(self.function, self.blob_bytes)[1] if self.blob else bytes(32)

    @property
    def shared_bytes(self) -> int:
        """What the values measure that every call is given."""
        return sum(treasure.body_bytes for treasure in self.needs)

    def job(self) -> Job:
        """Return the JOB that says this."""
        return Job(
            self.number, self.kind, self.digest, self.function, self.python if self.blob else "",
            self.retries, self.timeout_seconds, self.priority, b"".join(treasure.name for treasure in self.needs),
        )  # fmt: skip


@dataclass(eq=False)
class _Incoming:
    attempt: int
    status: int
    head: bytes
    size: int
    pieces: list[tuple[int, Any]] = field(default_factory=list)


class ClientProcess(Process):
    """A client's session, and whoever calls it."""

    def __init__(
        self,
        world: World,
        network: Network,
        truth: Truth,
        name: str,
        *,
        result_bytes: int,
        first_window_bytes: int,
        jobs_idle_max: int,
    ) -> None:
        super().__init__(world, name)
        self.finished = False
        self.records: dict[int, Calls] = {}
        self.bodies: dict[int, Spec] = {}
        self.treasures: list[Treasure] = []
        """What was put and not released."""
        self._network = network
        self._truth = truth
        self._incoming: dict[int, _Incoming] = {}
        self._numbers = 0
        self._tell_at = 0.0
        self._dials = 0
        self._dialling = False
        self._peer = peer(Role.CLIENT, name)
        hello = Hello(
            PROTOCOL_VERSION, Role.CLIENT, world.rng.randbytes(16), name, python="3.11.9",
            first_window_bytes=first_window_bytes, result_bytes=result_bytes,
        )  # fmt: skip
        self.core = ClientCore(hello, jobs_idle_max=jobs_idle_max)
        self.driver = SimDriver(self, self.core, self, watch=self._hears)
        self._actions: dict[type, Callable[[Any], None]] = {
            orders.Dial: self._dial,
            orders.Connected: lambda action: None,
            orders.Refused: self._refused,
            orders.Resolve: self._resolve,
            orders.Receive: self._receive,
            orders.Landed: self._landed,
            orders.Discard: self._discard,
            orders.Released: self._released,
            orders.MarkRunning: self._mark_running,
            orders.Forgotten: self._forgotten,
            orders.Resized: lambda action: None,
            orders.Told: lambda action: truth.told(name, action.text),
            orders.Say: lambda action: truth.noticed(name, action.text),
            orders.Log: lambda action: None,
            orders.Finished: self._finish,
        }
        self.driver.feed(orders.Connect())

    @property
    def open(self) -> int:
        """How many futures are not done."""
        return sum(len(record.open) for record in self.records.values())

    # -- the calling threads ---------------------------------------------------------------------------------

    def submit(self, record: Calls, specs: list[Spec], padding: int = 0) -> None:
        """Call a function some times; the session hears of it a moment later."""
        if self.finished or not set(record.needs) <= set(self.treasures):
            return
        if record.number not in self.records:
            self._numbers += 1
            record.number, record.next, record.begun = self._numbers, 0, False
            self.records[record.number] = record
        first = record.next
        record.next += len(specs)
        for at, spec in enumerate(specs):
            record.open[first + at] = spec
            self._truth.called(self.name, record, first + at, spec, spec.head(padding))
        self._tell(self._feed_calls, record, first, specs, padding)

    def stumble(self, spared: int) -> None:
        """Lose the connection when so many SUBMITs more have passed, and the next one with it."""
        for connection in self._network.of(self):
            connection.trap, connection.spared = (KIND[Submit], Spring.BEFORE), spared

    def cancel(self, record: Calls, index: int, *, kill: bool) -> None:
        """Nobody waits for this task any more."""
        if record.open.pop(index, None) is not None:
            self._truth.cancelled(self.name, record.number, index)
            self.bodies.pop(record.number << 32 | index, None)
            event = orders.CancelCall(record.number, [index], kill)
            mark = f"{record.number} {index} {kill}"
            self._tell(self.driver.feed, event, mark)

    def put(self, treasure: Treasure) -> None:
        """Put a value, for calls that follow."""
        self.treasures.append(treasure)
        self._tell(self.driver.feed, orders.Put(treasure.name, treasure), treasure.name.hex()[:8])

    def let_go(self, treasure: Treasure) -> None:
        """No call that follows names it."""
        if treasure in self.treasures:
            self.treasures.remove(treasure)
            self._tell(self.driver.feed, orders.Release(treasure.name), treasure.name.hex()[:8])

    def ask(self) -> None:
        """Ask for the star's state."""
        self._tell(self.driver.feed, orders.Ask())

    def shutdown(self, *, abandon: bool = False) -> None:
        """Leave when all is done, or now."""
        if abandon:
            self._truth.gone(self.name)
        self._tell(self.driver.feed, orders.Shutdown(abandon))

    def die(self) -> None:
        """SIGKILL: it never comes back."""
        super().die()
        self._truth.gone(self.name)
        self._network.kill(self)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        """Do something in the session's thread, a moment later and behind what was told before."""
        self._tell_at = max(self.world.now + self.world.skewed(1e-6, 0.002), self._tell_at)
        self.world.at(self._tell_at, self.post, callback, *args)

    def _feed_calls(self, record: Calls, first: int, specs: list[Spec], padding: int) -> None:
        if self.finished:
            return
        for at, spec in enumerate(specs):
            if spec.argument:
                self.bodies[record.number << 32 | (first + at)] = spec
        if not record.begun:
            record.begun = True
            self.driver.feed(orders.Begin(record.job(), record.blob), str(record.number))
        for start in range(0, len(specs), BATCH_TASKS_MAX):
            part = specs[start : start + BATCH_TASKS_MAX]
            sizes = array("Q", [spec.argument for spec in part] if any(spec.argument for spec in part) else [])
            call = orders.Call(record.number, first + start, [spec.head(padding) for spec in part], sizes)
            self.driver.feed(call, f"{record.number} {first + start} {len(part)}")

    # -- the driver's shell ----------------------------------------------------------------------------------

    def _hears(self, core: ClientCore, event: Any, now: float) -> None:
        self._truth.wire.client_hears(self.name, event)
        self._truth.reached.client(core, event)

    def perform(self, action: Any) -> None:
        """Carry out what the core asks for."""
        self._actions[type(action)](action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """The memory of an answer."""
        incoming = self._incoming.get(stream)
        if incoming is None or incoming.attempt != attempt or offset + length > incoming.size:
            return None
        return incoming

    def landed(self, place: Any, offset: int, length: int, payload: Any) -> Any:
        """A piece of an answer is in its memory."""
        if place is not None:
            place.pieces.append((offset, payload))
        return None

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """Bytes of an argument, from the caller's own memory; of one cancelled a moment ago, anything."""
        spec = self.bodies.get(stream)
        if spec is None:
            job, index = stream >> 32, stream & 0xFFFFFFFF
            if not self._truth.is_cancelled(self.name, job, index):
                raise Violation(f"{self.name}: sends the argument of task {job}/{index}, which was released")
            return piece(0, 0, length)
        return piece(spec.base, offset, min(length, spec.argument - offset))

    def leaves(self, token: Any) -> Any:
        """A piece of a function is written."""
        return token

    def release(self, token: Any) -> None:
        """There are no tokens to drop here."""
        raise Violation(f"{self.name} drops a token")

    # -- the manager -----------------------------------------------------------------------------------------

    def _dial(self, action: orders.Dial) -> None:
        self._dials += 1
        self.world.later(action.delay_seconds, self.post, self._connect, self._dials)

    def _connect(self, dial: int) -> None:
        if dial == self._dials and not self._dialling and not self.finished:
            self._dialling = True
            self._network.dial(self.driver, self._peer, MANAGER, self._unreachable, self._reached)

    def _unreachable(self, reason: str) -> None:
        self._dialling = False
        if not self.finished:
            self.driver.feed(Lost(0, reason), f"0 {reason}")

    def _reached(self) -> None:
        self._dialling = False

    def _refused(self, action: orders.Refused) -> None:
        raise Violation(f"{self.name} is refused for ever: {action}")

    def _finish(self, action: orders.Finished) -> None:
        self.finished = True

    # -- futures ---------------------------------------------------------------------------------------------

    def _resolve(self, action: orders.Resolve) -> None:
        record = self.records[action.job]
        at = 0
        heads = bytes(action.heads)
        for index, status, size in zip(action.indices, action.statuses, action.head_sizes, strict=True):
            record.open.pop(index, None)
            self._truth.outcome(self.name, action.job, index, Status(status), heads[at : at + size], 0)
            at += size

    def _receive(self, action: orders.Receive) -> None:
        stream = action.job << 32 | action.index
        if action.index in self.records[action.job].open:
            self._incoming[stream] = _Incoming(action.attempt, action.status, action.head, action.body_bytes)

    def _landed(self, action: orders.Landed) -> None:
        incoming = self._incoming.pop(action.job << 32 | action.index, None)
        spec = self.records[action.job].open.pop(action.index, None)
        if spec is None or incoming is None:
            if not self._truth.is_cancelled(self.name, action.job, action.index):
                raise Violation(f"{self.name}: an answer landed nowhere: {action}")
            return
        what = f"{self.name}: the answer of task {action.job}/{action.index}"
        require_body(incoming.pieces, base_of(incoming.head), incoming.size, what)
        status = Status(action.status)
        self._truth.outcome(self.name, action.job, action.index, status, incoming.head, incoming.size)

    def _discard(self, action: orders.Discard) -> None:
        self._incoming.pop(action.job << 32 | action.index, None)

    def _released(self, action: orders.Released) -> None:
        for index in action.indices:
            self.bodies.pop(action.job << 32 | index, None)

    def _mark_running(self, action: orders.MarkRunning) -> None:
        if action.job not in self.records:
            raise Violation(f"{self.name}: tasks of job {action.job} run, which is forgotten")

    def _forgotten(self, action: orders.Forgotten) -> None:
        record = self.records.get(action.job)
        if record is None:  # forgotten before, with a call that was cancelled on its way to the session's thread
            return
        record.begun = False
        if not record.open:
            del self.records[action.job]
