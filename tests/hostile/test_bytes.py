"""Bytes that are no frames, or nearly: the reader and the codec say ProtocolError, or something that is said back."""

from __future__ import annotations

import random

import pytest

from starcore import codec
from starcore._framing import FrameReader, chunk_header
from starcore.errors import ProtocolError
from starcore.messages import CHUNK_BYTES_MAX, Message, Role

from .generators import Liar
from .test_manager import BASE, SEEDS
from .world import through_the_wire

FRAMES = 30
RUNS = 12


def read(data: bytes, rng: random.Random, *, greeting: bool) -> list[Message]:
    """Read bytes in pieces, up to the first fault."""
    heard: list[Message] = []
    landed = 0

    def deliver(kind: int, meta: memoryview, payload: memoryview) -> None:
        heard.append(codec.decode(kind, meta, payload))

    def destination(stream: int, attempt: int, offset: int, length: int) -> bytearray | None:
        assert 1 <= length <= CHUNK_BYTES_MAX
        return bytearray(length) if rng.random() < 0.5 else None

    def arrived(stream: int, attempt: int, offset: int, length: int, token: object) -> None:
        nonlocal landed
        landed += length

    reader = FrameReader(deliver, destination, arrived, greeting)
    at = 0
    try:
        while at < len(data):
            buffer = reader.get_buffer()
            count = min(len(buffer), len(data) - at, rng.choice((1, 7, 40, 5000, 1 << 16)))
            buffer[:count] = data[at : at + count]
            at += count
            reader.advance(count)
    except ProtocolError:
        pass
    assert landed <= len(data)
    return heard


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Change, cut out or insert a few bytes."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 3, 20))):
        at = rng.randrange(len(spoilt))
        kind = rng.random()
        if kind < 0.6:
            spoilt[at] = rng.choice((0, 255, rng.randrange(256), spoilt[at] ^ 1 << rng.randrange(8)))
        elif kind < 0.8:
            del spoilt[at : at + rng.choice((1, 4, 100))]
        else:
            spoilt[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        if not spoilt:
            break
    return bytes(spoilt)


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_spoilt_frames_are_refused_or_understood(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS):
        liar = Liar(rng, rng.choice((Role.CLIENT, Role.WORKER, Role.MANAGER)))
        frames = []
        for _ in range(FRAMES):
            if rng.random() < 0.1:
                stream, attempt, offset, data = liar.chunk()
                frames.append(chunk_header(stream, attempt, offset, len(data)) + data)
            else:
                frame = codec.encode(liar.say())
                frames.append(frame if rng.random() < 0.7 else spoil(frame, rng))
        for message in read(b"".join(frames), rng, greeting=rng.random() < 0.2):
            assert through_the_wire(message) == message


@pytest.mark.parametrize("seed", range(BASE, BASE + SEEDS))
def test_noise_is_refused(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS):
        assert read(rng.randbytes(rng.randrange(1, 3000)), rng, greeting=rng.random() < 0.5) == []
