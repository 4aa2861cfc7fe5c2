"""`python -m starcore.manager`: options, credentials, the runtime file; then `server.py` runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from starcore import logs, settings
from starcore.capacity import memory_limit_bytes
from starcore.certificates import CLIENT_PORT, WORKER_PORT, Star
from starcore.errors import CredentialsError, SetupError, StarCoreError
from starcore.manager.bodies import SUFFIX
from starcore.manager.budget import MEMORY_BYTES_MIN, Budget, least_bytes
from starcore.manager.core import Limits
from starcore.manager.server import Ports, ServerOptions, adopt, listen, run
from starcore.manager.spool import Spool, free_bytes
from starcore.manager.stored import StoreLimits
from starcore.options import Parser, directory, listening_port, say, seconds, size, wait_at_gate

SHARDS_MAX = 64

_EPILOG = """\
examples:
  python -m starcore.manager --port 443 --client-port 444
  python -m starcore.manager --port 8443 --client-port 8444        no rights needed
  python -m starcore.manager --host ::1 --json-logs                one address only; one JSON object a line
  python -m starcore.manager --shards 8                            connections spread over eight processes
  python -m starcore.manager --spool /var/spool/starcore           detached jobs may be larger than memory
  python -m starcore.manager --journal /var/lib/starcore           tasks outlive the manager
  python -m starcore.certs init --host star.example.org            the address that join files carry, if not found

At its first start it makes the star's own CA and two join files. SIGTERM (or Ctrl-C) drains: running tasks are
finished, new ones refused; a second one stops at once.

exit codes: 0 drained, 1 a fault of ours, 2 usage, 3 credentials, 4 a port in use or without rights, 130 interrupted
"""


def _parser() -> Parser:
    defaults = Limits()
    parser = Parser(
        prog="python -m starcore.manager",
        description="Run the manager of a star: workers dial one port, clients the other, both with certificates.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--port", type=listening_port, default=WORKER_PORT, help="for workers (default: %(default)s)")
    add("--client-port", type=listening_port, default=CLIENT_PORT, help="for clients (default: %(default)s)")
    add("--host", help="listen on this address only (default: on all, IPv4 and IPv6)")
    add("--star", type=Path, metavar="DIR", help="the star's directory (default: the user's own star)")
    add(
        "--heartbeat-seconds",
        type=seconds,
        default=defaults.heartbeat_seconds,
        metavar="S",
        help="how often a peer with nothing to say shows that it lives; at most a quarter of the silence "
        "(default: %(default)s)",
    )
    add(
        "--silence-seconds",
        type=seconds,
        default=defaults.silence_seconds,
        metavar="S",
        help="a peer silent for so long is taken for dead (default: %(default)s)",
    )
    add(
        "--greeting-seconds",
        type=seconds,
        default=defaults.greeting_seconds,
        metavar="S",
        help="a new peer may take so long for TLS, and again for its first message (default: %(default)s)",
    )
    add(
        "--session-grace-seconds",
        type=seconds,
        default=defaults.session_grace_seconds,
        metavar="S",
        help="a client may be away for so long before its tasks are dropped (default: %(default)s)",
    )
    add(
        "--drain-seconds",
        type=seconds,
        default=defaults.drain_seconds,
        metavar="S",
        help="how long SIGTERM waits for running tasks (default: %(default)s)",
    )
    add(
        "--memory",
        type=_memory,
        default=0,
        metavar="SIZE",
        help="its memory, with its shards', stays below it, as 4G: peers are slowed, not refused (default: a quarter "
        "of all)",
    )
    add(
        "--shards",
        type=_shards,
        default=1,
        metavar="N",
        help="processes that hold the connections, for a machine of many cores; 1: no process but this "
        "(default: %(default)s)",
    )
    add(
        "--journal",
        type=directory,
        metavar="DIR",
        help="keep on disk, in this directory, what was accepted: after a crash it goes on; 'none': do not (default: "
        "$STARCORE_JOURNAL, else what `certs init --journal` wrote down, else no journal)",
    )
    store = StoreLimits()
    add(
        "--stored-memory",
        type=size,
        default=store.memory_bytes,
        metavar="SIZE",
        help="what detached jobs may take of memory, arguments and results, as 4G (default: 1G)",
    )
    add(
        "--spool",
        type=directory,
        metavar="DIR",
        help="a directory for what they take beyond that; with --journal, "
        "for all of it (default: none; the journal's own)",
    )
    add(
        "--spool-size",
        type=size,
        default=0,
        metavar="SIZE",
        help="at most so much (default: half of what is free; in a journal's own directory what --stored-memory says)",
    )
    add(
        "--keep-seconds",
        type=seconds,
        default=store.keep_seconds,
        metavar="S",
        help="a detached job goes so long after its last change, if nobody fetches it (default: %(default)s, a week)",
    )
    add("--log-level", choices=logs.LEVELS, default="info", help="default: %(default)s")
    add("--json-logs", action="store_true", help="one JSON object a line")
    add("--lifeline", type=int, help=argparse.SUPPRESS)
    add("--ready-fd", type=int, help=argparse.SUPPRESS)
    add("--gate", type=int, help=argparse.SUPPRESS)
    add("--listen-fds", help=argparse.SUPPRESS)
    add("--ephemeral", action="store_true", help=argparse.SUPPRESS)
    return parser


def _shards(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= SHARDS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of shards: 1 to {SHARDS_MAX} are")
    return int(text)


def _memory(text: str) -> int:
    memory_bytes = size(text)
    if memory_bytes < MEMORY_BYTES_MIN:
        raise argparse.ArgumentTypeError(f"{text!r} is too little: a manager needs {MEMORY_BYTES_MIN >> 20}M at least")
    return memory_bytes


def _budget(memory_bytes: int, shards: int) -> Budget:
    return Budget.of(memory_bytes or max(least_bytes(shards), memory_limit_bytes() // 4), shards)


def main(argv: list[str] | None = None) -> int:
    """Run a manager, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.port == options.client_port != 0:
        parser.error(f"--port and --client-port are both {options.port}: the port tells workers and clients apart")
    if options.memory and options.memory < (least := least_bytes(options.shards)):
        parser.error(f"--memory is too little for {options.shards} shards: they need {least >> 20}M at least")
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
    if options.shards > 1 and sys.platform != "linux":
        raise SetupError("more than one shard needs Linux: they share memory that other systems do not have")
    if not options.ephemeral:
        _try_runtime_dir()
    if options.listen_fds:
        ports = adopt(options.host, *map(int, options.listen_fds.split(",")))
    else:
        ports = listen(options.host, options.port, options.client_port)
    wait_at_gate(options.gate)
    identity, created, star = settings.manager_identity(
        options.star, host=options.host or "", worker_port=options.port, client_port=options.client_port
    )
    records: list[settings.RuntimeFile] = []

    def listening() -> None:
        if options.ready_fd is not None:
            # Whoever waited may be gone, and then the lifeline's end is this manager's.
            with contextlib.suppress(BrokenPipeError), os.fdopen(options.ready_fd, "w") as pipe:
                pipe.write(json.dumps({"port": ports.worker, "client_port": ports.client}) + "\n")
        if options.ephemeral:
            return
        record = settings.RuntimeFile.of_this_process(ports.host or "", ports.worker, ports.client, star=star)
        record.write()
        records.append(record)
        if star is not None:
            _greet(star) if created else _compare(star, ports)

    def orphaned() -> None:
        logs.setup("error", options.json_logs)  # whoever read the lines is gone
        if options.ephemeral and options.star is not None:
            shutil.rmtree(options.star, ignore_errors=True)

    limits = replace(
        Limits(),
        heartbeat_seconds=options.heartbeat_seconds,
        silence_seconds=options.silence_seconds,
        greeting_seconds=options.greeting_seconds,
        session_grace_seconds=options.session_grace_seconds,
        drain_seconds=options.drain_seconds,
    )
    journal, origin = settings.journal_dir(options.journal, star, ephemeral=options.ephemeral)
    if journal is not None:
        logging.getLogger("starcore.manager").info("the journal is in %s (says %s)", journal, origin)
    spool = Spool(options.spool) if options.spool is not None and journal is None else None
    room = _spool_room(options.spool, options.spool_size, journal)
    server_options = ServerOptions(
        ports=ports,
        limits=limits,
        budget=_budget(options.memory, options.shards),
        store=StoreLimits(options.stored_memory, room, options.keep_seconds),
        spool=spool,
        bodies=options.spool,
        lifeline=options.lifeline,
        on_listening=listening,
        on_orphaned=orphaned,
        shards=options.shards,
        journal=journal,
        log_options=("--log-level", options.log_level, *(["--json-logs"] if options.json_logs else [])),
    )
    try:
        run(identity, server_options)
    finally:
        for record in records:
            record.remove()


def _try_runtime_dir() -> None:
    """See that the record of this manager can be written, before anything is said or made."""
    try:
        directory = settings.runtime_dir()
        with tempfile.TemporaryFile(dir=directory):
            pass
    except CredentialsError as error:
        raise SetupError(f"{error}; set STARCORE_RUNTIME_DIR to another directory") from error
    except OSError as error:
        said = f"{directory} cannot be written to: {error.strerror}"
        raise SetupError(f"{said}; set STARCORE_RUNTIME_DIR to another directory") from error


def _spool_room(directory: Path | None, size: int, journal: Path | None) -> int:
    """Return how many bytes may lie in the spool, or where none is named in the journal's directory; 0: in neither."""
    if directory is None or size:
        return size if directory is not None or journal is not None else 0
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sum(path.stat().st_size for path in directory.glob(f"*{SUFFIX}"))  # an earlier manager's, with a journal
        return free_bytes(directory) + kept
    except OSError as error:
        raise SetupError(f"the spool {directory} cannot be used: {error.strerror}") from error


def _greet(star: Star) -> None:
    """Say, at the first start, where the join files are and what to do next."""
    say(f"A new star was made in {star.directory}. On this machine, workers and clients of yours need nothing more.")
    say(f"Elsewhere: copy {star.worker_join} and run 'python -m starcore.worker --join worker.join',")
    say(f"           copy {star.client_join} and set STARCORE_JOIN=client.join before 'import starcore'.")


def _compare(star: Star, ports: Ports) -> None:
    """Say when the star's join files name other ports than these; nobody on this machine minds."""
    if (star.worker_port, star.client_port) != (ports.worker, ports.client):
        logging.getLogger("starcore.manager").info(
            "join files of this star say ports %d and %d: elsewhere add --manager HOST:%d for workers and HOST:%d for "
            "clients, or change what new ones say: python -m starcore.certs init --port %d --client-port %d%s",
            *(star.worker_port, star.client_port, ports.worker, ports.client, ports.worker, ports.client),
            settings.star_flag(star.directory),
        )


if __name__ == "__main__":
    sys.exit(main())
