"""Reaching a manager: the loop, the greeting, and what a failure is called."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from starcore import certificates, tls
from starcore.client.dialing import Dialer, hello, new_loop
from starcore.errors import RefusedError, StarCoreError
from starcore.events import Lost
from starcore.messages import Role

from .inline_manager import inline_star


@pytest.fixture
def target(tmp_path: Path) -> tls.Target:
    star = certificates.create_star(tmp_path / "star", host="127.0.0.1")[0]
    return tls.Target("127.0.0.1", 444, certificates.read_join(star.client_join, Role.CLIENT).identity, "a test")


def test_every_session_has_a_name_of_its_own(target: tls.Target) -> None:
    first, second = hello(target), hello(target)
    assert first.session != second.session
    assert (len(first.session), first.role, first.pid) == (16, Role.CLIENT, os.getpid())


def test_loop_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, variable, module in (
        ("asyncio", "uvloop", "asyncio"),
        ("auto", "asyncio", "asyncio"),
        ("auto", "", "uvloop"),
        ("uvloop", "asyncio", "uvloop"),
    ):
        monkeypatch.setenv("STARCORE_LOOP", variable)
        loop = new_loop(kind)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert type(loop).__module__.startswith(module)
        loop.close()


def test_whatever_dialing_fails_of_the_core_hears_of_it(target: tls.Target) -> None:
    """Or nobody would dial again, and every future would wait for ever."""
    fed: list[Any] = []
    troubles: list[StarCoreError] = []

    class Driver:
        def connection(self, identify: Any) -> Any:
            raise AssertionError("not reached")

        def feed(self, event: Any) -> None:
            fed.append(event)
            asyncio.get_running_loop().stop()

    class Context:
        """No context of TLS at all."""

    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    target = dataclasses.replace(target, port=listener.getsockname()[1])
    try:
        dialer = Dialer(target, Context(), lambda: target, Driver(), loop, troubles.append)  # type: ignore[arg-type]
        dialer.dial(0.0, "")
        loop.call_later(10, loop.stop)
        loop.run_forever()
    finally:
        loop.close()
        listener.close()
    assert [type(event) for event in fed] == [Lost]
    assert len(troubles) == 1


def test_workers_certificate_at_the_clients_port_is_said_to_be_wrong(tmp_path: Path) -> None:
    from starcore.client.session import Session  # noqa: PLC0415 - the one test here that needs a whole session

    with inline_star(tmp_path) as star:
        identity = certificates.read_join(star.star.worker_join, Role.WORKER).identity
        host, port = star.address.split(":")
        with pytest.raises(RefusedError, match="worker") as caught:
            Session(tls.Target(host, int(port), identity, "a test"), connect_seconds=2.0)
        assert "\n" not in str(caught.value)
