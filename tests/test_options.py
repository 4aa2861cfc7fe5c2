"""One line for a wrong command line, the options' types, and the gate."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from starcore.options import Parser, listening_port, parse_bytes, port, seconds, size, wait_at_gate


def test_wrong_command_line_is_one_line_that_names_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="star", description="What it does.")
    parser.add_argument("--port", type=port)
    for wrong in (["--port", "x"], ["--bogus"], ["--por", "3"]):
        with pytest.raises(SystemExit) as left:
            parser.parse_args(wrong)
        said = capsys.readouterr().err
        assert left.value.code == 2
        assert said.count("\n") == 1
        assert said.startswith("star: ")
        assert said.endswith("; 'star --help' tells the options\n")


def test_subcommands_are_parsers_of_the_same_kind(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="star")
    parser.add_subparsers(required=True).add_parser("make", help="make it")
    with pytest.raises(SystemExit):
        parser.parse_args(["make", "--bogus"])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["1", "443", "65535"])
def test_ports(text: str) -> None:
    assert port(text) == listening_port(text) == int(text)


@pytest.mark.parametrize("text", ["", "-1", "65536", "x", "1.5", " 1", "1" * 5000, "٤٤٣"])
def test_texts_that_are_no_ports(text: str) -> None:
    for kind in (port, listening_port):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a port"):
            kind(text)


def test_any_free_port_is_for_listening_alone() -> None:
    assert listening_port("0") == 0
    with pytest.raises(argparse.ArgumentTypeError):
        port("0")


def test_seconds() -> None:
    assert seconds("0.5") == 0.5
    for text in ("0", "-1", "nan", "inf", "soon", "", "1e10"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a time"):
            seconds(text)


def test_the_gate_lets_one_through_for_each_byte_and_all_when_nobody_holds_it() -> None:
    reading, writing = os.pipe()
    through = []

    def wait(descriptor: int) -> None:
        wait_at_gate(descriptor)
        through.append(descriptor)

    waiting = [threading.Thread(target=wait, args=(os.dup(reading),)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    assert not through
    os.write(writing, b"..")
    os.close(writing)
    for thread in waiting:
        thread.join(10)
    assert len(through) == 3
    os.close(reading)


def test_without_a_gate_nobody_waits() -> None:
    wait_at_gate(None)


@pytest.mark.parametrize("text", ["", "0", "-1M", "many", "4X", "infG"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("800M", "4G", "1.5GiB", "10kb", "7")] == [
        800 * (1 << 20),
        4096 * (1 << 20),
        1536 * (1 << 20),
        10240,
        7,
    ]


def test_size_as_an_option_is_refused_in_the_words_of_the_command_line() -> None:
    assert size("64K") == 65536
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        size("much")


def unread(tmp_path: Path, *command: str) -> tuple[int, str]:
    """Run a command whose stdout nobody reads; return its exit code, and what it says on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "STARCORE_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        done = subprocess.run(
            [sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "-m starcore --help",
        "-m starcore --version",
        "-m starcore drain --help",
        "-m starcore.certs init --help",
        "-m starcore.certs init --host h --journal none",
    ],
)
def test_answer_that_nobody_reads_ends_quietly(tmp_path: Path, command: str) -> None:
    assert unread(tmp_path, *command.split()) == (0, "")


def test_command_goes_on_where_nobody_reads_what_it_says(tmp_path: Path) -> None:
    assert unread(tmp_path, "-m", "starcore.certs", "init", "--host", "h", "--journal", "/kept") == (0, "")
    assert '"journal": "/kept"' in (tmp_path / "star" / "star.json").read_text()
    assert unread(tmp_path, "-m", "starcore.certs", "show") == (0, "")


def test_help_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    with (tmp_path / "help").open("w") as file:
        Parser(prog="star", description="What it does.").print_help(file)
    assert "What it does." in (tmp_path / "help").read_text()
