"""The worker: one supervisor, one connection, many slots."""

from __future__ import annotations
