"""Every message to bytes and back, against the slow reference; every bound; the document of the wire."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from array import array
from pathlib import Path
from typing import Any

import pytest
import reference_framing as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from starcore import codec, messages
from starcore.errors import Code, FrameError, Status, UnknownMessageError
from starcore.messages import (
    BATCH_TASKS_MAX,
    BLOB_BYTES_MAX,
    BODY_BYTES_MAX,
    FRAME_PAYLOAD_BYTES_MAX,
    HEAD_BYTES_MAX,
    JOB_MAX,
    PROTOCOL_VERSION,
    STATUS_BYTES_MAX,
    TEXT_BYTES_MAX,
    Abort,
    Ack,
    Assign,
    Blob,
    FunctionKind,
    Goodbye,
    Grant,
    Hello,
    Job,
    Notice,
    Outcome,
    Result,
    Retract,
    Role,
    Slots,
    StatusReply,
    Submit,
)

ROWS = {row[1]: row for row in codec.TABLE}
PROTOCOL = (Path(__file__).parent.parent / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


def parts(frame: bytes) -> tuple[int, bytes, bytes]:
    """Return the kind, meta and payload of the one frame that these bytes are."""
    ((_, kind, meta, payload),) = reference.read(frame)
    return kind, meta, payload


# -- messages of hypothesis ----------------------------------------------------------------------------------

_TEXT = st.text(max_size=12)
_STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    **{
        kind: st.integers(-(largest + 1) if code == "i" else 0, int(largest))
        for kind, (code, largest) in reference.NUMBERS.items()
        if code != "d"
    },
    "seconds": st.floats(0, allow_nan=False, allow_infinity=False),
    "flag": st.booleans(),
    "role": st.sampled_from(Role),
    "function kind": st.sampled_from(FunctionKind),
    "first index": st.integers(0, (1 << 32) - 8),
    "first lease": st.integers(0, (1 << 63) - 8),
    "session": st.binary(min_size=16, max_size=16),
    "digest": st.binary(min_size=32, max_size=32),
    "text": _TEXT,
    "long text": _TEXT,
    "texts": st.lists(_TEXT, max_size=3),
}


def _items(kind: str) -> st.SearchStrategy[Any]:
    code, largest = reference.COLUMNS[kind]
    if code == "d":
        return _STRATEGIES["seconds"]
    return st.integers(0, 40 if kind == "head bytes[]" else int(largest))


def _column(kind: str, values: list[Any]) -> Any:
    code = reference.COLUMNS[kind][0]
    return bytes(values) if code == "B" else array(code, values)


@st.composite
def any_message(draw: Any) -> Any:
    """Draw a message of any kind, with columns that agree with each other."""
    _, record, fields, payload = draw(st.sampled_from(codec.TABLE))
    rows = draw(st.integers(1, 6))
    run = any(kind == "head bytes[]" for _, kind in fields)
    values = {}
    for name, kind in fields:
        if not kind.endswith("[]"):
            values[name] = draw(_STRATEGIES[kind])
            continue
        count = rows if run else draw(st.integers(0, 6))
        if kind == "body bytes[]":
            count = draw(st.sampled_from([0, count]))
        values[name] = _column(kind, draw(st.lists(_items(kind), min_size=count, max_size=count)))
    if record is Hello:
        values["version"] = PROTOCOL_VERSION
    if payload:
        size = sum(values["head_sizes"]) if run else draw(st.integers(0, 50))
        values[payload] = draw(st.binary(min_size=size, max_size=size))
    return record(**values)


@settings(max_examples=400, deadline=None)
@given(any_message())
def test_message_goes_there_and_back_as_by_the_reference(message):
    frame = codec.encode(message)
    assert frame == reference.encode(ROWS[type(message)], message)
    kind, meta, payload = parts(frame)
    decoded = codec.decode(kind, memoryview(meta), memoryview(payload))
    assert decoded == message
    assert type(decoded) is type(message)


@settings(max_examples=600, deadline=None)
@given(any_message(), st.data())
def test_damaged_message_is_judged_as_by_the_reference(message, data):
    row = ROWS[type(message)]
    kind, meta, payload = parts(codec.encode(message))
    at = data.draw(st.integers(0, len(meta)))
    match data.draw(st.sampled_from(["cut", "more", "byte", "number", "payload"])):
        case "cut":
            meta = meta[:at]
        case "more":
            meta += data.draw(st.binary(min_size=1, max_size=9))
        case "byte":
            meta = meta[:at] + data.draw(st.binary(min_size=1, max_size=1)) + meta[at + 1 :]
        case "number":
            meta = meta[:at] + data.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x01\x10\0\0"])) + meta[at + 4 :]
        case "payload":
            payload = data.draw(st.binary(max_size=60))
    if type(message) is Hello and meta[:2] != PROTOCOL_VERSION.to_bytes(2, "little"):
        return
    try:
        expected = reference.decode(row, meta, payload)
    except reference.WrongError:
        with pytest.raises(FrameError):
            codec.decode(kind, meta, payload)
    else:
        assert codec.decode(kind, meta, payload) == expected


def test_decoded_message_keeps_nothing_of_the_buffers():
    message = Submit(1, 0, head_sizes=array("I", [3]), heads=b"abc")
    kind, meta, payload = parts(codec.encode(message))
    table, heads = bytearray(meta), bytearray(payload)
    decoded = codec.decode(kind, memoryview(table), memoryview(heads))
    table.clear()
    heads.clear()
    assert decoded == message


def test_enums_and_flags_come_back_as_such():
    kind, meta, payload = parts(codec.encode(Job(1, FunctionKind.REGISTERED, bytes(32), "f")))
    assert type(codec.decode(kind, meta, payload).kind) is FunctionKind
    kind, meta, payload = parts(codec.encode(Hello(PROTOCOL_VERSION, Role.WORKER, bytes(16), only_registered=True)))
    hello = codec.decode(kind, meta, payload)
    assert type(hello.role) is Role
    assert hello.only_registered is True


@pytest.mark.parametrize("heads", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_any_buffer_is_sent_as_payload(heads):
    message = Submit(1, 0, head_sizes=array("I", [2]), heads=heads)
    assert codec.decode(*parts(codec.encode(message))).heads == b"ab"


# -- the table -----------------------------------------------------------------------------------------------


def test_table_has_every_message_once_with_all_its_fields():
    assert set(ROWS) == set(typing.get_args(messages.Message))
    assert len({kind for kind, *_ in codec.TABLE}) == len(codec.TABLE)
    for _, record, fields, payload in codec.TABLE:
        names = [name for name, _ in fields] + ([payload] if payload else [])
        assert names == [field.name for field in dataclasses.fields(record)]


def test_reference_knows_every_type():
    known = {*reference.NUMBERS, *reference.FIXED, *reference.TEXTS, *reference.COLUMNS, "texts"}
    assert known == set(codec.TYPES)


def test_unknown_kind_is_told_apart():
    for kind in (0, 5, 13, 127, 255):
        with pytest.raises(UnknownMessageError):
            codec.decode(kind, b"", b"")


def test_what_is_no_message_is_not_encoded():
    with pytest.raises(TypeError, match="object is no message"):
        codec.encode(object())


# -- bounds --------------------------------------------------------------------------------------------------


def u32(*items: int) -> Any:
    """Return a column."""
    return array("I", items)


def u64(*items: int) -> Any:
    """Return a column."""
    return array("Q", items)


def submit(sizes: Any = None, bodies: Any = None, heads: bytes = b"", first: int = 0) -> Submit:
    """Return a run of one small task, with something else about it."""
    return Submit(1, first, False, u32(0) if sizes is None else sizes, u64() if bodies is None else bodies, heads)


AT_THE_BOUND = [
    messages.Forget(JOB_MAX),
    Grant(1, 0, BODY_BYTES_MAX, BODY_BYTES_MAX),
    Blob(bytes(32), 1, BLOB_BYTES_MAX),
    Blob(bytes(32), 1, 0, bytes(HEAD_BYTES_MAX)),
    Notice(1, "x" * TEXT_BYTES_MAX),
    StatusReply("x" * STATUS_BYTES_MAX),
    Ack(u64(*range(BATCH_TASKS_MAX))),
    submit(array("I", bytes(4 * BATCH_TASKS_MAX))),
    submit(u32(HEAD_BYTES_MAX), heads=bytes(HEAD_BYTES_MAX)),
    submit(u32(*[HEAD_BYTES_MAX] * 8), heads=bytes(FRAME_PAYLOAD_BYTES_MAX)),
    submit(bodies=u64(BODY_BYTES_MAX)),
    submit(u32(0, 0), first=(1 << 32) - 2),
    Assign((1 << 63) - 1, 1, 0, 1, u32(0)),
    Hello(PROTOCOL_VERSION, Role.CLIENT, bytes(16), functions=["f"] * BATCH_TASKS_MAX),
    Result(u64(1), bytes([max(Status)]), array("d", [0.0]), u32(0)),
]


@pytest.mark.parametrize("message", AT_THE_BOUND, ids=lambda message: type(message).__name__)
def test_message_at_its_bound_is_taken(message):
    frame = codec.encode(message)
    assert frame == reference.encode(ROWS[type(message)], message)
    assert codec.decode(*parts(frame)) == message


def job(**values: Any) -> Job:
    """Return a job with something else about it."""
    return dataclasses.replace(Job(1, FunctionKind.SHIPPED, bytes(32), "f"), **values)


def hello(**values: Any) -> Hello:
    """Return a greeting with something else about it."""
    return dataclasses.replace(Hello(PROTOCOL_VERSION, Role.CLIENT, bytes(16)), **values)


def result(**values: Any) -> Result:
    """Return the answer of one lease with something else about it."""
    return dataclasses.replace(Result(u64(1), b"\0", array("d", [0.5]), u32(0)), **values)


BEYOND_THE_BOUND = {
    "job": messages.Forget(JOB_MAX + 1),
    "offset": Grant(1, 0, BODY_BYTES_MAX + 1, 0),
    "count": Grant(1, 0, 0, BODY_BYTES_MAX + 1),
    "blob bytes": Blob(bytes(32), 1, BLOB_BYTES_MAX + 1),
    "blob head": Blob(bytes(32), 1, 0, bytes(HEAD_BYTES_MAX + 1)),
    "text": Notice(1, "x" * (TEXT_BYTES_MAX + 1)),
    "long text": StatusReply("x" * (STATUS_BYTES_MAX + 1)),
    "column": Ack(u64(*range(BATCH_TASKS_MAX + 1))),
    "texts": hello(functions=["f"] * (BATCH_TASKS_MAX + 1)),
    "one of texts": hello(functions=["f" * (TEXT_BYTES_MAX + 1)]),
    "no role": hello(role=3),
    "no function kind": job(kind=2),
    "flag": hello(only_registered=2),
    "negative seconds": job(timeout_seconds=-1.0),
    "endless seconds": job(timeout_seconds=float("inf")),
    "no number of seconds": job(timeout_seconds=float("nan")),
    "negative item": result(seconds=array("d", [-1.0])),
    "no number as item": result(seconds=array("d", [float("nan")])),
    "status": result(statuses=bytes([max(Status) + 1])),
    "run of no tasks": submit(u32()),
    "run too long": submit(array("I", bytes(4 * BATCH_TASKS_MAX + 4))),
    "head bytes": submit(u32(HEAD_BYTES_MAX + 1), heads=bytes(HEAD_BYTES_MAX + 1)),
    "body bytes": submit(bodies=u64(BODY_BYTES_MAX + 1)),
    "heads short": submit(u32(2), heads=b"a"),
    "heads long": submit(u32(2), heads=b"abc"),
    "bodies of other tasks": submit(u32(0, 0), bodies=u64(1)),
    "last index": submit(u32(0, 0), first=(1 << 32) - 1),
    "last lease": Assign((1 << 63) - 1, 1, 0, 1, u32(0, 0)),
    "statuses short": result(statuses=b""),
    "seconds long": result(seconds=array("d", [0.5, 0.5])),
    "leases long": result(leases=u64(1, 2)),
    "indices short": Outcome(1, 1, 1, u32(), b"\0", u32(0)),
}


@pytest.mark.parametrize("message", BEYOND_THE_BOUND.values(), ids=BEYOND_THE_BOUND)
def test_message_beyond_a_bound_is_neither_sent_nor_taken(message):
    row = ROWS[type(message)]
    with pytest.raises((ValueError, OverflowError)):
        codec.encode(message)
    frame = reference.encode(row, message, strict=False)
    payload = bytes(getattr(message, row[3])) if row[3] else b""
    with pytest.raises(FrameError):
        codec.decode(row[0], frame[16 : len(frame) - len(payload)], payload)


@pytest.mark.parametrize(
    "message",
    [
        hello(session=bytes(15)),
        hello(pid=-1),
        hello(pid=1 << 32),
        hello(arena_bytes=1 << 64),
        hello(name=None),
        hello(name=b"bytes"),
        hello(name="\ud800"),
        hello(slots="2"),
        hello(functions=7),
        hello(leases=[1]),
        hello(leases=array("I")),
        hello(leases=array("q")),
        job(digest=bytes(33)),
        job(digest="x" * 32),
        job(priority=1 << 31),
        Goodbye(1 << 16),
        Slots(1, 1 << 32),
        Abort(1 << 64, 0, 0),
        submit(heads="text"),
        result(statuses=[0]),
        Retract(True, None),
    ],
    ids=repr,
)
def test_field_of_the_wrong_type_or_size_is_not_sent(message):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        codec.encode(message)


def test_frames_whole_meta_is_bounded():
    message = hello(functions=["f" * TEXT_BYTES_MAX] * 16)
    with pytest.raises(ValueError, match="a meta of"):
        codec.encode(message)


def test_payload_where_there_is_none_is_refused():
    with pytest.raises(FrameError, match="payload"):
        codec.decode(4, b"", b"x")


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
def test_text_that_is_not_utf8_is_refused(text):
    meta = (1).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    with pytest.raises(FrameError, match="UTF-8"):
        codec.decode(34, meta, b"")


def test_every_prefix_of_every_message_is_refused():
    for message in VECTORS:
        kind, meta, payload = parts(codec.encode(message))
        for size in range(len(meta)):
            with pytest.raises(FrameError):
                codec.decode(kind, meta[:size], payload)


def test_greeting_of_another_version_is_read_as_far_as_it_never_changes():
    later = Hello(PROTOCOL_VERSION + 1, Role.WORKER, bytes(range(16)), name="new")
    meta = reference.encode(ROWS[Hello], later)[16:]
    foreign = Hello(PROTOCOL_VERSION + 1, Role.WORKER, bytes(range(16)))
    assert codec.decode(1, meta[:19], b"") == foreign
    assert codec.decode(1, meta[:19] + b"quite different", b"and a payload") == foreign
    with pytest.raises(FrameError):
        codec.decode(1, meta[:18], b"")


# -- the document --------------------------------------------------------------------------------------------

_SECTION = re.compile(r"^### ([A-Z_]+) \((\d+)\)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\| `(\w+)` \| ([^|]+) \| `([^|]*)` \| [^|]+ \|$", re.MULTILINE)
_HEX = re.compile(r"^```hex\n(.*?)```", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass
class Section:
    """What the document says about one message."""

    kind: int
    fields: list[tuple[str, str]]
    examples: dict[str, Any]
    frame: bytes


def _example(kind: str, text: str) -> Any:
    """Read an example: JSON, or bytes as x"..."."""
    if text.startswith("x"):
        return bytes.fromhex(json.loads(text[1:]))
    value = json.loads(text)
    return _column(kind, value) if kind in reference.COLUMNS else value


def sections() -> dict[str, Section]:
    """Return every message of the document by its name."""
    found = {}
    for name, kind, text in _SECTION.findall(PROTOCOL):
        fields = _FIELD.findall(text)
        assert len(fields) == len(re.findall(r"^\| `", text, re.MULTILINE)), f"{name}: a row that cannot be read"
        (frame,) = _HEX.findall(text)
        found[name] = Section(
            int(kind),
            [(field, type_) for field, type_, _ in fields],
            {field: _example(type_, example) for field, type_, example in fields},
            bytes.fromhex(frame),
        )
    return found


def title(record: type) -> str:
    """Return a message's name as the document writes it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", record.__name__).upper()


SECTIONS = sections()
VECTORS = [record(**SECTIONS[title(record)].examples) for _, record, _, _ in codec.TABLE]


@pytest.mark.parametrize(("row", "message"), list(zip(codec.TABLE, VECTORS, strict=True)), ids=lambda it: str(it)[:12])
def test_document_has_the_table_and_a_vector_of_every_message(row, message):
    kind, record, fields, payload = row
    section = SECTIONS[title(record)]
    assert section.kind == kind
    assert section.fields == [*fields, *([(payload, "payload")] if payload else [])]
    assert codec.encode(message) == section.frame
    assert codec.decode(*parts(section.frame)) == message


def test_document_has_the_chunk_and_nothing_else():
    section = SECTIONS["CHUNK"]
    assert section.fields == [
        ("stream", "u64"),
        ("attempt", "u32"),
        ("reserved", "u32"),
        ("offset", "body bytes"),
        ("data", "payload"),
    ]
    values = dict(section.examples)
    assert values.pop("reserved") == 0
    assert section.frame == reference.chunk(**values)
    assert len(SECTIONS) == len(codec.TABLE) + 1


def test_document_has_every_limit_with_its_value():
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", PROTOCOL, re.MULTILINE))
    limits = {name: value for name, value in vars(messages).items() if name.endswith("_MAX")}
    assert {name: int(value.replace(",", "")) for name, value in stated.items()} == limits


@pytest.mark.parametrize("names", [Code, Status])
def test_document_has_every_code_and_status(names):
    stated = re.findall(rf"^\| (\d+) \| `{names.__name__}\.([A-Z_]+)` \|", PROTOCOL, re.MULTILINE)
    assert [(int(number), name) for number, name in stated] == [(member.value, member.name) for member in names]


def test_document_has_every_type():
    stated = re.findall(r"^\| \*([^*]+)\* \|", PROTOCOL, re.MULTILINE)
    assert sorted(stated) == sorted([*codec.TYPES, "payload"])
