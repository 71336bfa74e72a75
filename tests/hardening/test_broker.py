"""Calls that want more of the broker at once than it tolerates unread (64 MiB): it closes no connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.hardening.target import (
    CONSUME,
    EVENTS,
    STATE,
    Target,
    call,
    healthy,
    publish_request,
    target,
    tell,
)
from tests.rpc.frames import Peer, prefixed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb

LARGE = 1_000_000
AT_ONCE = 250
CONSUMERS = 90
NO_WINDOW = {0x4: 0}


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Target]:
    """Run a server that drops nobody for what he makes it hold."""
    with target(tmp_path, "plaintext", GRPC_MAX_HELD_MB="2000", LOG_LEVEL="info") as server:
        yield server


async def test_reads_of_large_values(roomy: Target) -> None:
    """All at once, of clients that read nothing and of those that go away: others publish meanwhile."""
    async with await roomy.peer() as peer:
        assert (await call(peer, STATE + "EnsureStore", state_pb.EnsureStoreRequest(store="s"))).status == 0
        value = AnyMessage(type_url="x.Y", value=bytes(LARGE))
        request = state_pb.SetRequest(store="s", key="a", value=value)
        assert (await call(peer, STATE + "Set", request)).status == 0
    get = prefixed(state_pb.GetRequest(store="s", key="a").SerializeToString())
    async with healthy(roomy) as client:
        for _ in range(3):
            async with await roomy.peer(settings=NO_WINDOW) as attacker:
                for _ in range(AT_ONCE):
                    attacker.request(STATE + "Get", get)
                await attacker.pong()
        async with await roomy.peer() as peer:
            assert (await call(peer, STATE + "Get", state_pb.GetRequest(store="s", key="a"))).status == 0
    tell(f"a healthy client: {client}")
    _is_not_cut_off(roomy)


async def test_a_large_event_for_many_consumers(roomy: Target) -> None:
    """All wait for it, and each gets it in its turn; none of them reads it."""
    async with await roomy.peer() as peer, await roomy.peer(settings=NO_WINDOW) as readers:
        stream = pb.EnsureStreamRequest(name="s", subjects=pb.EnsureStreamRequest.Subjects(subjects=["s.>"]))
        assert (await call(peer, EVENTS + "EnsureStream", stream)).status == 0
        for number in range(CONSUMERS):
            await _consume(peer, readers, f"c{number}")
        async with healthy(roomy) as client:
            large = publish_request("s.x", bytes(LARGE)).SerializeToString()
            assert (await call(peer, EVENTS + "Publish", large)).status == 0
            async with asyncio.timeout(60):
                while _delivered(roomy) < CONSUMERS:  # noqa: ASYNC110 -- in another process
                    await asyncio.sleep(0.3)
        tell(f"a healthy client: {client}")
        _is_not_cut_off(roomy)


async def _consume(peer: Peer, readers: Peer, name: str) -> None:
    ensure = pb.EnsureConsumerRequest(stream="s", name=name)
    assert (await call(peer, EVENTS + "EnsureConsumer", ensure)).status == 0
    subscribe = pb.EventsRequest.Subscribe(stream="s", consumer=name, max_processing_events=10)
    first = prefixed(pb.EventsRequest(subscribe=subscribe).SerializeToString())
    readers.request(CONSUME, first, end=False)


def _delivered(server: Target) -> float:
    """Return how many events were delivered; 0 where the server was too busy to tell in time."""
    try:
        return server.metric("windshift_events_delivered_total")
    except ConnectionError:
        return 0


def _is_not_cut_off(server: Target) -> None:
    assert server.metric("windshift_nats_reconnects_total") == 0
    assert "the connection ended" not in server.process.err
    assert server.faults() == []
