"""The app has two connections to NATS; without the one to read with, calls should soon go elsewhere."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from tests.nats.fake_server import FakeServer, Peer, fake_server
from tests.nats.waiting import eventually
from windshift.rpc._gen.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from windshift.server.config.read import config_from_environment
from windshift.server.process.app import App
from windshift.server.telemetry.signals import Telemetry

MODULE = importlib.import_module("windshift.server.process.app")


class Gate:
    """Whether the broker takes connections."""

    def __init__(self) -> None:
        self.shut = False

    async def script(self, peer: Peer) -> None:
        """Serve, or hang up at once."""
        if self.shut:
            peer.abort()
            return
        await peer.greet()
        await peer.serve()


@asynccontextmanager
async def running(gate: Gate) -> AsyncIterator[tuple[App, FakeServer]]:
    """Run an app in front of a broker that says little."""
    async with fake_server(gate.script) as server:
        settings = {"NATS_URL": f"nats://{server.address}", "GRPC_PORT": "0", "HEALTH_PORT": "0"}
        config = config_from_environment(settings)
        app = App(config, config.nats.servers, Telemetry(config.telemetry))
        await app.start()
        try:
            yield app, server
        finally:
            await app.close()


async def test_no_connection_to_read_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short break is nothing; one that lasts is told, and is over with the next connection."""
    gate = Gate()
    async with running(gate) as (app, server):
        events, reads = server.peers
        assert b'"name":"windshift"' in events.heard
        assert b'"name":"windshift (reads)"' in reads.heard
        gate.shut = True
        reads.abort()
        await eventually(lambda: len(server.peers) > 3)
        assert app.readiness().reason is None
        monkeypatch.setattr(MODULE, "_UNHEARD", 0.0)
        assert app.readiness().reason == "no connection to NATS to read with"
        gate.shut = False
        await eventually(lambda: app.readiness().reason is None)


@pytest.mark.parametrize("lost", ["reads", "both"])
async def test_grpc_health_says_the_same(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once knew nothing of the second connection, and stayed NOT_SERVING when that came back last."""
    monkeypatch.setattr(MODULE, "_UNHEARD", 0.2)
    gate = Gate()
    async with running(gate) as (app, server), grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        said = aiter(watch(HealthCheckRequest(), timeout=60))
        assert (await anext(said)).status == HealthCheckResponse.SERVING
        gate.shut = True
        for peer in server.peers if lost == "both" else server.peers[1:]:
            peer.abort()
        assert (await anext(said)).status == HealthCheckResponse.NOT_SERVING
        await eventually(lambda: app.readiness().reason is not None)
        gate.shut = False
        await eventually(lambda: app.readiness().reason is None)
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        async with asyncio.timeout(30):
            while (await check(HealthCheckRequest())).status != HealthCheckResponse.SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
