"""Whether what is counted of a client is what is there. Pure; asked by tests and by the simulator after every step."""

from __future__ import annotations

from starcore.manager.state import TASK_OVERHEAD_BYTES, Client, Delivery, Job, Run, State


def check_account(client: Client) -> None:
    """Assert the invariants of one client's account."""
    owed = 0
    told: dict[Run, set[int]] = {}
    for delivery in client.unread.values():
        for run, start, stop in delivery.pieces:
            known = told.setdefault(run, set())
            assert known.isdisjoint(range(start, stop)), "two outcomes of one task"
            known.update(range(start, stop))
    for number, job in client.jobs.items():
        assert job.client_number == number and job.client is client
        queued = leased = 0
        for run in job.runs:
            waiting, held = run.states.count(State.QUEUED), run.states.count(State.LEASED)
            live = waiting + held
            assert run.unfinished == live, (run.first, run.unfinished, live)
            assert live <= run.unread <= run.count and run.unread
            owed += _owed(run, told.get(run)) if live else 0
            assert all(flow.leased.left for flow in run.flows.values() if flow.sink), "an argument for nobody"
            queued += waiting
            leased += held
        waiting = sum(span.run.states.count(0, span.start, span.stop) for span in job.waiting)
        assert queued == job.queued + waiting, (number, queued, job.queued, waiting)
        assert leased == job.leased, (number, leased, job.leased)
        if job.leased_runs or leased:
            _check_leases(job)
    assert client.owed_bytes == owed, (client.owed_bytes, owed)
    assert client.job_bytes == sum(job.bytes for job in client.jobs.values())
    assert client.queued == sum(job.queued for job in client.jobs.values())
    assert client.leased == sum(job.leased for job in client.jobs.values())


def _owed(run: Run, answered: set[int] | None) -> int:
    """What the tasks of a run weigh that have no outcome, and never had one."""
    if run.unfinished == run.count and not answered and not run.tasks:
        return sum(run.head_sizes) + TASK_OVERHEAD_BYTES * run.count
    owed = 0
    for position, state in enumerate(run.states):
        if state <= State.LEASED and not (answered and position in answered):
            task = run.tasks.get(position)
            if task is None or not task.settled:
                owed += run.head_sizes[position] + TASK_OVERHEAD_BYTES
    return owed


def _check_leases(job: Job) -> None:
    """Every leased task is in exactly one leased run, or in an answer that outlived its worker."""
    seen: set[tuple[int, int]] = set()
    for leased in job.leased_runs:
        for offset, mark in enumerate(leased.marks):
            run, position = leased.run, leased.start + offset
            if mark < 4 and run.states[position] == State.LEASED:
                assert (id(run), position) not in seen, "a task leased twice"
                seen.add((id(run), position))
    orphans = [delivery for delivery in job.client.unread.values() if _orphaned(delivery, job)]
    assert len(seen) + len(orphans) == job.leased, (len(seen), len(orphans), job.leased)


def _orphaned(delivery: Delivery, job: Job) -> bool:
    pieces = delivery.pieces
    return delivery.flow is not None and delivery.leased is None and bool(pieces) and pieces[0][0].job is job
