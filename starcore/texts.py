"""Texts of a peer's, made fit for a log, a terminal or a message of our own. Pure.

Whoever has a certificate may call itself what it likes, line breaks and terminal escapes included, in 64 KiB. Such
texts are shown to other people; so they are cleaned once, where they come in or where they are said.
"""

from __future__ import annotations

NAME_CHARS_MAX = 100
"""Of a peer's name, host or version, or of a function's name, wherever people read it."""
LINE_CHARS_MAX = 1000
"""Of a line in a log, or of a reason that a peer gives."""
TASK_SESSION_DIGITS = 8
"""Of the session's number in a task's name."""
LINES_MAX = 40
"""Of a report of several lines."""
FURTHER_CHARS_MAX = 256
"""Of each of its lines but the first: whatever the letters, all of them are no more than 48 KiB."""


def plain(text: str, chars_max: int = LINE_CHARS_MAX) -> str:
    r"""Return the text on one line: escapes for what cannot be printed, an ellipsis for what is too long.

    >>> plain("a\nb"), plain("abcdef", 4)
    ('a\\nb', 'abc…')
    """
    cut = text[: chars_max + 1]
    if not cut.isprintable():
        cut = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut)
    return cut if len(cut) <= chars_max else cut[: chars_max - 1] + "…"


def task_name(session: bytes, job: int, index: int) -> str:
    """Return what people call a task; `job` is the number that its client gave the job.

    A task of a stored job belongs to no session, and `job` is the manager's number. So it is in a worker's log. The
    "m" before it says whose number it is: nobody takes it for a client's.

    >>> task_name(bytes(range(16)), 1, 0), task_name(b"", 17, 0)
    ('00010203/1/0', 'm17/0')
    """
    return f"{session.hex()[:TASK_SESSION_DIGITS]}/{job}/{index}" if session else f"m{job}/{index}"


def counted(number: int, what: str) -> str:
    """Return a number of things, with the plural that English has for most of them.

    >>> counted(1, "slot"), counted(2, "slot")
    ('1 slot', '2 slots')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def plain_report(text: str, chars_max: int) -> str:
    r"""Return the text with its lines, each made fit as by `plain`, and no more than so many characters.

    >>> plain_report("a\tb\nc", 100), plain_report("abcdef\ng", 4)
    ('a\\tb\nc', 'abc…')
    """
    fit = "\n".join(plain_lines(text)).rstrip()
    return fit if len(fit) <= chars_max else fit[: chars_max - 1] + "…"


def plain_lines(text: str, lines_max: int = LINES_MAX) -> list[str]:
    r"""Return the first lines of a text, each made fit as by `plain`.

    >>> plain_lines("a\tb\nc")
    ['a\\tb', 'c']
    """
    first, *rest = text.split("\n", lines_max)
    return [plain(first), *(plain(line, FURTHER_CHARS_MAX) for line in rest[: lines_max - 1])]
