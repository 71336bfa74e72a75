"""The whole application, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.app import running_app
from tests.support.client import Client
from tests.support.nats_server import NatsServer


@pytest.fixture(scope="session")
def app_server(nats_server: NatsServer) -> Iterator[str]:
    """Share one server on the shared nats-server between all tests of a worker; give its ``host:port``."""
    with running_app(nats_server.url) as address:
        yield address


@pytest.fixture
def client(app_server: str) -> Iterator[Client]:
    """Connect a grpcio client to the shared server."""
    client = Client(app_server)
    yield client
    client.channel.close()


@pytest.fixture
def own_address(own_nats_server: NatsServer) -> Iterator[str]:
    """Run a server of the test's own, on the test's own nats-server; give its ``host:port``."""
    with running_app(own_nats_server.url) as address:
        yield address


@pytest.fixture
def own_client(own_address: str) -> Iterator[Client]:
    """Connect to a server of the test's own, on the test's own nats-server."""
    client = Client(own_address)
    yield client
    client.channel.close()
