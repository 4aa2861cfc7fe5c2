"""settings.py: what wins over what, which of them said so, and the files that a running manager leaves."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from starcore import certificates, settings, tls
from starcore.certificates import Star
from starcore.errors import AddressError, CredentialsError, SetupError, UnconfiguredError
from starcore.messages import Role
from starcore.settings import RuntimeFile

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="run as root: it obeys SUDO_UID")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a user without settings."""
    for name in list(os.environ):
        if name.startswith(("STARCORE_", "STARCOMPUTE_", "XDG_", "SUDO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Star:
    """Make one star for the tests that only read it."""
    return certificates.create_star(tmp_path_factory.mktemp("made") / "star", host="manager.example.org")[0]


@pytest.fixture
def star(finished: Star, tmp_path: Path) -> Star:
    shutil.copytree(finished.directory, tmp_path / "config" / "star")
    return replace(finished, directory=tmp_path / "config" / "star")


def run_manager(star: Star | None, **changes: object) -> RuntimeFile:
    record = RuntimeFile.of_this_process("0.0.0.0", 8443, 8444, star=star, epoch=5)
    record = replace(record, **changes)
    record.write()
    return record


# -- directories ---------------------------------------------------------------------------------------------


def test_config_directory_follows_the_variables_and_then_the_platform(monkeypatch, tmp_path):
    assert settings.config_dir() == tmp_path / "config"
    monkeypatch.delenv("STARCORE_CONFIG_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert settings.config_dir() == Path("/x/starcore")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert settings.config_dir() == Path("/home/me/.config/starcore")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert settings.config_dir() == Path("/home/me/Library/Application Support/starcore")


@as_root
def test_under_sudo_the_caller_counts(monkeypatch):
    monkeypatch.delenv("STARCORE_CONFIG_DIR")
    monkeypatch.delenv("STARCORE_RUNTIME_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    assert settings.config_dir() == Path(pwd.getpwuid(65534).pw_dir) / ".config" / "starcore"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    directory = settings.runtime_dir()
    try:
        assert directory == Path("/tmp/starcore-65534")
        assert directory.stat().st_uid == 65534
    finally:
        directory.rmdir()


def test_runtime_directory_is_made_private(tmp_path):
    directory = settings.runtime_dir()
    assert directory == tmp_path / "run"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert settings.runtime_dir() == directory


def test_runtime_directory_is_the_sessions_or_else_in_tmp(monkeypatch, tmp_path):
    monkeypatch.delenv("STARCORE_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert settings.runtime_dir() == tmp_path / "starcore"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert settings._runtime_candidates() == [Path(f"/tmp/starcore-{os.getuid()}")]


def test_runtime_directory_that_others_may_enter_is_refused(tmp_path):
    settings.runtime_dir().chmod(0o755)
    with pytest.raises(SetupError, match="can be entered by other users"):
        settings.runtime_dir()
    assert settings.running_manager() is None


def test_runtime_directory_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="is not a directory"):
        settings.runtime_dir()


@as_root
def test_runtime_directory_of_another_user_is_refused():
    os.chown(settings.runtime_dir(), 65534, 65534)
    with pytest.raises(SetupError, match="belongs to another user"):
        settings.runtime_dir()


def test_at_least_one_core_is_usable():
    assert 1 <= settings.usable_cores() <= (os.cpu_count() or 1)


# -- the running manager -------------------------------------------------------------------------------------


def test_running_manager_is_found_until_it_removes_its_file(star):
    assert settings.running_manager() is None
    record = run_manager(star)
    assert settings.running_manager() == record
    assert (record.host, record.port(Role.WORKER), record.port(Role.CLIENT)) == ("127.0.0.1", 8443, 8444)
    assert record.join(Role.CLIENT) == str(star.client_join)
    path = settings.runtime_dir() / record.name
    assert path.name == f"manager-{os.getpid()}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    record.remove()
    record.remove()
    assert settings.running_manager() is None


def test_file_of_a_manager_that_is_gone_is_removed(star):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    run_manager(star, pid=child.pid)
    assert settings.running_manager() is None
    assert list(settings.runtime_dir().iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="run on Linux: its /proc tells a pid that came back")
def test_pid_that_came_back_is_not_the_manager(star):
    record = run_manager(star)
    assert record.started > 0
    run_manager(star, started=record.started - 1)
    assert settings.running_manager() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', "\x00"])
def test_damaged_runtime_file_is_ignored(text):
    certificates.write_private(settings.runtime_dir() / "manager-1.json", text)
    assert settings.running_manager() is None


def test_runtime_file_with_a_wrong_type_or_an_odd_pid_is_ignored(star):
    record = run_manager(star)
    for pid in ("one", -1, 0, 1 << 70, None):
        text = json.dumps({**asdict(record), "pid": pid})
        certificates.write_private(settings.runtime_dir() / record.name, text, overwrite=True)
        assert settings.running_manager() is None


@pytest.mark.parametrize(
    ("listens", "dials"), [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")]
)
def test_neighbours_dial_loopback_where_the_manager_listens_everywhere(listens, dials):
    assert RuntimeFile.of_this_process(listens, 1, 2).host == dials


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("manager.example.org", "manager.example.org", None),
        ("manager.example.org:8443", "manager.example.org", 8443),
        (" 10.0.0.5:1 ", "10.0.0.5", 1),
        ("[::1]:444", "::1", 444),
        ("[::1]", "::1", None),
        ("::1", "::1", None),
        ("2001:db8::7", "2001:db8::7", None),
        ("https://34.65.93.243", "34.65.93.243", None),
        ("https://34.65.93.243/", "34.65.93.243", None),
        ("https://localhost:443", "localhost", 443),
        ("wss://[::1]:444", "::1", 444),
    ],
)
def test_addresses_are_read(text, host, port):
    assert settings.parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "a:b",
        "a:0",
        "a:65536",
        "a:-1",
        "ftp://a",
        "https://a/b",
        "a b",
        "[::1",
        "1:2:x:4",
        "https://",
        "u@h",
    ],
)
def test_what_is_no_address_is_told(text):
    with pytest.raises(AddressError, match="is not an address: write HOST"):
        settings.parse_address(text)


def test_host_that_others_can_dial_stays_and_a_wildcard_becomes_an_address():
    assert settings.reachable_host("manager.example.org") == "manager.example.org"
    for wildcard in ("", "0.0.0.0", "::"):
        assert settings.reachable_host(wildcard) not in {"", "0.0.0.0", "::"}


# -- as whom, and where --------------------------------------------------------------------------------------


def join_at(path: Path, star: Star, role: Role, host: str, port: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    certificates.write_private(path, certificates.issue(star, role, "named", address=host, port=port).text())
    return path


def test_nothing_configured_says_what_to_do():
    with pytest.raises(UnconfiguredError, match=r"--join FILE .*certs issue worker NAME.* python -m starcore\.manager"):
        settings.dialer(Role.WORKER)


def test_address_without_credentials_says_what_is_missing():
    with pytest.raises(UnconfiguredError, match="an address alone does not open the door: add --join FILE"):
        settings.dialer(Role.CLIENT, address="m.example")


@pytest.mark.parametrize(
    ("address", "may_come"),
    [(None, True), ("127.0.0.1:8443", True), ("localhost", True), ("[::1]:443", True), ("m.example", False)],
)
def test_only_what_a_manager_of_this_machine_would_bring_may_come(address, may_come):
    with pytest.raises(UnconfiguredError) as caught:
        settings.dialer(Role.WORKER, address=address)
    assert caught.value.may_come is may_come


def test_join_flag_wins_over_everything(finished, star, tmp_path, monkeypatch):
    run_manager(star)
    flag = join_at(tmp_path / "flag.join", finished, Role.WORKER, "flag.example", 1)
    monkeypatch.setenv("STARCORE_JOIN", str(join_at(tmp_path / "env.join", finished, Role.WORKER, "env.example", 2)))
    target = settings.dialer(Role.WORKER, join=flag)
    assert (target.address, target.origin) == ("flag.example:1", f"--join {flag}")
    assert settings.dialer(Role.WORKER).address == "env.example:2"
    assert settings.dialer(Role.WORKER).origin.startswith("$STARCORE_JOIN")


def test_own_star_whose_manager_is_gone_is_told_from_none(tmp_path):
    with pytest.raises(UnconfiguredError, match="none of this user's runs here; use --join FILE"):
        settings.dialer(Role.CLIENT)
    certificates.create_star(settings.star_dir(), host="h")
    with pytest.raises(UnconfiguredError, match=r"does not run; start it again, .* python -m starcore.manager"):
        settings.dialer(Role.CLIENT)


def test_file_in_the_config_directory_wins_over_the_running_manager(star, tmp_path):
    run_manager(star)
    path = join_at(tmp_path / "config" / "client.join", star, Role.CLIENT, "far.example", 9)
    target = settings.dialer(Role.CLIENT)
    assert (target.address, target.origin) == ("far.example:9", f"file {path}")
    assert settings.dialer(Role.WORKER).address == "127.0.0.1:8443"


def test_running_manager_is_joined_with_its_own_join_file(star):
    record = run_manager(star)
    target = settings.dialer(Role.CLIENT)
    assert (target.host, target.port) == ("127.0.0.1", 8444)
    assert target.identity == certificates.read_join(star.client_join).identity
    assert target.origin == f"the manager that runs here (pid {record.pid})"


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("b.example", None, "b.example:443"),
        ("b.example:77", None, "b.example:77"),
        ("b.example:77", 78, "b.example:78"),
        ("https://203.0.113.4", 443, "203.0.113.4:443"),
        (None, 79, "manager.example.org:79"),
    ],
)
def test_address_flags_override_the_address_of_the_join_file(finished, address, port, expected):
    target = settings.dialer(Role.WORKER, join=finished.worker_join, address=address, port=port)
    assert target.address == expected
    assert target.identity.server_name == tls.SERVER_NAME
    if address:
        assert target.origin == f"address from --manager, credentials from --join {finished.worker_join}"


def test_environment_names_the_manager_for_a_join_file(finished, monkeypatch):
    monkeypatch.setenv("STARCORE_MANAGER", "e.example:5")
    target = settings.dialer(Role.WORKER, join=finished.worker_join)
    assert target.address == "e.example:5"
    assert "address from $STARCORE_MANAGER" in target.origin
    assert settings.dialer(Role.WORKER, join=finished.worker_join, address="f.example").address == "f.example:443"


def test_address_with_the_users_own_star_uses_its_join_file(star):
    target = settings.dialer(Role.WORKER, address="m.example")
    assert target.address == "m.example:443"
    assert target.identity.star == star.id


def test_star_whose_manager_does_not_run_is_not_dialed(star):
    with pytest.raises(UnconfiguredError):
        settings.dialer(Role.CLIENT)


def test_join_file_without_an_address_asks_for_one(finished, tmp_path):
    path = tmp_path / "bare.join"
    certificates.write_private(path, replace(certificates.read_join(finished.worker_join), host="").text())
    with pytest.raises(UnconfiguredError, match="does not say where the manager is; add --manager") as caught:
        settings.dialer(Role.WORKER, join=path)
    assert not caught.value.may_come
    assert settings.dialer(Role.WORKER, join=path, address="m.example").address == "m.example:443"


def test_port_flag_that_is_no_port_is_told(finished):
    with pytest.raises(AddressError, match="70000 is not a port"):
        settings.dialer(Role.WORKER, join=finished.worker_join, port=70000)


def test_wrong_join_file_is_not_passed_over(finished, monkeypatch):
    monkeypatch.setenv("STARCORE_JOIN", str(finished.client_join))
    with pytest.raises(CredentialsError, match="is a client's join file"):
        settings.dialer(Role.WORKER)


@as_root
def test_join_files_of_another_users_manager_say_to_use_a_join_file(star, tmp_path):
    """The runtime file is ours, but the star's directory turned out to be closed."""
    run_manager(star)
    os.chown(star.client_join, 65534, 65534)
    with pytest.raises(CredentialsError, match="belongs to another user"):
        settings.dialer(Role.CLIENT)


# -- the manager's -------------------------------------------------------------------------------------------


def test_first_start_makes_a_star_and_the_next_one_uses_it(tmp_path):
    identity, created, star = settings.manager_identity(host="m.example", worker_port=8443)
    assert created
    assert star is not None
    assert star.directory == tmp_path / "config" / "star"
    assert certificates.read_join(star.worker_join).port == 8443
    again, created, _ = settings.manager_identity()
    assert (again, created) == (identity, False)


def test_star_of_a_manager_that_listens_everywhere_gets_an_address_to_dial(tmp_path):
    _, _, star = settings.manager_identity(tmp_path / "here", host="0.0.0.0")
    assert star is not None
    assert star.host not in {"", "0.0.0.0"}


# -- the six PEM files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no command openssl: install openssl")
    path = tmp_path_factory.mktemp("pem")
    for name in ("manager", "worker", "client"):
        for command in (
            f"genpkey -algorithm RSA -out {name}_key.pem",
            f"req -x509 -new -key {name}_key.pem -out {name}_cert.pem -days 365 -subj /C=AU",
        ):
            subprocess.run(["openssl", *command.split()], cwd=path, check=True, capture_output=True)
    return path


@pytest.fixture
def pems(made_pems: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_pems, tmp_path / "pem"))


def export(monkeypatch: pytest.MonkeyPatch, pems: Path, *names: str, short: bool = False) -> None:
    """Set the variables as the first StarCompute's README (`short`) or its code spells them."""
    for name in names or [f"{who}_{what}" for who in ("manager", "worker", "client") for what in ("cert", "key")]:
        suffix = "" if short and name in {"manager_cert", "client_cert"} else "_PATH"
        monkeypatch.setenv(f"STARCOMPUTE_{name.upper()}{suffix}", str(pems / f"{name}.pem"))


@pytest.mark.parametrize("short", [False, True])
def test_six_files_make_a_pinned_star_in_both_spellings(monkeypatch, pems, short):
    export(monkeypatch, pems, short=short)
    manager, created, star = settings.manager_identity()
    assert (manager.pinned, created, star) == (True, False, None)
    run_manager(None)
    for role in (Role.WORKER, Role.CLIENT):
        target = settings.dialer(role)
        assert target.identity.pinned
        assert target.origin == "$STARCOMPUTE_* variables"
        assert (target.host, target.port) == ("127.0.0.1", 8443 if role is Role.WORKER else 8444)
        tls.dial_context(target.identity)
        tls.listen_context(manager, role)
    assert settings.dialer(Role.WORKER, address="https://34.65.93.243", port=443).address == "34.65.93.243:443"


def test_each_machine_needs_only_its_own_of_the_six(monkeypatch, pems):
    export(monkeypatch, pems, "manager_cert", "worker_cert", "worker_key")
    assert settings.dialer(Role.WORKER, address="m.example").address == "m.example:443"
    with pytest.raises(UnconfiguredError):
        settings.dialer(Role.CLIENT)
    _, created, star = settings.manager_identity()
    assert created
    assert star is not None


def test_pinned_dialer_without_an_address_asks_for_one(monkeypatch, pems):
    export(monkeypatch, pems)
    with pytest.raises(UnconfiguredError, match=r"\$STARCOMPUTE_\* variables does not say|do not say") as caught:
        settings.dialer(Role.WORKER)
    assert caught.value.may_come


def test_missing_one_of_the_six_is_named(monkeypatch, pems):
    export(monkeypatch, pems, "manager_key", "manager_cert", "client_cert", "worker_key")
    with pytest.raises(CredentialsError, match="STARCOMPUTE_WORKER_CERT_PATH"):
        settings.manager_identity()
    with pytest.raises(CredentialsError, match="missing: STARCOMPUTE_WORKER_CERT_PATH"):
        settings.dialer(Role.WORKER, address="m.example")


def test_named_file_that_is_not_there_is_told(monkeypatch, pems):
    export(monkeypatch, pems)
    (pems / "client_cert.pem").unlink()
    with pytest.raises(CredentialsError, match=r"client_cert\.pem, named by a STARCOMPUTE_\* variable, is not there"):
        settings.manager_identity()


def test_world_readable_legacy_key_is_refused_and_certificates_may_be_public(monkeypatch, pems):
    export(monkeypatch, pems)
    for path in pems.glob("*_cert.pem"):
        path.chmod(0o644)
    settings.manager_identity()
    (pems / "manager_key.pem").chmod(0o644)
    with pytest.raises(CredentialsError, match=r"chmod 600 .*manager_key\.pem"):
        settings.manager_identity()


def test_file_without_a_certificate_is_told(monkeypatch, pems):
    export(monkeypatch, pems)
    (pems / "worker_cert.pem").write_text("hello")
    with pytest.raises(CredentialsError, match=r"worker_cert\.pem holds no certificate"):
        settings.manager_identity()


def test_one_certificate_for_workers_and_clients_is_refused(monkeypatch, pems):
    export(monkeypatch, pems)
    monkeypatch.setenv("STARCOMPUTE_CLIENT_CERT_PATH", str(pems / "worker_cert.pem"))
    with pytest.raises(CredentialsError, match="workers and clients have the same certificate"):
        settings.manager_identity()


def test_join_variable_wins_over_the_six_files_and_an_explicit_star_as_well(monkeypatch, pems, finished):
    export(monkeypatch, pems)
    monkeypatch.setenv("STARCORE_JOIN", str(finished.worker_join))
    assert not settings.dialer(Role.WORKER).identity.pinned
    assert not settings.manager_identity(finished.directory)[0].pinned


def test_pinned_manager_asks_its_neighbours_for_the_six_files():
    run_manager(None)
    with pytest.raises(UnconfiguredError, match="uses the STARCOMPUTE_") as caught:
        settings.dialer(Role.CLIENT)
    assert not caught.value.may_come


def test_journal_is_where_the_flag_says_or_the_variable_or_the_stars_file(monkeypatch, tmp_path):
    monkeypatch.delenv("STARCORE_JOURNAL", raising=False)
    star = Star(tmp_path / "star", "id", "", journal=str(tmp_path / "kept"))
    assert settings.journal_dir(None) == settings.journal_dir(None, replace(star, journal="")) == (None, "the default")
    assert settings.journal_dir(None, star) == (tmp_path / "kept", str(star.about))
    monkeypatch.setenv("STARCORE_JOURNAL", str(tmp_path))
    assert settings.journal_dir(None, star) == (tmp_path, "$STARCORE_JOURNAL")
    assert settings.journal_dir(tmp_path / "own", star) == (tmp_path / "own", "--journal")
    assert settings.journal_dir(Path("none"), star) == (None, "--journal")
    monkeypatch.setenv("STARCORE_JOURNAL", "none")
    assert settings.journal_dir(None, star) == (None, "$STARCORE_JOURNAL")
    assert settings.journal_dir(None, star, ephemeral=True) == (None, "the default")
