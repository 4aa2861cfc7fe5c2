"""The worker: one supervisor, one connection, many slots."""
