"""OpenTelemetry's own exporters of spans, told everything and left nothing to find in the environment.

This is the only module that imports the SDK for spans, and it is imported only when there is a collector:
that takes a tenth of a second and 25 MB.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from windshift.server.config import VARIABLES, OtlpCompression, OtlpProtocol, SignalConfig, TelemetryConfig
from windshift.server.telemetry.context import TraceContext
from windshift.server.telemetry.conventions import SCHEMA_URL, SCOPE, SERVICE_VERSION, Kind
from windshift.server.telemetry.resource import resource_attributes
from windshift.server.telemetry.tracer import Span

_KINDS: Final = {kind: SpanKind[kind.name] for kind in Kind}
_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
)
_LONGEST_TROUBLE: Final = 500


class OtlpSender:
    """Sends spans by OTLP.

    Args:
        config: where to, and how.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        attributes = resource_attributes(config)
        self._resource = Resource(attributes, SCHEMA_URL)
        self._scope = InstrumentationScope(SCOPE, str(attributes[SERVICE_VERSION]), SCHEMA_URL)
        self._silence = _Silence()
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._silence)
        timeout = min(config.traces.timeout, config.batch.timeout)
        with without_environment():
            self._exporter = _exporter(config.traces, timeout)

    @property
    def trouble(self) -> str:
        """What the exporter said of the batch that is being sent, or was sent last."""
        return self._silence.heard

    def send(self, spans: Sequence[Span]) -> bool:
        """Send a batch. Blocks until the collector has it, or the timeout is over."""
        self._silence.listen()
        try:
            return self._exporter.export(list(map(self._readable, spans))) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - an exporter's mistake must not end the thread
            self._silence.heard = f"the exporter failed: {type(error).__name__}"
            return False

    def close(self) -> None:
        """Break off retries, and what gRPC has under way."""
        self._exporter.shutdown()
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._silence)

    def _readable(self, span: Span) -> ReadableSpan:
        trace_id, flags = int(span.trace_id, 16), TraceFlags(int(span.flags, 16))
        state = TraceState.from_header([span.state]) if span.state else None
        own = SpanContext(
            trace_id, int(span.span_id, 16), is_remote=False, trace_flags=flags, trace_state=state
        )
        parent = None
        if span.parent_id:
            parent = SpanContext(trace_id, int(span.parent_id, 16), span.remote, flags, state)
        return ReadableSpan(
            name=span.name,
            context=own,
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            links=() if span.link is None else (Link(_context(span.link)),),
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR),
            start_time=span.started,
            end_time=span.ended,
            instrumentation_scope=self._scope,
        )


def _context(context: TraceContext) -> SpanContext:
    parent, state = context
    flags = TraceFlags(int(parent[53:55], 16))
    return SpanContext(
        int(parent[3:35], 16), int(parent[36:52], 16), True, flags, TraceState.from_header([state])
    )


# --- The exporters ------------------------------------------------------------------------------------


@contextmanager
def without_environment() -> Iterator[None]:
    """Hide the variables that the configuration has read while an exporter is made.

    Exporters look there for what they were not told, understand some units otherwise, and stumble over empty
    values.
    """
    hidden = {each.name: os.environ[each.name] for each in VARIABLES if each.name in os.environ}
    telemetry = {name: value for name, value in hidden.items() if name.startswith("OTEL_")}
    for name in telemetry:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(telemetry)


def _exporter(config: SignalConfig, timeout: timedelta) -> SpanExporter:
    if config.protocol is OtlpProtocol.GRPC:
        return _grpc_exporter(config, timeout)
    return _http_exporter(config, timeout)


def _grpc_exporter(config: SignalConfig, timeout: timedelta) -> SpanExporter:
    import grpc  # noqa: PLC0415 - one of the two is needed, and both are slow to import
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    tls = config.tls
    credentials = None
    if not config.plaintext:
        credentials = grpc.ssl_channel_credentials(_bytes(tls.ca), _bytes(tls.key), _bytes(tls.certificate))
    compressed = config.compression is OtlpCompression.GZIP
    return OTLPSpanExporter(
        endpoint=config.endpoint,
        insecure=config.plaintext,
        credentials=credentials,
        headers=tuple((name.lower(), value) for name, value in config.headers),
        timeout=timeout.total_seconds(),
        compression=grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression,
    )


def _http_exporter(config: SignalConfig, timeout: timedelta) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - as above
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    tls = config.tls
    compressed = config.compression is OtlpCompression.GZIP
    return OTLPSpanExporter(
        endpoint=config.endpoint,
        certificate_file=_text(tls.ca),
        client_key_file=_text(tls.key),
        client_certificate_file=_text(tls.certificate),
        headers=dict(config.headers),
        timeout=timeout.total_seconds(),
        compression=Compression.Gzip if compressed else Compression.NoCompression,
    )


def _bytes(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)


class _Silence(logging.Filter):
    """Keeps what the exporter says in the thread that exports out of the log, and remembers it.

    It says something on every attempt; `SpanExport` says it once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard = ""
        self._thread = 0

    def listen(self) -> None:
        """Begin anew, for this thread."""
        self._thread = threading.get_ident()
        self.heard = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING:
            self.heard = record.getMessage()[:_LONGEST_TROUBLE]
        return False
