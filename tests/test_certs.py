"""certs.py: the command's words, its exit codes, and that it shows no traceback."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from starcore import certificates, certs, tls
from starcore.messages import Role


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


def test_init_then_issue_then_show(config, capsys):
    assert certs.main(["init", "--host", "manager.example.org", "--port", "8443", "--client-port", "8444"]) == 0
    said = capsys.readouterr().out
    assert f"in {config / 'star'}" in said
    assert "python -m starcore.manager --port 8443 --client-port 8444" in said

    assert certs.main(["issue", "worker", "node-7"]) == 0
    assert "wrote node-7.join: worker 'node-7'" in capsys.readouterr().out
    join = certificates.read_join("node-7.join", Role.WORKER)
    assert (join.name, join.host, join.port) == ("node-7", "manager.example.org", 8443)

    assert certs.main(["show", "node-7.join"]) == 0
    shown = capsys.readouterr().out
    for expected in ("node-7", "worker", "days)", tls.fingerprint(join.certificate), "manager.example.org:8443"):
        assert expected in shown


def test_issue_takes_a_file_days_and_an_address_of_its_own(capsys):
    certs.main(["init", "--host", "a.example"])
    assert (
        certs.main(["issue", "client", "me", "--out", "x.join", "--days", "9", "--address", "[2001:db8::1]:444"]) == 0
    )
    assert "for 9 days" in capsys.readouterr().out
    join = certificates.read_join("x.join", Role.CLIENT)
    assert (join.host, join.port) == ("2001:db8::1", 444)


def test_init_without_a_host_says_which_address_it_took(capsys):
    assert certs.main(["init"]) == 0
    assert "its manager's address is taken to be" in capsys.readouterr().out


def test_second_init_changes_nothing_and_says_so(capsys):
    certs.main(["init", "--host", "a.example"])
    assert certs.main(["init"]) == 3
    assert "nothing was changed" in capsys.readouterr().err


def test_init_with_a_new_host_moves_the_star(config, capsys):
    certs.main(["init", "--host", "a.example"])
    before = (config / "star" / "ca.pem").read_text()
    assert certs.main(["init", "--host", "b.example"]) == 0
    assert "is at b.example:443 now" in capsys.readouterr().out
    assert certificates.read_join(config / "star" / "client.join").host == "b.example"
    assert (config / "star" / "ca.pem").read_text() == before


def test_star_may_be_elsewhere(tmp_path, capsys):
    assert certs.main(["init", "--star", str(tmp_path / "second"), "--host", "a.example"]) == 0
    assert certs.main(["issue", "worker", "w", "--star", str(tmp_path / "second")]) == 0
    capsys.readouterr()
    assert certs.main(["show", str(tmp_path / "second")]) == 0
    shown = capsys.readouterr().out
    assert certs.main(["show", "--star", "second"]) == 0
    assert capsys.readouterr().out.replace("second/", f"{tmp_path}/second/") == shown
    assert certs.main(["show", "--star", "third"]) == 3
    assert f"make one with: python -m starcore.certs init --star {tmp_path}/third\n" in capsys.readouterr().err
    for expected in ("workers at a.example:443", "clients at a.example:444", "the star's CA", "manager.pem"):
        assert expected in shown


def test_commands_that_are_told_mean_the_same_star(config, tmp_path, capsys):
    named = f"--star '{tmp_path / 'my star'}'"
    assert certs.main(["issue", "worker", "w", "--star", "my star"]) == 3
    assert capsys.readouterr().err.endswith(f"make one with: python -m starcore.certs init {named}\n")
    assert certs.main(["init", "--star", "my star"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].endswith(f"init --host HOST {named}")
    assert said[2].endswith(f"python -m starcore.manager --port 443 --client-port 444 {named}")
    assert said[3].endswith(f"certs issue worker NAME {named}   (and: issue client NAME {named})")
    assert certs.main(["issue", "worker", "w"]) == 3, "the user's own star is another"
    assert capsys.readouterr().err.endswith("make one with: python -m starcore.certs init\n")
    assert certs.main(["init", "--star", str(config / "star")]) == 0
    assert "--star" not in capsys.readouterr().out, "the user's own, named"


def test_show_without_a_path_and_with_the_config_directory_show_the_users_star(config, capsys):
    certs.main(["init", "--host", "a.example"])
    capsys.readouterr()
    assert certs.main(["show"]) == 0
    first = capsys.readouterr().out
    assert certs.main(["show", str(config)]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["issue", "worker", "w"], 3, "make one with: python -m starcore.certs init"),
        (["init", "--host", "a:b:c:d/"], 4, "is not an address"),
        (["init", "--host", "a.example:443"], 4, "the ports are said by --port"),
        (["show", "nothing.join"], 3, "no file nothing.join"),
        (["show"], 3, "no file"),
        (["show", "."], 3, "no star and no join file in"),
        (["show", "plain.txt"], 3, "no certificate that can be read"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(arguments, code, complaint, capsys):
    Path("plain.txt").write_text("hello")
    assert certs.main(arguments) == code
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_star_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "plain").write_text("hello")
    monkeypatch.setenv("STARCORE_CONFIG_DIR", str(tmp_path / "plain"))
    assert certs.main(["init", "--host", "h"]) == 3
    said = capsys.readouterr()
    assert f"cannot make the directory {tmp_path / 'plain'}: " in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["init", "--port", "0"], "'0' is not a port"),
        (["issue", "worker", "w", "--days", "0"], "'0' is not a number of days"),
        (["issue", "worker", "w", "--days", "9999"], "not a number of days"),
        (["issue", "manager", "m"], "invalid choice"),
        (["show", "--star", "s", "w.join"], "not allowed with"),
        ([], "required"),
    ],
)
def test_wrong_command_lines_end_with_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as left:
        certs.main(arguments)
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_names_files_and_permissions_are_checked_after_init(capsys):
    certs.main(["init", "--host", "a.example"])
    assert certs.main(["issue", "worker", "../w"]) == 2
    assert certs.main(["issue", "worker", "w"]) == 0
    assert certs.main(["issue", "worker", "w"]) == 3
    said = "w.join is there already, and is not overwritten: --out FILE writes another"
    assert capsys.readouterr().err.endswith(f"{said}, --renew replaces one of the same worker\n")
    assert certs.main(["issue", "client", "c", "--out", "w.join"]) == 3
    assert capsys.readouterr().err.endswith(f"{said}\n"), "a client of this name has none yet"
    assert certs.main(["issue", "worker", "v", "--out", "w.join", "--renew"]) == 3
    assert capsys.readouterr().err.endswith(f"{said}\n"), "another worker's"
    assert certs.main(["issue", "worker", "w", "--renew"]) == 0
    Path("w.join").chmod(0o644)
    assert certs.main(["show", "w.join"]) == 3
    assert "chmod 600 w.join" in capsys.readouterr().err


def test_expired_file_is_shown_as_expired(monkeypatch, capsys):
    certs.main(["init", "--host", "a.example"])
    star = certificates.load_star(Path("config/star"))
    certificates.write_private(Path("old.join"), certificates.issue(star, Role.WORKER, "old", days=-0.01).text())
    assert certs.main(["show", "old.join"]) == 0
    assert "EXPIRED" in capsys.readouterr().out


def test_command_runs_as_a_module_and_its_help_has_examples():
    command = [sys.executable, "-m", "starcore.certs", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "python -m starcore.certs issue worker node-7" in done.stdout
    assert "exit codes:" in done.stdout


def test_clients_name_is_issued_once_and_renewed_by_the_one_who_means_it(config, tmp_path, capsys):
    assert certs.main(["init", "--host", "h"]) == 0
    issue = ["issue", "client", "laptop"]
    assert certs.main(issue) == 0
    before = certificates.read_join("laptop.join")
    capsys.readouterr()
    assert certs.main([*issue, "--out", "second.join"]) == 3
    error = capsys.readouterr().err
    assert "a client 'laptop' was issued before (until 2" in error and "--renew" in error
    assert not Path("second.join").exists()
    assert certs.main([*issue, "--renew"]) == 0
    after = certificates.read_join("laptop.join")
    assert (after.name, after.star) == (before.name, before.star) and after.certificate != before.certificate
    assert certs.main([*issue, "--renew", "--out", "second.join"]) == 0
    assert certs.main(["issue", "client", "client"]) == 3, "the star's own"
    assert certs.main(["issue", "client", "client", "--renew", "--out", "own.join"]) == 0
    assert certs.main(["issue", "client", "other", "--out", "other.join"]) == 0
    assert certs.main(["issue", "client", "other", "--out", "second.join", "--renew"]) == 3, "another's file stays"
    assert certificates.read_join("second.join").name == "laptop"
    assert certs.main(["issue", "client", "../up"]) == 2
    for number in range(2):
        assert certs.main(["issue", "worker", "node", "--out", f"{number}.join"]) == 0


def test_client_that_was_never_issued_is_not_renewed(config, capsys):
    assert certs.main(["init", "--host", "h"]) == 0
    capsys.readouterr()
    assert certs.main(["issue", "client", "labtop", "--renew"]) == 3
    said = capsys.readouterr()
    assert "the star has no record of a client 'labtop' to renew: for a new one leave --renew out\n" in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert not Path("labtop.join").exists() and not (config / "star" / "issued").exists()
    assert certs.main(["issue", "worker", "node", "--renew"]) == 0, "of workers no record is kept"


def test_journal_is_written_down_and_stays_when_the_star_moves(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert certs.main(["init", "--host", "h", "--journal", "journal"]) == 0
    kept = str(tmp_path / "journal")
    assert f"keeps its journal in {kept} from its next start on" in capsys.readouterr().out
    assert certs.main(["init", "--host", "elsewhere"]) == 0
    star = certificates.load_star(config / "star")
    assert (star.journal, star.host) == (kept, "elsewhere")
    assert certs.main(["show"]) == 0
    assert f"  journal  {kept}\n" in capsys.readouterr().out
    assert certs.main(["init", "--journal", "none"]) == 0
    assert certificates.load_star(config / "star") == replace(star, journal="")
    assert certs.main(["init"]) == 3
    assert "nothing was changed" in capsys.readouterr().err
