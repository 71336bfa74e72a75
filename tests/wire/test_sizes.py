"""How large events may be, as a client in the field sees it. Headers count, as they do for the broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream, stored_stream

Unique = Callable[[], str]

MIB = 1024 * 1024
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PLAIN: dict[str, Any] = {"timestamp": Timestamp(seconds=1_700_000_000)}
FULL: dict[str, Any] = {
    **PLAIN,
    "idempotency_key": "k" * 256,
    "expected_last_id": 0,
    "metadata": (("traceparent", PARENT), ("tracestate", "a=1")),
}
PLAIN_HEADERS = len(
    "NATS/1.0\r\nWS-Data-Type: x.Y\r\nWS-Published-Time: 2023-11-14T22:13:20.000000000Z\r\n\r\n"
)
FULL_HEADERS = PLAIN_HEADERS + len(
    f"Nats-Msg-Id: {'k' * 256}\r\n"
    "Nats-Expected-Last-Sequence: 0\r\n"
    f"WS-Trace-Parent: {PARENT}\r\n"
    "WS-Trace-State: a=1\r\n"
)

EVENTS = pytest.mark.parametrize(
    ("fields", "headers"), [(PLAIN, PLAIN_HEADERS), (FULL, FULL_HEADERS)], ids=["plain", "full"]
)


def publish(client: Client, subject: str, size: int, fields: dict[str, Any]) -> int:
    """Publish an event with a body of so many bytes."""
    return client.publish(subject, data=AnyMessage(type_url="x.Y", value=bytes(size)), **fields)


@EVENTS
@pytest.mark.parametrize("limit", [FULL_HEADERS, 1000, 70_000])
def test_limit_of_the_stream(
    client: Client, unique: Unique, fields: dict[str, Any], headers: int, limit: int
) -> None:
    """An event of exactly `max_event_size` is stored, one byte more is refused with the limit."""
    stream = client.ensure_stream(unique(), max_event_size=limit)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        publish(client, f"{stream}.a", limit - headers + 1, fields)
    assert caught[0].metadata == {"limit": str(limit), "name": stream}
    assert publish(client, f"{stream}.a", limit - headers, fields) == 1


@EVENTS
def test_limit_of_the_broker(
    own_client: Client, own_nats_server: NatsServer, fields: dict[str, Any], headers: int
) -> None:
    """An event as large as the broker takes is stored and delivered; larger ones never reach it.

    The broker would end the connection over one, and with it everybody else's calls.
    """
    own_client.ensure_stream("S", max_event_size=2**31 - 1)
    ensure_consumer(own_client, "S")
    with subscribed(own_client, "S") as call:
        for size in (MIB - headers + 1, MIB, MIB + 1, 4 * MIB, 6 * MIB):
            with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
                publish(own_client, "S.a", size, fields)
            assert caught[0].metadata == {"limit": str(MIB)}
        assert publish(own_client, "S.a", MIB - headers, fields) == 1
        assert len(call.event().data.value) == MIB - headers
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
    assert "Maximum Payload" not in own_nats_server.log


def test_a_broker_with_another_limit(tmp_path: Path) -> None:
    """What counts is the limit of the broker that is there, above and below gRPC's own defaults."""
    for number, limit in enumerate((64 * 1024, 8 * MIB)):
        directory = tmp_path / str(number)
        directory.mkdir()
        config = directory / "config"
        config.write_text(f"max_payload: {limit}")
        server = NatsServer(directory, "--config", str(config))
        server.start()
        try:
            with running_app(server.url) as address:
                client = Client(address)
                client.ensure_stream("S")
                for size in (limit - PLAIN_HEADERS + 1, limit + 64 * 1024, 2 * limit):
                    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
                        publish(client, "S.a", size, PLAIN)
                    assert caught[0].metadata == {"limit": str(limit)}
                assert publish(client, "S.a", limit - PLAIN_HEADERS, PLAIN) == 1
                client.channel.close()
        finally:
            server.kill()


async def test_a_body_of_nothing(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """An event may have an empty body; its headers are stored all the same."""
    stream = unique()
    ensure_stream(client, stream, max_event_size=PLAIN_HEADERS)
    assert publish(client, f"{stream}.a", 0, PLAIN) == 1
    assert (await stored_stream(nats_server, stream))["state"]["messages"] == 1
