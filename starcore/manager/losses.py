"""Files of stored jobs that were there and cannot be read any more: what needs them fails. Pure; a part of the store.

What fails is what the next manager would let fail, with the same words (`Recovery.settle`): the disk does not have it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace

from starcore.errors import Status
from starcore.manager.clients import Clientele
from starcore.manager.flows import Flow
from starcore.manager.outbox import Outbox
from starcore.manager.readings import Readings
from starcore.manager.relay import Relay
from starcore.manager.state import Delivery, State
from starcore.manager.stored import StoredJob, answer_weight


class Losses:
    """What becomes of tasks whose files are lost while they are needed.

    Parameters
    ----------
    outbox, relay, clientele, readings
        The manager's.
    weigh : callable(stored, answers=bytes)
        Counts what a job takes of the store.
    """

    def __init__(
        self, outbox: Outbox, relay: Relay, clientele: Clientele, readings: Readings, weigh: Callable[..., None]
    ) -> None:
        self._outbox = outbox
        self._relay = relay
        self._clientele = clientele
        self._readings = readings
        self._weigh = weigh

    def lose(self, jobs: Iterable[StoredJob], number: int, reason: str) -> None:
        """Let what needs this file fail: a task its argument, a reader an answer, all tasks their function."""
        lost = self._clientele.blob_lost(number, f"its function, which the manager kept, is lost: {reason}")
        for stored in jobs:
            lent = [(run, at) for run in stored.runs for at, flow in run.flows.items() if _keeps(flow.lender, number)]
            for run, at in lent:
                text = f"its argument, which the manager kept, is lost: {reason}"
                self._clientele.fail(run, at, Status.UNRUNNABLE, text)
            answers = [delivery for delivery, body in stored.bodies.items() if _keeps(body, number)]
            for delivery in answers:
                self._answer(stored, delivery, f"its answer, which the manager kept, is lost: {reason}")
            lost = lost or bool(lent or answers)
        if lost:
            self._outbox.log("error", f"a file of a detached job is lost: {number:016x}: {reason}")

    def _answer(self, stored: StoredJob, delivery: Delivery, text: str) -> None:
        """An outcome that was told says from now on that its answer is lost."""
        head, said, body = text.encode(), delivery.outcome, stored.bodies.pop(delivery)
        before = answer_weight(delivery, body)
        sizes, statuses = array("I", [len(head)]), bytes((Status.UNRUNNABLE,))
        delivery.outcome = replace(said, statuses=statuses, head_sizes=sizes, body_sizes=array("Q"), heads=head)
        run, at, _ = delivery.pieces[0]
        if run.states[at] == State.DONE:
            run.states[at] = State.FAILED
            stored.done -= 1
            stored.failed += 1
        self._weigh(stored, answers=answer_weight(delivery, None) - before)
        self._readings.changed(delivery, text)
        self._relay.end(body)


def _keeps(flow: Flow | None, number: int) -> bool:
    return flow is not None and flow.number == number
