"""A server on the shared nats-server, and a client in a namespace of its own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import windshift as ws
from tests.support.app import running_app
from tests.support.nats_server import NatsServer


@pytest.fixture(scope="session")
def server(nats_server: NatsServer) -> Iterator[str]:
    """Share one server between all tests of a worker; give its ``host:port``."""
    with running_app(nats_server.url) as address:
        yield address


@pytest.fixture
def unused_address() -> Iterator[str]:
    """Give the address of a port on which nobody listens; it is taken, so that nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def client(server: str, unique: Callable[[], str]) -> AsyncIterator[ws.Client]:
    """Connect to the shared server, in a namespace that no other test uses."""
    async with ws.connect(server, namespace=unique()) as client:
        yield client
