"""Reaching a manager: attempts that race, what is tried again, and what a failure is called."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starcore import certificates, connecting, dialing, tls
from starcore.dialing import BRISK_SECONDS, Dialer
from starcore.errors import CredentialsError, SetupError, StarCoreError
from starcore.events import Lost
from starcore.messages import Role

SECONDS = 10.0
_log = logging.getLogger("starcore.test")


class Driver:
    """Hears what the core would; `until` waits for it."""

    def __init__(self) -> None:
        self.fed: list[Any] = []
        self.troubles: list[StarCoreError] = []

    def connection(self, identify: Any) -> Any:
        return object()  # TLS never stands here

    def feed(self, event: Any) -> None:
        self.fed.append(event)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(SECONDS) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture(params=[Role.CLIENT, Role.WORKER], ids=["client", "worker"])
def target(tmp_path: Path, request: pytest.FixtureRequest) -> tls.Target:
    star = certificates.create_star(tmp_path / "star", host="127.0.0.1")[0]
    join = star.client_join if request.param is Role.CLIENT else star.worker_join
    return tls.Target("127.0.0.1", 444, certificates.read_join(join, request.param).identity, "a test")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def dialer_of(resolve: Callable[[], tls.Target], driver: Driver, known: Any = None) -> Dialer:
    loop = asyncio.get_running_loop()
    return Dialer(resolve, driver, loop, driver.troubles.append, _log, known)  # type: ignore[arg-type]


def test_whatever_dialing_fails_of_the_core_hears_of_it(target: tls.Target, listener: socket.socket) -> None:
    """Or nobody would dial again, and every future would wait for ever."""

    class Context:
        """No context of TLS at all."""

    async def test(driver: Driver) -> None:
        here = replace(target, port=listener.getsockname()[1])
        dialer_of(lambda: here, driver, (here, Context())).dial(0.0, "")
        await driver.until(lambda: driver.fed)
        assert [type(event) for event in driver.fed] == [Lost]
        assert len(driver.troubles) == 1

    asyncio.run(test(Driver()))


def test_attempt_that_hangs_gets_others_beside_it(target: tls.Target, listener: socket.socket) -> None:
    """TCP says yes and TLS nothing: a router that answers for a manager it does not reach."""

    async def test(driver: Driver) -> None:
        loop = asyncio.get_running_loop()
        here = replace(target, port=listener.getsockname()[1])
        dialer = dialer_of(lambda: here, driver)
        began = loop.time()
        dialer.dial(0.0, "")
        came = []
        for _ in range(3):
            came.append(await asyncio.wait_for(loop.sock_accept(listener), SECONDS))
        assert loop.time() - began < 2 * BRISK_SECONDS + 2.0
        assert not driver.fed, "the patient one goes on"
        await dialer.leave()
        for connection, _ in came:
            connection.close()
        assert not driver.fed

    asyncio.run(test(Driver()))


def test_attempts_that_fail_in_the_same_moment_are_all_over(
    target: tls.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router says after three seconds, and to all of them, that there is no way."""
    monkeypatch.setattr(dialing, "BRISK_SECONDS", 0.05)

    async def test(driver: Driver) -> None:
        loop = asyncio.get_running_loop()
        known, tried = loop.create_future(), []
        loop.set_exception_handler(lambda loop, context: driver.fed.append(context))

        async def dial(*arguments: Any) -> Any:
            tried.append("attempt")
            if len(tried) == 2:
                loop.call_soon(known.set_result, None)
            await asyncio.shield(known)
            raise OSError(errno.EHOSTUNREACH, "no route to host")

        monkeypatch.setattr(connecting, "dial", dial)
        dialer = dialer_of(lambda: target, driver)
        dialer.dial(0.0, "")
        await driver.until(lambda: driver.fed)
        await asyncio.sleep(0.2)
        gc.collect()
        await dialer.leave()
        assert len(tried) in (2, 3)  # a machine that is very busy may begin one more in that moment
        assert [type(event) for event in driver.fed] == [Lost]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(test(Driver()))


def test_dial_that_comes_while_the_last_attempt_is_put_away_is_made(
    target: tls.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link opens, the peer closes it at once, and the core wants another before the loser of the race is gone."""

    class Link:
        def get_extra_info(self, name: str) -> None:
            return None

    async def test(driver: Driver) -> None:
        loop = asyncio.get_running_loop()
        made: list[str] = []

        async def dial(*arguments: Any) -> tuple[Link, None]:
            made.append("attempt")
            if len(made) < 3:
                loop.call_soon(dialer.dial, 0.0, "")
            return Link(), None

        monkeypatch.setattr(connecting, "dial", dial)
        dialer = dialer_of(lambda: target, driver)
        dialer.dial(0.0, "")
        await driver.until(lambda: len(made) == 3)
        await asyncio.sleep(0.05)
        await dialer.leave()
        assert (len(made), driver.fed, driver.troubles) == (3, [], [])

    asyncio.run(asyncio.wait_for(test(Driver()), SECONDS))


def test_what_said_where_the_manager_is_holds_while_it_fails(
    target: tls.Target, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    here = replace(target, port=listener.getsockname()[1])
    answers: list[Any] = [SetupError("no file"), here, SetupError("the file is being written")]

    def resolve() -> tls.Target:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def test(driver: Driver) -> None:
        loop = asyncio.get_running_loop()
        dialer = dialer_of(resolve, driver)
        dialer.dial(0.0, "")
        await driver.until(lambda: driver.fed)
        assert dialer.target is None
        assert "no file" in driver.fed.pop().reason
        for _ in range(2):
            dialer.dial(0.0, "")
            connection, _ = await asyncio.wait_for(loop.sock_accept(listener), SECONDS)
            connection.close()
            await driver.until(lambda: driver.fed)
            assert type(driver.fed.pop()) is Lost
            assert dialer.target == here
        await dialer.leave()

    with caplog.at_level(logging.INFO, _log.name):
        asyncio.run(test(Driver()))
    assert "dialing as before: the file is being written" in caplog.text


def test_why_it_dials_as_before_is_said_once_until_it_changes_or_the_link_stood(
    target: tls.Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker without a join file, whose manager is away, dials for hours."""
    answers = iter(["away", "away", "away", "damaged", "damaged", "", "damaged", "damaged", "damaged"])
    stands = iter([False, False, False, False, False, False, False, True, False])

    class Link:
        def get_extra_info(self, name: str) -> None:
            return None

    def resolve() -> tls.Target:
        if answer := next(answers):
            raise SetupError(answer)
        return target

    async def dial(*arguments: Any) -> tuple[Link, None]:
        if not next(stands):
            raise ConnectionRefusedError
        return Link(), None

    async def test(driver: Driver) -> None:
        monkeypatch.setattr(connecting, "dial", dial)
        dialer = dialer_of(resolve, driver, (target, tls.dial_context(target.identity)))
        for _ in range(9):
            dialer.dial(0.0, "")
            await driver.until(lambda: dialer._timer is None and dialer._task is None)
        await dialer.leave()

    with caplog.at_level(logging.INFO, _log.name):
        asyncio.run(asyncio.wait_for(test(Driver()), SECONDS))
    assert [record.getMessage() for record in caplog.records] == [
        f"dialing as before: {why}" for why in ("away", "damaged", "damaged", "damaged")
    ]


def test_own_certificate_that_expired_is_a_trouble_of_credentials(
    target: tls.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expired(identity: tls.DialerIdentity) -> Any:
        raise CredentialsError("it expired")

    monkeypatch.setattr(tls, "dial_context", expired)

    async def test(driver: Driver) -> None:
        dialer_of(lambda: target, driver).dial(0.0, "")
        await driver.until(lambda: driver.fed)
        assert [type(trouble) for trouble in driver.troubles] == [CredentialsError]
        assert type(driver.fed[0]) is Lost

    asyncio.run(test(Driver()))
