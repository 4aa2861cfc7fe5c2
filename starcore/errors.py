"""Every error of StarCore: one tree, one wire code each.

::

    StarCoreError
    ├── MisuseError              the call itself is wrong; raised where it was made
    │   ├── ArgumentTypeError    (also TypeError)
    │   └── ArgumentValueError   (also ValueError)
    ├── SetupError               this machine is not ready; a command exits with `exit_code`
    │   ├── CredentialsError     a join file, certificate or key: missing, readable by others, expired, foreign
    │   ├── AddressError         a port in use, or one that needs rights; a text that is no address
    │   └── UnconfiguredError    nothing says where a manager is
    ├── LinkError                the other end
    │   ├── UnreachableError     nobody answers at the manager's address
    │   ├── RefusedError         the manager said no (`code` says why)
    │   └── ProtocolError        a peer broke the wire's rules; its connection is closed
    │       ├── FrameError           a header, length or table that cannot be
    │       ├── UnknownMessageError  a frame kind that this version does not know
    │       ├── OverrunError         more bytes than were granted
    │       └── UnexpectedError      a message that does not belong here
    ├── StoredJobError           a stored job that is not there, or not any more; or its answers are not
    ├── SessionLostError         the session ended with work outstanding (closed client, forked child)
    └── TaskFailure              the outcome of one task, raised by its future
        ├── TaskError            the function raised a class that is not loaded here
        ├── CrashError           the task killed its slot, with the signal's name
        ├── TaskTimeoutError     it ran longer than its `timeout` (also TimeoutError)
        ├── TaskMemoryError      it took more memory than a slot of that worker may have (also MemoryError)
        ├── LoadError            the function or its arguments cannot be loaded on the worker
        ├── ResultError          the result cannot be pickled
        ├── UnrunnableError      no worker can ever take it
        └── UntrustedError       the answer is pickled, and `trust_results` is false

Local misuse raises where it happens. What a remote peer does wrong closes its connection, in one place
(`driver.py`). A failure of the user's function travels as an outcome and is raised by the future.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar


class Code(IntEnum):
    """Why a connection was closed, a stream aborted or a session refused; carried by GOODBYE and ABORT."""

    NORMAL = 0
    FRAME = 1
    UNKNOWN_MESSAGE = 2
    OVERRUN = 3
    UNEXPECTED = 4
    VERSION = 5
    ROLE = 6
    SILENT = 7
    DRAINING = 8
    SUPERSEDED = 9
    GONE = 10
    CANCELLED = 11
    INTERNAL = 12


class Status(IntEnum):
    """How a task ended; one byte a task in RESULT and OUTCOME."""

    OK = 0
    RAISED = 1
    CRASHED = 2
    TIMEOUT = 3
    CANCELLED = 4
    UNLOADABLE = 5
    UNSENDABLE = 6
    UNRUNNABLE = 7
    MEMORY = 8


class StarCoreError(Exception):
    """The root of the tree."""

    exit_code = 1


class MisuseError(StarCoreError):
    """The call itself is wrong: raised where it was made, before anything was sent."""

    exit_code = 2


class ArgumentTypeError(MisuseError, TypeError):
    """An argument of the wrong type."""


class ArgumentValueError(MisuseError, ValueError):
    """An argument of the right type that cannot be used."""


class SetupError(StarCoreError):
    """This machine is not ready for what was asked."""

    exit_code = 2


class CredentialsError(SetupError):
    """A join file, certificate or key that is missing, readable by others, expired or another star's."""

    exit_code = 3


class AddressError(SetupError):
    """A port that is in use, or one that needs rights; or a text that is no address."""

    exit_code = 4


class UnconfiguredError(SetupError):
    """Nothing says where a manager is, and none runs on this machine.

    Attributes
    ----------
    may_come : bool
        Whether a manager that this user starts on this machine would change that: so a worker waits for one.
    """

    may_come = False


class LinkError(StarCoreError):
    """Something about the other end of a connection."""

    exit_code = 5


class UnreachableError(LinkError):
    """Nobody answers at the manager's address."""


class RefusedError(LinkError):
    """The manager said no."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"the manager refused this peer ({self.code.name.lower()})"


class ProtocolError(LinkError):
    """A peer broke the wire's rules."""

    code = Code.FRAME


class FrameError(ProtocolError):
    """A header, length or table that cannot be."""

    code = Code.FRAME


class UnknownMessageError(ProtocolError):
    """A frame kind that this version does not know."""

    code = Code.UNKNOWN_MESSAGE


class OverrunError(ProtocolError):
    """More bytes than were granted."""

    code = Code.OVERRUN


class UnexpectedError(ProtocolError):
    """A message that does not belong here."""

    code = Code.UNEXPECTED


class StoredJobError(StarCoreError):
    """There is no such stored job, or it went while it was brought or read: forgotten, or kept for too long."""

    exit_code = 6


class SessionLostError(StarCoreError, RuntimeError):
    """The session ended while work was outstanding, or a call came after its end (Executors raise RuntimeError)."""


class TaskFailure(StarCoreError):  # noqa: N818 - the name of a family
    """One task did not return a result.

    Attributes
    ----------
    signal : str or None
        The signal that ended the slot while the task ran, as "SIGSEGV"; None where it was none, or one of ours.
    peak_memory_bytes : int or None
        The most memory that the slot had in its life, in bytes.
    stack : str or None
        The task's last stack, a line for each frame, the most recent first.
    worker : str or None
        The name of the worker that had the task last.
    attempts : int or None
        How often the task was tried: the number of its last attempt.

    All of them are None where nothing is known. They are filled for tasks that ended their slot (`CrashError`,
    `TaskTimeoutError`, `TaskMemoryError`), and say what a worker said: a worker that lies may say what it likes.
    """

    status = Status.RAISED
    signal: str | None = None
    peak_memory_bytes: int | None = None
    stack: str | None = None
    worker: str | None = None
    attempts: int | None = None


class TaskError(TaskFailure):
    """The function raised an exception whose class is not loaded in this process.

    Attributes
    ----------
    module, name : str
        Where the remote class lives and what it is called.
    """

    def __init__(self, module: str, name: str, text: str) -> None:
        super().__init__(module, name, text)
        self.module = module
        self.name = name
        self.text = text

    def __str__(self) -> str:
        return f"{self.module}.{self.name}: {self.text}"


class CrashError(TaskFailure):
    """The task killed the slot that ran it, as often as the crash limit allows.

    Attributes
    ----------
    signal, peak_memory_bytes, stack, worker, attempts
        Of the last death, as far as they are known; see `TaskFailure`. The text has what each attempt died of.

    Examples
    --------
    >>> try:
    ...     future.result()
    ... except starcore.CrashError as error:
    ...     print(error.signal, error.worker, error.attempts)
    """

    status = Status.CRASHED


class TaskTimeoutError(TaskFailure, TimeoutError):
    """The task ran longer than its `timeout` allows, and its slot was ended.

    Attributes
    ----------
    peak_memory_bytes, stack, worker, attempts
        As far as they are known; see `TaskFailure`. `stack` is where the task was when its time was up.
    """

    status = Status.TIMEOUT


class TaskMemoryError(TaskFailure, MemoryError):
    """The task took more memory than `--slot-memory` of its worker allows, and its slot was ended.

    Attributes
    ----------
    peak_memory_bytes, stack, worker, attempts
        As far as they are known; see `TaskFailure`.
    """

    status = Status.MEMORY


class LoadError(TaskFailure):
    """The function or its arguments could not be loaded on the worker."""

    status = Status.UNLOADABLE


class ResultError(TaskFailure):
    """The function returned something that cannot be pickled."""

    status = Status.UNSENDABLE


class UnrunnableError(TaskFailure):
    """No worker can ever take this task."""

    status = Status.UNRUNNABLE


class UntrustedError(TaskFailure):
    """The answer is pickled, and this client does not trust pickled answers."""


class RemoteTraceback(Exception):  # noqa: N818 - it is a text for humans, never caught
    """The traceback of the process that raised, as text; the `__cause__` of what a future raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


FAILURES: dict[Status, type[TaskFailure]] = {
    cls.status: cls
    for cls in (CrashError, TaskTimeoutError, TaskMemoryError, LoadError, ResultError, UnrunnableError)
}
"""The failures that are raised with a plain text; RAISED and CANCELLED have rules of their own."""


Told = TypeVar("Told", bound=StarCoreError)


def again(error: Told) -> Told:
    """Return the same error for one more who is to raise it: each raising leaves the raiser's frames in an error."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__
    return twin
