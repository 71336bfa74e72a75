"""OpenTelemetry's own exporters of metrics, fed with the readings of a registry.

Imported only when there is a collector, as `windshift.server.telemetry.exporters`, which is for spans.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    DataT,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from windshift.server.config import OtlpProtocol, SignalConfig, TelemetryConfig
from windshift.server.telemetry.conventions import SCHEMA_URL, SCOPE, SERVICE_VERSION
from windshift.server.telemetry.instruments import Instrument, InstrumentKind
from windshift.server.telemetry.otlp import Sender, grpc_arguments, http_arguments
from windshift.server.telemetry.registry import Distribution, Family, Point
from windshift.server.telemetry.resource import resource_attributes

_BATCH: Final = 2_000
"""Series in one request: some hundred kilobytes, where collectors take four megabytes."""

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class OtlpMetricSender(Sender[Family]):
    """Sends readings by OTLP. Sums and histograms are those since the start (cumulative).

    Args:
        config: where to, and how.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        timeout = min(config.metrics.timeout, config.metric_timeout)
        super().__init__(
            lambda: _exporter(config.metrics, timeout),
            "opentelemetry.exporter.otlp.proto.http.metric_exporter",
        )
        attributes = resource_attributes(config)
        self._resource = Resource(attributes, SCHEMA_URL)
        self._scope = InstrumentationScope(SCOPE, str(attributes[SERVICE_VERSION]), SCHEMA_URL)
        self._started = time.time_ns()

    def export(self, batch: Sequence[Family]) -> bool:
        """Send readings."""
        return self._exporter.export(self._data(batch)) is MetricExportResult.SUCCESS

    def _data(self, families: Sequence[Family]) -> MetricsData:
        now = time.time_ns()
        metrics = [
            Metric(each.name, each.description, each.unit, _data(each, points, self._started, now))
            for each, points in families
            if points
        ]
        scope = ScopeMetrics(self._scope, metrics, SCHEMA_URL)
        return MetricsData([ResourceMetrics(self._resource, [scope], SCHEMA_URL)])


def _data(instrument: Instrument, points: Sequence[Point], started: int, now: int) -> DataT:
    match instrument.kind:
        case InstrumentKind.HISTOGRAM:
            return Histogram(list(_distributions(instrument, points, started, now)), _CUMULATIVE)
        case InstrumentKind.GAUGE:
            return Gauge(list(_numbers(instrument, points, started, now)))
        case _:
            numbers = list(_numbers(instrument, points, started, now))
            return Sum(numbers, _CUMULATIVE, is_monotonic=instrument.kind is InstrumentKind.COUNTER)


def _numbers(
    instrument: Instrument, points: Sequence[Point], started: int, now: int
) -> Iterator[NumberDataPoint]:
    for labels, reading in points:
        if not isinstance(reading, Distribution):
            yield NumberDataPoint(_attributes(instrument, labels), started, now, reading)


def _distributions(
    instrument: Instrument, points: Sequence[Point], started: int, now: int
) -> Iterator[HistogramDataPoint]:
    unknown: Any = None  # the protocol may lack them; the SDK's own histograms always have them
    for labels, reading in points:
        if isinstance(reading, Distribution):
            yield HistogramDataPoint(
                attributes=_attributes(instrument, labels),
                start_time_unix_nano=started,
                time_unix_nano=now,
                count=sum(reading.counts),
                sum=reading.total,
                bucket_counts=reading.counts,
                explicit_bounds=instrument.bounds,
                min=unknown,
                max=unknown,
            )


def _attributes(instrument: Instrument, labels: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in zip(instrument.labels, labels, strict=True) if value}


def _exporter(config: SignalConfig, timeout: timedelta) -> MetricExporter:
    if config.protocol is OtlpProtocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter  # noqa: PLC0415 - one of the two

        arguments = grpc_arguments(config, timeout)
        return metric_exporter.OTLPMetricExporter(**arguments, max_export_batch_size=_BATCH)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as over_http  # noqa: PLC0415 - is needed

    return over_http.OTLPMetricExporter(**http_arguments(config, timeout), max_export_batch_size=_BATCH)
