"""OpenTelemetry's own exporters of spans, told everything and left nothing to find in the environment.

This is the only module that imports the SDK for spans, and it is imported only when there is a collector:
that takes a tenth of a second and 25 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from windshift.server.config import OtlpProtocol, SignalConfig, TelemetryConfig
from windshift.server.telemetry.conventions import SCHEMA_URL, SCOPE, SERVICE_VERSION
from windshift.server.telemetry.conventions import SpanKind as ConventionsKind
from windshift.server.telemetry.otlp import Sender, grpc_arguments, http_arguments
from windshift.server.telemetry.propagation import TraceContext
from windshift.server.telemetry.resource import resource_attributes
from windshift.server.telemetry.tracer import Span

_KINDS: Final = {kind: SpanKind[kind.name] for kind in ConventionsKind}


class _OnlyResource(Resource):
    """The resource of all spans. The exporter looks it up for each; the SDK's writes JSON for that."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class OtlpSender(Sender[Span]):
    """Sends spans by OTLP.

    Args:
        config: where to, and how.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        timeout = min(config.traces.timeout, config.batch.timeout)
        super().__init__(
            lambda: _exporter(config.traces, timeout), "opentelemetry.exporter.otlp.proto.http.trace_exporter"
        )
        attributes = resource_attributes(config)
        self._resource = _OnlyResource(attributes, SCHEMA_URL)
        self._scope = InstrumentationScope(SCOPE, str(attributes[SERVICE_VERSION]), SCHEMA_URL)

    def export(self, batch: Sequence[Span]) -> bool:
        """Send spans."""
        return self._exporter.export(list(map(self._readable, batch))) is SpanExportResult.SUCCESS

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


def _exporter(config: SignalConfig, timeout: timedelta) -> SpanExporter:
    if config.protocol is OtlpProtocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter  # noqa: PLC0415 - one of the two

        return trace_exporter.OTLPSpanExporter(**grpc_arguments(config, timeout))
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http  # noqa: PLC0415 - is needed

    return over_http.OTLPSpanExporter(**http_arguments(config, timeout))
