"""`starcore status`: one look at a star, as text or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from starcore.errors import StarCoreError

_EPILOG = """\
examples:
  starcore status                                   the manager that runs on this machine
  starcore status --join client.join                another star
  starcore status --manager star.example.org:444 --join client.join --json

exit codes: 0 the star answered, 2 usage, 3 credentials, 5 the manager is not there or said no
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starcore status",
        description="Show the workers, slots and queues of a star.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manager", metavar="HOST[:PORT]", help="the manager's address for clients")
    parser.add_argument("--join", metavar="FILE", help="a client's join file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def render(status: dict[str, Any]) -> str:
    """Return the status as lines for people."""
    workers, clients, jobs = status.get("workers", []), status.get("clients", []), status.get("jobs", [])
    slots = sum(worker["slots"] for worker in workers)
    running = sum(worker["running"] for worker in workers)
    lines = [f"{len(workers)} workers, {slots} slots, {running} tasks on workers, {len(clients)} clients"]
    lines += _table("WORKER", workers, ("name", "address", "python", "slots", "running"))
    lines += _table("CLIENT", clients, ("name", "address", "queued", "leased"))
    lines += _table("JOB", jobs, ("function", "client", "queued", "leased", "done", "failed", "mean_seconds"))
    return "\n".join(lines)


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    if not rows:
        return []
    names = [column for column in columns if any(column in row for row in rows)]
    cells = [[title, *(name.replace("_", " ").upper() for name in names[1:])]]
    cells += [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["", *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Ask a star how it is, and return the exit code."""
    options = _parser().parse_args(argv)
    from starcore.client.api import Client  # noqa: PLC0415 - numpy is not needed for --help

    try:
        with Client(options.manager, join=options.join) as client:
            status = client.status()
    except StarCoreError as error:
        print(f"starcore status: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps(status, indent=2) if options.json else render(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
