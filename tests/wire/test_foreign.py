"""Events that other programs published into the same streams, as a client in the field sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.server.events.consuming import make_consumer
from tests.support.broker import Broker
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.wire.consuming import calling, ensure_consumer, subscribed
from tests.wire.raw import Published, publish_raw
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]

PREFIX = "type.googleapis.com/"


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def delivered(client: Client, nats_server: NatsServer, stream: str, *messages: Published) -> list[pb.Event]:
    """Publish messages as they are, and consume them."""
    publish_raw(nats_server, *messages)
    with subscribed(client, stream, len(messages)) as call:
        return call.events(len(messages))


def is_now(moment: Timestamp) -> bool:
    """Tell whether a time is the broker's."""
    return abs(moment.seconds - time.time()) < 60


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [b"X: y"],
        [b"ws-data-type: a.B"],
        [b"WS-Data-Type:"],
        [b"Status: 100", b"Description: Idle Heartbeat"],
        [b"no colon"],
    ],
)
@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"x" * 100_000])
def test_without_our_headers(
    client: Client, nats_server: NatsServer, stream: str, headers: list[bytes] | None, body: bytes
) -> None:
    """Whatever it is, it is delivered: the broker's time, no type, no key, no trace, and the bytes."""
    (event,) = delivered(client, nats_server, stream, Published(f"{stream}.x", body, headers))
    assert (event.id, event.subject, event.delivery_attempt) == (1, f"{stream}.x", 1)
    assert (event.data.type_url, event.data.value) == (PREFIX, body)
    assert is_now(event.headers.timestamp)
    for field in ("idempotency_key", "trace_parent", "trace_state"):
        assert not event.headers.HasField(field)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (b"2024-02-29T23:59:59Z", Timestamp(seconds=1_709_251_199)),
        (b"2024-02-29T23:59:59.5Z", Timestamp(seconds=1_709_251_199, nanos=500_000_000)),
        (b"2024-02-29T23:59:59.123456789+05:30", Timestamp(seconds=1_709_231_399, nanos=123_456_789)),
        (b"2024-02-29T23:59:59.000001-00:01", Timestamp(seconds=1_709_251_259, nanos=1_000)),
        (b"0001-01-01T00:00:00Z", Timestamp(seconds=-62_135_596_800)),
        (b"2024-02-29T23:59:59.1234567891Z", None),
        (b"2024-02-30T00:00:00Z", None),
        (b"2024-02-29 23:59:59", None),
        (b"0000-01-01T00:00:00Z", None),
        (b"9999-12-31T23:59:59-00:01", None),
        (b"1709251199", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_times(
    client: Client, nats_server: NatsServer, stream: str, text: bytes, moment: Timestamp | None
) -> None:
    """A time may have any offset and up to nine digits; an unreadable one gives way to the broker's."""
    message = Published(f"{stream}.x", b"", [b"WS-Published-Time: " + text])
    (event,) = delivered(client, nats_server, stream, message)
    if moment is None:
        assert is_now(event.headers.timestamp)
    else:
        assert event.headers.timestamp == moment


def test_headers_as_they_are_stored(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Type, key and trace are shown as they lie there, be they well-formed or not."""
    odd = Published(
        f"{stream}.x",
        b"",
        [
            "WS-Data-Type: sch\u00f6n/und gut".encode(),
            b"Nats-Msg-Id: " + b"k" * 1000,
            b"WS-Trace-Parent: not W3C",
            b"WS-Trace-State:a=1",
        ],
    )
    broken = Published(f"{stream}.x", b"", [b"WS-Data-Type: \xff", b"WS-Trace-Parent: \xfe", b"\xfd: 1"])
    first, second = delivered(client, nats_server, stream, odd, broken)
    assert first.data.type_url == f"{PREFIX}sch\u00f6n/und gut"
    assert first.headers.idempotency_key == "k" * 1000
    assert (first.headers.trace_parent, first.headers.trace_state) == ("not W3C", "a=1")
    assert second.data.type_url == f"{PREFIX}\ufffd"
    assert second.headers.trace_parent == "\ufffd"


@pytest.mark.parametrize("last", [b"\xff\xfe", "ö".encode(), b"*", b">", b"$a", b"\x01", b"l" * 2000])
def test_subjects_that_we_would_refuse(
    client: Client, nats_server: NatsServer, stream: str, last: bytes
) -> None:
    """The broker takes any subject; the event is delivered and settled, and so is the next one."""
    odd = Published(stream.encode() + b"." + last, b"odd", None)
    publish_raw(nats_server, odd, Published(f"{stream}.x", b"next", None))
    with subscribed(client, stream) as call:
        event, following = call.events(2)
        assert event.subject == f"{stream}.{last.decode(errors='replace')}"
        assert (event.data.value, following.data.value) == (b"odd", b"next")
        call.ack(1, 2)
        assert call.told() == ("ack", [1, 2], [], [])


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch": 9},
        {"max_expires": 10**9},
        {"max_bytes": 1000},
        {"priority_groups": ["a"], "priority_policy": "pinned_client"},
        {"ack_policy": "all"},
    ],
)
async def test_consumers_that_would_stay_silent(
    client: Client, broker: Broker, stream: str, limits: dict[str, Any]
) -> None:
    """A consumer whose limits a call's requests would break is refused: its client would get nothing."""
    await make_consumer(broker, stream, "odd", **limits)
    with calling(client) as call:
        call.say(subscribe={"stream": stream, "consumer": "odd", "max_processing_events": 10})
        refusal = call.end()
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION")
    assert "'odd' was made by another program" in refusal.message


async def test_consumers_with_limits(client: Client, broker: Broker, stream: str) -> None:
    """Limits that the requests of a call keep are fine."""
    limits: dict[str, Any] = {
        "max_batch": 10,
        "max_expires": 60 * 10**9,
        "max_bytes": 2**20,
        "max_deliver": 3,
    }
    await make_consumer(broker, stream, "fine", **limits)
    for _ in range(12):
        client.publish(f"{stream}.x")
    with subscribed(client, stream, 10, consumer="fine") as call:
        call.ack(*(event.id for event in call.events(10)))
        assert [event.id for event in call.events(2)] == [11, 12]


@pytest.mark.parametrize(
    "line", [b"NATS/1.0 503", b"NATS/1.0 409 Consumer Deleted", b"NATS/1.0 100 Idle", b"HELLO"]
)
def test_status_lines(client: Client, nats_server: NatsServer, stream: str, line: bytes) -> None:
    """A message that looks like a word of the broker is an event like any other."""
    publish_raw(nats_server, Published(f"{stream}.x", b"", [], line), Published(f"{stream}.x", b"x", None))
    with subscribed(client, stream) as call:
        assert [event.id for event in call.events(2)] == [1, 2]
        call.ack(1, 2)
        assert call.told() == ("ack", [1, 2], [], [])
