"""Traces of a real server process, as a collector gets them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import EVENTS, Client, Metadata
from tests.support.collector import Collector, grpc_collector, http_collector
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import WindshiftProcess, windshift
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=value"))
UNSAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{CALLER}-00"), ("tracestate", "vendor=value"))

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

Started = Callable[..., WindshiftProcess]


@pytest.fixture
def start(tmp_path: Path, nats_server: NatsServer) -> Iterator[Started]:
    """Start servers on the shared NATS, with what is given as their environment."""
    contexts: list[AbstractContextManager[WindshiftProcess]] = []

    def start(**environment: str) -> WindshiftProcess:
        directory = tmp_path / f"server{len(contexts)}"
        directory.mkdir()
        context = windshift(directory, **{"NATS_URL": nats_server.url, **AT_ONCE, **environment})
        process = context.__enter__()
        contexts.append(context)
        return process

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@dataclass
class Consuming:
    """A consume call under way."""

    requests: queue.SimpleQueue[Any]
    responses: Iterator[Any]

    def event(self) -> Any:
        """Take the next event."""
        return self.next("event")

    def next(self, what: str) -> Any:
        for response in self.responses:
            if response.WhichOneof("response") == what:
                return getattr(response, what)
        raise AssertionError("the call has ended")

    def ack(self, *ids: int) -> None:
        self.requests.put(events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=ids)))
        self.next("ack_confirmation")

    def reject(self, *ids: int, **how: Any) -> None:
        self.requests.put(events_pb.EventsRequest(reject=events_pb.EventsRequest.Reject(ids=ids, **how)))
        self.next("reject_confirmation")

    def end(self) -> None:
        self.requests.put(None)
        for _ in self.responses:
            pass


def consume(client: Client, stream: str, consumer: str = "workers") -> Consuming:
    """Make a consumer from the start, and subscribe to it."""
    request = events_pb.EnsureConsumerRequest(stream=stream, name=consumer)
    getattr(request, "from").start = True
    client.call(EVENTS.methods_by_name["EnsureConsumer"], request)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    subscribe = events_pb.EventsRequest.Subscribe(stream=stream, consumer=consumer)
    requests.put(events_pb.EventsRequest(subscribe=subscribe))
    call = client.channel.stream_stream(
        "/windshift.events.v1alpha1.EventsService/Consume",
        request_serializer=events_pb.EventsRequest.SerializeToString,
        response_deserializer=events_pb.EventsResponse.FromString,
    )
    return Consuming(requests, call(iter(requests.get, None), timeout=20))


@pytest.fixture(params=["grpc", "http/protobuf"])
def collector(request: pytest.FixtureRequest) -> Iterator[tuple[Collector, dict[str, str]]]:
    """Run a collector, and give the environment that sends to it."""
    collect = grpc_collector if request.param == "grpc" else http_collector
    with collect() as collector:
        yield (
            collector,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": request.param,
            },
        )


def test_one_trace_from_the_client_to_the_ack(
    start: Started, collector: tuple[Collector, dict[str, str]], unique: Callable[[], str]
) -> None:
    """Client → send → deliver → ack are one trace, each span the child of the one before, linked to send."""
    collected, environment = collector
    server = start(**environment)
    client = Client(server.address)
    stream = client.ensure_stream(unique())
    published = client.publish(f"{stream}.made.4711", "text", metadata=SAMPLED)
    call = consume(client, stream)
    event = call.event()
    call.ack(event.id)
    call.end()

    trace = collected.trace(TRACE, 3)
    send, deliver, ack = trace[f"send {stream}"], trace[f"deliver {stream}"], trace[f"ack {stream}"]
    assert len(trace) == 3
    assert event.headers.trace_parent == f"00-{TRACE}-{send.span_id}-01"
    assert event.headers.trace_state == "vendor=value"

    assert (send.kind, deliver.kind, ack.kind) == ("PRODUCER", "CLIENT", "CLIENT")
    assert (send.parent_id, deliver.parent_id, ack.parent_id) == (CALLER, send.span_id, deliver.span_id)
    assert (send.remote_parent, deliver.remote_parent, ack.remote_parent) == (True, True, False)
    assert send.links == []
    assert deliver.links == ack.links == [(TRACE, send.span_id)]
    assert [span.name for span in trace.values() if span.failed] == []
    assert {span.state for span in trace.values()} == {"vendor=value"}
    assert send.started < send.ended <= deliver.started <= deliver.ended <= ack.started < ack.ended

    common = {"messaging.system": "nats", "messaging.destination.name": stream, "messaging.message.id": "1"}
    body = {"windshift.subject": f"{stream}.made.4711", "messaging.message.body.size": 6}
    assert published == 1
    assert send.attributes == common | body | operation("send", "send")
    group = common | {"messaging.consumer.group.name": "workers"}
    attempt = {"windshift.delivery.attempt": 1}
    assert deliver.attributes == group | body | attempt | operation("deliver", "receive")
    assert ack.attributes == group | operation("ack", "settle")

    for span in trace.values():
        assert span.resource["service.name"] == "windshift"
        assert span.resource["process.pid"] == server.process.pid
        assert span.resource["telemetry.sdk.language"] == "python"
        assert span.resource["service.version"] == span.scope[1]
        assert span.scope[0] == "windshift.server"
        assert span.resource_schema == span.scope_schema == SCHEMA


def operation(name: str, kind: str) -> dict[str, str]:
    """Give the attributes of an operation."""
    return {"messaging.operation.name": name, "messaging.operation.type": kind}
