"""`starcore status`: one look at a star, as text or as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from starcore import settings
from starcore.errors import StarCoreError, UnreachableError
from starcore.messages import Role
from starcore.options import Parser, say
from starcore.texts import NAME_CHARS_MAX, counted, plain

_EPILOG = """\
examples:
  starcore status                                   the manager that runs on this machine
  starcore status --join client.join                another star
  starcore status --manager star.example.org:444 --join client.join --json

exit codes: 0 the star answered, 2 usage or no manager configured, 3 credentials, 5 the manager is not there or said no
"""


def _parser() -> Parser:
    parser = Parser(prog="starcore status", description="Show the workers, slots and queues of a star.", epilog=_EPILOG)
    parser.add_argument("--manager", metavar="HOST[:PORT]", help="the manager's address for clients")
    parser.add_argument("--join", metavar="FILE", help="a client's join file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def render(status: dict[str, Any]) -> str:
    """Return the status as lines for people."""
    workers, clients, jobs = status.get("workers", []), status.get("clients", []), status.get("jobs", [])
    slots = sum(worker["slots"] for worker in workers if _here(worker))
    running = sum(worker["running"] for worker in workers)
    lines = [
        f"{_present(workers, 'worker')}, {counted(slots, 'slot')}, {counted(running, 'task')} on workers, "
        f"{_present(clients, 'client')}"
    ]
    if "memory_bytes" in status:
        lines += [f"manager: {status['memory_used_bytes'] >> 20} of {status['memory_bytes'] >> 20} MiB"]
    lines += table("WORKER", _stated(workers), ("name", "address", "python", "slots", "running", "state"))
    if not any(map(_here, workers)):
        lines += ["no worker is connected: nothing runs until one is (python -m starcore.worker)"]
    lines += table("CLIENT", _stated(clients), ("name", "address", "queued", "leased", "state"))
    lines += table("JOB", jobs, ("function", "client", "queued", "leased", "done", "failed", "mean_seconds"))
    return "\n".join(lines + _journal(status.get("journal")))


def without(status: dict[str, Any], session: str) -> dict[str, Any]:
    """Leave out the client of this session: whoever only asks is not what the star works for."""
    rows = status.get("clients", [])
    return {**status, "clients": [row for row in rows if row.get("session") != session]}


def _here(peer: dict[str, Any]) -> bool:
    """Whether it has a connection; whoever lost it is kept for a while, since it may come back."""
    return bool(peer.get("connected", True))


def _present(peers: list[dict[str, Any]], what: str) -> str:
    here = sum(map(_here, peers))
    away = len(peers) - here
    return counted(here, what) + (f" and {away} away" if away else "")


def _stated(peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each whether it is there, where one is not: else the column would say nothing."""
    if all(map(_here, peers)):
        return peers
    return [{**peer, "state": "connected" if _here(peer) else "away"} for peer in peers]


def _journal(journal: dict[str, Any] | None) -> list[str]:
    if journal is None:
        return []
    told = f"journal: {journal['bytes']} bytes, {journal['records']} records, last fsync {journal['fsync_ms']:.3g} ms"
    return ["", told, *([journal["failure"]] if journal["failure"] else [])]


def table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    """Return rows as an empty line and a table; its first column has this title. Nothing where there are none."""
    if not rows:
        return []
    names = [column for column in columns if any(column in row for row in rows)]
    cells = [[title, *(name.replace("_", " ").upper() for name in names[1:])]]
    cells += [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells)
    return ["", *("  ".join(line).rstrip() for line in padded)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else plain(str(value), NAME_CHARS_MAX)


def main(argv: list[str] | None = None) -> int:
    """Ask a star how it is, and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        from starcore.client.api import Client  # noqa: PLC0415 - numpy is not needed for --help

        settings.dialer(Role.CLIENT, join=options.join, address=options.manager)  # a status starts no star of its own
        with Client(options.manager, join=options.join) as client:
            status = without(client.status(), client._live().name)
    except TimeoutError:
        print("starcore status: the manager is there, but does not answer: look at its log", file=sys.stderr)
        return UnreachableError.exit_code
    except StarCoreError as error:
        print(f"starcore status: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    say(json.dumps(status, indent=2) if options.json else render(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
