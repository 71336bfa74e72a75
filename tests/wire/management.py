"""Ensuring streams and consumers as a client does, and looking at what then lies in NATS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from google.protobuf.json_format import ParseDict

from tests.support.broker import connect, in_seconds
from tests.support.client import EVENTS, Client
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb


def ensure_stream(client: Client, name: str, timeout: float | None = 30, **fields: Any) -> None:
    """Ensure a stream; fields as in Protobuf's JSON, without a source for subjects under its name."""
    if not fields.keys() & {"subjects", "mirror", "aggregate"}:
        fields["subjects"] = {"subjects": [f"{name}.>"]}
    request = ParseDict(fields, pb.EnsureStreamRequest(name=name))
    client.call(EVENTS.methods_by_name["EnsureStream"], request, timeout)


def ensure_consumer(client: Client, stream: str, **fields: Any) -> str:
    """Ensure a consumer; fields as in Protobuf's JSON. Return its id."""
    request = ParseDict(fields, pb.EnsureConsumerRequest(stream=stream))
    response: pb.EnsureConsumerResponse = client.call(EVENTS.methods_by_name["EnsureConsumer"], request)
    return response.id


def get_consumer(
    client: Client, stream: str, consumer: str = "c", timeout: float | None = 30
) -> pb.GetConsumerResponse:
    """Look at a consumer."""
    request = pb.GetConsumerRequest(stream=stream, id=consumer)
    response: pb.GetConsumerResponse = client.call(EVENTS.methods_by_name["GetConsumer"], request, timeout)
    return response


def delete_consumer(client: Client, stream: str, consumer: str, timeout: float | None = 30) -> None:
    """Delete a consumer."""
    request = pb.DeleteConsumerRequest(stream=stream, id=consumer)
    client.call(EVENTS.methods_by_name["DeleteConsumer"], request, timeout)


async def stored_stream(nats_server: NatsServer, name: str) -> dict[str, Any]:
    """Return what JetStream knows of a stream."""
    async with connect(nats_server.url) as broker:
        return await broker.api.call(f"STREAM.INFO.{name}", {"subjects_filter": ">"}, in_seconds(30))


async def stored_consumer(nats_server: NatsServer, stream: str, name: str) -> dict[str, Any]:
    """Return what JetStream knows of a consumer."""
    async with connect(nats_server.url) as broker:
        return await broker.api.call(f"CONSUMER.INFO.{stream}.{name}", None, in_seconds(30))


@dataclass(frozen=True, slots=True)
class Consuming:
    """A consume call, subscribed."""

    responses: Iterator[pb.EventsResponse]
    subscribed: pb.EventsResponse.Subscribed

    def next(self) -> pb.Event:
        """Wait for the next event."""
        response = next(self.responses)
        assert response.HasField("event"), response
        return response.event


@contextmanager
def consuming(client: Client, stream: str, consumer: str) -> Iterator[Consuming]:
    """Consume for as long as the block lasts."""
    requests: SimpleQueue[pb.EventsRequest | None] = SimpleQueue()
    subscribe = pb.EventsRequest.Subscribe(stream=stream, consumer=consumer)
    requests.put(pb.EventsRequest(subscribe=subscribe))
    call = client.channel.stream_stream(
        f"/{EVENTS.full_name}/Events",
        request_serializer=pb.EventsRequest.SerializeToString,
        response_deserializer=pb.EventsResponse.FromString,
    )(iter(requests.get, None), timeout=20)
    try:
        yield Consuming(call, next(call).subscribed)
    finally:
        requests.put(None)
        call.cancel()
