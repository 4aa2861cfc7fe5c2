"""A way to a manager, for rooms of the client's core that are tested without the core."""

from __future__ import annotations

from starcore.messages import PROTOCOL_VERSION, Hello, Role, Welcome
from starcore.uplink import Uplink

LINK = 7


def uplink() -> Uplink:
    """One that is up."""
    made = Uplink(bytes(16), greeting_seconds=10.0, backoff_max=lambda: 1.0, spread=(1.0, 1.0), hopeless={})
    made.dial(0.0)
    made.opened(LINK, Hello(PROTOCOL_VERSION, Role.CLIENT, bytes(16)), 0.0)
    made.welcomed(Welcome(PROTOCOL_VERSION, 1, False))
    return made
