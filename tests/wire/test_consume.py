"""Consuming, as a client in the field sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, text_of
from tests.support.nats_server import NatsServer
from tests.wire.consuming import Call, calling, delete_consumer, ensure_consumer, seconds, subscribed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def publish(client: Client, stream: str, count: int = 1, text: str = "text") -> None:
    """Publish events."""
    for _ in range(count):
        client.publish(f"{stream}.x", text)


async def consumer_state(nats_server: NatsServer, stream: str, *names: str) -> tuple[int, ...]:
    """Read numbers of the consumer from the broker."""
    async with connect(nats_server.url) as broker:
        info = await broker.api.call(f"CONSUMER.INFO.{stream}.c", None, in_seconds(30))
    return tuple(int(info[name]) for name in names)


def pending(nats_server: NatsServer, stream: str) -> int:
    """Count the deliveries that the broker sees as unsettled."""
    return asyncio.run(consumer_state(nats_server, stream, "num_ack_pending"))[0]


def pending_in_the_end(nats_server: NatsServer, stream: str) -> int:
    """Count them when there are some, and for half a second no more."""
    looks = [0]
    for _ in range(60):
        looks.append(pending(nats_server, stream))
        if looks[-1] == looks[-2] > 0:
            break
        time.sleep(0.5)
    return looks[-1]


# Deliveries


def test_batches(client: Client, stream: str) -> None:
    """A response carries several events for clients that ask for it; each is settled on its own."""
    publish(client, stream, 200)
    for max_batch in (0, 1, 2, 100, 1_000):
        name = ensure_consumer(client, stream, f"c{max_batch}")
        with calling(client) as call:
            call.subscribe(stream, name, 1_000, max_batch=max_batch)
            ids = [event.id for event in call.events(200)]
            call.ack(*ids[::2])
            call.reject(*ids[1::2], permanently=True)
            assert call.told() == ("ack", ids[::2], [], [])
            assert call.told() == ("reject", ids[1::2], [], [])
        if max_batch > 1:
            assert call.batches  # the broker sends hundreds at once
            assert all(2 <= size <= max_batch for size in call.batches)
        else:
            assert call.batches == []


def test_large_events_in_batches(client: Client, stream: str) -> None:
    """No batch is larger than what clients take by default."""
    publish(client, stream, 12, "x" * 500_000)
    with calling(client) as call:
        call.subscribe(stream, "c", 100, max_batch=1_000)
        events = call.events(12)
        call.ack(*(event.id for event in events))
        assert len(call.told()[1]) == 12
    assert all(size <= 2 for size in call.batches)


@pytest.mark.parametrize("method", ["Events", "Consume"])
def test_both_names_consume(client: Client, stream: str, method: str) -> None:
    """Both method names deliver, take acks and confirm them."""
    publish(client, stream)
    with calling(client, method) as call:
        assert call.subscribe(stream, "c") == 30
        event = call.event()
        call.ack(event.id)
        assert call.told() == ("ack", [1], [], [])


def test_everything_that_an_event_holds(client: Client, stream: str) -> None:
    """Id, subject, data, time, key, trace and attempt arrive as they were published."""
    first = client.publish(
        f"{stream}.a.b",
        "héllo",
        timestamp=Timestamp(seconds=1_700_000_000, nanos=1),
        idempotency_key="key",
        metadata=(("traceparent", PARENT), ("tracestate", "a=1")),
    )
    second = client.publish(f"{stream}.c")
    with subscribed(client, stream) as call:
        event, plain = call.events(2)
    assert (event.id, plain.id) == (first, second) == (1, 2)
    assert (event.subject, event.delivery_attempt, text_of(event.data)) == (f"{stream}.a.b", 1, "héllo")
    assert event.data.type_url == "type.googleapis.com/windshift.test.v1.StringValue"
    assert event.headers.timestamp == Timestamp(seconds=1_700_000_000, nanos=1)
    assert event.headers.idempotency_key == "key"
    assert (event.headers.trace_parent, event.headers.trace_state) == (PARENT, "a=1")
    assert abs(plain.headers.timestamp.seconds - time.time()) < 60
    for field in ("idempotency_key", "trace_parent", "trace_state"):
        assert not plain.headers.HasField(field)


async def test_what_other_programs_publish(client: Client, stream: str, nats_server: NatsServer) -> None:
    """Without headers, or with unreadable ones, an event has the broker's time and no type name."""
    async with connect(nats_server.url) as broker:
        for headers in (None, {"WS-Published-Time": "soon", "WS-Data-Type": "x.Y"}):
            await broker.publish(f"{stream}.x", b"\xff\x00", headers)
    with subscribed(client, stream) as call:
        plain, odd = call.events(2)
    assert (plain.data.type_url, plain.data.value) == ("type.googleapis.com/", b"\xff\x00")
    assert odd.data.type_url == "type.googleapis.com/x.Y"
    for event in (plain, odd):
        assert abs(event.headers.timestamp.seconds - time.time()) < 60


def test_the_epoch_is_a_time(client: Client, stream: str) -> None:
    """An event of 1970-01-01T00:00:00Z has a timestamp, not none."""
    client.publish(f"{stream}.x", timestamp=Timestamp())
    with subscribed(client, stream) as call:
        event = call.event()
    assert event.headers.HasField("timestamp")
    assert event.headers.timestamp == Timestamp()


@pytest.mark.parametrize(("window", "count"), [(None, 50), (0, 50), (1, 1), (60, 60)])
def test_the_window(
    client: Client, stream: str, nats_server: NatsServer, window: int | None, count: int
) -> None:
    """At most so many events are unsettled; without a number 50."""
    publish(client, stream, 70)
    with subscribed(client, stream, window) as call:
        call.events(count)
        call.nothing()
        assert pending(nats_server, stream) == count
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
        assert call.event().id == count + 1


# Settling


def test_every_command_has_one_confirmation_in_order(client: Client, stream: str) -> None:
    """Each id stands in one list, once."""
    publish(client, stream, 3)
    with subscribed(client, stream) as call:
        call.events(3)
        call.ack(1, 1, 9)
        call.ping(2, 1)
        call.reject(3, delay=seconds(60))
        call.ack()
        call.ack(3, 2)
        assert [call.told() for _ in range(5)] == [
            ("ack", [1], [9], []),
            ("ping", [2], [1], []),
            ("reject", [3], [], []),
            ("ack", [], [], []),
            ("ack", [2], [3], []),
        ]


def test_redelivery_after_the_timeout(client: Client, stream: str) -> None:
    """An event that is neither settled nor pinged in time comes again, and its first delivery is void."""
    ensure_consumer(client, stream, timeout=0.9)
    publish(client, stream)
    with subscribed(client, stream, 1) as holder, subscribed(client, stream) as other:
        first = next(call for call in [holder, other] if _has_event(call))
        second = other if first is holder else holder
        again, where = _next_of(second, first)
        assert (again.id, again.delivery_attempt) == (1, 2)
        if where is second:
            first.ack(1)
            assert first.told() == ("ack", [], [1], [])
        where.ack(1)
        assert where.told() == ("ack", [1], [], [])


def _has_event(call: Call) -> bool:
    try:
        call.event(0.3)
    except AssertionError:
        return False
    return True


def _next_of(*calls: Call) -> tuple[pb.Event, Call]:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        for call in calls:
            try:
                return call.event(0.02), call
            except AssertionError:
                pass
    raise AssertionError("no event")


def test_rejects(client: Client, stream: str) -> None:
    """Soon, at once, after a delay, or never again."""
    publish(client, stream)
    with subscribed(client, stream) as call:
        call.event()
        call.reject(1)
        assert call.told() == ("reject", [1], [], [])
        assert call.event(10).delivery_attempt == 2
        call.reject(1, delay=seconds(0))
        assert call.event(10).delivery_attempt == 3
        before = time.monotonic()
        call.reject(1, delay=seconds(0.5))
        assert call.event(10).delivery_attempt == 4
        assert time.monotonic() - before >= 0.5
        call.reject(1, permanently=True)
        for _ in range(3):
            assert call.told() == ("reject", [1], [], [])
        call.nothing(0.5)


def test_pings(client: Client, stream: str) -> None:
    """A pinged event stays with its subscriber for as long as it takes."""
    ensure_consumer(client, stream, timeout=1.0)
    publish(client, stream)
    with subscribed(client, stream) as call:
        call.event()
        for _ in range(6):
            time.sleep(0.33)
            call.ping(1)
            assert call.told() == ("ping", [1], [], [])
        call.nothing(0.05)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])


# Several subscribers and servers


def test_servers_share_a_consumer(client: Client, stream: str, nats_server: NatsServer) -> None:
    """Subscribers of two servers get different events of the same consumer."""
    with running_app(nats_server.url) as elsewhere:
        other = Client(elsewhere)
        with subscribed(client, stream, 10) as here, subscribed(other, stream, 10) as there:
            publish(client, stream, 20)
            seen = [event.id for call in (here, there) for event in call.events(10)]
            assert sorted(seen) == list(range(1, 21))
        other.channel.close()


# How calls end


def test_half_close(client: Client, stream: str) -> None:
    """Outstanding confirmations go out, the call ends with OK, and the rest is released."""
    publish(client, stream, 30)
    with subscribed(client, stream, 30) as call:
        call.events(30)
        call.ack(*range(1, 21))
        call.half_close()
        assert call.end() is None
        assert call.told() == ("ack", list(range(1, 21)), [], [])
    with subscribed(client, stream) as other:
        assert sorted((e.id, e.delivery_attempt) for e in other.events(10)) == [(i, 2) for i in range(21, 31)]


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_vanished_client(client: Client, app_server: str, stream: str, how: str) -> None:
    """Its events go to another subscriber long before their timeout of 30 seconds."""
    publish(client, stream, 20)
    leaving = Client(app_server)
    with subscribed(leaving, stream, 20) as call:
        call.events(20)
        with subscribed(client, stream) as other:
            if how == "cancel":
                call.cancel()
            else:
                leaving.channel.close()
            events = [other.event(within=10) for _ in range(20)]
    assert sorted((event.id, event.delivery_attempt) for event in events) == [(i, 2) for i in range(1, 21)]
    leaving.channel.close()


def test_a_deleted_consumer(client: Client, stream: str) -> None:
    """Every subscriber's call ends with NOT_FOUND."""
    with subscribed(client, stream) as one, subscribed(client, stream) as two:
        delete_consumer(client, stream)
        for call in (one, two):
            refusal = call.end()
            assert refusal is not None
            assert (refusal.code, refusal.reason) == ("NOT_FOUND", "CONSUMER_NOT_FOUND")
            assert refusal.metadata == {"name": "c"}


def test_a_drain(stream: str, client: Client, nats_server: NatsServer) -> None:
    """A server that stops ends its calls with UNAVAILABLE; their events go to others at once."""
    publish(client, stream, 3)
    with running_app(nats_server.url) as elsewhere:
        call = Call(Client(elsewhere))
        call.subscribe(stream, "c")
        call.events(3)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
    refusal = call.end()
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
    with subscribed(client, stream) as other:
        assert {(event.id, event.delivery_attempt) for event in other.events(2)} == {(2, 2), (3, 2)}
    call.cancel()


# Mistakes


def refused(call: Call) -> tuple[str, str, tuple[str, ...]]:
    """Return how a call was refused."""
    refusal = call.end()
    assert refusal is not None
    return refusal.code, refusal.reason, refusal.fields


@pytest.mark.parametrize("kind", ["ack", "ping", "reject"])
def test_the_first_message_must_subscribe(client: Client, kind: str) -> None:
    """Anything else ends the call."""
    with calling(client) as call:
        call.say(**{kind: {"ids": [1]}})
        assert refused(call) == ("INVALID_ARGUMENT", "SUBSCRIBE_EXPECTED", ())


def test_a_call_without_a_message(client: Client) -> None:
    """A client that says nothing has not subscribed either."""
    with calling(client) as call:
        call.half_close()
        assert refused(call) == ("INVALID_ARGUMENT", "SUBSCRIBE_EXPECTED", ())


def test_a_second_subscribe(client: Client, stream: str) -> None:
    """One call is one subscription."""
    with subscribed(client, stream) as call:
        call.say(subscribe={"stream": stream, "consumer": "c"})
        assert refused(call) == ("INVALID_ARGUMENT", "ALREADY_SUBSCRIBED", ())


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "request"),
        ({"reject": {"ids": [1], "permanently": True, "delay": {}}}, "reject.delay"),
        ({"reject": {"ids": [1], "delay": {"seconds": -1}}}, "reject.delay"),
        ({"reject": {"ids": [1], "delay": {"seconds": 1, "nanos": -1}}}, "reject.delay"),
        ({"reject": {"ids": [1], "delay": {"nanos": 1_000_000_000}}}, "reject.delay"),
        ({"reject": {"ids": [1], "delay": {"seconds": 315_576_000_000}}}, "reject.delay"),
        ({"ack": {"ids": range(10_001)}}, "ack.ids"),
        ({"ping": {"ids": range(10_001)}}, "ping.ids"),
        ({"reject": {"ids": range(10_001)}}, "reject.ids"),
        ({"reject": {"ids": [1], "action": 4}}, "reject.action"),
        ({"reject": {"ids": [1], "action": 1, "permanently": True}}, "reject.action"),
        ({"reject": {"ids": [1], "action": 2, "delay": {"seconds": 1}}}, "reject.delay"),
        ({"reject": {"ids": [1], "action": 3, "delay": {}}}, "reject.delay"),
    ],
)
def test_malformed_commands(client: Client, stream: str, said: dict[str, object], field: str) -> None:
    """They end the call, after the confirmations of what came before."""
    with subscribed(client, stream) as call:
        call.ack(7)
        call.say(**said)
        assert refused(call) == ("INVALID_ARGUMENT", "INVALID_FIELD", (field,))
        assert call.told() == ("ack", [], [7], [])


@pytest.mark.parametrize(
    ("subscribe", "field"),
    [
        ({"consumer": "c"}, "subscribe.stream"),
        ({"stream": "a.b", "consumer": "c"}, "subscribe.stream"),
        ({"stream": "s"}, "subscribe.consumer"),
        ({"stream": "s", "consumer": "*"}, "subscribe.consumer"),
        (
            {"stream": "s", "consumer": "c", "max_processing_events": 10_001},
            "subscribe.max_processing_events",
        ),
        ({"stream": "s", "consumer": "c", "max_batch": 1_001}, "subscribe.max_batch"),
        ({"stream": "s", "consumer": "c", "max_message_size": 16_383}, "subscribe.max_message_size"),
    ],
)
def test_malformed_subscriptions(client: Client, subscribe: dict[str, object], field: str) -> None:
    """Names and the window are checked first."""
    with calling(client) as call:
        call.say(subscribe=subscribe)
        assert refused(call) == ("INVALID_ARGUMENT", "INVALID_FIELD", (field,))


def test_what_is_missing(client: Client, stream: str, unique: Unique) -> None:
    """The error names what does not exist."""
    missing = unique()
    for where, consumer, reason in (
        (missing, "c", "STREAM_NOT_FOUND"),
        (stream, missing, "CONSUMER_NOT_FOUND"),
    ):
        with calling(client) as call:
            call.say(subscribe={"stream": where, "consumer": consumer})
            refusal = call.end()
            assert refusal is not None
            assert (refusal.code, refusal.reason) == ("NOT_FOUND", reason)
            assert refusal.metadata == {"name": missing}


def test_a_client_that_does_not_read(
    client: Client, app_server: str, stream: str, nats_server: NatsServer
) -> None:
    """It is handed little more than its gRPC window takes, and others go on."""
    publish(client, stream, 100, text="x" * 10_000)
    stalled = Client(app_server)
    stalled.channel = grpc.insecure_channel(app_server, options=[("grpc.http2.bdp_probe", 0)])
    with calling(stalled, reads=False) as slow:
        slow.say(subscribe={"stream": stream, "consumer": "c", "max_processing_events": 100})
        held = pending_in_the_end(nats_server, stream)
        assert 0 < held <= 40
        with subscribed(client, stream, 100) as other:
            for event in other.events(100 - held):
                other.ack(event.id)
            slow.read()
            assert len({event.id for event in slow.events(held)}) == held
    stalled.channel.close()
