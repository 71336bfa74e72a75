"""Waiting for what has no event, and who serves a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from tests.support.broker import Broker
from tests.support.nats_server import NatsServer
from windshift.nats import Connection
from windshift.nats.wire import Wire


async def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def wire_of(broker: Broker) -> Wire:
    """Return the present wire of a connection that is up."""
    wire = broker.connection._wire
    assert wire is not None
    return wire


def serving(broker: Broker, *servers: NatsServer) -> NatsServer:
    """Say which of the servers the connection is to."""
    port = wire_of(broker).server.port
    return next(server for server in servers if server.port == port)


async def moved(connection: Connection) -> None:
    """Have a connection go to its next server, as one does whose server is about to stop; see it leave."""
    wire = connection._wire
    assert wire is not None
    wire.info = replace(wire.info, ldm=True)
    connection.wire_informed(wire)
    await eventually(lambda: connection._wire is not wire and not connection._left)
