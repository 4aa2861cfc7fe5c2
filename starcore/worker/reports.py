"""What is told of a task that ended with its slot: by what, how much memory, where it was, on which worker. Pure.

The first line says what happened; the stack, where there is one, follows in lines of its own. A dead process cannot
be asked, so the stack is what Python's faulthandler wrote as it died, or when it was told to before it was killed.
"""

from __future__ import annotations

from starcore.errors import Status
from starcore.postmortem import STACK_TITLE, Facts, signal_of, with_facts
from starcore.worker.orders import SlotDied

STACK_FRAMES_MAX = 32
STACK_LINE_CHARS_MAX = 240
_OURS = ("starcore/worker/slot.py", "starcore/pickling.py", "starcore/payloads.py", "starcore/functions.py")
"""Below the first frame of these there is nothing of the user's."""
_FRAME = "  File "


def size_text(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> size_text(900), size_text(300 << 20), size_text(5 << 30)
    ('1 MiB', '300 MiB', '5.0 GiB')
    """
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{max(1, size >> 20)} MiB"


def last_stack(dump: str) -> str:
    r"""Cut the one thread that matters out of what faulthandler wrote, down to the user's outermost frame.

    >>> print(last_stack('Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n'
    ...                  '  File "fit.py", line 3 in fit\n  File "/x/starcore/worker/slot.py", line 9 in run\n'))
      File "fit.py", line 3 in fit
    """
    threads: list[list[str]] = []
    found: list[str] | None = None
    for line in dump.splitlines():
        if "hread 0x" in line or line.startswith("Stack (most recent"):
            threads.append([])
            if line.startswith("Current thread"):
                found = threads[-1]
        elif line.startswith(_FRAME) and threads:
            threads[-1].append(line[:STACK_LINE_CHARS_MAX])
        elif line.startswith("Current thread's C stack"):
            break
    frames = found if found is not None else next((frames for frames in threads if frames), [])
    inner = next((at for at, line in enumerate(frames) if any(place in line for place in _OURS)), len(frames))
    left_out = ["  ..."] if inner > STACK_FRAMES_MAX else []
    return "\n".join(frames[: min(inner, STACK_FRAMES_MAX)] + left_out)


def report(what: str, peak: str, stack: str, where: str = "") -> str:
    """Put together what is told of an end.

    Parameters
    ----------
    what : str
        What happened, in half a sentence.
    peak : str
        The most memory that the slot had, or an empty text.
    stack : str
        Lines of frames, the most recent first, or an empty text.
    where : str
        Worker, host and attempt, where nobody else will say them.
    """
    line = "; ".join(each for each in (what, f"peak memory of its slot {peak}" if peak else "", where) if each)
    return f"{line}\n{STACK_TITLE}\n{stack}" if stack else line


def outcome(text: str, status: Status, event: SlotDied, name: str, host: str, attempt: int) -> str:
    """Put together what becomes of the task's outcome: the report, and what programs read of it.

    Of a crash the manager says where it was, when it has happened often enough; any other end was ordered here, and
    its signal was ours.
    """
    crashed = status is Status.CRASHED
    where = "" if crashed else f"worker {name} ({host}), attempt {attempt}"
    signal = signal_of(event.cause) if crashed else None
    facts = Facts(signal, event.peak_bytes or None, name or None, attempt)
    return with_facts(report(text, event.peak, event.stack, where), facts)
