r"""What is known of a task that ended with its slot, as a line that people and programs read. Pure.

The head of a CRASHED, TIMEOUT or MEMORY outcome is a text for people. Its last line may say the same as JSON::

    the slot that ran it ended by SIGSEGV; peak memory of its slot 300 MiB; last run by worker node7, attempt 3: ...
    last stack, most recent call first:
      File "fit.py", line 3 in fit
    facts {"signal": "SIGSEGV", "peak_memory_bytes": 314572800, "worker": "node7", "attempts": 3}

Whoever does not know of it shows one line more. Whoever does takes it off again, and believes of it what can be true:
it comes from a peer, and a field that is missing or makes no sense is not known.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from starcore.texts import NAME_CHARS_MAX, plain

FACTS_CHARS_MAX = 1000
STACK_TITLE = "last stack, most recent call first:"
_FACTS = "\nfacts {"
_SIGNAL = re.compile(r"SIG[A-Z][A-Z0-9]{1,15}(?:[+-][0-9]{1,3})?|signal [0-9]{1,3}", re.ASCII)
_BYTES_MAX = 1 << 62
_ATTEMPTS_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known; None where it is not."""

    signal: str | None = None
    peak_memory_bytes: int | None = None
    worker: str | None = None
    attempts: int | None = None


def signal_of(cause: str) -> str | None:
    """Return the signal that a cause of death begins with, None where it was none.

    >>> signal_of("SIGKILL (from outside; perhaps ...)"), signal_of("exit code 3")
    ('SIGKILL', None)
    """
    found = _SIGNAL.match(cause)
    return found[0] if found is not None else None


def with_facts(text: str, facts: Facts) -> str:
    """Return the text with a last line that says what is known; the text alone where nothing is."""
    known = {name: value for name, value in asdict(facts).items() if value is not None}
    if facts.worker is not None:
        known["worker"] = plain(facts.worker, NAME_CHARS_MAX)
    return f"{text}\nfacts {json.dumps(known, ensure_ascii=False)}" if known else text


def split_facts(text: str) -> tuple[str, Facts]:
    """Return the text without its line of facts, and what that says; never raises, whatever it says."""
    at = text.rfind(_FACTS)
    if at < 0 or len(text) - at > FACTS_CHARS_MAX:
        return text, Facts()
    line = text[at + len(_FACTS) - 1 :]
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):  # a number of many digits is a ValueError, too
        return text, Facts()
    signal, worker = told.get("signal"), told.get("worker")
    return text[:at], Facts(
        signal if isinstance(signal, str) and _SIGNAL.fullmatch(signal) else None,
        _number(told.get("peak_memory_bytes"), _BYTES_MAX),
        plain(worker, NAME_CHARS_MAX) if isinstance(worker, str) and worker else None,
        _number(told.get("attempts"), _ATTEMPTS_MAX),
    )


def stack_in(text: str) -> str | None:
    """Return the stack that a text ends with; None where there is none."""
    _, title, stack = text.partition(f"\n{STACK_TITLE}\n")
    return stack if title and stack else None


def _number(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None
