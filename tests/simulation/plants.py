"""Bugs to be planted in the cores, one at a time: realistic slips of one line, each with what it breaks.

``python -m tests.simulation.plants [NAME ...]`` plants each in a process of its own, which sees the changed source in
the place of the real one, and lives through seeds until an invariant breaks. One JSON line a bug says how soon:

    {"name": "...", "caught": 3, "seeds": 4, "steps": 3211, "found": "I1: ..."}

Nothing is written to disk: the source is changed on its way into the interpreter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import chain
from types import CodeType
from typing import Any

SEEDS = 1000
"""A bug that lives through so many has escaped."""


@dataclass(frozen=True, slots=True)
class Plant:
    """One line of a core, and what a tired hand might have made of it."""

    name: str
    module: str
    before: str
    after: str
    hint: int = 0
    """The seed that caught it when it was planted: tried first, to save time."""


def _plants() -> Iterator[Plant]:
    for module, rows in TABLE.items():
        for name, row in rows.items():
            yield Plant(name, f"starcore.{module}", *row)


Row = tuple[str, str] | tuple[str, str, int]

TABLE: dict[str, dict[str, Row]] = {
    "manager.leases": {
        "a lost lease is closed, and its task not queued again": (
            "            self.requeue(run, first, last, leased.attempt, cause, moved=moved)",
            "            pass",
        ),
        "a lost lease is queued again under the same attempt": (
            "span = run.span(start, stop, attempt + 1)",
            "span = run.span(start, stop, attempt)",
            1,
        ),
        "what was given back is counted as leased still": (
            "        self.unlease(run.job, stop - start)\n        if self._outbox",
            "        if self._outbox",
        ),
        "a task is tried once more than its deaths allow": (
            "if task.losses < self._limits.crash_tasks_max:",
            "if task.losses <= self._limits.crash_tasks_max:",
            3,
        ),
        "a death is counted for a task that was cancelled": (
            "        if run.states[position] != State.LEASED:\n            return\n",
            "",
        ),
        "the arena of a lease that ended stays taken": (
            "worker.arena_used_bytes -= run.body(leased.start)",
            "pass",
            1,
        ),
        "a lease that was asked back stays asked for": (
            "worker.asked -= leased.marks.count(Mark.ASKED, low, high)",
            "pass",
            14,
        ),
        "lease numbers advance by one, not by the batch": (
            "self._next += count",
            "self._next += 1",
        ),
        "an argument goes on to a worker that is through with it": (
            "            if flow is not None:\n                self._relay.unaim(flow)",
            "            pass",
            1,
        ),
        "an answer's bytes at its worker are counted for ever": (
            "held[client] -= _body(leased.answering.pop(offset))",
            "leased.answering.pop(offset)",
            1,
        ),
        "what is leased is not counted for its client": (
            "        job.client.leased += count\n",
            "",
        ),
        "a lease is not charged to its worker": (
            "        self._scheduler.lease(leased)\n",
            "",
        ),
    },
    "manager.workers": {
        "a returning worker is believed to hold all it was given": (
            "missing = [offset for offset in leased.live() if leased.first + offset not in held]",
            "missing = []",
            50,
        ),
        "an argument is not aimed at its returning worker": (
            "            if flow is not None and leased.left:\n",
            "            if flow is not None and not leased.left:\n",
            17,
        ),
        "a cancel that a worker did not hear is not said again": (
            "self._outbox.send(worker.link, Retract(kill, numbers))",
            "pass",
            89,
        ),
        "a lost worker's answers are not taken for lost": (
            "            for offset in list(leased.answering):\n                self._results.lose(leased, offset)\n",
            "",
            32,
        ),
        "a lost worker stays in the tables of its jobs": (
            "job.workers.pop(worker, None)",
            "pass",
        ),
        "nobody is blamed for the death of a worker": (
            "running = worker.slots if blame else 0",
            "running = 0",
            7,
        ),
        "a job is not announced again to a worker that came back": (
            "self._outbox.send(worker.link, job.message)\n        held",
            "pass\n        held",
            1,
        ),
        "a worker that was away is not told which jobs are over": (
            "worker.forgotten.append(job.number)",
            "pass",
            100,
        ),
        "what a worker gave back of an asked lease counts as asked still": (
            "            leased.worker.asked -= 1\n",
            "            pass\n",
            87,
        ),
        "a cancel goes to the lease before the one that is meant": (
            "wanted.setdefault(leased.worker, []).append(leased.first + offset)",
            "wanted.setdefault(leased.worker, []).append(leased.first + max(0, offset - 1))",
            47,
        ),
        "a killing cancel does not kill": (
            'self._outbox.send(worker.link, Retract(kill, array("Q", sorted(numbers))))',
            'self._outbox.send(worker.link, Retract(False, array("Q", sorted(numbers))))',
            28,
        ),
        "values are believed to be at a worker that is gone": (
            "        self._values.lose(worker)\n",
            "",
            7,
        ),
        "a job does not know who was told of it": (
            "            job.workers[worker] = None\n",
            "",
        ),
    },
    "manager.results": {
        "a repeated answer does not bring its bytes again": (
            "if flow is not None and not flow.source and not flow.kept_whole:",
            "if False:",
            134,
        ),
        "an answer is taken back before the word of a client that was told": (
            "and flow.sink_stream and not flow.asked",
            "and flow.sink_stream and not flow.sink",
            2000036841,
        ),
        "a task is tried once less than its retries": (
            "if task.raised < run.job.message.retries:",
            "if task.raised + 1 < run.job.message.retries:",
            2,
        ),
        "the worker may free an answer before its client has it": (
            "            self._answer(piece, message.body_sizes[piece.low])\n            return True",
            "            self._answer(piece, message.body_sizes[piece.low])\n            return False",
            6,
        ),
        "a worker is not told that its answer arrived": (
            "                self._outbox.send(link, Confirm(leases))",
            "                pass",
            1,
        ),
        "a result is not confirmed": (
            "            self._outbox.send(worker.link, Confirm(leases), hurry=False)",
            "            pass",
            1,
        ),
        "results are told under the indices of their leases": (
            'indices = array("I", range(run.first + start, run.first + start + count))',
            'indices = array("I", range(run.first + piece.offset, run.first + piece.offset + count))',
        ),
        "an answer whose worker is gone is waited for": (
            "            self._relay.close_source(flow)\n            return\n        self.recalled(delivery)",
            "            self._relay.close_source(flow)\n            return",
            45,
        ),
        "a result of an ended lease is taken again": (
            "        if mark == Mark.ENDED:\n",
            "        if False:\n",
            58,
        ),
        "an answer is believed to lie at a worker that is gone": (
            "        delivery.leased = None\n",
            "",
            32,
        ),
    },
    "manager.delivery": {
        "outcomes are not told again to a client that came back": (
            "            self._send(client, delivery, window=False)",
            "            pass",
            1,
        ),
        "an acknowledged outcome still weighs on its client's credit": (
            "        self._unread(client, -delivery.bytes)\n        client.settled_bytes",
            "        client.settled_bytes",
        ),
        "credit of a recalled answer is given back twice": (
            "        run.task(start).settled = True\n",
            "",
            31,
        ),
        "what a client took is not taken out of its run": (
            "            run.unread -= stop - start",
            "            run.unread -= 1",
            3,
        ),
        "an outcome without a worker weighs nothing": (
            "        client.settled_bytes += measure * settled\n        client.unread[client",
            "        client.unread[client",
        ),
        "an answer that was taken back stays unread": (
            "        del client.unread[delivery.outcome.sequence]\n",
            "",
            31,
        ),
        "a client is not told that an answer is taken back": (
            "        if flow.sink:\n            reason",
            "        if not flow.sink:\n            reason",
            1192,
        ),
    },
    "manager.clients": {
        "a submit that is said again is taken again": (
            "        for gap in gaps(message, sorted([*refused, *((run.first, run.stop) for run in known)])):\n"
            "            self.take(job, gap, client.link)\n",
            "        self.take(job, message, client.link)\n",
        ),
        "what was lost of a submit is not taken when it is said again": (
            "        for gap in gaps(message, sorted([*refused, *((run.first, run.stop) for run in known)])):\n"
            "            self.take(job, gap, client.link)\n",
            "",
            47,
        ),
        "arguments are not asked again of a client that came back": (
            "self._relay.expect(flow, link, window=False)",
            "pass",
            1,
        ),
        "a cancel of tasks that never came is not answered": (
            "            self._deliveries.refuse(job, unknown, Status.CANCELLED)",
            "            pass",
            3,
        ),
        "a cancelled task is not taken back from its worker": (
            "        self._workforce.retract(job, held, kill=kill)\n",
            "",
            15,
        ),
        "tasks that waited for their function stay where they are": (
            "            elif job.ready:\n                self.queue_waiting(job)\n\n    def queue_waiting",
            "\n    def queue_waiting",
            2,
        ),
        "a client that is gone leaves its tasks at the workers": (
            "            self._workforce.retract(job, leased, kill=True)\n",
            "",
            91,
        ),
        "a forgotten job is kept": (
            "                self._close_if_done(job)\n\n    def blob(self",
            "                pass\n\n    def blob(self",
            2,
        ),
        "a function is asked of nobody when its client left": (
            "        for blob in self._blobs.left(client):\n            self._ask_anyone(blob)",
            "        for blob in self._blobs.left(client):\n            pass",
            569,
        ),
        "misfits are not refused at once": (
            "            for position in self._scheduler.too_large(run):",
            "            for position in ():",
            287,
        ),
        "answers with bodies that are acknowledged stay leased": (
            "        self._results.acknowledged([each for each in read if each.flow is not None and each.pieces])\n",
            "",
            1,
        ),
        "what a client that is gone had in line stays there": (
            "        self._scheduler.remove_client(client)\n",
            "",
        ),
        "what a client that is gone did not read is kept": (
            "        self._deliveries.forget(client)\n",
            "",
            13,
        ),
        "values of a client that is gone are kept": (
            "        self._values.left(client)\n",
            "",
        ),
        "a cancelled task counts as leased": (
            "            self._leases.unlease(job, len(leased))\n            for position in cancelled:\n",
            "            for position in cancelled:\n",
        ),
        "workers are not told that a job is over": (
            "        self._workforce.forget(job)\n",
            "",
        ),
        "a job that is over weighs on its client": (
            "        job.client.job_bytes -= job.bytes\n",
            "",
            2,
        ),
    },
    "manager.sessions": {
        "a lost session is never given up": (
            "            self._timers.set(now + grace, Timer.GRACE, session)",
            "            pass",
        ),
        "a session that lost its link twice is not waited for again": (
            "            self._timers.set(until, Timer.GRACE, session)",
            "            pass",
            37,
        ),
        "a silent link is looked at once": (
            "        self._watch_at(link, min(link.heard_at + limits.silence_seconds, beat_at))",
            "        pass",
        ),
        "what came is not taken for a sign of life": (
            "        link.heard_at = now\n        return True",
            "        return True",
            1,
        ),
        "heartbeats are not sent": (
            "            self._outbox.send(number, Heartbeat())",
            "            self._outbox.spoken_at[number] = now",
        ),
        "an older link takes a session over": (
            "        if known is not None and known.link > link.number:",
            "        if False:",
        ),
        "a silent peer is never given up": (
            "        if now >= link.heard_at + limits.silence_seconds:",
            "        if now < link.heard_at:",
            1,
        ),
    },
    "manager.core": {
        "a worker whose link is lost is given more work": (
            "            self._scheduler.leave(session, returning=True)\n",
            "",
            1,
        ),
        "workers wait for the arguments of an absent client": (
            "                    self._clientele.ask_back(subject)",
            "                    pass",
            239,
        ),
        "a draining worker is given work when it comes back": (
            "        if not session.draining:\n            self._scheduler.join(session)",
            "        self._scheduler.join(session)",
            91,
        ),
        "a client is remembered after its goodbye": (
            "        if message.code in (Code.NORMAL, Code.DRAINING):",
            "        if message.code in (Code.NORMAL, Code.DRAINING) and isinstance(session, Worker):",
            21,
        ),
        "misfits found late are not refused": (
            "        while self._scheduler.misfit and self._clientele.outgrown():",
            "        while False:",
            91,
        ),
    },
    "manager.relay": {
        "a buffer that nobody waits for is not given back": (
            "            self._outbox.drop(event.token)\n            return None",
            "            return None",
            31,
        ),
        "a sink that comes back is sent what is here, not what it asks for": (
            "                self._rewind(flow, position)\n        self._account(flow)",
            "                self._discard(flow, flow.end)\n        self._account(flow)",
            7,
        ),
        "held bytes are not counted": (
            "self.held_bytes += event.length",
            "pass",
            1,
        ),
        "a reader that joins is not sent what is here": (
            "for piece in origin.held if piece[0] + piece[1] > reader.begin)",
            "for piece in origin.held if piece[0] >= reader.begin + 1)",
            218,
        ),
        "a slow reader lets go of bytes that it has not read": (
            "last = min((reader.begin for reader in joined), default=origin.end)",
            "last = max((reader.begin for reader in joined), default=origin.end)",
            227,
        ),
        "a relay does not go on when its link takes more": (
            "            port.open = True\n            self._pump(link, port)",
            "            port.open = True",
            2,
        ),
        "a stale grant is taken by the relay": (
            "        if flow is None or grant.attempt != flow.sink_attempt:",
            "        if flow is None:",
        ),
        "a link's budget is not given on": (
            "        self._pull(flow)\n        self._quench(link)",
            "        self._pull(flow)",
        ),
        "the budget of a sink that leaves is not given on": (
            "        self._unplace(flow)\n        self._quench(sink)\n",
            "        self._unplace(flow)\n",
        ),
        "what a link might send unasked is not given back": (
            "        self._windows.give(port.window)\n",
            "",
        ),
    },
    "manager.scheduling": {
        "a suspect runs beside others": (
            "            if not worker.unfinished:\n                worker.reserved, worker.alone = False, True",
            "            if worker.link:\n                worker.reserved = False",
            3,
        ),
        "cancelled tasks stay counted in line": (
            "        self._count(lane, line, job, -tasks)\n        line.sweep()",
            "        line.sweep()",
        ),
        "a worker that is reserved is never given free": (
            "                    worker.reserved = False\n",
            "                    continue\n",
            56,
        ),
        "leases are taken back from where nothing waits": (
            "                if movable and mark == Mark.HELD:",
            "                if movable:",
            14,
        ),
        "a lease's slot is not given back": (
            "        worker.unfinished -= tasks\n",
            "",
        ),
        "a worker that left keeps its slots in the lane": (
            "                lane.slots -= worker.slots\n",
            "",
        ),
        "arguments go beyond a worker's arena": (
            "    return body <= worker.arena_bytes - worker.arena_used_bytes",
            "    return True",
            33,
        ),
        "what fits no arena waits": (
            "            if body + job.value_bytes > lane.arena_bytes_max:",
            "            if False:",
            113,
        ),
        "a lease that ended before its argument came counts as arriving": (
            "        if leased.arriving:\n            self._arrive(leased)\n        worker.unfinished",
            "        worker.unfinished",
            1,
        ),
        "a worker that is expected back counts for nothing": (
            "                lane.away[worker] = None\n",
            "                pass\n",
        ),
    },
    "manager.state": {
        "a piece of a run begins at the next head": (
            "return Span(self, start, stop, attempt, 0 if self._starts is None else self._starts[start])",
            "return Span(self, start, stop, attempt, 0)",
            1,
        ),
        "a split takes one task too many": (
            "stop = min(self.stop, start + count)",
            "stop = min(self.stop, start + count + 1)",
        ),
        "what joins a run is not counted as unread": (
            "        self.unread += stop - start\n",
            "",
        ),
    },
    "worker.core": {
        "an answer is forgotten when it was sent": (
            "            self._shelf.put(answers)\n",
            "",
            1,
        ),
        "unconfirmed answers are not told again": (
            "            self._announce(answers, again=True)",
            "            pass",
            1,
        ),
        "a body that was cut off is not asked for again": (
            "                self._grant(key, run.body_bytes)\n        self._custody",
            "                pass\n        self._custody",
            28,
        ),
        "a lease that is here is not given back when it is asked for": (
            "        self._send_retracted(given, wanted)\n\n    def _pick",
            "\n    def _pick",
            3,
        ),
        "the argument of an answered lease stays in the arena": (
            "            self._drop_key(run.lease, kept=event.kept)",
            "            pass",
            1,
        ),
        "an answer's memory is not freed when it is confirmed": (
            "            self._sending.close(lease)\n            self._release_answer(lease)",
            "            self._sending.close(lease)",
            1,
        ),
        "a lease runs before its argument is whole": (
            "        if taken and self._receiving.complete(key):\n",
            "        if taken:\n",
            3,
        ),
        "a worker that reconnects says that it holds nothing": (
            'hello = replace(self._hello, leases=array("Q", self._leases()))',
            'hello = replace(self._hello, leases=array("Q"))',
            50,
        ),
        "the tasks of a manager that forgot us run on": (
            '            self._out += self._bench.kill(slot, Why.DROPPED, text="its tasks were dropped")',
            "            pass",
            324,
        ),
        "tasks of a job that is over stay in the worker": (
            "        self._give_back(self._pick(self._inbox.of_job(message.job)))\n",
            "",
        ),
        "a link that was full leaves the worker silent on the next one": (
            "        self._sending = Sending(welcome.first_window_bytes)\n        self._blocked = False\n",
            "        self._sending = Sending(welcome.first_window_bytes)\n",
            134,
        ),
        "what was coming in over a lost link is waited for": (
            "        self._custody.leave_link()\n",
            "",
            11,
        ),
        "an answer's memory is not counted": (
            "            self._memory.keep_answer(leases[0], body)",
            "            pass",
            1,
        ),
        "values of a manager that forgot us are kept": (
            "        self._custody.clear()\n",
            "",
        ),
    },
    "worker.slots": {
        "the task that killed its slot is run again": (
            'verdict.answered, verdict.text = running, f"the slot that ran it ended by {cause}"',
            "verdict.again.append(running)",
            3,
        ),
        "tasks behind one that killed its slot are forgotten": (
            "        verdict.again += self.untouched\n",
            "",
            3,
        ),
        "a recall gives back the task that runs": (
            "            begun = max(started, batch.done) if batch.number == number else 0\n            if begun < len",
            "            begun = batch.done if batch.number == number else 0\n            if begun < len",
            3,
        ),
        "a new slot is believed to know what the old one did": (
            "        self.jobs.clear()\n",
            "",
        ),
    },
    "worker.bench": {
        "a timeout is looked for and not acted on": (
            "            found.actions += self.kill(slot, Why.TIMEOUT, lease, text)\n            return",
            "            return",
            10,
        ),
        "a running task that is to be killed is declined": (
            "if lease == running and kill:",
            "if False:",
            28,
        ),
        "a slot is taught only once what it was made to forget": (
            "                slot.jobs.discard(-1 if job is None else job)\n",
            "",
            21,
        ),
        "a slot that died is not started again": (
            "            if not pause:\n                actions += self._start(slot)",
            "            if not pause:\n                slot.start_at = None",
        ),
        "a task that takes too much memory is tried for ever": (
            "        return self.kill(slot, Why.MEMORY, text=text)",
            "        return self.kill(slot, Why.RECYCLED, text=text)",
            1,
        ),
    },
    "worker.memory": {
        "memory that failed to be made stays counted": (
            "            return True\n        self._used -= self._held.pop(key)\n",
            "            return True\n        self._held.pop(key)\n",
            79,
        ),
        "arguments fill the arena beyond its capacity": (
            "        if self._used + segment_bytes(size) <= self.capacity:",
            "        if size <= self.capacity:",
            4,
        ),
        "bytes are granted into memory that is still being made": (
            "        return key in self._held and key not in self._pending",
            "        return key in self._held",
            367,
        ),
    },
    "worker.custody": {
        "a function that is missing is not asked for again": (
            "        for digest in self._library.missing():\n            self._send(Want(digest))",
            "        pass",
            32,
        ),
        "a run goes on without the values that it needs": (
            "return bool(entry.names) and self._values.park(entry, run)",
            "return False",
            2,
        ),
        "the memory of half a function is kept": (
            "            self._receiving.close(volume.key)\n"
            "            self._act_all(self._memory.release(volume.key))\n"
            "\n"
            "    def _complete",
            "            self._receiving.close(volume.key)\n\n    def _complete",
            32,
        ),
    },
    "worker.runs": {
        "a part of a batch that is confirmed takes the rest along": (
            "self._batches = [batch for batch in rest if batch]",
            "self._batches = [batch for batch in self._batches if gone.isdisjoint(batch.leases)]",
            63,
        ),
    },
    "client.answers": {
        "an answer is acknowledged before it has landed": (
            "        landing.answer.pending += 1\n",
            "        landing.answer.pending += 1\n        self.acknowledge(landing.answer.sequence)\n",
            1,
        ),
        "an outcome that comes again resolves its task again": (
            "            if state != DONE:",
            "            if state != DONE or not message.body_sizes:",
            4,
        ),
        "a landed answer is not acknowledged": (
            "            self.acknowledge(answer.sequence, BODY_ACK_DELAY_SECONDS)",
            "            pass",
            1,
        ),
        "a recalled answer's task is over": (
            "            self._ledger.move(landing.run, landing.at, SENT)",
            "            self._ledger.settle(landing.run, landing.at)",
            45,
        ),
        "acknowledgements of a lost link are said on the next one": (
            '        self._acks = array("Q")\n        self._receiving = Receiving()',
            "        self._receiving = Receiving()",
            85,
        ),
        "a landing goes on with another answer": (
            "if cut_off is not None and cut_off.same == (message.sequence, landing.attempt, size):",
            "if cut_off is not None:",
            144,
        ),
        "what a lost manager had begun to tell goes on with the next one": (
            "        if not resumed:\n            for stream in list(self._cut_off):",
            "        if resumed:\n            for stream in list(self._cut_off):",
        ),
        "a landing that was given up keeps its stream": (
            "            return None\n        self._receiving.close(stream)\n        answer = landing.answer",
            "            return None\n        answer = landing.answer",
            45,
        ),
    },
    "client.core": {
        "cancels are not said again after a reconnection": (
            "                    self._say_cancel(number, kill, indices)\n            if number",
            "                    pass\n            if number",
            3,
        ),
        "credit that came back is not used": (
            "        self._answers.outcome(entry, message)\n        self._submit()",
            "        self._answers.outcome(entry, message)",
        ),
        "a job that was begun again is forgotten once more": (
            "for number in [number for number in self._forgotten if number not in self._ledger.jobs]:",
            "for number in self._forgotten:",
            2000070381,
        ),
        "a job is struck and the manager not told": (
            "            self._answers.flush()\n            self._outbox.send(Forget(number))\n",
            "            self._answers.flush()\n",
            2,
        ),
        "a link that was full leaves the client silent on the next one": (
            "        self._blobs.open_link(self._sending)\n        self._blocked = False\n",
            "        self._blobs.open_link(self._sending)\n",
            3,
        ),
        "what belongs to a lost link is kept": (
            "            return\n        self._forsake()\n        if loss.verdict",
            "            return\n        if loss.verdict",
            1,
        ),
        "a cancelled answer goes on landing": (
            "            self._answers.void(stream)\n",
            "",
            119,
        ),
        "nothing is said again on a new link": (
            "        self._ledger.rewind(resumed)\n",
            "",
            2,
        ),
    },
    "client.state": {
        "what was said on a lost link is not said again": (
            "                if state in {SENT, LANDING}:",
            "                if state in {LANDING}:",
            2,
        ),
        "a job is believed to be known on every link": (
            "            entry.told = entry.noticed = False",
            "            entry.noticed = False",
            2,
        ),
        "a cancelled task weighs nothing": (
            "_CHARGED = frozenset({SENT, LANDING, CANCELLING})",
            "_CHARGED = frozenset({SENT, LANDING})",
        ),
        "a run with a task that is over is as long as before": (
            '        run.heads[at] = b""\n        run.left -= 1\n',
            '        run.heads[at] = b""\n',
        ),
    },
    "client.blobs": {
        "a function is believed to be known on every link": (
            "            function.told = False",
            "            pass",
            63,
        ),
    },
    "uplink": {
        "a silent manager is waited for": (
            '            return f"not a byte for {self.silence_seconds:g} s"',
            '            return ""',
            1,
        ),
        "heartbeats stop after the first": (
            "        if self.state is LinkState.UP and welcome is not None and now >= self._spoke + "
            "welcome.heartbeat_seconds:\n            return [self.send(Heartbeat(), now)]\n        return []\n\n"
            "    def deadline",
            "        return []\n\n    def deadline",
        ),
        "a manager that began anew is taken for the one that knew us": (
            "resumed = welcome.resumed and self._epoch in (None, welcome.epoch)",
            "resumed = welcome.resumed",
            975,
        ),
    },
    "streams": {
        "the window is used twice": (
            "        self._pool -= unasked\n",
            "",
            2,
        ),
        "a window may be overrun by a byte": (
            "state.limit = max(state.limit, min(grant.offset + grant.count, state.size))",
            "state.limit = max(state.limit, min(grant.offset + grant.count + 1, state.size))",
            19,
        ),
        "a grant of a later attempt goes on where the earlier one stopped": (
            "state.attempt, state.position, state.limit, state.unasked = grant.attempt, 0, 0, 0",
            "state.attempt, state.unasked = grant.attempt, 0",
            7,
        ),
        "a stale grant is taken": (
            "        if state is None or grant.attempt < state.attempt:",
            "        if state is None:",
        ),
        "a stale chunk is taken": (
            "        if state is None or attempt != state.attempt:",
            "        if state is None:",
            138,
        ),
        "the window that an ended stream used is not given back": (
            "            return False\n        self._pool += state.excess\n        return True",
            "            return False\n        return True",
            125,
        ),
    },
    "worker.departure": {
        "a drain keeps what has not begun": (
            "        self._give_back(self._unstarted())",
            "        pass",
            53,
        ),
        "a worker does not drain before its end": (
            "min(now + life.seconds - life.drain_before_seconds, self._hand_back_at)",
            "self._hand_back_at",
            12,
        ),
        "what runs at the end of a lifetime is not handed back": (
            "        if self._hand_back_at is not None and now >= self._hand_back_at:",
            "        if self._hand_back_at is None:",
            2,
        ),
    },
    "manager.values": {
        "what a value cost its client is not given back": (
            "        value.client.value_bytes -= value.cost\n",
            "",
            3,
        ),
        "a value that a worker lacks is not offered once more": (
            "            self._offer(worker, value)\n            return value",
            "            return value",
            50,
        ),
        "a reader that left a value stays at it": (
            "        if flow is not None:\n            self._relay.end(flow)\n        value = self._values.get(name)",
            "        value = self._values.get(name)",
            336,
        ),
    },
    "manager.budget": {
        "the credit of a session that is over is not given back": (
            "        self._submit.give(submit)\n",
            "",
        ),
    },
    "manager.blobs": {
        "a function that comes from one client is taken from another one as well": (
            "        if blob.whole or (blob.flow is not None and blob.flow.source):\n            if message",
            "        if blob.whole:\n            if message",
            5,
        ),
        "half a function is kept when its client leaves": (
            "        for blob in blobs:\n            self._discard(blob)\n",
            "        for blob in blobs:\n",
            4,
        ),
        "a function that a worker lacks is not sent once more": (
            "        if blob is not None:\n            self.supply(worker, blob)",
            "        if blob is None:\n            self.supply(worker, blob)",
            11,
        ),
    },
}

PLANTS = {plant.name: plant for plant in _plants()}


# -- planting ------------------------------------------------------------------------------------------------------


class _Loader(SourceFileLoader):
    """Compiles a module from its changed source, whatever the caches say."""

    def __init__(self, plant: Plant, path: str) -> None:
        super().__init__(plant.module, path)
        self._plant = plant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        return compile(changed(source, self._plant), self.path, "exec", dont_inherit=True)


class Finder:
    """Stands before the import system's own finders, and knows one module."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Name the changed source for its module, and nothing for any other."""
        if name != self._plant.module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.origin is not None
        spec.loader = _Loader(self._plant, spec.origin)
        return spec


def changed(source: str, plant: Plant) -> str:
    """Return the source with the bug in it; the line has to be there exactly once."""
    count = source.count(plant.before)
    if count != 1:
        raise LookupError(f"{plant.name}: {plant.module} has {count} times {plant.before!r}")
    return source.replace(plant.before, plant.after)


def grow(name: str, most: int = SEEDS) -> dict[str, Any]:
    """Plant a bug in this process, which has not imported the cores yet, and live through seeds until it shows."""
    plant = PLANTS[name]
    assert plant.module not in sys.modules, "the cores are here already"
    sys.meta_path.insert(0, Finder(plant))
    from .star import simulate  # noqa: PLC0415 - not before the bug is planted
    from .world import Violation  # noqa: PLC0415

    steps = seeds = 0
    for seed in chain((plant.hint,), (seed for seed in range(most) if seed != plant.hint)):
        seeds += 1
        try:
            steps += simulate(seed).steps
        except Violation as violation:
            found = str(violation).splitlines()[-2]
            return {"name": name, "caught": seed, "seeds": seeds, "steps": steps, "found": found}
    return {"name": name, "caught": None, "seeds": seeds, "steps": steps, "found": ""}


def main() -> int:
    """Plant each, all cores at once; 1 if one escapes."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.plants", description=__doc__)
    parser.add_argument("names", nargs="*", help="bugs to be planted; all where none is named")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many a bug has to live through to escape")
    options = parser.parse_args()
    escaped = 0
    # A process a bug: what is imported with one of them in it cannot be used for the next one.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        grown = partial(grow, most=options.seeds)
        for result in pool.imap_unordered(grown, options.names or list(PLANTS), chunksize=1):
            escaped += result["caught"] is None
            print(json.dumps(result), flush=True)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
