"""`starcore COMMAND`: one name for every program of the package.

Each command is a module with ``main(argv) -> int``, loaded only when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module

from starcore.options import say

COMMANDS = {
    "manager": ("starcore.manager.__main__", "run the star's manager: python -m starcore.manager"),
    "worker": ("starcore.worker.__main__", "run a worker: python -m starcore.worker"),
    "certs": ("starcore.certs", "make the star's CA and join files: python -m starcore.certs"),
    "jobs": ("starcore.jobs", "list, cancel, fetch and forget detached jobs"),
    "status": ("starcore.status", "show the workers, slots and queues of a star"),
    "story": ("starcore.stories", "tell what happened to a task, and why"),
    "drain": ("starcore.drain", "let workers finish what they run, and leave"),
}


def usage() -> str:
    """Return the text of ``starcore --help``."""
    lines = ["usage: starcore COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()]
    lines += [
        "",
        "examples:",
        "  starcore manager --port 443 --client-port 444",
        "  starcore certs issue worker node7",
        "  starcore worker --join node7.join",
        "  starcore status --json",
        "  starcore drain node7",
        "",
        "'starcore COMMAND --help' tells the options of each.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        say(usage())
        return 0 if arguments else 2
    if arguments[0] in {"-V", "--version"}:
        from starcore import __version__  # noqa: PLC0415 - the face is not needed for anything else

        say(f"starcore {__version__}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"starcore: no command {arguments[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        result: int = import_module(command[0]).main(arguments[1:])
    except KeyboardInterrupt:  # a command that has begun does better; this one was still being loaded
        return 130
    return result


if __name__ == "__main__":
    sys.exit(main())
