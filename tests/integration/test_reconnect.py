"""The client that comes back: links that are cut, frozen, moved and forgotten, between real processes.

The client is a script that is told what to do, line by line, so it can be stopped and moved to another machine (a
network namespace); where a test only needs a wire, that is the proxy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from starcore import Client
from starcore.errors import CredentialsError

from .networks import Network, made_network
from .processes import Manager, Place, Program
from .proxy import Proxy
from .stars import TriedStar, tried_star, until

SECONDS = 60.0
BACK_SECONDS_MAX = 3.0
"""Two seconds are promised; this machine may be busy."""

CALLER = """
import logging, os, sys, time
import numpy as np
import starcore
logging.basicConfig(level="INFO")

def slow(notes, seconds, value):
    with open(os.path.join(notes, str(value)), "a") as note:
        note.write("ran ")
    time.sleep(seconds)
    return value

client = starcore.Client(sys.argv[1], join=sys.argv[2])
notes = sys.argv[3]
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Caller:
    """A client in a process of its own, which carries out one line after the other."""

    def __init__(self, place: Place, address: str, join: Path, machine: Sequence[str] = ()) -> None:
        self.notes = place.directory / "notes"
        self.notes.mkdir()
        self._log = (place.directory / "caller.log").open("w+")
        self.process = subprocess.Popen(
            [*machine, sys.executable, "-c", CALLER, address, str(join), str(self.notes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=place.environment,
            text=True,
        )
        assert self._said() == "ready", self.log

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def do(self, line: str) -> str:
        """Have it carry out a line; return what it printed meanwhile."""
        self.begin(line)
        return self.finish()

    def begin(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        said = []
        while (line := self._said()) != "done":
            assert self.process.poll() is None, self.log
            said.append(line)
        return "\n".join(said)

    def runs(self, value: int) -> int:
        """How often a slow task ran."""
        return (self.notes / str(value)).read_text().count("ran")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


# -- over one wire -------------------------------------------------------------------------------------------


@pytest.fixture
def star(tmp_path: Path) -> Iterator[TriedStar]:
    with tried_star(tmp_path, workers=1, slots=2, manager_options=("--silence-seconds", "3")) as star:
        yield star


@pytest.fixture
def caller(star: TriedStar, place: Place) -> Iterator[Callable[[str], Caller]]:
    made: list[Caller] = []

    def start(address: str) -> Caller:
        made.append(Caller(place, address, star.join_file("client")))
        return made[-1]

    yield start
    for each in made:
        with contextlib.suppress(Exception):
            each.do("client.shutdown()")
        each.close()


def test_client_that_was_frozen_gets_what_finished_meanwhile_once(
    star: TriedStar, caller: Callable[[str], Caller]
) -> None:
    frozen = caller(star.address)
    frozen.do("done = []; futures = [client.submit(slow, notes, 0.3, n) for n in range(6)]")
    frozen.do("array = client.submit_array(lambda a: a * 2, np.arange(3_000_000.0))")
    frozen.do("[f.add_done_callback(done.append) for f in futures]")
    os.kill(frozen.process.pid, signal.SIGSTOP)
    until(lambda: "client client left" in star.log(), "the manager's patience", 10)
    until(lambda: sum(1 for _ in frozen.notes.iterdir()) == 6, "the tasks")
    os.kill(frozen.process.pid, signal.SIGCONT)
    back = time.monotonic()
    assert frozen.do("print([f.result(20) for f in futures])") == "[0, 1, 2, 3, 4, 5]"
    assert time.monotonic() - back < BACK_SECONDS_MAX
    assert frozen.do("print(array.result(20)[-1])") == "5999998.0"
    assert frozen.do("print(len(done))") == "6"
    assert [frozen.runs(n) for n in range(6)] == [1] * 6
    assert "came back" in star.log()


def test_idle_client_that_lost_its_link_is_back_and_its_next_call_works_at_once(
    star: TriedStar, caller: Callable[[str], Caller]
) -> None:
    with Proxy(star.client_port) as proxy:
        idle = caller(proxy.address)
        assert idle.do("print(client.submit(pow, 2, 3).result(20))") == "8"
        proxy.closed = True
        proxy.cut()
        time.sleep(3.0)
        proxy.closed = False
        began = time.monotonic()
        assert idle.do("print(client.submit(pow, 2, 4).result(20))") == "16"
        assert time.monotonic() - began < 1.0
        proxy.cut()
        until(lambda: star.log().count("came back") == 2, "that it comes back by itself", 10)
        idle.do("client.shutdown()")


def test_renewed_join_file_counts_from_the_next_dial_on(places: Callable[..., Place]) -> None:
    """The session goes on; a file that is broken at the time changes nothing."""
    place = places("here")
    manager: Manager = place.manager("--session-grace-seconds", "60")
    worker = place.worker("--join", str(place.star / "worker.join"), "--manager", manager.worker_address)
    join = place.issue("client", "laptop")
    first = join.read_text()
    with Proxy(manager.client_port) as proxy:
        client = Caller(place, proxy.address, join)
        try:
            client.do("future = client.submit(slow, notes, 1.0, 7)")
            until((client.notes / "7").exists, "the task")
            join.unlink()
            renewed = place.issue("client", "laptop", "--renew").read_text()
            assert renewed != first
            join.write_text("{")
            proxy.cut()
            manager.wait_for("client laptop came back")
            join.write_text(renewed)
            assert client.do("print(future.result(20))") == "7"
            before = client.log
            proxy.cut()
            manager.wait_for(r"client laptop came back(.*\n)*.*client laptop came back")
            assert client.do("print(client.submit(slow, notes, 0.0, 8).result(20))") == "8"
            assert client.runs(7) == 1
            assert before.count("dialing as before") == client.log.count("dialing as before") >= 1
        finally:
            client.close()
    assert worker.running


def test_slow_manager_does_not_make_clients_and_workers_give_up(star: TriedStar) -> None:
    """The twelfth of the regression tests, its first half: a manager that answers nobody for a while."""
    made: list[Any] = []
    os.kill(star.pids["manager"], signal.SIGSTOP)
    try:
        dialing = threading.Thread(
            target=lambda: made.append(Client(star.address, join=star.join_file("client"), connect_seconds=30))
        )
        dialing.start()
        late = star.start_worker("--name", "late")
        time.sleep(5.0)
        assert not made
    finally:
        os.kill(star.pids["manager"], signal.SIGCONT)
    dialing.join(20)
    with made[0] as client:
        assert client.submit(pow, 2, 5).result(SECONDS) == 32
        until(lambda: {w["name"] for w in client.status()["workers"]} >= {"late"}, "the late worker")
        assert late in star.worker_pids


def test_wrong_key_fails_at_once(star: TriedStar, tmp_path: Path) -> None:
    """The twelfth of the regression tests, its second half."""
    directory = tmp_path / "other"
    directory.mkdir()
    with tried_star(directory, workers=0) as other:
        began = time.monotonic()
        with pytest.raises(CredentialsError, match="another star"):
            Client(star.address, join=other.join_file("client"), connect_seconds=60)
        assert time.monotonic() - began < BACK_SECONDS_MAX


def test_dial_into_a_wire_that_swallows_everything_does_not_hold_up_the_next_one(star: TriedStar) -> None:
    """A router or a tunnel that says yes for a manager that it does not reach: TLS hangs, and not TCP."""
    with Proxy(star.client_port) as proxy, Client(proxy.address, join=star.join_file("client")) as client:
        future = client.submit(lambda: time.sleep(4.0) or 5)
        until(lambda: any(worker["running"] for worker in client.status()["workers"]), "the task")
        proxy.delay = 60.0
        proxy.cut()
        until(lambda: proxy.accepted >= 3, "dials that hang", 10)
        proxy.delay = 0.0
        back = time.monotonic()
        client.status()
        assert time.monotonic() - back < BACK_SECONDS_MAX
        assert future.result(SECONDS) == 5


def test_dial_of_a_worker_that_is_swallowed_does_not_hold_up_the_next_one(tmp_path: Path) -> None:
    with tried_star(tmp_path, workers=0) as star, Proxy(star.port) as proxy, star.client(wait=False) as client:
        star.start_worker("--manager", proxy.address, "--slots", "1")
        until(lambda: client.slots == 1, "the worker", 20)
        proxy.delay = 60.0
        proxy.cut()
        until(lambda: proxy.accepted >= 3, "dials that hang", 10)
        proxy.delay = 0.0
        back = time.monotonic()
        assert client.submit(abs, -1).result(SECONDS) == 1
        seconds = time.monotonic() - back
        sys.stderr.write(f"\n[worker, a dial that hung: back after {seconds:.2f} s]\n")
        assert seconds < BACK_SECONDS_MAX


# -- between machines ----------------------------------------------------------------------------------------

RESOLVER = """
import socket, struct, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("10.213.1.1", 53))
while True:
    question, asker = server.recvfrom(512)
    end = question.index(0, 12) + 5
    kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
    count = int(kind == 1)
    answer = question[:2] + struct.pack(">5H", 0x8180, 1, count, 0, 0) + question[12:end]
    if count:
        answer += struct.pack(">3HIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(sys.argv[1])
    server.sendto(answer, asker)
"""


class Machines:
    """A manager with a worker on one machine, and a client on another; the link between them is ours to break."""

    def __init__(self, network: Network, place: Place) -> None:
        self.network, self.place = network, place
        self.hub, self.laptop = network.names
        self.at_hub = ["ip", "netns", "exec", self.hub]
        self.manager: Manager = place.start(
            *self.at_hub, sys.executable, "-m", "starcore.manager", "--port", "8443", "--client-port", "8444",
            kind=Manager,
        ).listening()  # fmt: skip
        worker = ["-m", "starcore.worker", "--join", str(place.star / "worker.join"), "--manager", "127.0.0.1:8443"]
        place.start(*self.at_hub, sys.executable, *worker, "--slots", "2", "--arena", "64M").wait_for("connected")
        self.callers: list[Caller] = []

    def caller(self, host: str = "10.213.1.1", resolver: str = "") -> Caller:
        """A client on the other machine; with a name server of its own where one is given."""
        machine = ["ip", "netns", "exec", self.laptop]
        if resolver:
            conf = self.place.directory / "resolv.conf"
            conf.write_text(f"nameserver {resolver}\n")
            machine += ["sh", "-c", f'mount --bind {conf} /etc/resolv.conf && exec "$@"', "sh"]
        self.callers.append(Caller(self.place, f"{host}:8444", self.place.star / "client.join", machine))
        return self.callers[-1]

    def far_worker(self) -> Program:
        """A worker on the other machine, for a function that nobody else has."""
        join = str(self.place.star / "worker.join")
        worker = ["-m", "starcore.worker", "--join", join, "--manager", "10.213.1.1:8443"]
        started: Program = self.place.start(
            *["ip", "netns", "exec", self.laptop], sys.executable, *worker, "--slots", "1", "--arena", "64M",
            "--only-registered", "--function", "posix:getppid",
        )  # fmt: skip
        started.wait_for("connected")
        return started

    def caller_beside_the_manager(self) -> Caller:
        """A client that no broken link cuts off."""
        self.callers.append(Caller(self.place, "127.0.0.1:8444", self.place.star / "client.join", self.at_hub))
        return self.callers[-1]

    def resolver(self, address: str) -> Any:
        """Start a name server, for which every name has this address."""
        server = self.place.start(*self.at_hub, sys.executable, "-c", RESOLVER, address)
        probe = "ss -lun 2>/dev/null | grep -q :53 || grep -q :0035 /proc/net/udp"
        until(lambda: subprocess.run([*self.at_hub, "sh", "-c", probe], check=False).returncode == 0, "a name server")
        return server

    def link(self, state: str, *, at: str) -> float:
        """Set the link up or down, at one of its ends; return when."""
        end = "hv213x1" if at == self.hub else "v213x1"
        self.network.ip("-n", at, "link", "set", end, state)
        return time.monotonic()

    def readdress(self, old: str, new: str) -> float:
        """Give the client's machine another address; return when."""
        self.network.ip("-n", self.laptop, "address", "del", f"{old}/24", "dev", "v213x1")
        self.network.ip("-n", self.laptop, "address", "add", f"{new}/24", "dev", "v213x1")
        return time.monotonic()


@pytest.fixture
def machines(places: Callable[..., Place]) -> Iterator[Machines]:
    network = made_network("10.213.1.2")
    place = places("machines")
    with contextlib.closing(network):
        try:
            made = Machines(network, place)
            yield made
            for each in made.callers:
                each.do("client.shutdown()")
        finally:
            for each in made.callers:
                each.close()
            place.close()


@pytest.mark.parametrize("outage", [1.0, 4.0, 9.0, 16.0])
@pytest.mark.parametrize("where", ["swallowed on the way", "unplugged here"])
def test_client_is_back_soon_after_its_link(machines: Machines, outage: float, where: str) -> None:
    at = machines.hub if where == "swallowed on the way" else machines.laptop
    client = machines.caller()
    client.do("futures = [client.submit(slow, notes, 0.5, n) for n in range(4)]")
    until((client.notes / "0").exists, "the first task")
    machines.link("down", at=at)
    time.sleep(outage)
    client.begin("print([f.result(60) for f in futures])")
    back = machines.link("up", at=at)
    assert client.finish() == "[0, 1, 2, 3]"
    seconds = time.monotonic() - back
    assert seconds < BACK_SECONDS_MAX, client.log
    assert [client.runs(n) for n in range(4)] == [1] * 4
    sys.stderr.write(f"\n[{where}, {outage:g} s: back after {seconds:.2f} s]\n")


@pytest.mark.parametrize("outage", [1.0, 4.0, 9.0, 16.0])
@pytest.mark.parametrize("where", ["swallowed on the way", "unplugged here"])
def test_worker_is_back_soon_after_its_link(machines: Machines, outage: float, where: str) -> None:
    at = machines.hub if where == "swallowed on the way" else machines.laptop
    worker = machines.far_worker()
    client = machines.caller_beside_the_manager()
    client.do("client.submit('posix:getppid').result(20)")
    machines.link("down", at=at)
    time.sleep(outage)
    client.begin("print(client.submit('posix:getppid').result(60))")
    back = machines.link("up", at=at)
    assert client.finish() == str(worker.pid), "a slot of the same worker"
    seconds = time.monotonic() - back
    sys.stderr.write(f"\n[worker, {where}, {outage:g} s: back after {seconds:.2f} s]\n")
    assert seconds < BACK_SECONDS_MAX, worker.log


def test_worker_with_another_address_does_not_wait_for_a_silence(machines: Machines) -> None:
    worker = machines.far_worker()
    client = machines.caller_beside_the_manager()
    client.do("client.submit('posix:getppid').result(20)")
    back = machines.readdress("10.213.1.2", "10.213.1.3")
    worker.wait_for("this machine has another address now")
    client.do("client.submit('posix:getppid').result(60)")
    seconds = time.monotonic() - back
    sys.stderr.write(f"\n[worker, another address: back after {seconds:.2f} s]\n")
    assert seconds < BACK_SECONDS_MAX, worker.log


def test_client_with_another_address_does_not_wait_for_a_silence(machines: Machines) -> None:
    client = machines.caller()
    client.do("future = client.submit(slow, notes, 0.5, 1)")
    back = machines.readdress("10.213.1.2", "10.213.1.3")
    assert client.do("print(future.result(60))") == "1"
    seconds = time.monotonic() - back
    assert seconds < BACK_SECONDS_MAX, client.log
    machines.manager.wait_for(r"client client came back from 10\.213\.1\.3")
    assert client.runs(1) == 1
    assert "another address" in client.log
    sys.stderr.write(f"\n[another address: back after {seconds:.2f} s]\n")


def test_name_server_that_is_behind_the_link_holds_nobody_up(machines: Machines) -> None:
    resolver = machines.resolver("10.213.1.1")
    client = machines.caller("star.test", resolver="10.213.1.1")
    client.do("future = client.submit(slow, notes, 1.0, 1)")
    until((client.notes / "1").exists, "the task")
    machines.link("down", at=machines.hub)
    time.sleep(9.0)
    client.begin("print(future.result(60))")
    back = machines.link("up", at=machines.hub)
    assert client.finish() == "1"
    assert time.monotonic() - back < BACK_SECONDS_MAX, client.log
    resolver.kill()
    client.do("future = client.submit(slow, notes, 1.0, 2)")
    machines.link("down", at=machines.laptop)
    time.sleep(7.0)
    back = machines.link("up", at=machines.laptop)
    assert client.do("print(future.result(60))") == "2", "the address that is known will do"
    assert time.monotonic() - back < BACK_SECONDS_MAX, client.log


def test_name_that_comes_back_with_another_address_is_followed(machines: Machines) -> None:
    resolver = machines.resolver("10.213.1.1")
    client = machines.caller("star.test", resolver="10.213.1.1")
    assert client.do("print(client.submit(slow, notes, 0.0, 1).result(20))") == "1"
    resolver.kill()
    machines.network.ip("-n", machines.hub, "address", "add", "10.213.1.9/24", "dev", "hv213x1")
    machines.manager.kill()
    moved: Manager = machines.place.start(
        *machines.at_hub, sys.executable, "-m", "starcore.manager", "--host", "10.213.1.9", "--port", "8443",
        "--client-port", "8444", kind=Manager,
    ).listening()  # fmt: skip
    worker = ["-m", "starcore.worker", "--join", str(machines.place.star / "worker.join")]
    machines.place.start(
        *machines.at_hub, sys.executable, *worker, "--manager", "10.213.1.9:8443", "--slots", "1", "--arena", "64M"
    ).wait_for("connected")
    client.do("future = client.submit(slow, notes, 0.0, 2)")
    time.sleep(3.0)
    assert client.do("print(future.done())") == "False"
    machines.resolver("10.213.1.9")
    back = time.monotonic()
    assert client.do("print(future.result(60))") == "2"
    assert time.monotonic() - back < BACK_SECONDS_MAX, client.log
    assert moved.running
