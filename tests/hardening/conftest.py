"""Servers to attack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.hardening.target import MODES, Target, target

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run clients on uvloop: they have to be quick to be a burden."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=MODES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Run a server of the test's own, once in plaintext and once with TLS."""
    with target(tmp_path, request.param) as running:
        yield running


@pytest.fixture(scope="module", params=MODES)
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Share a server between the tests of a module; none of them may leave it in another state."""
    with target(tmp_path_factory.mktemp("server"), request.param) as running:
        yield running
