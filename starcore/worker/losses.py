"""What a worker makes of a link that ended: the line for the log, or the end of its work. Pure.

A worker tries for ever, less and less often; only a refusal that time cannot heal (another protocol version,
the wrong role, a certificate that was never welcome) or `reconnect=False` ends it. How the link itself is watched
is told in `starcore/uplink.py`.
"""

from __future__ import annotations

from starcore.errors import Code
from starcore.events import Finished, Log
from starcore.uplink import LinkState, Loss, Uplink

BACKOFF_SECONDS_MAX = 2.0
"""So a worker is back within about that of its network's return, and a thousand within 10 s of their manager's."""
BACKOFF_SPREAD = (0.5, 1.0)
GREETING_SECONDS_MAX = 8.0
EXIT_CREDENTIALS = 3
EXIT_UNREACHABLE = 5
HOPELESS: dict[int, int] = {Code.VERSION: EXIT_UNREACHABLE, Code.ROLE: EXIT_CREDENTIALS}
"""Refusals that no patience heals, with the exit code of each."""


def uplink_of(session: bytes) -> Uplink:
    """Make the way to the manager, as patient as a worker is."""
    return Uplink(
        session,
        greeting_seconds=GREETING_SECONDS_MAX,
        backoff_max=lambda: BACKOFF_SECONDS_MAX,
        spread=BACKOFF_SPREAD,
        hopeless=HOPELESS,
    )


def judge(loss: Loss, uplink: Uplink, *, reconnect: bool) -> Finished | Log:
    """Give up, and say why, or say in the log what happened and dial again."""
    reason = loss.reason
    if loss.verdict is not None:
        return Finished(loss.verdict, f"the manager refuses this worker: {reason}")
    if loss.stage is LinkState.GREETING and not uplink.ever_up and "ALERT" in reason.upper():
        # In TLS 1.3 a refused certificate shows only now, as the reason why the link broke.
        return Finished(EXIT_CREDENTIALS, reason)
    if not reconnect:
        return Finished(EXIT_UNREACHABLE, f"no manager any more: {reason}" if loss.was_up else f"no manager: {reason}")
    text = f"no manager yet: {reason}; trying until there is one"
    if loss.was_up:
        text = f"lost the manager: {reason}; trying to reach it again"
    return Log("debug" if uplink.failures else "warning", text)
