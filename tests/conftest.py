"""Fixtures that every test may use: a real nats-server, a connection to it, names that nobody else has."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.broker import Broker, connect
from tests.support.cluster import running_cluster
from tests.support.nats_server import NatsServer

# A busy machine makes no example wrong.
settings.register_profile("windshift", deadline=None, max_examples=50)
settings.load_profile("windshift")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three workers on two cores: tests wait for about as long as they work."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector ten thousand tests, which are there to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what was logged and is no UTF-8: the worker that ran the test could not send it."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Share one nats-server between all tests of a worker. Leave it running: see `own_nats_server`."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    """Share a cluster of three nats-servers between the tests of a worker that ask for one."""
    with running_cluster(lambda: tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Give a test a nats-server that it may stop, kill, freeze and start again."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    """Connect to the shared nats-server."""
    async with connect(nats_server.url) as broker:
        yield broker


@pytest.fixture
async def own_broker(own_nats_server: NatsServer) -> AsyncIterator[Broker]:
    """Connect to the test's own nats-server."""
    async with connect(own_nats_server.url) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[], str]:
    """Make names for streams, stores and subjects that no other test uses."""
    return lambda: f"t{secrets.token_hex(6)}"
