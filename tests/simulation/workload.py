"""What clients ask for: bursts, streamed arguments and answers, trouble of every kind, cancels, questions."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from starcore.messages import HEAD_BYTES_MAX, FunctionKind

from .callers import Calls, ClientProcess
from .work import ANSWER_HEAD_BYTES_MIN, BASES, Kind, Spec, Treasure
from .world import World

REGISTERED = ("physics:energy", "physics:force")
PYTHONS = ("3.11", "3.12")


class Workload:
    """The people behind a world's clients.

    Parameters
    ----------
    world : World
        Whose chance decides.
    body_bytes : int
        The longest body.
    burst : int
        The most tasks that are asked for at once.
    pythons : tuple of str
        What functions are made with, the usual one first.
    seconds : float
        Over how long a time they ask.
    """

    def __init__(self, world: World, *, body_bytes: int, burst: int, pythons: tuple[str, ...], seconds: float) -> None:
        self.world = world
        self._body_bytes = body_bytes
        self._burst_max = burst
        self._pythons = pythons
        self._seconds = seconds
        self._serials = count(1)
        self._functions = count(1)
        self._shipped: list[Calls] = []
        """Functions that another client may have as well."""
        self.until = 0.0
        """When the last of what is planned will have been asked for."""
        self.common: Calls | None = None
        """A large function that most clients begin with, at about the same time."""
        if world.chance(0.25):
            size = int(world.skewed(100_000, 400_000))
            self.common = Calls(FunctionKind.SHIPPED, "common", blob_bytes=size, python=pythons[0])

    def begin(self, client: ClientProcess) -> None:
        """Plan everything that this client will ask for."""
        world, rng = self.world, self.world.rng
        functions = [self._function() for _ in range(rng.randint(1, 4))]
        if self.common is not None and world.chance(0.8):
            functions.append(replace(self.common, open={}, needs=()))
            self._plan(world.now + 0.3 * rng.random(), client, functions[-1])
        if world.chance(0.4):
            self._share(client, functions)
        for _ in range(rng.randint(2, 7)):
            self._plan(world.now + self._seconds * rng.random() ** 2, client, rng.choice(functions))
        for _ in range(rng.randint(0, 6)):
            world.at(world.now + self._seconds * rng.random(), self._cancel, client)
        if world.chance(0.5):
            world.at(world.now + self._seconds * rng.random(), self._ask, client)

    def _plan(self, when: float, client: ClientProcess, record: Calls) -> None:
        self.until = max(self.until, when)
        self.world.at(when, self._burst, client, record)

    # -- functions -------------------------------------------------------------------------------------------

    def _function(self) -> Calls:
        world, rng = self.world, self.world.rng
        record = Calls(FunctionKind.SHIPPED, f"function{next(self._functions)}", python=self._pythons[0])
        shared = rng.choice(self._shipped) if self._shipped and world.chance(0.3) else None
        if world.chance(0.2):
            record.kind, record.function = FunctionKind.REGISTERED, rng.choice(("", *REGISTERED))
        elif shared is not None:
            record.function, record.blob_bytes = shared.function, shared.blob_bytes
        elif world.chance(0.3):
            record.blob_bytes = int(world.skewed(HEAD_BYTES_MAX + 1, 400_000))
        else:
            record.blob_bytes = int(world.skewed(50, HEAD_BYTES_MAX))
        if record.kind is FunctionKind.SHIPPED:
            self._shipped.append(record)
        if world.chance(0.25):
            record.python = rng.choice(self._pythons)
        if world.chance(0.4):
            record.retries = rng.randint(1, 3)
        if world.chance(0.3):
            record.timeout_seconds = world.skewed(0.02, 1.0)
        if world.chance(0.3):
            record.priority = rng.randint(-2, 2)
        return record

    def _share(self, client: ClientProcess, functions: list[Calls]) -> None:
        """Put some values, give them to some functions, and let them go again."""
        world, rng = self.world, self.world.rng
        for _ in range(rng.randint(1, 3)):
            size = 0 if world.chance(0.1) else int(world.skewed(1000, self._body_bytes))
            client.put(Treasure(rng.randbytes(32), rng.randrange(BASES), size))
        for function in functions:
            if world.chance(0.7):
                count = rng.randint(1, len(client.treasures))
                function.needs = tuple(rng.sample(client.treasures, count))
        for treasure in list(client.treasures):
            world.at(world.now + self._seconds * (0.3 + rng.random()), self._release, client, treasure)

    @staticmethod
    def _release(client: ClientProcess, treasure: Treasure) -> None:
        if client.alive and not client.finished:
            client.let_go(treasure)

    # -- what happens ----------------------------------------------------------------------------------------

    def _burst(self, client: ClientProcess, record: Calls) -> None:
        if not client.alive or client.finished:
            return
        world, rng = self.world, self.world.rng
        streamed = world.chance(0.4)
        tasks = int(world.skewed(1, 8) if streamed else world.skewed(1, self._burst_max))
        pace = world.skewed(20e-6, 0.3)
        if world.chance(0.08):  # long ones: a drain, an absence, a lifetime may well end before they do
            tasks, pace = min(tasks, 6), world.between(0.3, 2.0)
        troubled = world.chance(0.4)
        specs = []
        for _ in range(tasks):
            spec = self._spec(pace, streamed)
            if troubled and world.chance(0.15):
                spec = self._trouble(spec, record)
            specs.append(spec)
        padding = 0
        if world.chance(0.1):
            padding = 8 * rng.randint(0, (HEAD_BYTES_MAX - 200) // 8)
            specs = specs[:4]
        parts = rng.randint(2, 6) if world.chance(0.4) else 1  # a loop of calls, each of which goes at once
        step = -(-len(specs) // parts)
        if world.chance(0.06) and world.now < self._seconds:
            client.stumble(rng.randrange(4))
        delay = 0.0
        for start in range(0, len(specs), step):
            world.later(delay, client.submit, record, specs[start : start + step], padding)
            self.until = max(self.until, world.now + delay)
            delay += world.skewed(0.0005, 0.1)

    def _spec(self, pace: float, streamed: bool) -> Spec:
        world, rng = self.world, self.world.rng
        argument = answer = 0
        if streamed and world.chance(0.7):
            argument = int(world.skewed(1000, self._body_bytes))
        if streamed and world.chance(0.6):
            answer = int(world.skewed(1000, self._body_bytes))
        seconds = pace * (0.5 + rng.random())
        return Spec(
            next(self._serials), Kind.ANSWER, max(1, int(seconds * 1e6)), argument, rng.randrange(BASES),
            max(int(world.skewed(1, 2000)), ANSWER_HEAD_BYTES_MIN if answer else 1), answer,
        )  # fmt: skip

    def _trouble(self, spec: Spec, record: Calls) -> Spec:
        kinds = [Kind.RAISE, Kind.FLAKY, Kind.FLAKY, Kind.CRASH, Kind.FRAIL, Kind.UNSENDABLE, Kind.HANG]
        kinds += [Kind.DOOM, Kind.SWELL]
        kind = self.world.rng.choice(kinds)
        fields = (spec.serial, kind, spec.micros, spec.argument, spec.base, 16, 0, 0.5)
        return Spec(*fields)

    def _cancel(self, client: ClientProcess) -> None:
        """Cancel a part of what is outstanding, with or without killing it."""
        if not client.alive or client.finished:
            return
        world = self.world
        kill, share = world.chance(0.6), world.skewed(0.02, 1.0)
        for record in list(client.records.values()):
            for index, spec in list(record.open.items()):
                endless = spec.kind is Kind.HANG and not record.timeout_seconds
                if world.chance(share) and (kill or not endless):
                    client.cancel(record, index, kill=kill)

    @staticmethod
    def _ask(client: ClientProcess) -> None:
        if client.alive and not client.finished:
            client.ask()
