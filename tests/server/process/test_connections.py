"""The app has two connections to NATS; without the one to read with, calls should soon go elsewhere."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from tests.nats.fake_server import Peer, fake_server
from tests.nats.waiting import eventually
from windshift.server.config import config_from_environment
from windshift.server.process.app import App
from windshift.server.telemetry.signals import Telemetry

MODULE = importlib.import_module("windshift.server.process.app")


async def test_no_connection_to_read_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short break is nothing; one that lasts is told, and is over with the next connection."""
    refuses = asyncio.Event()

    async def script(peer: Peer) -> None:
        if refuses.is_set():
            peer.abort()
            return
        await peer.greet()
        await peer.serve()

    async with fake_server(script) as server:
        settings = {"NATS_URL": f"nats://{server.address}", "GRPC_PORT": "0", "HEALTH_PORT": "0"}
        config = config_from_environment(settings)
        app = App(config, config.nats.servers, Telemetry(config.telemetry))
        await app.start()
        try:
            events, reads = server.peers
            assert b'"name":"windshift"' in events.heard
            assert b'"name":"windshift (reads)"' in reads.heard
            refuses.set()
            reads.abort()
            await eventually(lambda: len(server.peers) > 3)
            assert app.readiness().reason is None
            monkeypatch.setattr(MODULE, "_UNHEARD", 0.0)
            assert app.readiness().reason == "no connection to NATS to read with"
            refuses.clear()
            await eventually(lambda: app.readiness().reason is None)
        finally:
            await app.close()
