"""What people are shown: the rows of a status, and in one sentence why a job waits. Pure."""

from __future__ import annotations

from typing import Any

from starcore.manager.sessions import Link
from starcore.manager.state import Capability, Client, Job, Worker, python_capability
from starcore.messages import FunctionKind
from starcore.texts import NAME_CHARS_MAX, TASK_SESSION_DIGITS, plain

VERSIONS_MAX = 8
"""How many Python versions one notice lists."""


def worker_row(worker: Worker, link: Link | None, now: float) -> dict[str, Any]:
    """Describe a worker; `link` is its connection, where it has one."""
    return {
        "name": worker.name,
        "host": worker.host,
        "address": worker.address,
        "python": worker.python,
        "connected": worker.link != 0,
        "draining": worker.draining,
        "slots": worker.slots,
        "running": worker.running,
        "leased": worker.unfinished,
        "arena_bytes": worker.arena_bytes,
        "arena_used_bytes": worker.arena_used_bytes,
        "heard_seconds_ago": round(now - (link.heard_at if link is not None else worker.left_at), 3),
    }


def client_row(client: Client) -> dict[str, Any]:
    """Describe a client."""
    return {
        "name": client.name,
        "session": client.session.hex()[:TASK_SESSION_DIGITS],
        "address": client.address,
        "connected": client.link != 0,
        "queued": client.queued,
        "leased": client.leased,
        "unread": len(client.unread),
        "unread_bytes": client.unread_bytes,
        "used_seconds": client.used_seconds,
    }


def job_row(job: Job) -> dict[str, Any]:
    """Describe a job."""
    return {
        "job": job.number,
        "client": job.client.name,
        "function": plain(job.message.function, NAME_CHARS_MAX),
        "queued": job.queued,
        "leased": job.leased,
        "done": job.done,
        "failed": job.failed,
        "cancelled": job.cancelled,
        "mean_seconds": job.mean_seconds,
    }


def missing(capability: Capability, workers: list[Worker]) -> str:
    """Say in one sentence why nobody takes a job."""
    kind, name = capability[0], plain(capability[1], NAME_CHARS_MAX)
    if not workers:
        return "no worker is connected"
    if any(worker.draining and capability in worker.capabilities for worker in workers):
        return "the workers that could run it are about to leave, and take nothing more"
    if kind == FunctionKind.SHIPPED:
        takers = [worker for worker in workers if python_capability(worker.python) in worker.capabilities]
        if not takers:
            return "no connected worker runs other functions than those that are registered there"
        versions = sorted({worker.python or "?" for worker in takers})
        there = ", ".join(versions[:VERSIONS_MAX])
        return f"it was made with Python {name}, and no connected worker runs such code (they have Python {there})"
    if not name:
        return "no connected worker has a registered function"
    return f"no connected worker has the registered function {name}"
