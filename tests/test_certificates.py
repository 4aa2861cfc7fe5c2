"""certificates.py: a star's files, what is issued, and that nobody else may read it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from starcore import certificates, tls
from starcore.certificates import Star
from starcore.errors import ArgumentValueError, CredentialsError
from starcore.messages import Role

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="run as root: it gives files away")


@pytest.fixture
def star(tmp_path: Path) -> Star:
    return certificates.create_star(tmp_path / "star", host="manager.example.org")[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- a star --------------------------------------------------------------------------------------------------


def test_star_is_a_private_directory_of_private_files(star):
    assert mode(star.directory) == 0o700
    names = {"star.json", "ca.pem", "ca.key", "manager.pem", "manager.key", "worker.join", "client.join"}
    assert {path.name for path in star.directory.iterdir()} == names
    assert {mode(path) for path in star.directory.iterdir()} == {0o600}
    assert [path.name for path in star.directory.parent.iterdir()] == ["star"]


def test_star_that_is_there_is_loaded_and_not_made_again(star):
    before = star.ca.read_text()
    again, created = certificates.create_star(star.directory, host="elsewhere", worker_port=1)
    assert (again, created) == (star, False)
    assert star.ca.read_text() == before


def test_star_goes_into_a_directory_that_is_there_and_empty(tmp_path):
    (tmp_path / "star").mkdir(mode=0o700)
    assert certificates.create_star(tmp_path / "star")[1]


def test_star_does_not_go_into_a_directory_with_other_things(tmp_path):
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / "thesis.txt").write_text("mine")
    with pytest.raises(CredentialsError, match="cannot make the star in"):
        certificates.create_star(tmp_path / "star")
    assert [path.name for path in tmp_path.rglob("*")] == ["star", "thesis.txt"]


def test_star_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CredentialsError, match=f"cannot make the directory {tmp_path / 'file'}: File exists"):
        certificates.create_star(tmp_path / "file" / "star")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(CredentialsError, match=f"cannot make the star in {tmp_path / 'star'}: Permission denied"):
        certificates.create_star(tmp_path / "star")
    monkeypatch.setattr(os, "stat", refuse)  # a directory that this user may not even look into
    with pytest.raises(CredentialsError, match=r"cannot make the directory .*: Permission denied"):
        certificates.create_star(tmp_path / "star")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_managers_that_start_at_once_one_makes_the_star(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: certificates.create_star(tmp_path / "star"), range(4)))
    assert sorted(created for _, created in made) == [False, False, False, True]
    assert len({star.id for star, _ in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["star"]


def test_missing_star_says_how_to_make_one(tmp_path):
    with pytest.raises(CredentialsError, match=r"make one with: python -m starcore\.certs init"):
        certificates.load_star(tmp_path)


def test_star_of_a_newer_version_is_not_guessed_at(star):
    star.about.write_text(star.text().replace('"starcore_star": 1', '"starcore_star": 2'))
    with pytest.raises(CredentialsError, match="newer StarCore"):
        certificates.load_star(star.directory)


def test_moved_star_keeps_its_certificates_and_changes_its_join_files(star):
    before = certificates.read_join(star.client_join)
    moved = certificates.move_star(star, host="203.0.113.9", worker_port=8443, client_port=8444)
    after = certificates.read_join(star.client_join)
    assert certificates.load_star(star.directory) == moved
    assert (after.host, after.port) == ("203.0.113.9", 8444)
    assert after == replace(before, host="203.0.113.9", port=8444)
    assert certificates.issue(moved, Role.WORKER, "late").port == 8443


def test_manager_renews_its_own_certificate_when_it_is_about_to_expire(star, monkeypatch):
    before = certificates.manager_identity(star)
    assert certificates.manager_identity(star) == before
    later = datetime.now(timezone.utc) + timedelta(days=certificates.LEAF_DAYS - certificates.RENEW_DAYS + 1)
    monkeypatch.setattr(certificates, "_now", lambda: later)
    renewed = certificates.manager_identity(star)
    assert renewed.certificate != before.certificate
    assert renewed.key != before.key
    assert tls.validity(renewed.certificate, "")[1] > later + timedelta(days=700)


def test_manager_starts_without_the_key_of_the_ca(star):
    star.ca_key.unlink()
    assert certificates.manager_identity(star).star == star.id
    with pytest.raises(CredentialsError, match=r"ca\.key is missing"):
        certificates.issue(star, Role.WORKER, "node")


def test_key_of_another_ca_does_not_sign(star, tmp_path):
    other, _ = certificates.create_star(tmp_path / "other")
    shutil.copy(other.ca_key, star.ca_key)
    with pytest.raises(CredentialsError, match="is not the key of"):
        certificates.issue(star, Role.WORKER, "node")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl: install openssl")
@pytest.mark.parametrize(("file", "purpose"), [("manager", "sslserver"), ("leaf", "sslclient")])
def test_openssl_accepts_the_chain_in_strict_mode(star, tmp_path, file, purpose):
    leaf = tmp_path / "leaf.pem"
    join = certificates.issue(star, Role.WORKER, "node")
    leaf.write_text(join.certificate if file == "leaf" else star.manager.read_text())
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(star.ca), str(leaf)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == f"{leaf}: OK"


# -- issuing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["node-7", "a", "müller@lab", "n" * 64, "gpu_1.example.org"])
def test_peers_may_be_called(star, name):
    assert certificates.issue(star, Role.WORKER, name).name == name


@pytest.mark.parametrize("name", ["", " ", "a b", "../up", "-flag", ".hidden", "n" * 65, "line\n", "a/b", "\x1b[31m"])
def test_peers_may_not_be_called(star, name):
    with pytest.raises(ArgumentValueError, match="cannot be a peer's name"):
        certificates.issue(star, Role.WORKER, name)


def test_nobody_is_issued_a_second_manager(star):
    with pytest.raises(ArgumentValueError, match="one manager"):
        certificates.issue(star, Role.MANAGER, "me")


def test_issued_days_and_address_are_those_asked_for(star):
    join = certificates.issue(star, Role.CLIENT, "laptop", days=3, address="10.0.0.9", port=9)
    begin, end = tls.validity(join.certificate, "")
    assert end - begin == timedelta(days=3, hours=certificates.BACKDATE_HOURS)
    assert (join.host, join.port) == ("10.0.0.9", 9)


# -- join files ----------------------------------------------------------------------------------------------


def test_join_file_reads_back_as_it_was_written(star, tmp_path):
    join, path = certificates.issue(star, Role.WORKER, "müller"), tmp_path / "m.join"
    certificates.write_private(path, join.text())
    assert certificates.read_join(path, Role.WORKER) == replace(join, path=path)
    assert json.loads(path.read_text(encoding="utf-8"))["starcore_join"] == 1


def test_join_file_moved_to_another_place_and_address_still_identifies(star, tmp_path):
    path = tmp_path / "elsewhere.join"
    join = certificates.read_join(star.worker_join)
    certificates.write_private(path, replace(join, host="198.51.100.77", port=9443).text())
    moved = certificates.read_join(path, Role.WORKER)
    assert moved.identity == replace(join.identity, source=str(path))
    tls.dial_context(moved.identity)


def test_join_file_of_the_wrong_role_names_both_roles_and_the_command(star):
    with pytest.raises(CredentialsError, match=r"is a client's join file, and this is a worker; .* issue worker NAME"):
        certificates.read_join(star.client_join, Role.WORKER)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: "", "is not a join file"),
        (lambda text: "[]", "is not a join file"),
        (lambda text: text[:-20], "is not a join file"),
        (lambda text: text.replace('"starcore_join": 1', '"starcore_join": 7'), "newer StarCore .version 7"),
        (lambda text: text.replace('"role": "worker"', '"role": "manager"'), "neither worker nor client"),
        (lambda text: text.replace('"port": 443', '"port": 70000'), "its 'port' is no port"),
        (lambda text: text.replace('"key": ', '"kex": '), "it has no 'key'"),
        (lambda text: text + " " * certificates.FILE_CHARACTERS_MAX, "too large"),
    ],
)
def test_damaged_join_file_is_told_in_one_line(star, change, complaint):
    certificates.write_private(star.worker_join, change(star.worker_join.read_text()), overwrite=True)
    with pytest.raises(CredentialsError, match=complaint) as caught:
        certificates.read_join(star.worker_join)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_join_files_are_told(tmp_path):
    with pytest.raises(CredentialsError, match="no join file"):
        certificates.read_join(tmp_path / "none.join")
    (tmp_path / "image.join").write_bytes(b"\x89PNG\xff")
    (tmp_path / "image.join").chmod(0o600)
    with pytest.raises(CredentialsError, match="not a text file"):
        certificates.read_join(tmp_path / "image.join")


# -- files that only their owner may read --------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o644])
def test_file_that_others_may_read_is_refused_with_the_command_that_closes_it(star, bits):
    star.worker_join.chmod(bits)
    with pytest.raises(CredentialsError, match=f"chmod 600 {star.worker_join}"):
        certificates.read_join(star.worker_join)


def test_world_readable_key_stops_the_manager_but_a_readable_certificate_does_not(star):
    star.manager.chmod(0o644)
    certificates.manager_identity(star)
    star.manager_key.chmod(0o644)
    with pytest.raises(CredentialsError, match="chmod 600"):
        certificates.manager_identity(star)


@as_root
def test_file_of_another_user_is_refused(star):
    os.chown(star.worker_join, 65534, 65534)
    with pytest.raises(CredentialsError, match="belongs to another user"):
        certificates.read_join(star.worker_join)


@as_root
def test_under_sudo_files_belong_to_the_caller_and_root_may_read_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    star, _ = certificates.create_star(tmp_path / "config" / "star")
    made = [tmp_path / "config", star.directory, *star.directory.iterdir()]
    assert {path.stat().st_uid for path in made} == {65534}
    certificates.manager_identity(star)


@pytest.mark.parametrize(("uid", "gid"), [("", ""), ("0", "0"), ("-1", "5"), ("x", "y")])
def test_odd_sudo_variables_are_not_believed(monkeypatch, uid, gid):
    monkeypatch.setenv("SUDO_UID", uid)
    monkeypatch.setenv("SUDO_GID", gid)
    assert certificates.caller() is None


def test_file_that_is_there_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "one"
    certificates.write_private(path, "first")
    with pytest.raises(CredentialsError, match="is there already"):
        certificates.write_private(path, "second")
    assert path.read_text() == "first"
    certificates.write_private(path, "third", overwrite=True)
    assert path.read_text() == "third"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["one"]


def test_file_is_not_overwritten_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    certificates.write_private(tmp_path / "one", "first")
    with pytest.raises(CredentialsError, match="is there already"):
        certificates.write_private(tmp_path / "one", "second")
    assert os.listdir(tmp_path) == ["one"]


def test_file_in_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CredentialsError, match="cannot be written: No such file"):
        certificates.write_private(tmp_path / "none" / "one", "text")
