"""`starcore story TASK`: what happened to one task, as text or as JSON."""

from __future__ import annotations

import json
import sys

from starcore import settings
from starcore.errors import StarCoreError, UnreachableError
from starcore.messages import Role
from starcore.options import Parser, say

_EPILOG = """\
A task's name stands in its error, in the manager's log, and in `future.task`: SESSION/JOB/INDEX. What a worker's log
calls it, mJOB/INDEX, will do as well. The manager tells it to the same client, whichever process that is.

examples:
  starcore story 3fa9c1d2/1/0                       of the manager that runs on this machine
  starcore story m17/0                              as a worker's log names it: [m17/0 fit] ...
  starcore story 3fa9c1d2/1/0 --join client.join --json

exit codes: 0 told, 2 usage, no manager configured or no such task, 3 credentials, 5 the manager is not there
"""


def _parser() -> Parser:
    parser = Parser(
        prog="starcore story",
        description="Tell what happened to a task: every attempt, with its worker, time and cause.",
        epilog=_EPILOG,
    )
    parser.add_argument("task", metavar="TASK", help="the task's name, SESSION/JOB/INDEX or mJOB/INDEX")
    parser.add_argument("--manager", metavar="HOST[:PORT]", help="the manager's address for clients")
    parser.add_argument("--join", metavar="FILE", help="a client's join file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Tell a story, and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        from starcore.client.api import Client  # noqa: PLC0415 - numpy is not needed for --help

        settings.dialer(Role.CLIENT, join=options.join, address=options.manager)  # a question starts no star of its own
        with Client(options.manager, join=options.join) as client:
            story = client.story(options.task)
    except TimeoutError:
        print("starcore story: the manager is there, but does not answer: look at its log", file=sys.stderr)
        return UnreachableError.exit_code
    except StarCoreError as error:
        print(f"starcore story: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    say(json.dumps(story.to_json(), indent=2) if options.json else story)
    return 0


if __name__ == "__main__":
    sys.exit(main())
