"""Limits that can be set, set to other values; and what must not be limited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hardening.target import (
    CHECK,
    CONSUME,
    EVENTS,
    MODES,
    NOTHING,
    PUBLISH,
    Target,
    call,
    publish_request,
    target,
)
from tests.rpc.frames import Peer, prefixed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import StatusCode

REFUSED_STREAM = 0x7
STREAMS = 4


@pytest.fixture(params=MODES)
def quick(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Run a server that is soon tired of clients."""
    settings = {
        "GRPC_MAX_CONCURRENT_STREAMS": str(STREAMS),
        "GRPC_KEEPALIVE_INTERVAL": "1",
        "GRPC_KEEPALIVE_TIMEOUT": "2",
        "GRPC_HANDSHAKE_TIMEOUT": "3",
    }
    with target(tmp_path, request.param, **settings) as server:
        yield server


async def subscribed(peer: Peer, consumer: str) -> int:
    """Make a consumer and begin to consume; return the stream."""
    request = pb.EnsureConsumerRequest(stream="warm", name=consumer)
    assert (await call(peer, EVENTS + "EnsureConsumer", request)).status == 0
    subscribe = pb.EventsRequest(subscribe=pb.EventsRequest.Subscribe(stream="warm", consumer=consumer))
    stream = peer.request(CONSUME, prefixed(subscribe.SerializeToString()), end=False)
    await peer.until(lambda: len(peer.responses[stream].messages) == 1)
    return stream


async def test_timers_that_are_set(quick: Target) -> None:
    """Who answers PINGs stays with an idle call; who does not, or calls nothing, is dropped."""
    async with await quick.peer() as idle, await quick.peer() as silent, await quick.peer() as mute:
        started = time.monotonic()
        stream = await subscribed(idle, "idle")
        silent.answer_pings = False
        await subscribed(silent, "silent")
        await asyncio.gather(silent.closed(), mute.closed(), idle.until(lambda: len(idle.pings) >= 3))
        assert time.monotonic() - started > 1
        assert silent.pings
        assert not idle.responses[stream].over
        assert (await call(idle, PUBLISH, publish_request("warm.idle"))).status == 0
        await idle.until(lambda: len(idle.responses[stream].messages) == 2)


async def test_calls_at_once(quick: Target) -> None:
    """So many are announced; what a client opens beyond is refused, and ends the connection once it knew."""
    async with await quick.peer(start=False) as peer:
        peer.acknowledge_settings = False
        await peer.start()
        assert peer.settings[0x3] == STREAMS
        await peer.pong()
        assert peer.window == 65_536 * 2 * STREAMS
        ids = [peer.request(CONSUME, None, end=False) for _ in range(STREAMS + 1)]
        assert (await peer.response(ids[-1])).reset == REFUSED_STREAM
        assert not any(peer.responses[each].over for each in ids[:-1])
    async with await quick.peer() as peer:
        await peer.pong()
        for _ in range(STREAMS + 1):
            peer.request(CONSUME, None, end=False)
        assert await peer.closed() is not None


async def test_stalled_uploads_block_nobody(shared_server: Target) -> None:
    """255 requests that stop in the middle, each with a full window, and another one on that connection."""
    async with await shared_server.peer() as peer:
        await peer.pong()
        body = b"\0\0\x10\0\0" + bytes(65_531)  # the beginning of a message of a MiB
        for _ in range(255):
            stream = peer.request(PUBLISH, None, end=False)
            await peer.send_slowly(peer.data(stream, body))
        large = publish_request("warm.large", bytes(900_000))
        assert (await call(peer, PUBLISH, large)).status == 0


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        (b"GET", b"application/grpc", b"405"),
        (b"PUT", b"application/grpc", b"405"),
        (b"POST", b"application/json", b"415"),
        (b"POST", b"application/grpc-web+proto", b"415"),
        (b"POST", b"", b"415"),
    ],
)
async def test_what_is_no_grpc(
    shared_server: Target, method: bytes, content_type: bytes, status: bytes
) -> None:
    """An answer of HTTP, and no call."""
    async with await shared_server.peer() as peer:
        stream = peer.request(PUBLISH, NOTHING, method=method, content_type=content_type)
        assert (await peer.response(stream)).initial[b":status"] == status
        assert (await peer.call(CHECK)).status == StatusCode.OK
