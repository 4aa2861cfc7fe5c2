"""The commands as a user types them: the three lines of the card, drains, logs, status, IPv6."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from starcore.__main__ import COMMANDS

from .processes import Place, alive, children, eventually, free_ports

ARRAY = "import numpy, starcore; print(starcore.submit_array(lambda a: a + 1, numpy.arange(5.0)).result())"
ANSWER = "[1. 2. 3. 4. 5.]\n"


def card_ports() -> tuple[int, int]:
    """The card's own ports where this user may have them, else free ones."""
    try:
        with socket.create_server(("", 443)), socket.create_server(("", 444)):
            return 443, 444
    except OSError:
        port, client_port = free_ports()
        return port, client_port


def can_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


# -- the card ------------------------------------------------------------------------------------------------


def test_three_lines_of_the_card_and_the_same_again_later(place: Place) -> None:
    port, client_port = card_ports()
    command = [sys.executable, "-m", "starcore.manager", "--port", str(port), "--client-port", str(client_port)]
    manager = place.start(*command)
    manager.wait_for(rf"listening: workers on port {port} of every address, clients on port {client_port} of every")
    manager.wait_for("STARCORE_JOIN=client.join before 'import starcore'")
    told = [line for line in manager.log.splitlines() if " manager: " not in line]
    assert len(told) == 3, told
    assert str(place.star / "worker.join") in told[1]
    assert str(place.star / "client.join") in told[2]
    assert json.loads((place.star / "client.join").read_text())["port"] == client_port
    worker = place.start(sys.executable, "-m", "starcore.worker")
    worker.wait_for("connected")
    ran = place.python(ARRAY)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, ANSWER, "")
    manager.wait_for(r"worker \S+ \(certificate worker\) joined from \S+: \d+ slots?, Python 3\.\d+")
    manager.wait_for(r"client client left: the client is done")

    assert manager.terminate() == 0  # and it comes back: the star is the same, and the worker finds it by itself
    again = place.start(*command)
    again.wait_for("worker .* joined")
    assert place.python(ARRAY).stdout == ANSWER
    assert "A new star" not in again.log
    assert worker.terminate() == 0
    assert again.terminate() == 0
    assert place.runtime_files() == []


def test_manager_takes_one_free_port_on_every_address_and_says_what_join_files_say_else(place: Place) -> None:
    place.manager().terminate()
    manager = place.start(sys.executable, "-m", "starcore.manager", "--port", "0", "--client-port", "0")
    manager.wait_for(r"join files of this star say ports 443 and 444: elsewhere add --manager HOST:\d+ for workers")
    (record,) = place.runtime_files()
    for host in ["127.0.0.1", "::1"] if can_ipv6() else ["127.0.0.1"]:
        address = f"[{host}]:{record['client_port']}" if ":" in host else f"{host}:{record['client_port']}"
        assert place.starcore("status", "--manager", address).returncode == 0


@pytest.mark.skipif(not can_ipv6(), reason="no IPv6 here: enable it (sysctl net.ipv6.conf.lo.disable_ipv6=0)")
def test_star_on_ipv6(place: Place) -> None:
    manager = place.manager("--host", "::1")
    assert re.search(r"listening: workers on \[::1\]:\d+, clients on \[::1\]:\d+", manager.log)
    place.worker()
    assert place.python(ARRAY).stdout == ANSWER
    join = place.issue("client", "six", "--address", f"[::1]:{manager.client_port}")
    assert place.python(ARRAY, STARCORE_JOIN=str(join)).stdout == ANSWER
    manager.wait_for(r"client six joined from \[::1\]:\d+")


# -- stopping ------------------------------------------------------------------------------------------------


def test_sigterm_drains_the_manager_and_the_running_task_is_delivered(place: Place) -> None:
    manager = place.manager()
    worker = place.worker()
    with place.client(manager) as client:
        running = client.submit(lambda: time.sleep(1.5) or os.getpid())
        eventually(running.running, "it runs")
        manager.signal(signal.SIGTERM)
        manager.wait_for("draining")
        assert running.result(20) in children(worker.pid)
        assert manager.wait() == 0
        client.shutdown(wait=False, cancel_futures=True)
    assert place.runtime_files() == []
    assert "Traceback" not in manager.log
    worker.wait_for("trying to reach it again")
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_the_manager_at_once(place: Place, number: signal.Signals) -> None:
    manager = place.manager()
    place.worker()
    with place.client(manager) as client:
        running = client.submit(time.sleep, 60)
        eventually(running.running, "it runs")
        manager.signal(number)
        manager.wait_for("draining")
        time.sleep(0.3)
        assert manager.running
        manager.signal(number)
        assert manager.wait(5) == 0
        assert "stopping at once" in manager.log
        client.shutdown(wait=False, cancel_futures=True)
        client.cancel(running)
    assert place.runtime_files() == []


def test_drain_ends_when_its_time_is_up(place: Place) -> None:
    manager = place.manager("--drain-seconds", "0.5")
    place.worker()
    with place.client(manager) as client:
        running = client.submit(time.sleep, 60)
        eventually(running.running, "it runs")
        assert manager.terminate(10) == 0
        client.shutdown(wait=False, cancel_futures=True)
        client.cancel(running)


def test_sigterm_drains_the_worker_and_what_it_had_not_begun_runs_elsewhere(place: Place) -> None:
    manager = place.manager()
    leaving = place.worker("--name", "leaving")
    with place.client(manager) as client:
        futures = [client.submit(lambda: time.sleep(1.0) or os.getpid()) for _ in range(3)]
        eventually(futures[0].running, "it runs")
        slots = children(leaving.pid)
        leaving.signal(signal.SIGTERM)
        staying = place.worker("--name", "staying")
        assert leaving.wait() == 0
        assert futures[0].result(20) in slots
        assert {future.result(20) for future in futures[1:]} <= set(children(staying.pid))
    assert not [pid for pid in slots if alive(pid)]
    manager.wait_for("worker leaving left")


def test_ctrl_c_ends_the_worker_within_a_moment_and_its_task_runs_elsewhere(place: Place) -> None:
    manager = place.manager()
    leaving = place.worker("--name", "leaving")
    with place.client(manager) as client:
        flag = place.directory / "second"
        future = client.submit(lambda path: time.sleep(0 if os.path.exists(path) else 60) or "done", str(flag))
        eventually(future.running, "it runs")
        slots = children(leaving.pid)
        flag.touch()
        os.killpg(leaving.pid, signal.SIGINT)  # as a terminal does
        assert leaving.wait(5) == 0
        place.worker()
        assert future.result(20) == "done"
    assert not [pid for pid in slots if alive(pid)]
    assert "Traceback" not in leaving.log


# -- logs and status -----------------------------------------------------------------------------------------


def test_json_logs_are_one_object_a_line(place: Place) -> None:
    manager = place.manager("--json-logs")
    worker = place.worker("--json-logs", "--name", "w1")
    assert place.python("import starcore; starcore.submit(print, 'hello').result()").returncode == 0
    worker.wait_for("hello")
    assert worker.terminate() == 0
    assert manager.terminate() == 0
    lines = [line for line in manager.log.splitlines() if line.startswith("{")]
    assert len(lines) >= len(manager.log.splitlines()) - 3  # but for the greeting, which is for people
    for room, text in (("manager", "\n".join(lines)), ("worker", worker.log)):
        said = [json.loads(line) for line in text.splitlines()]
        assert {"time", "level", "room", "pid", "text"} <= set(said[0])
        assert {line["room"].split(".")[0] for line in said} == {room}
    assert any("w1" in json.loads(line)["text"] and "joined" in line for line in lines)
    assert any("w1" in json.loads(line)["text"] and "left" in line for line in lines)


def test_log_level_says_less(place: Place) -> None:
    manager = place.start(
        *(sys.executable, "-m", "starcore.manager", "--host", "127.0.0.1", "--port", "0", "--client-port", "0"),
        *("--log-level", "error"),
    )
    manager.wait_for("STARCORE_JOIN")
    place.worker("--log-level", "error", ready=False)
    assert place.python(ARRAY).stdout == ANSWER
    assert len(manager.log.splitlines()) == 3


def test_status_shows_workers_slots_and_queues_as_text_and_as_json(place: Place) -> None:
    manager = place.manager()
    place.worker("--name", "node7", "--slots", "2")
    with place.client(manager) as client:
        futures = [client.submit(time.sleep, 60) for _ in range(5)]
        eventually(lambda: sum(future.running() for future in futures) == 2, "two run")
        text = place.starcore("status")
        said = json.loads(place.starcore("status", "--json").stdout)
        for future in futures:
            client.cancel(future)
    assert text.returncode == 0
    lines = text.stdout.splitlines()
    assert re.fullmatch(r"1 worker, 2 slots, \d+ tasks on workers, 1 client", lines[0]), lines
    assert re.search(r"^WORKER +ADDRESS +PYTHON +SLOTS +RUNNING$", text.stdout, re.MULTILINE)
    assert re.search(r"^node7 +127\.0\.0\.1:\d+ +3\.\S+ +2 +\d+$", text.stdout, re.MULTILINE)
    assert "sleep" in text.stdout
    assert len(said["clients"]) == 1, "who asks is not counted"
    assert [worker["name"] for worker in said["workers"]] == ["node7"]
    assert sum(job["queued"] + job["leased"] for job in said["jobs"]) == 5


def test_commands_and_the_manager_end_quietly_where_nobody_reads_what_they_say(place: Place) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    unread: dict[str, Any] = {"stdout": writing, "stderr": subprocess.PIPE, "text": True, "env": place.environment}
    try:
        ports = ["--host", "127.0.0.1", "--port", "0", "--client-port", "0"]
        manager = subprocess.Popen([sys.executable, "-m", "starcore.manager", *ports], **unread)
        try:
            eventually(lambda: place.runtime_files() or manager.poll() is not None, "it listens")
            place.worker("--name", "node7")
            for command in (["status"], ["jobs"], ["jobs", "--json"], ["drain", "node7"]):
                done = subprocess.run([sys.executable, "-m", "starcore", *command], **unread, timeout=60, check=False)
                assert (done.returncode, done.stderr) == (0, ""), command
        finally:
            manager.terminate()
            said = manager.communicate(timeout=30)[1]
    finally:
        os.close(writing)
    assert manager.returncode == 0 and "Traceback" not in said and "BrokenPipe" not in said, said


def test_every_command_tells_its_options_and_the_examples_in_them_are_right(place: Place) -> None:
    for command in ("manager", "worker", "certs", "status"):
        helped = place.starcore(command, "--help")
        assert helped.returncode == 0
        assert "exit codes:" in helped.stdout
        assert helped.stderr == ""
    assert "starcore worker --join node7.join" in place.starcore("--help").stdout
    assert re.fullmatch(r"starcore \d+\.\d+\.\d+\n", place.starcore("--version").stdout)


def test_operations_manual_names_every_option(place: Place) -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    for command in ("manager", "worker", "status"):
        options = set(re.findall(r"--[a-z][a-z-]+", place.starcore(command, "--help").stdout.split("examples:")[0]))
        assert not [option for option in options - {"--help"} if f"`{option}" not in manual], command


def test_operations_manual_says_of_every_exit_code_what_the_commands_say(place: Place) -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", manual.partition("## Exit codes")[2].partition("\n## ")[0], re.M))
    for command in COMMANDS:
        codes = place.starcore(command, "--help").stdout.partition("exit codes:")[2]
        said = dict(re.findall(r"\b(\d+)\s+([a-z][^,]+)", codes))
        assert set(said) <= set(rows), command
        # Where 1 is not a fault of ours, its row says whose it is.
        assert "1" not in said or said["1"] == "a fault of ours" or f"`{command}" in rows["1"], command


@pytest.mark.parametrize("options", [(), ("--manager", "127.0.0.1")])
def test_worker_that_is_started_before_its_star_waits_for_it(place: Place, options: tuple[str, ...]) -> None:
    ports = free_ports()
    if options:
        options = ("--manager", f"127.0.0.1:{ports[0]}")
    worker = place.worker(*options, ready=False)
    worker.wait_for("waiting for a manager that this user starts on this machine; for one elsewhere give --join FILE")
    manager = place.manager("--port", str(ports[0]), "--client-port", str(ports[1]))
    worker.wait_for("connected|joined")
    with place.client(manager) as client:
        assert client.submit(pow, 2, 10).result(30) == 1024
    assert worker.log.count("waiting for a manager") == 1
    assert worker.terminate() == 0


def test_manager_and_worker_that_are_started_at_once_find_each_other(place: Place) -> None:
    manager = place.manager(ready=False)
    worker = place.worker(ready=False)
    manager.listening()
    worker.wait_for("connected|joined")
    assert worker.terminate() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_worker_that_waits_for_its_star_leaves_at_once(place: Place, number: int, code: int) -> None:
    worker = place.worker(ready=False)
    worker.wait_for("waiting for a manager")
    began = time.monotonic()
    worker.signal(number)
    assert worker.wait() == code
    assert time.monotonic() - began < 2.0
    assert "Traceback" not in worker.log


def test_worker_does_not_wait_for_what_no_manager_here_would_bring(place: Place) -> None:
    missing = place.directory / "none.join"
    for options, code, says in (
        (["--join", str(missing)], 3, "none.join"),
        (["--manager", "192.0.2.1"], 2, "an address alone does not open the door"),
        (["--no-reconnect"], 2, "no manager is configured"),
    ):
        worker = place.worker(*options, ready=False)
        assert worker.wait() == code, worker.log
        assert says in worker.log
