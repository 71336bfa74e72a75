"""Messages that are small to send and large to receive, or none at all (S6)."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Final

import pytest

from tests.hardening.target import (
    CHECK,
    CONSUME,
    DEAD_LETTERS,
    EVENTS,
    MIB,
    PUBLISH,
    STATE,
    Target,
    call,
    delimited,
    publish_request,
    tell,
    varint,
)
from tests.rpc.frames import Peer, Response, prefixed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import StatusCode

GZIP: Final = ((b"grpc-encoding", b"gzip"),)

INVALID: Final = {StatusCode.INVALID_ARGUMENT}
EXHAUSTED: Final = {StatusCode.RESOURCE_EXHAUSTED}
INTERNAL: Final = {StatusCode.INTERNAL}

Bomb = tuple[str, Callable[[], bytes], tuple[tuple[bytes, bytes], ...], set[StatusCode]]
"""A method, the body of the call to it, its further headers, the codes that it may end with."""


@cache
def gzip_of_zeros(mib: int) -> bytes:
    """Return a gzip of so many MiB of zeros, about a thousandth of that, without inflating it all here."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + block * mib


def nested(depth: int) -> bytes:
    """Return an event with an Any in an Any in an Any."""
    packed = b""
    for _ in range(depth):
        packed = delimited(1, b"type.googleapis.com/google.protobuf.Any") + delimited(2, packed)
    return delimited(1, b"warm.up") + delimited(2, packed)


def ack(ids: int) -> bytes:
    """Return an acknowledgement of so many ids, of one byte each."""
    return prefixed(delimited(2, delimited(1, b"\1" * ids)))


def empty_elements(size: int, *path: int) -> bytes:
    """Return a message of empty elements of a list, two bytes each; the path leads to the list."""
    body = delimited(path[-1], b"") * (size // 2)
    for number in reversed(path[:-1]):
        body = delimited(number, body)
    return prefixed(body)


def groups(depth: int) -> bytes:
    """Return a message of unknown fields in unknown fields."""
    return prefixed(varint(1000 << 3 | 3) * depth + varint(1000 << 3 | 4) * depth)


MUCH: Final = 4 * MIB - 64

BOMBS: dict[str, Bomb] = {
    "a gzip of 10 GB, to publish": (PUBLISH, lambda: prefixed(gzip_of_zeros(10_000), 1), GZIP, INVALID),
    "a gzip of 10 GB, to consume": (CONSUME, lambda: prefixed(gzip_of_zeros(10_000), 1), GZIP, EXHAUSTED),
    "a gzip of 3.8 GB within the limit": (PUBLISH, lambda: prefixed(gzip_of_zeros(3800), 1), GZIP, INVALID),
    "a gzip of 0.4 GB, to consume": (CONSUME, lambda: prefixed(gzip_of_zeros(400), 1), GZIP, EXHAUSTED),
    "4 GiB announced, to publish": (PUBLISH, lambda: b"\0\xff\xff\xff\xff", (), INVALID),
    "4 GiB announced, to a store": (STATE + "Set", lambda: b"\0\xff\xff\xff\xff", (), INVALID),
    "4 GiB announced, to consume": (CONSUME, lambda: b"\0\xff\xff\xff\xff", (), EXHAUSTED),
    "4 GiB announced, to health": (CHECK, lambda: b"\0\xff\xff\xff\xff", (), EXHAUSTED),
    "10,000,000 ids": (CONSUME, lambda: ack(10_000_000), (), EXHAUSTED),
    "4,000,000 ids": (CONSUME, lambda: ack(MUCH), (), EXHAUSTED),
    "500,000 ids": (CONSUME, lambda: ack(500_000), (), INVALID),
    "300,000 ids in pieces": (CONSUME, lambda: ack(10_001) * 30, (), INVALID),
    "2,000,000 sources": (EVENTS + "EnsureStream", lambda: empty_elements(MUCH, 5, 1), (), EXHAUSTED),
    "250,000 sources": (EVENTS + "EnsureStream", lambda: empty_elements(MIB // 2 - 64, 5, 1), (), INVALID),
    "2,000,000 subjects": (EVENTS + "EnsureStream", lambda: empty_elements(MUCH, 3, 1), (), EXHAUSTED),
    "2,000,000 filters": (EVENTS + "EnsureConsumer", lambda: empty_elements(MUCH, 3), (), EXHAUSTED),
    "2,000,000 dead letters": (DEAD_LETTERS + "Replay", lambda: empty_elements(MUCH, 1), (), EXHAUSTED),
    "500,000 dead letters": (DEAD_LETTERS + "Purge", lambda: empty_elements(MIB - 64, 1), (), INVALID),
    "Any in Any, 10,000 deep": (PUBLISH, lambda: prefixed(nested(10_000)), (), {StatusCode.OK}),
    "groups, 100,000 deep": (PUBLISH, lambda: groups(100_000), (), INVALID),
    "groups, 1,000 deep, to consume": (CONSUME, lambda: groups(1_000), (), INVALID),
    "an unknown flag": (PUBLISH, lambda: prefixed(b"x", 0xFF), (), INTERNAL),
    "an unknown flag, to consume": (CONSUME, lambda: prefixed(b"x", 0xFF), (), INTERNAL),
    "compressed without an encoding": (PUBLISH, lambda: prefixed(gzip_of_zeros(1), 1), (), INTERNAL),
    "compressed, but no gzip": (PUBLISH, lambda: prefixed(b"x" * 100, 1), GZIP, INTERNAL),
    "a gzip that is cut": (PUBLISH, lambda: prefixed(gzip_of_zeros(1), 1), GZIP, INTERNAL),
    "a message that is cut": (PUBLISH, lambda: prefixed(b"x" * 100)[:-1], (), INTERNAL),
    "half a prefix": (PUBLISH, lambda: b"\0\0\0", (), INTERNAL),
    "two messages": (PUBLISH, lambda: prefixed(b"") * 2, (), INTERNAL),
    "a million empty messages": (CONSUME, lambda: prefixed(b"") * 1_000_000, (), INVALID),
    "bytes that are no Protobuf": (PUBLISH, lambda: prefixed(b"\xff" * 1000), (), INVALID),
    "a string that is no UTF-8": (PUBLISH, lambda: prefixed(delimited(1, b"\xff\xfe")), (), INVALID),
}


LARGEST_GROWTH: Final = {
    "a gzip of 3.8 GB within the limit": 20,
    "250,000 sources": 24,
    "500,000 dead letters": 24,
}
"""MiB, where 4 MB are read before it shows, or a list may be long: one message is looked at at a time."""


async def explode(peer: Peer, bomb: Bomb, body: bytes) -> tuple[Response, float]:
    """Send a bomb, and return the answer, with the seconds that it took after the last byte was taken."""
    path, _, extra, _ = bomb
    stream = peer.request(path, None, extra, end=False)
    await peer.upload(stream, body, end=True)
    started = time.monotonic()
    return await peer.response(stream), time.monotonic() - started


@pytest.mark.timeout(120)
async def test_no_message_costs_more_than_it_should(server: Target) -> None:
    """Each ends with a code that says what is wrong with it, and at no time memory grows by 16 MiB."""
    await server.warm_up()
    wrong, figures = {}, []
    for name, bomb in BOMBS.items():
        body = bomb[1]()
        before = server.memory
        server.forget_peak()
        async with await server.peer() as peer:
            response, seconds = await explode(peer, bomb, body)
            assert (await call(peer, PUBLISH, publish_request("warm.up"))).status == 0
        growth = (server.peak - before) / MIB
        status = StatusCode(response.status if response.status is not None else StatusCode.UNKNOWN)
        figures.append(f"{name}: {status.name} after {seconds:.3f} s, memory +{growth:.1f} MiB")
        if status not in bomb[3] or growth > LARGEST_GROWTH.get(name, 16):
            wrong[name] = figures[-1]
    tell(*figures)
    assert wrong == {}
    assert server.faults() == []


async def test_lists_as_long_as_allowed_are_looked_at(shared_server: Target) -> None:
    """The largest requests that make sense are not too large: what is wrong with them is something else."""
    ids = [2**64 - 1 - number for number in range(10_000)]
    names = [f"{number:0>120}" for number in range(4096)]
    subjects = pb.EnsureStreamRequest.Subjects(subjects=[f"a.{name[2:]}" for name in names])
    sources = pb.EnsureStreamRequest.StreamSources(
        sources=[pb.EnsureStreamRequest.StreamSource(name=name) for name in names]
    )
    async with await shared_server.peer() as peer:
        acked = pb.EventsRequest(ack=pb.EventsRequest.Ack(ids=ids))
        response = await call(peer, CONSUME, acked)
        assert "first message" in response.message
        for request in (
            pb.EnsureStreamRequest(name="$", subjects=subjects),
            pb.EnsureStreamRequest(name="$", aggregate=sources),
        ):
            response = await call(peer, EVENTS + "EnsureStream", request)
            assert response.status == StatusCode.INVALID_ARGUMENT
            assert "name" in response.message
