"""Who is who across machines, users, addresses and generations of certificates.

Two machines are two network namespaces joined by a veth pair; other users are `nobody` with a home of its own. Both
need root, and are skipped with the reason where there is none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from starcore import Client

from .networks import Network, made_network
from .processes import Manager, Place, Program, free_ports

NOBODY = 65534
ARRAY = "import numpy, starcore; print(starcore.submit_array(lambda a: a + 1, numpy.arange(5.0)).result())"
ANSWER = "[1. 2. 3. 4. 5.]\n"

Places = Callable[..., Place]


def hand_over(join: Path, place: Place, owner: int | None = None) -> str:
    """Take a join file to another place, the way `scp -p` does, and return its path there."""
    copy = place.directory / join.name
    shutil.copy2(join, copy)
    if owner is not None:
        os.chown(copy, owner, owner)
    return str(copy)


# -- machines ------------------------------------------------------------------------------------------------


@pytest.fixture
def network(places: Places) -> Iterator[Network]:
    """Namespaces, removed when every process in them has ended."""
    network = made_network("10.213.1.2")
    made: list[Place] = []
    with contextlib.closing(network):
        yield network
        for place in made:
            place.close()


def test_three_machines_with_a_join_file_each_also_after_a_move(places: Places, network: Network) -> None:
    manager_at = ["ip", "netns", "exec", network.names[0]]
    worker_at = ["ip", "netns", "exec", network.names[1]]
    client_at = network.machine("10.213.2.2")
    cloud, node, laptop = places("cloud"), places("node"), places("laptop")
    ports = ["--port", "8443", "--client-port", "8444"]
    try:
        said = cloud.starcore("certs", "init", "--host", "10.213.1.1", *ports)
        assert said.returncode == 0, said.stderr
        worker_join = hand_over(cloud.issue("worker", "node7"), node)
        client_join = hand_over(cloud.issue("client", "laptop", "--address", "10.213.2.1:8444"), laptop)
        command = [*manager_at, sys.executable, "-m", "starcore.manager", *ports]
        manager: Manager = cloud.start(*command, kind=Manager).listening()
        run_worker = [*worker_at, sys.executable, "-m", "starcore.worker", "--slots", "1", "--join", worker_join]
        worker: Program = node.start(*run_worker)
        worker.wait_for("connected")
        run_client = [*client_at, sys.executable, "-c", ARRAY]
        ran = laptop.run(*run_client, STARCORE_JOIN=client_join)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, ANSWER, "")
        manager.wait_for(r"worker \S+ \(certificate node7\) joined from 10\.213\.1\.2:\d+")
        manager.wait_for(r"client laptop joined from 10\.213\.2\.2:\d+")

        manager.terminate()
        worker.close()
        network.ip("-n", network.names[0], "address", "flush", "dev", "hv213x1")
        network.ip("-n", network.names[0], "address", "flush", "dev", "hv213x2")
        network.join(1, "10.213.3.2")
        network.join(2, "10.213.4.2")
        moved: Manager = cloud.start(*command, kind=Manager).listening()
        again: Program = node.start(*run_worker, "--manager", "10.213.3.1")
        again.wait_for("connected")
        variables = {"STARCORE_JOIN": client_join, "STARCORE_MANAGER": "10.213.4.1:8444"}
        ran = laptop.run(*run_client, **variables)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, ANSWER, "")
        moved.wait_for(r"client laptop joined from 10\.213\.4\.2:\d+")
        assert not node.config.exists()
        assert not laptop.config.exists()
    finally:
        for place in (laptop, node, cloud):
            place.close()


# -- users ---------------------------------------------------------------------------------------------------


def as_nobody(place: Place) -> list[str]:
    """Python as another user; where it lives in root's own home, with the one right to walk through that."""
    setpriv = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    through = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    probe = "import starcore.worker.supervisor, subprocess, sys; subprocess.check_call([sys.executable, '--version'])"
    for options in ([], through):
        if place.run(*setpriv, *options, sys.executable, "-c", probe).returncode == 0:
            return [*setpriv, *options, sys.executable]
    pytest.skip("nobody cannot read this checkout or its Python: clone where all may read, as in /srv")


def test_other_users_need_nothing_but_their_join_file(places: Places, tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user needs root and setpriv: run as root, install util-linux")
    here, theirs = places("root"), places("nobody")
    for directory in (theirs.directory, *theirs.directory.parents):  # pytest's are for root alone
        if directory.is_relative_to(tmp_path.parent.parent):
            directory.chmod(0o711)
    os.chown(theirs.directory, NOBODY, NOBODY)
    become = as_nobody(theirs)
    manager = here.manager()
    worker_join = hand_over(here.issue("worker", "theirs"), theirs, NOBODY)
    client_join = hand_over(here.issue("client", "theirs-too"), theirs, NOBODY)
    options = ["--slots", "1", "--join", worker_join, "--manager", manager.worker_address]
    worker = theirs.start(*become, "-m", "starcore.worker", *options)
    worker.wait_for("connected")
    variables = {"STARCORE_JOIN": client_join, "STARCORE_MANAGER": manager.address}
    ran = theirs.run(*become, "-c", f"import os; assert os.getuid() == {NOBODY}; {ARRAY}", **variables)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, ANSWER, "")
    code = "import starcore, os; print(starcore.submit(os.getuid).result())"
    assert theirs.run(*become, "-c", code, **variables).stdout == f"{NOBODY}\n"
    # Without it they are nobody.
    ran = theirs.run(*become, "-m", "starcore", "status")
    assert ran.returncode == 2
    assert "no manager is configured" in ran.stderr


def test_join_file_beside_the_config_needs_no_option_and_no_variable(places: Places) -> None:
    here, there = places("here"), places("there")
    manager = here.manager()
    here.worker()
    there.config.mkdir(mode=0o700)
    join = here.issue("client", "placed", "--address", manager.address)
    shutil.copy2(join, there.config / "client.join")
    ran = there.python(ARRAY)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, ANSWER, "")


# -- the first StarCompute's users ---------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl: install openssl")
ROLES = ("client", "worker", "manager")
PROCESS = "import numpy as np\n\ndef process(array):\n    return np.cumsum(array)\n"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six files of the first StarCompute, made by its commands."""
    directory = tmp_path_factory.mktemp("pem")
    for role in ROLES:
        key, certificate = f"{role}_key.pem", f"{role}_cert.pem"
        make = ["openssl", "genpkey", "-algorithm", "RSA", "-out", key]
        sign = ["openssl", "req", "-x509", "-new", "-key", key, "-out", certificate, "-days", "365"]
        sign += ["-subj", f"/C=CH/O=UZH/CN={role}"]
        if role == "manager":  # an address that is nobody's here
            sign += ["-addext", "subjectAltName=IP:203.0.113.7"]
        for command in (make, sign):
            subprocess.run(command, cwd=directory, check=True, capture_output=True)
        (directory / key).chmod(0o600)
    return directory


def variables(pem: Path, spelling: str, own: str) -> dict[str, str]:
    """What its README has each role set: all certificates, and the role's own key."""
    suffix = {"code": "_PATH", "readme": ""}[spelling]
    found = {f"STARCOMPUTE_{each.upper()}_CERT{suffix}": str(pem / f"{each}_cert.pem") for each in ROLES}
    return {**found, f"STARCOMPUTE_{own.upper()}_KEY{suffix}": str(pem / f"{own}_key.pem")}


@needs_openssl
@pytest.mark.parametrize("spelling", ["code", "readme"])
def test_first_starcomputes_files_and_variables_work_as_they_are(places: Places, pem: Path, spelling: str) -> None:
    cloud, node, laptop = (
        places(name, **variables(pem, spelling, role))
        for name, role in (("cloud", "manager"), ("node", "worker"), ("laptop", "client"))
    )
    port, client_port = free_ports()
    manager = cloud.manager("--port", str(port), "--client-port", str(client_port))
    assert "A new star" not in manager.log
    (node.directory / "package").mkdir()
    (node.directory / "package" / "module.py").write_text(PROCESS)
    if spelling == "code":
        script = node.directory / "worker.py"
        script.write_text(PROCESS + f"\nimport starcore\n\nstarcore.Worker(port={port}, function=process).run()\n")
        worker = node.start(sys.executable, str(script), variables={"STARCORE_MANAGER": "127.0.0.1"})
    else:
        options = ["--manager-ip", "127.0.0.1", "--port", str(port), "--function", "package.module:process"]
        path = os.pathsep.join([str(node.directory), node.environment["PYTHONPATH"]])
        worker = node.start(sys.executable, "-m", "starcore.worker", *options, variables={"PYTHONPATH": path})
    worker.wait_for("connected")
    code = textwrap.dedent(f"""
        import numpy as np, starcore
        with starcore.Client("https://127.0.0.1:{client_port}") as client:
            answers = client.run([np.arange(4.0), np.ones(3), np.ones(100_000)])
        assert type(answers) is list
        print(*answers[:2], answers[2][-1])
    """)
    ran = laptop.python(code)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[0. 1. 3. 6.] [1. 2. 3.] 100000.0\n", "")
    assert "Traceback" not in manager.log + worker.log


@needs_openssl
def test_pinned_certificates_are_told_apart_and_their_variables_checked(places: Places, pem: Path) -> None:
    cloud = places("cloud", **variables(pem, "code", "manager"))
    manager = cloud.manager()
    client = variables(pem, "code", "client")
    foreign = {**client, "STARCOMPUTE_MANAGER_CERT_PATH": str(pem / "worker_cert.pem")}
    half = {"STARCOMPUTE_CLIENT_KEY_PATH": str(pem / "client_key.pem")}
    for name, given, address, words in (
        # TLS 1.3 is done for the client when the manager refuses: what it says may be lost in the reset behind it.
        ("crossed", client, manager.worker_address, {3: "is not for this port", 5: "before it said WELCOME"}),
        ("foreign", foreign, manager.address, {3: "shows another certificate"}),
        ("half", half, manager.address, {3: "are missing: STARCOMPUTE_CLIENT_CERT_PATH"}),
    ):
        ran = places(name, **given).starcore("status", "--manager", address)
        assert ran.returncode in words and ran.stderr.count("\n") == 1, (name, ran.stderr)
        assert words[ran.returncode] in ran.stderr
    assert cloud.run(sys.executable, "-m", "starcore", "status", **variables(pem, "code", "client")).returncode == 0


# -- renewal -------------------------------------------------------------------------------------------------


LEAVE = """
import starcore

def square(number):
    return number * number

with starcore.Client() as client:
    client.detached("scan-7").submit(square, 12)
"""
FETCH = "import starcore; print(starcore.Client().job('scan-7').result(60))"


@pytest.mark.parametrize("journal", [False, True], ids=["", "after kill -9 of the manager"])
def test_renewed_client_finds_the_detached_jobs_that_it_left(places: Places, journal: bool) -> None:
    cloud, laptop, thief = places("cloud"), places("laptop"), places("thief")
    ports = [str(port) for port in free_ports()]
    options = ["--port", ports[0], "--client-port", ports[1]]
    options += ["--journal", str(cloud.directory / "journal")] if journal else []
    manager = cloud.manager(*options)
    join = hand_over(cloud.issue("client", "laptop"), laptop)
    other = hand_over(cloud.issue("client", "thief"), thief)
    variables = {"STARCORE_MANAGER": manager.address, "STARCORE_JOIN": join}
    left = laptop.python(LEAVE, **variables)
    assert left.returncode == 0, left.stderr
    before = Path(join).read_text()
    again = cloud.starcore("certs", "issue", "client", "laptop", "--out", "laptop.join")
    assert again.returncode == 3 and "--renew" in again.stderr
    os.unlink(join)
    hand_over(cloud.issue("client", "laptop", "--renew"), laptop)
    assert Path(join).read_text() != before
    if journal:
        manager.kill()
        manager = cloud.manager(*options)
    cloud.worker()
    for command in (["jobs"], ["jobs", "cancel", "scan-7"], ["jobs", "fetch", "scan-7"]):
        ran = thief.starcore(*command, **{**variables, "STARCORE_JOIN": other})
        assert "scan-7 " not in ran.stdout + ran.stderr, ran
    listed = laptop.starcore("jobs", **variables)
    assert "scan-7 " in listed.stdout, listed
    fetched = laptop.python(FETCH, **variables)
    assert (fetched.returncode, fetched.stdout) == (0, "144\n"), fetched.stderr
    assert "Traceback" not in manager.log


def test_two_stars_of_one_user_are_two_directories(places: Places) -> None:
    here = places("here")
    first = here.manager("--star", str(here.directory / "first"))
    second = here.manager("--star", str(here.directory / "second"))
    for manager, name in ((first, "first"), (second, "second")):
        join = here.directory / name / "worker.join"
        here.worker("--join", str(join), "--manager", manager.worker_address)
        with Client(manager.address, join=here.directory / name / "client.join") as client:
            assert client.submit_array(np.cumsum, np.ones(3)).result(20)[-1] == 3
    crossed = here.starcore(
        *("status", "--manager", first.address), *("--join", str(here.directory / "second" / "client.join"))
    )
    assert crossed.returncode == 3
    assert "is of another star than" in crossed.stderr
