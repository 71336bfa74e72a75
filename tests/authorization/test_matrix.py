"""The authorization matrix: every method, asked by everybody, for what he may and what he may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.authorization.rows import (
    ALLOWED,
    DENIED,
    SERVICES,
    UNKNOWN,
    Row,
    path_of,
    play,
    services_told,
)
from tests.authorization.tables import admin, consumers, dead_letters, principals, publishing, state, streams
from tests.authorization.world import NOBODY, STRANGER, World, subscribe
from tests.support.client import any_of
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as principals_pb
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc._gen.grpc.health.v1 import health_pb2 as health_pb
from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2 as reflection_pb
from windshift.rpc._gen.grpc.reflection.v1alpha import reflection_pb2 as older_reflection_pb
from windshift.server.api.policies import POLICIES

Make = Callable[[World], Message]


def _stream(world: World) -> Message:
    name = world.name("base-")
    return events_pb.EnsureStreamRequest(name=name, subjects={"subjects": [f"base.{name}"]})


def _letter(kind: Any) -> Make:
    return lambda world: kind(ids=[world.letter("ann-1")])


def touched(world: World) -> str:
    """Set a key; give it."""
    world.admin.set("cfg", "touched")
    return "touched"


REQUESTS: dict[str, Message | Make] = {
    "EventsService/EnsureStream": _stream,
    "EventsService/EnsureConsumer": lambda world: events_pb.EnsureConsumerRequest(
        stream="SHOP", name=world.name("base-")
    ),
    "EventsService/GetConsumer": lambda world: events_pb.GetConsumerRequest(
        stream="SHOP", id=world.consumer("base-")
    ),
    "EventsService/DeleteConsumer": lambda world: events_pb.DeleteConsumerRequest(
        stream="SHOP", id=world.consumer("base-")
    ),
    "EventsService/PublishEvent": events_pb.PublishEventRequest(subject="orders.a", data=any_of("x")),
    "EventsService/Publish": events_pb.PublishEventRequest(subject="orders.a", data=any_of("x")),
    "EventsService/PublishBatch": events_pb.PublishBatchRequest(
        events=[{"subject": "orders.a", "data": any_of("x")}] * 2
    ),
    "EventsService/PublishStream": events_pb.PublishStreamRequest(
        events=[{"subject": "orders.a", "data": any_of("x")}] * 2
    ),
    "EventsService/Events": lambda world: subscribe("SHOP", world.consumer("base-")),
    "EventsService/Consume": lambda world: subscribe("SHOP", world.consumer("base-")),
    "StateService/EnsureStore": lambda world: state_pb.EnsureStoreRequest(store=world.name("base-")),
    "StateService/Get": state_pb.GetRequest(store="cfg", key="billing.a"),
    "StateService/Set": state_pb.SetRequest(store="cfg", key="billing.a", value=any_of("x")),
    "StateService/Touch": lambda world: state_pb.TouchRequest(store="cfg", key=touched(world)),
    "StateService/ListStores": state_pb.ListStoresRequest(),
    "StateService/DeleteStore": lambda world: state_pb.DeleteStoreRequest(store=state.drop(world)),
    "StateService/ListKeys": state_pb.ListKeysRequest(store="cfg"),
    "StateService/History": state_pb.HistoryRequest(store="cfg", key="billing.a"),
    "StateService/Watch": state_pb.WatchRequest(store="cfg"),
    "StateService/Transact": state_pb.TransactRequest(
        store="cfg", writes=[{"key": "billing.both", "set": {"value": any_of("x")}}]
    ),
    "StateService/Delete": state_pb.DeleteRequest(store="cfg", key="billing.gone"),
    "DeadLettersService/List": dead_letters_pb.ListRequest(),
    "DeadLettersService/Get": lambda world: dead_letters_pb.GetRequest(id=world.letter("ann-1")),
    "DeadLettersService/Replay": _letter(dead_letters_pb.ReplayRequest),
    "DeadLettersService/CancelReplay": _letter(dead_letters_pb.CancelReplayRequest),
    "DeadLettersService/Summarize": dead_letters_pb.SummarizeRequest(
        by=[dead_letters_pb.SummarizeRequest.BY_CAUSE]
    ),
    "DeadLettersService/Purge": _letter(dead_letters_pb.PurgeRequest),
    "DeadLettersService/Watch": dead_letters_pb.WatchRequest(existing=True),
    "AdminService/GetServer": admin_pb.GetServerRequest(),
    "AdminService/WhoAmI": admin_pb.WhoAmIRequest(),
    "AdminService/ListServers": admin_pb.ListServersRequest(),
    "AdminService/ListStreams": admin_pb.ListStreamsRequest(),
    "AdminService/GetStream": admin_pb.GetStreamRequest(name="SHOP"),
    "AdminService/ListSubjects": admin_pb.ListSubjectsRequest(stream="SHOP"),
    "AdminService/PurgeStream": admin_pb.PurgeStreamRequest(stream="SPARE", up_to_id=1),
    "AdminService/DeleteStream": lambda world: admin_pb.DeleteStreamRequest(name=admin.spare(world)),
    "AdminService/GetEvent": admin_pb.GetEventRequest(stream="SHOP", id=1),
    "AdminService/ReadEvents": admin_pb.ReadEventsRequest(stream="SHOP"),
    "AdminService/TailEvents": admin_pb.TailEventsRequest(stream="SHOP"),
    "AdminService/DeleteEvent": lambda world: admin_pb.DeleteEventRequest(
        stream="SPARE", id=world.admin.publish("spare.x")
    ),
    "AdminService/ExplainEvent": admin_pb.ExplainEventRequest(stream="SHOP", id=1),
    "AdminService/ListConsumers": admin_pb.ListConsumersRequest(stream="SHOP"),
    "AdminService/ListSubscriptions": admin_pb.ListSubscriptionsRequest(),
    "AdminService/PauseConsumer": admin.pausing("base-"),
    "AdminService/SeekConsumer": admin.seeking("base-"),
    "AdminService/GetHistory": admin_pb.GetHistoryRequest(streams=["SHOP"], consumers=["SHOP/ann-1"]),
    "PrincipalsService/ListPrincipals": principals_pb.ListPrincipalsRequest(),
    "PrincipalsService/EndConnections": principals_pb.EndConnectionsRequest(principal="exact"),
    "Health/Check": health_pb.HealthCheckRequest(),
    "Health/List": health_pb.HealthListRequest(),
    "Health/Watch": health_pb.HealthCheckRequest(),
    "ServerReflection/ServerReflectionInfo": reflection_pb.ServerReflectionRequest(list_services=""),
    "ServerReflectionAlpha/ServerReflectionInfo": older_reflection_pb.ServerReflectionRequest(
        list_services=""
    ),
}
"""A request of every method, for which a principal that may do everything is let through."""


_OPEN_TO_KNOWN = (
    "ServerReflection",
    "StateService/ListStores",
    "AdminService/ListStreams",
    "AdminService/GetServer",
    "AdminService/WhoAmI",
    "AdminService/GetHistory",
)
"""Methods that any known caller may ask; lists leave out what it may not see."""


def _base() -> Iterator[Row]:
    """Give rows of every method by everybody."""
    for method, request in REQUESTS.items():
        open_to_all, open_to_known = method.startswith("Health/"), method.startswith(_OPEN_TO_KNOWN)
        for who, answer in (
            (NOBODY, ALLOWED if open_to_all else UNKNOWN),
            (STRANGER, ALLOWED if open_to_all else UNKNOWN),
            ("nothing", ALLOWED if open_to_all or open_to_known else DENIED),
            ("refused", ALLOWED if open_to_all or open_to_known else DENIED),
            ("all", ALLOWED),
        ):
            yield Row(method, who, request, answer)


ROWS = [
    *_base(), *publishing.ROWS, *streams.ROWS, *consumers.ROWS, *state.ROWS, *dead_letters.ROWS, *admin.ROWS,
    *principals.ROWS,
]  # fmt: skip


@pytest.mark.parametrize("method", sorted({row.method for row in ROWS}))
def test_rows(world: World, method: str) -> None:
    """A call is answered as the rules say, and has its effect, or none."""
    play(world, [row for row in ROWS if row.method == method])


def test_size() -> None:
    """The matrix is as large as was promised, and no row stands in it twice."""
    assert len(ROWS) >= 1979
    assert len({str(row) for row in ROWS}) == len(ROWS)


def test_every_method_has_rows_and_a_rule(world: World) -> None:
    """A method of a served service that nobody has thought of is found here."""
    names = {descriptor.full_name: name for name, descriptor in SERVICES.items()}
    served = list(services_told(world.admin))
    assert len(served) == len(SERVICES)
    for service in served:
        for method in service.methods:
            assert path_of(method) in POLICIES
            called = f"{names[service.full_name]}/{method.name}"
            asked = {row.who for row in ROWS if row.method == called}
            assert asked >= {NOBODY, STRANGER, "nothing", "refused", "all"}, called


def test_no_rule_is_left_over(world: World) -> None:
    """Every rule is one of a method that is served."""
    served = {path_of(method) for service in services_told(world.admin) for method in service.methods}
    assert POLICIES.keys() == served
