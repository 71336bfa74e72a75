"""Fixtures for pytest: a real server for the session, and a client with a namespace of its own for each test.

pytest loads this module in every project that has the package, so it imports nothing that takes time. No
fixture is asynchronous: they work with pytest-asyncio, with anyio, and with neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator

import pytest

import windshift as ws

_SERVER = pytest.StashKey["ws.testing.Server"]()


@pytest.fixture(scope="session")
def windshift_options() -> ws.testing.Options:
    """Say what the server and its clients are; override it in a conftest.py."""
    return ws.testing.Options()


@pytest.fixture(scope="session")
def windshift_server(
    windshift_options: ws.testing.Options, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ws.testing.Server]:
    """Run a real server for the session; with pytest-xdist one for each worker."""
    server = ws.testing.Server(
        tmp_path_factory.mktemp("windshift"), environment=windshift_options.environment
    )
    with server:
        yield server


@pytest.fixture
def windshift(
    windshift_server: ws.testing.Server,
    windshift_options: ws.testing.Options,
    request: pytest.FixtureRequest,
) -> Iterator[ws.Client]:
    """Give a client whose names and subjects no other test has: `async with windshift as client`."""
    request.node.stash[_SERVER] = windshift_server
    arguments = {"namespace": f"t{secrets.token_hex(6)}", **windshift_options.connect}
    client = ws.connect(windshift_server.address, **arguments)
    yield client
    client.abort()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server logged beside a test that failed."""
    report = yield
    if report.failed and _SERVER in item.stash:
        report.sections.append(("log of the Windshift server", item.stash[_SERVER].logs))
    return report
