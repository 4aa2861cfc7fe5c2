"""`python -m starcore.worker`: options and the log; then `supervisor.py` runs."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
import time
from functools import partial
from pathlib import Path

from starcore import logs, settings
from starcore.errors import StarCoreError
from starcore.messages import Role
from starcore.options import Parser, port, seconds, size, wait_at_gate
from starcore.worker.departure import Lifetime
from starcore.worker.supervisor import WorkerOptions, run_worker

SLOTS_MAX = 1024
DRAIN_BEFORE_SECONDS = 60.0
DRAIN_BEFORE_SHARE = 0.1
END_VARIABLE = "SLURM_JOB_END_TIME"
"""Seconds since 1970, as Slurm says to its jobs."""

_EPILOG = """\
examples:
  python -m starcore.worker                                        the manager that runs on this machine
  python -m starcore.worker --join node7.join                      the manager that the join file names
  python -m starcore.worker --manager star.example.org:8443 --slots 4
  python -m starcore.worker --manager-ip 203.0.113.7 --port 443    certificates from STARCOMPUTE_* variables
  python -m starcore.worker --function mylab.fit:process --only-registered
  python -m starcore.worker --slots 4 --slot-memory 8G             a task that takes more fails, and says so
  python -m starcore.worker --lifetime 86000 --drain-before 600    for a machine that is taken away after a day

SIGTERM and SIGUSR1 drain, as does 'starcore drain': what runs is finished, the rest given back. A second SIGTERM, or
Ctrl-C, gives everything back and leaves within 2 s, a second Ctrl-C at once. In a Slurm job that says when it ends
(SLURM_JOB_END_TIME), that is this worker's lifetime. A manager that is not there is looked for again until it is,
and one that this user has not started yet on this machine is waited for. An HTTP proxy is taken from $HTTPS_PROXY and
$NO_PROXY, or from $STARCORE_PROXY.

exit codes: 0 drained or stopped, 1 a fault of ours, 2 usage or set-up, 3 credentials, 4 a text that is no address,
5 no manager (--no-reconnect)
"""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m starcore.worker",
        description="Run a worker: it dials the manager and runs tasks in slots, a process each.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--manager", metavar="HOST[:PORT]", help="where the manager is (default: the join file, $STARCORE_MANAGER)")
    add("--manager-ip", metavar="HOST", help="the same, as the first StarCompute had it")
    add("--port", type=port, help="the manager's port for workers")
    add("--join", type=Path, metavar="FILE", help="this worker's join file (default: $STARCORE_JOIN)")
    add("--slots", type=_slots, default=0, metavar="N", help="tasks at a time (default: the cores it may use)")
    add("--name", default="", help="what logs call this worker (default: host-pid)")
    add(
        "--function",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a function of this machine that clients may call by name; may be given several times",
    )
    add("--only-registered", action="store_true", help="take no code from clients, only the functions named here")
    add("--initializer", default="", metavar="MODULE:NAME", help="called once in each slot before its first task")
    arena, own = partial(size, least="1M"), partial(size, least="64M")
    add("--arena", type=arena, default=0, metavar="SIZE", help="memory for arrays, as 4G (default: a quarter of all)")
    add("--slot-memory", type=own, default=0, metavar="SIZE", help="what a slot may have beside that (default: all)")
    add("--lifetime", type=seconds, metavar="S", help="leave after so long (default: at the end of the Slurm job)")
    add(
        "--drain-before",
        type=seconds,
        metavar="S",
        help=f"take nothing more so long before that (default: {DRAIN_BEFORE_SECONDS:g}, at most a tenth of it)",
    )
    add("--no-reconnect", action="store_true", help="leave with exit code 5 when there is no manager")
    add("--log-level", choices=logs.LEVELS, default="info", help="default: %(default)s")
    add("--json-logs", action="store_true", help="one JSON object a line")
    add("--lifeline", type=int, help=argparse.SUPPRESS)
    add("--gate", type=int, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a worker, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.manager and options.manager_ip:
        parser.error("--manager and --manager-ip are two names for one thing: give one of them")
    if options.only_registered and not options.function:
        parser.error("--only-registered needs at least one --function")
    for name in [*options.function, *([options.initializer] if options.initializer else [])]:
        if not all(name.partition(":")[::2]):
            parser.error(f"{name!r} names no function: write package.module:name")
    if options.lifetime and options.drain_before and options.drain_before >= options.lifetime:
        parser.error(f"--drain-before {options.drain_before:g} is not within --lifetime {options.lifetime:g}")
    if options.slot_memory and not os.path.exists("/proc/self/statm"):
        parser.error("--slot-memory needs Linux: other systems do not say what a process uses")
    logs.setup(options.log_level, json=options.json_logs)
    wait_at_gate(options.gate)
    try:
        code, reason = run_worker(
            WorkerOptions(
                resolve=lambda: settings.dialer(
                    Role.WORKER, join=options.join, address=options.manager or options.manager_ip, port=options.port
                ),
                slots=options.slots,
                name=options.name,
                functions=options.function,
                only_registered=options.only_registered,
                initializer=options.initializer,
                arena_bytes=options.arena,
                slot_bytes=options.slot_memory,
                reconnect=not options.no_reconnect,
                lifetime=_lifetime(options.lifetime, options.drain_before),
                lifeline=options.lifeline,
                json_logs=options.json_logs,
            )
        )
    except StarCoreError as error:
        if _orphaned(options.lifeline):
            return 0  # its star ended while it started: nobody is left to be told
        print(f"starcore worker: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if reason:
        logging.getLogger("starcore.worker").error("%s", reason)
    return code


def _lifetime(given: float | None, drain_before: float | None) -> Lifetime | None:
    """Say how long this worker may live: as it was told, or as long as its batch job has left."""
    end = os.environ.get(END_VARIABLE, "")
    left = given if given is not None else int(end) - time.time() if end.isascii() and end.isdecimal() else 0.0
    if left <= 0:  # no end, or that of a job in which somebody opened this shell long ago
        return None
    before = min(DRAIN_BEFORE_SECONDS, left * DRAIN_BEFORE_SHARE) if drain_before is None else drain_before
    why = "--lifetime" if given is not None else f"${END_VARIABLE}"
    log = logging.getLogger("starcore.worker")
    log.info("this worker leaves in %.0f s (%s), and takes nothing more in the last %.0f s", left, why, before)
    return Lifetime(left, min(before, left))


def _orphaned(lifeline: int | None) -> bool:
    return lifeline is not None and bool(select.select([lifeline], [], [], 0)[0])


def _slots(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= SLOTS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} slots: 1 to {SLOTS_MAX} are possible")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
