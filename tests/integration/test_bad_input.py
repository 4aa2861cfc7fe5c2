"""Whatever is wrong with the input: one line that says what, a documented exit code, no traceback.

And garbage on the wire, which costs nobody but its sender.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import starcore
from starcore import certificates, errors, tls
from starcore.__main__ import main
from starcore.messages import Role

from .processes import ROOT, Manager, Place, eventually, free_ports

NOBODY = 65534
ROOT_USER = hasattr(os, "getuid") and os.getuid() == 0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a running manager and one worker."""
    place = Place(tmp_path_factory.mktemp("bad") / "here")
    try:
        place.manager("--greeting-seconds", "3")
        place.worker()
        yield place
    finally:
        place.close()


@pytest.fixture
def manager(here: Place) -> Manager:
    manager = here.programs[0]
    assert isinstance(manager, Manager)
    assert manager.running, manager.log
    return manager


@pytest.fixture(autouse=True)
def no_traceback_of_ours(here: Place) -> Iterator[None]:
    yield
    assert "Traceback" not in here.logs()


@pytest.fixture(scope="module")
def other_star(tmp_path_factory: pytest.TempPathFactory) -> certificates.Star:
    return certificates.create_star(tmp_path_factory.mktemp("other") / "star", host="127.0.0.1")[0]


def assert_one_line(ran: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    said = [line for line in ran.stderr.splitlines() if " each, an arena of " not in line]  # a worker's first line
    assert ran.returncode == code, ran
    assert len(said) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not [word for word in words if word not in said[0]], said[0]


def join_of(star: certificates.Star, role: Role, path: Path, **options: float) -> Path:
    certificates.write_private(path, certificates.issue(star, role, path.stem, **options).text())
    return path


Call = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def call(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call `starcore COMMAND` in this process: a new one costs half a second, and there are many cases."""
    for name in [name for name in os.environ if name.startswith(("STARCORE_", "STARCOMPUTE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STARCORE_CONFIG_DIR", place.environment["STARCORE_CONFIG_DIR"])
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", place.environment["STARCORE_RUNTIME_DIR"])

    def call(command: str) -> subprocess.CompletedProcess[str]:
        try:
            code = main(command.split())
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, said.out, said.err)

    return call


# -- command lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("nonsense", ["no command 'nonsense'", "manager, worker, certs, jobs, status"]),
        ("manager --port 99999", ["'99999' is not a port", "--help"]),
        ("manager --port http", ["'http' is not a port"]),
        ("manager --port 8443 --client-port 8443", ["both 8443"]),
        ("manager --drain-seconds soon", ["'soon' is not a time"]),
        ("manager --bogus", ["unrecognized arguments: --bogus"]),
        ("worker --slots 0", ["'0' slots"]),
        ("worker --slots many", ["'many' slots"]),
        ("worker --port 0", ["'0' is not a port"]),
        ("worker --arena huge", ["huge"]),
        ("worker --function fit", ["'fit' names no function", "package.module:name"]),
        ("worker --only-registered", ["--function"]),
        ("worker --manager a --manager-ip b", ["--manager and --manager-ip"]),
        ("certs issue manager m", ["invalid choice"]),
        ("certs", ["required"]),
        ("status --port 3", ["unrecognized arguments"]),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_code_2(call: Call, command: str, words: list[str]) -> None:
    assert_one_line(call(command), 2, *words)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("worker --no-reconnect", 2, ["no manager is configured", "--join FILE", "certs issue worker"]),
        ("status", 2, ["no manager is configured", "certs issue client"]),
        ("status --manager 127.0.0.1:1", 2, ["an address alone", "--join FILE"]),
        ("worker --manager 1:2:x:4", 4, ["is not an address", "HOST:PORT"]),
        ("worker --join missing.join", 3, ["no join file missing.join"]),
        ("status --join missing.join", 3, ["no join file missing.join"]),
        ("certs issue worker n", 3, ["no star", "certs init"]),
        ("manager --host 203.0.113.1", 4, ["'203.0.113.1' is not an address of this machine", "leave --host out"]),
        ("manager --host no.such.host.invalid", 4, ["not an address of this machine"]),
    ],
)
def test_what_is_not_set_up_is_one_line_that_says_what_to_do(
    call: Call, place: Place, command: str, code: int, words: list[str]
) -> None:
    assert_one_line(call(command), code, *words)
    assert not place.config.exists()


def test_commands_as_programs_of_their_own_do_the_same(place: Place) -> None:
    assert_one_line(place.starcore("nonsense"), 2, "no command 'nonsense'")
    assert_one_line(place.starcore("worker", "--no-reconnect"), 2, "no manager is configured")
    for module in ("manager", "worker", "certs", "status"):
        assert_one_line(place.run(sys.executable, "-m", f"starcore.{module}", "--bogus"), 2, "--help")


# -- ports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "other"), [("--port", "--client-port"), ("--client-port", "--port")])
def test_port_in_use_is_said_and_leaves_no_star_behind(place: Place, flag: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        ran = place.starcore("manager", "--host", "127.0.0.1", flag, str(port), other, "0")
    assert_one_line(ran, 4, f"port {port} is in use", f"choose another with {flag}")
    assert not place.star.exists()


@pytest.mark.skipif(not ROOT_USER, reason="run as root: only root can become another user")
def test_port_without_rights_is_said_with_the_way_out(place: Place) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 443:
        pytest.skip("everybody may open port 443 here: sysctl net.ipv4.ip_unprivileged_port_start=1024")
    manager = ("manager", "--host", "127.0.0.1", "--port", "443", "--client-port", "444")
    with for_nobody(place) as command, tempfile.TemporaryDirectory() as run:  # not in this place, which is root's alone
        os.chown(run, NOBODY, NOBODY)
        ran = place.run("env", f"STARCORE_RUNTIME_DIR={run}", *command, *manager)
    assert_one_line(ran, 4, "port 443 needs rights", "--port 8443 --client-port 8444", "ip_unprivileged_port_start")


@contextlib.contextmanager
def for_nobody(place: Place) -> Iterator[list[str]]:
    """The start of a command that another user runs in this place; skips where nobody cannot read the package."""
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", sys.executable, "-m"]
    if shutil.which("setpriv") is None:
        pytest.skip("no command setpriv: install the package util-linux")
    if place.run(*command, "starcore", "--version").returncode != 0:
        pytest.skip(f"the user nobody cannot run the package in {ROOT}: clone where all may read")
    yield [*command, "starcore"]


# -- credentials ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["manager.key", "manager.pem", "ca.pem"])
def test_missing_file_of_the_star_is_named(place: Place, key: str) -> None:
    star, _ = certificates.create_star(place.star, host="127.0.0.1")
    (star.directory / key).unlink()
    ran = place.starcore("manager", "--host", "127.0.0.1", "--port", "0", "--client-port", "0")
    assert_one_line(ran, 3, str(star.directory / key), "missing")


def test_key_that_others_can_read_is_refused_with_the_command_that_closes_it(place: Place) -> None:
    star, _ = certificates.create_star(place.star, host="127.0.0.1")
    star.manager_key.chmod(0o644)
    ran = place.starcore("manager", "--host", "127.0.0.1", "--port", "0", "--client-port", "0")
    assert_one_line(ran, 3, "can be read by other users", f"chmod 600 {star.manager_key}")
    join = join_of(star, Role.CLIENT, place.directory / "open.join")
    join.chmod(0o640)
    assert_one_line(place.starcore("status", "--join", "open.join"), 3, "can be read by other users", "chmod 600")


def test_expired_certificate_is_said_with_its_date_and_the_command_that_renews_it(here: Place, tmp_path: Path) -> None:
    star = certificates.load_star(here.star)
    for role, command in ((Role.WORKER, ["worker", "--no-reconnect"]), (Role.CLIENT, ["status"])):
        join = join_of(star, role, tmp_path / f"old-{role.name}.join", days=-0.01)
        ran = here.starcore(*command, "--join", str(join))
        issue = f"certs issue {certificates.said(role)} old-{role.name}"
        assert_one_line(ran, 3, str(join), "the certificate expired on 20", issue)


def test_managers_own_expired_certificate_is_renewed_at_its_start(place: Place) -> None:
    star, _ = certificates.create_star(place.star, host="127.0.0.1")
    certificate, key = certificates._issue_leaf(star, Role.MANAGER, "manager", days=-0.01)
    certificates.write_private(star.manager_key, key, overwrite=True)
    certificates.write_private(star.manager, certificate, overwrite=True)
    manager = place.manager()
    assert place.starcore("status").returncode == 0, manager.log


def test_join_file_of_another_star_is_named(
    here: Place, manager: Manager, other_star: certificates.Star, tmp_path: Path
) -> None:
    for role, command, address in (
        (Role.WORKER, ["worker", "--no-reconnect"], manager.worker_address),
        (Role.CLIENT, ["status"], manager.address),
    ):
        join = join_of(other_star, role, tmp_path / f"foreign-{role.name}.join")
        ran = here.starcore(*command, "--join", str(join), "--manager", address)
        assert_one_line(ran, 3, f"the manager at {address} is of another star than {join}")


def test_join_file_of_the_other_role_is_said_before_anything_is_dialed(here: Place) -> None:
    ran = here.starcore("worker", "--join", str(here.star / "client.join"))
    assert_one_line(ran, 3, "is a client's join file, and this is a worker", "certs issue worker")
    ran = here.starcore("status", "--join", str(here.star / "worker.join"))
    assert_one_line(ran, 3, "is a worker's join file, and this is a client", "certs issue client")


def test_certificate_at_the_wrong_port_is_refused_by_the_manager(here: Place, manager: Manager) -> None:
    ran = here.starcore("status", "--manager", manager.worker_address)
    assert_one_line(ran, 5, "the certificate of a client", "the port for workers")
    ran = here.starcore("worker", "--no-reconnect", "--manager", manager.address)
    assert_one_line(ran, 3, "the certificate of a worker", "the port for clients")


@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT])
def test_peer_that_calls_itself_something_else_than_its_certificate_is_refused(
    here: Place, manager: Manager, tmp_path: Path, role: Role
) -> None:
    other = Role.CLIENT if role is Role.WORKER else Role.WORKER
    fields = json.loads((here.star / f"{certificates.said(other)}.join").read_text())
    fields |= {"role": certificates.said(role), "port": manager.port if other is Role.WORKER else manager.client_port}
    forged = tmp_path / "forged.join"
    certificates.write_private(forged, json.dumps(fields))
    command = ["worker", "--no-reconnect"] if role is Role.WORKER else ["status"]
    said = certificates.said(role)
    assert_one_line(here.starcore(*command, "--join", str(forged)), 3 if role is Role.WORKER else 5, f"says {said}")


# -- a manager that is not there -----------------------------------------------------------------------------


def test_client_without_a_manager_fails_soon_and_says_where_nobody_listens(here: Place) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    with pytest.raises(errors.UnreachableError, match=f"nobody listens at 127.0.0.1:{port}: is the manager running"):
        starcore.Client(f"127.0.0.1:{port}", join=here.star / "client.join")
    assert time.monotonic() - began < 5
    assert_one_line(here.starcore("status", "--manager", f"127.0.0.1:{port}"), 5, f"127.0.0.1:{port}")


def test_worker_without_a_manager_waits_for_it_with_one_line_or_leaves_with_5_if_told(here: Place) -> None:
    (port,) = free_ports(1)
    ran = here.starcore("worker", "--manager", f"127.0.0.1:{port}", "--no-reconnect")
    assert_one_line(ran, 5, f"no manager: nobody listens at 127.0.0.1:{port}")
    worker = here.worker("--manager", f"127.0.0.1:{port}", ready=False)
    worker.wait_for("no manager yet: nobody listens .*; trying until there is one")
    time.sleep(0.8)  # several attempts
    assert worker.log.count("no manager yet") == 1
    assert worker.running
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0


def test_what_does_not_speak_tls_is_no_manager(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        command = [sys.executable, "-m", "starcore", "status", "--manager", f"127.0.0.1:{port}"]
        asking = subprocess.Popen(command, env=here.environment, stderr=subprocess.PIPE, text=True)
        connection, _ = stranger.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            _, said = asking.communicate(timeout=30)
    assert_one_line(subprocess.CompletedProcess(command, asking.returncode, "", said), 5, "does not speak TLS")


# -- the client's own arguments ------------------------------------------------------------------------------


def test_wrong_arguments_raise_where_the_call_is_made(here: Place, manager: Manager) -> None:
    array = np.arange(6.0)
    wrong: list[tuple[type[Exception], str, dict[str, object]]] = [
        (TypeError, "a function is needed", {"fn": 3}),
        (TypeError, "array", {"array": [1, 2]}),
        (TypeError, "object", {"array": np.array([{}], dtype=object)}),
        (ValueError, "chunks", {"chunks": 0}),
        (ValueError, "chunks", {"chunks": 7}),
        (ValueError, "axis", {"chunks": 2, "axis": 1}),
        (TypeError, "out", {"out": [0.0] * 6}),
        (ValueError, "timeout", {"timeout": 0}),
        (ValueError, "retries", {"retries": -1}),
    ]
    with here.client(manager) as client:
        for kind, word, given in wrong:
            options = {k: v for k, v in given.items() if k in ("timeout", "retries")}
            call = {"fn": np.sort, "array": array} | {k: v for k, v in given.items() if k not in options}
            with pytest.raises(kind, match=word) as raised:
                client.options(**options).submit_array(call.pop("fn"), call.pop("array"), **call)  # type: ignore[arg-type]
            assert isinstance(raised.value, errors.MisuseError), given
            assert "\n" not in str(raised.value)
        for out in (np.empty(5), np.empty(6, "f4")):  # only the answer tells what would have fitted
            with pytest.raises(errors.MisuseError, match="out"):
                client.submit_array(np.sort, array, out=out).result(20)
        assert client.submit_array(np.sort, array).result(20)[-1] == 5


# -- garbage on the wire -------------------------------------------------------------------------------------

GARBAGE = {
    "noise": bytes(range(256)) * 8,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: star\r\n\r\n",
    "half a TLS record": b"\x16\x03\x01\x02\x00\x01\x00",
    "one byte": b"\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("what", list(GARBAGE))
def test_garbage_instead_of_tls_is_one_log_line_and_nobody_notices(here: Place, manager: Manager, what: str) -> None:
    before = len(manager.log)
    with here.client(manager) as client:
        future = client.submit(time.sleep, 0.2)
        for port in (manager.port, manager.client_port):
            with socket.create_connection(("127.0.0.1", port)) as garbler:
                garbler.sendall(GARBAGE[what])
                garbler.settimeout(5)
                with contextlib.suppress(OSError):  # the manager may be done with it before
                    garbler.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while garbler.recv(4096):
                        pass
        assert future.result(20) is None
        assert client.submit(pow, 2, 5).result(20) == 32
    eventually(lambda: manager.log[before:].count("the TLS handshake failed") >= 2, "a line for each", 5)
    lines = [line for line in manager.log[before:].splitlines() if "handshake" in line]
    assert len(lines) == 2, lines
    assert all("refused 127.0.0.1:" in line for line in lines), lines


def dial(manager: Manager, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", manager.client_port), timeout=10)
    return context.wrap_socket(raw, server_hostname=tls.SERVER_NAME)


def test_peer_without_a_certificate_or_of_another_star_gets_nowhere(
    here: Place, manager: Manager, other_star: certificates.Star
) -> None:
    before = len(manager.log)
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(here.star / "ca.pem")
    foreign = tls.dial_context(certificates.issue(other_star, Role.CLIENT, "x").identity)
    foreign.load_verify_locations(here.star / "ca.pem")
    for context in (anonymous, foreign):
        with contextlib.suppress(ssl.SSLError, ConnectionError), dial(manager, context) as link:
            link.sendall(b"x" * 100)
            assert link.recv(100) == b""
    eventually(lambda: manager.log[before:].count("the TLS handshake failed") == 2, "a line for each", 5)
    assert "its certificate is not one of this star" in manager.log[before:]
    assert here.starcore("status").returncode == 0


FRAMES = {
    "an unknown message": bytes.fromhex("5343c800 00000000 0000000000000000"),
    "a wrong magic": b"GET / HTTP/1.1\r\n\r\n",
    "a frame beyond the limit": bytes.fromhex("53430100 ffffffff 0000000000000000"),
    "a table that ends early": bytes.fromhex("53430100 02000000 0000000000000000 0100"),
    "a chunk of no stream": bytes.fromhex("53430500 18000000 0400000000000000") + bytes(28),
}


@pytest.mark.parametrize("what", list(FRAMES))
def test_certified_peer_that_breaks_the_rules_is_closed_with_a_line(here: Place, manager: Manager, what: str) -> None:
    before = len(manager.log)
    identity = certificates.read_join(here.star / "client.join", Role.CLIENT).identity
    with here.client(manager) as client:
        with dial(manager, tls.dial_context(identity)) as link:
            link.sendall(FRAMES[what])
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                while link.recv(4096):
                    pass
        assert client.submit(pow, 2, 6).result(20) == 64
    line = eventually(lambda: [x for x in manager.log[before:].splitlines() if "closing " in x], "a line", 5)
    assert len(line) == 1, line
    assert "127.0.0.1:" in line[0]


def test_peers_that_say_nothing_or_half_a_frame_are_closed_when_their_greeting_is_due(
    here: Place, manager: Manager
) -> None:
    before = len(manager.log)
    identity = certificates.read_join(here.star / "client.join", Role.CLIENT).identity
    with socket.create_connection(("127.0.0.1", manager.client_port)) as mute, contextlib.ExitStack() as links:
        certified = [links.enter_context(dial(manager, tls.dial_context(identity))) for _ in range(2)]
        certified[0].sendall(bytes.fromhex("53430100 40000000"))
        for link in (mute, *certified):
            link.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                while link.recv(4096):
                    pass
    eventually(lambda: "the TLS handshake failed: it was not done within 3 s" in manager.log[before:], "a line", 5)
    assert manager.log[before:].count("closing ") == 2
    assert here.starcore("status").returncode == 0
