"""A worker in a network of its own, joined by a virtual cable: what no proxy can do to a wire.

Everything happens in two namespaces that the test makes, so this machine's own network is not touched::

    namespace HUB: manager, client  ── 10.213.0.1 ══ veth ══ 10.213.0.2, later 10.213.0.3 ──  namespace FAR: worker

Packets are dropped both ways without a word: by nft or iptables where there is one, by blackhole routes, by a cable
that is pulled out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from starcore import certificates
from tests.integration.processes import Place, Program

HUB, FAR, MOVED = "10.213.0.1", "10.213.0.2", "10.213.0.3"
SILENCE_SECONDS = 2.0
SECONDS = 60.0

CALLER = """
import sys, time
from starcore import Client
def square(number):
    time.sleep(0.05)
    return number * number
client = Client(sys.argv[1], join=sys.argv[2])
print("up", flush=True)
for line in sys.stdin:
    futures = [client.submit(square, number) for number in range(int(line))]
    assert [future.result(60) for future in futures] == [n * n for n in range(int(line))]
    print("verified", line.strip(), flush=True)
client.shutdown()
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


class Cable:
    """Two namespaces and what joins them."""

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        self.hub, self.far = f"sc-hub-{mark}", f"sc-far-{mark}"
        self.ends = {self.hub: f"sch{mark}", self.far: f"scf{mark}"}

    def lay(self) -> None:
        for name in (self.hub, self.far):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        near, far = self.ends[self.hub], self.ends[self.far]
        # Both ends are made inside: no interface of this machine ever appears.
        ip("-n", self.hub, "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.far)
        for name, address in ((self.hub, HUB), (self.far, FAR)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", self.ends[name])
            ip("-n", name, "link", "set", self.ends[name], "up")

    def remove(self) -> None:
        for name in (self.hub, self.far):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)

    def inside(self, name: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", name, *command]

    # -- three ways to lose every packet, both ways, and not a word ------------------------------------------

    def drop(self) -> Callable[[], None]:
        """Have the far side's firewall drop all; returns what undoes it."""
        if shutil.which("iptables"):
            for chain in ("INPUT", "OUTPUT"):
                self.far_does("iptables", "-A", chain, "-j", "DROP")
            return lambda: self.far_does("iptables", "-F")
        self.far_does("nft", "add table inet lost")
        for hook in ("input", "output"):
            rule = f"add chain inet lost {hook} {{ type filter hook {hook} priority 0; policy drop; }}"
            self.far_does("nft", rule)
        return lambda: self.far_does("nft", "delete table inet lost")

    def far_does(self, *command: str) -> None:
        """Run a command on the far side."""
        subprocess.run(self.inside(self.far, *command), check=True, capture_output=True, timeout=20)

    def blackhole(self) -> Callable[[], None]:
        """Let both kernels throw away what is for the other."""
        holes = ((self.hub, f"{FAR}/32"), (self.far, f"{HUB}/32"))
        for name, address in holes:
            ip("-n", name, "route", "add", "blackhole", address)

        def undo() -> None:
            for name, address in holes:
                ip("-n", name, "route", "del", "blackhole", address)

        return undo

    def unplug(self) -> Callable[[], None]:
        """Pull the cable out."""
        ip("-n", self.far, "link", "set", self.ends[self.far], "down")
        return lambda: ip("-n", self.far, "link", "set", self.ends[self.far], "up")

    def move(self) -> None:
        """The far side gets another address, and the old one is gone: no FIN can come from there."""
        ip("-n", self.far, "address", "add", f"{MOVED}/24", "dev", self.ends[self.far])
        ip("-n", self.far, "address", "del", f"{FAR}/24", "dev", self.ends[self.far])
        with contextlib.suppress(subprocess.CalledProcessError):  # a secondary address goes with its first one
            ip("-n", self.far, "address", "add", f"{MOVED}/24", "dev", self.ends[self.far])


class Split:
    """A star over the cable."""

    def __init__(self, directory: Path, cable: Cable) -> None:
        self.cable = cable
        self.place = Place(directory)
        star, _ = certificates.create_star(directory / "star", host=HUB)
        command = [sys.executable, "-m", "starcore.manager", "--star", str(star.directory), "--host", HUB]
        command += ["--port", "8443", "--client-port", "8444", "--silence-seconds", str(SILENCE_SECONDS)]
        self.manager: Program = self.place.start(*cable.inside(cable.hub, *command))
        self.manager.wait_for("listening")
        self.far = self.start_worker(cable.far, star, "far")
        self.near = self.start_worker(cable.hub, star, "near")
        log = directory / "caller.log"
        self._errors = log.open("wb")
        caller = cable.inside(cable.hub, sys.executable, "-c", CALLER, f"{HUB}:8444", str(star.client_join))
        self.caller = subprocess.Popen(
            caller,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self.place.environment,
        )
        self.hears("up")

    def start_worker(self, where: str, star: certificates.Star, name: str) -> Program:
        command = [sys.executable, "-m", "starcore.worker", "--join", str(star.worker_join), "--manager", f"{HUB}:8443"]
        command += ["--slots", "1", "--arena", "64M", "--name", name]
        worker: Program = self.place.start(*self.cable.inside(where, *command))
        worker.wait_for("connected")
        return worker

    def asks(self, tasks: int) -> None:
        assert self.caller.stdin is not None
        self.caller.stdin.write(f"{tasks}\n")
        self.caller.stdin.flush()

    def hears(self, text: str) -> None:
        assert self.caller.stdout is not None
        assert self.caller.stdout.readline().strip() == text, self.place.logs()

    def close(self) -> None:
        self.caller.kill()
        self.caller.communicate()
        self._errors.close()
        self.place.close()


def why_not() -> str:
    """Why this machine cannot do it, if it cannot."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "needs Linux and the command ip"
    if os.geteuid() != 0:
        return "needs root: network namespaces are made with ip netns"
    cable = Cable()
    try:
        cable.lay()
    except (OSError, subprocess.SubprocessError) as error:
        return f"no namespaces with a virtual cable here: {getattr(error, 'stderr', '') or error}"
    finally:
        cable.remove()
    return ""


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Split]:
    if reason := why_not():
        pytest.skip(reason)
    cable = Cable()
    made: Split | None = None
    try:
        cable.lay()
        made = Split(tmp_path, cable)
        yield made
        assert "Traceback" not in made.place.logs()
    finally:
        if made is not None:
            made.close()
        cable.remove()


@pytest.mark.parametrize("way", ["drop", "blackhole", "unplug"])
def test_worker_whose_packets_are_all_lost_is_replaced_and_welcome_again(split: Split, way: str) -> None:
    if way == "drop" and not (shutil.which("iptables") or shutil.which("nft")):
        pytest.skip("neither iptables nor nft is here: install iptables or nftables")
    split.asks(100)
    split.far.wait_for("connected")
    time.sleep(0.5)
    undo = getattr(split.cable, way)()
    begun = time.monotonic()
    split.hears("verified 100")
    assert time.monotonic() - begun < SILENCE_SECONDS + 20
    split.manager.wait_for("worker far left: .*", SILENCE_SECONDS + 10)
    undo()
    back = r"worker far \(.*\) (joined|came back)"
    split.manager.wait_for(rf"{back}[\s\S]*worker far left[\s\S]*{back}", 30)
    split.asks(20)
    split.hears("verified 20")


def test_worker_whose_address_changes_only_reconnects(split: Split) -> None:
    split.asks(100)
    time.sleep(0.5)
    split.cable.move()
    split.hears("verified 100")
    split.manager.wait_for(rf"worker far .*(joined|came back) from {MOVED}", 30)
    split.asks(20)
    split.hears("verified 20")
