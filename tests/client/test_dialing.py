"""Reaching a manager: the loop, the greeting, and what a failure is called."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from starcore import certificates, tls
from starcore.client.dialing import hello, new_loop
from starcore.errors import RefusedError, SetupError
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
        ("auto", "auto", "uvloop"),
        ("uvloop", "asyncio", "uvloop"),
    ):
        monkeypatch.setenv("STARCORE_LOOP", variable)
        loop = new_loop(kind)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert type(loop).__module__.startswith(module)
        loop.close()


def test_loop_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCORE_LOOP", "foo\n")
    with pytest.raises(SetupError) as caught:
        new_loop("auto")
    assert str(caught.value) == r"STARCORE_LOOP is foo\n: set it to auto, asyncio or uvloop, or unset it"


def test_workers_certificate_at_the_clients_port_is_said_to_be_wrong(tmp_path: Path) -> None:
    from starcore.client.session import Session  # noqa: PLC0415 - the one test here that needs a whole session

    with inline_star(tmp_path) as star:
        identity = certificates.read_join(star.star.worker_join, Role.WORKER).identity
        host, port = star.address.split(":")
        with pytest.raises(RefusedError, match="worker") as caught:
            Session(tls.Target(host, int(port), identity, "a test"), connect_seconds=2.0)
        assert "\n" not in str(caught.value)
