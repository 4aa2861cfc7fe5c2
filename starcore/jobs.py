"""`starcore jobs`: what became of detached jobs, from the shell; list, cancel, fetch and forget them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starcore import settings
from starcore.errors import (
    ArgumentValueError,
    RemoteTraceback,
    SetupError,
    StarCoreError,
    StoredJobError,
    TaskFailure,
    UnreachableError,
)
from starcore.messages import Role
from starcore.options import Parser, say, seconds
from starcore.status import table

if TYPE_CHECKING:
    from starcore.client.api import Client

_EPILOG = """\
examples:
  starcore jobs                                        all of this client's, on the star of this machine
  starcore jobs --join client.join --json              another star's, as one JSON array
  starcore jobs fetch scan-7 --out scan-7.npy          wait for it, write the array, and forget the job
  starcore jobs fetch scan-7 --out scan-7.npy --keep --timeout 60
  starcore jobs cancel scan-7                          end what has no result yet; the others stay
  starcore jobs forget scan-7                          let go of everything

exit codes: 0 done, 1 a task failed or was cancelled, 2 usage or no manager configured, 3 credentials,
            5 the manager is not there or said no, 6 no such job, 7 it is not done yet
"""
NOT_DONE = 7
COLUMNS = (
    "name",
    "function",
    "tasks",
    "queued",
    "at_workers",
    "done",
    "failed",
    "cancelled",
    "bytes",
    "expires",
    "story",
)


def _parser() -> Parser:
    parser = Parser(prog="starcore jobs", description="List, cancel, fetch and forget detached jobs.", epilog=_EPILOG)
    add = parser.add_argument
    add("command", nargs="?", default="list", metavar="COMMAND", help=f"{', '.join(_COMMANDS)} (default: list)")
    add("name", nargs="?", metavar="NAME", help="the job's name")
    add("--out", type=Path, metavar="FILE", help="fetch: where the answer goes, as .npy; never a half-written file")
    add("--keep", action="store_true", help="fetch: leave the job at the manager")
    add("--timeout", type=seconds, metavar="S", help="fetch: wait at most so long (default: for ever)")
    add("--json", action="store_true", help="list: print one JSON array")
    add("--manager", metavar="HOST[:PORT]", help="the manager's address for clients")
    add("--join", metavar="FILE", help="a client's join file")
    return parser


def render(rows: list[dict[str, Any]]) -> str:
    """Return the jobs as lines for people."""
    if not rows:
        return "no detached jobs"
    shown = [
        # What waits at a worker to be begun is out of the manager's hands as well.
        {**row, "at_workers": row["running"], "expires": _span(row["expires_in_seconds"]), "story": _story(row)}
        for row in rows
    ]
    lines = table("NAME", shown, COLUMNS)[1:]
    if stuck := [row["name"] for row in rows if row.get("waits_for_room")]:
        said = "the manager has no room for more answers (--stored-memory, --spool): fetch or forget something"
        lines += [f"{', '.join(stuck)}: {said}"]
    return "\n".join(lines)


def _story(row: dict[str, Any]) -> str:
    return f"m{row['number']}/0" if "number" in row else "-"


def _span(time: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if time >= 2 * length:
            return f"{time / length:.0f} {unit}"
    return f"{max(0.0, time):.0f} s"


def _list(client: Client, options: argparse.Namespace) -> None:
    rows = [job.status() for job in ([client.job(options.name)] if options.name else client.jobs())]
    say(json.dumps(rows, indent=2) if options.json else render(rows))


def _cancel(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.name)
    job.cancel()
    try:
        row = job.status()
    except StoredJobError:
        say(f"{options.name}: cancelled, before all of it was here; nothing is left")
        return
    there = f"{row['done']} of {row['tasks']} tasks have a result, which stays"
    say(f"{options.name}: cancelled; {there}: {_in_python(options.name, 'results()')}")


def _forget(client: Client, options: argparse.Namespace) -> None:
    client.job(options.name).forget()
    say(f"{options.name}: forgotten, with all that was kept of it")


def _in_python(name: str, call: str) -> str:
    return f"starcore.Client().job({name!r}).{call}"


def _fetch(client: Client, options: argparse.Namespace) -> None:
    job = client.job(options.name)
    try:
        job.save(options.out, options.timeout, keep=True, progress=_can_draw())
    except SetupError as error:
        raise SetupError(f"{error}; the job is still there") from error
    except ArgumentValueError as error:
        raise ArgumentValueError(f"{error}: {_in_python(options.name, 'result()')}") from error
    if not options.keep:
        try:
            job.forget()
        except (StarCoreError, TimeoutError) as error:
            told = f"{options.name} is written to {options.out}, but the manager still has the job: {error}"
            raise UnreachableError(f"{told}; later: starcore jobs forget {options.name}") from error
    say(f"{options.name}: written to {options.out}; the job {'is still there' if options.keep else 'is forgotten'}")


def _can_draw() -> bool:
    if not sys.stderr.isatty():
        return False
    from starcore.client.progress import load_tqdm  # noqa: PLC0415 - loads what --help needs nothing of

    try:
        load_tqdm()
    except StarCoreError:
        return False
    return True


_COMMANDS: dict[str, Callable[[Client, argparse.Namespace], None]] = {
    "list": _list,
    "cancel": _cancel,
    "fetch": _fetch,
    "forget": _forget,
}


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        parser.error(f"{options.command!r} is no command ({known}); for a job of this name: starcore jobs list NAME")
    if options.command != "list" and not options.name:
        parser.error(f"{options.command} needs the NAME of a job")
    if (options.command == "fetch") != (options.out is not None):
        parser.error("fetch needs --out FILE, and nothing else takes it")
    try:
        from starcore.client.api import Client  # noqa: PLC0415 - numpy is not needed for --help

        settings.dialer(Role.CLIENT, join=options.join, address=options.manager)  # no star of its own is started here
        with Client(options.manager, join=options.join) as client:
            return _obey(client, options)
    except StarCoreError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130


def _obey(client: Client, options: argparse.Namespace) -> int:
    try:
        _COMMANDS[options.command](client, options)
    except TaskFailure as error:
        return _fail(f"a task of {options.name} failed: {error}\nThe job is still there.", 1)
    except StarCoreError:
        raise
    except Exception as error:
        return _explain(client, options, error)
    return 0


def _explain(client: Client, options: argparse.Namespace, error: Exception) -> int:
    """Say what an error that is not StarCore's means, and return the exit code; a fault of ours is raised again."""
    told = f"{type(error).__name__}: {error}; the job is still there"
    if isinstance(error.__cause__, RemoteTraceback):  # the function's own, whatever its class
        return _fail(f"a task of {options.name} failed: {told}", 1)
    if isinstance(error, CancelledError):
        there = _in_python(options.name, "results(wait=False)")
        return _fail(f"{options.name} was cancelled, and has no whole answer; what was done is there: {there}", 1)
    if isinstance(error, (NotInTime, TimeoutError)):
        if options.command == "fetch" and options.timeout is not None:
            return _fail(f"{options.name} is not done yet{_progress(client, options.name)}; it goes on", NOT_DONE)
        return _fail("the manager is there, but does not answer: look at its log", UnreachableError.exit_code)
    if options.command == "fetch":  # an answer of a class that is not installed here, say
        return _fail(f"{options.name} cannot be fetched: {told}", 1)
    raise error


def _progress(client: Client, name: str) -> str:
    """How far a job is, where the manager says so."""
    try:
        row = client.job(name).status()
    except (StarCoreError, NotInTime, TimeoutError):
        return ""
    ended = row["done"] + row["failed"] + row["cancelled"]
    said = f": {ended} of {row['tasks']} tasks have ended, {row['running']} are at workers, {row['queued']} wait"
    if row.get("waits_for_room"):
        said += ", for the manager has no room for more answers: fetch or forget something"
    return said if client.slots else f"{said}, and no worker is connected"


def _fail(text: str, code: int) -> int:
    """Say what went wrong; returns the exit code."""
    print(f"starcore jobs: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
