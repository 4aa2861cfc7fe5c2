"""Print the trace hashes of seeds: ``python -m tests.simulation.hashes [--plain] FIRST COUNT``.

For interpreters without the extension, or with `--plain`, frames are made by the slow oracle of the framing tests in
its place; they are the same bytes, so the hash is the same.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from starcore.messages import FunctionKind, Role
from tests import reference_framing

ENUMS: dict[str, Any] = {"role": Role, "function kind": FunctionKind}


class RecordCodec:
    """The extension's codec of one message, in plain Python."""

    def __init__(self, kind: int, *_: Any, **__: Any) -> None:
        self._kind = kind

    def _row(self) -> Any:
        from starcore.codec import TABLE  # noqa: PLC0415 - it is being imported when this is made

        return next(row for row in TABLE if row[0] == self._kind)

    def encode(self, message: Any) -> bytes:
        """Return a record's frame."""
        return reference_framing.encode(self._row(), message)

    def decode(self, meta: Any, payload: Any) -> Any:
        """Return a frame's record."""
        row = self._row()
        record = reference_framing.decode(row, bytes(meta), bytes(payload))
        for name, type_ in row[2]:
            if type_ in ENUMS:
                setattr(record, name, ENUMS[type_](getattr(record, name)))
        return record


def stand_in() -> None:
    """Put the oracle in the extension's place."""
    module: Any = types.ModuleType("starcore._framing")
    module.RecordCodec = RecordCodec
    module.Segment = object  # a name that the board's module asks for; no memory is shared here
    sys.modules[module.__name__] = module


def main(arguments: list[str]) -> int:
    """Print a line a seed."""
    plain = arguments[0] == "--plain"
    first, count = map(int, arguments[plain:])
    if plain or importlib.util.find_spec("starcore._framing") is None:
        stand_in()
    from .star import simulate  # noqa: PLC0415 - not before it is settled who makes the frames

    for seed in range(first, first + count):
        print(seed, simulate(seed).hash, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
