"""`starcore drain WORKER`: let workers finish what they run, and leave.

One question and one answer over a connection of its own, with a client's certificate; no client is started for it.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import sys
from typing import TypeVar

from starcore import __version__, codec, settings, tls
from starcore._framing import FrameReader
from starcore.errors import ArgumentValueError, Code, RefusedError, StarCoreError
from starcore.messages import (
    PROTOCOL_VERSION,
    DrainReply,
    DrainRequest,
    Goodbye,
    Hello,
    Message,
    Role,
    Welcome,
)
from starcore.options import Parser, say
from starcore.texts import NAME_CHARS_MAX, plain

ANSWER_SECONDS_MAX = 10.0

M = TypeVar("M")

_EPILOG = """\
examples:
  starcore drain node7-4711                          one worker, by its name as 'starcore status' shows it
  starcore drain node7                               every worker of a host
  starcore drain 'node1*' --join client.join         every worker whose name or host fits the pattern (* ? [abc])
  starcore drain '*'                                 all of them

A worker that drains takes nothing more, gives back at once what it has not begun, finishes what runs, and leaves with
exit code 0. Nothing is lost: what it gives back runs elsewhere, or waits for another worker.

exit codes: 0 told, 1 no such worker, 2 usage or no manager configured, 3 credentials, 5 the manager is not there or
said no
"""


def _parser() -> Parser:
    parser = Parser(prog="starcore drain", description="Let workers finish what they run, and leave.", epilog=_EPILOG)
    parser.add_argument("worker", metavar="WORKER", help="a worker's name or host, or a pattern for either")
    parser.add_argument("--manager", metavar="HOST[:PORT]", help="the manager's address for clients")
    parser.add_argument("--join", metavar="FILE", help="a client's join file")
    return parser


class _Line:
    """A blocking connection to the manager, greeted."""

    def __init__(self, target: tls.Target) -> None:
        self._messages: list[Message] = []
        raw = socket.create_connection((target.host, target.port), ANSWER_SECONDS_MAX)
        context = tls.dial_context(target.identity)
        try:
            self._socket = context.wrap_socket(raw, server_hostname=target.identity.server_name)
        except BaseException:
            raw.close()
            raise
        self._reader = FrameReader(self._deliver, lambda *chunk: None, lambda *chunk: None)
        tls.identify(target.identity, Role.MANAGER, self._socket, target.address)
        name = f"drain-{socket.gethostname()}-{os.getpid()}"
        software = f"starcore {__version__}"
        self.say(Hello(PROTOCOL_VERSION, Role.CLIENT, secrets.token_bytes(16), name, software=software))
        self.hear(Welcome)

    def say(self, message: Message) -> None:
        """Send a message."""
        self._socket.sendall(codec.encode(message))

    def hear(self, kind: type[M]) -> M:
        """Wait for a message of this kind; others are news that do not matter here."""
        while True:
            while self._messages:
                message = self._messages.pop(0)
                if isinstance(message, Goodbye):
                    code = Code(message.code) if message.code in set(Code) else Code.INTERNAL
                    raise RefusedError(code, plain(message.reason))
                if isinstance(message, kind):
                    return message
            count = self._socket.recv_into(self._reader.get_buffer())
            if not count:
                raise ConnectionResetError
            self._reader.advance(count)

    def close(self) -> None:
        """Say goodbye, and hang up."""
        self.say(Goodbye(Code.NORMAL, "done"))
        self._socket.close()

    def _deliver(self, kind: int, meta: memoryview, payload: memoryview) -> None:
        self._messages.append(codec.decode(kind, meta, payload))


def drain(target: tls.Target, pattern: str) -> list[str]:
    """Tell workers to leave; return their names.

    Parameters
    ----------
    target : Target
        The manager, and as whom to speak to it.
    pattern : str
        A name or host, or a pattern for either, as the shell has them.

    Raises
    ------
    CredentialsError, UnreachableError, RefusedError, ArgumentValueError
        The manager was not asked.
    """
    try:
        pattern.encode()
    except UnicodeEncodeError:
        raise ArgumentValueError(f"{plain(pattern, NAME_CHARS_MAX)} fits no worker: it is no text") from None
    try:
        line = _Line(target)
        line.say(DrainRequest(pattern))
        workers = line.hear(DrainReply).workers
        line.close()
    except (OSError, ssl.SSLError) as error:
        raise tls.as_error(error, target) from error
    return workers


def main(argv: list[str] | None = None) -> int:
    """Drain workers, and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        workers = drain(settings.dialer(Role.CLIENT, join=options.join, address=options.manager), options.worker)
    except StarCoreError as error:
        print(f"starcore drain: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if not workers:
        asked = plain(options.worker, NAME_CHARS_MAX)
        print(f"starcore drain: no worker of this name or host: {asked}; 'starcore status' shows them", file=sys.stderr)
        return 1
    for name in workers:
        say(f"{plain(name, NAME_CHARS_MAX)} drains")
    return 0


if __name__ == "__main__":
    sys.exit(main())
