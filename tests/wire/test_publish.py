"""Publishing, as a client in the field sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, any_of, refused
from tests.support.nats_server import NatsServer
from windshift.server.nats.jetstream import StoredMessage

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def stored(nats_server: NatsServer, stream: str, sequence: int) -> StoredMessage:
    """Look at an event as it lies in JetStream."""
    async with connect(nats_server.url) as broker:
        message = await broker.api.message(stream, {"seq": sequence}, in_seconds(5))
    assert message is not None
    return message


@pytest.mark.parametrize("method", ["PublishEvent", "Publish"])
def test_both_names_give_the_id(client: Client, unique: Unique, method: str) -> None:
    """Both method names store an event and give its id, which grows."""
    stream = client.ensure_stream(unique())
    assert [client.publish(f"{stream}.a", method=method) for _ in range(3)] == [1, 2, 3]


async def test_everything_given(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """Everything that a publish may hold lies in the stream as documented."""
    stream = client.ensure_stream(unique())
    client.publish(
        f"{stream}.a",
        "héllo",
        timestamp=Timestamp(seconds=1_700_000_000, nanos=1),
        idempotency_key="key",
        expected_last_id=0,
        metadata=(("traceparent", PARENT), ("tracestate", "a=1,b=2")),
    )
    message = await stored(nats_server, stream, 1)
    assert message.body == any_of("héllo").value
    headers = dict(message.headers)
    headers.pop("Nats-Expected-Last-Sequence")
    assert headers == {
        "WS-Data-Type": "windshift.test.v1.StringValue",
        "WS-Published-Time": "2023-11-14T22:13:20.000000001Z",
        "Nats-Msg-Id": "key",
        "WS-Trace-Parent": PARENT,
        "WS-Trace-State": "a=1,b=2",
    }


async def test_malformed_trace_is_dropped(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A malformed trace context is no error and goes no further."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", metadata=(("traceparent", "00-bad"), ("tracestate", "a=1")))
    assert set((await stored(nats_server, stream, 1)).headers) == {"WS-Data-Type", "WS-Published-Time"}


async def test_unknown_types_pass_untouched(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A type that nobody here knows, and bytes that are no message at all, are stored as they are."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", data=AnyMessage(type_url="x.example/acme.v9.Unknown", value=b"\xff\x00"))
    message = await stored(nats_server, stream, 1)
    assert (message.headers["WS-Data-Type"], message.body) == ("acme.v9.Unknown", b"\xff\x00")


async def test_empty_key_is_no_key(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """An empty idempotency key counts as absent."""
    stream = client.ensure_stream(unique())
    assert [client.publish(f"{stream}.a", idempotency_key="") for _ in range(2)] == [1, 2]
    assert "Nats-Msg-Id" not in (await stored(nats_server, stream, 1)).headers


def test_same_key_gives_the_first_id(client: Client, unique: Unique) -> None:
    """The same key in the same stream is stored once; another stream has keys of its own."""
    first, second = client.ensure_stream(unique()), client.ensure_stream(unique())
    assert client.publish(f"{first}.a", idempotency_key="k") == 1
    assert client.publish(f"{first}.a") == 2
    assert client.publish(f"{first}.b", idempotency_key="k") == 1
    assert client.publish(f"{second}.a", idempotency_key="k") == 1


def test_wrong_last_id(client: Client, unique: Unique) -> None:
    """A conditional publish that comes too late is aborted with both ids, and stores nothing."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", expected_last_id=0)
    for expected in (0, 2):
        with refused("ABORTED", "WRONG_LAST_ID") as caught:
            client.publish(f"{stream}.b", expected_last_id=expected)
        assert caught[0].metadata == {"expected": str(expected), "actual": "1"}
    assert client.publish(f"{stream}.b", expected_last_id=1) == 2


def test_repeat_of_a_conditional_publish(client: Client, unique: Unique) -> None:
    """A repeat with the same key of a conditional publish that was stored gives its id."""
    stream = client.ensure_stream(unique())
    assert client.publish(f"{stream}.a", expected_last_id=0, idempotency_key="k") == 1
    client.publish(f"{stream}.a")
    assert client.publish(f"{stream}.a", expected_last_id=0, idempotency_key="k") == 1


def test_unbound_subject(client: Client, unique: Unique) -> None:
    """A subject that no stream takes is a failed precondition that names it."""
    subject = unique()
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT") as caught:
        client.publish(subject)
    assert subject in caught[0].message


def test_stream_limit(client: Client, unique: Unique) -> None:
    """An event larger than the stream allows is refused with the limit."""
    stream = client.ensure_stream(unique(), max_event_size=300)
    client.publish(f"{stream}.a")
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        client.publish(f"{stream}.a", "x" * 300)
    assert caught[0].metadata == {"limit": "300"}


@pytest.mark.parametrize("size", [1024 * 1024 - 100, 1024 * 1024, 3 * 1024 * 1024, 6 * 1024 * 1024])
def test_broker_limit(client: Client, unique: Unique, size: int) -> None:
    """An event larger than the broker allows is refused, however large, and harms nobody else."""
    stream = client.ensure_stream(unique())
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE"):
        client.publish(f"{stream}.a", "x" * size)
    assert client.publish(f"{stream}.a", "x" * (1024 * 1024 - 200)) == 1


def test_full_stream(client: Client, unique: Unique) -> None:
    """A full stream that discards new events says that it is full."""
    stream = client.ensure_stream(unique(), retention_policy={"max_events": 1, "discard_policy": 2})
    client.publish(f"{stream}.a")
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL"):
        client.publish(f"{stream}.a")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("subject", {"subject": ""}),
        ("subject", {"subject": "a..b"}),
        ("subject", {"subject": "a.*"}),
        ("subject", {"subject": "a.>"}),
        ("subject", {"subject": "a b"}),
        ("subject", {"subject": "ä"}),
        ("subject", {"subject": "x" * 256}),
        ("subject", {"subject": "$JS.API.STREAM.DELETE.ORDERS"}),
        ("subject", {"subject": "$KV.cfg.key"}),
        ("subject", {"subject": "_INBOX.a"}),
        ("subject", {"subject": "_R_.a"}),
        ("subject", {"subject": "_WS.a"}),
        ("data", {"data": None}),
        ("data.type_url", {"data": AnyMessage()}),
        ("data.type_url", {"data": AnyMessage(type_url="type.googleapis.com/")}),
        ("data.type_url", {"data": AnyMessage(type_url="type.googleapis.com/a b")}),
        ("timestamp", {"timestamp": Timestamp(seconds=253_402_300_800)}),
        ("timestamp", {"timestamp": Timestamp(nanos=-1)}),
        ("idempotency_key", {"idempotency_key": " k"}),
        ("idempotency_key", {"idempotency_key": "k" * 257}),
        ("idempotency_key", {"idempotency_key": "é"}),
        ("expected_last_id", {"expected_last_id": 2**64 - 1}),
    ],
)
def test_invalid_fields(client: Client, field: str, given: dict[str, Any]) -> None:
    """A malformed field is an invalid argument that names it, twice: for machines and in a BadRequest."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.publish(**{"subject": "orders.a", **given})
    assert caught[0].metadata == {"field": field}
    assert caught[0].fields == (field,)


def test_broker_gone(own_client: Client, own_nats_server: NatsServer) -> None:
    """Without the broker a publish is unavailable before its deadline, and succeeds once it is back."""
    own_client.ensure_stream("S")
    own_nats_server.freeze()
    with refused("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN"):
        own_client.publish("S.a", timeout=0.5)
    own_nats_server.kill()
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        own_client.get("s", "a", timeout=0.5)  # by its end the server has noticed
    with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
        own_client.publish("S.a", timeout=0.5)
    own_nats_server.start()
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):  # the stream was in memory
        own_client.publish("S.a")


def test_too_many_in_flight(own_nats_server: NatsServer) -> None:
    """Beyond the configured bound a publish waits for its turn, and is told so when none comes."""
    with running_app(own_nats_server.url, NATS_PUBLISH_ASYNC_MAX_PENDING="1") as address:
        client = Client(address)
        client.ensure_stream("S")
        own_nats_server.freeze()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.publish, "S.a", timeout=2)
            time.sleep(0.2)  # nothing tells that it was sent
            with refused("RESOURCE_EXHAUSTED", "TOO_MANY_IN_FLIGHT"):
                client.publish("S.a", timeout=0.5)
            own_nats_server.thaw()
            assert first.result() == 1
        client.channel.close()
