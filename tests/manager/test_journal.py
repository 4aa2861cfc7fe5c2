"""The journal's format: every record there and back, every place where a segment may end, every kind of damage."""

from __future__ import annotations

import re
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starcore.errors import FrameError
from starcore.manager import journal, records
from starcore.manager.journal import ENVELOPE_BYTES, HEADER_BYTES, Damage, VersionError
from starcore.manager.records import (
    Accepted,
    Answered,
    ArgumentKept,
    BlobKnown,
    Delivered,
    Ended,
    Fetched,
    FunctionKept,
    Gone,
    JobForgotten,
    Leased,
    Renamed,
    StoredKnown,
    StoredWhole,
    Touched,
    Troubled,
    WorkerKnown,
)
from starcore.messages import FunctionKind

SALT = 0x12345678
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "JOURNAL.md"
FACTS = [
    Accepted(3, 5, array("I", [2, 1]), array("Q", [0, 100_000]), b"abc"),
    BlobKnown(b"\xab" * 32, b"a function"),
    WorkerKnown(b"w" * 16, "ff", "cert", "w1", "node7", "192.0.2.1:4", "3.11", 4, 1 << 30, True, ["pkg.mod:f", ""]),
    Leased(b"w" * 16, 1 << 40, 3, 5, 2, 7),
    Troubled(3, 6, 2, 1, True, "signal 9"),
    Ended(3, 1 << 33, 2, False, array("I", [5]), b"\0", array("I", [4]), b"done"),
    Delivered(3, array("I", [6]), b"\1"),
    JobForgotten(3),
    StoredKnown(
        *(7, 6, "ff", "alice", "192.0.2.1:5", "scan-7", 12, 1 << 33, 86400.0, 1.9e9, 1.9e9 + 0.5),
        *(FunctionKind.SHIPPED, b"\xcd" * 32, "f", "3.11", 2, 1.5, -3, b'{"kind": "call"}'),
    ),
    StoredWhole(7),
    Touched(7, 1.9e9 + 1.25),
    ArgumentKept(7, 3, 1 << 40, 1 << 34),
    FunctionKept(b"\xcd" * 32, 9, 200_000),
    Answered(7, 4, 2, 3, 0, 10, 1 << 20, b"head"),
    Fetched(7, array("Q", [4, 5])),
    Gone(7, 4, array("I", [3]), b"\0"),
    Renamed("ff" * 32, "star/client/alice"),
]


def segment(facts: list[object] = FACTS, first: int = 1) -> bytes:
    return journal.header(SALT) + journal.envelope([journal.encode(fact) for fact in facts], first, SALT)


def found(octets: bytes) -> tuple[list[object], list[Damage]]:
    whole = list(journal.read(octets))
    damages = [each for each in whole if isinstance(each, Damage)]
    return [journal.decode(each) for each in whole if not isinstance(each, Damage)], damages


def ends() -> list[int]:
    """Where each record of `segment()` ends."""
    sizes = [ENVELOPE_BYTES + len(journal.encode(fact)) for fact in FACTS]
    return [HEADER_BYTES + sum(sizes[: number + 1]) for number in range(len(sizes))]


def test_every_record_comes_back_as_it_was() -> None:
    facts, damages = found(segment())
    assert (facts, damages) == (FACTS, [])


def test_every_record_has_a_row_and_a_kind_of_its_own() -> None:
    named = {each for each in vars(records).values() if isinstance(each, type) and each.__module__ == records.__name__}
    assert {row[1] for row in journal.TABLE} == named
    assert len({row[0] for row in journal.TABLE}) == len(journal.TABLE)


def test_segment_cut_at_any_byte_gives_every_record_before_the_cut() -> None:
    octets, stops = segment(), ends()
    for cut in range(HEADER_BYTES, len(octets)):
        facts, damages = found(octets[:cut])
        whole = sum(stop <= cut for stop in stops)
        assert facts == FACTS[:whole]
        begun = cut not in (HEADER_BYTES, *stops)
        assert [damage.torn for damage in damages] == [True] * begun


def test_header_that_was_never_finished_is_a_torn_tail() -> None:
    assert found(b"") == ([], [])
    facts, damages = found(segment()[:100])
    assert facts == [] and damages == [Damage(0, 100, 0, torn=True)]


def test_flipped_byte_costs_one_record_and_is_told() -> None:
    octets, stops = segment(), ends()
    for at in range(HEADER_BYTES, len(octets)):
        broken = bytearray(octets)
        broken[at] ^= 0x20
        facts, damages = found(bytes(broken))
        victim = sum(stop <= at for stop in stops)
        assert facts == FACTS[:victim] + FACTS[victim + 1 :]
        last = victim == len(FACTS) - 1
        assert [damage.torn for damage in damages] == [last]
        assert damages[0].lost == (0 if last or victim == 0 else 1)


def test_lost_stretch_tells_how_many_records_stood_there() -> None:
    octets, stops = segment(), ends()
    facts, damages = found(octets[: stops[1]] + bytes(stops[4] - stops[1]) + octets[stops[4] :])
    assert facts == FACTS[:2] + FACTS[5:]
    assert damages == [Damage(stops[1], stops[4] - stops[1], 3)]
    assert str(damages[0]).endswith("3 records lost")


def test_records_that_were_cut_out_are_missed() -> None:
    octets, stops = segment(), ends()
    facts, damages = found(octets[: stops[1]] + octets[stops[2] :])
    assert facts == FACTS[:2] + FACTS[3:]
    assert damages == [Damage(stops[1], 0, 1)]


@pytest.mark.parametrize("copy", [0, journal.BLOCK_BYTES])
def test_either_copy_of_the_header_is_enough(copy: int) -> None:
    octets = bytearray(segment())
    octets[copy : copy + 512] = bytes(512)
    assert found(bytes(octets)) == (FACTS, [])


def test_segment_without_a_header_is_damage_from_end_to_end() -> None:
    octets = bytes(HEADER_BYTES) + segment()[HEADER_BYTES:]
    assert found(octets) == ([], [Damage(0, len(octets), 0)])


def test_segment_of_another_version_is_refused() -> None:
    octets = bytearray(segment())
    for at in (0, journal.BLOCK_BYTES):
        octets[at + 8 : at + 12] = struct.pack("<I", 4)
        octets[at + 16 : at + 20] = struct.pack("<I", journal.zlib.crc32(octets[at : at + 16]))
    with pytest.raises(VersionError, match="version 4, and this manager reads versions up to 3"):
        list(journal.read(bytes(octets)))


@pytest.mark.parametrize("version", [1, 2])
def test_segment_of_a_version_before_is_read(version: int) -> None:
    octets = bytearray(segment())
    for at in (0, journal.BLOCK_BYTES):
        octets[at + 8 : at + 12] = struct.pack("<I", version)
        octets[at + 16 : at + 20] = struct.pack("<I", journal.zlib.crc32(octets[at : at + 16]))
    assert found(bytes(octets)) == (FACTS, [])


def test_what_a_client_plants_in_a_head_is_no_record_even_in_damage() -> None:
    """It can guess everything but the salt."""
    planted = journal.envelope([journal.encode(JobForgotten(9))], 2, SALT ^ 1)
    octets = bytearray(segment([Accepted(1, 0, array("I", [len(planted)]), array("Q"), planted), JobForgotten(1)]))
    octets[HEADER_BYTES + 4] ^= 1
    facts, damages = found(bytes(octets))
    assert facts == [JobForgotten(1)] and len(damages) == 1


def test_record_of_an_unknown_kind_or_shape_is_a_fault_of_the_frame() -> None:
    frame = bytearray(journal.encode(JobForgotten(1)))
    for at, value in ((2, 99), (4, 3)):
        broken = bytearray(frame)
        broken[at] = value
        with pytest.raises(FrameError):
            journal.decode(bytes(broken))
    with pytest.raises(FrameError):
        journal.decode(b"SC")


@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 300))
def test_no_damage_whatsoever_raises_or_invents_a_record(noise: bytes, at: int, length: int) -> None:
    octets = segment()
    place = HEADER_BYTES + at
    facts, _ = found(octets[:place] + noise + octets[place + length :])
    assert all(fact in FACTS for fact in facts)
    assert [FACTS.index(fact) for fact in facts] == sorted(FACTS.index(fact) for fact in facts)


def test_document_lists_every_record_with_its_fields() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| `\w+` \| (.*?) \|", text, re.MULTILINE))
    for kind, _, fields, payload in journal.TABLE:
        said = [f"`{name}` {shape}" for name, shape in fields] + ([f"`{payload}` payload"] if payload else [])
        assert rows.get(str(kind)) == ", ".join(said), kind
    assert len(rows) == len(journal.TABLE)
