"""The manager's limits, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Limits:
    """Every limit of the manager, with its unit last."""

    heartbeat_seconds: float = 2.0
    silence_seconds: float = 8.0
    greeting_seconds: float = 10.0
    worker_grace_seconds: float = 0.75
    session_grace_seconds: float = 300.0
    argument_grace_seconds: float = 5.0
    """How long workers wait for the arguments of a client that lost its connection."""
    drain_seconds: float = 30.0
    notice_seconds: float = 5.0
    slots_said_seconds: float = 0.2
    submit_bytes: int = 96 << 20
    """What a session's unfinished tasks may come to: heads, and TASK_OVERHEAD_BYTES each. A million no-ops fit."""
    result_bytes: int = 1 << 30
    """Unread answers kept for a session at most, whatever its HELLO asks for."""
    settled_bytes: int = 256 << 20
    """Unread outcomes of a session that no worker had a part in: cancelled, refused, not known."""
    session_blob_bytes: int = 4 << 30
    """Blobs that a session's jobs pin, or that are on their way from it; BLOB_OVERHEAD_BYTES each come to that."""
    job_bytes: int = 256 << 20
    """Of a session's jobs: their texts, and JOB_OVERHEAD_BYTES each."""
    certificate_sessions_max: int = 4096
    """Sessions of one identity, connected or waited for."""
    worker_slots_max: int = 1 << 16
    worker_functions_max: int = 1024
    status_seconds: float = 0.1
    """How old a status may be that is told once more."""
    first_window_bytes: int = 1 << 20
    relay_window_bytes: int = 4 << 20
    relay_link_bytes: int = 64 << 20
    value_bytes: int = 256 << 20
    """What the shared values of a session cost beyond their bodies: heads, and BLOB_OVERHEAD_BYTES each."""
    value_window_bytes: int = 16 << 20
    """How far the fastest reader of a value may be ahead of the slowest, and its source of it."""
    blob_bytes: int = 1 << 30
    blob_idle_bytes: int = 64 << 20
    blobs_idle_max: int = 4096
    crash_tasks_max: int = 3
    story_bytes: int = 8 << 20
    """Of what happened to tasks, for whoever asks: 16,384 records."""

    def __post_init__(self) -> None:
        """Let several heartbeats fit into the longest silence, however short that was made."""
        self.heartbeat_seconds = min(self.heartbeat_seconds, self.silence_seconds / 4)
