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

    def context(self, span: Any = None) -> Pairs:
        """Return the metadata that tells the server of a span; None = the current one."""
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier, None if span is None else self._trace.set_span_in_context(span))
        return tuple(carrier.items())

    def publishing(self, subject: str, batch: int | None = None) -> Any:
        """Begin the span of a publish, which `around` ends. One that is not recorded needs no end.

        `batch` is how many events are published all or none, with the subject of the first; None = one alone.
        """
        attributes: dict[str, Any] = {
            c.OPERATION_NAME: c.PUBLISH,
            c.OPERATION_TYPE: c.SEND,
            c.SUBJECT: subject,
        }
        if batch is not None:
            attributes[c.BATCH_MESSAGE_COUNT] = batch
        return self._begin(c.PUBLISH, self._trace.SpanKind.CLIENT, attributes)

    def is_recorded(self, span: Any) -> bool:
        """Return whether a span is recorded, or the trace that it belongs to is, by others."""
        return bool(span.is_recording() or span.get_span_context().trace_flags.sampled)

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
        with self.around(self._begin(f"{c.PROCESS} {stream}", kind, attributes, parent, links)):
            yield

    def _begin(
        self, name: str, kind: Any, attributes: dict[str, Any], parent: Any = None, links: Any = ()
    ) -> Any:
        return self._tracer.start_span(
            name,
            context=parent,
            kind=kind,
            attributes={c.MESSAGING_SYSTEM: c.WINDSHIFT, **attributes},
            links=links,
        )

    @contextmanager
    def around(self, span: Any) -> Iterator[None]:
        """Have the block be what a span covers, and end the span."""
        with self._trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except BaseException as error:
                span.set_status(self._trace.StatusCode.ERROR)
                reason = error.reason if isinstance(error, WindshiftError) else ""
                span.set_attribute(c.ERROR_TYPE, reason or type(error).__qualname__)
                raise


def tracing() -> Tracing | None:
    """Return what records spans, if the program has imported OpenTelemetry's API: then it traces."""
    return Tracing() if "opentelemetry.trace" in sys.modules else None
