"""The report on a task that ended with its slot: what is said, and what of a stack is shown."""

from __future__ import annotations

from starcore.worker.reports import STACK_FRAMES_MAX, last_stack, report, size_text

CRASH = """\
Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait

Current thread 0x00007f02 (most recent call first):
  File "/home/me/fit.py", line 12 in kernel
  File "/home/me/fit.py", line 40 in fit
  File "/opt/starcore/worker/slot.py", line 262 in _run_small
  File "<frozen runpy>", line 88 in _run_code

Extension modules: numpy.core (total: 1)
"""


def test_only_the_users_frames_of_the_thread_that_died_are_shown() -> None:
    assert last_stack(CRASH) == (
        '  File "/home/me/fit.py", line 12 in kernel\n  File "/home/me/fit.py", line 40 in fit'
    )


def test_a_dump_without_a_current_thread_shows_the_first_that_has_frames() -> None:
    dump = 'Thread 0x1 (most recent call first):\n\nThread 0x2 (most recent call first):\n  File "a.py", line 1 in f\n'
    assert last_stack(dump) == '  File "a.py", line 1 in f'


def test_a_c_stack_is_left_out() -> None:
    dump = 'Current thread 0x1 [python] (most recent call first):\n  File "a.py", line 1 in f\n'
    dump += "\nCurrent thread's C stack trace (most recent call first):\n  Binary file \"libc\", at abort\n"
    assert last_stack(dump) == '  File "a.py", line 1 in f'


def test_a_deep_stack_is_cut_and_says_so() -> None:
    frames = "".join(f'  File "a.py", line {line} in f\n' for line in range(200))
    shown = last_stack("Current thread 0x1 (most recent call first):\n" + frames).split("\n")
    assert len(shown) == STACK_FRAMES_MAX + 1
    assert shown[-1] == "  ..."


def test_nothing_that_is_no_dump_is_shown() -> None:
    assert last_stack("") == last_stack("hello\n  File x") == ""


def test_a_report_says_what_is_known_and_no_more() -> None:
    assert report("it ended", "", "") == "it ended"
    assert report("it ended", "2.0 GiB", "") == "it ended; peak memory of its slot 2.0 GiB"
    assert report("it ended", "", "  File", "worker w") == (
        "it ended; worker w\nlast stack, most recent call first:\n  File"
    )


def test_sizes_are_read_as_people_say_them() -> None:
    assert [size_text(size) for size in (0, 5 << 20, 1 << 30, 3 << 29)] == ["1 MiB", "5 MiB", "1.0 GiB", "1.5 GiB"]
