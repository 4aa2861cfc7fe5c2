"""A signal's handler may raise between any two lines of a calling thread: nothing is shifted, nobody waits for ever.

Ctrl-C is such a handler, and what `signal.alarm` calls may be another. Here it comes at each line in turn.
"""

from __future__ import annotations

import itertools
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np

from starcore.client.api import Client
from starcore.client.session import Session

from .inline_manager import InlineStar

SECONDS = 3.0
LINES_MAX = 200

CODES = {
    method.__code__
    for method in (
        Session.submit,
        Session.abandon,
        Session.end,
        Session._open_call,
        Session._add_body,
        Session._register,
        Session._tell,
        Session._wake,
    )
}


def interrupted(call: Callable[[], Any], line: int, codes: set[CodeType] = CODES) -> bool:
    """Call, and have a handler raise before the given line of those that belong to a session. False: it has fewer."""
    lines = itertools.count()

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        # Where a block begins or ends no handler runs: the interpreter looks for signals at calls and backward jumps.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not text.startswith(("try:", "with ", "except ")) and next(lines) == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return local

    sys.settrace(lambda frame, event, argument: local if frame.f_code in codes else None)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def check(client: Client) -> None:
    """Calls have answers, and their own."""
    futures = [client.submit(abs, -number) for number in range(4)]
    assert [future.result(SECONDS) for future in futures] == list(range(4))


def each_line(call: Callable[[], Any]) -> Iterator[int]:
    for line in range(LINES_MAX):
        if not interrupted(call, line):
            return
        yield line
    raise AssertionError("more lines than expected")


def test_interrupted_submit_leaves_the_others_their_answers(client: Client) -> None:
    check(client)
    assert len([check(client) for _ in each_line(lambda: client.submit(abs, -7))]) > 10


def test_interrupted_submit_of_an_array_leaves_the_others_their_answers(client: Client) -> None:
    array = np.ones(1 << 16)
    for _ in each_line(lambda: client.submit(len, array)):
        assert [client.submit(len, array[:size]).result(SECONDS) for size in (1, 1 << 15)] == [1, 1 << 15]


def test_interrupted_first_call_of_a_function_leaves_the_next_one_its_answer(client: Client) -> None:
    numbers = itertools.count()
    for line in range(LINES_MAX):
        function = eval(f"lambda value: value + {next(numbers)}")
        struck = interrupted(lambda function=function: client.submit(function, 1), line)
        assert client.submit(function, 1).result(SECONDS) == line + 1
        if not struck:
            return


def test_interrupted_cancel_leaves_the_client_its_wits(client: Client) -> None:
    for _ in each_line(lambda: client.submit(abs, 1).cancel()):
        check(client)


def test_interrupted_shutdown_can_be_said_again(star: InlineStar) -> None:
    for line in range(LINES_MAX):
        client = Client(star.address, join=star.join)
        assert client.submit(abs, -1).result(SECONDS) == 1
        struck = interrupted(client.shutdown, line)
        again = threading.Thread(target=client.shutdown, daemon=True)
        again.start()
        again.join(SECONDS)
        assert not again.is_alive(), f"shut down twice, interrupted at line {line}"
        if not struck:
            return
