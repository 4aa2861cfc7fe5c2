"""Machines of their own: network namespaces, joined by veth pairs; without root and `ip` the test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


class Network:
    """Namespaces in a row, each joined to the first by a veth pair of its own."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def machine(self, *addresses: str) -> list[str]:
        """Make a namespace with these addresses (for the first: its ends of the pairs), and return its command."""
        name = f"star{os.getpid()}-{len(self.names)}"
        self.ip("netns", "add", name)
        self.names.append(name)
        self.ip("-n", name, "link", "set", "lo", "up")
        for address in addresses:
            self.join(len(self.names) - 1, address)
        return ["ip", "netns", "exec", name]

    def join(self, number: int, address: str) -> None:
        """Join machine `number` to the first one: `address` is 10.x.y.2, and the first one's end is 10.x.y.1."""
        hub, name = self.names[0], self.names[number]
        end = f"v{address.split('.')[1]}x{address.split('.')[2]}"
        self.ip("-n", hub, "link", "add", f"h{end}", "type", "veth", "peer", "name", end, "netns", name)
        for namespace, link, place in ((hub, f"h{end}", address[:-1] + "1"), (name, end, address)):
            self.ip("-n", namespace, "address", "add", f"{place}/24", "dev", link)
            self.ip("-n", namespace, "link", "set", link, "up")

    def close(self) -> None:
        for name in self.names:
            self.ip("netns", "delete", name)

    @staticmethod
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def made_network(*addresses: str) -> Network:
    """Make a first machine, and one more for each address; skip the test where that cannot be."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip: run as root, install iproute2")
    network = Network()
    try:
        network.machine()
        for address in addresses:
            network.machine(address)
    except subprocess.CalledProcessError as error:
        network.close()
        pytest.skip(f"no network namespaces here (they need CAP_SYS_ADMIN): {error.stderr.strip()}")
    return network
