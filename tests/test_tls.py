"""tls.py, with real handshakes in memory: whom the two ports and the dialers let in, and what is said otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import traceback
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import uvloop

from starcore import certificates, tls
from starcore.certificates import Star
from starcore.errors import CredentialsError, MisuseError, RefusedError, UnreachableError
from starcore.messages import ALPN, Role

ADDRESS = "192.0.2.7:50123"


# -- builders ------------------------------------------------------------------------------------------------


@dataclass
class Handshake:
    """Both ends of a handshake in memory, and what each of them raised."""

    manager: ssl.SSLObject
    dialer: ssl.SSLObject
    manager_error: ssl.SSLError | None
    dialer_error: ssl.SSLError | None

    @property
    def stands(self) -> bool:
        return self.manager_error is None and self.dialer_error is None


def shake(listening: ssl.SSLContext, dialing: ssl.SSLContext, server_name: str = tls.SERVER_NAME) -> Handshake:
    """Carry bytes between two ends until both are done or one has failed; then let the dialer read the alert."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    manager = listening.wrap_bio(up, down, server_side=True)
    dialer = dialing.wrap_bio(down, up, server_hostname=server_name)
    errors: dict[ssl.SSLObject, ssl.SSLError] = {}
    for _ in range(4):
        for end in (dialer, manager):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                errors.setdefault(end, exc)
    try:
        dialer.read(1)
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError as exc:
        errors.setdefault(dialer, exc)
    return Handshake(manager, dialer, errors.get(manager), errors.get(dialer))


def meet(manager: tls.ManagerIdentity, port: Role, dialer: tls.DialerIdentity) -> Handshake:
    return shake(tls.listen_context(manager, port), tls.dial_context(dialer), dialer.server_name)


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Star:
    return certificates.create_star(tmp_path_factory.mktemp("one") / "star", host="198.51.100.1")[0]


@pytest.fixture(scope="module")
def manager(star: Star) -> tls.ManagerIdentity:
    return certificates.manager_identity(star)


@pytest.fixture(scope="module")
def worker(star: Star) -> tls.DialerIdentity:
    return certificates.read_join(star.worker_join).identity


@pytest.fixture(scope="module")
def client(star: Star) -> tls.DialerIdentity:
    return certificates.read_join(star.client_join).identity


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Star:
    return certificates.create_star(tmp_path_factory.mktemp("two") / "star")[0]


def issued(star: Star, role: Role, *, begin: float, end: float) -> tls.DialerIdentity:
    """Issue a certificate that is valid from `begin` to `end` hours from now."""
    clock = datetime.now(timezone.utc)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_now", lambda: clock + timedelta(hours=begin + certificates.BACKDATE_HOURS))
        days = (end - begin - certificates.BACKDATE_HOURS) / 24
        return certificates.issue(star, role, "timed", days=days).identity


# -- the star's own CA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT])
def test_both_ends_know_each_other_after_a_handshake(star, manager, role):
    dialer = certificates.issue(star, role, "node-7").identity
    done = meet(manager, role, dialer)
    assert done.stands
    peer = tls.identify(manager, role, done.manager, ADDRESS)
    assert (peer.role, peer.name, peer.address) == (role, "node-7", ADDRESS)
    assert peer.fingerprint == tls.fingerprint(dialer.certificate)
    assert tls.identify(dialer, Role.MANAGER, done.dialer, ADDRESS).role is Role.MANAGER


def seen(manager: tls.ManagerIdentity, dialer: tls.DialerIdentity) -> str:
    """Who the manager says that a client is."""
    return tls.identify(manager, Role.CLIENT, meet(manager, Role.CLIENT, dialer).manager, ADDRESS).identity


def test_identity_is_the_star_the_role_and_the_name_and_outlives_a_certificate(star, manager, other):
    first, renewed = (certificates.issue(star, Role.CLIENT, "alice").identity for _ in range(2))
    assert first.certificate != renewed.certificate and first.key != renewed.key
    assert seen(manager, first) == seen(manager, renewed) == f"{star.id}/client/alice"
    assert seen(manager, certificates.issue(star, Role.CLIENT, "alice2").identity) != seen(manager, first)
    worker = certificates.issue(star, Role.WORKER, "alice").identity
    peer = tls.identify(manager, Role.WORKER, meet(manager, Role.WORKER, worker).manager, ADDRESS)
    assert peer.identity == f"{star.id}/worker/alice"
    elsewhere = certificates.issue(other, Role.CLIENT, "alice").identity
    assert seen(certificates.manager_identity(other), elsewhere) != seen(manager, first)


def test_name_that_looks_like_another_is_nobodys_and_the_key_counts(star, manager, monkeypatch):
    monkeypatch.setattr(certificates, "_NAME", re.compile(".*", re.DOTALL))  # a CA that signs anything
    first, second = (certificates.issue(star, Role.CLIENT, "bell\a").identity for _ in range(2))
    assert seen(manager, first).startswith("key:") and seen(manager, first) != seen(manager, second)


def test_session_is_tls_1_3_with_our_protocol_and_no_tickets(manager, worker):
    context = tls.listen_context(manager, Role.WORKER)
    done = shake(context, tls.dial_context(worker))
    assert done.dialer.version() == "TLSv1.3"
    assert done.manager.selected_alpn_protocol() == ALPN
    assert context.num_tickets == 0
    assert done.dialer.session is None or not done.dialer.session.has_ticket


def test_contexts_are_strict_and_ask_for_certificates(manager, worker):
    for context in (tls.listen_context(manager, Role.CLIENT), tls.dial_context(worker)):
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_client_certificate_at_the_worker_port_is_told_by_its_role(manager, client):
    done = meet(manager, Role.WORKER, client)
    assert done.stands  # TLS alone cannot tell
    with pytest.raises(
        CredentialsError,
        match=r"shows the certificate of a client \('client'\) at the port for workers: .* have one each$",
    ):
        tls.identify(manager, Role.WORKER, done.manager, ADDRESS)


def test_worker_that_poses_as_the_manager_is_refused_by_its_purpose(star, worker):
    posing = replace(certificates.manager_identity(star), certificate=worker.certificate, key=worker.key)
    done = meet(posing, Role.WORKER, worker)
    assert isinstance(done.dialer_error, ssl.SSLCertVerificationError)
    assert "is not a manager" in tls.explain(done.dialer_error)


def test_manager_without_a_managers_role_is_refused_by_the_dialer(manager, worker):
    done = meet(manager, Role.WORKER, worker)
    with pytest.raises(CredentialsError, match="certificate of a worker"):
        tls.identify(worker, Role.MANAGER, done.manager, ADDRESS)  # what the manager sees: a worker


def test_peers_of_another_star_are_refused_at_both_ends(manager, other, worker):
    stranger = certificates.read_join(other.worker_join).identity
    at_dialer = meet(manager, Role.WORKER, stranger)
    target = tls.Target("manager.example", 443, stranger, "--join")
    assert tls.explain(at_dialer.dialer_error, target) == (
        f"the manager at manager.example:443 is of another star than {other.worker_join}"
    )
    trusting = replace(stranger, manager=worker.manager)
    at_manager = meet(manager, Role.WORKER, trusting)
    assert at_manager.manager_error is not None
    assert tls.explain(at_manager.dialer_error, target).startswith(
        "the manager at manager.example:443 refused this certificate"
    )


def test_dialer_without_a_certificate_is_refused(manager, worker):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=worker.manager)
    done = shake(tls.listen_context(manager, Role.WORKER), bare)
    assert done.manager_error is not None
    assert tls.explain(done.dialer_error).endswith("asks for a certificate, and none was shown")


def test_dialer_below_tls_1_3_is_refused(manager, worker):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=worker.manager)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake(tls.listen_context(manager, Role.WORKER), old).manager_error is not None


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_peer_that_speaks_another_protocol_is_not_identified(manager, worker, protocols):
    listening, dialing = tls.listen_context(manager, Role.WORKER), tls.dial_context(worker)
    dialing.set_alpn_protocols(protocols)
    done = shake(listening, dialing)
    with pytest.raises(CredentialsError, match=r"does not speak starcore/1 over TLS 1\.3"):
        tls.identify(manager, Role.WORKER, done.manager, ADDRESS)


def test_connection_without_tls_is_not_identified(manager):
    with pytest.raises(CredentialsError, match="does not speak starcore/1"):
        tls.identify(manager, Role.WORKER, None, ADDRESS)


def test_manager_asked_for_under_another_name_is_refused(manager, worker):
    done = shake(tls.listen_context(manager, Role.WORKER), tls.dial_context(worker), "www.example.org")
    assert isinstance(done.dialer_error, ssl.SSLCertVerificationError)


def test_handshake_over_a_socket_pair_identifies_ssl_sockets_as_well(manager, worker):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        listening = tls.listen_context(manager, Role.WORKER)
        serving = listening.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
        dialing = tls.dial_context(worker).wrap_socket(
            near, server_hostname=worker.server_name, do_handshake_on_connect=False
        )
        with serving, dialing:
            for end in (dialing, serving) * 3:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
            assert tls.identify(manager, Role.WORKER, serving, ADDRESS).name == "worker"
            assert tls.identify(worker, Role.MANAGER, dialing, ADDRESS).name == "manager"


# -- dates and broken credentials ----------------------------------------------------------------------------


def test_own_expired_certificate_is_named_before_dialing_with_the_command_to_renew(star):
    expired = issued(star, Role.WORKER, begin=-48, end=-1)
    with pytest.raises(CredentialsError, match=r"expired on \d{4}-\d\d-\d\d .*certs issue worker timed"):
        tls.dial_context(expired)


def test_own_certificate_from_the_future_speaks_of_the_clock(star):
    with pytest.raises(CredentialsError, match=r"not valid before .* clock"):
        tls.dial_context(issued(star, Role.CLIENT, begin=2, end=48))


def test_expired_certificate_is_refused_by_the_manager(star, manager, monkeypatch):
    expired = issued(star, Role.WORKER, begin=-48, end=-1)
    monkeypatch.setattr(tls, "_check_dates", lambda identity: None)  # a peer that does not look
    done = meet(manager, Role.WORKER, expired)
    assert done.manager_error is not None
    assert "refused this certificate as expired" in tls.explain(done.dialer_error)


def test_certificate_is_valid_an_hour_back_for_slow_clocks(worker):
    begin, end = tls.validity(worker.certificate, "here")
    age = datetime.now(timezone.utc) - begin
    assert timedelta(minutes=59) < age < timedelta(minutes=65)
    assert timedelta(days=729) < end - begin < timedelta(days=731)


def test_key_of_another_certificate_is_told(worker, client):
    with pytest.raises(CredentialsError, match="the key does not belong to the certificate"):
        tls.dial_context(replace(worker, key=client.key))


@pytest.mark.parametrize("field", ["certificate", "key", "manager"])
def test_damaged_credentials_are_one_line(worker, field):
    with pytest.raises(CredentialsError, match="no ") as caught:
        tls.dial_context(replace(worker, **{field: "-----BEGIN NOTHING-----\n"}))
    assert "\n" not in str(caught.value)


def test_credentials_leave_no_file_behind(worker, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tls.dial_context(worker)
    assert os.listdir(tmp_path) == []


def test_credentials_never_show_in_a_repr(manager, worker):
    assert "PRIVATE" not in repr(manager) + repr(worker)


def test_roles_that_cannot_meet_are_misuse(manager, worker):
    with pytest.raises(MisuseError):
        tls.listen_context(manager, Role.MANAGER)
    with pytest.raises(MisuseError):
        worker.trusted(Role.CLIENT)


# -- the six PEM files ---------------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl: install openssl")


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files with the commands of the first StarCompute's README; everybody has the same subject there."""
    path = tmp_path_factory.mktemp("pem")
    for name in ("manager", "worker", "client", "stranger"):
        openssl("genpkey", "-algorithm", "RSA", "-out", f"{name}_key.pem", cwd=path)
        request = ["req", "-x509", "-new", "-key", f"{name}_key.pem", "-out", f"{name}_cert.pem", "-days", "365"]
        if name == "manager":
            request += ["-subj", "/C=CG/ST=Zürich/L=Zürich/O=UZH/OU=physik/CN=somebody"]
            request += ["-addext", "subjectAltName=DNS:somebody.example,IP:198.51.100.9"]
        else:
            request += ["-subj", "/C=AU/ST=Some-State/O=Internet Widgits Pty Ltd"]
        openssl(*request, cwd=path)
    return path


def pinned_manager(pems: Path, **changes: str) -> tls.ManagerIdentity:
    text = {name: (pems / f"{name}.pem").read_text() for name in ("manager_cert", "worker_cert", "client_cert")}
    identity = tls.ManagerIdentity(
        certificate=text["manager_cert"],
        key=(pems / "manager_key.pem").read_text(),
        workers=text["worker_cert"],
        clients=text["client_cert"],
        pinned=True,
        source="manager_cert.pem",
    )
    return replace(identity, **changes)


@needs_openssl
def test_pinned_identity_is_the_key_which_a_renewal_may_keep(pems, tmp_path):
    client = pinned_dialer(pems, "client", Role.CLIENT)
    key = ["-key", str(pems / "client_key.pem")]
    openssl("req", "-x509", "-new", *key, "-out", "again.pem", "-days", "9", "-subj", "/CN=other", cwd=tmp_path)
    again = replace(client, certificate=(tmp_path / "again.pem").read_text())
    stranger = pinned_dialer(pems, "stranger", Role.CLIENT)
    manager = pinned_manager(pems, clients=client.certificate + again.certificate + stranger.certificate)
    assert tls.fingerprint(client.certificate) != tls.fingerprint(again.certificate)
    assert seen(manager, client) == seen(manager, again) != seen(manager, stranger)
    assert seen(manager, client).startswith("key:")


def pinned_dialer(pems: Path, name: str, role: Role = Role.WORKER) -> tls.DialerIdentity:
    own, key, manager = (pems / f"{file}.pem" for file in (f"{name}_cert", f"{name}_key", "manager_cert"))
    texts = {"certificate": own.read_text(), "key": key.read_text(), "manager": manager.read_text()}
    return tls.DialerIdentity(role=role, name=name, **texts, pinned=True, source=str(own))


@needs_openssl
@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT])
def test_pinned_certificates_meet_at_any_address(pems, role):
    manager, dialer = pinned_manager(pems), pinned_dialer(pems, role.name.lower(), role)
    done = meet(manager, role, dialer)
    assert done.stands
    peer = tls.identify(manager, role, done.manager, ADDRESS)
    assert peer.role is role
    assert peer.name == f"{role.name.lower()}-{peer.fingerprint[:8]}"  # its subject names nobody
    assert tls.identify(dialer, Role.MANAGER, done.dialer, ADDRESS).name == "somebody"


@needs_openssl
def test_pinned_client_is_refused_at_the_worker_port(pems):
    done = meet(pinned_manager(pems), Role.WORKER, pinned_dialer(pems, "client", Role.CLIENT))
    assert done.manager_error is not None
    assert done.dialer_error is not None


@needs_openssl
def test_pinned_stranger_is_refused(pems):
    assert meet(pinned_manager(pems), Role.WORKER, pinned_dialer(pems, "stranger")).manager_error is not None


@needs_openssl
def test_pinned_manager_that_is_another_one_is_refused(pems):
    posing = pinned_manager(
        pems, certificate=(pems / "stranger_cert.pem").read_text(), key=(pems / "stranger_key.pem").read_text()
    )
    worker = pinned_dialer(pems, "worker")
    done = meet(posing, Role.WORKER, worker)
    assert isinstance(done.dialer_error, ssl.SSLCertVerificationError)
    assert "shows another certificate than the one given here" in tls.explain(
        done.dialer_error, tls.Target("::1", 443, worker, "")
    )


@needs_openssl
@pytest.mark.parametrize("forged_role", [Role.WORKER, Role.MANAGER])
def test_certificate_forged_with_a_pinned_key_is_refused_by_its_fingerprint(pems, forged_role, tmp_path):
    """Self-signed certificates say CA:TRUE, so OpenSSL accepts what their keys sign; we do not."""
    signer = "worker" if forged_role is Role.WORKER else "manager"
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "forged_key.pem", "-out", "forged.csr",
            "-subj", "/CN=forged", cwd=tmp_path)  # fmt: skip
    openssl("x509", "-req", "-in", "forged.csr", "-CA", str(pems / f"{signer}_cert.pem"), "-CAkey",
            str(pems / f"{signer}_key.pem"), "-CAcreateserial", "-out", "forged_cert.pem", cwd=tmp_path)  # fmt: skip
    forged = {
        "certificate": (tmp_path / "forged_cert.pem").read_text(),
        "key": (tmp_path / "forged_key.pem").read_text(),
    }
    manager, worker = pinned_manager(pems), pinned_dialer(pems, "worker")
    if forged_role is Role.WORKER:
        done = meet(manager, Role.WORKER, replace(worker, **forged))
        judge, expected, seen = manager, Role.WORKER, done.manager
    else:
        done = meet(replace(manager, **forged), Role.WORKER, worker)
        judge, expected, seen = worker, Role.MANAGER, done.dialer
    assert done.stands  # OpenSSL has no objection
    with pytest.raises(CredentialsError, match=f"that is not the {expected.name.lower()}'s own"):
        tls.identify(judge, expected, seen, ADDRESS)


@needs_openssl
def test_several_pinned_workers_are_all_let_in(pems):
    both = (pems / "worker_cert.pem").read_text() + (pems / "stranger_cert.pem").read_text()
    manager = pinned_manager(pems, workers=both)
    for name in ("worker", "stranger"):
        done = meet(manager, Role.WORKER, pinned_dialer(pems, name))
        assert tls.identify(manager, Role.WORKER, done.manager, ADDRESS).role is Role.WORKER


@needs_openssl
def test_text_around_a_pinned_certificate_does_no_harm(pems):
    manager = pinned_manager(pems)
    manager = replace(manager, workers=f"Subject: ST = Zürich\n{manager.workers}\nthe end")
    assert meet(manager, Role.WORKER, pinned_dialer(pems, "worker")).stands


@needs_openssl
def test_key_with_a_passphrase_is_refused_without_asking_for_it(pems, tmp_path):
    openssl("pkey", "-in", str(pems / "worker_key.pem"), "-aes256", "-passout", "pass:x", "-out", "k.pem", cwd=tmp_path)
    with pytest.raises(CredentialsError, match="has a passphrase"):
        tls.dial_context(replace(pinned_dialer(pems, "worker"), key=(tmp_path / "k.pem").read_text()))


# -- what went wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "sentence"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "nobody listens at [2001:db8::1]:443"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ..."), "nobody listens at"),
        (OSError(errno.ENETUNREACH, "no"), "no way to [2001:db8::1]:443"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('2001:db8::1', 443)"), "no way to [2001:db8::1]:443"),
        (TimeoutError(), "no answer from [2001:db8::1]:443"),
        (ConnectionResetError(), "closed the connection without a word: is 443 its port for workers"),
        (socket.gaierror(-2, "unknown"), "no machine is known by the name in"),
        (ssl.SSLEOFError(8, "EOF"), "closed the connection without a word: is 443 its port for workers"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "does not speak TLS"),
        (ssl.SSLError(1, "sslv3 alert bad certificate"), "refused this certificate (/home/u/w.join)"),
        (ssl.SSLError(1, "odd {thing}\nhappened"), "odd {thing} happened"),
        (RefusedError(6, "wrong {role}"), "wrong {role}"),
        (None, "closed the connection without a word"),
        (ValueError("odd"), "no connection to [2001:db8::1]:443: odd"),
    ],
)
def test_whatever_goes_wrong_is_explained_in_one_line(worker, exc, sentence):
    target = tls.Target("2001:db8::1", 443, replace(worker, source="/home/u/w.join"), "--join")
    said = tls.explain(exc, target)
    assert sentence in said
    assert "\n" not in said


def test_errors_get_the_class_whose_exit_code_fits(manager, other, worker):
    refused = meet(manager, Role.WORKER, certificates.read_join(other.worker_join).identity).dialer_error
    assert isinstance(tls.as_error(refused), CredentialsError)
    gone = ConnectionRefusedError(errno.ECONNREFUSED, "no")
    assert isinstance(tls.as_error(gone), UnreachableError)
    assert tls.as_error(gone).__cause__ is gone
    assert isinstance(tls.as_error(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")), UnreachableError)
    own = CredentialsError("as it is")
    assert tls.as_error(own) is own


@pytest.mark.parametrize(
    "said",
    [
        "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac (_ssl.c:1006)",
        "[SSL: SSLV3_ALERT_BAD_RECORD_MAC] sslv3 alert bad record mac (_ssl.c:1006)",
        "[SSL: SSL/TLS_ALERT_BAD_RECORD_MAC] ssl/tls alert bad record mac (_ssl.c:1029)",
        "decryption failed or bad record mac",
    ],
)
def test_bytes_that_were_damaged_on_their_way_blame_no_certificate(worker, said):
    """A flipped bit in the first handshake ended the client for good: it may pass, so it is tried again."""
    error = tls.as_error(ssl.SSLError(1, said), tls.Target("manager", 443, worker, "--join"))
    assert isinstance(error, UnreachableError)
    assert "arrived damaged" in str(error)


@pytest.mark.parametrize(("exc", "stacks"), [(ConnectionRefusedError(111, "no"), 1), (KeyError("odd"), 2)])
def test_what_the_network_did_is_told_without_the_stack_of_our_inside(exc, stacks):
    """Only a fault of ours is worth a second stack above the sentence."""

    def dial():
        raise exc

    def report():
        try:
            dial()
        except Exception as error:
            raise tls.as_error(error) from error

    with pytest.raises(UnreachableError) as caught:
        report()
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback (most recent call last)") == stacks
    assert str(exc) in shown


def test_importing_is_cheap_and_blind():
    look = "import sys, starcore.tls, starcore.certificates, starcore.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    assert not {"cryptography", "numpy", "pickle", "cloudpickle"} & set(loaded)


# -- over the loops ------------------------------------------------------------------------------------------


def loops() -> list[object]:
    return [asyncio.new_event_loop, uvloop.new_event_loop]


class End(asyncio.Protocol):
    """One end of a connection: identifies its peer, and tells what it was lost to."""

    def __init__(self, identity: tls.ManagerIdentity | tls.DialerIdentity, role: Role) -> None:
        loop = asyncio.get_running_loop()
        self.identity, self.role = identity, role
        self.peer, self.lost = loop.create_future(), loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peer.set_result(tls.identify(self.identity, self.role, transport.get_extra_info("ssl_object"), ADDRESS))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def connect(manager: tls.ManagerIdentity, dialer: tls.DialerIdentity) -> tuple[asyncio.Server, list[End], End]:
    loop, accepted = asyncio.get_running_loop(), []

    def accept() -> End:
        accepted.append(End(manager, Role.WORKER))
        return accepted[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=tls.listen_context(manager, Role.WORKER))
    _, end = await loop.create_connection(
        lambda: End(dialer, Role.MANAGER),
        *server.sockets[0].getsockname(),
        ssl=tls.dial_context(dialer),
        server_hostname=dialer.server_name,
    )
    return server, accepted, end


@pytest.mark.parametrize("new_loop", loops())
def test_peers_identify_each_other_over_a_loop(new_loop, manager, worker):
    async def go() -> None:
        server, accepted, end = await connect(manager, worker)
        assert (await end.peer).role is Role.MANAGER
        assert (await accepted[0].peer).name == "worker"
        end.transport.close()
        await accepted[0].lost
        server.close()

    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(go(), 10))
    finally:
        loop.close()


@pytest.mark.parametrize("new_loop", loops())
def test_refused_dialer_learns_why_over_a_loop(new_loop, manager, other, worker):
    stranger = replace(certificates.read_join(other.worker_join).identity, manager=worker.manager)

    async def go() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # what the manager's loop says of it
        server, accepted, end = await connect(manager, stranger)
        assert accepted == [] or not accepted[0].peer.done()
        server.close()
        return tls.explain(await end.lost, tls.Target("127.0.0.1", 443, stranger, ""))

    loop = new_loop()
    try:
        said = loop.run_until_complete(asyncio.wait_for(go(), 10))
    finally:
        loop.close()
    # Neither loop sends the alert of a handshake that failed; a manager of another make would.
    assert said.startswith(
        ("the manager at 127.0.0.1:443 closed the connection", "the manager at 127.0.0.1:443 refused this certificate")
    )
    assert str(other.worker_join) in said
