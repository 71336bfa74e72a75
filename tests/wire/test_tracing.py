"""What is recorded of which call, and what trace context goes on with an event."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import EVENTS, STATE, Client, Metadata, any_of
from tests.support.collector import Collector, Span, grpc_collector
from tests.support.nats_server import NatsServer
from tests.wire.consuming import calling, ensure_consumer, subscribed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.server.api.state import StateService

Unique = Callable[[], str]

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


def caller(parent: str = SAMPLED) -> Metadata:
    """Give the metadata of a caller that traces."""
    return (("traceparent", parent), ("tracestate", "a=1"))


@contextmanager
def traced(nats_server: NatsServer, **environment: str) -> Iterator[tuple[Client, Collector]]:
    """Run a server that exports to a collector; when the block is left, everything has arrived there."""
    with grpc_collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        with running_app(nats_server.url, **{**settings, **environment}) as address:
            client = Client(address)
            yield client, collector
            client.channel.close()


def of_caller(collector: Collector) -> list[Span]:
    """Give the spans of the caller's trace."""
    return [span for span in collector.spans if span.trace_id == TRACE]


def carried(client: Client, stream: str, metadata: Metadata) -> tuple[str, str]:
    """Publish an event, and give the context that it is delivered with."""
    published = client.publish(f"{stream}.x", metadata=metadata)
    ensure_consumer(client, stream)
    with subscribed(client, stream) as call:
        while (event := call.event()).id != published:
            call.ack(event.id)
        call.ack(event.id)
        call.told()
    return event.headers.trace_parent, event.headers.trace_state


# What goes on with the event


@pytest.mark.parametrize(
    ("environment", "parent"),
    [
        ({}, UNSAMPLED),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, UNSAMPLED),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, UNSAMPLED),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, SAMPLED),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, SAMPLED),
        ({"OTEL_SDK_DISABLED": "true"}, SAMPLED),
        ({"OTEL_TRACES_EXPORTER": "none"}, SAMPLED),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, SAMPLED),
    ],
    ids=str,
)
def test_not_recorded_but_carried_on(
    nats_server: NatsServer, unique: Unique, environment: dict[str, str], parent: str
) -> None:
    """A trace that is not recorded is carried on as the caller sent it, and nothing of it is exported."""
    with traced(nats_server, **environment) as (client, collector):
        stream = client.ensure_stream(unique())
        assert carried(client, stream, caller(parent)) == (parent, "a=1")
    assert of_caller(collector) == []


@pytest.mark.parametrize(
    ("environment", "parent"),
    [
        ({}, SAMPLED),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, SAMPLED),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, UNSAMPLED),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, UNSAMPLED),
    ],
    ids=str,
)
def test_recorded(nats_server: NatsServer, unique: Unique, environment: dict[str, str], parent: str) -> None:
    """A trace that is recorded goes on with the event as that of its publication."""
    with traced(nats_server, **environment) as (client, collector):
        stream = client.ensure_stream(unique())
        context, state = carried(client, stream, caller(parent))
    send, deliver, ack = of_caller(collector)
    assert (send.name, deliver.name, ack.name) == (f"send {stream}", f"deliver {stream}", f"ack {stream}")
    assert (context, state) == (f"00-{TRACE}-{send.span_id}-01", "a=1")


def test_a_caller_without_trace(nats_server: NatsServer, unique: Unique) -> None:
    """Without a caller's context a publish begins a trace; a malformed one is none."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        context, _ = carried(client, stream, (("traceparent", "00-bad"), ("tracestate", "a=1")))
    send = next(span for span in collector.spans if span.name == f"send {stream}")
    assert (send.parent_id, send.state) == ("", "")
    assert context == f"00-{send.trace_id}-{send.span_id}-03"


def test_a_share_of_the_new_traces(nats_server: NatsServer, unique: Unique) -> None:
    """Of traces that begin here the share is recorded; events of the others have no context."""
    settings = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with traced(nats_server, **settings) as (client, collector):
        stream = client.ensure_stream(unique())
        ensure_consumer(client, stream)
        for _ in range(100):
            client.publish(f"{stream}.x")
        with subscribed(client, stream, 100) as call:
            events = call.events(100)
    sends = {span.trace_id for span in collector.spans if span.name == f"send {stream}"}
    delivered = {span.trace_id for span in collector.spans if span.name == f"deliver {stream}"}
    assert 10 < len(sends) < 90
    assert delivered == sends
    shown = {event.headers.trace_parent[3:35] for event in events if event.headers.HasField("trace_parent")}
    assert shown == sends


def test_a_share_of_the_batches(nats_server: NatsServer, unique: Unique) -> None:
    """Of a batch all events are recorded or none: those of one that is not begin no traces of their own."""
    settings = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    method = EVENTS.methods_by_name["PublishBatch"]
    with traced(nats_server, **settings) as (client, collector):
        stream = client.ensure_stream(unique())
        event = events_pb.PublishEventRequest(subject=f"{stream}.x", data=any_of("text"))
        for _ in range(20):
            client.call(method, events_pb.PublishBatchRequest(events=[event] * 3))
            client.call(method, events_pb.PublishBatchRequest(events=[event], atomic=True))
        ensure_consumer(client, stream)
        with subscribed(client, stream, 80) as call:
            events = call.events(80)
    batches = {span.span_id for span in collector.spans if span.name.endswith("/PublishBatch")}
    sends = [span for span in collector.spans if span.name == f"send {stream}"]
    assert {send.parent_id for send in sends} == batches
    assert 0 < len(batches) < 40
    shown = [event.headers.trace_parent for event in events if event.headers.HasField("trace_parent")]
    assert sorted(shown) == sorted(f"00-{send.trace_id}-{send.span_id}-03" for send in sends)


@pytest.mark.parametrize("propagators", ["none", "baggage"])
def test_propagators_that_carry_no_trace(nats_server: NatsServer, unique: Unique, propagators: str) -> None:
    """With other propagators the W3C's headers of calls mean nothing."""
    with traced(nats_server, OTEL_PROPAGATORS=propagators) as (client, collector):
        stream = client.ensure_stream(unique())
        context, state = carried(client, stream, caller())
    assert of_caller(collector) == []
    assert (context[3:35] != TRACE, state) == (True, "")


def test_propagators_without_tracing(nats_server: NatsServer, unique: Unique) -> None:
    """OTEL_PROPAGATORS decides what goes on with an event, also when nothing is recorded."""
    with traced(nats_server, OTEL_PROPAGATORS="none", OTEL_EXPORTER_OTLP_ENDPOINT="") as (client, _):
        stream = client.ensure_stream(unique())
        assert carried(client, stream, caller()) == ("", "")


# Consuming


def test_every_delivery_is_linked(nats_server: NatsServer, unique: Unique) -> None:
    """A rejected event is delivered again, and to other consumers: all of it is in the producer's trace."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        client.publish(f"{stream}.x", metadata=caller())
        for consumer in ("c", "other"):
            ensure_consumer(client, stream, consumer)
        with subscribed(client, stream) as call:
            call.reject(call.event().id)
            call.told()
            call.reject(call.event().id, permanently=True)
            call.told()
        with subscribed(client, stream, consumer="other") as call:
            call.event()
    spans = of_caller(collector)
    send = spans[0]
    deliveries = [span for span in spans if span.name == f"deliver {stream}"]
    rejects = [span for span in spans if span.name == f"reject {stream}"]
    assert [span.attributes["windshift.delivery.attempt"] for span in deliveries] == [1, 2, 1]
    assert [span.attributes["messaging.consumer.group.name"] for span in deliveries] == ["c", "c", "other"]
    assert {span.parent_id for span in deliveries} == {send.span_id}
    assert [span.parent_id for span in rejects] == [span.span_id for span in deliveries[:2]]
    assert [span.attributes["windshift.reject.permanently"] for span in rejects] == [False, True]
    assert {span.attributes["messaging.operation.type"] for span in rejects} == {"settle"}
    assert all(span.links == [(TRACE, send.span_id)] for span in deliveries + rejects)


def test_pings_and_invalid_ids_are_not_settlements(nats_server: NatsServer, unique: Unique) -> None:
    """A ping has no span, nor has what settles nothing; an ack of several ids has one for each."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        for _ in range(2):
            client.publish(f"{stream}.x", metadata=caller())
        ensure_consumer(client, stream)
        with subscribed(client, stream) as call:
            call.events(2)
            call.ping(1, 2)
            call.told()
            call.ack(1, 2, 99)
            assert call.told() == ("ack", [1, 2], [99], [])
    names = [span.name for span in of_caller(collector)]
    assert sorted(names) == sorted(2 * [f"send {stream}", f"deliver {stream}", f"ack {stream}"])


@pytest.mark.parametrize("header", ["not W3C", "x" * 60, f"00-{'0' * 32}-{CALLER}-01"])
async def test_what_others_publish(nats_server: NatsServer, unique: Unique, header: str) -> None:
    """Events of other programs without a usable context are delivered, and start no trace."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        async with connect(nats_server.url) as broker:
            headers = {"WS-Trace-Parent": header, "WS-Trace-State": "!"}
            await broker.publish(f"{stream}.x", b"", headers)
        ensure_consumer(client, stream)
        with subscribed(client, stream) as call:
            assert call.event().headers.trace_parent == header
    assert [span.name for span in collector.spans if span.name.startswith("deliver")] == []


def test_a_consume_call_is_a_call(nats_server: NatsServer, unique: Unique) -> None:
    """The consume call itself is recorded when it ends, and deliveries are no parts of it."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        with calling(client, "Consume") as call:
            call.say(subscribe=events_pb.EventsRequest.Subscribe(stream=stream, consumer="missing"))
            assert call.end() is not None
        collector.wait_spans(2)
    span = collector.spans[-1]
    assert span.name == "windshift.events.v1alpha1.EventsService/Consume"
    assert (span.kind, span.attributes["rpc.response.status_code"], span.failed) == (
        "SERVER",
        "NOT_FOUND",
        False,
    )


# Other calls


def test_a_remote_procedure_call(nats_server: NatsServer, unique: Unique) -> None:
    """Calls that manage streams and consumers are remote procedure calls."""
    with traced(nats_server) as (client, collector):
        stream = unique()
        request = events_pb.EnsureStreamRequest(name=stream)
        request.subjects.subjects.append(stream)
        method = EVENTS.methods_by_name["EnsureStream"]
        client.call(method, request, metadata=caller())
        with pytest.raises(grpc.RpcError):
            client.call(method, events_pb.EnsureStreamRequest(name=stream), metadata=caller())
    done, refused = of_caller(collector)
    name = "windshift.events.v1alpha1.EventsService/EnsureStream"
    assert (done.name, done.kind, done.parent_id) == (name, "SERVER", CALLER)
    port = done.attributes.pop("network.peer.port")
    assert 0 < port < 65536
    assert done.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1",
    }
    assert refused.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert "error.type" not in refused.attributes
    assert not refused.failed


def test_operations_on_stores(nats_server: NatsServer, unique: Unique) -> None:
    """Calls to stores are database operations; keys are nowhere."""
    store = unique()
    calls = [
        ("EnsureStore", state_pb.EnsureStoreRequest(store=store)),
        ("Set", state_pb.SetRequest(store=store, key="secret-key", value=any_of("x"))),
        ("Get", state_pb.GetRequest(store=store, key="secret-key")),
        ("Delete", state_pb.DeleteRequest(store=store, key="secret-key")),
    ]
    with traced(nats_server) as (client, collector):
        for method, request in calls:
            client.call(STATE.methods_by_name[method], request, metadata=caller())
    spans = of_caller(collector)
    assert [span.name for span in spans] == [f"{method} {store}" for method, _ in calls]
    assert {(span.kind, span.parent_id, span.failed) for span in spans} == {("CLIENT", CALLER, False)}
    assert spans[2].attributes == {
        "db.system.name": "nats",
        "db.operation.name": "Get",
        "db.collection.name": store,
    }
    assert "secret-key" not in str(spans)


@pytest.mark.parametrize(("parent", "tasks"), [(SAMPLED, ["set", "get"]), (UNSAMPLED, [])])
def test_reads_and_writes_that_need_no_task(
    nats_server: NatsServer, unique: Unique, monkeypatch: pytest.MonkeyPatch, parent: str, tasks: list[str]
) -> None:
    """Where tracing is on they take one only if they are recorded."""
    taken: list[str] = []
    for name in ("get", "set"):
        monkeypatch.setattr(StateService, name, noted(taken, name, getattr(StateService, name)))
    store = unique()
    with traced(nats_server) as (client, collector):
        client.ensure_store(store)
        write = state_pb.SetRequest(store=store, key="k", value=any_of("x"))
        client.call(STATE.methods_by_name["Set"], write, metadata=caller(parent))
        read = state_pb.GetRequest(store=store, key="k")
        assert client.call(STATE.methods_by_name["Get"], read, metadata=caller(parent)).revision == 1
    assert taken == tasks
    assert [span.attributes["db.operation.name"].lower() for span in of_caller(collector)] == tasks


def noted(names: list[str], name: str, handler: Any) -> Any:
    """Note whenever a handler is asked."""

    async def ask(*arguments: Any) -> Any:
        names.append(name)
        return await handler(*arguments)

    return ask


@pytest.mark.parametrize(
    ("store", "reason"), [("no.such/name", "INVALID_FIELD"), ("missing-store", "STORE_NOT_FOUND")]
)
def test_stores_that_are_none(nats_server: NatsServer, store: str, reason: str) -> None:
    """What is no store is in no name: clients could make as many as they like."""
    with traced(nats_server) as (client, collector), pytest.raises(grpc.RpcError):
        client.call(
            STATE.methods_by_name["Get"], state_pb.GetRequest(store=store, key="k"), metadata=caller()
        )
    (span,) = of_caller(collector)
    assert (span.name, span.failed) == ("Get", True)
    assert span.attributes == {"db.system.name": "nats", "db.operation.name": "Get", "error.type": reason}


@pytest.mark.parametrize(
    ("subject", "reason"), [("nobody.listens", "UNBOUND_SUBJECT"), ("a b" * 500, "INVALID_FIELD")]
)
def test_a_publish_that_fails(nats_server: NatsServer, subject: str, reason: str) -> None:
    """A publish that fails has the reason; its name has no subject, its attribute 255 characters of it."""
    with traced(nats_server) as (client, collector), pytest.raises(grpc.RpcError):
        client.publish(subject, metadata=caller())
    (span,) = of_caller(collector)
    assert (span.name, span.failed, span.attributes["error.type"]) == ("send", True, reason)
    assert span.attributes["windshift.subject"] == subject[:255]


def test_a_duplicate(nats_server: NatsServer, unique: Unique) -> None:
    """A publish that its key had stored before says so, and names the event of that time."""
    with traced(nats_server) as (client, collector):
        stream = client.ensure_stream(unique())
        for _ in range(2):
            client.publish(f"{stream}.x", metadata=caller(), idempotency_key="k")
    first, second = of_caller(collector)
    assert "windshift.duplicate" not in first.attributes
    assert second.attributes["windshift.duplicate"] is True
    assert {span.attributes["messaging.message.id"] for span in (first, second)} == {"1"}


# The log


def test_spans_in_the_log(nats_server: NatsServer, unique: Unique, caplog: pytest.LogCaptureFixture) -> None:
    """OTEL_TRACING_LOG writes finished spans to the log, with or without a collector."""
    caplog.set_level(logging.INFO, "windshift")
    with running_app(nats_server.url, OTEL_TRACING_LOG="true") as address:
        client = Client(address)
        stream = client.ensure_stream(unique())
        client.publish(f"{stream}.x", metadata=caller())
        client.publish(f"{stream}.x", metadata=caller(UNSAMPLED))
        client.channel.close()
    lines = [record.getMessage() for record in caplog.records if f"send {stream}" in record.getMessage()]
    assert len(lines) == 1
    assert TRACE in lines[0]
    assert CALLER in lines[0]
