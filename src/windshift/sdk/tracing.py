"""Spans of publishing and handling, in programs that trace: OpenTelemetry's API alone, the extra `otel`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from windshift import conventions as c
from windshift.protos import events

from .credentials import Pairs
from .errors import WindshiftError


class Tracing:
    """Records spans with the program's tracer provider."""

    def __init__(self) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 -- only programs that trace have it
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 -- the same

        self._empty = context.Context()
        self._trace = trace
        self._w3c = tracecontext.TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer(c.CLIENT_SCOPE, schema_url=c.SCHEMA_URL)

    def context(self) -> Pairs:
        """Return the metadata that tells the server of the current span."""
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier)
        return tuple(carrier.items())

    @contextmanager
    def publishing(self, subject: str) -> Iterator[Any]:
        """Record a publish around the block; what it yields takes attributes."""
        attributes = {c.OPERATION_NAME: c.PUBLISH, c.OPERATION_TYPE: c.SEND, c.SUBJECT: subject}
        with self._span(c.PUBLISH, self._trace.SpanKind.CLIENT, attributes) as span:
            yield span

    @contextmanager
    def processing(self, stream: str, consumer: str, event: events.Event) -> Iterator[None]:
        """Record the handling of an event around the block, below the span that the event refers to."""
        carrier = {"traceparent": event.headers.trace_parent, "tracestate": event.headers.trace_state}
        parent = self._w3c.extract(carrier, self._empty)
        origin = self._trace.get_current_span(parent).get_span_context()
        attributes = {
            c.OPERATION_NAME: c.PROCESS,
            c.OPERATION_TYPE: c.PROCESS,
            c.DESTINATION_NAME: stream,
            c.CONSUMER_GROUP_NAME: consumer,
            c.MESSAGE_ID: str(event.id),
            c.SUBJECT: event.subject,
            c.DELIVERY_ATTEMPT: event.delivery_attempt,
        }
        links = [self._trace.Link(origin)] if origin.is_valid else []
        kind = self._trace.SpanKind.CONSUMER
        with self._span(f"{c.PROCESS} {stream}", kind, attributes, parent, links):
            yield

    @contextmanager
    def _span(
        self, name: str, kind: Any, attributes: dict[str, Any], parent: Any = None, links: Any = ()
    ) -> Iterator[Any]:
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes={c.MESSAGING_SYSTEM: c.WINDSHIFT, **attributes},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(self._trace.StatusCode.ERROR)
                span.set_attribute(c.ERROR_TYPE, _type(error))
                raise


def _type(error: BaseException) -> str:
    reason = error.reason if isinstance(error, WindshiftError) else ""
    return reason or type(error).__qualname__


def tracing() -> Tracing | None:
    """Return what records spans, if the program has imported OpenTelemetry's API: then it traces."""
    return Tracing() if "opentelemetry.trace" in sys.modules else None
