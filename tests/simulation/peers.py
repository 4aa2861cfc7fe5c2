"""The shells of the simulated manager and workers: what `manager/server.py` and `worker/supervisor.py` do.

Each performs its role's actions as the real one does, and is as unforgiving: an action for a slot, a piece of memory
or a future that is not there is a KeyError, and a KeyError is a finding. What they see they tell `checkers.Truth`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starcore.errors import Code
from starcore.events import Lost
from starcore.manager.core import Finished as ManagerFinished
from starcore.manager.core import Limits, ManagerCore
from starcore.manager.core import Log as ManagerLog
from starcore.messages import PROTOCOL_VERSION, Hello, Job, Role
from starcore.worker import orders
from starcore.worker.board import SETTLE_SECONDS
from starcore.worker.core import WorkerCore
from starcore.worker.departure import Lifetime
from starcore.worker.runs import Run

from .checkers import Truth
from .driver import Process, SimDriver
from .network import MANAGER, Network, peer
from .slots import SimSlot
from .work import Answer, Spec, base_of, piece, require_body
from .world import Violation, World

ALLOCATION_SECONDS_MAX = 3.0
"""How long a laden machine may take to make memory."""


@dataclass(slots=True, eq=False)
class Token:
    """A buffer of the manager's pool."""

    view: Any


def view_of(token: Token) -> Any:
    """A buffer's bytes."""
    return token.view


class ManagerProcess(Process):
    """A manager, from its start to its end."""

    def __init__(
        self,
        world: World,
        network: Network,
        truth: Truth,
        epoch: int,
        limits: Limits,
        core: ManagerCore | None = None,
    ) -> None:
        super().__init__(world, "manager")
        self.core = core or ManagerCore(epoch, limits, read=view_of)
        self.driver = SimDriver(self, self.core, self, watch=self._watch)
        self.finished = False
        self.tokens: dict[Token, None] = {}
        """Buffers that hold a chunk: from its arrival until the core drops it."""
        self._network = network
        self._truth = truth
        network.listener = self.driver

    def _watch(self, core: ManagerCore, event: Any, now: float) -> None:
        self._truth.wire.manager_hears(core, event)
        self._truth.reached.manager(core, event, now)

    def perform(self, action: Any) -> None:
        """Carry out what only the manager's core asks for."""
        if type(action) is ManagerFinished:
            self.finished = True
        elif type(action) is ManagerLog:
            # A worker that is away for too long is taken for dead, and blamed on what it ran.
            self.world.deaths += action.text.startswith("worker ") and "did not come back" in action.text
        else:
            raise Violation(f"the manager's shell does not know {action}")

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """A buffer of the pool."""
        return self

    def landed(self, place: Any, offset: int, length: int, payload: Any) -> Any:
        """Return the buffer: an object of its own, over bytes that are not copied."""
        token = Token(payload)
        self.tokens[token] = None
        return token

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """The manager sends nothing of its own."""
        raise Violation(f"the manager sends a chunk of stream {stream} that has no token")

    def leaves(self, token: Token) -> Any:
        """A buffer, or a part of one, is written."""
        if token not in self.tokens:
            raise Violation("the manager sends a buffer that it gave back")
        return token.view

    def release(self, token: Token) -> None:
        """Take a buffer back."""
        if self.tokens.pop(token, token) is token:
            raise Violation("the manager gives a buffer back twice")

    def die(self) -> None:
        """SIGKILL."""
        super().die()
        if self._network.listener is self.driver:
            self._network.listener = None
        self._network.kill(self)

    def leave(self) -> None:
        """The end of a drain."""
        self._network.listener = None
        self.driver.close_all(Code.DRAINING, "the manager was stopped")
        self.die()


@dataclass
class WorkerOptions:
    """What a worker is."""

    name: str
    slots: int
    arena_bytes: int
    python: str = "3.11"
    functions: list[str] = field(default_factory=list)
    only_registered: bool = False
    memory_fails: float = 0.0
    """How often an allocation fails."""
    lifetime: Lifetime | None = None
    """The batch system's, until all is made well."""


@dataclass(eq=False)
class _Held:
    attempt: int
    size: int
    there: bool = False
    pieces: list[tuple[int, Any]] = field(default_factory=list)


class WorkerProcess(Process):
    """A worker's supervisor, and its slots."""

    def __init__(self, world: World, network: Network, truth: Truth, options: WorkerOptions) -> None:
        super().__init__(world, options.name)
        self.options = options
        self.exit_code: int | None = None
        self.replaced = False
        self.slots: dict[int, SimSlot] = {}
        self.held: dict[int, _Held] = {}
        self.answers: dict[int, tuple[int, int, bool]] = {}
        """By lease: where its pattern begins, how long it is, whether it lies in its argument."""
        self._network = network
        self._truth = truth
        self._started = 0
        self._peer = peer(Role.WORKER, options.name)
        hello = Hello(
            PROTOCOL_VERSION, Role.WORKER, world.rng.randbytes(16), options.name, "host", 1, "", options.python, "",
            options.slots, options.arena_bytes, only_registered=options.only_registered,
            functions=["", *options.functions] if options.functions else [],
        )  # fmt: skip
        self.core = WorkerCore(hello, dial_when_ready=bool(options.functions), lifetime=options.lifetime)
        self.driver = SimDriver(self, self.core, self, watch=self._hears)
        self._actions: dict[type, Callable[[Any], None]] = {
            orders.Dial: self._dial,
            orders.Allocate: self._allocate,
            orders.Release: self._release,
            orders.ReleaseAnswer: lambda action: self._release_answer(action.lease),
            orders.RunBatch: self._run_batch,
            orders.Teach: self._teach,
            orders.Lend: self._lend,
            orders.TakeBack: lambda action: self._slot(action).tell(self._slot(action).take_back, action.name),
            orders.Unteach: lambda action: self._slot(action).tell(
                self._slot(action).unlearn, action.job, action.digest
            ),
            orders.Inspect: lambda action: self._inspect(self._slot(action), 0),
            orders.Recall: self._recall,
            orders.StartSlot: self._start_slot,
            orders.KillSlot: lambda action: self._slot(action).die(
                "signal SIGKILL", world.skewed(0.0005, 0.3 if action.kindly else 0.02)
            ),
            orders.Log: lambda action: None,
            orders.Finished: self._finish,
        }
        self.began = self.clock
        self.driver.perform(self.core.start(self.began))

    def _hears(self, core: WorkerCore, event: Any, now: float) -> None:
        self._truth.wire.worker_hears(self.name, event)

    @property
    def busy(self) -> int:
        """How many slots run something."""
        return sum(slot.busy and slot.alive for slot in self.slots.values())

    def drain(self, *, now: bool) -> None:
        """SIGTERM, or Ctrl-C (`now`)."""
        if self.exit_code is None:
            self.post(self.driver.feed, orders.Stop() if now else orders.Drain())

    def die(self, *, power: bool = False) -> None:
        """SIGKILL of all its processes, or of the whole machine."""
        super().die()
        self.world.deaths += 1
        for slot in self.slots.values():
            slot.alive = False
        self._network.kill(self, power=power)

    # -- the driver's shell ----------------------------------------------------------------------------------

    def perform(self, action: Any) -> None:
        """Carry out what only the worker's core asks for."""
        if self.exit_code is None:
            self._actions[type(action)](action)

    def destination(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """The memory of a body."""
        held = self.held.get(stream)
        if held is None or not held.there or held.attempt != attempt or offset + length > held.size:
            return None
        return held

    def landed(self, place: Any, offset: int, length: int, payload: Any) -> Any:
        """A piece of a body is in its memory."""
        if place is not None:
            place.pieces.append((offset, payload))
        return None

    def source(self, link: int, stream: int, attempt: int, offset: int, length: int) -> Any:
        """Bytes of an answer."""
        base, size, _ = self.answers[stream]
        return piece(base, offset, min(length, size - offset))

    def leaves(self, token: Any) -> Any:
        """There are no tokens here."""
        raise Violation(f"{self.name} sends a token")

    def release(self, token: Any) -> None:
        """There are no tokens here."""
        raise Violation(f"{self.name} drops a token")

    # -- the manager -----------------------------------------------------------------------------------------

    def _dial(self, action: orders.Dial) -> None:
        self.world.later(action.delay_seconds, self.post, self._connect)

    def _connect(self) -> None:
        if self.exit_code is None:
            self._network.dial(self.driver, self._peer, MANAGER, self._unreachable)

    def _unreachable(self, reason: str) -> None:
        if self.exit_code is None:
            self.driver.feed(Lost(0, reason), f"0 {reason}")

    # -- memory ----------------------------------------------------------------------------------------------

    def _allocate(self, action: orders.Allocate) -> None:
        if action.key in self.held:
            raise Violation(f"{self.name}: memory under {action.key} twice")
        held = self.held[action.key] = _Held(action.attempt, action.size)
        if self.world.chance(0.2):
            delay = self.world.skewed(0.0005, ALLOCATION_SECONDS_MAX)
            self.world.later(delay, self.post, self._allocated, action.key, held)
        else:
            self._allocated(action.key, held)

    def _allocated(self, key: int, held: _Held) -> None:
        if self.held.get(key) is not held or self.exit_code is not None:
            return
        if self.world.chance(self.options.memory_fails):
            del self.held[key]
            self.driver.feed(orders.Allocated(key, "Cannot allocate memory"), f"{key} failed")
            return
        held.there = True
        self.driver.feed(orders.Allocated(key), str(key))

    def _release(self, action: orders.Release) -> None:
        if self.answers.get(action.key, (0, 0, False))[2]:
            del self.answers[action.key]
        self.held.pop(action.key, None)

    def _release_answer(self, lease: int) -> None:
        self.answers.pop(lease, None)

    # -- slots -----------------------------------------------------------------------------------------------

    def _slot(self, action: Any) -> SimSlot:
        return self.slots[action.slot]

    def _start_slot(self, action: orders.StartSlot) -> None:
        if action.slot in self.slots:
            raise Violation(f"{self.name}: slot {action.slot} is started twice")
        slot = self.slots[action.slot] = SimSlot(self.world, self, action.slot)
        self._started += 1
        if self._started > 1 and self.world.chance(0.02):
            slot.die("exit code 1", self.world.between(0.05, 0.3))
        else:
            self.world.later(self.world.skewed(0.02, 0.3), self._ready, slot)

    def _ready(self, slot: SimSlot) -> None:
        if slot.alive:
            self.post(self.said, slot, orders.SlotReady(slot.number, 100 + self._started))

    def _teach(self, action: orders.Teach) -> None:
        slot, job = self._slot(action), action.job
        blob: bytes | None = None if action.blob is None else bytes(action.blob)
        if action.blob is None and action.key:
            held = self.held[action.key]
            blob = b"".join(bytes(payload) for _, payload in held.pieces)
            if len(blob) != held.size:
                raise Violation(f"{self.name}: a function of {held.size} bytes is taught as {len(blob)}")
        slot.tell(slot.learn, job, blob)

    def _lend(self, action: orders.Lend) -> None:
        """Whatever is lent is whole, and what was put under this name."""
        base, size = int.from_bytes(action.head[:4], "little"), int.from_bytes(action.head[4:], "little")
        if size != action.size:
            raise Violation(f"{self.name}: a value of {size} bytes is lent as {action.size}")
        if size:
            what = f"{self.name}: value {action.name.hex()[:8]}"
            require_body(self.held[action.key].pieces, base, size, what)
        self._slot(action).tell(self._slot(action).lend, action.name)

    def _run_batch(self, action: orders.RunBatch) -> None:
        slot, run = self._slot(action), action.run
        if self.core._departure.leaving:
            raise Violation(f"{self.name}: lease {run.lease} begins in a drain")
        if run.body_bytes and not self.held[run.lease].there:
            raise Violation(f"{self.name}: lease {run.lease} runs in memory that is still being made")
        if action.batch in slot.runs:
            raise Violation(f"{self.name}: batch {action.batch} twice in slot {slot.number}")
        slot.runs[action.batch] = run
        slot.tell(slot.work, action.batch, run, self._truth.needs(run))

    def _recall(self, action: orders.Recall) -> None:
        slot = self._slot(action)
        slot.recall(action.batch)
        self.world.later(SETTLE_SECONDS, self.post, self._inspect, slot, action.batch)

    def _inspect(self, slot: SimSlot, recalled: int) -> None:
        if slot.alive and self.slots.get(slot.number) is slot and self.exit_code is None:
            batch, started, running, since = slot.read()
            event = orders.Inspected(slot.number, batch, started, running, since, recalled)
            self.driver.feed(event, f"{slot.number} {batch} {started} {running} {recalled}")

    def said(self, slot: SimSlot, record: Any) -> None:
        """Pass on what a slot said."""
        if self.exit_code is not None:
            return
        mark = f"{slot.number}"
        if type(record) is orders.SlotDone:
            run = slot.runs[record.batch]
            lease = run.lease + record.first
            if record.body_bytes:
                self.answers[lease] = (base_of(record.heads), record.body_bytes, record.in_place)
            if record.first + len(record.statuses) == len(run):
                del slot.runs[record.batch]
            mark = f"{slot.number} {record.batch} {record.first} {len(record.statuses)}"
        self.driver.feed(record, mark)

    def ended(self, slot: SimSlot, cause: str) -> None:
        """Pass on that a slot's process is gone."""
        if self.exit_code is not None:
            return
        if self.slots.get(slot.number) is slot:
            del self.slots[slot.number]
        batch, started, running, _ = slot.read()
        event = orders.SlotDied(slot.number, cause, batch, started, running)
        self.driver.feed(event, f"{slot.number} {batch} {started} {running} {cause}")

    def executed(self, head: bytes, status: int, answer: Answer | None = None) -> None:
        """A task came to its end."""
        self._truth.executed(head, status, answer)

    def requires(self, job: Job, run: Run) -> None:
        """Check that a batch runs with its own function."""
        self._truth.require_function(self.name, job, run)

    def swollen(self, slot: SimSlot) -> None:
        """A slot has more memory than it may have."""
        if slot.alive and self.slots.get(slot.number) is slot and self.exit_code is None:
            self.driver.feed(orders.Swollen(slot.number, 3 << 30, 2 << 30), f"{slot.number}")

    def body_of(self, lease: int, spec: Spec) -> None:
        """Check that the argument of a lease is here whole; of one that was cancelled anything may have come."""
        if not self._truth.is_void(spec.serial):
            require_body(self.held[lease].pieces, spec.base, spec.argument, f"{self.name}: lease {lease}'s argument")

    def _finish(self, action: orders.Finished) -> None:
        self.exit_code = action.exit_code
        self.world.note(self.name, f"finished {action.exit_code}", action)
        self.driver.close_all(Code.NORMAL, "")
        for slot in self.slots.values():
            slot.alive = False
        Process.die(self)
        self._network.kill(self)
