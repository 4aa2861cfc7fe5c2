"""Every example as a user runs it: a process of its own, real processes and real TLS behind it, small sizes.

The examples check their own results, so an exit code of 0 says that the star's answers were right; the tests also
look for the lines that a reader is promised.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SECONDS_MAX = 90.0
START_SECONDS_MAX = 20.0

ON_THE_EMBEDDED_STAR = {
    "image_stack.py": (
        ["--frames", "6", "--pixels", "96", "--output", "pictures/both.png"],
        ["6 x 96 x 96 pixels", "tasks         6", "equal to the last bit", "pictures/both.png"],
    ),
    "monte_carlo.py": (["--tasks", "12", "--rays", "20000"], ["standard errors away", "the very same hits"]),
    "parameter_scan.py": (["--points", "4"], ["16 outbreaks", "day of the peak", "Lambert's W"]),
}
ON_A_STAR_OF_THEIR_OWN = {
    "detach_and_return.py": (
        ["--numbers", "3000"],
        [
            "detached 'collatz'",
            "this process ends now",
            "found ['collatz']",
            "begins at 2919",
            "equal to the serial run",
        ],
    ),
    "fixed_function_worker.py": (
        ["--frames", "6", "--pixels", "200"],
        ["calibrate, one frame", "6 frames", "came back"],
    ),
    "starcompute_client.py": (["--tasks", "20"], ["20 results", "The energies agree"]),
}
NEEDS_A_MANAGER = {"starcompute_worker.py"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with no star of their own, on a machine where none runs."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("STARCORE_", "STARCOMPUTE_"))}
    own = {"STARCORE_CONFIG_DIR": str(tmp_path / "config"), "STARCORE_RUNTIME_DIR": str(tmp_path / "run")}
    return {**clean, **own, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run(name: str, *options: str, environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *options]
    return subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def assert_said(ran: subprocess.CompletedProcess[str], promised: list[str]) -> None:
    everything = f"{ran.stdout}\n--- stderr\n{ran.stderr}"
    assert ran.returncode == 0, everything
    assert not [line for line in promised if line not in ran.stdout], everything
    assert "Traceback" not in ran.stderr, everything


# -- the embedded star ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ON_THE_EMBEDDED_STAR))
def test_example_is_right_on_the_embedded_star(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    options, promised = ON_THE_EMBEDDED_STAR[name]
    ran = run(name, *options, environment=environment, directory=tmp_path)
    assert_said(ran, promised)
    assert ran.stderr.count("a local star") == 1


@pytest.mark.parametrize("name", list(ON_A_STAR_OF_THEIR_OWN))
def test_example_is_right_on_a_star_of_its_own(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    options, promised = ON_A_STAR_OF_THEIR_OWN[name]
    assert_said(run(name, *options, environment=environment, directory=tmp_path), promised)


def test_the_demo_writes_a_picture_of_before_and_after(environment: dict[str, str], tmp_path: Path) -> None:
    from skimage import io  # noqa: PLC0415 - half a second that only this test needs

    options = ["--frames", "3", "--pixels", "80", "--chunks", "2"]
    ran = run("image_stack.py", *options, environment=environment, directory=tmp_path)
    assert_said(ran, ["tasks         2, 2 frame(s) each", "demo-output/before-after.png"])
    picture = io.imread(tmp_path / "demo-output" / "before-after.png")
    assert picture.shape == (2 * 80 + 6, 3 * 80 + 2 * 6)
    before, after = picture[:80].astype(float), picture[-80:].astype(float)
    grain = [float(np.abs(np.diff(half, axis=1)).mean()) for half in (before, after)]
    assert grain[1] < grain[0] / 2


# -- the first StarCompute's pair ----------------------------------------------------------------------------


def openssl(*arguments: str, directory: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def pem_files(directory: Path) -> dict[str, str]:
    """Make the six files as its README told, and return the variables that name them."""
    variables = {}
    for role in ("client", "worker", "manager"):
        openssl("genpkey", "-algorithm", "RSA", "-out", f"{role}_key.pem", directory=directory)
        request = ["req", "-x509", "-new", "-key", f"{role}_key.pem", "-out", f"{role}_cert.pem", "-days", "365"]
        request += ["-subj", f"/O=UZH/CN={role}"]  # what it asked for at the keyboard
        if role == "manager":  # another address than the one that is dialed: the manager has moved
            request += ["-addext", "subjectAltName=DNS:star.example.org,IP:203.0.113.7"]
        openssl(*request, directory=directory)
        variables[f"STARCOMPUTE_{role.upper()}_CERT_PATH"] = str(directory / f"{role}_cert.pem")
        variables[f"STARCOMPUTE_{role.upper()}_KEY_PATH"] = str(directory / f"{role}_key.pem")
    return variables


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def await_listener(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.05)


@contextlib.contextmanager
def program(*command: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until it is told to stop; SIGTERM has to end it in order."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    except BaseException:
        sys.stderr.write(f"--- {log.name}\n{log.read_text()}\n")
        raise
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl: install openssl")
def test_the_old_pair_works_over_the_old_certificates(environment: dict[str, str], tmp_path: Path) -> None:
    variables = pem_files(tmp_path)
    port, client_port = free_ports()

    def knowing(*names: str) -> dict[str, str]:
        return {**environment, **{name: path for name, path in variables.items() if name.endswith(names)}}

    manager = ["-m", "starcore.manager", "--host", "127.0.0.1", "--port", str(port), "--client-port", str(client_port)]
    worker = [str(EXAMPLES / "starcompute_worker.py"), "--manager-ip", "127.0.0.1", "--port", str(port)]
    client = ["--url", "https://127.0.0.1", "--port", str(client_port), "--tasks", "20"]
    at_manager = knowing("CERT_PATH", "MANAGER_KEY_PATH")
    at_worker = knowing("MANAGER_CERT_PATH", "WORKER_CERT_PATH", "WORKER_KEY_PATH")
    at_client = knowing("MANAGER_CERT_PATH", "CLIENT_CERT_PATH", "CLIENT_KEY_PATH")
    with (
        program(*manager, environment=at_manager, log=tmp_path / "manager.log"),
        program(*worker, environment=at_worker, log=tmp_path / "worker.log"),
    ):
        await_listener(client_port)
        ran = run("starcompute_client.py", *client, environment=at_client, directory=tmp_path)
    assert_said(ran, ["20 results", "The energies agree"])


@pytest.mark.parametrize(
    ("name", "where"),
    [("starcompute_worker.py", "--manager-ip"), ("starcompute_worker.py", "--url"), ("starcompute_client.py", "--url")],
)
def test_the_old_pair_says_in_one_line_that_it_has_no_certificates(
    name: str, where: str, environment: dict[str, str], tmp_path: Path
) -> None:
    place = "https://192.0.2.7" if where == "--url" else "192.0.2.7"  # here, a worker would wait for a star to be made
    ran = run(name, where, place, environment=environment, directory=tmp_path)
    assert ran.returncode not in {0, 1}
    assert ran.stderr.startswith(name.removesuffix(".py") + ": ")
    assert len(ran.stderr.splitlines()) == 1


# -- all of them ---------------------------------------------------------------------------------------------

NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_every_example_is_run_here_and_named_in_the_readme() -> None:
    assert set(NAMES) == {*ON_THE_EMBEDDED_STAR, *ON_A_STAR_OF_THEIR_OWN, *NEEDS_A_MANAGER}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"`{name}`" not in readme]


@pytest.mark.parametrize("name", NAMES)
def test_every_example_tells_its_options_and_starts_nothing(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    ran = run(name, "--help", environment=environment, directory=tmp_path)
    assert_said(ran, ["usage:", "options:"])
    assert ran.stderr == ""
