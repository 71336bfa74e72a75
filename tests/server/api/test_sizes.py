"""How large requests may be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from windshift.rpc import HealthService, Service
from windshift.rpc.service import snake_case
from windshift.server.api.dead_letters import DEAD_LETTERS
from windshift.server.api.events import EVENTS
from windshift.server.api.sizes import (
    LARGEST_OF_DEAD_LETTERS,
    LARGEST_OF_HEALTH,
    LARGEST_REQUEST,
    limit_sizes,
)
from windshift.server.api.state import STATE

CARRY_PAYLOADS = {"Publish", "PublishEvent", "Set"}


async def _handler(*_: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize("descriptor", [EVENTS, STATE, DEAD_LETTERS], ids=lambda each: each.name)
def test_only_payloads_may_be_as_large_as_the_broker_takes(descriptor: ServiceDescriptor) -> None:
    """Every other request, a new one too, has a limit of its own."""
    handlers = {snake_case(method.name): _handler for method in descriptor.methods}
    service = Service(descriptor, SimpleNamespace(**handlers))
    limit_sizes(service)
    largest = LARGEST_OF_DEAD_LETTERS if descriptor is DEAD_LETTERS else LARGEST_REQUEST
    limits = {path.rpartition("/")[2]: each.max_message_size for path, each in service.methods.items()}
    assert limits == {name: None if name in CARRY_PAYLOADS else largest for name in limits}
    assert len(limits) == len(descriptor.methods)


async def test_probes_are_small() -> None:
    """Anybody may send them, and have the server keep what they hold for as long as they stay open."""
    service = HealthService()
    limit_sizes(service)
    assert {each.max_message_size for each in service.methods.values()} == {LARGEST_OF_HEALTH}
