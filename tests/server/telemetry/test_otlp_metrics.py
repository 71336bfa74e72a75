"""Readings in OpenTelemetry's terms, as a collector gets them over gRPC and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from tests.server.config.test_config import read
from tests.server.telemetry.test_otlp_spans import PROTOCOLS, collecting
from tests.support.collector import Collector
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.otlp_signals import metric_sender
from windshift.server.telemetry.registry import Distribution, Family

BUCKETS = len(i.CALL_DURATION.bounds) + 1
READINGS = [
    Family(i.CALL_DURATION, [(("grpc", "a.B/Get", "OK", ""), Distribution((2,) * BUCKETS, 12.5))]),
    Family(i.PUBLISHED, [((), 3)]),
    Family(i.SUBSCRIPTIONS, [((), 4)]),
    Family(i.CONSUMER_OLDEST, [(("S", f"c{number}"), number / 2) for number in range(5000)]),
    Family(i.NATS_ROUND_TRIP, []),
]


def send(endpoint: str, protocol: str, **environment: str) -> tuple[bool, str]:
    """Send the readings by what an environment says; tell whether that went well, and what was wrong."""
    config = read(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **environment)
    sender = metric_sender(config.telemetry)
    try:
        return sender.send([READINGS]), sender.trouble
    finally:
        sender.close()


def metrics(collector: Collector) -> Iterator[tuple[Any, Any]]:
    """Give the metrics that arrived, each with its resource."""
    for request in collector.metrics:
        for resource_metrics in request.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                assert scope_metrics.scope.name == "windshift.server"
                for metric in scope_metrics.metrics:
                    yield metric, resource_metrics.resource


def attributes(pairs: Any) -> dict[str, str]:
    """Read attributes, all of them strings."""
    return {pair.key: pair.value.string_value for pair in pairs}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrive(protocol: str) -> None:
    """Every kind of instrument arrives with its name, unit, attributes and value; empty ones do not."""
    with collecting(protocol) as collector:
        settings = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret", "OTEL_SERVICE_NAME": "orders"}
        assert send(collector.endpoint, protocol, **settings) == (True, "")
    found = {metric.name: (metric, resource) for metric, resource in metrics(collector)}
    assert set(found) == {family.instrument.name for family in READINGS if family.points}
    duration, resource = found["rpc.server.call.duration"]
    assert attributes(resource.attributes)["service.name"] == "orders"
    assert duration.unit == "s"
    assert duration.description == i.CALL_DURATION.description
    (point,) = duration.histogram.data_points
    assert attributes(point.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "a.B/Get",
        "rpc.response.status_code": "OK",
    }
    assert (point.count, point.sum, list(point.bucket_counts)) == (2 * BUCKETS, 12.5, [2] * BUCKETS)
    assert list(point.explicit_bounds) == list(i.CALL_DURATION.bounds)
    assert not point.HasField("min")
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert duration.histogram.aggregation_temporality == cumulative
    published = found["windshift.events.published"][0].sum
    assert (published.is_monotonic, published.data_points[0].as_int) == (True, 3)
    assert 0 < published.data_points[0].start_time_unix_nano <= published.data_points[0].time_unix_nano
    subscriptions = found["windshift.subscriptions"][0].sum
    assert (subscriptions.is_monotonic, subscriptions.data_points[0].as_int) == (False, 4)
    assert all(headers["x-key"] == "secret" for headers in collector.headers)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_series(protocol: str) -> None:
    """Many series go in several requests, each far below what collectors take, and none is lost."""
    with collecting(protocol) as collector:
        assert send(collector.endpoint, protocol)[0]
    assert len(collector.metrics) >= 3
    assert max(request.ByteSize() for request in collector.metrics) < 1024 * 1024
    ages = [
        point.as_double
        for metric, _ in metrics(collector)
        if metric.name == i.CONSUMER_OLDEST.name
        for point in metric.gauge.data_points
    ]
    assert sorted(ages) == [number / 2 for number in range(5000)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_own_endpoint_and_compression(protocol: str) -> None:
    """Metrics have an endpoint of their own, and may be compressed."""
    with collecting(protocol) as collector:
        path = "/v1/metrics" if protocol.startswith("http") else ""
        own = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collector.endpoint + path,
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "gzip",
        }
        assert send("http://127.0.0.1:1", protocol, **own)[0]
    assert collector.metrics


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_METRIC_EXPORT_TIMEOUT"])
def test_hanging_collector(protocol: str, variable: str) -> None:
    """A collector that does not answer is given up after the shorter one of both timeouts."""
    with collecting(protocol) as collector:
        collector.open.clear()
        sent, trouble = send(collector.endpoint, protocol, **{variable: "0.2"})
    assert not sent
    assert trouble


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_collector(protocol: str) -> None:
    """Where nobody listens sending fails, and there is a reason for the log."""
    sent, trouble = send("http://127.0.0.1:1", protocol, OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
    assert not sent
    assert trouble
