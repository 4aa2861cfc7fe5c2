"""One seed: a star is put together, used and mistreated; then all is made well, and everything has to finish.

::

    safety: faults ──────────────▶ liveness: none ─────────▶ drain ─▶ farewells ─▶ nothing is left
    I1 I3 I4 I5 I7 I9, check()      I2, I10: within bounds    I5 I6 I7
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from starcore.manager.core import Drain, Limits
from starcore.messages import Welcome
from starcore.worker.departure import Lifetime
from starcore.worker.runs import SEGMENT_BYTES_MIN

from .callers import ClientProcess
from .checkers import (
    Truth,
    require_drained,
    require_empty,
    require_idle_client,
    require_idle_worker,
    require_lifetime_kept,
    require_no_ghosts,
    require_no_vigil,
    require_suspects_alone,
    require_within_budget,
)
from .faults import Faults
from .network import KIND, Network, Spring
from .peers import ManagerProcess, WorkerOptions, WorkerProcess
from .reached import Pair
from .workload import PYTHONS, REGISTERED, Workload
from .world import Violation, World

LIVENESS_SECONDS = 240.0
"""Everything has to be done this long after the last fault."""
SETTLE_SECONDS = 10.0
"""After which no silence is unnoticed; beyond the grace, no session that is gone is remembered either."""
START_SECONDS = 2.0
"""In which all workers and clients begin."""
CALL_SECONDS = 0.01
"""The last work is there so soon after its caller was woken."""
BUDGET_SECONDS = 0.25
LONG, LONG_SECONDS = 0.02, (40.0, 150.0)
"""How many of the worlds have faults for longer than most, and for how long."""
LARGE = 0.2
"""How many of the worlds are large; most faults need no crowd, and a small world costs a tenth."""


@dataclass(slots=True)
class Report:
    """What a seed came to."""

    seed: int
    hash: str
    steps: int
    seconds: float
    tasks: int
    executions: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    reached: list[Pair] = field(repr=False)
    """What happened to tasks in which state."""

    def line(self) -> str:
        """Say it in a line."""
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "no fault"
        outcomes = ", ".join(f"{count} {name.lower()}" for name, count in sorted(self.outcomes.items()))
        return (
            f"seed {self.seed}: {self.hash} {self.steps} steps, {self.seconds:.0f} s, {self.tasks} tasks "
            f"in {self.executions} runs ({outcomes}); {faults}"
        )


class SimStar:
    """A manager, workers and clients in a world of their own."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.world = World(seed, trace=trace)
        self.network = Network(self.world)
        self.truth = Truth(self.world)
        self.manager: ManagerProcess | None = None
        self.workers: list[WorkerProcess] = []
        self.clients: list[ClientProcess] = []
        world = self.world
        self._large = world.chance(LARGE)
        self._alone = world.chance(0.1)
        """There is one worker only."""
        self._tight = world.chance(0.6)
        self._narrow = world.chance(0.3)
        """Arenas are hardly larger than the largest argument, and at times smaller."""
        self._body_bytes = int(world.skewed(20_000, 600_000) if self._tight else world.skewed(20_000, 5_000_000))
        self._limits = self._make_limits()
        self._epochs = 0
        self._numbers = 0
        self._calm = False
        self._well = False
        longest = 25.0 if self._large else 8.0
        self._fault_seconds = world.between(*LONG_SECONDS) if world.chance(LONG) else world.skewed(1.0, longest)
        burst = 150 if self._large else 40
        self._work = Workload(
            world, body_bytes=self._body_bytes, burst=burst, pythons=PYTHONS[self._alone :],
            seconds=0.7 * self._fault_seconds,
        )  # fmt: skip
        self._options = self._make_options()
        self.truth.arenas = [options.arena_bytes for options in self._options]
        self.truth.memory_fails = any(options.memory_fails for options in self._options)

    def run(self) -> Report:
        """Live through the seed. Raises Violation."""
        world, rng = self.world, self.world.rng
        self.start_manager()
        for options in self._options:
            world.later(world.skewed(0.001, START_SECONDS), self._start_worker, options)
        for _ in range(rng.randint(2 if self.common_function else 1, 3 if self._large else 2)):
            world.later(world.skewed(0.001, START_SECONDS), self._start_client)
        world.later(BUDGET_SECONDS, self._look)
        Faults(self, self._fault_seconds)
        world.run(self._fault_seconds)
        self._make_well()
        world.run(world.now + LIVENESS_SECONDS, self._finished)
        self.truth.require_finished()
        self._drain()
        self._say_goodbye()
        names = {status.name: count for status, count in self.truth.counts.items()}
        return Report(
            world.seed, world.hash, world.steps, world.now, self.truth.tasks, self.truth.executions, world.faults,
            names, sorted(self.truth.reached.pairs),
        )  # fmt: skip

    # -- who is there ----------------------------------------------------------------------------------------

    def start_manager(self) -> None:
        """Start a manager where there is none; it knows nothing of an earlier one."""
        if self.manager is None or not self.manager.alive:
            self._epochs += 1
            self.manager = ManagerProcess(self.world, self.network, self.truth, self._epochs, self._limits)
            if self._epochs > 1 and not self._well and self.world.chance(0.5):
                lost = KIND[Welcome], Spring.BEFORE
                self.network.first_traps = [lost] * self.world.rng.randint(1, 3)

    def faults_of_its_own(self) -> list[tuple[Callable[[], None], float]]:
        """What else may go wrong, and how often."""
        return []

    @property
    def common_function(self) -> bool:
        """Whether most clients begin with the same large function."""
        return self._work.common is not None

    def replace(self, worker: WorkerProcess) -> None:
        """Another worker comes where one has gone."""
        if not worker.alive and not worker.replaced:
            worker.replaced = True
            self._start_worker(worker.options)

    def await_drain(self, manager: ManagerProcess) -> None:
        """When a manager has drained, it leaves, and another one starts."""
        if manager.alive and not manager.finished:
            self.world.later(0.2, self.await_drain, manager)
        elif manager.alive:
            manager.leave()
            self.world.later(self.world.skewed(0.05, 3.0), self.start_manager)

    # -- private ---------------------------------------------------------------------------------------------

    def _make_limits(self) -> Limits:
        world = self.world
        longest = 30.0 if self._large else 8.0
        limits = Limits(
            session_grace_seconds=world.skewed(2.0, longest), drain_seconds=world.skewed(1.0, 30.0),
            worker_grace_seconds=world.skewed(0.3, 6.0), argument_grace_seconds=world.skewed(0.3, 5.0),
        )  # fmt: skip
        if self._tight:
            limits.submit_bytes = int(world.skewed(2000, 300_000))
            limits.first_window_bytes = int(world.skewed(1000, 200_000))
            limits.relay_window_bytes = int(world.skewed(20_000, 1_000_000))
            limits.relay_link_bytes = int(world.skewed(limits.relay_window_bytes, 4_000_000))
            limits.value_window_bytes = int(world.skewed(limits.relay_window_bytes, 4_000_000))
            limits.blob_idle_bytes = int(world.skewed(1000, 1_000_000))
        return limits

    def _make_options(self) -> list[WorkerOptions]:
        world, rng = self.world, self.world.rng
        fails = 0.02 if world.chance(0.1) else 0.0
        options = []
        for number in range(0 if self._alone else rng.randint(1, 4 if self._large else 2)):
            arena = self._arena(20.0)
            one = WorkerOptions(f"worker{number}", rng.randint(1, 4), arena, memory_fails=fails)
            if number:
                one.python = rng.choice(PYTHONS)
                one.functions = [name for name in REGISTERED if world.chance(0.4)]
                one.only_registered = bool(one.functions) and world.chance(0.2)
            else:
                one.functions = list(REGISTERED) if world.chance(0.5) else []
            options.append(one)
        # Somebody can run everything that will be asked for.
        options.append(WorkerOptions("worker_all", rng.randint(1, 2), self._arena(3.0), PYTHONS[1], list(REGISTERED)))
        for one in options:
            if world.chance(0.1):
                seconds = world.skewed(2.0, 40.0)
                one.lifetime = Lifetime(seconds, seconds * world.between(0.0, 0.5))
        return options

    def _arena(self, most: float) -> int:
        """Room for at least one argument, mostly; in a narrow world for little more."""
        if self._narrow:
            return max(int(self._body_bytes * self.world.skewed(0.5, 4.0)), SEGMENT_BYTES_MIN)
        return int(self._body_bytes * self.world.skewed(1.3, most)) + 500_000

    def _start_worker(self, options: WorkerOptions) -> None:
        self.workers = [worker for worker in self.workers if worker.alive or not worker.replaced]
        if self._well:
            options.lifetime = None  # those that come now live for as long as they are needed
        worker = WorkerProcess(self.world, self.network, self.truth, options)
        self.workers.append(worker)

    def _start_client(self) -> None:
        world = self.world
        self._numbers += 1
        client = ClientProcess(
            world,
            self.network,
            self.truth,
            f"client{self._numbers}",
            result_bytes=int(world.skewed(1000, 200_000)) if self._tight else 256 << 20,
            first_window_bytes=int(world.skewed(1000, 200_000)) if self._tight else 1 << 20,
            jobs_idle_max=world.rng.choice((1, 2, 256)),
        )
        self.clients.append(client)
        self._work.begin(client)

    def _look(self) -> None:
        """The checks that are not worth making at every step."""
        if self.manager is not None and self.manager.alive:
            require_within_budget(self.manager.core, self._limits)
            require_suspects_alone(self.manager.core)
            require_no_ghosts(self.manager.core)
            if not self.manager.frozen:
                require_no_vigil(self.manager.core, self._limits, self.manager.clock)
        for worker in self.workers:
            if worker.alive and not worker.frozen:
                lived, woken = worker.clock - worker.began, worker.woken_at - worker.began
                require_lifetime_kept(worker.core, worker.name, lived, woken)
        if not self._calm:
            self.world.later(BUDGET_SECONDS, self._look)

    # -- the end ---------------------------------------------------------------------------------------------

    def _make_well(self) -> None:
        """No more faults: who is stopped goes on, who is gone is replaced, what hangs is given up."""
        world = self.world
        world.note("world", "=== all is well")
        world.troubled_at = world.now
        self._well = True
        self.network.mend()
        if self.manager is None or not self.manager.alive:
            self.start_manager()
        for process in [self.manager, *self.workers, *self.clients]:
            if process is not None and process.frozen:
                process.thaw()
        for worker in self.workers:
            self.replace(worker)
        self._give_up()

    def _give_up(self) -> None:
        """Cancel what would hang for ever."""
        clients = {client.name: client for client in self.clients}
        for name, record, index in self.truth.hanging():
            clients[name].cancel(record, index, kill=True)
        for worker in self.workers:
            self.replace(worker)
        if not self._calm:
            self.world.later(1.0, self._give_up)

    def _finished(self) -> bool:
        begun = self.world.now >= max(START_SECONDS, self._work.until + CALL_SECONDS)
        return begun and not self.truth.unfinished()

    def _drain(self) -> None:
        """All is done: let the last words pass, and look what is left."""
        world = self.world
        grace = self._limits.session_grace_seconds + self._limits.worker_grace_seconds
        if world.faults.get("a late HELLO"):  # it may have begun a session that nobody is heard of in
            grace += self._limits.silence_seconds
        world.run(world.now + SETTLE_SECONDS + grace)
        self._calm = True
        manager = self.manager
        assert manager is not None
        require_drained(manager.core, self._limits, len(manager.tokens))
        for worker in self.workers:
            if worker.alive:
                require_idle_worker(worker.core, worker.name, manager.core)
                if worker.answers or not worker.held.keys() <= worker.core._custody.keys:
                    raise Violation(f"I6: {worker.name} keeps memory of {[*worker.answers]} {[*worker.held]}")
                if worker.busy:
                    raise Violation(f"I7: {worker.busy} slots of {worker.name} are busy after the drain")
        for client in self.clients:
            if client.alive and not client.finished:
                require_idle_client(client.core, client.name, manager.core)

    def _say_goodbye(self) -> None:
        """Everybody leaves, and is forgotten."""
        world, manager = self.world, self.manager
        assert manager is not None
        for client in self.clients:
            if client.alive and not client.finished:
                client.shutdown()
        world.run(world.now + 10.0)
        self._require(all(client.finished or not client.alive for client in self.clients), "a client stays")
        ghosts = manager.core._sessions.clients.keys() & self.truth.wire.over.keys()
        self._require(not ghosts, f"sessions that ended with a GOODBYE: {[*ghosts]}")
        for worker in self.workers:
            if worker.alive:
                worker.drain(now=False)
        world.run(world.now + 20.0)
        codes = [worker.exit_code for worker in self.workers if worker.exit_code is not None]
        self._require(not any(worker.alive for worker in self.workers) and not any(codes), f"exit codes {codes}")
        manager.driver.feed(Drain())
        world.run(world.now + self._limits.session_grace_seconds + self._limits.drain_seconds + 10.0)
        self._require(manager.finished, "the manager's drain does not end")
        require_empty(manager.core)

    @staticmethod
    def _require(holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"left after the farewells: {what}")


def simulate(seed: int, *, trace: bool = False) -> Report:
    """Live through a seed.

    Raises
    ------
    AssertionError
        An invariant does not hold; the text ends with how to see it again.
    """
    star = SimStar(seed, trace=trace)
    try:
        return star.run()
    except Exception as error:
        tail = "\n".join(star.world.tail())
        if not isinstance(error, Violation):
            tail += "\n" + "".join(traceback.format_exception(error))
        text = f"seed {seed} after {star.world.steps} steps: {type(error).__name__}: {error}"
        raise Violation(f"{tail}\n{text}\nreplay: python -m tests.simulation --seed {seed} --trace") from error
