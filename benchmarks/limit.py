"""THE LIMIT: the same star made of nothing but blocking `ssl` sockets, and how fast that can be.

::

    client ══TLS 1.3══▶ relay ══TLS 1.3══▶ worker        frame = u64 length + the array's bytes
           ◀══════════        ◀══════════  answer = plus_one(array)

Three processes on loopback, mutual TLS 1.3 with P-256 certificates. No scheduler, no batches, no retries, no
pickle, no second worker: a frame is received with recv_into where it belongs, sent with sendall from where it
lies, and the relay passes pieces on while they arrive. Whatever the star does beyond this costs something; the
ratio of the two says how much.

An SSL object belongs to one thread, so there are two honest ways to build it, and both are here:

- *one wire* a peer: every process is one thread, and the directions take turns. Nothing overlaps, nothing waits
  for a lock. Only for one array in flight.
- *two wires* a peer, one a direction: in every process one thread a direction. For any number in flight.

`python -m benchmarks.limit` compares them, and the sizes of the relay's pieces. What it said, and LimitStar
therefore does: two wires and pieces of 1 MiB for arrays (one wire and 256 KiB are as fast for one array in
flight; 16 KiB, a TLS record, cost the relay a fifth more CPU), one wire for round trips (a quarter faster).
"""

from __future__ import annotations

import argparse
import queue
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.credentials import Credentials, make_credentials
from benchmarks.harness import ROOT, Row, Sample, measured, rounds, rows
from benchmarks.report import record, rows_table
from benchmarks.tasks import Array, check, inputs, plus_one

PREFIX = struct.Struct("<Q")
PIECE_BYTES = 1024 * 1024
JOINED_BYTES_MAX = 64 * 1024
"""Up to here a frame leaves as one write: one TLS record fewer is worth the copy."""
UP, DOWN, BOTH = b"u", b"d", b"b"


# -- the wire ------------------------------------------------------------------------------------------------------


def receive_into(wire: ssl.SSLSocket, room: memoryview) -> bool:
    """Fill the room; False at a clean end before the first byte."""
    got = 0
    while got < len(room):
        count = wire.recv_into(room[got:])
        if count == 0:
            if got:
                raise EOFError("the wire ended within a frame")
            return False
        got += count
    return True


def receive_length(wire: ssl.SSLSocket) -> int | None:
    prefix = bytearray(PREFIX.size)
    return PREFIX.unpack(prefix)[0] if receive_into(wire, memoryview(prefix)) else None


def send_frame(wire: ssl.SSLSocket, array: Array) -> None:
    body = array.data.cast("B")
    prefix = PREFIX.pack(len(body))
    if len(body) <= JOINED_BYTES_MAX:
        wire.sendall(prefix + body)
    else:
        wire.sendall(prefix)
        wire.sendall(body)


def receive_array(wire: ssl.SSLSocket, rooms: Callable[[int], Array]) -> Array | None:
    length = receive_length(wire)
    if length is None:
        return None
    array = rooms(length // 8)
    receive_into(wire, array.data.cast("B"))
    return array


def dial(credentials: Credentials, role: str, port: int, direction: bytes) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire = credentials.context(role).wrap_socket(raw, server_hostname="manager")
    wire.sendall(role[:1].encode() + direction)
    return wire


# -- the relay -----------------------------------------------------------------------------------------------------


def carry(source: ssl.SSLSocket, target: ssl.SSLSocket, room: memoryview) -> bool:
    """Pass one frame on, piece by piece; False at the end of the wire."""
    if not receive_into(source, room[: PREFIX.size]):
        return False
    left = PREFIX.size + PREFIX.unpack(room[: PREFIX.size])[0]
    filled = PREFIX.size
    while left:
        piece = room[: min(left, len(room))]
        receive_into(source, piece[filled:])
        target.sendall(piece)
        left -= len(piece)
        filled = 0
    return True


def relay(credentials: Credentials, wires: int, piece_bytes: int) -> None:
    """Listen, say the port on stdout, wait for client and worker, then pass frames on until the client leaves."""
    context = credentials.context("manager")
    links: dict[bytes, ssl.SSLSocket] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while len(links) < 2 * wires:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = context.wrap_socket(raw, server_side=True)
            links[wire.recv(2)] = wire

    def run(source: bytes, target: bytes) -> None:
        room = np.empty(piece_bytes, np.uint8).data
        while carry(links[source], links[target], room):
            pass
        links[target].close()

    if wires == 2:
        upwards = threading.Thread(target=run, args=(b"c" + UP, b"w" + UP))
        upwards.start()
        run(b"w" + DOWN, b"c" + DOWN)
        upwards.join()
        return
    room = np.empty(piece_bytes, np.uint8).data
    client, worker = links[b"c" + BOTH], links[b"w" + BOTH]
    while carry(client, worker, room) and carry(worker, client, room):
        pass


# -- the worker ----------------------------------------------------------------------------------------------------


class Rooms:
    """Arrays to receive into, used again and again: a fresh page costs as much as receiving into it."""

    def __init__(self) -> None:
        self._free: dict[int, list[Array]] = {}

    def take(self, length: int) -> Array:
        free = self._free.get(length)
        return free.pop() if free else np.empty(length)

    def give(self, array: Array) -> None:
        self._free.setdefault(len(array), []).append(array)


def worker(credentials: Credentials, wires: int, port: int) -> None:
    rooms = Rooms()
    if wires == 1:
        wire = dial(credentials, "worker", port, BOTH)
        while (array := receive_array(wire, rooms.take)) is not None:
            send_frame(wire, plus_one(array))
            rooms.give(array)
        return
    up, down = (dial(credentials, "worker", port, direction) for direction in (UP, DOWN))
    arrived: queue.Queue[Array | None] = queue.Queue(maxsize=2)

    def receive() -> None:
        while (array := receive_array(up, rooms.take)) is not None:
            arrived.put(array)
        arrived.put(None)

    threading.Thread(target=receive, daemon=True).start()
    while (array := arrived.get()) is not None:
        send_frame(down, plus_one(array))
        rooms.give(array)
    down.close()


# -- the client ----------------------------------------------------------------------------------------------------


class Line:
    """One running client, relay and worker with a fixed number of wires."""

    def __init__(self, credentials: Credentials, wires: int, piece_bytes: int = PIECE_BYTES) -> None:
        self.wires = wires
        self._processes = [self._start("relay", credentials, wires, piece_bytes)]
        self._links: list[ssl.SSLSocket] = []
        try:
            output = self._processes[0].stdout
            assert output is not None
            port = int(output.readline())
            self._processes.append(self._start("worker", credentials, wires, port))
            for direction in (BOTH,) if wires == 1 else (UP, DOWN):
                self._links.append(dial(credentials, "client", port, direction))
        except BaseException:
            for process in self._processes:
                process.kill()
            self.close()
            raise
        self._up, self._down = self._links[0], self._links[-1]

    @staticmethod
    def _start(role: str, credentials: Credentials, *numbers: int) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "benchmarks.limit", role, str(credentials.directory), *map(str, numbers)]
        return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE if role == "relay" else None)

    def pids(self) -> dict[str, list[int]]:
        return {"manager": [self._processes[0].pid], "worker": [self._processes[1].pid]}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        if depth == 1:
            return [self.one(array) for array in arrays]
        assert self.wires == 2
        window = threading.Semaphore(depth)

        def send() -> None:
            for array in arrays:
                window.acquire()
                send_frame(self._up, array)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        answers = []
        for _ in arrays:
            answers.append(self._answer())
            window.release()
        sender.join()
        return answers

    def one(self, array: Array) -> Array:
        send_frame(self._up, array)
        return self._answer()

    def _answer(self) -> Array:
        # A fresh array each: an answer belongs to the caller, here as in the star.
        answer = receive_array(self._down, np.empty)
        if answer is None:
            raise EOFError("the relay is gone")
        return answer

    def close(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


class LimitStar:
    """The limit as a contender: two wires for arrays, one for round trips, and only ever one worker."""

    name = "limit"

    def __init__(self, workers: int = 1) -> None:
        assert workers == 1
        self._lines: dict[int, Line] = {}
        self._stack = ExitStack()

    def __enter__(self) -> LimitStar:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        credentials = make_credentials(Path(directory))
        for wires in (1, 2):
            self._lines[wires] = Line(credentials, wires)
            self._stack.callback(self._lines[wires].close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, list[int]]:
        """Both lines' processes, the one of the arrays first: the one that rests costs nothing."""
        each = [self._lines[wires].pids() for wires in (2, 1)]
        return {role: [pid for pids in each for pid in pids[role]] for role in ("manager", "worker")}

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        return self._lines[2].arrays(arrays, depth)

    def round_trip(self, value: Any) -> Any:
        """One 8-byte array there and back; the worker adds one, which is taken off again."""
        return self._lines[1].one(np.array([value], dtype=np.float64))[0] - 1


# -- the program -----------------------------------------------------------------------------------------------------


class Variant:
    """One way to build the limit, as a contender of its own."""

    def __init__(self, credentials: Credentials, wires: int, piece_bytes: int) -> None:
        self.name = f"{wires} wire{'s' * (wires - 1)}, pieces of {piece_bytes // 1024} KiB"
        self._line = Line(credentials, wires, piece_bytes)
        self.pids, self.arrays, self.close = self._line.pids, self._line.arrays, self._line.close


def variants(payload_bytes: int, depth: int, repeats: int, count: int) -> list[Row]:
    """Compare the ways to build the limit: what one run of it can do, in MB/s of payload there and back."""
    with ExitStack() as stack:
        credentials = make_credentials(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        made: list[Any] = []
        for wires in (1, 2) if depth == 1 else (2,):
            for piece_bytes in (16 * 1024, 256 * 1024, 1024 * 1024):
                made.append(Variant(credentials, wires, piece_bytes))
                stack.callback(made[-1].close)
        arrays = inputs(count, payload_bytes)

        def measure(variant: Any) -> Sample:
            gigabytes = payload_bytes * count / 1e9
            seconds, cpu, answers = measured(variant, lambda: variant.arrays(arrays, depth), gigabytes)
            check(arrays, answers)
            return Sample(gigabytes * 1e3 / seconds, cpu)

        return rows(
            rounds(made, measure, repeats),
            benchmark="limit",
            measure=f"{payload_bytes} B, {depth} in flight",
            unit="MB/s",
            cpu_per="s/GB",
            parameters={"payload_bytes": payload_bytes, "depth": depth, "count": count},
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description="How fast the limit can be built.")
    parser.add_argument("--payload-bytes", type=int, default=64 << 20)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=4, help="arrays a round")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results/limit.jsonl")
    options = parser.parse_args(arguments)
    made = variants(options.payload_bytes, options.depth, options.repeats, options.count)
    if not options.no_record:
        record(made, " ".join(["python -m benchmarks.limit", *arguments]))
    print(rows_table(made))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        relay(Credentials(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["worker"]:
        worker(Credentials(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main(sys.argv[1:]))
