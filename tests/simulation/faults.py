"""What goes wrong, by the numbers of RELIABILITY.md: each fault at random moments, as often as a seed's mood says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starcore import codec
from starcore.manager.core import Drain
from starcore.messages import Heartbeat, StatusReply, StatusRequest

from .driver import Process
from .network import End, Spring
from .peers import WorkerProcess

if TYPE_CHECKING:
    from .star import SimStar


PARTITION_SECONDS_MAX = 120.0
SLOW_LATENCY_SECONDS_MAX = 0.2
KINDS = [kind for kind, record, _, _ in codec.TABLE if record not in {Heartbeat, StatusRequest, StatusReply}]
"""The kinds of messages at which connections break."""


class Faults:
    """Plans the faults of one seed.

    Parameters
    ----------
    star : SimStar
        What they happen to.
    seconds : float
        How long.
    """

    def __init__(self, star: SimStar, seconds: float) -> None:
        self._star = star
        self._world = star.world
        self._until = seconds
        rng = self._world.rng
        table: list[tuple[Callable[[], None], float]] = [
            (self._cut, 3.0),
            (self._cut_flow, 2.0),
            (self._trap, 6.0),
            (self._kill_slot, 1.5),
            (self._kill_worker, 1.0),
            (self._freeze, 1.5),
            (self._half_open, 1.0),
            (self._partition, 0.5),
            (self._storm, 0.5),
            (self._slow, 1.0),
            (self._unread, 0.7),
            (self._resend, 1.0),
            (self._kill_manager, 0.4),
            (self._drain_manager, 0.2),
            (self._drain_worker, 0.4),
            (self._client_goes, 0.4),
        ]
        # A seed's mood: some faults often, some never.
        self._table = [(fault, weight * rng.choice((0.0, 1.0, 1.0, 3.0))) for fault, weight in table]
        self._pause = self._world.skewed(0.2, 4.0)
        if any(weight for _, weight in self._table) and rng.random() < 0.97:
            self._world.later(self._pause * rng.random(), self._next)

    def _next(self) -> None:
        world = self._world
        if world.now >= self._until:
            return
        faults, weights = zip(*self._table, strict=True)
        world.rng.choices(faults, weights)[0]()
        world.later(world.rng.expovariate(1.0 / self._pause), self._next)

    # -- victims ---------------------------------------------------------------------------------------------

    def _workers(self) -> list[WorkerProcess]:
        return [worker for worker in self._star.workers if worker.alive]

    def _people(self) -> list[Process]:
        clients = [client for client in self._star.clients if client.alive and not client.finished]
        return [*self._workers(), *clients]

    # -- faults ----------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        """A connection breaks; each end finds out in its own time."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            self._world.fault("cut", connection.dialer.driver.process.name)
            connection.cut()

    def _cut_flow(self) -> None:
        """A connection breaks on which something is on its way."""
        flowing = [one for one in self._star.network.connections if not one.dead and one.flowing]
        if flowing:
            connection = self._world.rng.choice(flowing)
            self._world.fault("cut in mid-flow", connection.dialer.driver.process.name)
            connection.cut()

    def _trap(self) -> None:
        """A connection breaks just before or after the next message of some kind: the rare moments, made frequent."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            rng = self._world.rng
            rng.choice(standing).trap = rng.choice(KINDS), rng.choice(tuple(Spring))

    def _half_open(self) -> None:
        """F6: nothing passes any more, and nobody is told."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            self._world.fault("half-open", connection.dialer.driver.process.name)
            connection.vanish()

    def _storm(self) -> None:
        """F8: everybody loses the connection at once."""
        self._world.fault("storm", "everybody")
        for connection in self._star.network.connections:
            connection.cut()

    def _partition(self) -> None:
        """F7: half the workers, or any others, cannot reach the manager for a while."""
        people = self._people()
        if not people or self._star.network.apart:
            return
        apart = self._world.rng.sample(people, (len(people) + 1) // 2)
        self._world.fault("partition", " ".join(process.name for process in apart))
        self._star.network.separate([process.name for process in apart])
        self._world.later(self._world.skewed(0.2, PARTITION_SECONDS_MAX), self._heal)

    def _heal(self) -> None:
        self._world.troubled_at = self._world.now
        self._star.network.heal()

    def _slow(self) -> None:
        """F9, F22: a line of a megabit, or a reader that takes its time."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            self._world.fault("slow", connection.dialer.driver.process.name)
            connection.bandwidth = 125e3
            connection.latency = min(4 * connection.latency, SLOW_LATENCY_SECONDS_MAX)

    def _unread(self) -> None:
        """F9: somebody stops reading for a while, though it goes on writing."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            end = self._world.rng.choice(self._world.rng.choice(standing).ends)
            self._world.fault("stop reading", end.other)
            end.out.leave_unread()
            self._world.later(self._world.skewed(0.1, 12.0), self._read_on, end)

    def _read_on(self, end: End) -> None:
        self._world.troubled_at = self._world.now
        end.out.read_on()

    def _resend(self) -> None:
        """F11: a worker loses its connection just when its answers are not confirmed, so it tells them again."""
        workers = [worker for worker in self._workers() if worker.core._shelf]
        standing = [one for worker in workers for one in self._star.network.of(worker) if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            self._world.fault("cut before CONFIRM", connection.dialer.driver.process.name)
            connection.cut()

    def _freeze(self) -> None:
        """F5: SIGSTOP, and SIGCONT a while later; F12: a machine sleeps, and its clock with it."""
        victims: list[Process] = [*self._people(), *self._people()]
        if self._star.manager is not None:
            victims.append(self._star.manager)
        victims = [process for process in victims if process.alive and not process.frozen]
        if victims:
            process = self._world.rng.choice(victims)
            asleep = self._world.chance(0.3)
            self._world.fault("sleep" if asleep else "freeze", process.name)
            process.freeze(asleep=asleep)
            self._world.later(self._world.skewed(0.05, 15.0), self._thaw, process)

    @staticmethod
    def _thaw(process: Process) -> None:
        if process.frozen:
            process.thaw()

    def _kill_slot(self) -> None:
        """F1: kill -9 of a slot."""
        slots = [slot for worker in self._workers() for slot in worker.slots.values() if slot.alive]
        if slots:
            self._world.fault("kill a slot", "")
            self._world.deaths += 1
            self._world.rng.choice(slots).die("signal SIGKILL")

    def _kill_worker(self) -> None:
        """F2: a worker is gone, with its processes or its whole machine; mostly another one comes."""
        workers = self._workers()
        if workers:
            worker = self._world.rng.choice(workers)
            power = self._world.chance(0.3)
            self._world.fault("power loss" if power else "kill a worker", worker.name)
            worker.die(power=power)
            if self._world.chance(0.8):
                self._world.later(self._world.skewed(0.1, 10.0), self._star.replace, worker)

    def _drain_worker(self) -> None:
        """SIGTERM to a worker."""
        workers = [worker for worker in self._workers() if not worker.frozen]
        if len(workers) > 1:
            worker = self._world.rng.choice(workers)
            self._world.fault("drain a worker", worker.name)
            worker.drain(now=self._world.chance(0.3))
            self._world.later(self._world.skewed(0.5, 10.0), self._star.replace, worker)

    def _kill_manager(self) -> None:
        """F3: the manager is gone with everything it knew; another one starts."""
        manager = self._star.manager
        if manager is not None and manager.alive:
            self._world.fault("kill the manager", manager.name)
            manager.die()
            self._world.later(self._world.skewed(0.05, 5.0), self._star.start_manager)

    def _drain_manager(self) -> None:
        """SIGTERM to the manager; it stops when it has drained, and another one starts."""
        manager = self._star.manager
        if manager is not None and manager.alive and not manager.frozen:
            self._world.fault("drain the manager", manager.name)
            manager.driver.feed(Drain())
            self._star.await_drain(manager)

    def _client_goes(self) -> None:
        """F19: a client is killed and never comes back, or it leaves with work outstanding."""
        clients = [client for client in self._star.clients if client.alive and not client.finished]
        if len(clients) > 1:
            client = self._world.rng.choice(clients)
            self._world.fault("a client goes", client.name)
            if self._world.chance(0.5):
                client.die()
            else:
                client.shutdown(abandon=True)
