"""Publishing several events with one call, as a client in the field sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import EVENTS, Client, any_of, refused
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def an_event(subject: str, text: str = "text", **fields: Any) -> pb.PublishEventRequest:
    """Make an event."""
    return pb.PublishEventRequest(subject=subject, **{"data": any_of(text), **fields})


def publish(
    client: Client, *events: pb.PublishEventRequest, atomic: bool = False, timeout: float = 20, **options: Any
) -> pb.PublishBatchResponse:
    """Publish events with one call."""
    request = pb.PublishBatchRequest(events=events, atomic=atomic)
    response: pb.PublishBatchResponse = client.call(
        EVENTS.methods_by_name["PublishBatch"], request, timeout, **options
    )
    return response


def last_id(client: Client, stream: str) -> int:
    """Tell how many events were ever stored in a stream."""
    return client.publish(f"{stream}.last") - 1


def stream(client: Client, unique: Unique, **options: Any) -> str:
    """Ensure a stream of its own."""
    return client.ensure_stream(unique(), **options)


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_order(client: Client, unique: Unique, count: int, atomic: bool) -> None:
    """Events are stored in their order, and each has its id."""
    name = stream(client, unique)
    client.publish(f"{name}.before")
    response = publish(client, *(an_event(f"{name}.{number}") for number in range(count)), atomic=atomic)
    assert list(response.ids) == list(range(2, count + 2))
    assert not response.errors
    assert not response.duplicates


@pytest.mark.parametrize("atomic", [False, True])
async def test_everything_given(
    client: Client, nats_server: NatsServer, unique: Unique, atomic: bool
) -> None:
    """Everything that events may hold lies in the stream as documented, as of a publish of one."""
    name = stream(client, unique)
    events = [an_event(f"{name}.a", "héllo", idempotency_key=f"key-{number}") for number in range(2)]
    for event in events:
        event.timestamp.FromSeconds(1_700_000_000)
    await asyncio.to_thread(publish, client, *events, atomic=atomic, metadata=(("traceparent", PARENT),))
    async with connect(nats_server.url) as broker:
        message = await broker.api.message(name, {"seq": 2}, in_seconds(30))
    assert message is not None
    assert message.body == any_of("héllo").value
    headers = {key: value for key, value in message.headers if not key.startswith(b"Nats-Batch")}
    assert headers == {
        b"WS-Data-Type": b"windshift.test.v1.StringValue",
        b"WS-Published-Time": b"2023-11-14T22:13:20.000000000Z",
        b"Nats-Msg-Id": b"key-1",
        b"WS-Trace-Parent": PARENT.encode(),
    }


def test_each_for_itself(client: Client, unique: Unique) -> None:
    """What cannot be published is told by index; all the rest is stored."""
    name = stream(client, unique, max_event_size=100_000)
    client.publish(f"{name}.a", idempotency_key="known")
    response = publish(
        client,
        an_event(f"{name}.a"),
        an_event(f"{name}.*"),
        an_event(f"{name}.a", idempotency_key="known"),
        an_event("nobody.takes.this"),
        an_event(f"{name}.a", expected_last_id=2),
        an_event(f"{name}.a", expected_last_id=2),
        an_event(f"{name}.a", "x" * 100_001),
        an_event(f"{name}.a", "x" * 2_000_000),
        pb.PublishEventRequest(subject=f"{name}.a"),
        an_event(f"{name}.a"),
    )
    assert list(response.ids) == [2, 0, 1, 0, 3, 0, 0, 0, 0, 4]
    assert list(response.duplicates) == [2]
    errors = []
    for error in response.errors:
        metadata = dict(error.metadata)
        assert error.message.endswith(metadata.pop("hint", ""))
        errors.append((error.index, error.code, error.reason, metadata))
    assert errors == [
        (1, 3, "INVALID_FIELD", {"field": "subject"}),
        (3, 9, "UNBOUND_SUBJECT", {"subject": "nobody.takes.this"}),
        (5, 10, "WRONG_LAST_ID", {"expected": "2", "actual": "3"}),
        (6, 3, "EVENT_TOO_LARGE", {"limit": "100000", "name": name}),
        (7, 3, "EVENT_TOO_LARGE", {"limit": str(2**20)}),
        (8, 3, "INVALID_FIELD", {"field": "data"}),
    ]
    assert all(error.message for error in response.errors)


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("count", [0, 1001])
def test_number_of_events(client: Client, count: int, atomic: bool) -> None:
    """A batch has 1 to 1,000 events."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        publish(client, *(an_event("orders.a") for _ in range(count)), atomic=atomic)
    assert caught[0].fields == ("events",)


def test_size(client: Client, unique: Unique) -> None:
    """A request may have 8 MiB, and not more."""
    name = stream(client, unique)
    events = [an_event(f"{name}.a", "x" * 1_000_000) for _ in range(8)]
    assert list(publish(client, *events).ids) == list(range(1, 9))
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        publish(client, *events, an_event(f"{name}.a", "x" * 1_000_000))
    assert caught[0].metadata == {"limit": str(8 * 2**20)}


@pytest.mark.parametrize(
    ("bad", "reason", "metadata"),
    [
        ({"subject": "a..b"}, "INVALID_FIELD", {"field": "events[1].subject"}),
        ({"data": AnyMessage()}, "INVALID_FIELD", {"field": "events[1].data.type_url"}),
        ({"idempotency_key": " "}, "INVALID_FIELD", {"field": "events[1].idempotency_key"}),
        ({"expected_last_id": 0}, "INVALID_FIELD", {"field": "events[1].expected_last_id"}),
        ({"expected_last_id": 2**63}, "INVALID_FIELD", {"field": "events[1].expected_last_id"}),
        ({"data": any_of("x" * 2_000_000)}, "EVENT_TOO_LARGE", {"limit": "100000"}),
        ({"data": any_of("x" * 100_001)}, "EVENT_TOO_LARGE", {"limit": "100000"}),
        ({"subject": "nobody.takes.this"}, "UNSUPPORTED_COMBINATION", {}),
    ],
)
def test_none_at_all(
    client: Client, unique: Unique, bad: dict[str, Any], reason: str, metadata: dict[str, str]
) -> None:
    """If one event of an atomic batch cannot be stored, the call says which, and nothing is."""
    name = stream(client, unique, max_event_size=100_000)
    with refused("INVALID_ARGUMENT", reason) as caught:
        publish(
            client,
            an_event(f"{name}.a"),
            an_event(**{"subject": f"{name}.a", **bad}),
            an_event(f"{name}.a"),
            atomic=True,
        )
    assert caught[0].metadata == metadata | {"index": "1"}
    assert last_id(client, name) == 0


def test_larger_than_the_broker_takes(client: Client, unique: Unique) -> None:
    """An event of an atomic batch that the broker would not take is told as one of a stream's limit is."""
    name = stream(client, unique)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        publish(client, an_event(f"{name}.a"), an_event(f"{name}.a", "x" * 2_000_000), atomic=True)
    assert caught[0].metadata == {"limit": str(2**20), "index": "1"}


def test_nobody_takes_an_atomic_batch(client: Client) -> None:
    """An atomic batch of subjects that no stream takes is refused as an event is."""
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):
        publish(client, an_event("nobody.takes.this"), an_event("nobody.takes.this"), atomic=True)


def test_single_atomic_event(client: Client, unique: Unique) -> None:
    """An atomic batch of one event is an event: its key may be known."""
    name = stream(client, unique)
    event = an_event(f"{name}.a", idempotency_key="key")
    assert list(publish(client, event, atomic=True).ids) == [1]
    again = publish(client, event, atomic=True)
    assert (list(again.ids), list(again.duplicates)) == ([1], [0])
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT") as caught:
        publish(client, an_event("nobody.takes.this"), atomic=True)
    assert caught[0].metadata == {"subject": "nobody.takes.this", "index": "0"}


def test_expectations_of_an_atomic_batch(client: Client, unique: Unique) -> None:
    """An event expects the last id just before it, wherever it is in the batch."""
    name = stream(client, unique)
    client.publish(f"{name}.a")
    good = publish(
        client,
        an_event(f"{name}.a"),
        an_event(f"{name}.b", expected_last_id=2),
        an_event(f"{name}.c"),
        atomic=True,
    )
    assert list(good.ids) == [2, 3, 4]
    with refused("ABORTED", "WRONG_LAST_ID") as caught:
        publish(client, an_event(f"{name}.a"), an_event(f"{name}.b", expected_last_id=2), atomic=True)
    assert caught[0].metadata == {"expected": "2", "actual": "5", "index": "1"}
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        publish(
            client,
            an_event(f"{name}.a", expected_last_id=4),
            an_event(f"{name}.b", expected_last_id=4),
            atomic=True,
        )
    assert caught[0].fields == ("events[1].expected_last_id",)
    assert last_id(client, name) == 4


@pytest.mark.parametrize("expected", [None, 1])
def test_repeat_of_an_atomic_batch(client: Client, unique: Unique, expected: int | None) -> None:
    """The repeat of a batch whose events all have keys gives their ids, also if it had an expectation."""
    name = stream(client, unique)
    client.publish(f"{name}.a")
    events = [an_event(f"{name}.a", idempotency_key=f"key-{number}") for number in range(100)]
    if expected is not None:
        events[0].expected_last_id = expected
    first = publish(client, *events, atomic=True)
    client.publish(f"{name}.a")
    again = publish(client, *events, atomic=True)
    assert list(again.ids) == list(first.ids) == list(range(2, 102))
    assert list(again.duplicates) == list(range(100))
    assert last_id(client, name) == 102


def test_known_key_in_an_atomic_batch(client: Client, unique: Unique) -> None:
    """A batch that is new but for one key is refused, and says which event that is."""
    name = stream(client, unique)
    client.publish(f"{name}.a", idempotency_key="known")
    with refused("ALREADY_EXISTS", "DUPLICATE_EVENT") as caught:
        publish(client, an_event(f"{name}.a"), an_event(f"{name}.a", idempotency_key="known"), atomic=True)
    assert caught[0].metadata == {"id": "1", "index": "1"}
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        publish(client, *(an_event(f"{name}.a", idempotency_key="twice") for _ in range(2)), atomic=True)
    assert caught[0].fields == ("events[1].idempotency_key",)
    assert last_id(client, name) == 1


def test_stream_without_atomic_batches(client: Client, unique: Unique) -> None:
    """A stream takes atomic batches unless it is ensured without; what is left out stays."""
    name = stream(client, unique, atomic_batches=False)
    events = [an_event(f"{name}.a"), an_event(f"{name}.a")]
    for _ in range(2):
        with refused("FAILED_PRECONDITION", "NOT_ALLOWED_BY_STREAM") as caught:
            publish(client, *events, atomic=True)
        assert caught[0].metadata == {"subject": f"{name}.a", "setting": "atomic_batches"}
        client.ensure_stream(name)
    assert list(publish(client, *events).ids) == [1, 2]
    client.ensure_stream(name, atomic_batches=True)
    assert list(publish(client, *events, atomic=True).ids) == [3, 4]


def test_changed_stream(client: Client, unique: Unique) -> None:
    """What a stream takes since it was changed an atomic batch may have at once."""
    name = stream(client, unique, max_event_size=1000)
    events = [an_event(f"{name}.a"), an_event(f"{name}-more")]
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION") as caught:
        publish(client, *events, atomic=True)
    assert caught[0].metadata["index"] == "1"
    client.ensure_stream(name, f"{name}.>", f"{name}-more", max_event_size=1000)
    assert list(publish(client, *events, atomic=True).ids) == [1, 2]
    events.append(an_event(f"{name}.a", "x" * 2000))
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        publish(client, *events, atomic=True)
    assert caught[0].metadata["index"] == "2"
    client.ensure_stream(name, f"{name}.>", f"{name}-more", max_event_size=4000)
    assert list(publish(client, *events, atomic=True).ids) == [3, 4, 5]


def test_full_stream(client: Client, unique: Unique) -> None:
    """A full stream refuses an atomic batch as a whole, and events one by one."""
    policy = {"max_events": 3, "discard_policy": "DISCARD_POLICY_NEW"}
    name = stream(client, unique, retention_policy=policy)
    events = [an_event(f"{name}.a") for _ in range(4)]
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL"):
        publish(client, *events, atomic=True)
    response = publish(client, *events)
    assert list(response.ids) == [1, 2, 3, 0]
    assert [(error.index, error.code, error.reason) for error in response.errors] == [(3, 8, "STREAM_FULL")]


@pytest.mark.parametrize("atomic", [False, True])
def test_few_in_flight(own_nats_server: NatsServer, unique: Unique, atomic: bool) -> None:
    """A batch needs no more at once than publishes may be under way, and many at once come through."""
    with running_app(own_nats_server.url, NATS_PUBLISH_ASYNC_MAX_PENDING="3") as address:
        client = Client(address)
        name = client.ensure_stream(unique())
        events = [an_event(f"{name}.a") for _ in range(50)]
        calls = [
            client.channel.unary_unary(
                "/windshift.events.v1alpha1.EventsService/PublishBatch",
                request_serializer=pb.PublishBatchRequest.SerializeToString,
                response_deserializer=pb.PublishBatchResponse.FromString,
            ).future(pb.PublishBatchRequest(events=events, atomic=atomic), timeout=30)
            for _ in range(10)
        ]
        assert sorted(each for call in calls for each in call.result().ids) == list(range(1, 501))
        client.channel.close()
