"""Functions by their name or by value, and the jobs that options make."""

from __future__ import annotations

import numpy as np

from starcore.client.api import Client
from starcore.messages import Job

from .inline_manager import InlineStar

SECONDS = 10.0
A = np.arange(12.0).reshape(4, 3)


def test_registered_functions_are_called_by_name(client: Client) -> None:
    assert client.submit_array("science:double", A).result(SECONDS)[3, 2] == 22.0
    assert [answer[-1] for answer in client.run([np.ones(3), np.ones(4)])] == [3.0, 4.0]
    assert client.run([np.ones(3)], np.sum) == [3.0]
    assert client.run([]) == []


def test_options_make_a_job_of_their_own_and_add_up(star: InlineStar, client: Client) -> None:
    view = client.options(retries=2, timeout=1.5).options(priority=-1)
    assert view.submit(abs, -3).result(SECONDS) == 3
    jobs = star.call(lambda: [message for message in star.core.seen if type(message) is Job])
    assert (jobs[-1].retries, jobs[-1].timeout_seconds, jobs[-1].priority) == (2, 1.5, -1)
    assert view.slots == client.slots
    assert view.address == client.address == star.address
