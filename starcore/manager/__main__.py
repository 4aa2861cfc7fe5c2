"""`python -m starcore.manager`: options, credentials, the runtime file; then `server.py` runs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from starcore import logs, settings
from starcore.errors import SetupError, StarCoreError
from starcore.manager.core import Limits
from starcore.manager.server import Ports, ServerOptions, run

_EPILOG = """\
examples:
  python -m starcore.manager --port 443 --client-port 444
  python -m starcore.manager --port 8443 --client-port 8444        no rights needed
  python -m starcore.manager --host star.example.org               the name that new join files will carry
  python -m starcore.manager --host ::1 --json-logs

At its first start it makes the star's own CA and two join files. SIGTERM (or Ctrl-C) drains: running tasks are
finished, new ones refused; a second one stops at once.

exit codes: 0 drained, 1 a fault of ours, 2 usage, 3 credentials, 4 a port in use or without rights, 130 interrupted
"""


def _parser() -> argparse.ArgumentParser:
    defaults = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m starcore.manager",
        description="Run the manager of a star: workers dial one port, clients the other, both with certificates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=settings.WORKER_PORT, help="for workers (default: %(default)s)")
    parser.add_argument(
        "--client-port", type=_port, default=settings.CLIENT_PORT, help="for clients (default: %(default)s)"
    )
    parser.add_argument("--host", help="listen on this address only (default: on all, IPv4 and IPv6)")
    parser.add_argument("--star", type=Path, metavar="DIR", help="the star's directory (default: the user's own star)")
    parser.add_argument(
        "--silence-seconds",
        type=_seconds,
        default=defaults.silence_seconds,
        metavar="S",
        help="a peer silent for so long is taken for dead (default: %(default)s)",
    )
    parser.add_argument(
        "--session-grace-seconds",
        type=_seconds,
        default=defaults.session_grace_seconds,
        metavar="S",
        help="a client may be away for so long before its tasks are dropped (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=defaults.drain_seconds,
        metavar="S",
        help="how long SIGTERM waits for running tasks (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="default: %(default)s")
    parser.add_argument("--json-logs", action="store_true", help="one JSON object a line")
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ephemeral", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a manager, and return the exit code."""
    options = _parser().parse_args(argv)
    logs.setup(options.log_level, options.json_logs)
    try:
        _serve(options)
    except StarCoreError as error:
        print(f"starcore manager: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(options: argparse.Namespace) -> None:
    if sys.platform == "win32":
        raise SetupError("the manager needs Linux or macOS; on Windows the client works")
    identity, created, star = settings.manager_identity(
        options.star, host=options.host or "", worker_port=options.port, client_port=options.client_port
    )
    records: list[settings.RuntimeFile] = []

    def listening(ports: Ports) -> None:
        if options.ready_fd is not None:
            with os.fdopen(options.ready_fd, "w") as pipe:
                pipe.write(json.dumps({"port": ports.worker, "client_port": ports.client}) + "\n")
        if not options.ephemeral:
            record = settings.RuntimeFile.of_this_process(ports.host or "", ports.worker, ports.client, star=star)
            record.write()
            records.append(record)
        if created and star is not None and not options.ephemeral:
            _greet(star, ports)

    def orphaned() -> None:
        if options.ephemeral and options.star is not None:
            shutil.rmtree(options.star, ignore_errors=True)

    limits = replace(
        Limits(),
        silence_seconds=options.silence_seconds,
        session_grace_seconds=options.session_grace_seconds,
        drain_seconds=options.drain_seconds,
    )
    server_options = ServerOptions(
        host=options.host,
        port=options.port,
        client_port=options.client_port,
        limits=limits,
        lifeline=options.lifeline,
        on_listening=listening,
        on_orphaned=orphaned,
    )
    try:
        run(identity, server_options)
    finally:
        for record in records:
            record.remove()


def _greet(star: settings.Star, ports: Ports) -> None:
    """Say, at the first start, where the join files are and what to do next."""
    print(f"A new star was made in {star.directory}. On this machine, workers and clients of yours need nothing more.")
    print(f"Elsewhere: copy {star.worker_join} and run 'python -m starcore.worker --join worker.join',")
    print(f"           copy {star.client_join} and set STARCORE_JOIN=client.join before 'import starcore'.", flush=True)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535 are")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a time: give seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
