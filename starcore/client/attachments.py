"""Stored jobs, as the client's core deals with them: those it brings, those it reads, and what it asks of them. Pure.

A job that is to be stored (DETACH) has tasks like any other; their outcomes say that they are stored, and STORED says
when all of them are. One that is read (ATTACH) has tasks that are never sent: how many, STORED tells, and their
outcomes come by themselves. Both are said again on each link, until they are over; so are questions not answered.
"""

from __future__ import annotations

from starcore.client.answers import Answers
from starcore.client.orders import Listed, Outbox, Question, Released, StoredTold
from starcore.client.state import DONE, JobEntry, Ledger
from starcore.errors import Code
from starcore.messages import Attach, Detach, Inquire, Inventory, Stored
from starcore.streams import Sending


class Attachments:
    """Every stored job that this session brings or reads."""

    def __init__(self, ledger: Ledger, answers: Answers, outbox: Outbox) -> None:
        self._ledger = ledger
        self._answers = answers
        self._outbox = outbox
        self._openings: dict[int, Detach | Attach] = {}
        self._begun: set[int] = set()
        """Detached jobs of which the manager has heard."""
        self._expected: set[int] = set()
        """Jobs that are read, and whose tasks are known."""
        self._questions: dict[int, Inquire] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._openings

    @property
    def asking(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._openings or self._questions)

    def open(self, number: int, message: Detach | Attach) -> None:
        """A job is to be stored, or a stored one read."""
        self._openings[number] = message

    def reads(self, number: int) -> bool:
        """Whether this job reads a stored one, and so has no JOB of its own."""
        return type(self._openings.get(number)) is Attach

    def reading(self) -> list[int]:
        """The jobs that read stored ones."""
        return [number for number in self._openings if self.reads(number)]

    def tell(self, number: int) -> None:
        """Say what a job is, behind its JOB where it has one."""
        message = self._openings.get(number)
        if message is not None:
            self._begun.add(number)
            self._outbox.send(message)

    def ask(self, event: Question, up: bool) -> None:
        """Ask how stored jobs stand, or no more."""
        if event.deed is None:
            self._questions.pop(event.number, None)
            return
        message = self._questions[event.number] = Inquire(event.number, event.deed, event.name)
        if up:
            self._outbox.send(message)

    def ask_again(self) -> None:
        """On a new link: what was asked and not answered."""
        for message in self._questions.values():
            self._outbox.send(message)

    def answered(self, message: Inventory) -> None:
        """An answer came."""
        if self._questions.pop(message.question, None) is not None:
            self._outbox.ask(Listed(message.question, message.text))

    def lost(self) -> list[int]:
        """The manager knows nothing of this session: what was on its way to be stored is not there any more."""
        return [number for number in self._begun if type(self._openings[number]) is Detach]

    def told(self, message: Stored) -> bool:
        """Hear what became of a job. Returns whether it is over, and nothing is open of it."""
        number, opening = message.job, self._openings.get(message.job)
        if opening is None:
            return False
        if type(opening) is Attach and not message.code and number not in self._expected:
            self._expected.add(number)
            self._ledger.expect(number, message.tasks)
        self._outbox.ask(
            StoredTold(number, message.code, message.reason, message.whole, message.tasks, bytes(message.note))
        )
        return bool(message.code) or (type(opening) is Detach and message.whole)

    def give_up(self, number: int, reason: str) -> None:
        """Tell the shell that nothing comes of a job any more."""
        self._outbox.ask(StoredTold(number, Code.GONE, reason, False, 0, b""))

    def end(self, entry: JobEntry, sending: Sending) -> None:
        """Nothing is awaited of a job any more."""
        number = entry.job.job
        del self._openings[number]
        self._begun.discard(number)
        self._expected.discard(number)
        released = []
        for run in list(entry.runs):
            for at in range(len(run.states)):
                if run.states[at] == DONE:
                    continue
                stream = number << 32 | (run.first + at)
                sending.close(stream)
                self._answers.void(stream)
                if run.body(at):
                    released.append(run.first + at)
                self._ledger.settle(run, at)
        if released:
            self._outbox.ask(Released(number, released))

    def check(self) -> None:
        """Assert the invariants."""
        assert self._openings.keys() <= self._ledger.jobs.keys()
        assert self._begun | self._expected <= self._openings.keys()
        for number in self._openings:
            assert self._ledger.jobs[number].attached == self.reads(number)
        assert all(number == message.question for number, message in self._questions.items())
