"""The table of methods, and how large their requests may be."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Final

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift.rpc import HealthService, Service, reflection_services
from windshift.rpc.service import UNLIMITED, snake_case
from windshift.server.api.admin import ADMIN
from windshift.server.api.dead_letters import DEAD_LETTERS, MOST_IDS
from windshift.server.api.events import EVENTS
from windshift.server.api.policies import (
    LARGEST_OF_DEAD_LETTERS,
    LARGEST_OF_EVENTS,
    LARGEST_OF_HEALTH,
    LARGEST_OF_TRANSACTIONS,
    LARGEST_REQUEST,
    POLICIES,
    NoPolicy,
    Quota,
    Weight,
    actions_of,
    policy_of,
)
from windshift.server.api.principals import PRINCIPALS
from windshift.server.api.sizes import limit_requests
from windshift.server.api.state import STATE
from windshift.server.domain.errors import InvalidField

CARRY_PAYLOADS = {
    "Publish": UNLIMITED,
    "PublishEvent": UNLIMITED,
    "PublishBatch": LARGEST_OF_EVENTS,
    "PublishStream": LARGEST_OF_EVENTS,
    "Set": UNLIMITED,
    "Transact": LARGEST_OF_TRANSACTIONS,
}


async def _handler(*_: object) -> None:
    """Do nothing."""


def service(descriptor: ServiceDescriptor) -> Service:
    """Return a service all of whose methods are there."""
    return Service(
        descriptor, SimpleNamespace(**{snake_case(each.name): _handler for each in descriptor.methods})
    )


def limits(of: Service) -> dict[str, int]:
    """Return the bytes that the requests of each method may have."""
    return {
        path.rpartition("/")[2]: limit_requests(UNLIMITED, method).max_message_size
        for path, method in of.methods.items()
    }


@pytest.mark.parametrize("descriptor", [EVENTS, STATE, DEAD_LETTERS, ADMIN], ids=lambda each: each.name)
def test_only_payloads_may_be_as_large_as_the_broker_takes(descriptor: ServiceDescriptor) -> None:
    """Every other request has a limit of its own."""
    largest = LARGEST_OF_DEAD_LETTERS if descriptor is DEAD_LETTERS else LARGEST_REQUEST
    found = limits(service(descriptor))
    assert found == {name: CARRY_PAYLOADS.get(name, largest) for name in found}
    assert len(found) == len(descriptor.methods)


async def test_probes_are_small() -> None:
    """Anybody may send them, and have the server keep what they hold for as long as they stay open."""
    assert set(limits(HealthService()).values()) == {LARGEST_OF_HEALTH}


async def test_the_table_is_what_the_server_has() -> None:
    """Each method is in it, and nothing else; nobody but probes is let in without being asked who it is."""
    answered = [*map(service, (EVENTS, STATE, DEAD_LETTERS, ADMIN, PRINCIPALS)), HealthService()]
    methods = [
        method for each in [*answered, *reflection_services(answered)] for method in each.methods.values()
    ]
    assert {method.path for method in methods} == POLICIES.keys()
    for method in methods:
        policy = policy_of(method.path)
        assert policy.identified == (not method.path.startswith("/grpc.health."))
        assert (policy.quota is Quota.OPEN_STREAMS) == (method.streaming and policy.identified)
        assert policy.carries_payload == (policy.max_size in CARRY_PAYLOADS.values())


@pytest.mark.parametrize("method", ["Replay", "Purge"])
def test_too_many_ids_are_not_even_read(method: str) -> None:
    """A request may hold ten thousands of them, by whoever may not touch one."""
    rule = policy_of(f"/windshift.deadletters.v1alpha1.DeadLettersService/{method}").rule
    ids = [f"S.c{number}.1.1" for number in range(MOST_IDS + 1)]
    request = getattr(dead_letters_pb, f"{method}Request")
    assert len(actions_of(rule, request(ids=ids[1:]))) == MOST_IDS
    with pytest.raises(InvalidField, match="ids: must have at most 1000 elements"):
        actions_of(rule, request(ids=ids))


def test_ids_of_dead_letters_ask_for_each_consumer_once() -> None:
    """Malformed ids, which are refused later, hide none of those that are well-formed."""
    ids = [
        "S.one.x.1",
        "S.one.1.1",
        "S.one.2.1",
        "S.one.2",
        "S.two.1.1",
        "S.one",
        "",
        "T.one.1.1",
        "S.two.2.x",
    ]
    rule = policy_of(f"/{DEAD_LETTERS.full_name}/Purge").rule
    asked = actions_of(rule, dead_letters_pb.PurgeRequest(ids=ids))
    assert [each.resource for each in asked] == ["S one", "S two", "T one"]


LOOKS: Final = re.compile(r"Get|List|Read|Tail|Explain|Summarize|History|Watch|WhoAmI|Check|ServerReflection")
SETTLES: Final = ("Events", "Consume")


def test_what_changes_something_is_unknown_when_it_is_cut_off() -> None:
    """All but what only looks, and consume calls, whose acknowledgements are confirmed one by one."""
    for path, policy in POLICIES.items():
        name = path.rpartition("/")[2]
        assert policy.writes == (LOOKS.match(name) is None and name not in SETTLES), path


def test_weights() -> None:
    """Whatever lasts, lists or changes weighs more than a call that asks the broker once or twice."""
    for policy in POLICIES.values():
        if policy.lasting:
            assert policy.weight is Weight.BULK
        elif policy.managed:
            assert policy.weight is Weight.CHANGE
        elif policy.publishes or not policy.identified:
            assert policy.weight is Weight.NONE


def test_a_method_that_is_not_in_the_table() -> None:
    """The error names it."""
    with pytest.raises(NoPolicy, match=r"/windshift\.tomorrow\.Service/Publish has no policy"):
        policy_of("/windshift.tomorrow.Service/Publish")
