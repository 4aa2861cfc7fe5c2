"""The client's core, turned by hand: no sleep, no socket, no thread."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from starcore.client import orders
from starcore.client.core import (
    BACKOFF_IDLE_SECONDS,
    BACKOFF_MAX_SECONDS,
    GREETING_SECONDS,
    PATIENCE_SECONDS,
    ClientCore,
)
from starcore.client.state import TASK_OVERHEAD_BYTES
from starcore.errors import Code, OverrunError, Status, UnexpectedError
from starcore.events import (
    Blocked,
    ChunkReceived,
    Close,
    Dial,
    Finished,
    Log,
    Lost,
    Opened,
    Peer,
    Received,
    Send,
    SendChunk,
    Shaken,
    Tick,
    Writable,
)
from starcore.messages import (
    BATCH_BYTES_MAX,
    BATCH_TASKS_MAX,
    BLOB_STREAM,
    HEAD_BYTES_MAX,
    Abort,
    Ack,
    Assign,
    Blob,
    Cancel,
    Forget,
    FunctionKind,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    Job,
    Notice,
    Outcome,
    Role,
    Running,
    Slots,
    StatusReply,
    StatusRequest,
    Submit,
    Want,
    Welcome,
)
from starcore.pace import CHUNK_BYTES_AMONG, CHUNK_BYTES_FIRST

MIB = 1 << 20
DIGEST = b"d" * 32


class Client:
    """A core with a clock and a manager's voice; what it asks for waits in `out` until it is taken."""

    def __init__(self, *, jobs_idle_max: int = 4) -> None:
        hello = Hello(1, Role.CLIENT, bytes(range(16)), first_window_bytes=MIB)
        self.core = ClientCore(hello, jobs_idle_max=jobs_idle_max)
        self.now = 100.0
        self.link = 0
        self.out: list[Any] = []
        self.feed(orders.Connect())
        self.expect(Dial(0.0))

    def feed(self, event: Any) -> None:
        self.out += self.core.handle(event, self.now)
        self.core.check()

    def open(self) -> None:
        self.link += 1
        self.feed(Opened(self.link, Peer(Role.MANAGER, "manager", "host:444", "f", "star/manager/manager")))
        assert type(self.take(Hello)) is Hello

    def join(self, *, resumed: bool = False, submit_bytes: int = MIB, first_window_bytes: int = 0) -> Client:
        self.open()
        self.say(Welcome(1, 1, resumed, "", first_window_bytes, submit_bytes, 2.0, 8.0, 300.0, 1, 2))
        self.expect(orders.Connected(resumed, 1, 2))
        return self

    def say(self, message: Any) -> None:
        self.feed(Received(self.link, message))

    def chunk(self, stream: int, offset: int, length: int, attempt: int = 1) -> None:
        self.feed(ChunkReceived(self.link, stream, attempt, offset, length))

    def begin(self, job: int = 1, *, blob: bytes = b"blob", digest: bytes = DIGEST, priority: int = 0) -> None:
        self.feed(orders.Begin(Job(job, FunctionKind.SHIPPED, digest, "f", "3.11", 0, 0.0, priority), blob))

    def call(self, first: int = 0, count: int = 1, *, job: int = 1, head: bytes = b"head", body: int = 0) -> None:
        bodies = array("Q", [body] * count if body else [])
        self.feed(orders.Call(job, first, [head] * count, bodies))

    def outcome(self, *indices: int, sequence: int = 1, job: int = 1, attempt: int = 1, **more: Any) -> Outcome:
        bodies = more.get("bodies", [])
        statuses = bytes(more.get("statuses", [Status.OK] * len(indices)))
        heads = array("I", [1] * len(indices))
        letters = bytes(ord("a") + index % 26 for index in indices)
        return Outcome(sequence, job, attempt, array("I", indices), statuses, heads, array("Q", bodies), letters)

    def lose(self, reason: str = "reset") -> Dial:
        self.feed(Lost(self.link, reason))
        self.take_all(orders.Discard)
        assert self.out.pop(0).level == "warning"
        dial = self.out.pop(0)
        assert type(dial) is Dial
        return dial

    def close(self) -> None:
        """The link that the core has closed is gone, of which nothing more is to be said."""
        self.feed(Lost(self.link, "closed"))
        self.take(Dial)

    def wait(self, seconds: float) -> None:
        """Let time pass, with the ticks that the core asks for."""
        end = self.now + seconds
        while (deadline := self.core.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.feed(Tick())
        self.now = end

    def expect(self, *wanted: Any) -> None:
        for want in wanted:
            assert self.out, f"nothing left where {want} was expected"
            got = self.out.pop(0)
            assert (got.message if isinstance(got, Send) else got) == want

    def take(self, kind: type) -> Any:
        got = self.out.pop(0)
        got = got.message if isinstance(got, Send) else got
        assert type(got) is kind, got
        return got

    def take_all(self, kind: type) -> list[Any]:
        found = [each for each in self.out if type(each) is kind]
        self.out = [each for each in self.out if type(each) is not kind]
        return found

    def sent(self) -> list[Any]:
        found = [each.message for each in self.out if isinstance(each, Send)]
        self.out = [each for each in self.out if not isinstance(each, Send)]
        return found

    def acks(self) -> list[int]:
        """What is acknowledged within the next moment."""
        self.wait(0.05)
        found = [message for message in self.sent() if type(message) is Ack]
        return [sequence for ack in found for sequence in ack.sequences]

    def quiet(self) -> None:
        """Nothing else was asked for, and the accounts hold."""
        assert self.out == []
        self.core.check()


def stream(index: int, job: int = 1) -> int:
    return job << 32 | index


def submitting(count: int = 1, **more: Any) -> Client:
    client = Client().join(**{key: more.pop(key) for key in ("submit_bytes", "first_window_bytes") if key in more})
    client.begin()
    client.call(0, count, **more)
    client.expect(Blob(DIGEST, BLOB_STREAM | 1, 0, b"blob"), Job(1, FunctionKind.SHIPPED, DIGEST, "f", "3.11"))
    return client


# -- small calls -------------------------------------------------------------------------------------------------


def test_first_call_tells_the_function_and_the_job_before_the_task() -> None:
    client = submitting()
    client.expect(Submit(1, 0, False, array("I", [4]), array("Q"), b"head"))
    client.quiet()


def test_later_call_of_a_known_job_is_a_submit_alone() -> None:
    client = submitting()
    client.sent()
    client.call(1)
    assert client.take(Submit).first == 1
    client.quiet()


def test_outcome_without_a_body_is_resolved_with_the_messages_own_columns() -> None:
    client = submitting(2)
    client.sent()
    client.say(client.outcome(0, 1))
    assert client.take(orders.Resolve).heads == b"ab"
    assert client.acks() == [1]
    assert client.core.outstanding == 0
    client.quiet()


def test_repeated_outcome_is_acknowledged_again_and_nothing_else() -> None:
    client = submitting(2)
    client.say(client.outcome(0))
    client.acks()
    client.take(orders.Resolve)
    client.say(client.outcome(0, 1, sequence=2))
    assert list(client.take(orders.Resolve).indices) == [1]
    client.say(client.outcome(0, 1, sequence=2))
    assert client.acks() == [2, 2]
    client.quiet()


def test_outcome_of_an_unknown_job_is_only_acknowledged() -> None:
    client = Client().join()
    client.say(client.outcome(0, sequence=9, job=77))
    assert client.acks() == [9]
    client.quiet()


def test_acknowledgements_travel_with_the_next_submit() -> None:
    client = submitting(3)
    client.sent()
    client.say(client.outcome(0, sequence=1))
    client.say(client.outcome(1, sequence=2))
    client.call(3)
    client.take_all(orders.Resolve)
    assert [type(message) for message in client.sent()] == [Submit, Ack]
    assert client.acks() == []


def test_failures_are_resolved_like_results() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, statuses=[Status.RAISED]))
    assert client.take(orders.Resolve).statuses == bytes([Status.RAISED])
    client.acks()
    client.quiet()


# -- batches and credit ------------------------------------------------------------------------------------------


def test_calls_beyond_a_batch_become_several_submits() -> None:
    client = submitting(BATCH_TASKS_MAX + 5, head=b"h")
    assert [len(client.take(Submit).head_sizes) for _ in range(2)] == [BATCH_TASKS_MAX, 5]
    client.quiet()


def test_submit_carries_no_more_bytes_than_a_batch_may() -> None:
    client = submitting(5, head=bytes(HEAD_BYTES_MAX))
    assert [len(client.take(Submit).heads) for _ in range(3)] == [BATCH_BYTES_MAX, BATCH_BYTES_MAX, HEAD_BYTES_MAX]
    client.quiet()


def test_calls_beyond_the_credit_wait_for_outcomes() -> None:
    weight = 4 + TASK_OVERHEAD_BYTES
    client = submitting(5, submit_bytes=2 * weight + 1)
    assert len(client.take(Submit).head_sizes) == 2
    client.quiet()
    client.say(client.outcome(0))
    client.take(orders.Resolve)
    assert client.take(Submit).first == 2
    client.sent()
    client.quiet()


def test_lone_task_larger_than_the_credit_is_sent_all_the_same() -> None:
    client = submitting(2, submit_bytes=1)
    assert len(client.take(Submit).head_sizes) == 1
    client.quiet()


def test_calls_that_wait_are_joined_into_one_submit() -> None:
    client = submitting(1, submit_bytes=2 * (4 + TASK_OVERHEAD_BYTES))
    for index in range(1, 4):
        client.call(index)
    assert [len(message.head_sizes) for message in client.sent()] == [1, 1]
    client.say(client.outcome(0, 1))
    client.take(orders.Resolve)
    assert len(client.take(Submit).head_sizes) == 2


def test_higher_priority_overtakes_what_waits() -> None:
    client = submitting(2, submit_bytes=1)
    client.begin(2, digest=b"e" * 32, priority=5)
    client.call(0, job=2)
    client.sent()
    client.say(client.outcome(0))
    assert [message.job for message in client.sent() if type(message) is Submit] == [2]


def test_cancelled_call_that_waits_is_never_sent() -> None:
    client = submitting(2, submit_bytes=1)
    client.sent()
    client.feed(orders.CancelCall(1, [1]))
    client.say(client.outcome(0))
    client.take(orders.Resolve)
    assert client.acks() == [1]
    client.quiet()


# -- bodies ------------------------------------------------------------------------------------------------------


def test_argument_is_sent_when_it_is_granted_a_chunk_at_a_time() -> None:
    client = submitting(body=CHUNK_BYTES_FIRST + 10)
    assert list(client.take(Submit).body_sizes) == [CHUNK_BYTES_FIRST + 10]
    client.quiet()
    client.say(Grant(stream(0), 1, 0, CHUNK_BYTES_FIRST + 10))
    client.expect(SendChunk(1, stream(0), 1, 0, CHUNK_BYTES_FIRST))
    client.feed(Writable(1))
    client.expect(SendChunk(1, stream(0), 1, CHUNK_BYTES_FIRST, 10))
    client.feed(Writable(1))
    client.quiet()


def test_small_call_makes_the_chunks_of_an_upload_small() -> None:
    client = submitting(body=64 * MIB)
    client.sent()
    client.say(Grant(stream(0), 1, 0, 64 * MIB))
    for _ in range(5):
        client.feed(Writable(1))
    assert client.take_all(SendChunk)[-1].length > CHUNK_BYTES_AMONG
    client.call(1)
    for _ in range(5):
        client.feed(Writable(1))
    assert {chunk.length for chunk in client.take_all(SendChunk)} == {CHUNK_BYTES_AMONG}


def test_first_window_leaves_unasked() -> None:
    client = submitting(body=1000, first_window_bytes=600)
    client.take(Submit)
    client.expect(SendChunk(1, stream(0), 1, 0, 600))
    client.quiet()


def test_nothing_is_sent_on_a_blocked_link() -> None:
    client = submitting(body=1000)
    client.sent()
    client.feed(Blocked(1))
    client.say(Grant(stream(0), 1, 0, 1000))
    client.quiet()
    client.feed(Writable(1))
    client.expect(SendChunk(1, stream(0), 1, 0, 1000))


def test_another_attempt_pulls_the_argument_from_its_beginning() -> None:
    client = submitting(body=1000)
    client.sent()
    client.say(Grant(stream(0), 1, 0, 1000))
    client.take(SendChunk)
    client.say(Abort(stream(0), 1, Code.GONE, "the worker died"))
    client.say(Grant(stream(0), 2, 0, 1000))
    client.expect(SendChunk(1, stream(0), 2, 0, 1000))
    client.quiet()


def test_argument_is_released_before_its_future_is_resolved() -> None:
    client = submitting(body=1000)
    client.sent()
    client.say(client.outcome(0))
    client.expect(orders.Released(1, [0]))
    client.take(orders.Resolve)
    client.say(Grant(stream(0), 1, 0, 1000))
    client.acks()
    client.quiet()


def test_answer_with_a_body_is_granted_whole_and_lands() -> None:
    client = submitting(2)
    client.sent()
    client.say(client.outcome(0, 1, bodies=[1000, 0]))
    client.expect(orders.Receive(1, 0, 1, Status.OK, b"a", 1000), Grant(stream(0), 1, 0, 1000))
    assert list(client.take(orders.Resolve).indices) == [1]
    client.chunk(stream(0), 0, 400)
    assert client.acks() == []
    client.chunk(stream(0), 400, 600)
    client.expect(orders.Landed(1, 0, Status.OK))
    assert client.acks() == [1]
    client.quiet()


def test_answer_that_has_landed_gives_its_credit_back() -> None:
    client = Client().join(submit_bytes=4 + TASK_OVERHEAD_BYTES)
    client.begin()
    client.call(count=2)
    assert [len(message.head_sizes) for message in client.sent() if type(message) is Submit] == [1]
    client.say(client.outcome(0, bodies=[10]))
    client.out.clear()
    client.chunk(1 << 32, 0, 10)
    assert [message.first for message in client.sent() if type(message) is Submit] == [1]


def test_answer_that_breaks_off_is_discarded_and_comes_again() -> None:
    client = submitting(body=8)
    client.sent()
    client.say(client.outcome(0, bodies=[1000]))
    client.out.clear()
    client.chunk(stream(0), 0, 400)
    client.say(Abort(stream(0), 1, Code.GONE, "the worker is gone"))
    client.expect(orders.Discard(1, 0))
    client.say(Grant(stream(0), 2, 0, 8))
    client.expect(SendChunk(1, stream(0), 2, 0, 8))
    client.chunk(stream(0), 400, 100)
    client.say(client.outcome(0, sequence=2, attempt=2, bodies=[1000]))
    client.expect(orders.Receive(1, 0, 2, Status.OK, b"a", 1000), Grant(stream(0), 2, 0, 1000))
    client.chunk(stream(0), 0, 1000, attempt=2)
    client.expect(orders.Released(1, [0]), orders.Landed(1, 0, Status.OK))
    assert client.acks() == [2]
    client.quiet()


def test_answer_beyond_its_grant_is_the_managers_fault() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, bodies=[1000]))
    with pytest.raises(OverrunError):
        client.chunk(stream(0), 0, 1001)


# -- functions ---------------------------------------------------------------------------------------------------


def test_large_function_is_streamed_from_the_cores_own_bytes() -> None:
    blob = bytes(range(256)) * 1024
    client = Client().join()
    client.begin(blob=blob)
    client.call()
    assert [type(message) for message in client.sent()] == [Blob, Job, Submit]
    client.say(Grant(BLOB_STREAM | 1, 1, 0, len(blob)))
    assert bytes(client.take(SendChunk).token) == blob[:CHUNK_BYTES_FIRST]
    client.quiet()


def test_large_function_that_the_manager_has_already_is_not_sent() -> None:
    client = Client().join()
    client.begin(blob=bytes(HEAD_BYTES_MAX + 1))
    client.call()
    blob = next(message for message in client.sent() if type(message) is Blob)
    client.say(Abort(blob.stream, 1, Code.NORMAL, "it is here"))
    client.say(Grant(blob.stream, 1, 0, 100))
    client.quiet()


def test_wanted_function_is_sent_again() -> None:
    client = submitting()
    client.sent()
    client.say(Want(DIGEST))
    client.expect(Blob(DIGEST, BLOB_STREAM | 2, 0, b"blob"))
    client.say(Want(b"x" * 32))
    client.quiet()


def test_two_jobs_share_a_function() -> None:
    client = submitting()
    client.begin(2)
    client.call(job=2)
    assert [type(message) for message in client.sent()] == [Submit, Job, Submit]


def test_idle_job_beyond_the_bound_is_forgotten() -> None:
    client = Client(jobs_idle_max=1).join()
    for job in (1, 2):
        client.begin(job, digest=bytes([job]) * 32)
        client.call(job=job)
        client.say(client.outcome(0, sequence=job, job=job))
    assert client.take_all(orders.Forgotten) == [orders.Forgotten(1)]
    kinds = [type(message) for message in client.sent()]
    assert kinds.index(Forget) == kinds.index(Ack) + 1


def forgetful() -> Client:
    """A client that has called two jobs, of which it keeps one: the first is forgotten."""
    client = Client(jobs_idle_max=1).join()
    for job in (1, 2):
        client.begin(job, digest=bytes([job]) * 32)
        client.call(job=job)
        client.say(client.outcome(0, sequence=job, job=job))
    return client


def test_forgotten_job_begins_anew_with_its_next_call() -> None:
    client = forgetful()
    client.out.clear()
    client.begin(1, digest=bytes([1]) * 32)
    client.call(1)
    assert [type(message) for message in client.sent()] == [Ack, Forget, Blob, Job, Submit]


def test_job_that_was_over_while_the_manager_was_away_is_forgotten_there_too() -> None:
    """The simulator found it: the manager kept the job and its function for as long as the session lived."""
    client = Client(jobs_idle_max=1).join()
    client.begin(1)
    client.call(job=1)
    client.say(client.outcome(0, job=1))
    client.out.clear()
    client.lose()
    client.begin(2)
    client.expect(orders.Forgotten(1))
    client.join(resumed=True)
    assert [message for message in client.sent() if type(message) is Forget] == [Forget(1)]


def test_forget_is_not_said_again_of_a_job_that_was_begun_again() -> None:
    """A soak found it: the manager forgot what it was doing for that job, and did it once more."""
    client = forgetful()
    assert Forget(1) in client.sent()
    client.begin(1, digest=bytes([1]) * 32)
    client.call(job=1, first=1)
    client.out.clear()
    client.lose()
    client.join(resumed=True)
    said = client.sent()
    assert [message for message in said if type(message) is Forget and message.job == 1] == []
    assert [message.first for message in said if type(message) is Submit and message.job == 1] == [1]


def test_forget_that_was_lost_with_its_link_is_said_again_to_the_manager_that_knows_the_session() -> None:
    client = forgetful()
    assert Forget(1) in client.sent()
    client.out.clear()
    client.lose()
    client.join(resumed=True)
    assert [message for message in client.sent() if type(message) is Forget] == [Forget(1)]
    client.lose()
    client.join(resumed=False)
    assert not [message for message in client.sent() if type(message) is Forget]


# -- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_of_a_sent_call_is_said_and_its_outcome_dropped() -> None:
    client = submitting(2, body=8)
    client.sent()
    client.feed(orders.CancelCall(1, [0]))
    client.expect(orders.Released(1, [0]), Cancel(1, False, array("I", [0])))
    assert client.core.outstanding == 1
    client.say(Grant(stream(0), 1, 0, 8))
    client.say(client.outcome(0, statuses=[Status.CANCELLED]))
    assert client.acks() == [1]
    client.quiet()


def test_late_answer_with_a_body_of_a_cancelled_call_is_not_asked_for() -> None:
    client = submitting()
    client.sent()
    client.feed(orders.CancelCall(1, [0], kill=True))
    client.expect(Cancel(1, True, array("I", [0])))
    client.say(client.outcome(0, bodies=[1000]))
    client.chunk(stream(0), 0, 100)
    assert client.acks() == [1]
    client.quiet()


def test_cancel_of_what_is_done_or_unknown_says_nothing() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0))
    client.take(orders.Resolve)
    client.acks()
    client.feed(orders.CancelCall(1, [0, 5]))
    client.feed(orders.CancelCall(7, [0]))
    client.quiet()


# -- the link ----------------------------------------------------------------------------------------------------


def test_lost_link_is_dialled_anew_with_growing_patience() -> None:
    client = submitting()
    client.sent()
    delays = [client.lose().delay_seconds]
    for _ in range(5):
        client.feed(Lost(0, "refused"))
        client.take(Log)
        delays.append(client.take(Dial).delay_seconds)
    assert delays[0] < 0.2
    assert max(delays) <= BACKOFF_MAX_SECONDS * 1.5
    assert delays[-1] > delays[0]


def test_idle_client_dials_rarely_and_a_call_wakes_it() -> None:
    client = Client().join()
    client.lose()
    for _ in range(9):
        client.feed(Lost(0, "refused"))
    last = client.take_all(Dial)[-1]
    assert BACKOFF_MAX_SECONDS < last.delay_seconds <= BACKOFF_IDLE_SECONDS * 1.5
    client.take_all(Log)
    client.begin()
    client.call()
    client.expect(Dial(0.0))
    client.call(1)
    client.quiet()


def test_first_call_of_an_idle_client_does_not_wait_for_a_dial_that_is_near_and_the_second_does() -> None:
    """Where nobody listens every dial fails at once: a call after the other would dial without a pause."""
    client = Client().join()
    client.begin()
    client.lose()
    client.call()
    client.expect(Dial(0.0))
    client.feed(Lost(0, "refused"))
    client.take(Log)
    assert 0.0 < client.take(Dial).delay_seconds < BACKOFF_MAX_SECONDS
    client.call(1)
    client.quiet()


def test_machine_that_slept_or_moved_dials_at_once() -> None:
    client = submitting()
    client.sent()
    client.feed(Shaken("this machine slept for 60 s"))
    client.expect(Log("info", "this machine slept for 60 s: dialling anew"))
    assert client.take(Close).code == Code.SILENT, "the session goes on"
    client.feed(Lost(client.link, "closed"))
    assert client.take(Dial).delay_seconds <= 0.1
    for _ in range(3):
        client.feed(Lost(0, "unreachable"))
    client.out.clear()
    client.feed(Shaken("this machine has another address now"))
    client.expect(Dial(0.0))
    client.feed(Shaken("this machine has another address now"))
    client.quiet()
    client.join(resumed=True)
    assert [message.again for message in client.sent() if type(message) is Submit] == [True]


def test_everything_unfinished_is_said_again_on_the_next_link() -> None:
    client = submitting(4, body=8)
    client.sent()
    client.say(client.outcome(1))
    client.feed(orders.CancelCall(1, [3], kill=True))
    client.out.clear()
    client.lose()
    client.call(4)
    client.join(resumed=True)
    sent = client.sent()
    assert [type(message) for message in sent] == [Blob, Job, Cancel, Submit, Submit, Submit]
    assert sent[2] == Cancel(1, True, array("I", [3]))
    assert [(message.first, len(message.head_sizes), message.again) for message in sent[3:]] == [
        (0, 1, True),
        (2, 1, True),
        (4, 1, False),
    ]
    client.quiet()


def test_manager_that_lost_the_session_is_told_nothing_of_cancelled_calls() -> None:
    client = submitting(2)
    client.sent()
    client.feed(orders.CancelCall(1, [1]))
    client.sent()
    client.lose()
    client.join(resumed=False)
    assert [type(message) for message in client.sent()] == [Blob, Job, Submit]
    client.quiet()


def test_arguments_sent_again_wait_to_be_asked_for() -> None:
    client = submitting(body=1000, first_window_bytes=600)
    client.out.clear()
    client.lose()
    client.out.clear()
    client.join(resumed=True, first_window_bytes=600)
    assert client.take_all(SendChunk) == []
    client.say(Grant(stream(0), 1, 300, 700))
    assert client.take_all(SendChunk) == [SendChunk(2, stream(0), 1, 300, 700)]


def test_what_was_sent_before_is_said_again_before_anything_new() -> None:
    """The manager counts it still: a new task of higher priority that came first could overrun the credit."""
    client = Client().join(submit_bytes=2 * (4 + TASK_OVERHEAD_BYTES))
    client.begin()
    client.begin(2, priority=5)
    client.call(count=2)
    client.call(job=2)
    client.out.clear()
    client.lose()
    client.join(resumed=True, submit_bytes=2 * (4 + TASK_OVERHEAD_BYTES))
    assert [(message.job, message.first) for message in client.sent() if type(message) is Submit] == [(1, 0)]
    client.say(client.outcome(0))
    assert [(message.job, message.first) for message in client.sent() if type(message) is Submit] == [(2, 0)]


def test_outcome_that_comes_again_before_its_task_was_sent_again_counts() -> None:
    client = submitting(2, submit_bytes=1)
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.out.clear()
    client.lose()
    client.join(resumed=True, submit_bytes=1)
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.expect(Grant(stream(0), 1, 0, 10))
    client.chunk(stream(0), 0, 10)
    client.take(orders.Landed)
    assert client.acks() == [1]


def test_answer_goes_on_where_a_lost_link_cut_it_off() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.chunk(stream(0), 0, 4)
    client.out.clear()
    for position in (4, 7):
        client.lose()
        client.join(resumed=True)
        client.sent()
        client.say(client.outcome(0, bodies=[10]))
        client.expect(Grant(stream(0), 1, position, 10 - position))
        client.chunk(stream(0), position, 3)
    client.expect(orders.Landed(1, 0, Status.OK))
    assert client.acks() == [1]
    client.quiet()


@pytest.mark.parametrize("again", [{"sequence": 2}, {"attempt": 2}, {"bodies": [11]}])
def test_another_answer_than_the_one_that_was_cut_off_begins_anew(again: dict[str, Any]) -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.chunk(stream(0), 0, 4)
    client.out.clear()
    client.lose()
    client.join(resumed=True)
    client.sent()
    client.say(client.outcome(0, **{"bodies": [10], **again}))
    client.expect(orders.Discard(1, 0))
    client.take(orders.Receive)
    assert client.take(Grant).offset == 0


def test_cut_off_answer_does_not_go_on_with_another_manager() -> None:
    """It says that the session goes on when its first WELCOME was lost on the way, and knows nothing of it."""
    client = Client().join(first_window_bytes=0)
    client.begin()
    client.call()
    client.say(client.outcome(0, bodies=[10]))
    client.chunk(1 << 32, 0, 4)
    client.out.clear()
    client.lose()
    client.open()
    client.say(Welcome(1, 2, True, "", 0, MIB, 2.0, 8.0, 300.0, 1, 2))
    assert client.take_all(orders.Discard) == [orders.Discard(1, 0)]
    client.say(client.outcome(0, bodies=[10]))
    assert client.take_all(orders.Receive)


def test_failure_after_a_cut_off_answer_voids_its_landing() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.out.clear()
    client.lose()
    client.join(resumed=True)
    client.sent()
    client.say(client.outcome(0, sequence=2, statuses=[Status.CRASHED]))
    client.expect(orders.Discard(1, 0))
    client.take(orders.Resolve)
    assert client.acks() == [2]
    client.quiet()


def test_cut_off_answer_is_void_where_the_manager_lost_the_session() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0, bodies=[10]))
    client.out.clear()
    client.feed(Lost(1, "reset"))
    assert client.take_all(orders.Discard) == []
    client.out.clear()
    client.open()
    client.say(Welcome(1, 2, False, submit_bytes=MIB))
    assert client.take_all(orders.Discard) == [orders.Discard(1, 0)]
    assert client.core.outstanding == 1


def test_words_of_an_old_link_are_ignored() -> None:
    client = submitting()
    client.sent()
    client.lose()
    client.feed(Received(1, client.outcome(0)))
    client.feed(ChunkReceived(1, stream(0), 1, 0, 5))
    client.feed(Writable(1))
    client.feed(Lost(1, "again"))
    client.quiet()


def test_silent_manager_loses_its_link_and_heartbeats_fill_silence() -> None:
    client = Client().join()
    client.wait(PATIENCE_SECONDS - 0.1)
    assert {type(message) for message in client.sent()} == {Heartbeat}
    client.wait(0.2)
    assert client.take(Log).level == "warning"
    assert client.take(Close).code == Code.SILENT
    client.close()
    assert client.core.deadline() is None
    client.quiet()


def test_manager_that_never_welcomes_is_left() -> None:
    client = Client()
    client.open()
    client.wait(GREETING_SECONDS)
    assert client.take(Close).code == Code.SILENT
    client.close()
    client.quiet()


@pytest.mark.parametrize("code", [Code.VERSION, Code.ROLE, Code.SUPERSEDED])
def test_hopeless_refusal_ends_the_session(code: Code) -> None:
    client = Client()
    client.open()
    client.say(Goodbye(code, "no"))
    client.take(Close)
    client.feed(Lost(1, "closed"))
    client.expect(orders.Refused(code, "no"))
    client.feed(Lost(1, "closed"))
    client.quiet()


def test_draining_manager_is_dialled_again() -> None:
    client = Client().join()
    client.say(Goodbye(Code.DRAINING, "restarting"))
    client.take(Log)
    client.take(Close)
    client.say(Heartbeat())  # whatever else was on its way
    client.close()
    client.quiet()


def test_message_before_welcome_or_out_of_place_is_a_fault() -> None:
    client = Client()
    client.open()
    with pytest.raises(UnexpectedError, match="before WELCOME"):
        client.say(Heartbeat())
    client.say(Welcome(1, 1, False))
    with pytest.raises(UnexpectedError, match="second WELCOME"):
        client.say(Welcome(1, 1, False))
    with pytest.raises(UnexpectedError, match="Assign"):
        client.say(Assign(1, 1, 0, 1))


# -- the rest ----------------------------------------------------------------------------------------------------


def test_running_notice_slots_and_status_reach_the_shell() -> None:
    client = submitting()
    client.sent()
    client.say(Running(1, array("I", [0])))
    client.say(Notice(1, "no worker has Python 3.11"))
    client.say(Slots(3, 12))
    client.feed(orders.Ask())
    client.say(StatusReply("{}"))
    client.expect(
        orders.MarkRunning(1, array("I", [0])),
        orders.Say("f waits: no worker has Python 3.11"),
        orders.Resized(3, 12),
        StatusRequest(),
        orders.Told("{}"),
    )
    client.quiet()


def test_client_that_is_cut_off_when_it_is_done_comes_back_to_say_so() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0))
    client.out.clear()
    client.lose()
    client.feed(orders.Shutdown())
    assert not client.take_all(orders.Finished)
    client.join(resumed=True)
    assert client.take(Close).code == Code.NORMAL
    assert client.take(orders.Finished)


def test_client_that_is_done_does_not_wait_long_for_a_manager_that_is_gone() -> None:
    client = submitting()
    client.sent()
    client.say(client.outcome(0))
    client.out.clear()
    client.lose()
    client.feed(orders.Shutdown())
    client.wait(2.1)
    assert client.take(orders.Finished)


def test_shutdown_waits_for_what_is_outstanding() -> None:
    client = submitting()
    client.sent()
    client.feed(orders.Shutdown())
    client.quiet()
    client.say(client.outcome(0))
    client.take(orders.Resolve)
    assert client.take(Ack)
    assert client.take(Close).code == Code.NORMAL
    client.expect(Finished())
    client.feed(Lost(1, "closed"))
    client.quiet()


def test_shutdown_that_abandons_leaves_at_once() -> None:
    client = submitting(body=8)
    client.sent()
    client.feed(orders.Shutdown(abandon=True))
    client.take(Close)
    client.expect(Finished())
    assert client.core.deadline() is None


def test_late_dial_after_the_end_is_closed() -> None:
    client = Client()
    client.feed(orders.Shutdown(abandon=True))
    client.expect(Finished())
    client.feed(Opened(5, Peer(Role.MANAGER, "manager", "", "", "")))
    assert client.take(Close).link == 5
    client.quiet()


def test_books_are_empty_after_many_calls_and_outcomes() -> None:
    client = submitting(1)
    for index in range(1, 300):
        client.core.handle(orders.Call(1, index, [b"h"]), client.now)
    for index in range(299, -1, -1):
        client.core.handle(Received(1, client.outcome(index, sequence=index + 1)), client.now)
    client.core.check()
    assert client.core.outstanding == 0


@pytest.mark.parametrize(("beat", "silence"), [(0.0, 8.0), (1e-9, 8.0), (2.0, 0.0), (2.0, 1.0)])
def test_heartbeats_that_would_keep_the_loop_busy_are_refused(beat: float, silence: float) -> None:
    client = Client()
    client.open()
    with pytest.raises(UnexpectedError):
        client.say(Welcome(1, 1, False, "", 0, MIB, beat, silence, 300.0, 1, 2))


def test_notice_is_shown_once_and_on_one_line() -> None:
    client = Client().join()
    client.begin()
    client.call()
    client.sent()
    client.say(Notice(1, "no worker\n\x1b[2J" + "x" * 60_000))
    client.say(Notice(1, "no worker"))
    (said,) = client.take_all(orders.Say)
    assert said.text.startswith("f waits: no worker\\n\\x1b[2J") and len(said.text) <= 1000
