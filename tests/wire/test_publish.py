"""Publishing, as a client in the field sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, any_of, read_refusal, refused, refused_in_time, text_of
from tests.support.nats_server import NatsServer
from tests.wire.management import ensure_stream
from windshift.nats import headers as h
from windshift.nats.jetstream.api import StoredMessage

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def stored(nats_server: NatsServer, stream: str, sequence: int) -> StoredMessage:
    """Look at an event as it lies in JetStream."""
    async with connect(nats_server.url) as broker:
        message = await broker.api.message(stream, {"seq": sequence}, in_seconds(30))
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
    assert len(headers) == len(message.headers)
    headers.pop(b"Nats-Expected-Last-Sequence")
    assert headers == {
        b"WS-Data-Type": b"windshift.test.v1.StringValue",
        b"WS-Published-Time": b"2023-11-14T22:13:20.000000001Z",
        b"Nats-Msg-Id": b"key",
        b"WS-Trace-Parent": PARENT.encode(),
        b"WS-Trace-State": b"a=1,b=2",
    }


async def test_malformed_trace_is_dropped(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A malformed trace context is no error and goes no further."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", metadata=(("traceparent", "00-bad"), ("tracestate", "a=1")))
    names = [name for name, _ in (await stored(nats_server, stream, 1)).headers]
    assert names == [b"WS-Data-Type", b"WS-Published-Time"]


async def test_trace_state_in_parts(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A trace state that comes in several headers is one, in their order."""
    stream = client.ensure_stream(unique())
    states = (("tracestate", "a=1,b=2"), ("tracestate", "c=3"))
    client.publish(f"{stream}.a", metadata=(("traceparent", PARENT), *states))
    assert (b"WS-Trace-State", b"a=1,b=2,c=3") in (await stored(nats_server, stream, 1)).headers


@pytest.mark.parametrize(
    ("type_url", "name"),
    [
        ("x.example/acme.v9.Unknown", "acme.v9.Unknown"),
        ("acme.v9.Unknown", "acme.v9.Unknown"),
        ("/a", "a"),
        ("//a.B", "a.B"),
        ("https://x.example/types/v 1/_a._1", "_a._1"),
        ("x/" + "a" * 1024, "a" * 1024),
    ],
)
async def test_unknown_types_pass_untouched(
    client: Client, nats_server: NatsServer, unique: Unique, type_url: str, name: str
) -> None:
    """What follows the last slash names the type, be it known or not; the bytes are stored as they are."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", data=AnyMessage(type_url=type_url, value=b"\xff\x00"))
    message = await stored(nats_server, stream, 1)
    assert (h.get(message.block, b"WS-Data-Type"), message.body) == (name.encode(), b"\xff\x00")


@pytest.mark.parametrize(
    "type_url",
    [
        "",
        "/",
        "x/",
        "x/a.B/",
        "a.",
        ".a",
        "a..B",
        "1a",
        "a.1B",
        "a b",
        " a",
        "a ",
        "ä",
        "a-B",
        "x/" + "a" * 1025,
    ],
)
def test_type_names(client: Client, type_url: str) -> None:
    """A type URL that does not end in the full name of a message is refused."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.publish("orders.a", data=AnyMessage(type_url=type_url))
    assert caught[0].fields == ("data.type_url",)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (Timestamp(seconds=-62_135_596_800), "0001-01-01T00:00:00.000000000Z"),
        (Timestamp(seconds=-1, nanos=999_999_999), "1969-12-31T23:59:59.999999999Z"),
        (Timestamp(), "1970-01-01T00:00:00.000000000Z"),
        (Timestamp(seconds=253_402_300_799, nanos=999_999_999), "9999-12-31T23:59:59.999999999Z"),
    ],
)
async def test_any_time(
    client: Client, nats_server: NatsServer, unique: Unique, moment: Timestamp, text: str
) -> None:
    """Every time that Protobuf knows is stored in UTC, with nanoseconds."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.a", timestamp=moment)
    assert (b"WS-Published-Time", text.encode()) in (await stored(nats_server, stream, 1)).headers


@pytest.mark.parametrize("key", ["k", "~", "!", "a b", "k" * 256, "k" + " " * 254 + "k"])
async def test_any_key(client: Client, nats_server: NatsServer, unique: Unique, key: str) -> None:
    """Printable ASCII is a key, with spaces inside, up to 256 characters."""
    stream = client.ensure_stream(unique())
    assert [client.publish(f"{stream}.a", idempotency_key=key) for _ in range(2)] == [1, 1]
    assert (b"Nats-Msg-Id", key.encode()) in (await stored(nats_server, stream, 1)).headers


def test_a_key_is_forgotten_after_the_window(client: Client, unique: Unique) -> None:
    """The same key stores another event once the deduplication window has passed."""
    stream = client.ensure_stream(unique(), deduplication_window=Duration(nanos=100_000_000))
    first = client.publish(f"{stream}.a", idempotency_key="k")
    give_up = time.monotonic() + 10
    while (again := client.publish(f"{stream}.a", idempotency_key="k")) == first:
        assert time.monotonic() < give_up
    assert again == first + 1


async def test_empty_key_is_no_key(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """An empty idempotency key counts as absent."""
    stream = client.ensure_stream(unique())
    assert [client.publish(f"{stream}.a", idempotency_key="") for _ in range(2)] == [1, 2]
    assert h.get((await stored(nats_server, stream, 1)).block, h.MESSAGE_ID) is None


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
    for expected in (0, 2, 2**31, 2**63 - 1):
        with refused("ABORTED", "WRONG_LAST_ID") as caught:
            client.publish(f"{stream}.b", expected_last_id=expected)
        assert caught[0].metadata == {"expected": str(expected), "actual": "1"}
    assert client.publish(f"{stream}.b", expected_last_id=1) == 2


async def test_the_last_id_outlives_a_purge(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """What was purged or deleted was stored nevertheless: 0 is right only where nothing ever was."""
    stream = client.ensure_stream(unique())
    assert [client.publish(f"{stream}.{subject}") for subject in "ab"] == [1, 2]
    async with connect(nats_server.url) as broker:
        await broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    with refused("ABORTED", "WRONG_LAST_ID") as caught:
        client.publish(f"{stream}.a", expected_last_id=0)
    assert caught[0].metadata == {"expected": "0", "actual": "2"}
    assert client.publish(f"{stream}.a", expected_last_id=2) == 3


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


async def test_unbound_subject_that_somebody_listens_to(
    client: Client, nats_server: NatsServer, unique: Unique
) -> None:
    """Other programs that listen to a subject make no stream of it, nor a store."""
    subject, store = unique(), unique()
    async with connect(nats_server.url) as listening:
        listening.connection.subscribe(subject.encode(), lambda _: None)
        listening.connection.subscribe(f"$KV.{store}.>".encode(), lambda _: None)
        assert await listening.requests.round_trip(in_seconds(30)) is not None
        publishing = asyncio.to_thread(client.publish, subject, timeout=10)
        setting = asyncio.to_thread(client.set, store, "a", timeout=10)
        outcomes = await asyncio.gather(publishing, setting, return_exceptions=True)
    refusals = [read_refusal(outcome) for outcome in outcomes]
    assert [(refusal.code, refusal.reason) for refusal in refusals] == [
        ("FAILED_PRECONDITION", "UNBOUND_SUBJECT"),
        ("NOT_FOUND", "STORE_NOT_FOUND"),
    ]


def test_stream_limit(client: Client, unique: Unique) -> None:
    """An event larger than the stream allows is refused with the limit."""
    stream = client.ensure_stream(unique(), max_event_size=300)
    client.publish(f"{stream}.a")
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        client.publish(f"{stream}.a", "x" * 300)
    assert caught[0].metadata == {"limit": "300", "name": stream}


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
        ("subject", {"subject": "$JS.API.STREAM.DELETE.ORDERS"}),
        ("data", {"data": None}),
        ("data.type_url", {"data": AnyMessage()}),
        ("timestamp", {"timestamp": Timestamp(seconds=-62_135_596_801)}),
        ("timestamp", {"timestamp": Timestamp(seconds=253_402_300_800)}),
        ("timestamp", {"timestamp": Timestamp(seconds=2**63 - 1)}),
        ("timestamp", {"timestamp": Timestamp(nanos=-1)}),
        ("timestamp", {"timestamp": Timestamp(nanos=1_000_000_000)}),
        ("idempotency_key", {"idempotency_key": " "}),
        ("idempotency_key", {"idempotency_key": " k"}),
        ("idempotency_key", {"idempotency_key": "k "}),
        ("idempotency_key", {"idempotency_key": "k\n"}),
        ("idempotency_key", {"idempotency_key": "a\tb"}),
        ("idempotency_key", {"idempotency_key": "\x7f"}),
        ("idempotency_key", {"idempotency_key": "é"}),
        ("idempotency_key", {"idempotency_key": "k" * 257}),
        ("expected_last_id", {"expected_last_id": 2**63}),
        ("expected_last_id", {"expected_last_id": 2**64 - 1}),
    ],
)
def test_invalid_fields(client: Client, field: str, given: dict[str, Any]) -> None:
    """A malformed field is an invalid argument that names it, twice: for machines and in a BadRequest."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        client.publish(**{"subject": "orders.a", **given})
    assert caught[0].metadata == {"field": field}
    assert caught[0].fields == (field,)


async def test_not_repeated_without_a_key(own_client: Client, own_nats_server: NatsServer) -> None:
    """A publish without a key that the broker did not answer in time may be stored, but not twice."""
    own_client.ensure_stream("S")
    own_nats_server.freeze()
    with refused("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN"):
        own_client.publish("S.a", timeout=3)
    own_nats_server.thaw()
    assert own_client.publish("S.b") == 2
    assert (await stored(own_nats_server, "S", 1)).subject == "S.a"


def test_landing_late(own_client: Client, own_nats_server: NatsServer) -> None:
    """What was said to be unknown may be stored later; a repeat with the key then gives that id."""
    own_client.ensure_stream("S")
    own_client.ensure_store("s")
    own_nats_server.freeze()
    for timeout in (0.05, 0.5):
        with pytest.raises(grpc.RpcError) as caught:
            own_client.publish("S.a", timeout=timeout, idempotency_key="k", expected_last_id=0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as caught:
            own_client.set("s", "a", "late", timeout=timeout)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    own_nats_server.thaw()
    assert own_client.publish("S.a", idempotency_key="k", expected_last_id=0) == 1
    assert own_client.publish("S.b") == 2
    assert own_client.publish("S.a", idempotency_key="k", expected_last_id=0) == 1
    assert text_of(own_client.get("s", "a").value) == "late"


def test_repeated_with_a_key(own_client: Client, own_nats_server: NatsServer) -> None:
    """A publish with a key goes on until its deadline, and is stored once."""
    ensure_stream(own_client, "S")
    with ThreadPoolExecutor(1) as pool:
        own_nats_server.freeze()
        publishing = pool.submit(own_client.publish, "S.a", timeout=20, idempotency_key="k")
        time.sleep(0.2)  # nothing tells that it was sent
        own_nats_server.kill()
        own_nats_server.start()
        first = publishing.result()
    assert own_client.publish("S.a", idempotency_key="k") == first == 1


def test_broker_gone(own_client: Client, own_nats_server: NatsServer) -> None:
    """Without the broker a publish is unavailable before its deadline, and succeeds once it is back."""
    own_client.ensure_stream("S")
    own_nats_server.freeze()

    def publish(seconds: float) -> None:
        own_client.publish("S.a", timeout=seconds)

    refused_in_time("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN", publish)
    own_nats_server.kill()
    # By the end of a read the server has noticed.
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", lambda seconds: own_client.get("s", "a", seconds))
    refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", publish)
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
            first = pool.submit(client.publish, "S.a", timeout=30)
            time.sleep(0.2)  # nothing tells that it was sent
            refused_in_time(
                "RESOURCE_EXHAUSTED",
                "TOO_MANY_IN_FLIGHT",
                lambda seconds: client.publish("S.a", timeout=seconds),
            )
            own_nats_server.thaw()
            assert first.result() == 1
        client.channel.close()
