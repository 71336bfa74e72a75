"""OpenTelemetry's exporters, told what the configuration says, against a collector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.config.test_config import read
from tests.support.certificates import Authority
from tests.support.collector import Collector, Tls, grpc_collector, http_collector
from tests.support.windshift_process import wait_for
from windshift.conventions import SpanKind
from windshift.server.config.telemetry import BatchConfig, SamplerConfig
from windshift.server.telemetry.exporter import Exporter
from windshift.server.telemetry.otlp import OtlpSender
from windshift.server.telemetry.otlp_signals import span_sender
from windshift.server.telemetry.propagation import TraceContext
from windshift.server.telemetry.signals import SPANS
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

PROTOCOLS = ["grpc", "http/protobuf"]
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

Send = Callable[..., bool]


def collecting(protocol: str, tls: Tls | None = None) -> AbstractContextManager[Collector]:
    """Run a collector that speaks this protocol."""
    return grpc_collector(tls) if protocol == "grpc" else http_collector(tls)


def some_span() -> Span:
    """Record something."""
    tracer = Tracer(Sampler(SamplerConfig()), lambda _: None)
    span = tracer.follow(SpanKind.CLIENT, f"00-{TRACE}-{CALLER}-01", "a=b")
    assert span is not None
    span.name = "deliver orders"
    span.attributes = {"text": "ä", "number": 2**40, "flag": True}
    span.end()
    return span


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    """Send one span by what an environment says."""
    senders: list[OtlpSender[Span]] = []

    def send(**environment: str) -> bool:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        sender = span_sender(read(**environment).telemetry)
        senders.append(sender)
        return sender.send([some_span()])

    yield send
    for sender in senders:
        sender.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_span_arrives_whole(send: Send, protocol: str) -> None:
    """Ids, kind, attributes, link, state, resource and scope arrive as they were recorded."""
    with collecting(protocol) as collector:
        assert send(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_SERVICE_NAME="events",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.version=9",
        )
    (span,) = collector.spans
    assert (span.name, span.kind, span.trace_id, span.parent_id) == (
        "deliver orders",
        "CLIENT",
        TRACE,
        CALLER,
    )
    assert span.attributes == {"text": "ä", "number": 2**40, "flag": True}
    assert (span.links, span.state, span.remote_parent, span.failed) == (
        [(TRACE, CALLER)],
        "a=b",
        True,
        False,
    )
    assert span.resource["service.name"] == "events"
    assert span.resource["deployment.environment.name"] == "test"
    assert span.resource["service.version"] == "9"
    assert len(span.resource["service.instance.id"]) == 36
    assert span.scope_schema == span.resource_schema == "https://opentelemetry.io/schemas/1.44.0"


@pytest.mark.parametrize("prefix", ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_endpoint_headers_and_compression(send: Send, protocol: str, prefix: str) -> None:
    """Endpoint, protocol, headers and compression, for all kinds of telemetry or for traces."""
    with collecting(protocol) as collector:
        whole = "/v1/traces" if protocol != "grpc" and prefix.endswith("TRACES") else ""
        assert send(
            **{
                f"{prefix}_ENDPOINT": f"{collector.endpoint}{whole}",
                f"{prefix}_PROTOCOL": protocol,
                f"{prefix}_HEADERS": "Authorization=Bearer%20secret,x-team=a",
                f"{prefix}_COMPRESSION": "gzip",
            }
        )
    (headers,) = collector.headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-team"] == "a"
    if protocol != "grpc":  # grpcio takes the header for itself
        assert headers["content-encoding"] == "gzip"
    assert len(collector.spans) == 1


@pytest.mark.parametrize("prefix", ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_with_a_client_certificate(send: Send, tmp_path: Path, protocol: str, prefix: str) -> None:
    """The collector is checked against the named authority, and shown the certificate."""
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    with collecting(protocol, Tls(server.certificate, server.key, authority.certificate)) as collector:
        whole = "/v1/traces" if protocol != "grpc" and prefix.endswith("TRACES") else ""
        assert send(
            **{
                f"{prefix}_ENDPOINT": f"{collector.endpoint}{whole}",
                f"{prefix}_PROTOCOL": protocol,
                f"{prefix}_CERTIFICATE": str(authority.certificate),
                f"{prefix}_CLIENT_CERTIFICATE": str(client.certificate),
                f"{prefix}_CLIENT_KEY": str(client.key),
            }
        )
    assert len(collector.spans) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_of_another_authority(send: Send, tmp_path: Path, protocol: str) -> None:
    """Nothing is sent to a collector whose authority is not trusted."""
    theirs, ours = Authority(tmp_path, "theirs"), Authority(tmp_path, "ours")
    server = theirs.issue("server")
    with collecting(protocol, Tls(server.certificate, server.key)) as collector:
        assert not send(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(ours.certificate),
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        )
    assert collector.attempts == 0


def test_an_address_alone(send: Send) -> None:
    """An address that is no URL will do for gRPC; `_INSECURE` says whether TLS is spoken."""
    with grpc_collector() as collector:
        address = collector.endpoint.removeprefix("http://")
        assert send(OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_INSECURE="true")
        assert not send(
            OTEL_EXPORTER_OTLP_ENDPOINT=address,
            OTEL_EXPORTER_OTLP_INSECURE="false",
            OTEL_EXPORTER_OTLP_TIMEOUT="0.3",
        )
    assert len(collector.spans) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "timeout",
    [
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "60", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.2"},
        {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1000"},
        {"OTEL_BSP_EXPORT_TIMEOUT": "0.2"},
    ],
    ids=str,
)
def test_timeouts(send: Send, protocol: str, timeout: dict[str, str]) -> None:
    """A collector that does not answer is given up after the timeout: seconds, or from 1000 milliseconds."""
    with collecting(protocol) as collector:
        collector.open.clear()
        started = time.monotonic()
        sent = send(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **timeout
        )
        assert not sent
        assert time.monotonic() - started < 8
        collector.open.set()


def test_empty_variables_mean_nothing(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters do not stumble over variables that are empty or meant for somebody else."""
    for name in ("TIMEOUT", "COMPRESSION", "HEADERS", "CERTIFICATE", "INSECURE"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "")
    with grpc_collector() as collector:
        assert send(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)


def test_trouble_is_kept_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What an exporter says goes to whoever exports, not to the log."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3"}
    sender = span_sender(read(**settings).telemetry)
    assert not sender.send([some_span()])
    assert "UNAVAILABLE" in sender.trouble
    assert caplog.records == []
    sender.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stop_after_a_batch_that_was_repeated(protocol: str) -> None:
    """What waits is sent: the collector has taken that batch in the end."""
    with collecting(protocol) as collector:
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        queue = Exporter(
            span_sender(read(**given).telemetry), BatchConfig(timedelta(hours=1), batch_size=2), SPANS
        )
        collector.refusing = True
        for _ in range(2):
            queue.add(some_span())
        wait_for(lambda: collector.attempts > 0)
        collector.refusing = False
        wait_for(lambda: queue.exported == 2 and queue.idle)
        queue.add(some_span())
        assert queue.close(30)
        assert (queue.exported, queue.dropped) == (3, 0)


def test_a_state_that_is_none() -> None:
    """A context without state becomes a link without one."""
    span = some_span()
    span.link, span.state = TraceContext(f"00-{TRACE}-{CALLER}-01"), ""
    with grpc_collector() as collector:
        sender = span_sender(read(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint).telemetry)
        assert sender.send([span])
        sender.close()
    assert (collector.spans[0].state, collector.spans[0].links) == ("", [(TRACE, CALLER)])
