"""The limit is not cheaper for want of identity: both sides insist on a certificate of their own CA."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from benchmarks.credentials import ROLES, Credentials, make_credentials


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Both ends in memory; the client's end, once the server has seen its certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = server.wrap_bio(to_server, to_client, server_side=True)
    at_client = client.wrap_bio(to_client, to_server, server_hostname="manager")
    waiting = [at_client, at_server]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    return at_client


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path)


@pytest.mark.parametrize("role", ["worker", "client"])
def test_both_sides_meet_over_tls_13(credentials: Credentials, role: str) -> None:
    end = shake_hands(credentials.context("manager"), credentials.context(role))
    assert end.version() == "TLSv1.3"


def test_a_stranger_is_refused(credentials: Credentials, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = make_credentials(tmp_path / "other").context("client")
    with pytest.raises(ssl.SSLError):
        shake_hands(credentials.context("manager"), stranger)


def test_keys_are_readable_by_their_owner_only(credentials: Credentials) -> None:
    assert {Path(credentials.key(role)).stat().st_mode & 0o777 for role in ROLES} == {0o600}
