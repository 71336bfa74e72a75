"""Clients that make the server hold what they can: answers that they do not read, messages without an end."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from ssl import SSLError

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.hardening.target import (
    ADMIN,
    CONSUME,
    EVENTS,
    MIB,
    MODES,
    PUBLISH,
    STATE,
    Target,
    call,
    delimited,
    healthy,
    target,
    tell,
)
from tests.rpc.frames import Response, prefixed
from tests.support.client import Client
from tests.wire import looking
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb

HELD_MB = 40
GET = prefixed(state_pb.GetRequest(store="large", key="a").SerializeToString())
GZIP = ((b"grpc-encoding", b"gzip"),)


def _packed(*events: pb.PublishEventRequest) -> bytes:
    request = pb.PublishStreamRequest(events=events)
    return prefixed(gzip.compress(request.SerializeToString()), 1)


SUBSCRIBE = prefixed(
    pb.EventsRequest(
        subscribe=pb.EventsRequest.Subscribe(stream="warm", consumer="held", max_processing_events=1)
    ).SerializeToString()
)
UNREAD = _packed(*[pb.PublishEventRequest()] * 1000) + _packed(
    pb.PublishEventRequest(data=AnyMessage(type_url="x.Y", value=bytes(2 * MIB)))
)
"""Events with more results than fit into a window that stays shut, and one that is large behind them."""

TOLD = _packed(
    *[
        pb.PublishEventRequest(subject="-", data=AnyMessage(type_url="x.Y", value=bytes(size)))
        for size in (MIB, 900_000, MIB, 900_000)
    ]
)
"""Events of which each is told that it is too large, or that no stream takes it."""


@pytest.fixture(params=MODES)
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Run a server that lets clients hold little."""
    with target(tmp_path, request.param, GRPC_MAX_HELD_MB=str(HELD_MB)) as server:
        yield server


async def _store_large_value(server: Target) -> None:
    async with await server.peer() as peer:
        store = state_pb.EnsureStoreRequest(store="large")
        assert (await call(peer, STATE + "EnsureStore", store)).status == 0
        value = AnyMessage(type_url="x.Y", value=bytes(1_000_000))
        request = state_pb.SetRequest(store="large", key="a", value=value)
        assert (await call(peer, STATE + "Set", request)).status == 0


async def _attack(server: Target, stack: AsyncExitStack, kind: str) -> None:
    """Have the server hold 30 MB for a connection."""
    peer = await stack.enter_async_context(await server.peer(settings={0x4: 0}))
    with suppress(ConnectionError, SSLError):
        for _ in range(30):
            if kind == "answers":
                peer.request(STATE + "Get", GET)
            elif kind == "events":
                peer.request(EVENTS + "PublishStream", UNREAD, GZIP, end=False)
            elif not await peer.upload(peer.request(PUBLISH, None, end=False), prefixed(bytes(MIB))[:-1]):
                break
        await peer.pong()


@pytest.mark.parametrize("kind", ["answers", "requests", "events"])
async def test_what_clients_hold_is_bounded(narrow: Target, kind: str) -> None:
    """Who holds too many answers is dropped, further requests are refused; others do not notice."""
    await narrow.warm_up()
    await _store_large_value(narrow)
    before = narrow.memory
    narrow.forget_peak()
    async with AsyncExitStack() as stack, healthy(narrow) as client:
        for _ in range(5):
            await _attack(narrow, stack, kind)
            if kind == "answers":
                await _only_one_is_left(narrow)
    tell(f"{kind}: memory +{(narrow.peak - before) / MIB:.0f} MiB at most; a healthy client: {client}")
    assert ("clients hold too much memory" in narrow.process.err) == (kind == "answers")
    assert narrow.peak - before < 160 * MIB
    assert narrow.faults() == []


def _is_told(response: Response) -> bool:
    return bool(response.body) or response.ended


@pytest.mark.parametrize("held_mb", [400, 4], ids=["answered", "refused"])
async def test_streams_of_events_keep_nothing_of_the_past(tmp_path: Path, held_mb: int) -> None:
    """What has its results is not in memory while the call is open, nor is what there was no room for."""
    with target(tmp_path, MODES[0], GRPC_MAX_HELD_MB=str(held_mb)) as server:
        await server.warm_up()
        before = server.memory
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            for _ in range(40):
                peer = await stack.enter_async_context(await server.peer())
                response = peer.responses[peer.request(EVENTS + "PublishStream", TOLD, GZIP, end=False)]
                await peer.until(partial(_is_told, response))
                assert bool(response.body) == (held_mb != 4)  # or the connection was dropped
            assert server.memory - before < 60 * MIB
        assert server.faults() == []


async def test_consume_calls_count(narrow: Target) -> None:
    """Each keeps some kilobytes for as long as its client likes: of too many, connections are closed."""
    await narrow.warm_up()
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        peer = await stack.enter_async_context(await narrow.peer())
        consumer = pb.EnsureConsumerRequest(stream="warm", name="held")
        assert (await call(peer, EVENTS + "EnsureConsumer", consumer)).status == 0
        for _ in range(12):
            peer = await stack.enter_async_context(await narrow.peer())
            for _ in range(256):
                peer.request(CONSUME, SUBSCRIBE, end=False)
            await peer.pong()
        while "clients hold too much memory" not in narrow.process.err:  # noqa: ASYNC110 -- in another process
            await asyncio.sleep(0.05)
    assert narrow.faults() == []


async def test_tails_that_are_not_read(narrow: Target) -> None:
    """What has come for them is bounded for all together, and others are shown everything."""
    await narrow.warm_up()
    client = narrow.client()
    client.ensure_stream("tailed", "tailed.>")
    for _ in range(300):
        client.publish("tailed.a", "x" * 2_000)
    request = admin_pb.TailEventsRequest(stream="tailed")
    getattr(request, "from").start = True
    before = narrow.memory
    narrow.forget_peak()
    async with await narrow.peer(settings={0x4: 0}) as peer, healthy(narrow) as beside:
        for _ in range(50):
            for _ in range(5):
                tail = peer.request(ADMIN + "TailEvents", prefixed(request.SerializeToString()))
            await peer.until(lambda: bool(peer.responses[tail].headers))  # noqa: B023 - called at once
            assert await asyncio.to_thread(_tailed, client) == list(range(1, 301))
        assert not any(each.over for each in peer.responses.values())
    tell(f"memory +{(narrow.peak - before) / MIB:.0f} MiB at most; a healthy client: {beside}")
    assert narrow.peak - before < 45 * MIB
    assert narrow.faults() == []
    client.channel.close()


def _tailed(client: Client) -> list[int]:
    return looking.until_caught_up(looking.tail(client, "tailed", begin={"start": True}))


async def test_requests_without_events_are_not_kept(narrow: Target) -> None:
    """There are no results after which to let them go."""
    nothing = prefixed(delimited(1000, bytes(MIB)))
    large = pb.PublishEventRequest(subject="warm.up", data=AnyMessage(type_url="x.Y", value=bytes(MIB // 2)))
    async with await narrow.peer() as peer:
        stream = peer.request(EVENTS + "PublishStream", None, end=False)
        for _ in range(40):
            await peer.upload(stream, nothing)
        await peer.pong()
        assert (await call(peer, PUBLISH, large)).status == 0


async def _only_one_is_left(server: Target) -> None:
    """Wait until there is one connection beside the healthy client's."""
    async with asyncio.timeout(20):
        while server.metric("windshift_rpc_connections") > 2:  # noqa: ASYNC110 -- in another process
            await asyncio.sleep(0.05)
