"""A server with rules, shared between all tests of a worker that only look at answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.authorization.world import World, running_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run a server with the rules of the matrix, on a broker of its own."""
    with running_world(tmp_path_factory.mktemp("world")) as world:
        yield world
