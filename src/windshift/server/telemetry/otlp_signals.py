"""Converts spans, metrics and log records for OpenTelemetry's exporters."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from uuid import uuid4

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from windshift import conventions as c
from windshift.server.config.telemetry import TelemetryConfig
from windshift.server.telemetry.exporter import Exporter
from windshift.server.telemetry.instruments import Instrument, InstrumentKind
from windshift.server.telemetry.log_text import fields_of, harmless, traceback_of
from windshift.server.telemetry.otlp import OtlpSender
from windshift.server.telemetry.propagation import TraceContext
from windshift.server.telemetry.registry import Distribution, Point, Readings
from windshift.server.telemetry.tracer import Span

_INSTANCE: Final = str(uuid4())


class _Resource(Resource):
    """Compares by identity: exporters hash it for each span, and the SDK's hash encodes JSON."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _make_resource(config: TelemetryConfig) -> Resource:
    """Describe this process. Configured attributes override detected ones."""
    attributes: dict[str, str | int] = {
        c.SERVICE_VERSION: _version("windshift"),
        c.SERVICE_INSTANCE_ID: _INSTANCE,
        c.HOST_NAME: socket.gethostname(),
        c.PROCESS_PID: os.getpid(),
        c.SDK_NAME: "opentelemetry",
        c.SDK_LANGUAGE: "python",
        c.SDK_VERSION: _version("opentelemetry-sdk"),
        **dict(config.resource.attributes),
        c.SERVICE_NAME: config.resource.service_name,
    }
    return _Resource(attributes, c.SCHEMA_URL)


def _make_scope(resource: Resource) -> InstrumentationScope:
    return InstrumentationScope(c.SCOPE, str(resource.attributes[c.SERVICE_VERSION]), c.SCHEMA_URL)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


# --- Spans -------------------------------------------------------------------------------------------------

_KINDS: Final = {kind: trace.SpanKind[kind.name] for kind in c.SpanKind}


def span_sender(config: TelemetryConfig) -> OtlpSender[Span]:
    """Return a sender of spans."""
    resource = _make_resource(config)
    scope = _make_scope(resource)

    def readable(span: Span) -> ReadableSpan:
        trace_id, flags = int(span.trace_id, 16), TraceFlags(int(span.flags, 16))
        state = TraceState.from_header([span.state]) if span.state else None
        own = SpanContext(trace_id, int(span.span_id, 16), False, flags, state)
        parent = None
        if span.parent_id:
            parent = SpanContext(trace_id, int(span.parent_id, 16), span.remote, flags, state)
        return ReadableSpan(
            name=span.name,
            context=own,
            parent=parent,
            resource=resource,
            attributes=span.attributes,
            links=() if span.link is None else (trace.Link(_span_context(span.link)),),
            kind=_KINDS[span.kind],
            status=trace.Status(trace.StatusCode.UNSET if span.error is None else trace.StatusCode.ERROR),
            start_time=span.started,
            end_time=span.ended,
            instrumentation_scope=scope,
        )

    timeout = min(config.traces.timeout, config.spans.batch.timeout)
    return OtlpSender("traces", config.traces, timeout, lambda batch: list(map(readable, batch)))


def _span_context(context: TraceContext) -> SpanContext:
    parent, state = context
    flags = TraceFlags(int(parent[53:55], 16))
    return SpanContext(
        int(parent[3:35], 16), int(parent[36:52], 16), True, flags, TraceState.from_header([state])
    )


# --- Metrics -----------------------------------------------------------------------------------------------

_MAX_SERIES: Final = 2_000
"""Series in one request: some hundred kilobytes; collectors accept four megabytes."""

_CUMULATIVE: Final = otel.AggregationTemporality.CUMULATIVE


def metric_sender(config: TelemetryConfig) -> OtlpSender[Readings]:
    """Return a sender of metrics."""
    resource = _make_resource(config)
    scope = _make_scope(resource)
    started = time.time_ns()

    def encode(batch: Sequence[Readings]) -> otel.MetricsData:
        now = time.time_ns()
        metrics = [
            otel.Metric(each.name, each.description, each.unit, _data(each, points, started, now))
            for readings in batch
            for each, points in readings
            if points
        ]
        scoped = otel.ScopeMetrics(scope, metrics, c.SCHEMA_URL)
        return otel.MetricsData([otel.ResourceMetrics(resource, [scoped], c.SCHEMA_URL)])

    timeout = min(config.metrics.timeout, config.metric_export.timeout)
    return OtlpSender("metrics", config.metrics, timeout, encode, max_export_batch_size=_MAX_SERIES)


def _data(instrument: Instrument, points: Sequence[Point], started: int, now: int) -> otel.DataT:
    if instrument.kind is InstrumentKind.HISTOGRAM:
        unknown: Any = None  # optional in the protocol, but not in the SDK's types
        return otel.Histogram(
            [
                otel.HistogramDataPoint(
                    attributes=_labels(instrument, labels),
                    start_time_unix_nano=started,
                    time_unix_nano=now,
                    count=sum(reading.counts),
                    sum=reading.total,
                    bucket_counts=reading.counts,
                    explicit_bounds=instrument.bounds,
                    min=unknown,
                    max=unknown,
                )
                for labels, reading in points
                if isinstance(reading, Distribution)
            ],
            _CUMULATIVE,
        )
    numbers = [
        otel.NumberDataPoint(_labels(instrument, labels), started, now, reading)
        for labels, reading in points
        if not isinstance(reading, Distribution)
    ]
    if instrument.kind is InstrumentKind.GAUGE:
        return otel.Gauge(numbers)
    return otel.Sum(numbers, _CUMULATIVE, is_monotonic=instrument.kind is InstrumentKind.COUNTER)


def _labels(instrument: Instrument, labels: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in zip(instrument.labels, labels, strict=True) if value}


# --- Logs --------------------------------------------------------------------------------------------------

_EXPORTERS_LOGGERS: Final = ("opentelemetry", "grpc", "urllib3", "requests")
"""Their records are not exported: exporting one would log the next."""

_SEVERITIES: Final = (
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.NOTSET, SeverityNumber.DEBUG, "DEBUG"),
)
_NAMES: Final = {"code": c.RPC_RESPONSE_STATUS_CODE, "reason": "windshift.reason", "more": "windshift.more"}
"""OpenTelemetry's names of our records' fields."""

LoggedRecord = tuple[str, LogRecord]
"""The name of a logger, and a record."""


def log_sender(config: TelemetryConfig) -> OtlpSender[LoggedRecord]:
    """Return a sender of log records."""
    resource = _make_resource(config)

    def encode(batch: Sequence[LoggedRecord]) -> list[ReadableLogRecord]:
        return [
            ReadableLogRecord(record, resource, InstrumentationScope(logger, None, c.SCHEMA_URL))
            for logger, record in batch
        ]

    return OtlpSender("logs", config.logs, config.logs.timeout, encode)


class OtlpHandler(logging.Handler):
    """Queues records to be exported."""

    def __init__(self, queue: Exporter[LoggedRecord]) -> None:
        super().__init__()
        self._queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. Never blocks."""
        if record.name.partition(".")[0] not in _EXPORTERS_LOGGERS:
            self._queue.add((record.name, _converted(record)))


def _converted(record: logging.LogRecord) -> LogRecord:
    fields = fields_of(record)
    context = _log_context(str(fields.pop("trace_id", "")), str(fields.pop("span_id", "")))
    number, text = next((number, text) for level, number, text in _SEVERITIES if record.levelno >= level)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time.time_ns(),
        context=context,
        severity_text=text,
        severity_number=number,
        body=harmless(record.getMessage()),
        attributes={**_attributes(fields), **_exception(record)},
    )


def _log_context(trace_id: str, span_id: str) -> Context:
    if not trace_id or not span_id:
        return Context(unknown=True)  # an empty one is replaced by the current context
    span = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True)
    return trace.set_span_in_context(trace.NonRecordingSpan(span), Context())


def _attributes(fields: Mapping[str, str | float]) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {}
    for name, value in fields.items():
        if name == "method":
            attributes[c.RPC_METHOD] = str(value).removeprefix("/")
        elif name == "peer":
            host, _, port = str(value).rpartition(":")
            attributes[c.NETWORK_PEER_ADDRESS] = host.strip("[]")
            attributes[c.NETWORK_PEER_PORT] = int(port) if port.isdigit() else port
        else:
            attributes[_NAMES.get(name, name)] = value
    return attributes


def _exception(record: logging.LogRecord) -> dict[str, str]:
    if not record.exc_info or record.exc_info[0] is None:
        return {}
    return {
        "exception.type": record.exc_info[0].__qualname__,
        "exception.stacktrace": traceback_of(record),
    }
