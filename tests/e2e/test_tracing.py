"""Traces of a real server process, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, Metadata
from tests.support.collector import Collector, grpc_collector, http_collector, read_spans
from tests.support.nats_server import NatsServer
from tests.support.ports import new_port
from tests.support.windshift_process import Started, starting
from tests.wire.consuming import ensure_consumer, subscribed

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=value"))

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"


@pytest.fixture
def start(tmp_path: Path, nats_server: NatsServer) -> Iterator[Started]:
    """Start servers on the shared NATS, with what is given as their environment."""
    with starting(tmp_path, NATS_URL=nats_server.url, **AT_ONCE) as start:
        yield start


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
    ensure_consumer(client, stream)
    with subscribed(client, stream) as call:
        event = call.event()
        call.ack(event.id)
        assert call.told() == ("ack", [1], [], [])

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
    group = common | {"messaging.consumer.group.name": "c"}
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


# A collector that is not as it should be


def test_a_collector_that_is_down(start: Started, unique: Callable[[], str]) -> None:
    """Calls go on, the log says it once, and once when the collector is there; stopping does not wait."""
    port = new_port()
    server = start(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
    client = Client(server.address)
    stream = client.ensure_stream(unique())
    for _ in range(20):
        client.publish(f"{stream}.x")
        time.sleep(0.05)
    server.wait_for(lambda: "spans are being lost" in server.err)
    with grpc_collector(port=port) as collected:

        def arrived() -> bool:
            client.publish(f"{stream}.x")
            time.sleep(0.05)
            return bool(collected.spans) and "spans are exported again" in server.err

        server.wait_for(arrived)
        # More than one where the machine is busy; the next one may come as soon as the collector is gone
        losses = server.err.count("spans are being lost")
    client.publish(f"{stream}.x")
    server.wait_for(lambda: server.err.count("spans are being lost") > losses)
    client.publish(f"{stream}.x")
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 9
    assert "UNAVAILABLE" in server.err
    assert "Traceback" not in server.err
    assert len([line for line in server.err.splitlines() if "spans " in line]) <= 2 * (losses + 1)


def test_a_collector_that_does_not_answer(start: Started, unique: Callable[[], str]) -> None:
    """Spans beyond the queue are dropped, calls go on, and a stop waits no longer than its limit."""
    with grpc_collector() as collected:
        collected.open.clear()
        server = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collected.endpoint,
            OTEL_EXPORTER_OTLP_TIMEOUT="1.5",
            OTEL_BSP_MAX_QUEUE_SIZE="10",
            WINDSHIFT_DRAIN_TIMEOUT="1",
        )
        client = Client(server.address)
        stream = client.ensure_stream(unique())
        for _ in range(50):
            client.publish(f"{stream}.x")
        server.wait_for(lambda: "spans are being lost" in server.err)
        for _ in range(5):
            client.publish(f"{stream}.x")
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 9
        assert server.err.count("spans are being lost") == 1
        assert "spans were not exported" in server.err
        assert "opentelemetry.exporter" not in server.err


def test_a_stop_sends_what_waits(
    start: Started, collector: tuple[Collector, dict[str, str]], unique: Callable[[], str]
) -> None:
    """Spans that wait for others are sent before the process ends, and so are metrics and log records."""
    collected, environment = collector
    server = start(**environment, OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_LOGS_EXPORTER="otlp")
    client = Client(server.address)
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.x", metadata=SAMPLED)
    assert collected.spans == []
    assert server.stop() == 0
    assert [span.name for span in collected.spans][-1] == f"send {stream}"
    assert collected.metrics
    assert "stopped" in str(collected.logs[-1])
    assert "WARNING" not in server.err.upper()


def test_batches_are_as_configured(start: Started, unique: Callable[[], str]) -> None:
    """OTEL_BSP_MAX_EXPORT_BATCH_SIZE bounds what is sent at once."""
    with grpc_collector() as collected:
        server = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collected.endpoint,
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="7",
            OTEL_BSP_SCHEDULE_DELAY="60000",
        )
        client = Client(server.address)
        stream = client.ensure_stream(unique())
        for _ in range(20):
            client.publish(f"{stream}.x")
        collected.wait_spans(14)
        assert server.stop() == 0
        sizes = [len(list(read_spans(request))) for request in collected.traces]
    assert max(sizes) == 7
    assert sum(sizes) == 21


# What it costs not to trace


def test_nothing_is_imported_without_a_collector() -> None:
    """A server that exports nothing loads neither OpenTelemetry nor grpcio."""
    program = (
        "import sys\n"
        "from windshift.server.config.read import config_from_environment\n"
        "from windshift.server.telemetry.signals import Telemetry\n"
        "import windshift.server.process.serve\n"
        "for settings in {}, {'OTEL_TRACING_LOG': 'true'}:\n"
        "    Telemetry(config_from_environment({'HOME': '/', **settings}).telemetry)\n"
        "unwanted = {'opentelemetry', 'grpc', 'requests'}\n"
        "print([name for name in sys.modules if name.split('.')[0] in unwanted])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
