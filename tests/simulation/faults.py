"""What goes wrong, by the numbers of RELIABILITY.md: each fault at random moments, as often as a seed's mood says."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING

from starcore.manager.core import Drain
from starcore.messages import (
    Abort,
    Ack,
    Assign,
    Blob,
    Cancel,
    Confirm,
    Grant,
    Heartbeat,
    Hello,
    Outcome,
    Result,
    Retract,
    Retracted,
    StatusReply,
    StatusRequest,
    Submit,
    Welcome,
)

from .driver import Process
from .network import KIND, End, Spring
from .peers import WorkerProcess

if TYPE_CHECKING:
    from .star import SimStar


PARTITION_SECONDS_MAX = 120.0
SLOW_LATENCY_SECONDS_MAX = 0.2
LATE_SECONDS_MAX = 8.0
BUSY = frozenset({Submit, Assign, Result, Outcome, Confirm, Ack, Cancel, Retract, Retracted, Grant, Abort, Blob})
FIRST = frozenset({Hello, Welcome})
_ALL = [kind for record, kind in KIND.items() if record not in {Heartbeat, StatusRequest, StatusReply}]
"""The kinds of messages at which connections break."""
_BUSY = [kind for record, kind in KIND.items() if record in BUSY] + 2 * [KIND[Submit]]
_FIRST = [kind for record, kind in KIND.items() if record in FIRST]


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
            (self._swell, 0.3),
            (self._kill_worker, 1.0),
            (self._freeze, 1.5),
            (self._late, 0.7),
            (self._lose_answer, 1.2),
            (self._half_open, 1.0),
            (self._partition, 0.5),
            (self._storm, 0.5),
            (self._slow, 1.0),
            (self._unread, 0.7),
            (self._resend, 1.0),
            (self._kill_manager, 0.6),
            (self._drain_manager, 0.2),
            (self._drain_worker, 0.4),
            (self._client_goes, 0.4),
            *star.faults_of_its_own(),
        ]
        # A seed's mood: some faults often, some never.
        self._table = [(fault, weight * rng.choice((0.0, 1.0, 1.0, 3.0))) for fault, weight in table]
        self._pause = self._world.skewed(0.2, 4.0)
        if star.common_function and rng.random() < 0.3:
            self._world.later(0.05, self._client_goes, 100)
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
        rng = self._world.rng
        if self._world.chance(0.15):
            self._star.network.first_traps = [(rng.choice(_FIRST), rng.choice(tuple(Spring)))]
            return
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            kinds = _BUSY if self._world.chance(0.6) else _ALL
            connection = rng.choice(standing)
            connection.trap = rng.choice(kinds), rng.choice(tuple(Spring))
            connection.spared = rng.choice((0, 0, 1, 2))

    def _late(self) -> None:
        """Somebody dials anew, and gives that up as well; what it said there comes long after its third connection."""
        standing = [one for one in self._star.network.connections if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            name = connection.dialer.driver.process.name
            self._world.fault("a late HELLO", name)
            self._star.network.late[name] = self._world.between(1.0, LATE_SECONDS_MAX)
            connection.cut()

    def _lose_answer(self) -> None:
        """A worker goes while a client that stands still, or is cut off, is about to ask for its answer, or has a part.

        What asks for the earlier answer then comes after the next one was announced, and what came of it is no part
        of that.
        """
        manager = self._star.manager
        if manager is None or not manager.alive:
            return
        unread = [each for one in manager.core._sessions.clients.values() for each in one.unread.values()]
        found = [
            (each.flow.begin > 0, each.pieces[0][0].job.client.name, each.leased.worker.name)
            for each in unread
            if each.leased is not None and each.flow is not None and not each.flow.forwarded
        ]
        if not found:
            return
        _, client, worker = max(found, key=itemgetter(0))
        self._world.fault("lose an answer", worker)
        for process in self._star.clients:
            if process.name == client and process.alive and not process.frozen:
                process.freeze()
                self._world.later(self._world.between(0.5, 6.0), self._thaw, process)
                for connection in self._star.network.of(process) if self._world.chance(0.5) else ():
                    connection.cut()
        for victim in self._workers():
            if victim.name == worker and not victim.frozen:
                victim.drain(now=True)
                victim.drain(now=True)  # somebody is impatient
                self._world.later(self._world.skewed(0.1, 2.0), self._star.replace, victim)

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
        workers = [worker for worker in self._workers() if worker.core._shelf or worker.busy]
        standing = [one for worker in workers for one in self._star.network.of(worker) if not one.dead]
        if standing:
            connection = self._world.rng.choice(standing)
            if self._world.chance(0.5):
                connection.trap, connection.spared = (KIND[Confirm], Spring.BEFORE), 0
                return
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

    def _swell(self) -> None:
        """What its tasks left behind in a slot is found to be too much; another task may have begun there meanwhile."""
        workers = [worker for worker in self._workers() if any(not slot.busy for slot in worker.slots.values())]
        if workers:
            worker = self._world.rng.choice(workers)
            self._world.fault("a swollen slot", worker.name)
            self._world.swollen += 1
            idle = [slot for slot in worker.slots.values() if not slot.busy]
            worker.post(worker.swollen, self._world.rng.choice(idle))

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
            worker = self._world.rng.choice([worker for worker in workers if worker.busy] or workers)
            self._world.fault("drain a worker", worker.name)
            worker.drain(now=self._world.chance(0.3))
            for connection in self._star.network.of(worker) if self._world.chance(0.6) else ():
                self._world.later(self._world.skewed(0.005, 0.2), connection.cut)
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

    def _client_goes(self, looks: int = 60) -> None:
        """F19: a client is killed and never comes back, or it leaves with work outstanding: at best in mid-function."""
        if self._world.now >= self._until:
            return
        clients = [client for client in self._star.clients if client.alive and not client.finished]
        if looks and len(clients) == 1 and self._star.common_function:
            self._world.later(0.02, self._client_goes, looks - 1)
        elif len(clients) > 1:
            sending = [client for client in clients if self._sends_function(client.name)]
            if looks and not sending and self._star.common_function:
                self._world.later(0.02, self._client_goes, looks - 1)
                return
            client = self._world.rng.choice(sending or clients)
            self._world.fault("a client goes", client.name)
            if self._world.chance(0.5):
                client.die()
            else:
                client.shutdown(abandon=True)

    def _sends_function(self, name: str) -> bool:
        manager = self._star.manager
        sessions = manager.core._sessions.clients.values() if manager is not None else ()
        return any(session.blobs and session.name == name for session in sessions)
