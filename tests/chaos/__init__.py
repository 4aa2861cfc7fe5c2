"""Chaos: real processes over real TLS, hurt on a seeded schedule, while callers check every answer.

::

    schedule.py    PURE. which fault comes when, to whom, for how long: all from one seed
    faults.py      what each fault does to the star's processes and wires
    star.py        the star: a manager, workers and callers, each behind a proxy of its own
    caller.py      a client process: rounds of work, every answer held against the function run right there
    tasks.py       what workers compute
    checkers.py    I1 to I10, apart from the workload
    run.py         one run: hurt, heal, drain, check

`python -m tests.chaos --seconds 3600` (or `make chaos`) runs for an hour; three minutes are in the tests.
"""
