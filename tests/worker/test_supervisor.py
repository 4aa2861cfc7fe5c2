"""The supervisor without a manager: it starts its slots, looks for the manager, and leaves nothing behind.

With a manager it is tested where whole stars are, in `tests/integration/`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from starcore import certificates, settings, tls
from starcore.errors import ArgumentValueError, CredentialsError, SetupError, UnreachableError
from starcore.messages import Role
from starcore.worker.channel import NOWHERE, Done
from starcore.worker.orders import Inspected
from starcore.worker.runs import Run
from starcore.worker.supervisor import Supervisor, Worker, WorkerOptions, _numpy_version, run_worker

MIB = 1 << 20


@pytest.fixture(scope="module")
def join(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker's join file of a star whose manager does not run."""
    directory = tmp_path_factory.mktemp("star")
    certificates.create_star(directory, host="127.0.0.1")
    return directory / "worker.join"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def options(join: Path, port: int, **more: Any) -> WorkerOptions:
    def resolve() -> tls.Target:
        return settings.dialer(Role.WORKER, join=join, address="127.0.0.1", port=port)

    return WorkerOptions(resolve, slots=1, arena_bytes=64 * MIB, **more)


def descriptors() -> set[str]:
    kept = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            kept.add(name + os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return kept


def test_without_reconnection_an_absent_manager_is_exit_code_5(join: Path, closed_port: int) -> None:
    code, reason = run_worker(options(join, closed_port, reconnect=False))
    assert code == 5
    assert "nobody listens" in reason


def test_a_worker_that_inherits_an_ignored_sigchld_hears_how_its_slots_end(join: Path, closed_port: int) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run_worker(options(join, closed_port, reconnect=False))
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("name", ["manager..example", "a" * 64 + ".example"])
def test_a_name_that_is_none_is_an_absent_manager_like_any_other(join: Path, name: str) -> None:
    def resolve() -> tls.Target:
        return settings.dialer(Role.WORKER, join=join, address=name, port=443)

    async def test() -> tuple[int, str]:
        supervisor = Supervisor(WorkerOptions(resolve, slots=1, reconnect=False), asyncio.get_running_loop())
        return await asyncio.wait_for(supervisor.run(), 20), supervisor.reason

    code, reason = asyncio.run(test())
    assert code == 5
    assert name in reason
    assert len(reason.splitlines()) == 1


def test_a_batch_that_was_recalled_half_way_is_forgotten_when_the_next_one_answers(
    join: Path, closed_port: int
) -> None:
    runs = {number: Run(number, 1, 0, 1, array("I", [1, 1]), b"ab") for number in (1, 2)}
    process: Any = SimpleNamespace(number=0, runs=runs)

    async def test() -> None:
        supervisor = Supervisor(options(join, closed_port), asyncio.get_running_loop())
        supervisor._finished.set()  # its core hears nothing of this
        answers = bytes(2), array("d", [0.0, 0.0]), array("I", [1, 1]), b"cd"
        supervisor._done(process, Done(2, 0, NOWHERE, 0, 0, 0, False, *answers))
        await supervisor._leave()

    asyncio.run(test())
    assert runs == {}


@pytest.mark.parametrize("gone", [False, True])
def test_a_board_counts_only_while_its_process_lives(join: Path, closed_port: int, gone: bool) -> None:
    """The supervisor was stopped, and its slot crashed meanwhile: what seems to run is not late, it crashed."""
    board = SimpleNamespace(read=lambda: (1, 1, True, 5.0))
    process: Any = SimpleNamespace(number=0, gone=gone, alive=True, board=board)
    heard: list[Any] = []

    async def test() -> None:
        supervisor = Supervisor(options(join, closed_port), asyncio.get_running_loop())
        supervisor._finished.set()
        supervisor._feed = heard.append  # type: ignore[method-assign]
        supervisor._processes[0] = process
        supervisor._inspect(process, 0)
        del supervisor._processes[0]
        await supervisor._leave()

    asyncio.run(test())
    assert heard == ([] if gone else [Inspected(0, 1, 1, True, 5.0, 0)])


def test_a_drained_worker_leaves_no_process_and_no_descriptor(join: Path, closed_port: int) -> None:
    before = descriptors()
    others = set(psutil.Process().children())  # such as multiprocessing's own, which earlier tests started

    async def test() -> int:
        supervisor = Supervisor(options(join, closed_port), asyncio.get_running_loop())
        running = asyncio.create_task(supervisor.run())
        while not set(psutil.Process().children()) - others:
            await asyncio.sleep(0)
        supervisor.drain()
        return await running

    assert asyncio.run(test()) == 0
    assert not set(psutil.Process().children()) - others
    assert descriptors() == before


def test_an_initializer_that_fails_is_exit_code_2(join: Path, closed_port: int) -> None:
    code, reason = run_worker(options(join, closed_port, initializer="math:nothing"))
    assert code == 2
    assert "math:nothing" in reason


def test_what_answers_without_being_a_manager_is_no_manager(join: Path) -> None:
    async def test() -> tuple[int, str]:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        supervisor = Supervisor(options(join, port, reconnect=False), asyncio.get_running_loop())
        code = await supervisor.run()
        server.close()
        return code, supervisor.reason

    code, reason = asyncio.run(test())
    assert code in (3, 5)
    assert len(reason.splitlines()) == 1


def test_a_manager_of_another_star_is_refused_for_good(join: Path, tmp_path: Path) -> None:
    certificates.create_star(tmp_path / "other", host="127.0.0.1")
    identity = settings.manager_identity(tmp_path / "other")[0]

    async def test() -> tuple[int, str]:
        context = tls.listen_context(identity, Role.WORKER)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        supervisor = Supervisor(options(join, port), loop)
        code = await supervisor.run()
        server.close()
        return code, supervisor.reason

    code, reason = asyncio.run(test())
    assert code == 3
    assert "another star" in reason


def test_the_worker_object_raises_what_the_command_would_exit_with(join: Path, closed_port: int) -> None:
    worker = Worker(manager_ip="127.0.0.1", port=closed_port, join=join, slots=1, arena=64 * MIB, reconnect=False)
    with pytest.raises(UnreachableError, match="nobody listens"):
        worker.run()
    with pytest.raises(CredentialsError):
        Worker(join=join.parent / "none.join").run()


def test_a_function_object_is_shipped_under_its_modules_and_its_own_name(join: Path) -> None:
    def process(values: Any) -> Any:
        return values

    made = Worker(join=join, function=process)._options
    assert made.shipped
    assert re.fullmatch(r".*test_supervisor:test_a_function.*process", made.functions[0])
    assert made.only_registered
    assert not Worker(join=join, function=process, only_registered=False)._options.only_registered


def test_a_function_object_reaches_the_slots_and_a_broken_one_is_told(join: Path, closed_port: int) -> None:
    class Unloadable:
        def __reduce__(self) -> Any:
            return int, ("no number",)

        def __call__(self) -> None: ...

    worker = Worker(join=join, port=closed_port, host="127.0.0.1", function=Unloadable(), slots=1, arena=64 * MIB)
    with pytest.raises(SetupError, match="cannot be loaded"):
        worker.run()


def test_contradictions_are_misuse() -> None:
    with pytest.raises(ArgumentValueError):
        Worker(manager_ip="a", host="b")
    with pytest.raises(ArgumentValueError):
        Worker(slots=-1)


def test_numpys_version_is_found_without_loading_it() -> None:
    assert _numpy_version() == np.__version__
